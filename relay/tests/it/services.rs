//! Several services behind one device: which name leads where, and how that changes while the agent runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay::agent::{self, ServiceStatus, ServicesFile, State, Status};
use relay::resolve::Resolver;
use relay::server::Transport;
use relay::tls::{Roots, connect_http2};
use rustls::AlertDescription;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::byte_path::{origin, read_head};
use crate::status::{status, status_json};
use crate::world::{Agent, SOON, TRANSPORTS, World};

const WEB: &str = "web.mynas.nas.localhost";
const PHOTOS: &str = "photos.mynas.nas.localhost";
const SHELL: &str = "shell.mynas.nas.localhost";

/// An HTTP service that answers with its name, and keeps the heads of what it is asked.
struct Service {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    /// How often it was asked how it is, and what it says.
    looks: Arc<AtomicUsize>,
    is_well: Arc<AtomicBool>,
    /// Lets what asked for `/held` go on.
    go_on: Arc<Notify>,
    _served: AbortOnDropHandle<()>,
}

impl Service {
    async fn start(name: &'static str) -> Self {
        let (listener, address) = origin("http").await;
        let (heads, looks) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicUsize>::default(),
        );
        let (is_well, go_on) = (Arc::new(AtomicBool::new(true)), Arc::<Notify>::default());
        let served = {
            let (heads, looks) = (Arc::clone(&heads), Arc::clone(&looks));
            let (is_well, go_on) = (Arc::clone(&is_well), Arc::clone(&go_on));
            async move {
                let mut visits = tokio::task::JoinSet::new();
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let (heads, looks) = (Arc::clone(&heads), Arc::clone(&looks));
                    let (is_well, go_on) = (Arc::clone(&is_well), Arc::clone(&go_on));
                    visits.spawn(async move {
                        while stream.readable().await.is_ok()
                            && stream.peek(&mut [0]).await.is_ok_and(|n| n > 0)
                        {
                            let head = read_head(&mut stream).await;
                            let mut answer = "200 OK";
                            if head.starts_with("get /healthz ") {
                                looks.fetch_add(1, Ordering::SeqCst);
                                if !is_well.load(Ordering::SeqCst) {
                                    answer = "500 Internal Server Error";
                                }
                            } else {
                                heads.lock().unwrap().push(head.clone());
                            }
                            if head.starts_with("get /held ") {
                                go_on.notified().await;
                            }
                            let length = name.len();
                            let answer = format!(
                                "HTTP/1.1 {answer}\r\nContent-Length: {length}\r\n\r\n{name}"
                            );
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                    });
                }
            }
        };
        Self {
            address,
            heads,
            looks,
            is_well,
            go_on,
            _served: AbortOnDropHandle::new(tokio::spawn(served)),
        }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }

    /// Waits until it has been asked how it is so often more.
    async fn until_looked_at(&self, times: usize) {
        let until = self.looks() + times;
        crate::world::eventually(|| self.looks() >= until).await;
    }
}

fn section(name: &str, origin: &str, more: &str) -> String {
    format!("[services.\"{name}\"]\norigin = \"{origin}\"\n{more}\n")
}

/// A world with one device, whose agent is told by a file.
struct Device {
    world: World,
    file: ServicesFile,
    path: PathBuf,
    _agent: Agent,
}

impl Device {
    async fn start(transport: Transport, text: &str) -> Self {
        let world = World::start(transport);
        let path = world.state_of("agent.toml");
        fs::write(&path, text).unwrap();
        let file = ServicesFile::open(path.clone()).unwrap();
        let state = world.device("mynas");
        let by_way = Resolver::Fixed(world.front);
        let agent = world.agent_for(state, by_way, file.services()).await;
        Self {
            world,
            file,
            path,
            _agent: agent,
        }
    }

    /// The file says something else, and the agent has noticed.
    async fn says(&mut self, text: &str) {
        fs::write(&self.path, text).unwrap();
        timeout(SOON, self.file.changed()).await.unwrap();
        self.file.reload();
    }

    async fn status(&self) -> Status {
        let state = State::open(self.world.state_of("mynas")).unwrap();
        agent::ask(&state).await.unwrap()
    }

    async fn service(&self, name: &str) -> ServiceStatus {
        let services = self.status().await.services;
        let found = services.into_iter().find(|service| service.name == name);
        found.unwrap_or_else(|| panic!("no service {name}"))
    }

    /// Waits until a service is so, or there is none.
    async fn until_health(&self, name: &str, health: &str) {
        let told = async {
            while self.service(name).await.health.as_deref() != Some(health) {
                sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, told).await.unwrap();
    }

    async fn over_http2(&self, host: &str) -> Browser {
        let stream = TcpStream::connect(self.world.front).await.unwrap();
        let roots = Roots::from_pem(&self.world.trust_root).unwrap();
        let stream = connect_http2(stream, host, &roots).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (asks, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Browser {
            asks,
            _connection: AbortOnDropHandle::new(connection),
        }
    }
}

/// One HTTP/2 connection, on which any name is asked for.
struct Browser {
    asks: SendRequest<Empty<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

impl Browser {
    async fn ask(&self, host: &str, path: &str) -> Response<String> {
        let request = Request::get(format!("https://{host}{path}"));
        let mut asks = self.asks.clone();
        let answer = asks.send_request(request.body(Empty::new()).unwrap());
        let (head, body) = timeout(SOON, answer).await.unwrap().unwrap().into_parts();
        let body = timeout(SOON, body.collect()).await.unwrap().unwrap();
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        Response::from_parts(head, text)
    }

    async fn body(&self, host: &str, path: &str) -> String {
        let answer = self.ask(host, path).await;
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "{host}{path}: {}",
            answer.body()
        );
        answer.into_body()
    }

    async fn status(&self, host: &str) -> u16 {
        self.ask(host, "/").await.status().as_u16()
    }
}

#[tokio::test]
async fn over_one_http2_connection_each_request_reaches_its_own_service() {
    for transport in TRANSPORTS {
        let (own, web, photos) = (
            Service::start("own").await,
            Service::start("web").await,
            Service::start("photos").await,
        );
        let text = [
            section("@", &own.address, ""),
            section("web", &web.address, ""),
            section("photos", &photos.address, "visitor_address = \"hidden\""),
            section("shell", "tcp://127.0.0.1:1", ""),
        ];
        let device = Device::start(transport, &text.concat()).await;
        let browser = device.over_http2(WEB).await;
        let (a, b, c, d) = tokio::join!(
            browser.body(WEB, "/a"),
            browser.body("Photos.MyNAS.nas.localhost", "/b"),
            browser.body("mynas.nas.localhost", "/c"),
            browser.body(PHOTOS, "/d"),
        );
        assert_eq!([a, b, c, d], ["web", "photos", "own", "photos"]);
        let (web, photos) = (web.heads().concat(), photos.heads().concat());
        assert_eq!(web.matches("get /").count(), 1, "{web}");
        assert_eq!(photos.matches("get /").count(), 2, "{photos}");
        assert!(web.contains(&format!("host: {WEB}\r\n")), "{web}");
        assert!(photos.contains(&format!("host: {PHOTOS}\r\n")), "{photos}");
        // Each has its own way of telling who asks.
        assert!(web.contains("x-forwarded-for: 127.0.0.1\r\n"), "{web}");
        assert!(!photos.contains("x-forwarded-for"), "{photos}");
        // A service that is no HTTP, and nobody's name.
        assert_eq!(browser.status(SHELL).await, 421);
        assert_eq!(browser.status("nothing.mynas.nas.localhost").await, 421);
        assert_eq!(browser.status("a.web.mynas.nas.localhost").await, 421);
        assert_eq!(
            browser.body(WEB, "/").await,
            "web",
            "the connection goes on"
        );
        assert_eq!(device.status().await.refused["misdirected"], 3);
    }
}

#[tokio::test]
async fn a_name_without_a_service_is_answered_as_one_that_nobody_has() {
    for transport in TRANSPORTS {
        let web = Service::start("web").await;
        let device = Device::start(transport, &section("web", &web.address, "")).await;
        for host in ["mynas.nas.localhost", PHOTOS, "nobody.nas.localhost"] {
            let error = device.world.try_visit(host).await.unwrap_err();
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            let alert = rustls::Error::AlertReceived(AlertDescription::UnrecognisedName);
            assert_eq!(cause, Some(&alert), "{host}: {error}");
        }
        assert_eq!(device.over_http2(WEB).await.body(WEB, "/").await, "web");
        assert_eq!(device.status().await.refused["unknown_name"], 2);
    }
}

#[tokio::test]
async fn what_is_no_http_stands_beside_what_is() {
    let web = Service::start("web").await;
    let (shell, shell_address) = origin("tcp").await;
    let (own_tls, own_tls_address) = origin("tls").await;
    let text = [
        section("*", &web.address, ""),
        section("shell", &shell_address, "visitor_address = \"proxy-v2\""),
        section("vault", &own_tls_address, ""),
    ];
    let device = Device::start(Transport::Quic, &text.concat()).await;
    let browser = device.over_http2("any.mynas.nas.localhost").await;
    assert_eq!(browser.body("other.mynas.nas.localhost", "/").await, "web");

    let mut visitor = device.world.visit(SHELL).await;
    let (mut stream, _) = timeout(SOON, shell.accept()).await.unwrap().unwrap();
    visitor.write_all(b"bytes").await.unwrap();
    let mut heard = [0; 28 + 5];
    timeout(SOON, stream.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert!(heard.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21") && heard.ends_with(b"bytes"));
    // Who offers HTTP/2 there is not taken at its word: what answers is no HTTP.
    let stream = TcpStream::connect(device.world.front).await.unwrap();
    let roots = Roots::from_pem(&device.world.trust_root).unwrap();
    let mut visitor = connect_http2(stream, SHELL, &roots).await.unwrap();
    let (mut stream, _) = timeout(SOON, shell.accept()).await.unwrap().unwrap();
    stream.write_all(b"no HTTP").await.unwrap();
    let mut heard = [0; 7];
    timeout(SOON, visitor.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"no HTTP");

    // The hello itself comes to whoever has a certificate of its own.
    let visit = device.world.try_visit("vault.mynas.nas.localhost");
    let hello = async {
        let (mut stream, _) = timeout(SOON, own_tls.accept()).await.unwrap().unwrap();
        stream.read_u8().await.unwrap()
    };
    let (visit, first) = tokio::join!(visit, hello);
    assert_eq!(first, 22);
    visit.unwrap_err();
}

#[tokio::test]
async fn a_reload_is_for_what_comes_then() {
    let (before, after, photos) = (
        Service::start("before").await,
        Service::start("after").await,
        Service::start("photos").await,
    );
    let mut device = Device::start(Transport::Quic, &section("web", &before.address, "")).await;
    let browser = device.over_http2(WEB).await;
    assert_eq!(browser.status(PHOTOS).await, 421);
    let held = browser.body(WEB, "/held");
    let replaced = async {
        crate::world::eventually(|| before.heads().concat().contains("/held")).await;
        let text = [
            section("web", &after.address, ""),
            section("photos", &photos.address, ""),
        ];
        device.says(&text.concat()).await;
        assert_eq!(browser.body(WEB, "/").await, "after");
        assert_eq!(browser.body(PHOTOS, "/").await, "photos");
        before.go_on.notify_one();
    };
    let (held, ()) = tokio::join!(held, replaced);
    assert_eq!(held, "before", "what was under way ends as it began");
    assert_eq!(before.heads().len(), 1);

    device.says(&section("web", &after.address, "")).await;
    assert_eq!(browser.status(PHOTOS).await, 421);
    device.world.try_visit(PHOTOS).await.unwrap_err();
    let names: Vec<_> = device.status().await.services;
    let names: Vec<_> = names.into_iter().map(|service| service.name).collect();
    assert_eq!(names, ["web"]);
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_says_why() {
    let web = Service::start("web").await;
    let good = section("web", &web.address, "");
    let mut device = Device::start(Transport::Quic, &good).await;
    let browser = device.over_http2(WEB).await;
    for (bad, expected) in [
        (
            section("web", "nowhere", ""),
            ":2: services.web.origin: \"nowhere\" is not an origin",
        ),
        (
            section("web", &web.address, "helth = \"/\""),
            ":3: services.web.helth: unknown field",
        ),
        (String::new(), ":1: services: there is no service"),
    ] {
        device.says(&bad).await;
        let problem = device
            .status()
            .await
            .configuration
            .unwrap()
            .problem
            .unwrap();
        let expected = format!("{}{expected}", device.path.display());
        assert!(problem.starts_with(&expected), "{problem}");
        assert_eq!(browser.body(WEB, "/").await, "web");
    }
    let told = status(&device.world.state_of("mynas"), &[]).await;
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("not read    ") && told.contains("there is no service"),
        "{told}"
    );
    fs::remove_file(&device.path).unwrap();
    timeout(SOON, device.file.changed()).await.unwrap();
    device.file.reload();
    let problem = device
        .status()
        .await
        .configuration
        .unwrap()
        .problem
        .unwrap();
    assert!(problem.contains("No such file"), "{problem}");
    device.says(&good).await;
    assert_eq!(device.status().await.configuration.unwrap().problem, None);
    assert_eq!(browser.body(WEB, "/").await, "web");
}

const LOOKS: &str = "health = \"/healthz\"\nhealth_interval = \"1s\"";

#[tokio::test]
async fn who_is_not_well_is_spared_until_it_is() {
    let web = Service::start("web").await;
    let device = Device::start(Transport::Quic, &section("web", &web.address, LOOKS)).await;
    device.until_health("web", "well").await;
    let browser = device.over_http2(WEB).await;
    assert_eq!(browser.body(WEB, "/").await, "web");

    web.is_well.store(false, Ordering::SeqCst);
    device.until_health("web", "ill").await;
    let answer = browser.ask(WEB, "/").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(answer.body().contains("not well"), "{}", answer.body());
    let told = device.service("web").await;
    assert_eq!(told.failures["ill"], 1);
    assert!(told.problem.unwrap().contains("500 Internal Server Error"));
    assert_eq!(web.heads().len(), 1, "it was not asked");
    let in_words = status(&device.world.state_of("mynas"), &[]).await;
    let in_words = String::from_utf8(in_words.stdout).unwrap();
    let expected = format!("service     web  {}: not well, it answers", web.address);
    assert!(in_words.contains(&expected), "{in_words}");

    web.is_well.store(true, Ordering::SeqCst);
    device.until_health("web", "well").await;
    assert_eq!(browser.body(WEB, "/").await, "web");
    assert_eq!(device.service("web").await.problem, None);
}

#[tokio::test]
async fn a_service_that_has_gone_is_not_looked_at_any_more() {
    let (web, photos) = (Service::start("web").await, Service::start("photos").await);
    let web_looked_at = section("web", &web.address, LOOKS);
    let text = [
        web_looked_at.clone(),
        section("photos", &photos.address, LOOKS),
    ];
    let mut device = Device::start(Transport::Quic, &text.concat()).await;
    photos.until_looked_at(2).await;
    device.says(&web_looked_at).await;
    web.until_looked_at(2).await; // one may have been under way
    let looks = photos.looks();
    web.until_looked_at(3).await;
    assert_eq!(photos.looks(), looks);
}

#[tokio::test]
async fn what_is_no_http_is_looked_at_by_a_connection() {
    let (shell, address) = origin("tcp").await;
    let how = "visitor_address = \"proxy-v2\"\nhealth = \"connect\"\nhealth_interval = \"1s\"";
    let device = Device::start(Transport::Quic, &section("shell", &address, how)).await;
    let (mut stream, _) = timeout(SOON, shell.accept()).await.unwrap().unwrap();
    let mut header = Vec::new();
    stream.read_to_end(&mut header).await.unwrap();
    assert_eq!(
        header, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        "on nobody's behalf"
    );
    device.until_health("shell", "well").await;
    drop(shell);
    device.until_health("shell", "ill").await;
    let problem = device.service("shell").await.problem.unwrap();
    assert_eq!(problem, "nobody listens there");
}

fn program(state: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-agent"));
    command.arg("run").args(options).arg("--state").arg(state);
    command.kill_on_drop(true).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn the_program_follows_its_file_by_itself_and_at_once_when_it_is_told() {
    let (web, photos) = (Service::start("web").await, Service::start("photos").await);
    let world = World::start(Transport::Quic);
    let state = world.device("mynas");
    let file = state.directory().join("agent.toml");
    fs::write(&file, section("web", &web.address, "")).unwrap();
    let mut agent = program(state.directory(), &[]).spawn().unwrap();
    world
        .until_metric(
            "causeway_relay_tunnels_attached_total{transport=\"quic\"}",
            1,
        )
        .await;
    let names = async || {
        let told = status_json(&world).await;
        let services = told["services"].as_array().unwrap().clone();
        services
            .into_iter()
            .map(|service| service["name"].clone())
            .collect::<Vec<Value>>()
    };
    assert_eq!(names().await, ["web"]);
    let until = async |expected: &[&str]| {
        let told = async { while names().await != expected {} };
        timeout(SOON, told).await.unwrap();
    };
    let both = [
        section("web", &web.address, ""),
        section("photos", &photos.address, ""),
    ];
    let both = both.concat();
    fs::write(&file, &both).unwrap();
    until(&["photos", "web"]).await;
    // A change that cannot be seen from outside.
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, both.replace("photos", "albums")).unwrap();
    let written = fs::File::options().append(true).open(&file).unwrap();
    written.set_modified(modified).unwrap();
    let id = agent.id().unwrap().to_string();
    let signalled = Command::new("kill").args(["-HUP", &id]).status().await;
    assert!(signalled.unwrap().success());
    until(&["albums", "web"]).await;
    let told = status_json(&world).await;
    let path = file.display().to_string();
    assert_eq!(
        told["configuration"],
        json!({ "file": path, "problem": null })
    );
    let first = photos.address.trim_start_matches("http://");
    assert_eq!(told["origin"]["address"], first);
    agent.kill().await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_told_nothing_or_two_things_says_so() {
    let world = World::start(Transport::Quic);
    let state = world.device("mynas");
    let file = state.directory().join("other.toml");
    fs::write(&file, "[services.web]\norigin = \"nowhere\"\n").unwrap();
    let file = file.to_str().unwrap();
    for (options, code, expected) in [
        (&[][..], 1, "nothing says what to make reachable"),
        (
            &["--config", file, "--origin", "http://127.0.0.1:1"],
            2,
            "cannot be used with",
        ),
        (
            &["--config", file, "--answer-time", "5m"],
            2,
            "cannot be used with",
        ),
        (&["--answer-time", "5m"], 2, "--origin"),
        (
            &["--config", file],
            1,
            "other.toml:2: services.web.origin: ",
        ),
        (&["--config", "/nowhere"], 1, "/nowhere: No such file"),
    ] {
        let output = program(state.directory(), options).output();
        let output = timeout(SOON, output).await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
