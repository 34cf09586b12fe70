//! Updates by HTTP, as routers and NAS send them, down to the octets.

use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::BASE64;
use directory::Token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::dns::resolve;
use crate::world::World;

/// A world with a device `mynas` and the door open on a socket.
struct Door {
    world: World,
    key: Token,
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

    async fn of(mut world: World, listen: &str) -> Self {
        let key = world.directory.add("mynas");
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
            addr,
            serving,
        }
    }

    async fn get(&self, query: &str) -> Reply {
        self.get_as("mynas", self.key.reveal(), query).await
    }

    async fn get_as(&self, user: &str, key: &str, query: &str) -> Reply {
        let credentials = BASE64.encode(format!("{user}:{key}").as_bytes());
        let request = format!(
            "GET /nic/update?{query} HTTP/1.1\r\nHost: cloud.nas.test\r\n\
             Authorization: Basic {credentials}\r\nUser-Agent: ddclient/3.10.0\r\n\r\n"
        );
        send(self.addr, &request).await
    }

    async fn has(&self, rtype: &str) -> String {
        resolve(self.world.v4(), "mynas.nas.test", rtype).await
    }
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
}

/// Sends a request and reads until the server closes; it must do so by itself.
async fn send(addr: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut reply))
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

#[tokio::test]
async fn a_router_tells_its_address_and_the_next_query_has_it() {
    let door = Door::open("127.0.0.1:0").await;
    assert_eq!(door.has("A").await, "192.0.2.250");

    let query = "system=dyndns&hostname=mynas.nas.test&myip=192.0.2.7";
    let reply = door.get(query).await;
    assert_eq!(reply.body, "good 192.0.2.7\n");
    assert_eq!(door.has("A").await, "192.0.2.7");

    assert_eq!(door.get(query).await.body, "nochg 192.0.2.7\n");
    assert_eq!(door.world.metric(r#"updates_total{result="changed"}"#), 1.0);
    assert_eq!(
        door.world.metric(r#"updates_total{result="unchanged"}"#),
        1.0
    );
}

#[tokio::test]
async fn a_reply_has_the_form_that_clients_can_read() {
    let door = Door::open("127.0.0.1:0").await;
    let reply = door.get("hostname=mynas.nas.test&myip=192.0.2.7").await;
    assert_eq!(reply.status, "HTTP/1.1 200 OK");
    assert_eq!(
        reply.header("content-length"),
        Some(&*reply.body.len().to_string())
    );
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(reply.header("transfer-encoding"), None);
    assert_eq!(reply.header("content-encoding"), None);
}

#[tokio::test]
async fn http_1_0_works_without_a_host() {
    let door = Door::open("127.0.0.1:0").await;
    let credentials = BASE64.encode(format!("mynas:{}", door.key.reveal()).as_bytes());
    let request = format!(
        "GET /nic/update?hostname=mynas.nas.test&myip=192.0.2.8 HTTP/1.0\r\nAuthorization: Basic {credentials}\r\n\r\n"
    );
    let reply = send(door.addr, &request).await;
    assert_eq!(reply.status, "HTTP/1.0 200 OK");
    assert_eq!(reply.header("content-length"), Some("15"));
    assert_eq!(reply.body, "good 192.0.2.8\n");
}

#[tokio::test]
async fn both_families_go_in_one_request_and_each_alone() {
    let door = Door::open("127.0.0.1:0").await;
    let mine = "hostname=mynas.nas.test";
    let reply = door
        .get(&format!("{mine}&myip=192.0.2.7,2001:db8::7"))
        .await;
    assert_eq!(reply.body, "good 192.0.2.7,2001:db8::7\n");

    let reply = door.get(&format!("{mine}&myip=192.0.2.8")).await;
    assert_eq!(reply.body, "good 192.0.2.8\n");
    assert_eq!(door.has("AAAA").await, "2001:db8::7", "not touched");

    let reply = door.get(&format!("{mine}&myipv6=2001:db8::9")).await;
    assert_eq!(reply.body, "good 2001:db8::9\n");
    assert_eq!(door.has("A").await, "192.0.2.8", "not touched");

    let reply = door.get(&format!("{mine}&offline=YES")).await;
    assert_eq!(reply.body, "good 192.0.2.250\n");
    assert_eq!(door.has("AAAA").await, "2001:db8::250");
    let reply = door.get(&format!("{mine}&offline=YES")).await;
    assert_eq!(reply.body, "nochg 192.0.2.250\n");
}

#[tokio::test]
async fn without_an_address_the_visitors_counts() {
    let door = Door::open("[::]:0").await;
    let v4 = SocketAddr::from(([127, 0, 0, 1], door.addr.port()));
    let credentials = BASE64.encode(format!("mynas:{}", door.key.reveal()).as_bytes());
    let request = format!(
        "GET /nic/update?hostname=mynas.nas.test HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n"
    );
    assert_eq!(send(v4, &request).await.body, "good 127.0.0.1\n");
    let v6 = format!("[::1]:{}", door.addr.port()).parse().unwrap();
    assert_eq!(send(v6, &request).await.body, "good ::1\n");
}

#[tokio::test]
async fn a_private_address_does_not_get_into_a_public_name() {
    let world = World::with_config("listen = \"[::]:0\"").await;
    let door = Door::of(world, "127.0.0.1:0").await;
    let mine = "hostname=mynas.nas.test";
    for private in ["&myip=192.168.1.7", "&myip=203.0.113.7,fd00::7", ""] {
        let reply = door.get(&format!("{mine}{private}")).await;
        assert_eq!(reply.body, "dnserr\n", "{private}");
    }
    assert_eq!(door.has("A").await, "192.0.2.250");
    let refused = door
        .world
        .metric("updates_refused_total{reason=\"not_public\"}");
    assert_eq!(refused, 3.0);
}

#[tokio::test]
async fn who_changes_too_often_waits_and_who_changes_nothing_does_not() {
    let world = World::with_config("listen = \"[::]:0\"\nupdates_per_minute = 1").await;
    let door = Door::of(world, "127.0.0.1:0").await;
    let mine = "hostname=mynas.nas.test";
    for last in 1..=10 {
        let reply = door.get(&format!("{mine}&myip=192.0.2.{last}")).await;
        assert_eq!(reply.body, format!("good 192.0.2.{last}\n"));
    }
    let reply = door.get(&format!("{mine}&myip=192.0.2.11")).await;
    assert_eq!(reply.status, "HTTP/1.1 200 OK");
    assert_eq!(reply.body, "911\n");
    for _ in 0..30 {
        let reply = door.get(&format!("{mine}&myip=192.0.2.10")).await;
        assert_eq!(reply.body, "nochg 192.0.2.10\n");
    }
    assert_eq!(door.has("A").await, "192.0.2.10");
}

#[tokio::test]
async fn there_is_one_line_for_each_host_in_order() {
    let mut door = Door::open("127.0.0.1:0").await;
    door.world.directory.add("other");
    let hosts =
        "other.nas.test,MyNas.nas.test.,mynas,photos.mynas.nas.test,mynas.nas.test,cloud.nas.test";
    let reply = door.get(&format!("hostname={hosts}&myip=192.0.2.7")).await;
    assert_eq!(
        reply.body,
        "nohost\ngood 192.0.2.7\nnotfqdn\nnohost\nnochg 192.0.2.7\nnohost\n"
    );
    let other = resolve(door.world.v4(), "other.nas.test", "A").await;
    assert_eq!(other, "192.0.2.250");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_word_and_changes_nothing() {
    let door = Door::open("127.0.0.1:0").await;
    let many = "mynas.nas.test,".repeat(21);
    for (query, word, reason) in [
        ("myip=192.0.2.7", "notfqdn", "notfqdn"),
        ("hostname=&myip=192.0.2.7", "notfqdn", "notfqdn"),
        ("hostname=mynas&myip=192.0.2.7", "notfqdn", "notfqdn"),
        (
            "hostname=nobody.nas.test&myip=192.0.2.7",
            "nohost",
            "nohost",
        ),
        (
            &format!("hostname={many}&myip=192.0.2.7"),
            "numhost",
            "numhost",
        ),
        ("hostname=mynas.nas.test&myip=home", "dnserr", "bad_address"),
        (
            "hostname=mynas.nas.test&myip=0.0.0.0",
            "dnserr",
            "bad_address",
        ),
        (
            "hostname=mynas.nas.test&myipv6=ff02::1",
            "dnserr",
            "bad_address",
        ),
    ] {
        let series = format!(r#"updates_refused_total{{reason="{reason}"}}"#);
        let before = door.world.metric(&series);
        let reply = door.get(query).await;
        assert_eq!(reply.status, "HTTP/1.1 200 OK", "{query}");
        assert_eq!(reply.body, format!("{word}\n"), "{query}");
        assert_eq!(door.world.metric(&series), before + 1.0, "{query}");
    }
    assert_eq!(door.has("A").await, "192.0.2.250");
}

#[tokio::test]
async fn without_the_devices_key_nothing_is_done() {
    let mut door = Door::open("127.0.0.1:0").await;
    let other = door.world.directory.add("other");
    let query = "hostname=mynas.nas.test&myip=192.0.2.7";
    for (user, key) in [
        ("mynas", "wrong"),
        ("nobody", door.key.reveal()),
        ("mynas", other.reveal()),
    ] {
        let reply = door.get_as(user, key, query).await;
        assert_eq!(reply.status, "HTTP/1.1 401 Unauthorized");
        assert_eq!(reply.body, "badauth\n");
        let challenge = reply.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Basic "), "{challenge}");
    }
    let bare = format!("GET /nic/update?{query} HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(send(door.addr, &bare).await.body, "badauth\n");
    assert_eq!(
        door.world
            .metric(r#"updates_refused_total{reason="badauth"}"#),
        4.0
    );

    // Another device's key is good for that device only.
    let reply = door.get_as("other", other.reveal(), query).await;
    assert_eq!(reply.body, "nohost\n");
    assert_eq!(door.has("A").await, "192.0.2.250");
}

#[tokio::test]
async fn a_key_ends_with_its_device() {
    let mut door = Door::open("127.0.0.1:0").await;
    door.world.directory.remove("mynas");
    let reply = door.get("hostname=mynas.nas.test&myip=192.0.2.7").await;
    assert_eq!(reply.body, "badauth\n");
    door.world.directory.add("mynas");
    let reply = door.get("hostname=mynas.nas.test&myip=192.0.2.7").await;
    assert_eq!(reply.body, "badauth\n");
}

#[tokio::test]
async fn only_get_updates() {
    let door = Door::open("127.0.0.1:0").await;
    let credentials = BASE64.encode(format!("mynas:{}", door.key.reveal()).as_bytes());
    for method in ["HEAD", "POST", "PUT"] {
        let request = format!(
            "{method} /nic/update?hostname=mynas.nas.test&myip=192.0.2.7 HTTP/1.1\r\nHost: x\r\n\
             Connection: close\r\nAuthorization: Basic {credentials}\r\n\r\n"
        );
        let reply = send(door.addr, &request).await;
        assert_eq!(reply.status, "HTTP/1.1 405 Method Not Allowed", "{method}");
    }
    assert_eq!(door.has("A").await, "192.0.2.250");
}

#[tokio::test]
async fn a_fault_of_ours_is_911_and_not_an_error_of_http() {
    let door = Door::open("127.0.0.1:0").await;
    door.world.stop.cancel();
    // The door is another server's and outlives the writer, which may take a last update while it ends.
    for last in 1..250 {
        let query = format!("hostname=mynas.nas.test&myip=192.0.2.{last}");
        let reply = door.get(&query).await;
        assert_eq!(reply.status, "HTTP/1.1 200 OK");
        if reply.body == "911\n" {
            return;
        }
        assert_eq!(reply.body, format!("good 192.0.2.{last}\n"));
    }
    panic!("the writer does not end");
}
