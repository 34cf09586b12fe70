//! Apps come for services by name: the whole way, from `connect` through the relay to the service.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use connect::{ConnectError, Device, Door, Trust, forward, serve_socks};
use relay::agent::{ServicesFile, State};
use relay::resolve::Resolver;
use relay::server::Transport;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::status::status_json;
use crate::world::{Agent, SOON, TRANSPORTS, World};

const HOST: &str = "mynas.nas.localhost";

/// A service that says hello first, as sshd does, and then repeats what it hears.
struct Echo {
    address: SocketAddr,
    _served: AbortOnDropHandle<()>,
}

impl Echo {
    async fn start(hello: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = async move {
            let mut apps = JoinSet::new();
            loop {
                let (mut app, _) = listener.accept().await.unwrap();
                apps.spawn(async move {
                    app.write_all(hello.as_bytes()).await.unwrap();
                    let (mut from, mut to) = app.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        };
        Self {
            address,
            _served: AbortOnDropHandle::new(tokio::spawn(served)),
        }
    }
}

/// An agent whose services are described so.
async fn agent_with(world: &World, state: &State, services: &str) -> Agent {
    let file = world.state_of("agent.toml");
    fs::write(&file, services).unwrap();
    let file = ServicesFile::open(file).unwrap();
    world
        .agent_for(state.clone(), Resolver::Fixed(world.front), file.services())
        .await
}

/// The device as an app sees it: by its name, at the front of `world`.
fn device(world: &World) -> Device {
    let trust = Trust::from_pem(world.trust_root.as_bytes()).unwrap();
    Device::new(HOST, &trust)
        .unwrap()
        .at(&world.front.to_string())
}

async fn opened(device: &Device, service: &str) -> Result<connect::Connection, ConnectError> {
    timeout(SOON, device.open(service)).await.unwrap()
}

#[tokio::test]
async fn an_app_reaches_a_service_by_name_over_either_carrier() {
    for transport in TRANSPORTS {
        let world = World::start(transport);
        let (shell, own) = (Echo::start("shell").await, Echo::start("own").await);
        let state = world.device("mynas");
        let services = format!(
            "[services.shell]\norigin = \"tcp://{}\"\nreach = \"apps\"\n\
             [services.\"@\"]\norigin = \"http://{}\"\nreach = \"both\"\n\
             visitor_address = \"hidden\"\n",
            shell.address, own.address
        );
        let agent = agent_with(&world, &state, &services).await;
        for (service, hello) in [("shell", "shell"), ("", "own")] {
            let mut app = opened(&device(&world), service).await.unwrap();
            let mut heard = vec![0; hello.len()];
            app.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, hello.as_bytes());
            // Much more than any buffer, and each direction ends on its own.
            let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
            let (mut from, mut to) = tokio::io::split(app);
            let whole = sent.clone();
            let sending = tokio::spawn(async move {
                to.write_all(&whole).await.unwrap();
                to.shutdown().await.unwrap();
            });
            let mut back = Vec::new();
            timeout(SOON, from.read_to_end(&mut back))
                .await
                .unwrap()
                .unwrap();
            assert!(back == sent);
            sending.await.unwrap();
        }
        agent.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_for_apps_is_refused_as_what_is_not_there() {
    let world = World::start(Transport::Quic);
    let (shell, web) = (Echo::start("shell").await, Echo::start("web").await);
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    let state = world.device("mynas");
    let services = format!(
        "[services.shell]\norigin = \"tcp://{}\"\nreach = \"apps\"\n\
         [services.gone]\norigin = \"tcp://{gone}\"\nreach = \"apps\"\n\
         [services.web]\norigin = \"http://{}\"\n\
         [services.\"*\"]\norigin = \"http://{}\"\n",
        shell.address, web.address, web.address
    );
    let agent = agent_with(&world, &state, &services).await;
    let device = device(&world);
    for service in ["web", "nothing", "", "connect"] {
        let error = opened(&device, service).await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Refused { .. }),
            "{service:?}: {error}"
        );
    }
    let error = opened(&device, "gone").await.unwrap_err();
    assert!(
        matches!(error, ConnectError::ServiceUnreachable { .. }),
        "{error}"
    );
    let told = status_json(&world).await;
    assert_eq!(told["refused"]["unknown_service"], json!(4));
    let reach = |name: &str| {
        let services = told["services"].as_array().unwrap();
        let service = services.iter().find(|service| service["name"] == name);
        service.unwrap()["reach"].clone()
    };
    assert_eq!(
        (reach("shell"), reach("web")),
        (json!("apps"), json!("name"))
    );
    agent.stop().await;
}

#[tokio::test]
async fn who_takes_no_apps_and_who_is_not_there_is_said() {
    let world = World::start(Transport::Quic);
    let web = Echo::start("web").await;
    let state = world.device("mynas");
    let services = format!("[services.\"*\"]\norigin = \"http://{}\"\n", web.address);
    let agent = agent_with(&world, &state, &services).await;
    let error = opened(&device(&world), "shell").await.unwrap_err();
    assert!(matches!(error, ConnectError::NoApps(_)), "{error}");
    agent.stop().await;
    let error = opened(&device(&world), "shell").await.unwrap_err();
    assert!(matches!(error, ConnectError::Absent(_)), "{error}");
    let trust = Trust::from_pem(world.trust_root.as_bytes()).unwrap();
    let other = Device::new("nobody.nas.localhost", &trust).unwrap();
    let error = opened(&other.at(&world.front.to_string()), "shell").await;
    assert!(matches!(error, Err(ConnectError::Absent(_))));
}

#[tokio::test]
async fn a_port_leads_to_a_service_and_a_socks_port_to_all() {
    let world = World::start(Transport::Quic);
    let (shell, files) = (Echo::start("shell").await, Echo::start("files").await);
    let state = world.device("mynas");
    let services = format!(
        "[services.shell]\norigin = \"tcp://{}\"\nreach = \"apps\"\n\
         [services.files]\norigin = \"tcp://{}\"\nreach = \"apps\"\n",
        shell.address, files.address
    );
    let _agent = agent_with(&world, &state, &services).await;
    let port = || Door::open((Ipv4Addr::LOCALHOST, 0).into(), |_| ());
    let (one, all) = (port().await.unwrap(), port().await.unwrap());
    let (at_one, at_all) = (one.address().unwrap(), all.address().unwrap());
    let at = device(&world);
    let both = async move { tokio::join!(forward(&one, &at, "shell"), serve_socks(&all, &at)) };
    let _served = AbortOnDropHandle::new(tokio::spawn(both));

    let mut app = TcpStream::connect(at_one).await.unwrap();
    let mut heard = [0; 5];
    timeout(SOON, app.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"shell");

    // What is for the service may come with the request.
    for (host, hello) in [("files", "files"), ("SHELL.mynas.nas.localhost.", "shell")] {
        let mut app = TcpStream::connect(at_all).await.unwrap();
        app.write_all(&[5, 1, 0]).await.unwrap();
        let mut greeted = [0; 2];
        timeout(SOON, app.read_exact(&mut greeted))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(greeted, [5, 0]);
        let mut request = vec![5, 1, 0, 3, host.len() as u8];
        request.extend_from_slice(host.as_bytes());
        request.extend_from_slice(&[0, 22]);
        request.extend_from_slice(b"early");
        app.write_all(&request).await.unwrap();
        let mut reply = [0; 10];
        timeout(SOON, app.read_exact(&mut reply))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply[..2], [5, 0]);
        let mut heard = [0; 10];
        timeout(SOON, app.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard, *format!("{hello}early").as_bytes());
    }

    // Elsewhere there is nothing, whoever asks.
    for (host, code) in [("other.example.com", 2), ("192.0.2.1", 2), ("nothing", 2)] {
        let mut app = TcpStream::connect(at_all).await.unwrap();
        let mut request = vec![5, 1, 0, 5, 1, 0, 3, host.len() as u8];
        request.extend_from_slice(host.as_bytes());
        request.extend_from_slice(&[0, 22]);
        app.write_all(&request).await.unwrap();
        let mut heard = Vec::new();
        timeout(SOON, app.read_to_end(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard[..4], [5, 0, 5, code], "{host}");
    }
}

#[tokio::test]
async fn nobody_is_waited_for_who_does_not_say_what_he_wants() {
    let world = World::start(Transport::Quic);
    let shell = Echo::start("shell").await;
    let state = world.device("mynas");
    let services = format!(
        "[services.shell]\norigin = \"tcp://{}\"\nreach = \"apps\"\n",
        shell.address
    );
    let _agent = agent_with(&world, &state, &services).await;
    for (said, answer) in [
        (&b"\x02"[..], &b"\x01"[..]),
        (b"\x01\xff", b"\x01"),
        (b"\x01\x03a.b", b"\x01"),
        (b"GET / HTTP/1.1\r\n\r\n", b"\x01"),
        (b"\x01\x05sh", b""), // and no more
    ] {
        let mut app = world.visit("connect.mynas.nas.localhost").await;
        app.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        let ended = timeout(SOON, app.read_to_end(&mut heard)).await;
        drop(ended.unwrap());
        assert_eq!(heard, answer, "{said:?}");
    }
}

#[tokio::test]
async fn what_is_cut_does_not_look_complete_to_the_app() {
    let world = World::start(Transport::Quic);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let state = world.device("mynas");
    let services = format!(
        "[services.files]\norigin = \"tcp://{}\"\nreach = \"apps\"\n",
        listener.local_addr().unwrap()
    );
    let _agent = agent_with(&world, &state, &services).await;
    let port = || Door::open((Ipv4Addr::LOCALHOST, 0).into(), |_| ());
    let (one, all) = (port().await.unwrap(), port().await.unwrap());
    let (at_one, at_all) = (one.address().unwrap(), all.address().unwrap());
    let at = device(&world);
    let both = async move { tokio::join!(forward(&one, &at, "files"), serve_socks(&all, &at)) };
    let _served = AbortOnDropHandle::new(tokio::spawn(both));
    for door in [at_one, at_all] {
        let mut app = TcpStream::connect(door).await.unwrap();
        if door == at_all {
            app.write_all(b"\x05\x01\0\x05\x01\0\x03\x05files\0\x16")
                .await
                .unwrap();
            let mut replies = [0; 12];
            timeout(SOON, app.read_exact(&mut replies))
                .await
                .unwrap()
                .unwrap();
        }
        let (mut service, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        service.write_all(b"half of it").await.unwrap();
        let mut heard = [0; 10];
        timeout(SOON, app.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        service.set_zero_linger().unwrap();
        drop(service);
        let ended = timeout(SOON, app.read(&mut heard)).await.unwrap();
        assert!(ended.is_err(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_service_that_was_away_is_well_once_an_app_has_reached_it() {
    let world = World::start(Transport::Quic);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let state = world.device("mynas");
    let services = format!(
        "[services.web]\norigin = \"http://{address}\"\nreach = \"apps\"\nvisitor_address = \"hidden\"\n"
    );
    let _agent = agent_with(&world, &state, &services).await;
    let device = device(&world);
    let problem = async || status_json(&world).await["services"][0]["problem"].clone();
    let error = opened(&device, "web").await.unwrap_err();
    assert!(
        matches!(error, ConnectError::ServiceUnreachable { .. }),
        "{error}"
    );
    assert_ne!(problem().await, json!(null));
    let _listener = TcpListener::bind(address).await.unwrap();
    drop(opened(&device, "web").await.unwrap());
    assert_eq!(problem().await, json!(null));
}
