//! Devices' agents: the relay library's own, as many as are wanted, in one process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use directory::PairingCode;
use relay::agent::{
    self, ANSWER_TIME, Attached, Cloud, Gso, Origin, OriginTrust, ServicesFile, State, Tunnels,
    VisitorAddress,
};
use relay::resolve::Resolver;
use relay::server::Transport;
use relay::tls::Roots;
use relay::workers::WorkerThreads;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// How often it is said how many are attached, if that has changed.
const PACE: Duration = Duration::from_millis(20);

/// How many pair at a time; all that they need of each other is the cloud's time.
const PAIR_AT_ONCE: usize = 16;

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where cloud and relay are reached, whatever their names.
    pub(crate) front: SocketAddr,
    /// Whether there are several relays on that host, each at its own port.
    pub(crate) several_relays: bool,
    /// What to check the cloud against while pairing, in PEM.
    pub(crate) trust_root: String,
    /// The service behind each of them.
    pub(crate) origin: String,
    /// The file that describes the services instead.
    #[serde(default)]
    pub(crate) services: Option<PathBuf>,
    /// Where it speaks HTTP/3, if it does.
    #[serde(default)]
    pub(crate) http3: Option<SocketAddr>,
    /// How many seconds it may take to begin an answer; absent: as an agent has it by itself.
    pub(crate) answer_seconds: Option<u64>,
    pub(crate) devices: Vec<Device>,
    /// How many may be on their way to the relay at a time.
    pub(crate) at_once: usize,
    /// Whether they stay once attached, or leave again: to be paired and have a certificate was all that was wanted.
    pub(crate) stay: bool,
}

/// One device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Device {
    /// Its state directory.
    pub(crate) state: PathBuf,
    /// How to pair it, unless it is.
    pub(crate) invitation: Option<Invitation>,
    /// Whether it is to have one tunnel however many relays there are.
    pub(crate) one_tunnel: bool,
}

/// With what a device pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invitation {
    /// `https://cloud.<zone>[:port]`
    pub(crate) control: String,
    /// Single use.
    pub(crate) code: String,
}

/// How they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Attached now, over either.
    pub(crate) over_quic: usize,
    pub(crate) over_tls: usize,
    /// Were attached and left again, as was wanted.
    pub(crate) left: usize,
    /// When this last changed, in seconds since the first was started.
    pub(crate) seconds: f64,
    /// The same agents as those that are attached now.
    pub(crate) at_relays: Vec<AtRelays>,
}

/// Agents that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AtRelays {
    pub(crate) one_tunnel: bool,
    /// Where their tunnels stand, as `host:port`, in no order that means anything.
    pub(crate) relays: Vec<String>,
    pub(crate) agents: usize,
}

impl Status {
    pub(crate) fn attached(&self) -> usize {
        self.over_quic + self.over_tls
    }

    fn over(&mut self, transport: Transport) -> &mut usize {
        match transport {
            Transport::Quic => &mut self.over_quic,
            Transport::Tls => &mut self.over_tls,
        }
    }

    fn comes(&mut self, one_tunnel: bool, attached: &Attached) {
        *self.over(attached.transport) += 1;
        *self.at(one_tunnel, attached) += 1;
    }

    fn goes(&mut self, one_tunnel: bool, attached: &Attached) {
        *self.over(attached.transport) -= 1;
        *self.at(one_tunnel, attached) -= 1;
        self.at_relays.retain(|alike| alike.agents > 0);
    }

    fn at(&mut self, one_tunnel: bool, attached: &Attached) -> &mut usize {
        let mut relays = attached.relays.clone();
        relays.sort();
        let mut known = self.at_relays.iter();
        let number =
            known.position(|alike| alike.one_tunnel == one_tunnel && alike.relays == relays);
        let number = number.unwrap_or_else(|| {
            self.at_relays.push(AtRelays {
                one_tunnel,
                relays,
                agents: 0,
            });
            self.at_relays.len() - 1
        });
        &mut self.at_relays[number].agents
    }
}

pub(super) async fn play(order: Order) -> anyhow::Result<()> {
    let http3 = order.http3.map(|address| address.to_string().parse());
    let http3 = http3.transpose()?;
    let origin = Origin::new(
        order.origin.parse()?,
        VisitorAddress::Forwarded,
        &OriginTrust::Roots(Roots::none()),
    )?
    .answering_within(
        order
            .answer_seconds
            .map_or(ANSWER_TIME, Duration::from_secs),
    )
    .with_http3(http3);
    let fleet = Arc::new(Fleet {
        threads: WorkerThreads::per_core()?,
        roots: Roots::from_pem(&order.trust_root)?,
        resolver: match order.several_relays {
            true => Resolver::Host(order.front.ip()),
            false => Resolver::Fixed(order.front),
        },
        services: order.services,
        origin,
        at_once: Semaphore::new(order.at_once),
        pair_at_once: Semaphore::new(PAIR_AT_ONCE),
        stay: order.stay,
        begun: Instant::now(),
        status: Mutex::default(),
    });
    let mut agents = JoinSet::new();
    for device in order.devices {
        agents.spawn(Arc::clone(&fleet).keep(device));
    }
    let mut said = Status::default();
    let mut pace = interval(PACE);
    loop {
        tokio::select! {
            Some(ended) = agents.join_next() => ended??,
            _ = pace.tick() => {
                let status = fleet.status();
                if status != said {
                    super::say(&status)?;
                    said = status;
                }
            }
        }
    }
}

/// What all of them share.
struct Fleet {
    threads: WorkerThreads,
    roots: Roots,
    resolver: Resolver,
    services: Option<PathBuf>,
    origin: Origin,
    at_once: Semaphore,
    pair_at_once: Semaphore,
    stay: bool,
    begun: Instant,
    status: Mutex<Status>,
}

impl Fleet {
    /// Runs one agent. An error ends them all: a load that is not the one asked for is no measurement.
    async fn keep(self: Arc<Self>, device: Device) -> anyhow::Result<()> {
        let turn = self.at_once.acquire().await?;
        let state = State::open(&device.state)?;
        if let Some(Invitation { control, code }) = &device.invitation {
            let _turn = self.pair_at_once.acquire().await?;
            let cloud = Cloud::new(control, self.roots.clone(), self.resolver)?;
            agent::pair(&state, &cloud, &PairingCode::parse(code)?)
                .await
                .with_context(|| format!("pairing at {control}"))?;
        }
        let config = agent::Config {
            state,
            services: match &self.services {
                Some(file) => ServicesFile::open(file.clone())?.services(),
                None => self.origin.clone().into(),
            },
            resolver: self.resolver,
            workers: self.threads.workers(),
            gso: Gso::Auto,
            dns: agent::Dns::Off,
            lan: relay::agent::Lan::Off,
            caa: relay::agent::Caa::Own,
            direct: None,
            retire: CancellationToken::new(),
            tunnels: match device.one_tunnel {
                true => Tunnels::One,
                false => Tunnels::Two,
            },
        };
        let (sender, mut attached) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut run = tokio::spawn(agent::run(config, sender, stop.clone()));
        tokio::select! {
            ended = &mut run => return Ok(ended??),
            _ = attached.wait_for(Option::is_some) => {}
        }
        drop(turn);
        if !self.stay {
            stop.cancel();
            run.await??;
            self.change(|status| status.left += 1);
            return Ok(());
        }
        let mut before: Option<Attached> = None;
        loop {
            let now = attached.borrow_and_update().clone();
            self.change(|status| {
                if let Some(before) = &before {
                    status.goes(device.one_tunnel, before);
                }
                if let Some(now) = &now {
                    status.comes(device.one_tunnel, now);
                }
            });
            before = now;
            tokio::select! {
                ended = &mut run => return Ok(ended??),
                Ok(()) = attached.changed() => {}
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        status.seconds = self.begun.elapsed().as_secs_f64();
    }

    fn status(&self) -> Status {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }
}
