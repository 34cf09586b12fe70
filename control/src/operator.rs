//! The operator's verbs: `causeway device …` and `causeway sign-in` speak to the running `up` over a socket in its state
//! directory, one line of JSON each way. The socket's permissions are the authorisation.

mod dnssec;
mod message;
mod steering;
mod zone;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use directory::{DeviceLimits, DeviceName, PublicPort};
use prometheus::IntCounter;
use relay::server::PortRange;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Cloud, DeviceRow, DeviceState, https_url, rows};
use crate::devices::Devices;
use crate::http::ACCEPT_PAUSE;
use crate::sign_in::LINK_LIFE;
use crate::top;

pub use dnssec::{make_ksk, unix_seconds};
pub use message::{
    Answer, DeviceVerb, DnssecPlan, DnssecVerb, KeyDuty, ListedDevice, ListedPort, ListedRelay,
    PortVerb, RelayVerb, Secret, ShownKey, ShownLimits, ShownTsig, Verb,
};

/// The socket's name in the state directory.
pub const SOCKET: &str = "causeway.sock";

/// The way to the socket by the descriptor of its directory: a socket's address has room for 107 octets (unix(7)), and a
/// state directory may be named by more.
struct Way {
    directory: File,
}

impl Way {
    fn into(directory: &Path) -> io::Result<Self> {
        let directory = File::open(directory)?;
        Ok(Self { directory })
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.directory.as_raw_fd()).into()
    }
}

/// How long either side may take to say its line.
const LINE_TIME: Duration = Duration::from_secs(10);

/// The longest question, in octets: the signatures of a KSK for a year, four times over.
const MAX_QUESTION: u64 = 256 * 1024;

/// Verbs answered at a time.
const MAX_CLIENTS: usize = 16;

/// The state of a name that nobody has paired under.
const NOT_PAIRED: &str = "not_paired";

/// Why the running server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No server is running on this state directory.
    #[error("no causeway is running on this state directory")]
    NotRunning,
    /// It is running, and did not answer.
    #[error("the running causeway did not answer: {0}")]
    NoAnswer(#[from] io::Error),
}

/// Asks the server that runs on the state directory `state`.
///
/// # Errors
/// If none is running, or it does not answer in time.
pub async fn ask(state: &Path, verb: &Verb) -> Result<Answer, AskError> {
    let connected = match Way::into(state) {
        Ok(way) => UnixStream::connect(way.path()).await,
        Err(error) => Err(error),
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(AskError::NotRunning);
        }
        Err(error) => return Err(error.into()),
    };
    let exchange = async {
        let mut line = serde_json::to_vec(verb)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(&mut stream).read_line(&mut answer).await?;
        Ok::<_, io::Error>(serde_json::from_str(&answer)?)
    };
    let answered = timeout(LINE_TIME, exchange).await;
    Ok(answered.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}

/// Does what `verb` asks without a running server. Only the database knows; nobody is attached.
pub async fn act_offline(devices: &Devices, verb: Verb) -> Answer {
    match verb {
        Verb::ListDevices => {
            let zone = devices.directory().zone();
            let listed = devices
                .directory()
                .devices()
                .into_iter()
                .map(|device| ListedDevice {
                    name: device.name.to_string(),
                    host: zone.name_of(&device.name),
                    id: device
                        .identity
                        .as_ref()
                        .map(|identity| identity.id.to_string()),
                    state: match device.identity {
                        Some(_) => "unknown",
                        None => NOT_PAIRED,
                    }
                    .to_owned(),
                    transport: None,
                    addresses: Vec::new(),
                    limits: devices.directory().limits(&device.name).into(),
                });
            Answer::Devices(listed.collect())
        }
        Verb::SignIn => {
            Answer::Refused("there is nothing to sign in to: no causeway is running".to_owned())
        }
        Verb::Top { .. } => Answer::Refused("nothing passes: no causeway is running".to_owned()),
        Verb::Relay(_) | Verb::ListRelays => {
            Answer::Refused("relays join a running server: no causeway is running".to_owned())
        }
        Verb::ListCertificates => {
            let sentence = "a running server follows certificate logs: no causeway is running";
            Answer::Refused(sentence.to_owned())
        }
        Verb::Dnssec(_) => {
            let sentence = "a running server has the keys of the zone: no causeway is running";
            Answer::Refused(sentence.to_owned())
        }
        Verb::ExportZone { .. } | Verb::ImportZone { .. } => {
            let sentence = "a running server has the contents of the zone: no causeway is running";
            Answer::Refused(sentence.to_owned())
        }
        Verb::Port(verb) => change_port(devices, verb, None).await,
        Verb::ListPorts => ports(devices).await,
        Verb::Device(verb) => change(devices, verb, None).await,
    }
}

/// Binds the socket in the state directory `state`, for its owner only. A socket left by a server that was killed is
/// replaced; the caller holds the directory's lock.
pub(crate) fn bind(state: &Path) -> io::Result<UnixListener> {
    let way = Way::into(state)?;
    match fs::remove_file(way.path()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(way.path())?; // in a directory that only its owner may enter
    fs::set_permissions(way.path(), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers verbs until `stop`, and those that have come by then.
pub(crate) async fn serve(
    listener: UnixListener,
    cloud: Arc<Cloud>,
    refused: IntCounter,
    stop: CancellationToken,
) {
    let clients = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if clients.len() < MAX_CLIENTS => {
                let cloud = Arc::clone(&cloud);
                clients.spawn(async move {
                    if let Ok(Err(error)) = timeout(LINE_TIME, answer(stream, &cloud)).await {
                        tracing::debug!(%error, "an operator's verb was not answered");
                    }
                });
            }
            Ok(_) => refused.inc(), // full: closed at once
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
    clients.close();
    clients.wait().await;
}

async fn answer(mut stream: UnixStream, cloud: &Cloud) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(MAX_QUESTION))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line) {
        Ok(verb) => act(cloud, verb).await,
        Err(error) => Answer::Refused(format!("the request makes no sense: {error}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn act(cloud: &Cloud, verb: Verb) -> Answer {
    match verb {
        Verb::ListDevices => match rows(cloud).await {
            Ok(rows) => {
                let listed = rows.into_iter().map(|row| listed(row, &cloud.devices));
                Answer::Devices(listed.collect())
            }
            Err(_) => Answer::Refused("the database does not answer".to_owned()),
        },
        Verb::SignIn => match sign_in_link(cloud) {
            Ok(url) => Answer::Link {
                url: Secret(url),
                good_for: LINK_LIFE.as_secs(),
            },
            Err(error) => Answer::Refused(error.to_string()),
        },
        Verb::Top { interval_ms, most } => {
            let interval = Duration::from_millis(interval_ms);
            Answer::Top(top::measure(cloud, interval, most).await)
        }
        Verb::Device(DeviceVerb::Steer { name, mode }) => steering::steer(cloud, &name, mode).await,
        Verb::Device(verb) => change(&cloud.devices, verb, Some(cloud_url(cloud))).await,
        Verb::Port(verb) => {
            // What relays with a process of their own offer stands in their files alone; agents say of each how it is there.
            let is_known = cloud.fleet.rows().is_empty();
            let offered = is_known.then_some(cloud.ports);
            change_port(&cloud.devices, verb, offered).await
        }
        Verb::ListPorts => ports(&cloud.devices).await,
        Verb::Dnssec(verb) => dnssec::act(cloud, verb).await,
        Verb::ExportZone { behind } => zone::page(cloud, behind).await,
        Verb::ImportZone {
            zone,
            devices,
            is_trial,
        } => zone::take(cloud, &zone, &devices, is_trial).await,
        Verb::Relay(verb) => change_relay(cloud, verb).await,
        Verb::ListCertificates => match cloud.certificate_watch.watched().await {
            Ok(watched) => Answer::Certificates(watched),
            Err(_) => Answer::Refused("the database does not answer".to_owned()),
        },
        Verb::ListRelays => {
            let rows = cloud.fleet.rows().into_iter();
            let listed = rows.map(|row| ListedRelay {
                name: row.name.to_string(),
                host: row.host,
                addresses: row.addresses,
                port: row.port,
                following: row.devices.is_some(),
                devices: row.devices.unwrap_or_default(),
            });
            Answer::Relays(listed.collect())
        }
    }
}

/// `https://cloud.<zone>[:port]/`
pub(crate) fn cloud_url(cloud: &Cloud) -> String {
    https_url(
        &cloud.zone.operator_name(directory::OperatorName::Cloud),
        cloud.port,
    )
}

/// A link that signs the operator in, once. Its token stands behind the `#`, which browsers send to nobody.
pub(crate) fn sign_in_link(cloud: &Cloud) -> Result<String, getrandom::Error> {
    let token = cloud.sign_in.new_link(Instant::now())?;
    Ok(format!("{}#sign-in={}", cloud_url(cloud), token.reveal()))
}

async fn change(devices: &Devices, verb: DeviceVerb, control: Option<String>) -> Answer {
    let changed = match verb {
        DeviceVerb::Add { name, reclaim } => {
            let added = if reclaim {
                devices.reclaim(&name).await
            } else {
                devices.add(&name).await
            };
            added.map(|added| {
                tracing::info!(host = added.host, reclaim, "a device's name was registered");
                let control = control.map(|url| url.trim_end_matches('/').to_owned());
                Answer::Added {
                    host: added.host,
                    code: Secret(added.code.reveal().to_string()),
                    control,
                }
            })
        }
        DeviceVerb::Key { name, duty } => devices.new_key(&name, duty.into()).await.map(|made| {
            tracing::info!(device = made.user, ?duty, "a device has a new key");
            Answer::Key(ShownKey {
                duty,
                host: made.host,
                user: made.user,
                key: Secret(made.key.reveal().to_owned()),
                tsig: ShownTsig {
                    algorithm: "hmac-sha256".to_owned(),
                    name: made.tsig_name,
                    secret: Secret(made.tsig_secret.reveal().to_string()),
                },
            })
        }),
        DeviceVerb::Limit {
            name,
            bytes_per_second,
            visitors,
            none,
        } => {
            let change = move |before: DeviceLimits| match none {
                true => DeviceLimits::default(),
                false => DeviceLimits {
                    bytes_per_second: bytes_per_second.or(before.bytes_per_second),
                    visitors: visitors.or(before.visitors),
                },
            };
            let limited = devices.limit(&name, change).await;
            limited.map(|limits| {
                let limits = ShownLimits::from(limits);
                tracing::info!(device = name, %limits, "a device's limits were changed");
                Answer::Limited(limits)
            })
        }
        DeviceVerb::Steer { .. } => {
            let sentence = "a running server steers names: no causeway is running";
            return Answer::Refused(sentence.to_owned());
        }
        DeviceVerb::Remove(name) => devices.remove(&name).await.map(|()| {
            tracing::info!(device = name, "a device was removed");
            Answer::Removed
        }),
    };
    changed.unwrap_or_else(|error| Answer::Refused(error.to_string()))
}

async fn change_relay(cloud: &Cloud, verb: RelayVerb) -> Answer {
    let changed = match verb {
        RelayVerb::Add {
            name,
            addresses,
            port,
        } => {
            let control = cloud_url(cloud).trim_end_matches('/').to_owned();
            let added = cloud.fleet.add(&name, addresses, port, control).await;
            added.map(|(host, join)| {
                tracing::info!(host, "a relay was registered");
                let join = Secret(join.to_string());
                Answer::RelayAdded { host, join }
            })
        }
        RelayVerb::Remove(name) => cloud.fleet.remove(&name).await.map(|()| {
            tracing::info!(relay = name, "a relay was removed");
            Answer::RelayRemoved
        }),
    };
    changed.unwrap_or_else(|error| Answer::Refused(error.to_string()))
}

/// What may be given is known where a server runs that has the only relay: it offers such a range, or none.
async fn change_port(
    devices: &Devices,
    verb: PortVerb,
    offered: Option<Option<PortRange>>,
) -> Answer {
    let (PortVerb::Add { port, .. } | PortVerb::Remove(port)) = &verb;
    let port: PublicPort = match port.parse() {
        Ok(port) => port,
        Err(error) => return Answer::Refused(directory::PortError::to_string(&error)),
    };
    let changed = match verb {
        PortVerb::Add { device, .. } => {
            match offered {
                Some(None) => {
                    let sentence = "this server's relay offers no ports: write ports = \"20000-20999\" into [relay], and start it anew";
                    return Answer::Refused(sentence.to_owned());
                }
                Some(Some(range)) if !range.contains(port.number) => {
                    let sentence = format!("{port} is none of {range}, which [relay] offers");
                    return Answer::Refused(sentence);
                }
                Some(Some(_)) | None => {}
            }
            devices.give_port(&device, port).await.map(|host| {
                tracing::info!(device, %port, "a device has a port of the relays");
                let port = port.to_string();
                Answer::PortAdded { host, port }
            })
        }
        PortVerb::Remove(_) => devices.take_port(port).await.map(|()| {
            tracing::info!(%port, "a port of the relays is no device's any more");
            Answer::PortRemoved
        }),
    };
    changed.unwrap_or_else(|error| Answer::Refused(error.to_string()))
}

async fn ports(devices: &Devices) -> Answer {
    match devices.ports().await {
        Ok(ports) => {
            let listed = ports.into_iter().map(|(port, name)| ListedPort {
                port: port.to_string(),
                host: devices.directory().zone().name_of(&name),
                device: name.to_string(),
            });
            Answer::Ports(listed.collect())
        }
        Err(error) => Answer::Refused(error.to_string()),
    }
}

fn listed(row: DeviceRow, devices: &Devices) -> ListedDevice {
    let limits = DeviceName::parse(&row.name).map(|name| devices.directory().limits(&name));
    let state = match row.state {
        DeviceState::Attached => "attached",
        DeviceState::Away => "away",
        DeviceState::NotPaired => NOT_PAIRED,
    };
    ListedDevice {
        name: row.name,
        host: row.host,
        id: row.id,
        state: state.to_owned(),
        transport: row.transport.map(str::to_owned),
        addresses: row.addresses,
        limits: limits.unwrap_or_default().into(),
    }
}
