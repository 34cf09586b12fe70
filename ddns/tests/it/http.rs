//! Updates by HTTP, as routers, NAS and certificate clients send them, down to the octets.

mod abuse;
mod acme_dns;
mod duckdns;
mod dyn2;
mod given_up;
mod httpreq;

use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::BASE64;
use directory::{Device, DeviceName, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::dns::resolve;
use crate::world::World;

/// What a CA looks for: 43 characters of base64url.
const DIGEST: &str = "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo";

/// Public addresses only, at a pace.
const STRICT: &str = "listen = \"[::]:0\"\nupdates_per_minute = 1";

/// A world with a device `mynas` and the doors open on a socket.
struct Door {
    world: World,
    /// Of addresses.
    key: Token,
    challenge_key: Token,
    addr: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Door {
    async fn open(listen: &str) -> Self {
        Self::of(World::start().await, listen).await
    }

    /// Where only public addresses are taken, one change a minute after ten at once.
    async fn strict() -> Self {
        Self::of(World::with_config(STRICT).await, "127.0.0.1:0").await
    }

    async fn of(mut world: World, listen: &str) -> Self {
        let (key, challenge_key) = add(&mut world, "mynas");
        let listener = TcpListener::bind(listen).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = world
            .server
            .router()
            .into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self {
            world,
            key,
            challenge_key,
            addr,
            serving,
        }
    }

    /// Registers another device.
    fn add(&mut self, name: &str) -> (Token, Token) {
        add(&mut self.world, name)
    }

    /// A dyn2 update of `mynas`.
    async fn get(&self, query: &str) -> Reply {
        self.get_as("mynas", self.key.reveal(), query).await
    }

    async fn get_as(&self, user: &str, key: &str, query: &str) -> Reply {
        let target = format!("/nic/update?{query}");
        self.ask("GET", &target, &[&basic(user, key)], "").await
    }

    /// Any request, its headers as lines.
    async fn ask(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Reply {
        let headers: String = headers
            .iter()
            .map(|header| format!("{header}\r\n"))
            .collect();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: cloud.nas.test\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        send(self.addr, &request).await
    }

    async fn has(&self, rtype: &str) -> String {
        resolve(self.world.v4(), "mynas.nas.test", rtype).await
    }

    /// The challenges in front of a name.
    async fn challenges(&self, name: &str) -> String {
        let name = format!("_acme-challenge.{name}");
        resolve(self.world.v4(), &name, "TXT").await
    }
}

/// Registers a device and returns its keys: of addresses, and of challenges.
fn add(world: &mut World, name: &str) -> (Token, Token) {
    let key = world.directory.add(name);
    let challenge_key = Token::generate().unwrap();
    let name = DeviceName::parse(name).unwrap();
    let device = world.directory.reader.device_by_name(&name).unwrap();
    world.directory.writer.put(Device {
        challenge_key: Some(challenge_key.hash()),
        ..Device::clone(&device)
    });
    (key, challenge_key)
}

/// What is said to a dyn2 update.
pub(crate) async fn dyn2(addr: SocketAddr, user: &str, key: &str, query: &str) -> String {
    let request = format!(
        "GET /nic/update?{query} HTTP/1.1\r\nHost: cloud.nas.test\r\n{}\r\n\r\n",
        basic(user, key)
    );
    send(addr, &request).await.body
}

fn basic(user: &str, key: &str) -> String {
    let credentials = BASE64.encode(format!("{user}:{key}").as_bytes());
    format!("Authorization: Basic {credentials}")
}

struct Reply {
    status: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        Some(value)
    }

    fn code(&self) -> u16 {
        let code = self.status.split(' ').nth(1).unwrap();
        code.parse().unwrap()
    }

    /// Checks the form that every client can read.
    fn is_readable(&self) {
        let length = self.header("content-length");
        assert_eq!(length, Some(&*self.body.len().to_string()));
        assert_eq!(self.header("connection"), Some("close"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(self.header("transfer-encoding"), None);
        assert_eq!(self.header("content-encoding"), None);
    }

    /// Checks that nobody takes it for a success, however carelessly they look.
    fn is_no_success(&self) {
        let body = self.body.to_ascii_lowercase();
        for word in ["good", "nochg", "ok", "true", "updated", "success"] {
            assert!(!body.contains(word), "{body}");
        }
        assert_ne!(self.code(), 429);
    }
}

/// Sends a request and reads until the server closes; it must do so by itself.
async fn send(addr: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    timeout(Duration::from_secs(20), stream.read_to_string(&mut reply))
        .await
        .expect("the connection is still open")
        .unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.lines().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    });
    Reply {
        status: status.into(),
        headers: headers.collect(),
        body: body.into(),
    }
}
