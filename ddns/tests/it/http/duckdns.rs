//! DuckDNS's dialect.

use super::{DIGEST, Door, Reply, send};

impl Door {
    /// Asks with the key of addresses.
    pub(super) async fn duck(&self, query: &str) -> Reply {
        self.duck_with(self.key.reveal(), query).await
    }

    async fn duck_with(&self, token: &str, query: &str) -> Reply {
        let target = format!("/update?token={token}&{query}");
        self.ask("GET", &target, &[], "").await
    }
}

#[tokio::test]
async fn ok_means_that_the_next_query_has_it() {
    let door = Door::open("127.0.0.1:0").await;
    for domains in ["mynas", "MyNas.nas.test", "mynas,mynas.nas.test"] {
        for last in 1..4 {
            let reply = door
                .duck(&format!("domains={domains}&ip=192.0.2.{last}"))
                .await;
            assert_eq!((reply.code(), reply.body.as_str()), (200, "OK"));
            reply.is_readable();
            assert_eq!(door.has("A").await, format!("192.0.2.{last}"));
        }
    }
    let series = r#"updates_total{door="duckdns",result="changed"}"#;
    assert_eq!(door.world.metric(series), 9.0);
}

#[tokio::test]
async fn families_are_left_alone_and_cleared_together() {
    let door = Door::open("127.0.0.1:0").await;
    let verbose = "domains=mynas&verbose=true";
    for (query, body) in [
        (
            "&ip=192.0.2.7&ipv6=2001:db8::7",
            "OK\n192.0.2.7\n2001:db8::7\nUPDATED",
        ),
        ("&ip=192.0.2.8", "OK\n192.0.2.8\n2001:db8::7\nUPDATED"),
        ("&ip=2001:db8::8", "OK\n192.0.2.8\n2001:db8::8\nUPDATED"),
        (
            "&ip=&ipv6=2001:db8::8",
            "OK\n192.0.2.8\n2001:db8::8\nNOCHANGE",
        ),
        ("&ip=", "OK\n127.0.0.1\n2001:db8::8\nUPDATED"),
        ("", "OK\n127.0.0.1\n2001:db8::8\nNOCHANGE"),
        ("&clear=true", "OK\n\n\nUPDATED"),
    ] {
        let reply = door.duck(&format!("{verbose}{query}")).await;
        assert_eq!(reply.body, body, "{query}");
    }
    assert_eq!(door.has("A").await, "192.0.2.250");
}

#[tokio::test]
async fn a_path_says_it_too() {
    let door = Door::open("127.0.0.1:0").await;
    let key = door.key.reveal();
    for (target, body, address) in [
        (format!("/update/mynas/{key}/192.0.2.7"), "OK", "192.0.2.7"),
        (format!("/update/mynas/{key}"), "OK", "127.0.0.1"),
        (
            format!("/update/mynas/{key}/192.0.2.300"),
            "KO",
            "127.0.0.1",
        ),
        (
            "/update/mynas/wrong/192.0.2.7".to_owned(),
            "KO",
            "127.0.0.1",
        ),
    ] {
        let reply = door.ask("GET", &target, &[], "").await;
        assert_eq!(reply.body, body, "{target}");
        assert_eq!(door.has("A").await, address);
    }
}

#[tokio::test]
async fn a_text_is_a_challenge_and_needs_the_key_of_challenges() {
    let door = Door::open("127.0.0.1:0").await;
    let key = door.challenge_key.reveal();
    for (query, body) in [
        (format!("domains=mynas&txt={DIGEST}"), "OK".to_owned()),
        (
            format!("domains=mynas&txt={DIGEST}&verbose=true"),
            format!("OK\n{DIGEST}\nNOCHANGE"),
        ),
        (
            "domains=mynas&txt=another&verbose=true".to_owned(),
            "OK\nanother\nUPDATED".to_owned(),
        ),
    ] {
        let reply = door.duck_with(key, &query).await;
        assert_eq!(reply.body, body, "{query}");
    }
    let texts = door.challenges("mynas.nas.test").await;
    assert!(
        texts.contains(DIGEST) && texts.contains("another"),
        "{texts}"
    );
    let reply = door
        .duck_with(key, "domains=mynas&txt=&clear=true&verbose=true")
        .await;
    assert_eq!(reply.body, "OK\n\nUPDATED");
    assert_eq!(door.challenges("mynas.nas.test").await, "NOERROR");
    assert_eq!(door.has("A").await, "192.0.2.250");
}

#[tokio::test]
async fn what_the_key_may_not_do_is_ko() {
    let mut door = Door::open("127.0.0.1:0").await;
    door.add("other");
    let (key, challenge_key) = (door.key.reveal(), door.challenge_key.reveal());
    let many = "mynas,".repeat(21);
    for (token, query) in [
        ("", "domains=mynas&ip=192.0.2.7"),
        ("wrong", "domains=mynas&ip=192.0.2.7"),
        (challenge_key, "domains=mynas&ip=192.0.2.7"),
        (challenge_key, "domains=mynas&clear=true"),
        (key, "domains=mynas&txt=a"),
        (key, "domains=mynas&txt=&clear=true"),
        (key, "domains=other&ip=192.0.2.7"),
        (key, "domains=mynas,other&ip=192.0.2.7"),
        (key, "domains=nobody&ip=192.0.2.7"),
        (key, "domains=photos.mynas.nas.test&ip=192.0.2.7"),
        (key, "domains=&ip=192.0.2.7"),
        (key, "ip=192.0.2.7"),
        (key, &format!("domains={many}&ip=192.0.2.7")),
        (key, "domains=mynas&ip=home"),
        (key, "domains=mynas&ip=192.0.2.7&ipv6=192.0.2.7"),
        (key, "domains=mynas&ip=192.0.2.7&txt=a"),
        (challenge_key, "domains=mynas&ip=192.0.2.7&txt=a"),
    ] {
        let reply = door.duck_with(token, query).await;
        assert_eq!((reply.code(), reply.body.as_str()), (200, "KO"), "{query}");
        reply.is_readable();
        reply.is_no_success();
    }
    assert_eq!(door.has("A").await, "192.0.2.250");
    assert_eq!(door.challenges("mynas.nas.test").await, "NOERROR");
    let refused = |reason| {
        let labels = format!(r#"{{door="duckdns",reason="{reason}"}}"#);
        door.world.metric(&format!("updates_refused_total{labels}"))
    };
    assert_eq!((refused("badauth"), refused("bad_address")), (14.0, 3.0));
}

#[tokio::test]
async fn who_changes_too_often_may_come_back_and_who_changes_nothing_is_never_held_up() {
    let door = Door::strict().await;
    for last in 1..=10 {
        let reply = door
            .duck(&format!("domains=mynas&ip=203.0.113.{last}"))
            .await;
        assert_eq!(reply.body, "OK");
    }
    let reply = door.duck("domains=mynas&ip=203.0.113.11").await;
    // At this status inadyn tries again; at another it would give up.
    assert_eq!((reply.code(), reply.body.as_str()), (503, "KO"));
    assert_eq!(reply.header("retry-after"), Some("60"));
    for _ in 0..30 {
        let reply = door.duck("domains=mynas&ip=203.0.113.10").await;
        assert_eq!(reply.body, "OK");
    }
    let reply = door.duck("domains=mynas&ip=192.168.1.7").await;
    assert_eq!((reply.code(), reply.body.as_str()), (200, "KO"));
}

#[tokio::test]
async fn http_1_0_works_without_a_host_and_only_get_updates() {
    let door = Door::open("127.0.0.1:0").await;
    let target = format!(
        "/update?domains=mynas&token={}&ip=192.0.2.7",
        door.key.reveal()
    );
    let reply = door.ask("HEAD", &target, &[], "").await;
    assert_eq!(reply.code(), 405);
    assert_eq!(door.has("A").await, "192.0.2.250");
    let reply = send(door.addr, &format!("GET {target} HTTP/1.0\r\n\r\n")).await;
    assert_eq!(reply.status, "HTTP/1.0 200 OK");
    assert_eq!(reply.body, "OK");
    reply.is_readable();
}
