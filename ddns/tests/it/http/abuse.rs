//! What strangers send to find out what breaks.

use super::{DIGEST, Door, basic, send};

/// Every route that reads a body.
const POSTS: [&str; 4] = ["/register", "/update", "/present", "/cleanup"];

#[tokio::test]
async fn a_long_body_is_not_read() {
    let door = Door::open("127.0.0.1:0").await;
    let body = format!(
        r#"{{"subdomain":"mynas","txt":"{DIGEST}","more":"{}"}}"#,
        "a".repeat(9000)
    );
    for path in POSTS {
        let reply = door.ask("POST", path, &[], &body).await;
        assert_eq!(reply.code(), 413, "{path}");
        assert_eq!(reply.body, r#"{"error":"body_too_long"}"#);
        reply.is_readable();
        reply.is_no_success();
    }
    // One that says so beforehand is not even waited for.
    let announced = "POST /update HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(send(door.addr, announced).await.code(), 413);
}

#[tokio::test]
async fn a_body_in_chunks_is_read_and_its_type_is_not_asked_for() {
    let door = Door::open("127.0.0.1:0").await;
    let body = format!(r#"{{"fqdn":"_acme-challenge.mynas.nas.test","value":"{DIGEST}"}}"#);
    let basic = basic("mynas", door.challenge_key.reveal());
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "\u{fc}"] {
        let request = format!(
            "POST /present HTTP/1.1\r\nHost: x\r\n{basic}\r\nContent-Type: {content_type}\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        let reply = send(door.addr, &request).await;
        assert_eq!(reply.code(), 200, "{content_type}");
        reply.is_readable();
    }
}

#[tokio::test]
async fn a_long_list_costs_one_word() {
    let mut door = Door::open("127.0.0.1:0").await;
    door.add("other");
    let hosts = "mynas.nas.test,".repeat(1000);
    let reply = door.get(&format!("hostname={hosts}&myip=192.0.2.7")).await;
    assert_eq!(reply.body, "numhost\n");
    let addresses = "192.0.2.7,".repeat(1000);
    let reply = door.get(&format!("myip={addresses}192.0.2.8")).await;
    assert_eq!(reply.body, "dnserr\n");
    assert_eq!(door.has("A").await, "192.0.2.250");
}

#[tokio::test]
async fn other_methods_and_paths_get_a_reply_that_can_be_read() {
    let door = Door::open("127.0.0.1:0").await;
    for (method, path, code) in [
        ("GET", "/register", 405),
        ("GET", "/present", 405),
        ("DELETE", "/cleanup", 405),
        ("PUT", "/update", 405),
        ("POST", "/update/mynas/key", 405),
        ("POST", "/health", 405),
        ("GET", "/update/mynas", 200),
    ] {
        let reply = door.ask(method, path, &[], "").await;
        assert_eq!(reply.code(), code, "{method} {path}");
        reply.is_readable();
        reply.is_no_success();
    }
}

#[tokio::test]
async fn the_method_tells_duckdns_from_acme_dns() {
    let door = Door::open("127.0.0.1:0").await;
    let duck = format!(
        "/update?domains=mynas&token={}&ip=192.0.2.7",
        door.key.reveal()
    );
    let reply = door.ask("POST", &duck, &[], "").await;
    assert_eq!(reply.body, r#"{"error":"malformed_json_payload"}"#);
    assert_eq!(door.has("A").await, "192.0.2.250");
    assert_eq!(door.ask("GET", &duck, &[], "").await.body, "OK");
}
