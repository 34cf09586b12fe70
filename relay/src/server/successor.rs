//! The process that comes after this one and accepts in its place. It hands over whom only this one can serve, which happens here as
//! if they had come in at this one's front.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use directory::DeviceId;
use rustix::net::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wire::{CloseCode, Frame, InstanceId};

use crate::sys;

use super::front::Front;
use super::handed::{Heard, Message, NoMessage, Reader};
use super::ports::Ports;
use super::predecessor::SEND_TIME;
use super::register;
use super::sessions::Session;

/// Visitors who came to the successor before the device did may be under way for as long.
const UNDER_WAY: Duration = SEND_TIME.saturating_mul(2);

/// The pause after something could not be taken from the channel: descriptors come back when visitors leave.
const PAUSE: Duration = Duration::from_millis(50);

/// Takes in whom the successor hands over, until it hands over no more. After `until` it cannot, and whoever is in the channel
/// is still taken in.
pub(super) async fn attend(front: Arc<Front>, channel: OwnedFd, until: CancellationToken) {
    let Ok(channel) = sys::queue(channel) else {
        return; // the successor sees that nobody is there
    };
    let mut reader = Reader::new();
    let mut closed = false;
    loop {
        let heard = tokio::select! {
            biased; // the end must not wait for a gap between visitors
            () = until.cancelled(), if !closed => {
                closed = true;
                let _ = shutdown(&channel, Shutdown::Read);
                continue;
            }
            heard = channel.async_io(Interest::READABLE, |channel| reader.read(channel)) => heard,
        };
        match heard {
            Ok(Heard::Message(message)) => front.take_in(message),
            Ok(Heard::Nonsense(fault)) => front.nonsense(fault),
            Ok(Heard::End) => return,
            Err(error) => {
                front.metrics.accept_error(&error);
                sleep(PAUSE).await;
            }
        }
    }
}

impl Front {
    fn take_in(self: &Arc<Self>, message: Message) {
        match message {
            Message::Visitor {
                device,
                proxied,
                octets,
                stream,
            } => self.take_in_visitor(device, proxied, octets, stream),
            Message::Raw { header, stream } => {
                let (Ok(from), Ok(())) = (stream.peer_addr(), stream.set_nonblocking(true)) else {
                    return self.nonsense(NoMessage::Descriptors);
                };
                let here = Arc::clone(self);
                let admitted = async move { here.admit_raw(header, stream, from.ip()).await };
                self.tasks.spawn(admitted);
            }
            Message::Carrier { ticket, stream } => {
                let here = Arc::clone(self);
                self.tasks.spawn(async move {
                    let taken = here.register.take_handed_carrier(ticket, stream).await;
                    if let Err(fault) = taken {
                        here.nonsense(fault);
                    }
                });
            }
            Message::Attached { device, instance } => self.moved(device, instance),
            Message::Keys { device, keys } => {
                register::recheck(&self.sessions, &device, |key| keys.contains(key.as_bytes()));
                if let Some(predecessor) = &self.predecessor {
                    predecessor.keys(device, keys);
                }
            }
        }
    }

    pub(super) fn nonsense(&self, fault: NoMessage) {
        self.metrics.successor_nonsense(fault);
        tracing::debug!(reason = fault.name(), "the successor makes no sense");
    }

    /// The device has a tunnel at the successor now: the one here ends when its visitors have gone.
    fn moved(self: &Arc<Self>, device: DeviceId, instance: InstanceId) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.attached(device, instance);
        }
        let Some(session) = self.sessions.of(&device) else {
            return;
        };
        if session.is_followed() {
            return; // and that has been heard before
        }
        // Another agent of the device is no reason to cut visitors: it may have taken over as this process's successor has.
        let code = match session.instance == instance {
            true => CloseCode::Superseded,
            false => CloseCode::Displaced,
        };
        if code == CloseCode::Superseded {
            session.tell(Frame::Drain {
                reconnect_after: Duration::ZERO,
            });
        }
        let ports = Arc::clone(&self.register.ports);
        self.register.tasks.spawn(let_go(session, ports, code));
    }
}

async fn let_go(session: Arc<Session>, ports: Arc<Ports>, code: CloseCode) {
    sleep(UNDER_WAY).await;
    // Until now both processes accepted at its public ports.
    session.leaves();
    ports.review(&session.device);
    session.left_alone().await;
    session.end(code);
}
