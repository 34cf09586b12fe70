//! A relay with a process of its own, and a control that says what a real one never would.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use control::authority::Authority;
use control::state::StateDirectory;
use data_encoding::HEXLOWER;
use directory::{OperatorName, Zone};
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair, PKCS_ED25519};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::process::{Process, until};
use crate::world::{causeway, metric_at};

const ZONE: &str = "nas.localhost";
const EPOCH: &str = "00112233445566778899aabbccddeeff";

/// What is said on the next connection.
#[derive(Clone)]
enum Words {
    /// After the welcome: these lines, then beats of this version.
    Lines(Vec<String>, u64),
    /// To every call.
    UnknownRelay,
}

/// Speaks the lines and checks nothing.
pub(crate) struct Control {
    folder: TempDir,
    address: SocketAddr,
    words: watch::Sender<Words>,
    runtime: Runtime,
}

/// What a connection of control's needs.
struct Door {
    words: watch::Receiver<Words>,
    authority: PathBuf,
}

impl Control {
    fn start(words: Words) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("authority");
        let state = StateDirectory::open(&authority).unwrap();
        let zone = Zone::parse(ZONE).unwrap();
        let made = Authority::open(&state, &zone).unwrap();
        let cloud = made.operator_certificate(OperatorName::Cloud).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cloud.chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(cloud.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (words, heard) = watch::channel(words);
        let door = Arc::new(Door {
            words: heard,
            authority,
        });
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&door).serve(tls.clone(), stream));
            }
        });
        Self {
            folder,
            address,
            words,
            runtime,
        }
    }

    /// From now on this is said; connections on which something else was said end.
    fn say(&self, lines: Vec<String>, version: u64) {
        self.words.send_replace(Words::Lines(lines, version));
    }

    /// The file with which a relay joins it, in `folder`.
    fn join_file(&self) -> PathBuf {
        let root = self.folder.path().join("authority/ca.pem");
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let port = self.address.port();
        let text = format!(
            "name = \"eu1\"\nzone = \"{ZONE}\"\ncontrol = \"https://cloud.{ZONE}:{port}\"\nport = 443\n\
             trust_root = \"\"\"\n{}\"\"\"\nkey = \"\"\"\n{}\"\"\"\n",
            fs::read_to_string(root).unwrap(),
            key.serialize_pem()
        );
        let file = self.folder.path().join("eu1.join");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        file
    }
}

impl Door {
    async fn serve(self: Arc<Self>, tls: TlsAcceptor, stream: TcpStream) {
        let Ok(stream) = tls.accept(stream).await else {
            return;
        };
        let mut stream = BufReader::new(stream);
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(rest) = line.strip_prefix("POST ") {
                path = rest.split(' ').next().unwrap().to_owned();
            } else if let Some(rest) = line.to_lowercase().strip_prefix("content-length: ") {
                length = rest.trim().parse().unwrap();
            } else if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let stream = stream.get_mut();
        // The other side may leave whenever it likes.
        let _ = self.answer(stream, &path, body).await;
        let _ = stream.shutdown().await;
    }

    async fn answer(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        path: &str,
        body: Vec<u8>,
    ) -> std::io::Result<()> {
        let mut words = self.words.clone();
        let now = words.borrow_and_update().clone();
        let (lines, version) = match now {
            Words::UnknownRelay => {
                let problem = json!({ "detail": "no such relay", "code": "unknown_relay" });
                return whole(stream, "403 Forbidden", &problem).await;
            }
            Words::Lines(lines, version) => (lines, version),
        };
        match path {
            "/api/relay/follow" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                    .await?;
                let welcome = json!({ "welcome": { "session": EPOCH } }).to_string();
                let text = [vec![welcome], lines].concat().join("\n") + "\n";
                stream.write_all(text.as_bytes()).await?;
                stream.flush().await?;
                let beat = json!({ "beat": { "version": version } }).to_string() + "\n";
                loop {
                    tokio::select! {
                        _ = words.changed() => return Ok(()),
                        () = sleep(Duration::from_secs(1)) => {}
                    }
                    stream.write_all(beat.as_bytes()).await?;
                    stream.flush().await?;
                }
            }
            "/api/relay/certificate" => {
                let request = String::from_utf8(body).unwrap();
                let request = CertificateSigningRequestParams::from_pem(&request).unwrap();
                let read = |file| fs::read_to_string(self.authority.join(file)).unwrap();
                let key = KeyPair::from_pem(&read("ca.key")).unwrap();
                let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap();
                let chain = request.signed_by(&issuer).unwrap().pem();
                let later = u64::from(u32::MAX);
                let answer = json!({ "chain": chain, "renew_at": later, "not_after": later });
                whole(stream, "200 OK", &answer).await
            }
            _ => whole(stream, "200 OK", &json!({})).await,
        }
    }
}

async fn whole(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    answer: &Value,
) -> std::io::Result<()> {
    let body = answer.to_string();
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}

fn device(number: usize) -> String {
    json!({ "device": { "name": format!("nas-{number}"), "registration": number } }).to_string()
}

/// The lines of a snapshot whose devices have the numbers up to `devices`.
fn snapshot(version: u64, devices: usize) -> Vec<String> {
    let devices: Vec<_> = (0..devices).map(device).collect();
    let mut digest = Sha256::new();
    for line in &devices {
        digest.update(line);
        digest.update("\n");
    }
    let digest = HEXLOWER.encode(&digest.finalize());
    let begin =
        json!({ "snapshot": { "epoch": EPOCH, "version": version, "devices": devices.len() } });
    let end = json!({ "complete": { "devices": devices.len(), "digest": digest } });
    [vec![begin.to_string()], devices, vec![end.to_string()]].concat()
}

/// The real program, with a join file.
pub(crate) struct Relay {
    process: Process,
    pub(crate) admin: SocketAddr,
    state: PathBuf,
}

impl Relay {
    /// One that works, and whom it follows.
    pub(crate) fn with_control() -> (Control, Self) {
        let control = Control::start(Words::Lines(snapshot(1, 3), 1));
        let relay = Self::start(&control.join_file());
        (control, relay)
    }

    /// The relay of `join`, which has its files beside that; with what an earlier one has left.
    fn start(join: &std::path::Path) -> Self {
        let process = Self::spawn(join);
        process.until_said("ready");
        let folder = join.parent().unwrap();
        let ready = fs::read(folder.join("ready.json")).unwrap();
        let ready: Value = serde_json::from_slice(&ready).unwrap();
        assert_eq!(ready["relay"], "eu1");
        Self {
            process,
            admin: ready["admin"].as_str().unwrap().parse().unwrap(),
            state: folder.join("state"),
        }
    }

    fn spawn(join: &std::path::Path) -> Process {
        let folder = join.parent().unwrap();
        let file = folder.join("relay.toml");
        let text = format!(
            "zone = \"{ZONE}\"\nstate = \"{}\"\n[relay]\nfront = \"127.0.0.1:0\"\njoin = \"{}\"\ndrain = \"1s\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n",
            folder.join("state").display(),
            join.display()
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new(causeway());
        command.arg("up").arg("--config").arg(file);
        command.arg("--ready-file").arg(folder.join("ready.json"));
        Process::start(command)
    }

    fn metric(&self, line: &str) -> u64 {
        metric_at(self.admin, line)
    }

    fn devices(&self) -> u64 {
        self.metric("causeway_follow_devices")
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "causeway_follow_refused_total{{reason=\"{reason}\"}}"
        ))
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        until(is_so, || format!("not so: {what}\n{}", self.process.said()));
    }

    fn last_good(&self) -> String {
        fs::read_to_string(self.state.join("last-good")).unwrap()
    }
}

#[test]
fn what_would_take_devices_away_is_refused_until_the_operator_accepts_it() {
    let control = Control::start(Words::Lines(snapshot(10, 100), 10));
    let relay = Relay::start(&control.join_file());
    relay.until("100 devices", || relay.devices() == 100);
    // In force first, on the disk then: as a whole or not at all.
    relay.until("kept", || relay.state.join("last-good").exists());
    let good = relay.last_good();
    assert_eq!(good.lines().count(), 102);

    let changed = |from: &str, to: &str| {
        let lines = snapshot(11, 100).into_iter();
        lines.map(|line| line.replace(from, to)).collect::<Vec<_>>()
    };
    let mut wrong_digest = snapshot(11, 100);
    wrong_digest[50] = device(100);
    for (reason, lines) in [
        ("empty", snapshot(11, 0)),
        ("loss", snapshot(11, 49)),
        ("growth", snapshot(11, 1001)),
        (
            "malformed",
            changed("\"name\":\"nas-99\"", "\"owner\":1,\"name\":\"nas-99\""),
        ),
        ("device", changed("\"nas-99\"", "\"nas_99\"")),
        ("twice", changed("\"nas-99\"", "\"nas-98\"")),
        ("count", changed("\"devices\":100", "\"devices\":101")),
        ("digest", wrong_digest),
        ("version", snapshot(9, 100)),
        ("order", vec![device(1)]),
    ] {
        control.say(lines, 11);
        relay.until(reason, || relay.refused(reason) > 0);
        assert_eq!(relay.devices(), 100, "{reason}");
        assert_eq!(
            relay.metric("causeway_follow_snapshots_total"),
            1,
            "{reason}"
        );
        assert_eq!(relay.last_good(), good, "{reason}");
    }

    let removed = |number| {
        json!({ "removed": { "version": 20 + number, "name": format!("nas-{number}") } })
            .to_string()
    };
    control.say((0..65).map(removed).collect(), 84);
    relay.until("removals", || relay.refused("removals") > 0);
    assert_eq!(relay.devices(), 36);

    control.say(snapshot(100, 0), 100);
    fs::write(relay.state.join("accept-snapshot"), "").unwrap();
    relay.until("no device", || relay.devices() == 0);
    relay.until("the file is gone", || {
        !relay.state.join("accept-snapshot").exists()
    });
    assert_eq!(relay.metric("causeway_follow_connected"), 1);
}

#[test]
fn with_control_away_a_relay_starts_with_what_it_knew_last() {
    let control = Control::start(Words::Lines(snapshot(10, 30), 10));
    let join = control.join_file();
    let mut relay = Relay::start(&join);
    relay.until("30 devices", || relay.devices() == 30);
    // What has changed since is kept at the end.
    let removed = json!({ "removed": { "version": 11, "name": "nas-7" } }).to_string();
    control.say(vec![removed], 11);
    relay.until("29 devices", || relay.devices() == 29);
    relay.process.signal("-TERM");
    assert!(relay.process.ended().success(), "{}", relay.process.said());

    let Control {
        folder, runtime, ..
    } = control;
    drop(runtime); // and nobody listens any more
    let relay = Relay::start(&join);
    assert_eq!(relay.devices(), 29);
    assert_eq!(relay.metric("causeway_follow_connected"), 0);
    assert_eq!(relay.metric("causeway_follow_version"), 11);
    drop(folder);
}

#[test]
fn a_relay_that_control_does_not_know_any_more_keeps_nothing_and_is_not_started_again() {
    let control = Control::start(Words::Lines(snapshot(10, 30), 10));
    let join = control.join_file();
    let mut relay = Relay::start(&join);
    relay.until("30 devices", || relay.devices() == 30);
    control.words.send_replace(Words::UnknownRelay);
    assert_eq!(
        relay.process.ended().code(),
        Some(78),
        "{}",
        relay.process.said()
    );
    for file in ["last-good", "certificate.json"] {
        assert!(!relay.state.join(file).exists(), "{file}");
    }
    let mut again = Relay::spawn(&join);
    assert_eq!(again.ended().code(), Some(78), "{}", again.said());
}
