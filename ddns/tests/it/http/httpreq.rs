//! lego's httpreq.

use serde_json::json;

use super::{DIGEST, Door, Reply, basic, send};

impl Door {
    pub(super) async fn lego(&self, path: &str, body: &str) -> Reply {
        self.lego_as("mynas", self.challenge_key.reveal(), path, body)
            .await
    }

    async fn lego_as(&self, user: &str, key: &str, path: &str, body: &str) -> Reply {
        let headers = [&*basic(user, key), "Content-Type: application/json"];
        self.ask("POST", path, &headers, body).await
    }
}

pub(super) fn record(name: &str, value: &str) -> String {
    json!({"fqdn": name, "value": value}).to_string()
}

#[tokio::test]
async fn a_challenge_is_presented_and_cleaned_up_at_the_device_and_below() {
    let door = Door::open("127.0.0.1:0").await;
    for name in [
        "mynas.nas.test",
        "photos.mynas.nas.test",
        "a.b.mynas.nas.test",
    ] {
        let body = record(&format!("_acme-challenge.{name}."), DIGEST);
        for path in ["/present", "/present"] {
            let reply = door.lego(path, &body).await;
            assert_eq!((reply.code(), reply.body.as_str()), (200, "{}"));
            reply.is_readable();
        }
        assert_eq!(door.challenges(name).await, format!("\"{DIGEST}\""));
    }
    let body = record("_acme-challenge.photos.mynas.nas.test.", DIGEST);
    for path in ["/cleanup", "/cleanup"] {
        assert_eq!(door.lego(path, &body).await.code(), 200);
    }
    assert_eq!(door.challenges("photos.mynas.nas.test").await, "NOERROR");
    assert_eq!(
        door.challenges("mynas.nas.test").await,
        format!("\"{DIGEST}\"")
    );
    let done = |result| {
        let labels = format!(r#"{{door="httpreq",result="{result}"}}"#);
        door.world.metric(&format!("updates_total{labels}"))
    };
    assert_eq!((done("changed"), done("unchanged")), (4.0, 4.0));
}

#[tokio::test]
async fn the_raw_mode_says_what_the_record_is_made_from() {
    let door = Door::open("127.0.0.1:0").await;
    let body = json!({"domain": "*.mynas.nas.test", "token": "t", "keyAuth": "abc"}).to_string();
    assert_eq!(door.lego("/present", &body).await.code(), 200);
    let value = "\"ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0\"";
    assert_eq!(door.challenges("mynas.nas.test").await, value);
    assert_eq!(door.lego("/cleanup", &body).await.code(), 200);
    assert_eq!(door.challenges("mynas.nas.test").await, "NOERROR");
}

#[tokio::test]
async fn the_key_of_addresses_and_other_devices_keys_are_refused() {
    let mut door = Door::open("127.0.0.1:0").await;
    let (_, others_key) = door.add("other");
    let body = record("_acme-challenge.mynas.nas.test.", DIGEST);
    for (user, key) in [
        ("mynas", "wrong"),
        ("mynas", door.key.reveal()),
        ("mynas", others_key.reveal()),
        ("nobody", door.challenge_key.reveal()),
    ] {
        let reply = door.lego_as(user, key, "/present", &body).await;
        assert_eq!(reply.code(), 401);
        assert_eq!(reply.body, r#"{"error":"forbidden"}"#);
        assert!(reply.header("www-authenticate").is_some());
        reply.is_no_success();
    }
    let reply = door
        .lego_as("other", others_key.reveal(), "/present", &body)
        .await;
    assert_eq!(reply.code(), 403);
    assert_eq!(reply.body, r#"{"error":"not_below_this_device"}"#);
    reply.is_no_success();
    assert_eq!(door.challenges("mynas.nas.test").await, "NOERROR");
}

#[tokio::test]
async fn only_challenges_are_set_and_only_in_front_of_names() {
    let door = Door::open("127.0.0.1:0").await;
    for name in [
        "mynas.nas.test",
        "_dmarc.mynas.nas.test",
        "_acme-challenge.nas.test",
        "",
    ] {
        let reply = door.lego("/present", &record(name, DIGEST)).await;
        assert_eq!(reply.code(), 403, "{name}");
        reply.is_no_success();
    }
    for body in [
        "",
        "{}",
        "fqdn=a&value=b",
        r#"{"fqdn":"_acme-challenge.mynas.nas.test","value":""}"#,
    ] {
        let reply = door.lego("/present", body).await;
        assert_eq!(reply.code(), 400, "{body}");
        assert_eq!(reply.body, r#"{"error":"malformed"}"#);
        reply.is_no_success();
    }
}

#[tokio::test]
async fn more_names_than_a_device_may_have_challenges_at_are_refused() {
    let door = Door::open("127.0.0.1:0").await;
    for number in 0..16 {
        let name = format!("_acme-challenge.host{number}.mynas.nas.test.");
        assert_eq!(
            door.lego("/present", &record(&name, DIGEST)).await.code(),
            200
        );
    }
    let one_more = record("_acme-challenge.mynas.nas.test.", DIGEST);
    let reply = door.lego("/present", &one_more).await;
    assert_eq!(reply.code(), 409);
    assert_eq!(reply.body, r#"{"error":"too_many_names"}"#);
    reply.is_no_success();
}

#[tokio::test]
async fn http_1_0_works() {
    let door = Door::open("127.0.0.1:0").await;
    let body = record("_acme-challenge.mynas.nas.test.", DIGEST);
    let request = format!(
        "POST /present HTTP/1.0\r\n{}\r\nContent-Length: {}\r\n\r\n{body}",
        basic("mynas", door.challenge_key.reveal()),
        body.len()
    );
    let reply = send(door.addr, &request).await;
    assert_eq!(reply.status, "HTTP/1.0 200 OK");
    reply.is_readable();
}
