//! The agent: keeps tunnels to two relays up, or to one where there is no other or no more are wanted, and joins the visitors that come
//! through them to the services of the device.
//!
//! ```text
//!   pair   code ─► cloud ─► name, relays, trust root ─► state
//!   run    state ─► certificate ─► tunnels ─► visitors ─► origins
//!   doctor state ─► this device, its network, relays, name, service ─► what is not well, and how to mend it
//!   status state ─► the running agent ─► how it is, and why
//! ```
//!
//! [`run`] goes on until it is told to stop: a tunnel that ends is followed by another, a list of relays that changes is
//! followed, a certificate that nears its end is renewed, an address that changes is reported.

mod acme;
mod announce;
mod app;
mod attended;
mod certificate;
mod certificate_watch;
mod choice;
mod cloud;
mod dial;
mod dns;
mod doctor;
mod flow;
mod health;
mod http;
mod http3;
mod identity;
mod keeper;
mod lan;
mod log_rate;
mod measured;
mod origin;
mod origin_asked;
mod origin_failure;
mod pair;
mod pass;
mod ports;
mod pulse;
mod redial;
mod relay_list;
mod relays;
mod services;
mod situation;
mod state;
mod status;
mod steer;
mod stream;
mod tunnel;
mod visitor;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use directory::{DeviceName, NameError, Zone};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::InstanceId;

pub use crate::backoff::Backoff;
pub use acme::Caa;
pub use certificate::{CertificateError, Certificates, Usable};
pub use certificate_watch::{
    LogStatus, SeenCertificate, SeenStatus, accept_certificate, certificates_not_own, own_key,
};
pub use cloud::{CallError, Cloud};
pub use dns::Dns;
pub use doctor::{Finding, Health, Hop, complaints, examine, worst};
pub use flow::{Http3Address, Http3AddressError, Http3Server};
pub use identity::{Identity, KeyError, TlsKey};
pub use lan::Lan;
pub use origin::{
    ANSWER_TIME, ANSWER_TIMES, Origin, OriginAddress, OriginError, OriginTrust, Scheme,
    VisitorAddress,
};
pub use pair::{PairError, pair};
pub use services::{ConfigError, Fault, Services, ServicesFile};
pub use state::{Certificate, Pairing, State, StateError};
pub use status::{
    CertificateStatus, ConfigurationStatus, DirectStatus, DnsStatus, FlowsStatus, LimitsStatus,
    OriginStatus, PassedOver, PathStatus, PortStatus, ServiceStatus, Status, StatusError,
    TunnelStatus, ask,
};
pub use steer::{Steer, SteeringStatus, steer, steering};
pub use visitor::direct::{Direct, OpenError};

use crate::acme::Acme;
pub use crate::quic::Gso;
use crate::resolve::Resolver;
use crate::server::Transport;
use crate::tls::{CertificateSlot, Roots, TlsError};
use crate::workers::Workers;
use certificate_watch::CertificateWatch;
use dial::Dialler;
use flow::Flows;
use keeper::TunnelKeeper;
use log_rate::LogRate;
use ports::PortsLog;
use relay_list::RelayList;
use relays::{RelayAddress, Relays, TUNNELS};
use services::Hosts;
use situation::Situation;
use visitor::Visitors;
use visitor::direct::Door;

/// Program and version, as relay and cloud hear it.
const SOFTWARE: &str = concat!("causeway-agent/", env!("CARGO_PKG_VERSION"));

/// Raw connections whose outcome nobody has looked at yet; of more it is not noted.
const RAW_OUTCOMES: usize = 64;

/// How long a stopping agent takes to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What an agent needs to run.
#[derive(Debug)]
pub struct Config {
    /// Its directory, paired.
    pub state: State,
    /// What it makes reachable.
    pub services: Services,
    /// Where the names of cloud and relays lead.
    pub resolver: Resolver,
    /// Who carries the bytes.
    pub workers: Workers,
    /// Whether packets are sent in batches.
    pub gso: Gso,
    /// Whether the agent sets the addresses of the device's name.
    pub dns: Dns,
    /// Whether it sets those of `lan.` in front of that name.
    pub lan: Lan,
    /// Who may have certificates for that name.
    pub caa: Caa,
    /// Where visitors may come straight to the device, if they may.
    pub direct: Option<Direct>,
    /// Cancelled when another agent of the same device takes over: this one dials no relay any more, keeps the visitors it has, and
    /// ends when they have gone.
    pub retire: CancellationToken,
    /// How many tunnels it keeps where there are relays enough.
    pub tunnels: Tunnels,
}

/// How many tunnels an agent keeps, each at a relay of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnels {
    /// One. When its relay dies nobody reaches the device until the agent has noticed and is at another.
    One,
    /// Two: visitors come through one while the other is dialled again.
    #[default]
    Two,
}

impl Tunnels {
    /// So many.
    pub fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => TUNNELS,
        }
    }
}

/// How the agent is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// What its tunnel runs over that has stood longest.
    pub transport: Transport,
    /// Its address as the relay of that one sees it.
    pub seen_as: SocketAddr,
    /// The relays, as `host:port`, at which its tunnels stand; the one of that tunnel first.
    pub relays: Vec<String>,
}

/// Why an agent cannot run. Always the owner's to mend; what may pass by itself is waited for.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The cloud refuses for good.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The device's keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener for visitors who come without a relay.
    #[error(transparent)]
    Direct(#[from] OpenError),
    /// What pairing returned makes no sense.
    #[error("what pairing returned makes no sense: {0}")]
    Pairing(String),
}

impl From<CertificateError> for RunError {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Call(error) => Self::Call(error),
            CertificateError::State(error) => Self::State(error),
            CertificateError::Key(error) => Self::Key(error),
            CertificateError::Tls(error) => Self::Tls(error),
        }
    }
}

impl From<NameError> for RunError {
    fn from(error: NameError) -> Self {
        Self::Pairing(error.to_string())
    }
}

/// Runs an agent until `stop`, or until it has retired. `attached` always tells how it is attached now.
///
/// # Errors
/// If the state directory, the keys or the cloud's refusal leave nothing to wait for.
pub async fn run(
    config: Config,
    attached: watch::Sender<Option<Attached>>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let Config {
        state,
        services,
        resolver,
        workers,
        gso,
        dns,
        lan,
        caa,
        direct,
        retire,
        tunnels,
    } = config;
    let pairing = state.pairing()?;
    let identity = state.identity()?;
    let zone = Zone::parse(&pairing.zone)?;
    let device = DeviceName::parse(&pairing.name)?;
    let roots = Roots::from_pem(&pairing.trust_root)?;
    let cloud = Cloud::new(&pairing.cloud, roots.clone(), resolver)?;
    let host = zone.name_of(&device);
    let door = match direct {
        Some(direct) => {
            let shown = identity.certificate()?;
            Some(Arc::new(Door::open(direct, host.clone(), &shown).await?))
        }
        None => None,
    };
    let certificates = Certificates {
        path: "/api/device/certificate",
        names: vec![host.clone(), format!("*.{host}")],
        key: state.tls_key()?,
        cloud: cloud.clone(),
        state,
    };
    let own: CertificateSlot = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        own = certificates.obtain(&identity) => own?,
    };
    let slot = own.apart();
    let visitors = Arc::new(Visitors::new(
        Hosts::new(zone, device, services),
        slot.clone(),
        Flows::new(gso.begins_with_batches()),
        workers.clone(),
        stop.clone(),
    )?);
    let situation = Situation::new(gso, cloud.clock().clone(), attached);
    situation.direct(door.clone());
    let device_id = pairing.device_id.clone();
    let folder = certificates.state.acme();
    let acme = Acme {
        folder: &folder,
        resolver,
        key: &certificates.key,
        names: &certificates.names,
        id: &device_id,
        applicant: acme::Device {
            cloud: &cloud,
            identity: &identity,
            situation: &situation,
            caa,
            shown: &slot,
            own: &own,
        },
    };
    let certificate_watch = CertificateWatch {
        cloud: &cloud,
        identity: &identity,
        folder: certificates.state.certificates_seen()?,
        situation: &situation,
    };
    acme.show_kept().map_err(StateError::from)?;
    let listed = RelayAddress::parse_list(&pairing.relays);
    let listed =
        listed.map_err(|error| RunError::Pairing(format!("its list of relays: {error}")))?;
    let relays = Relays::new(listed);
    let (instance, tunnel_ended) = (InstanceId(rand::random()), Arc::new(Notify::new()));
    let asked = status::listen(&certificates.state).await; // before there is anything to be said
    let mut kept = JoinSet::new();
    for known in situation.of_each().into_iter().take(tunnels.count()) {
        let (raw_outcomes, raw_heard) = mpsc::channel(RAW_OUTCOMES);
        let keeper = TunnelKeeper {
            dialler: Arc::new(Dialler {
                certificate: identity.certificate()?,
                roots: roots.clone(),
                resolver,
                instance,
                raw_outcomes,
                losses: visitors.losses(),
                ports_log: PortsLog::default(),
            }),
            relays: relays.clone(),
            visitors: Arc::clone(&visitors),
            known,
            tunnel_ended: Arc::clone(&tunnel_ended),
            home: workers.next().clone(),
            retire: retire.clone(),
            stop: stop.clone(),
            log: LogRate::default(),
        };
        let home = keeper.home.runtime().clone();
        kept.spawn_on(keeper.keep(raw_heard), &home);
    }
    let list = RelayList {
        cloud: &cloud,
        identity: &identity,
        state: &certificates.state,
        pairing,
        relays,
        tunnel_ended: &tunnel_ended,
    };
    let dns_reported = async {
        match dns {
            Dns::Off => std::future::pending().await,
            Dns::Report => dns::report(&cloud, &identity, &situation).await,
        }
    };
    let port = door.as_ref().map(|door| door.port());
    let received = async {
        match &door {
            Some(door) => door.receive(&visitors).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = async { while let Some(Ok(())) = kept.join_next().await {} } => {} // they have stopped; a panic has been reported
        () = list.follow() => {}
        () = certificates.keep_fresh(&identity, &own, |_| acme.own_is_renewed()) => {}
        () = acme.keep() => {}
        () = certificate_watch.keep() => {}
        () = announce::announce(&cloud, &identity) => {}
        () = dns_reported => {}
        () = lan::report(lan, &cloud, &identity, &situation) => {}
        () = received => {}
        () = steer::tell(&cloud, &identity, port, &situation) => {}
        () = health::look_after(&visitors.hosts) => {}
        () = status::answer(asked, host, situation.clone(), Arc::clone(&visitors)) => {}
    }
    let _ = timeout(GOODBYE, async {
        while kept.join_next().await.is_some() {}
        visitors.gone().await;
    })
    .await;
    Ok(())
}
