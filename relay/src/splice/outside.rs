//! What ends a pump from outside: an order, long silence, and a near end that went without a word. All are looked at whenever the
//! task runs, and have woken it if there is something to see: so they are polled once, and asked afterwards, which is cheaper.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::{End, Pump};
use crate::sys;

/// How often a visitor is looked at for having moved nothing.
const IDLE_TICK: Duration = Duration::from_secs(600);

/// A visitor of whom this many ticks saw no byte is sent away: an hour of silence on an open WebSocket is somebody who
/// left without a word.
const IDLE_TICKS: u32 = 6;

/// The same once one direction has ended: nobody keeps half a connection in silence.
const HALF_CLOSED_IDLE_TICKS: u32 = 1;

/// How often the near end is looked at while octets pass.
const LOOK: Duration = Duration::from_secs(3);

/// So many looks in a row at which something was under way to it and its host had answered nothing since the look before: it has
/// gone without a word, which is noticed within fifteen seconds. The kernel would go on for as many minutes. A host that is there
/// acknowledges what it gets, whether anybody reads it or not, and says at once that there is no room.
const DEAF_LOOKS: u8 = 4;

/// Who may order a pump to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders<'a> {
    /// Its device has lost the right, or the program stops.
    pub(crate) cut: &'a CancellationToken,
    /// There is no memory for it.
    pub(crate) shed: Option<&'a CancellationToken>,
}

pin_project! {
    /// An order to end, and which it was.
    pub(super) struct Ordered<'a> {
        orders: Orders<'a>,
        #[pin]
        cut: WaitForCancellationFuture<'a>,
        #[pin]
        shed: Option<WaitForCancellationFuture<'a>>,
        waits: bool,
    }
}

impl<'a> Ordered<'a> {
    pub(super) fn by(orders: Orders<'a>) -> Self {
        Self {
            orders,
            cut: orders.cut.cancelled(),
            shed: orders.shed.map(CancellationToken::cancelled),
            waits: false,
        }
    }
}

impl Future for Ordered<'_> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = self.project();
        let (is_cut, is_shed) = match std::mem::replace(this.waits, true) {
            false => {
                let shed = this.shed.as_pin_mut().map(|shed| shed.poll(cx));
                (
                    this.cut.poll(cx).is_ready(),
                    shed.is_some_and(|shed| shed.is_ready()),
                )
            }
            true => {
                let shed = this.orders.shed;
                let is_shed = shed.is_some_and(CancellationToken::is_cancelled);
                (this.orders.cut.is_cancelled(), is_shed)
            }
        };
        match (is_cut, is_shed) {
            (true, _) => Poll::Ready(End::Cut),
            (false, true) => Poll::Ready(End::Shed),
            (false, false) => Poll::Pending,
        }
    }
}

pin_project! {
    /// Ready once nothing has passed for too long, or the near end has gone.
    pub(super) struct Idle {
        #[pin]
        tick: Sleep,
        waits: bool,
        // Whether the next tick is a look at the near end.
        looks: bool,
        deaf: u8,
        // Those of which no octet was seen.
        ticks: u32,
        octets: u64,
    }
}

impl Idle {
    pub(super) fn now() -> Self {
        Self {
            tick: sleep(IDLE_TICK),
            waits: false,
            looks: false,
            deaf: 0,
            ticks: 0,
            octets: 0,
        }
    }

    pub(super) fn poll<O>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pump: &Pump<'_, O>,
    ) -> Poll<End> {
        loop {
            let this = self.as_mut().project();
            let mut tick = this.tick;
            let octets = pump.outwards.octets.load(Relaxed) + pump.inwards.octets.load(Relaxed);
            if octets != *this.octets && !*this.looks {
                (*this.looks, *this.deaf, *this.ticks, *this.octets) = (true, 0, 0, octets);
                tick.as_mut().reset(Instant::now() + LOOK);
                *this.waits = false;
            }
            if *this.waits && !tick.is_elapsed() {
                return Poll::Pending;
            }
            *this.waits = true;
            ready!(tick.as_mut().poll(cx));
            let moved = std::mem::replace(this.octets, octets) != octets;
            if *this.looks {
                let is_deaf = sys::is_deaf(pump.near, LOOK);
                *this.deaf = if is_deaf { *this.deaf + 1 } else { 0 };
                if *this.deaf >= DEAF_LOOKS {
                    return Poll::Ready(End::NearGone);
                }
                *this.looks = moved || is_deaf;
            } else {
                *this.ticks += 1;
                let limit = match pump.half_closed.load(Relaxed) {
                    true => HALF_CLOSED_IDLE_TICKS,
                    false => IDLE_TICKS,
                };
                if *this.ticks >= limit {
                    return Poll::Ready(End::Idle);
                }
            }
            // From now: after a pause of the whole machine the near end gets its chance.
            let next = if *this.looks { LOOK } else { IDLE_TICK };
            tick.reset(Instant::now() + next);
            *this.waits = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::net::{TcpListener, TcpStream};

    use super::super::RawWay;
    use super::*;
    use crate::liveness::SignsOfLife;

    /// How long it takes until a visitor is sent away of whom an octet is seen at once and none afterwards.
    async fn sent_away_after(half_closed: bool) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (near, signs) = (near.unwrap(), SignsOfLife::default());
        let cut = CancellationToken::new();
        let pump = Pump::new(
            &near,
            RawWay::Never,
            None,
            Orders {
                cut: &cut,
                shed: None,
            },
            &signs,
        );
        pump.moved_outwards(1);
        pump.half_closed.store(half_closed, Relaxed);
        let begun = Instant::now();
        let mut idle = pin!(Idle::now());
        let end = poll_fn(|cx| idle.as_mut().poll(cx, &pump)).await;
        assert_eq!(end, End::Idle);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_moves_nothing_is_sent_away_and_sooner_with_half_a_connection() {
        let ticks = |ticks| IDLE_TICK * ticks..IDLE_TICK * ticks + IDLE_TICK / 100;
        let whole = sent_away_after(false).await;
        assert!(ticks(IDLE_TICKS).contains(&whole), "{whole:?}");
        let half = sent_away_after(true).await;
        let limit = ticks(HALF_CLOSED_IDLE_TICKS);
        assert!(limit.contains(&half), "{half:?}");
    }

    #[tokio::test]
    async fn an_order_to_end_is_heard_before_and_after_it_is_waited_for() {
        for (end, which) in [(End::Cut, 0), (End::Shed, 1)] {
            let tokens = [CancellationToken::new(), CancellationToken::new()];
            let orders = Orders {
                cut: &tokens[0],
                shed: Some(&tokens[1]),
            };
            let mut ordered = pin!(Ordered::by(orders));
            poll_fn(|cx| {
                assert!(ordered.as_mut().poll(cx).is_pending());
                assert!(ordered.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            let given = tokens[which].clone();
            tokio::spawn(async move { given.cancel() });
            assert_eq!(ordered.await, end);
            assert_eq!(Ordered::by(orders).await, end);
        }
    }
}
