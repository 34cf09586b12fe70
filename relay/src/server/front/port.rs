//! A visitor at a public port of a device: nothing of what it says is read, and it never leaves the tunnel for a raw connection, where nobody
//! would encrypt it.

use std::net::TcpStream as StdTcpStream;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::{Arrived, Front, Guest, Joined, SentAway, Way};
use crate::server::limits::Admitted;
use crate::server::ports::PortDoor;
use crate::server::recorded::Visit;
use crate::server::refusal::Refusal;
use crate::splice::{Moved, RawWay};

impl Front {
    /// Finds the session of the port's device.
    pub(super) fn arrive_at_port(
        &self,
        door: Arc<PortDoor>,
        visitor: StdTcpStream,
        way: Way,
        mut admitted: Admitted,
    ) -> Result<Arrived, Box<SentAway>> {
        admitted.named();
        let session = self.sessions.of(&door.device);
        let session = session.filter(|session| session.takes_ports());
        let session = session.ok_or(SentAway::silently(Refusal::NotAttached))?;
        admitted.serve().map_err(SentAway::silently)?;
        let there = match session.visitor(way.visitor.ip()) {
            Ok(place) => Some((session, place)),
            Err(_) => self.newer(&session, way.visitor.ip()),
        };
        let (session, place) = there.ok_or(SentAway::silently(Refusal::DeviceFull))?;
        let front = way.front.or(visitor.local_addr().ok());
        Ok(Arrived::Guest(Box::new(Guest {
            visitor,
            visit: Visit::begin(way.visitor),
            front,
            hello: Bytes::new(),
            name: String::new(),
            session,
            door: Some(door),
            places: (admitted, place),
        })))
    }

    /// Until the device has the port no more, or its session ends.
    pub(super) async fn pump_at_port(&self, joined: &mut Joined, door: &PortDoor) -> Moved {
        let cut = joined.session.ended().child_token();
        let mut pump = pin!(self.pump_until(joined, RawWay::Never, Some(&cut)));
        tokio::select! {
            biased;
            moved = &mut pump => return moved,
            () = door.lost.cancelled() => cut.cancel(),
        }
        pump.await
    }
}
