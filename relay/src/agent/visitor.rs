//! A visitor arrives, on a carrier or straight from where it is (`direct`): who it is and what it wants is read, its TLS ends here, its
//! origin is dialled.

pub(super) mod direct;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use wire::frame::{Frame, Open};
use wire::{ALPN_CONNECT, ResetCode};

use crate::carrier::{Carrier, raw};
use crate::control_stream::read_first;
use crate::quic::{Connection, IdStock, Losses};
use crate::splice::{self, Orders, RawWay};
use crate::tls::{self, CertificateSlot, TlsError};
use crate::turns;
use crate::workers::{Worker, Workers};

use super::app;
use super::flow::{FlowWay, Flows, Http3Server, Target};
use super::http::{self, Patience};
use super::http3::Http3;
use super::origin::Scheme;
use super::pass;
use super::services::{Hosts, Service};
use super::status::FlowsStatus;
use super::stream::{CarriedStream, VisitorStream};

/// How long the relay may take to say who comes, and the visitor to finish its TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Visitors of this device at a time: as many as the streams the relay may open.
const MAX_VISITORS: usize = 4096;

/// Receives visitors for the services of the device.
#[derive(Debug)]
pub(super) struct Visitors {
    pub(super) hosts: Arc<Hosts>,
    certificate: CertificateSlot,
    /// For services that speak HTTP, for any others, and for apps.
    http_acceptor: Acceptor,
    acceptor: Acceptor,
    app_acceptor: Acceptor,
    patience: Arc<Patience>,
    flows: Arc<Flows>,
    workers: Workers,
    tasks: TaskTracker,
    /// Flows to the agent's own HTTP/3: a tunnel ends them, and not that the agent stops.
    lasting: TaskTracker,
    stop: CancellationToken,
}

/// A visitor as its tunnel knows it.
pub(super) struct Guest {
    /// Counts it with the tunnel's others.
    pub(super) counted: TaskTrackerToken,
    /// Cancelled once it had better come by another tunnel: this one ends before long.
    pub(super) moving: CancellationToken,
    /// The worker that has the tunnel's socket.
    pub(super) home: Worker,
    /// The tunnel's, if visitors' datagrams cross it.
    pub(super) http3: Option<Arc<Http3>>,
}

struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor(…)")
    }
}

impl Visitors {
    pub(super) fn new(
        hosts: Hosts,
        certificate: CertificateSlot,
        flows: Flows,
        workers: Workers,
        stop: CancellationToken,
    ) -> Result<Self, TlsError> {
        let acceptor = |alpn| tls::visitor_acceptor(certificate.clone(), alpn).map(Acceptor);
        Ok(Self {
            hosts: Arc::new(hosts),
            http_acceptor: acceptor(&[tls::HTTP2, tls::HTTP1])?,
            acceptor: acceptor(&[])?,
            app_acceptor: acceptor(&[ALPN_CONNECT])?,
            certificate,
            patience: Arc::default(),
            flows: Arc::new(flows),
            workers,
            tasks: TaskTracker::new(),
            lasting: TaskTracker::new(),
            stop,
        })
    }

    /// Where the next visitor of a tunnel at `home` is best served.
    pub(super) fn least_busy<'a>(&'a self, home: &'a Worker) -> &'a Worker {
        self.workers.least_busy(home)
    }

    /// Takes a visitor from here to its end, in a task of its own. Its carrier is a stream of the tunnel at `home`: where all only
    /// passes it stays there, where TLS may end for it, it goes wherever there is time for that.
    pub(super) fn receive(
        self: &Arc<Self>,
        carrier: Carrier,
        raw: raw::Dialler,
        guest: Guest,
        home: &Worker,
    ) {
        let worker = match self.hosts.services.only_pass() {
            true => home,
            false => self.workers.least_busy(home),
        };
        self.receive_here(carrier, raw, guest, worker);
    }

    /// The same at `worker`.
    pub(super) fn receive_here(
        self: &Arc<Self>,
        mut carrier: Carrier,
        raw: raw::Dialler,
        guest: Guest,
        worker: &Worker,
    ) {
        if self.tasks.len() >= MAX_VISITORS {
            return carrier.sender.reset(ResetCode::Refused);
        }
        let visitors = Arc::clone(self);
        let served_here = worker.serve();
        // What many visitors are for long is small: what each goes through once is boxed, and so is the carrier.
        let carrier = Box::new(carrier);
        let task = async move {
            let Guest {
                counted,
                moving,
                home,
                http3,
            } = guest;
            let _counted = (served_here, counted);
            let stop = visitors.stop.clone();
            tokio::select! {
                biased; // a stopping agent does not wait for visitors to finish
                () = stop.cancelled() => {}
                served = visitors.serve(carrier, raw, moving, &home, http3) => if let Err(error) = served {
                    tracing::debug!(%error, "a visitor's connection has failed");
                },
            }
        };
        self.tasks.spawn_on(task, worker.runtime());
    }

    /// How many are here.
    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// How many were not waited for any longer, by what they did not do.
    pub(super) fn too_slow(&self) -> BTreeMap<String, u64> {
        self.patience.too_slow()
    }

    /// How those over QUIC fare.
    pub(super) fn flows(&self) -> FlowsStatus {
        self.flows.status()
    }

    /// The agent's HTTP/3 on one tunnel, with its visitors counted there.
    pub(super) fn http3(
        &self,
        tunnel: Connection,
        guests: TaskTracker,
        moving: CancellationToken,
    ) -> Arc<Http3> {
        let ids = IdStock::default();
        if self.hosts.services.have_http3_here() {
            ids.look(); // for the first of them to have some
        }
        Arc::new(Http3 {
            ids,
            tunnel,
            certificate: self.certificate.clone(),
            hosts: Arc::clone(&self.hosts),
            patience: Arc::clone(&self.patience),
            losses: self.losses(),
            guests,
            moving,
            serving: Mutex::default(),
        })
    }

    /// Hears of their datagrams that are lost in tunnels.
    pub(super) fn losses(&self) -> Arc<dyn Losses> {
        Arc::clone(&self.flows) as Arc<dyn Losses>
    }

    /// Waits until every visitor has gone. New ones must not come any more.
    pub(super) async fn gone(&self) {
        for tasks in [&self.tasks, &self.lasting] {
            tasks.close();
            tasks.wait().await;
        }
    }

    /// What it takes to serve a visitor depends on the origin, and each kind has its own room: a visitor of one takes none for
    /// the others.
    async fn serve(
        &self,
        mut carrier: Box<Carrier>,
        raw: raw::Dialler,
        moving: CancellationToken,
        home: &Worker,
        http3: Option<Arc<Http3>>,
    ) -> io::Result<()> {
        let Some(open) = Box::pin(Self::open(&mut carrier)).await? else {
            carrier.sender.reset(ResetCode::Refused);
            return Ok(());
        };
        // Which service a port leads to is said here, in the device's own file, whatever the relay says.
        let at_port = open.public_port().map(|port| self.hosts.at_port(port));
        if open.datagrams {
            // Where the tunnel's socket is: what wakes another thread for each packet costs more than it gains.
            let way = match at_port {
                Some(service) => service
                    .map(|service| FlowWay::Service(Target::at_port(service.origin.address()))),
                None => self.flow_way(open, http3),
            };
            let ends_with_the_tunnel = matches!(way, Some(FlowWay::Here(..)));
            let served = Arc::clone(&self.flows).serve(*carrier, way);
            if ends_with_the_tunnel {
                // What the agent says when it stops goes this way.
                let served = self.lasting.spawn_on(served, home.runtime());
                return served.await.map_err(io::Error::other);
            }
            let served = AbortOnDropHandle::new(home.runtime().spawn(served));
            return served.await.map_err(io::Error::other);
        }
        if let Some(service) = at_port {
            let Some(service) = service else {
                carrier.sender.reset(ResetCode::Refused);
                return Ok(());
            };
            let passed = self.pass_through(carrier, raw, open, service, false);
            return Box::pin(passed).await;
        }
        if self.hosts.is_for_apps(&open.name) {
            let carried = CarriedStream::new(*carrier, raw);
            let app = self.end_tls(carried, &self.app_acceptor, |asked| {
                self.hosts.is_for_apps(asked)
            });
            let app = Box::pin(app).await?;
            return Box::pin(app::serve(app, &open, &self.hosts)).await;
        }
        let Some(service) = self.hosts.service(&open.name) else {
            return Box::pin(self.refuse(carrier, raw)).await;
        };
        let is_there = |asked: &str| {
            let asked = self.hosts.service(asked);
            asked.is_some_and(|asked| asked.name == service.name)
        };
        match service.origin.scheme() {
            Scheme::Tls => Box::pin(self.pass_through(carrier, raw, open, service, true)).await,
            Scheme::Udp => Box::pin(self.refuse(carrier, raw)).await, // none has a name
            Scheme::Tcp => {
                let carried = CarriedStream::new(*carrier, raw);
                let visitor = self.end_tls(carried, &self.acceptor, is_there);
                let visitor = Box::pin(visitor).await?;
                Box::pin(self.pass(visitor, &open, &service)).await
            }
            Scheme::Http | Scheme::Https | Scheme::H2c | Scheme::H2 => {
                let carried = CarriedStream::new(*carrier, raw);
                let visitor = self.end_tls(carried, &self.http_acceptor, is_there);
                let visitor = Box::pin(visitor).await?;
                drop(service); // each request finds its own
                let (hosts, patience) = (&self.hosts, &self.patience);
                let served = http::serve(visitor, &open, hosts, patience, moving, http3.as_ref());
                Box::pin(served).await
            }
        }
    }

    /// Who comes; `None` if that is not what the relay says first.
    async fn open(carrier: &mut Carrier) -> io::Result<Option<Box<Open>>> {
        match timeout(HANDSHAKE_TIME, read_first(&mut carrier.receiver.stream())).await? {
            Ok(Frame::Open(open)) => Ok(Some(Box::new(open))),
            Ok(_) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Tells the visitor what the relay says of a name that nobody has.
    async fn refuse(&self, carrier: Box<Carrier>, raw: raw::Dialler) -> io::Result<()> {
        self.hosts.refused.unknown_name();
        let mut visitor = CarriedStream::new(*carrier, raw);
        let told = async {
            visitor.write_all(&tls::UNRECOGNIZED_NAME).await?;
            visitor.shutdown().await
        };
        timeout(HANDSHAKE_TIME, told).await?
    }

    async fn end_tls(
        &self,
        visitor: impl Into<VisitorStream>,
        acceptor: &Acceptor,
        is_there: impl Fn(&str) -> bool,
    ) -> io::Result<TlsStream<VisitorStream>> {
        let visitor = visitor.into();
        timeout(HANDSHAKE_TIME, turns::for_a_handshake()).await?; // no part of the visitor's own time
        let accepted = acceptor.0.accept(visitor).into_fallible();
        match timeout(HANDSHAKE_TIME, accepted).await? {
            Ok(visitor) => {
                // The relay says which service it is for. The handshake says it too, and there it cannot be changed on the way: no
                // word for one service is ever led to another.
                let asked = visitor.get_ref().1.server_name();
                if !asked.is_some_and(is_there) {
                    self.hosts.refused.other_name();
                    return Err(io::Error::other("its handshake is for another service"));
                }
                Ok(visitor)
            }
            Err((error, mut visitor)) => {
                // An alert that says why is on its way, and a reset would overtake it.
                let _ = visitor.shutdown().await;
                Err(error)
            }
        }
    }

    /// Where the datagrams go of a visitor over QUIC: to whoever speaks HTTP/3 for its service, or to the agent's own connection that it
    /// comes back to.
    fn flow_way(&self, open: Box<Open>, http3: Option<Arc<Http3>>) -> Option<FlowWay> {
        let here = |open: Box<Open>| http3.map(|http3| FlowWay::Here(http3, open.into()));
        if open.name.is_empty() {
            return here(open);
        }
        let service = self.hosts.service(&open.name)?;
        match service.origin.http3()?.clone() {
            Http3Server::Service(address) => Some(FlowWay::Service(address.into())),
            Http3Server::Agent => here(open),
        }
    }

    /// Joins the visitor to an origin that ends its TLS itself, or that it has come to by a public port. No octet of it has to be seen here.
    /// Where it is not known to be encrypted, it never leaves the tunnel.
    async fn pass_through(
        &self,
        mut carrier: Box<Carrier>,
        raw: raw::Dialler,
        open: Box<Open>,
        service: Arc<Service>,
        may_leave: bool,
    ) -> io::Result<()> {
        let dialled = service.origin.connect_plain(open.visitor, open.front);
        let dialled = Box::pin(dialled).await;
        drop(open);
        let origin = match dialled {
            Ok(origin) => origin,
            Err(error) => {
                service.unreachable(&error);
                carrier.sender.end().await?;
                return carrier.sender.finish().await;
            }
        };
        drop(service);
        let signs = Arc::clone(&raw.signs);
        let raw_way = match may_leave {
            true => RawWay::Dial(Box::new(raw)),
            false => RawWay::Never,
        };
        let orders = Orders {
            cut: &self.stop,
            shed: None,
        };
        splice::splice(&origin, &mut carrier, raw_way, None, orders, &*signs).await;
        Ok(())
    }

    async fn pass(
        &self,
        mut visitor: TlsStream<VisitorStream>,
        open: &Open,
        service: &Service,
    ) -> io::Result<()> {
        let mut origin = match service.origin.connect(open.visitor, open.front).await {
            Ok(origin) => origin,
            Err(error) => {
                service.unreachable(&error);
                return visitor.shutdown().await;
            }
        };
        let passed = pass::both_ways(visitor, &mut origin).await;
        if passed.is_err() {
            origin.reset_on_close();
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::num::NonZeroUsize;

    use directory::{DeviceName, Zone};
    use rcgen::{CertificateParams, KeyPair};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::agent::ServicesFile;
    use crate::quic;
    use crate::quic::tests::{Pair, pair};
    use crate::tls::Roots;
    use crate::workers::WorkerThreads;

    /// Nothing here takes longer unless it is broken.
    const SOON: Duration = Duration::from_secs(20);

    /// A visitor's stream at both ends, the relay's and the agent's; the relay has said that it is for `name`.
    async fn opened(pair: &Pair, name: &str) -> (CarriedStream, Box<Carrier>, raw::Dialler) {
        let dialler = raw::Dialler {
            front: pair.at_agent.remote_address(),
            key: quic::seal_key(&pair.at_agent).unwrap(),
            signs: Arc::default(),
            outcomes: mpsc::channel(1).0,
        };
        let open = Frame::Open(Open {
            name: name.to_owned(),
            visitor: SocketAddr::from(([192, 0, 2, 1], 50_000)),
            front: SocketAddr::from(([192, 0, 2, 2], 443)),
            datagrams: false,
            port: None,
        });
        let (mut send, recv) = pair.at_relay.open_bi().await.unwrap();
        send.write_all(&open.encode().unwrap()).await.unwrap();
        let at_relay = CarriedStream::new(Carrier::quic(send, recv), dialler.clone());
        let (send, recv) = pair.at_agent.accept_bi().await.unwrap();
        (at_relay, Box::new(Carrier::quic(send, recv)), dialler)
    }

    #[tokio::test]
    async fn a_relay_that_names_another_service_than_the_handshake_leads_nobody_there() {
        let shell = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let described = format!(
            "[services.shell]\norigin = \"tcp://{}\"\n[services.photos]\norigin = \"http://127.0.0.1:1\"\n",
            shell.local_addr().unwrap()
        );
        std::fs::write(&file, described).unwrap();
        let services = ServicesFile::open(file).unwrap().services();
        let key = KeyPair::generate().unwrap();
        let names = vec!["*.mynas.nas.localhost".to_owned()];
        let certificate = CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem();
        let zone = Zone::parse("nas.localhost").unwrap();
        let device = DeviceName::parse("mynas").unwrap();
        let threads = WorkerThreads::start(NonZeroUsize::MIN).unwrap();
        let visitors = Visitors::new(
            Hosts::new(zone, device, services),
            CertificateSlot::from_pem(&certificate, &key.serialize_pem()).unwrap(),
            Flows::new(false),
            threads.workers(),
            CancellationToken::new(),
        );
        let visitors = visitors.unwrap();
        let workers = threads.workers();
        let home = workers.next();
        let trusts =
            tls::origin_client(Some(&Roots::from_pem(&certificate).unwrap()), tls::HTTP1).unwrap();
        let pair = pair().await;
        for (said, asked, is_led_there) in [
            (
                "shell.mynas.nas.localhost",
                "shell.mynas.nas.localhost",
                true,
            ),
            (
                "shell.mynas.nas.localhost",
                "photos.mynas.nas.localhost",
                false,
            ),
            (
                "photos.mynas.nas.localhost",
                "shell.mynas.nas.localhost",
                false,
            ),
        ] {
            let (at_relay, carrier, raw) = opened(&pair, said).await;
            let served = visitors.serve(carrier, raw, CancellationToken::new(), home, None);
            let visit = async {
                let asked = tls::server_name(asked).unwrap();
                let mut visitor = trusts.connect(asked, at_relay).await.unwrap();
                let _ = visitor.write_all(b"words for one of them").await;
                let _ = visitor.shutdown().await;
                let _ = visitor.read_to_end(&mut Vec::new()).await;
            };
            let reached = async {
                let (mut stream, _) = shell.accept().await.unwrap();
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await.unwrap();
                heard
            };
            let all = async {
                if is_led_there {
                    let (served, (), heard) = tokio::join!(served, visit, reached);
                    served.unwrap();
                    assert_eq!(heard, b"words for one of them");
                } else {
                    let (served, ()) = tokio::join!(served, visit);
                    served.unwrap_err();
                    let nobody = timeout(Duration::ZERO, shell.accept()).await;
                    assert!(nobody.is_err(), "{said} for {asked}");
                }
            };
            timeout(SOON, all).await.unwrap();
        }
        assert_eq!(visitors.hosts.refused.counts()["other_name"], 2);
    }
}
