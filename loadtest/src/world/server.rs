//! A server of our own, an origin, and what any server is asked as its operator asks it.

use std::net::SocketAddr;
use std::path::Path;

use control::operator::{self, Answer, DeviceVerb, PortVerb, Verb};
use directory::PublicPort;
use tokio::task::JoinSet;

use super::{Carrier, READY, WorldError};
use crate::part::agents::Invitation;
use crate::part::up::Scarce;
use crate::part::{Part, origin, up};
use crate::process::{Child, Namespace};
use crate::progress::Progress;

/// Names are registered so many at a time; the server answers sixteen.
const REGISTER_AT_ONCE: usize = 8;

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) child: Child,
    pub(super) ready: up::Ready,
    pub(super) carrier: Carrier,
    scarce: Scarce,
    port: Option<PublicPort>,
}

impl Server {
    /// The same state and front in a new process.
    pub(super) async fn restart(&mut self, folder: &Path) -> Result<(), WorldError> {
        self.child.kill();
        let (carrier, front) = (self.carrier, self.ready.front);
        *self = Self::offering(self.port, folder, carrier, front, self.scarce).await?;
        Ok(())
    }

    /// With its state in `folder`, and visitors and agents arriving at `front`.
    pub(super) async fn start(
        folder: &Path,
        carrier: Carrier,
        front: SocketAddr,
        scarce: Scarce,
    ) -> Result<Self, WorldError> {
        Self::offering(None, folder, carrier, front, scarce).await
    }

    /// The same where devices may have that public port.
    pub(super) async fn offering(
        port: Option<PublicPort>,
        folder: &Path,
        carrier: Carrier,
        front: SocketAddr,
        scarce: Scarce,
    ) -> Result<Self, WorldError> {
        let order = up::Order {
            state: folder.join("server"),
            front,
            udp: carrier != Carrier::Tls,
            raw: carrier != Carrier::QuicOnly,
            zone: None,
            dns: None,
            dns_threads: None,
            denial: None,
            ports: port.map(|port| format!("{0}-{0}", port.number)),
            scarce,
        };
        let mut child = Child::start(Namespace::Here, Part::Up, &order, folder)?;
        let ready = child.until_said(READY, |_: &up::Ready| true).await?;
        Ok(Self {
            child,
            ready,
            carrier,
            scarce,
            port,
        })
    }
}

/// A service, and where it listens.
pub(super) async fn start_origin(
    namespace: Namespace,
    folder: &Path,
) -> Result<(Child, SocketAddr), WorldError> {
    let mut origin = Child::start(namespace, Part::Origin, &origin::Order {}, folder)?;
    let ready = origin.until_said(READY, |_: &origin::Ready| true).await?;
    Ok((origin, ready.address))
}

/// Registers `name` at the server whose state directory is `state`.
pub(super) async fn register(state: &Path, name: &str) -> Result<Invitation, WorldError> {
    let verb = Verb::Device(DeviceVerb::Add {
        name: name.to_owned(),
        reclaim: false,
    });
    let answer = ask(state, &verb).await?;
    if let Answer::Added {
        code,
        control: Some(control),
        ..
    } = answer
    {
        let code = code.reveal().to_owned();
        return Ok(Invitation { control, code });
    }
    Err(WorldError::NotRegistered {
        name: name.to_owned(),
        reason: why_not(answer),
    })
}

/// Gives a device a public port.
pub(super) async fn give_port(
    state: &Path,
    device: &str,
    port: PublicPort,
) -> Result<(), WorldError> {
    let verb = Verb::Port(PortVerb::Add {
        device: device.to_owned(),
        port: port.to_string(),
    });
    let answer = ask(state, &verb).await?;
    if let Answer::PortAdded { .. } = answer {
        return Ok(());
    }
    Err(WorldError::PortNotGiven {
        port,
        reason: why_not(answer),
    })
}

/// How many visitors the server's own relay has now of the device whose full name is `host`.
pub(super) async fn visitors_of(state: &Path, host: &str) -> Result<usize, WorldError> {
    let verb = Verb::Top {
        interval_ms: 0, // the shortest there is
        most: usize::MAX,
    };
    let answer = ask(state, &verb).await?;
    let Answer::Top(top) = answer else {
        return Err(WorldError::NotCounted(why_not(answer)));
    };
    let mut devices = top.busiest.iter();
    let device = devices.find(|device| device.host == host);
    Ok(device.map_or(0, |device| device.visitors))
}

/// What the server whose state directory is `state` answers.
pub(super) async fn ask(state: &Path, verb: &Verb) -> Result<Answer, WorldError> {
    let answer = operator::ask(state, verb).await;
    answer.map_err(|cause| WorldError::Ask {
        state: state.to_owned(),
        cause,
    })
}

/// Why an answer is not the one that was asked for.
pub(super) fn why_not(answer: Answer) -> String {
    if let Answer::Refused(reason) = answer {
        return reason;
    }
    "its answer makes no sense".to_owned()
}

/// Registers all of `names`; the invitations come in their order.
pub(super) async fn register_all(
    state: &Path,
    names: &[String],
    progress: &Progress,
) -> Result<Vec<Invitation>, WorldError> {
    progress.begin("registering devices".to_owned(), names.len() as u64);
    let mut invitations = Vec::with_capacity(names.len());
    for some in names.chunks(REGISTER_AT_ONCE) {
        let mut registered = JoinSet::new();
        for (number, name) in some.iter().cloned().enumerate() {
            let state = state.to_owned();
            registered.spawn(async move { (number, register(&state, &name).await) });
        }
        let mut chunk = registered.join_all().await;
        chunk.sort_by_key(|(number, _)| *number);
        for (_, invitation) in chunk {
            invitations.push(invitation?);
        }
        progress.at(invitations.len() as u64);
    }
    Ok(invitations)
}
