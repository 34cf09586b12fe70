//! The demo: a NAS of its own behind the real agent, in this process, paired over the same door as any other device.

mod nas;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use directory::DeviceName;
use prometheus::IntCounter;
use relay::agent::{
    self, Attached, CallError, Cloud as CloudClient, Gso, Origin, OriginAddress, OriginTrust,
    PairError, RunError, Scheme, State, StateError as AgentStateError, VisitorAddress,
};
use relay::resolve::Resolver;
use relay::tls::{Roots, TlsError};
use relay::workers::Workers;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::devices::{DeviceError, Devices};
use crate::http;
use crate::state::StateDirectory;
use crate::supervise::Supervisor;

/// The demo device's name under the zone.
const NAME: &str = "demo";

/// The agent's directory in the server's state directory.
const AGENT_STATE: &str = "demo-agent";

/// Clients of the demo NAS at a time: a thousand visitors with some browsers' habit of several connections each.
const MAX_CLIENTS: usize = 4096;

/// How long the demo device may take to be attached.
const ATTACH_TIME: Duration = Duration::from_secs(20);

/// Why there is no demo device.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The NAS page has no socket.
    #[error("the demo NAS cannot listen: {0}")]
    Listen(#[from] std::io::Error),
    /// The name could not be registered.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The agent could not pair.
    #[error("the demo device could not pair: {0}")]
    Pair(#[from] PairError),
    /// The agent's directory cannot be used.
    #[error(transparent)]
    State(#[from] AgentStateError),
    /// The cloud's own address makes no sense to the agent.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The agent could not run.
    #[error("the demo device stopped: {0}")]
    Run(#[from] RunError),
    /// The agent did not reach the relay.
    #[error("the demo device did not reach the relay within {} s", ATTACH_TIME.as_secs())]
    NotAttached,
}

/// What the demo device needs to know of the server it runs beside.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) devices: &'a Devices,
    pub(crate) state: &'a StateDirectory,
    /// `https://cloud.<zone>[:port]/`
    pub(crate) cloud: String,
    /// Where the front is reached from this host.
    pub(crate) front: SocketAddr,
    /// What pairing says about relays: the port may have changed since the device was paired.
    pub(crate) relays: Vec<String>,
    pub(crate) trust_root: &'a str,
    /// Who carries its visitors' bytes.
    pub(crate) workers: Workers,
    /// Counts clients of the NAS that were too many.
    pub(crate) refused: IntCounter,
}

/// How the demo device ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    /// Cancelled when another process has the demo device: this one keeps its visitors.
    pub(crate) retire: CancellationToken,
    /// Cancelled when it ends.
    pub(crate) stop: CancellationToken,
}

/// Starts the NAS and its agent among `parts`, and waits until the agent is attached. Returns the device's full name.
pub(crate) async fn start(
    place: Place<'_>,
    parts: &mut Supervisor,
    end: End,
) -> Result<String, DemoError> {
    let End { retire, stop } = end;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let nas = http::serve_loopback(
        listener,
        nas::router(),
        MAX_CLIENTS,
        place.refused.clone(),
        stop.clone(),
    );
    parts.run("the demo NAS", nas);

    let state = State::open(place.state.file(AGENT_STATE))?;
    let resolver = Resolver::Fixed(place.front);
    let roots = Roots::from_pem(place.trust_root)?;
    let cloud = CloudClient::new(&place.cloud, roots.clone(), resolver)?;
    pair(&place, &state, &cloud).await?;

    let origin = OriginAddress {
        scheme: Scheme::Http,
        host: address.ip().to_string(),
        port: address.port(),
    };
    let origin = Origin::new(
        origin,
        VisitorAddress::Forwarded,
        &OriginTrust::Roots(roots),
    )?;
    let config = agent::Config {
        state,
        services: origin.into(),
        resolver,
        workers: place.workers,
        gso: Gso::Auto,
        dns: agent::Dns::Off,
        lan: relay::agent::Lan::Off,
        caa: relay::agent::Caa::Own,
        direct: None,
        retire: retire.clone(),
        tunnels: agent::Tunnels::default(),
    };
    let (attached, is_attached) = watch::channel(None);
    let mut agent = tokio::spawn(agent::run(config, attached, stop.clone()));
    tokio::select! {
        ended = &mut agent => match ended {
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(())) | Err(_) => return Err(DemoError::NotAttached),
        },
        reached = timeout(ATTACH_TIME, wait_for(is_attached)) => {
            reached.map_err(|_| DemoError::NotAttached)?;
        }
    }
    parts.run("the demo device's agent", async move {
        if let Ok(Err(error)) = agent.await {
            tracing::error!(%error, "the demo device's agent cannot go on");
        }
        if retire.is_cancelled() {
            stop.cancelled().await; // it had no visitors any more
        }
    });
    let name = DeviceName::parse(NAME).map_err(DeviceError::from)?;
    Ok(place.devices.directory().zone().name_of(&name))
}

/// Pairs the device unless it is, and brings what it knows of the server up to date.
async fn pair(place: &Place<'_>, state: &State, cloud: &CloudClient) -> Result<(), DemoError> {
    let known = place
        .devices
        .directory()
        .device_by_key(&state.identity()?.public_key());
    match (known, state.pairing()) {
        (Some(_), Ok(mut pairing)) => {
            pairing.cloud = cloud.address().to_owned();
            pairing.relays = place.relays.clone();
            state.keep_pairing(&pairing)?;
        }
        _ => {
            // A name left by a demo whose agent directory is gone cannot be had back by its key. It need not rest: the
            // next holder is this host's demo again.
            match place.devices.remove(NAME).await {
                Ok(()) | Err(DeviceError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let added = place.devices.reclaim(NAME).await?;
            agent::pair(state, cloud, &added.code).await?;
        }
    }
    Ok(())
}

async fn wait_for(mut attached: watch::Receiver<Option<Attached>>) {
    // An error means that the agent has ended, which is seen elsewhere.
    let _ = attached.wait_for(Option::is_some).await;
}
