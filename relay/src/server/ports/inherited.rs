//! The listeners of public TCP ports that the process before has had, until their devices have come here: whoever is in the queue of
//! one waits there, and neither process can lose him.
//!
//! The process before accepts at them as long as it has the devices, so nobody waits but where it has just lost one. A listener that no
//! device has asked for is closed when agents have had the time to come.

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};
use std::num::NonZeroU16;
use std::sync::{Mutex, MutexGuard, PoisonError};

use directory::{DeviceId, Protocol, PublicPort};

/// Those that nobody has asked for yet.
#[derive(Debug, Default)]
pub(super) struct InheritedPorts {
    by_port: Mutex<HashMap<PublicPort, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    /// Whose port it was when the listener came: nobody else may have those who wait there.
    device: DeviceId,
    listener: TcpListener,
}

impl InheritedPorts {
    /// Of these listeners those at `address` whose port `holder` knows a device for. The others are closed.
    pub(super) fn new(
        listeners: Vec<TcpListener>,
        address: IpAddr,
        holder: impl Fn(PublicPort) -> Option<DeviceId>,
    ) -> Self {
        let waiting = listeners.into_iter().filter_map(|listener| {
            let bound = listener.local_addr().ok()?;
            let port = PublicPort {
                protocol: Protocol::Tcp,
                number: NonZeroU16::new(bound.port())?,
            };
            let device = holder(port).filter(|_| bound.ip() == address)?;
            Some((port, Waiting { device, listener }))
        });
        Self {
            by_port: Mutex::new(waiting.collect()),
        }
    }

    fn by_port(&self) -> MutexGuard<'_, HashMap<PublicPort, Waiting>> {
        self.by_port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of a port, which is the device's.
    pub(super) fn take(&self, port: PublicPort, device: &DeviceId) -> Option<TcpListener> {
        let waiting = self.by_port().remove(&port)?;
        (waiting.device == *device).then_some(waiting.listener)
    }

    /// Closes the others.
    pub(super) fn retain(&self, is_to_stay: impl Fn(PublicPort, &DeviceId) -> bool) {
        self.by_port()
            .retain(|port, waiting| is_to_stay(*port, &waiting.device));
    }

    /// The same once more, for the next process, as far as they can be had.
    pub(super) fn cloned(&self) -> Vec<TcpListener> {
        let by_port = self.by_port();
        let each = by_port.values();
        each.filter_map(|waiting| waiting.listener.try_clone().ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const DEVICE: DeviceId = DeviceId::from_bytes([7; 16]);
    const OTHER: DeviceId = DeviceId::from_bytes([8; 16]);

    fn listeners() -> (Vec<TcpListener>, Vec<PublicPort>) {
        let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let port = |listener: &TcpListener| PublicPort {
            protocol: Protocol::Tcp,
            number: NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap(),
        };
        let ports = listeners.iter().map(port).collect();
        (listeners.into(), ports)
    }

    #[test]
    fn a_listener_is_for_the_device_whose_port_it_was() {
        let (listeners, ports) = listeners();
        let inherited =
            InheritedPorts::new(listeners, Ipv4Addr::LOCALHOST.into(), |_| Some(DEVICE));
        let listener = inherited.take(ports[0], &DEVICE).unwrap();
        let number = listener.local_addr().unwrap().port();
        assert_eq!(number, ports[0].number.get());
        assert!(inherited.take(ports[0], &DEVICE).is_none(), "it is taken");
        assert!(inherited.take(ports[1], &OTHER).is_none());
    }

    #[test]
    fn what_is_nobodys_or_elsewhere_is_closed() {
        let is_listened_on = |port: &PublicPort| {
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port.number.get())).is_ok()
        };
        let (of_one, ports) = listeners();
        let first = ports[0];
        let holder = |port| (port == first).then_some(DEVICE);
        let inherited = InheritedPorts::new(of_one, Ipv4Addr::LOCALHOST.into(), holder);
        assert!(is_listened_on(&ports[0]) && !is_listened_on(&ports[1]));
        inherited.retain(|_, device| *device == OTHER);
        assert!(!is_listened_on(&ports[0]));

        let (elsewhere, ports) = listeners();
        let _none = InheritedPorts::new(elsewhere, Ipv4Addr::UNSPECIFIED.into(), |_| Some(DEVICE));
        assert!(!ports.iter().any(is_listened_on));
    }
}
