//! Signed datagrams. The threads that answer never wait, and a signature takes longer than an answer; so they hand such a datagram
//! to a task, and its reply leaves by the same socket when it is there.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::Moment;
use crate::dynamic::{Door, Reply, Taken};
use crate::metrics::{Dropped, Limited, Metrics, Tally};
use crate::server::rate::{Class, Limiter};
use crate::server::{Client, Context, Identity, Kind, Transport};
use crate::sys::{Origin, coarse_nanoseconds};

/// Datagrams that may wait, at 2 KiB each: 50 ms of the task's time. More are dropped, and their clients ask again.
const QUEUE: usize = 1024;

/// A datagram on its way to the task.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) origin: Origin,
    pub(crate) client: IpAddr,
    pub(crate) message: Box<[u8]>,
}

/// The way to the task.
pub(crate) fn queue() -> (mpsc::Sender<Datagram>, mpsc::Receiver<Datagram>) {
    mpsc::channel(QUEUE)
}

/// Answers what comes by `queue` until the threads that fill it have ended, and then waits until every update that was begun has
/// ended, over TCP as well.
pub(crate) async fn serve(
    mut queue: mpsc::Receiver<Datagram>,
    door: Arc<Door>,
    identity: Arc<Identity>,
    limiter: Arc<Option<Limiter>>,
    metrics: Arc<Metrics>,
) {
    while let Some(datagram) = queue.recv().await {
        let context = Context {
            transport: Transport::Udp,
            client: datagram.client,
            moment: Moment::coarse(),
            identity: &identity,
            signer: None, // who has signed its question checks our signature of the answer
            limiter: None, // asked below, when it is known what has been done
        };
        match door.take(&context, &datagram.message) {
            // A signature says who has written a message and not from where it comes, and whoever has seen one can send it from
            // another's address; only what has been done for the first time is answered whatever the network has got.
            Taken::Reply(reply) if is_over(&limiter, datagram.client, reply.kind) => {
                let mut tally = Tally::default();
                tally.limited(Limited::Dropped);
                tally.dropped(Dropped::Limited, 1);
                metrics.add(Transport::Udp, &mut tally);
            }
            Taken::Reply(reply) => datagram.reply(&reply, &metrics),
            Taken::Waits(waiting) => {
                let metrics = Arc::clone(&metrics);
                door.tasks().spawn(async move {
                    datagram.reply(&waiting.reply().await, &metrics);
                });
            }
            // Over UDP there are none.
            Taken::Nothing | Taken::Transfer(_) => {
                let mut tally = Tally::default();
                tally.dropped(Dropped::UnderWay, 1);
                metrics.add(Transport::Udp, &mut tally);
            }
        }
    }
    door.tasks().close();
    door.tasks().wait().await;
}

fn is_over(limiter: &Option<Limiter>, client: IpAddr, kind: Kind) -> bool {
    limiter
        .as_ref()
        .is_some_and(|limiter| limiter.is_over(client, Class::of(kind), coarse_nanoseconds()))
}

impl Datagram {
    fn reply(&self, reply: &Reply, metrics: &Metrics) {
        let mut tally = Tally::default();
        match self.origin.reply(self.socket.as_fd(), &reply.octets) {
            Ok(()) => tally.reply(reply.kind, false, Client::Unknown),
            Err(_) => tally.dropped(Dropped::NotSent, 1),
        }
        metrics.add(Transport::Udp, &mut tally);
    }
}
