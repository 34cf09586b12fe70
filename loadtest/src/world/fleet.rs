//! Many devices that are ready to come.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::operator::{self, DeviceVerb, Verb};
use tempfile::TempDir;

use super::ends::End;
use super::server::{Server, register_all};
use super::{Carrier, Place, READY, WorldError, check_carrier, read};
use crate::part::agents::{Device, Order, Status};
use crate::part::up::Scarce;
use crate::part::{Part, up};
use crate::process::{Child, ChildError, Namespace, ProcessId};
use crate::progress::Progress;

/// How long each device may take, besides what anything may, until it is paired and has its certificate, or is attached.
const READY_FOR_EACH: Duration = Duration::from_millis(200);

/// How many agents are on their way at a time. More would wait for each other longer than they wait for the relay, and
/// take it for dead.
const AT_ONCE_OVER_QUIC: usize = 64;

/// Those that find UDP closed mostly wait: they try QUIC for a second and a half first.
const AT_ONCE_OVER_TLS: usize = 512;

/// Nobody visits them, so nothing has to be there.
const ORIGIN: &str = "http://127.0.0.1:9";

/// Devices that are paired, have their certificates, and wait to be told to come.
#[derive(Debug)]
pub(crate) struct Fleet {
    order: Order,
    home: Home,
    folder: TempDir,
}

/// The server where they are at home.
#[derive(Debug)]
enum Home {
    Ours(Box<Server>),
    /// Another's, which is rid of the devices again when this is dropped.
    Given {
        relay: Option<ProcessId>,
        _guests: Guests,
    },
}

/// How a server is reached.
struct Reached {
    front: SocketAddr,
    state: PathBuf,
    trust_root: String,
}

impl Fleet {
    /// Registers and pairs so many devices, at the server given or one of our own.
    pub(crate) async fn gather(
        place: &Place,
        scenario: &'static str,
        count: usize,
        progress: &Progress,
    ) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        // Another's server may have devices from here already.
        let prefix = format!("load-{:08x}", rand::random::<u32>());
        let names: Vec<_> = (0..count)
            .map(|number| format!("{prefix}-{number}"))
            .collect();
        let (home, reached) = Home::find(place, scenario, &names, folder.path()).await?;
        let invitations = register_all(&reached.state, &names, progress).await?;
        let devices = names
            .iter()
            .zip(invitations)
            .map(|(name, invitation)| Device {
                state: folder.path().join(name),
                invitation: Some(invitation),
                one_tunnel: false,
            });
        let mut order = Order {
            front: reached.front,
            several_relays: false,
            trust_root: reached.trust_root,
            origin: ORIGIN.to_owned(),
            http3: None,
            services: None,
            answer_seconds: None,
            devices: devices.collect(),
            at_once: match place.carrier {
                Carrier::Quic | Carrier::QuicOnly => AT_ONCE_OVER_QUIC,
                Carrier::Tls => AT_ONCE_OVER_TLS,
            },
            stay: false,
        };
        progress.begin("pairing them".to_owned(), count as u64);
        let mut agents = Child::start(Namespace::Here, Part::Agents, &order, folder.path())?;
        let all_paired = agents.until_said(time_for(count), |status: &Status| {
            progress.at(status.left as u64);
            status.left == count
        });
        all_paired.await?;
        order.stay = true;
        for device in &mut order.devices {
            device.invitation = None;
        }
        Ok(Self {
            order,
            home,
            folder,
        })
    }

    /// The server without a tunnel of these devices, and, if it is ours, with nothing in its memory of earlier ones.
    pub(crate) async fn quiet_server(&mut self) -> Result<Option<ProcessId>, WorldError> {
        match &mut self.home {
            Home::Given { relay, .. } => Ok(*relay),
            Home::Ours(server) => {
                server.restart(self.folder.path()).await?;
                Ok(Some(server.child.id()))
            }
        }
    }

    /// Lets them come, and waits until all are attached or time is up. They leave when what is returned is dropped.
    pub(crate) async fn attach(&self, progress: &Progress) -> Result<Child, WorldError> {
        let mut agents = Child::start(
            Namespace::Here,
            Part::Agents,
            &self.order,
            self.folder.path(),
        )?;
        let count = self.order.devices.len();
        let all_attached = agents.until_said(time_for(count), |status: &Status| {
            progress.at(status.attached() as u64);
            status.attached() == count
        });
        match all_attached.await {
            Ok(status) => {
                if let Home::Ours(server) = &self.home {
                    check_carrier(&status, server.carrier)?;
                }
                Ok(agents)
            }
            // How many have come is what is to be seen.
            Err(ChildError::Late { .. }) => Ok(agents),
            Err(error) => Err(error.into()),
        }
    }
}

impl Home {
    async fn find(
        place: &Place,
        scenario: &'static str,
        names: &[String],
        folder: &Path,
    ) -> Result<(Self, Reached), WorldError> {
        if !place.is_given() {
            let server = Server::start(
                folder,
                place.carrier,
                End::HERE.any_port(),
                Scarce::default(),
            )
            .await?;
            let up::Ready {
                front, ca, state, ..
            } = server.ready.clone();
            let trust_root = read(&ca)?;
            let reached = Reached {
                front,
                state,
                trust_root,
            };
            return Ok((Self::Ours(Box::new(server)), reached));
        }
        let (Some(front), Some(ca), Some(state)) = (place.front, &place.ca, &place.state) else {
            let options = "--front ADDR, --ca FILE and --state DIR";
            return Err(WorldError::NotGiven { scenario, options });
        };
        let reached = Reached {
            front,
            state: state.clone(),
            trust_root: read(ca)?,
        };
        let guests = Guests {
            socket: state.join(operator::SOCKET),
            names: names.to_vec(),
        };
        let home = Self::Given {
            relay: place.watched().relay,
            _guests: guests,
        };
        Ok((home, reached))
    }
}

pub(super) fn time_for(devices: usize) -> Duration {
    READY + READY_FOR_EACH * u32::try_from(devices).unwrap_or(u32::MAX)
}

/// Our devices at somebody else's server.
#[derive(Debug)]
struct Guests {
    socket: PathBuf,
    names: Vec<String>,
}

impl Drop for Guests {
    fn drop(&mut self) {
        for name in self.names.drain(..) {
            // A server that is gone keeps them, and there is nobody to tell.
            if remove(&self.socket, name).is_err() {
                return;
            }
        }
    }
}

/// Asks as the operator's programs do, a line each way, but without a runtime: there may be none any more.
fn remove(socket: &Path, name: String) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(READY))?;
    let mut line = serde_json::to_vec(&Verb::Device(DeviceVerb::Remove(name)))?;
    line.push(b'\n');
    stream.write_all(&line)?;
    BufReader::new(stream).read_line(&mut String::new())?;
    Ok(())
}
