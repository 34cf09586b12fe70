//! A visitor arrives whose datagrams cross beside a stream of the tunnel, over QUIC or to a public UDP port: they pass to a service of the
//! device, one that speaks HTTP/3 or that which its port leads to, over a socket of their own, and those of the service back. Nothing of them
//! is read; where the agent itself speaks HTTP/3 for the service, they go to its own [endpoint](super::http3) instead of a socket.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep_until};
use wire::ResetCode;
use wire::flow::take_from_stream;
use wire::frame::Open;

use crate::carrier::Carrier;
use crate::counts::Counted;
use crate::quic::{Batch, Flow, Loss, Losses, Opened, Outlet, PlainSocket, TunnelSocket};
use crate::resolve::Resolver;

use super::http3::Http3;
use super::log_rate::{Line, LogRate};
use super::origin::OriginAddress;
use super::relays::RelayAddress;
use super::status::FlowsStatus;

/// Such visitors over QUIC at a time: each has a socket.
const MOST: usize = 1024;

/// The same at public ports, where anybody can forge addresses: those keep nobody from coming over QUIC.
const MOST_AT_PORTS: usize = 512;

/// Of whom nothing has come from either side for so long, has gone. The relay gives up a visitor after a minute.
const IDLE_TIME: Duration = Duration::from_secs(90);

/// The same at a public port, where the relay gives up a visitor after two and a half minutes.
const IDLE_TIME_AT_PORT: Duration = Duration::from_secs(180);

/// What the datagrams of a visitor pass to.
#[derive(Debug)]
pub(super) struct Target {
    host: String,
    port: u16,
    /// Without so much room in the tunnel no QUIC connection begins; anything else may do with less.
    is_quic: bool,
}

impl Target {
    /// What is at a public port.
    pub(super) fn at_port(address: &OriginAddress) -> Self {
        let OriginAddress { host, port, .. } = address;
        Self {
            host: host.clone(),
            port: *port,
            is_quic: false,
        }
    }
}

impl From<Http3Address> for Target {
    fn from(Http3Address { host, port }: Http3Address) -> Self {
        Self {
            host,
            port,
            is_quic: true,
        }
    }
}

/// Where a service speaks HTTP/3: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http3Address {
    host: String,
    port: u16,
}

/// The text is not where a service speaks HTTP/3.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither \"agent\" nor a host with a port, such as 127.0.0.1:443")]
pub struct Http3AddressError(String);

impl FromStr for Http3Address {
    type Err = Http3AddressError;

    fn from_str(text: &str) -> Result<Self, Http3AddressError> {
        let parsed = RelayAddress::parse(text);
        let RelayAddress { host, port } =
            parsed.ok_or_else(|| Http3AddressError(text.to_owned()))?;
        Ok(Self { host, port })
    }
}

/// Who speaks HTTP/3 for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Http3Server {
    /// The agent, with the device's own certificate: `agent`.
    Agent,
    /// The service itself, with one of its own: `host:port`.
    Service(Http3Address),
}

const AGENT: &str = "agent";

impl FromStr for Http3Server {
    type Err = Http3AddressError;

    fn from_str(text: &str) -> Result<Self, Http3AddressError> {
        match text {
            AGENT => Ok(Self::Agent),
            address => address.parse().map(Self::Service),
        }
    }
}

impl fmt::Display for Http3Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent => f.write_str(AGENT),
            Self::Service(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Http3Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where a visitor's datagrams go.
pub(super) enum FlowWay {
    Service(Target),
    /// To the agent itself.
    Here(Arc<Http3>, Arc<Open>),
}

/// Why a visitor was refused, who then comes over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// No service here speaks HTTP/3, or is at the public port.
    NoService,
    /// There is no way to it.
    Unreachable,
    /// No QUIC connection can begin over the tunnel's path.
    Path,
    /// As many are here as may be.
    Full,
}

impl Refused {
    const ALL: [Self; 4] = [Self::NoService, Self::Unreachable, Self::Path, Self::Full];

    fn name(self) -> &'static str {
        match self {
            Self::NoService => "no_service",
            Self::Unreachable => "unreachable",
            Self::Path => "path",
            Self::Full => "full",
        }
    }
}

/// The visitors with datagrams of one agent.
#[derive(Debug)]
pub(super) struct Flows {
    /// Whether datagrams are handed to the kernel in batches.
    batches: bool,
    here: Arc<AtomicUsize>,
    here_at_ports: Arc<AtomicUsize>,
    taken: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    lost: [AtomicU64; Loss::ALL.len()],
    log: FlowsLog,
}

/// How often it is in the log why such visitors are not served.
#[derive(Debug, Default)]
struct FlowsLog {
    unreachable: LogRate,
    no_http3: LogRate,
}

impl Losses for Flows {
    fn lost(&self, why: Loss, count: usize) {
        let mut each = Loss::ALL.iter().zip(&self.lost);
        if let Some((_, lost)) = each.find(|(of, _)| **of == why) {
            lost.fetch_add(count as u64, Relaxed);
        }
    }
}

impl Flows {
    pub(super) fn new(batches: bool) -> Self {
        Self {
            batches,
            here: Arc::default(),
            here_at_ports: Arc::default(),
            taken: AtomicU64::new(0),
            refused: Default::default(),
            lost: Default::default(),
            log: FlowsLog::default(),
        }
    }

    /// How they fare.
    pub(super) fn status(&self) -> FlowsStatus {
        let some = |name: &str, count: &AtomicU64| {
            let count = count.load(Relaxed);
            (count > 0).then(|| (name.to_owned(), count))
        };
        let refused = Refused::ALL.iter().zip(&self.refused);
        let lost = Loss::ALL.iter().zip(&self.lost);
        FlowsStatus {
            visitors: self.here.load(Relaxed) + self.here_at_ports.load(Relaxed),
            taken: self.taken.load(Relaxed),
            refused: BTreeMap::from_iter(
                refused.filter_map(|(why, count)| some(why.name(), count)),
            ),
            lost: BTreeMap::from_iter(lost.filter_map(|(why, count)| some(why.name(), count))),
        }
    }

    /// Passes the datagrams of a visitor whose Open has been read, until it or the service has gone.
    pub(super) async fn serve(self: Arc<Self>, mut carrier: Carrier, way: Option<FlowWay>) {
        let passed = match way {
            Some(FlowWay::Service(target)) => self.pass(&mut carrier, target).await,
            Some(FlowWay::Here(http3, open)) => self.lead(&mut carrier, &http3, open).await,
            None => Err(Refused::NoService),
        };
        if let Err(why) = passed {
            if let Some(at) = Refused::ALL.iter().position(|of| *of == why) {
                self.refused[at].fetch_add(1, Relaxed);
            }
            tracing::debug!(reason = why.name(), "a visitor with datagrams was refused");
            carrier.sender.reset(ResetCode::Refused);
        }
    }

    /// The flow beside the carrier, if what is to pass can begin over it.
    fn begin(
        &self,
        carrier: &Carrier,
        outlet: Arc<dyn Outlet>,
        is_quic: bool,
    ) -> Result<(Flow, Opened), Refused> {
        // Over TLS no relay asks for any.
        let (flow, opened) = carrier.sender.flow(outlet).ok_or(Refused::Path)?;
        if is_quic && !flow.has_room() {
            return Err(Refused::Path);
        }
        self.taken.fetch_add(1, Relaxed);
        Ok((flow, opened))
    }

    async fn pass(self: &Arc<Self>, carrier: &mut Carrier, target: Target) -> Result<(), Refused> {
        let here = match target.is_quic {
            true => Counted::below(&self.here, MOST),
            false => Counted::below(&self.here_at_ports, MOST_AT_PORTS),
        };
        let _here = here.ok_or(Refused::Full)?;
        let outlet = Arc::new(ToService {
            socket: self.dial(&target).await.map_err(|error| {
                if let Some(Line { left_out }) = self.log.unreachable.line(Instant::now()) {
                    let Target { host, port, .. } = &target;
                    tracing::warn!(%error, host, port, left_out, "the service cannot be reached over UDP");
                }
                Refused::Unreachable
            })?,
            flows: Arc::clone(self),
            is_used: AtomicBool::new(false),
        });
        let sends_to = Arc::clone(&outlet) as Arc<dyn Outlet>;
        let (flow, _opened) = self.begin(carrier, sends_to, target.is_quic)?;
        let idle_time = match target.is_quic {
            true => IDLE_TIME,
            false => IDLE_TIME_AT_PORT,
        };
        let mut stream = carrier.receiver.stream();
        let mut first = BytesMut::new();
        let mut deadline = Instant::now() + idle_time;
        loop {
            tokio::select! {
                biased;
                read = stream.read_buf(&mut first) => match read {
                    Ok(1..) => {
                        while let Some(datagram) = take_from_stream(&mut first) {
                            outlet.send(Batch::of_one(&datagram));
                        }
                    }
                    Ok(0) | Err(_) => break,
                },
                came = poll_fn(|cx| outlet.socket.poll_take(cx, |batch| {
                    outlet.is_used.store(true, Relaxed);
                    flow.send(batch);
                })) => if let Err(error) = came {
                    tracing::debug!(%error, host = target.host, port = target.port, "the service has gone");
                    return Err(Refused::Unreachable);
                },
                () = sleep_until(deadline) => {
                    if !outlet.is_used.swap(false, Relaxed) {
                        break;
                    }
                    deadline = Instant::now() + idle_time;
                }
            }
        }
        let _ = carrier.sender.finish().await;
        Ok(())
    }

    /// The same where the agent speaks HTTP/3 itself.
    async fn lead(
        &self,
        carrier: &mut Carrier,
        http3: &Arc<Http3>,
        open: Arc<Open>,
    ) -> Result<(), Refused> {
        let _here = Counted::below(&self.here, MOST).ok_or(Refused::Full)?;
        http3.ids.are_there().await;
        let entrance = http3.enter(open).map_err(|error| {
            if let Some(Line { left_out }) = self.log.no_http3.line(Instant::now()) {
                tracing::warn!(%error, left_out, "there can be no HTTP/3");
            }
            Refused::Unreachable
        })?;
        let entrance = Arc::new(entrance);
        let (flow, _opened) =
            self.begin(carrier, Arc::clone(&entrance) as Arc<dyn Outlet>, true)?;
        entrance.leads_back_by(flow);
        let mut stream = carrier.receiver.stream();
        let mut first = BytesMut::new();
        let mut deadline = Instant::now() + IDLE_TIME;
        loop {
            tokio::select! {
                biased;
                read = stream.read_buf(&mut first) => match read {
                    Ok(1..) => {
                        while let Some(datagram) = take_from_stream(&mut first) {
                            entrance.put(&datagram);
                        }
                    }
                    Ok(0) | Err(_) => break,
                },
                () = entrance.is_proved() => {
                    if carrier.sender.vouch().await.is_err() {
                        break;
                    }
                }
                () = sleep_until(deadline) => {
                    if !entrance.was_used() {
                        break;
                    }
                    deadline = Instant::now() + IDLE_TIME;
                }
            }
        }
        let _ = carrier.sender.finish().await;
        Ok(())
    }

    /// A socket towards the first address of the service that there is a way to.
    async fn dial(&self, target: &Target) -> io::Result<PlainSocket> {
        let addresses = Resolver::System.resolve(&target.host, target.port).await?;
        let mut error = io::ErrorKind::NotFound.into();
        for address in addresses {
            match PlainSocket::connect(address, self.batches) {
                Ok(socket) => return Ok(socket),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }
}

/// What comes in the tunnel for the service.
struct ToService {
    socket: PlainSocket,
    flows: Arc<Flows>,
    /// Something has passed since it was looked at last.
    is_used: AtomicBool,
}

impl ToService {
    fn send(&self, batch: Batch<'_>) {
        self.is_used.store(true, Relaxed);
        let unsent = self.socket.send(batch);
        if unsent > 0 {
            self.flows.lost(Loss::Unsent, unsent);
        }
    }
}

impl Outlet for ToService {
    fn take(&self, batch: Batch<'_>, _: TunnelSocket<'_>) {
        self.send(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_service_speaks_http3_has_a_host_and_a_port() {
        for good in ["127.0.0.1:443", "nas.local:8443", "[::1]:443"] {
            let address: Http3Address = good.parse().unwrap();
            assert_eq!(address.to_string(), good);
        }
        for bad in [
            "127.0.0.1",
            ":443",
            "127.0.0.1:0",
            "https://nas.local:443",
            "",
        ] {
            assert!(bad.parse::<Http3Address>().is_err(), "{bad:?}");
            assert!(bad.parse::<Http3Server>().is_err(), "{bad:?}");
        }
        for good in ["agent", "127.0.0.1:443"] {
            let server: Http3Server = good.parse().unwrap();
            assert_eq!(server.to_string(), good);
        }
    }
}
