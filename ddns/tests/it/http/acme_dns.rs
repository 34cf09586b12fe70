//! acme-dns's dialect.

use serde_json::{Value, json};

use super::{DIGEST, Door, Reply, basic, send};

const JSON: &str = "Content-Type: application/json";

impl Door {
    async fn register(&self, key: &str, body: &str) -> Reply {
        let headers = [&*basic("mynas", key), JSON];
        self.ask("POST", "/register", &headers, body).await
    }

    pub(super) async fn acme(&self, user: &str, key: &str, body: &str) -> Reply {
        let headers = [
            &*format!("X-Api-User: {user}"),
            &format!("X-Api-Key: {key}"),
            JSON,
        ];
        self.ask("POST", "/update", &headers, body).await
    }

    /// The user of `mynas`.
    pub(super) async fn user(&self) -> String {
        let reply = self.register(self.challenge_key.reveal(), "").await;
        let account: Value = serde_json::from_str(&reply.body).unwrap();
        account["username"].as_str().unwrap().to_owned()
    }
}

pub(super) fn text(txt: &str) -> String {
    json!({"subdomain": "mynas", "txt": txt}).to_string()
}

#[tokio::test]
async fn an_account_is_the_devices_own_challenge_and_nothing_to_keep() {
    let door = Door::open("127.0.0.1:0").await;
    let key = door.challenge_key.reveal();
    let reply = door.register(key, "").await;
    assert_eq!(reply.code(), 201);
    reply.is_readable();
    let account: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(account["fulldomain"], "_acme-challenge.mynas.nas.test");
    assert_eq!(
        (&account["subdomain"], &account["password"]),
        (&json!("mynas"), &json!(key))
    );
    assert_eq!(account["allowfrom"], json!([]));
    let again = door.register(key, r#"{"allowfrom":[]}"#).await;
    assert_eq!(again.body, reply.body);

    let user = account["username"].as_str().unwrap();
    let reply = door.acme(user, key, &text(DIGEST)).await;
    assert_eq!(reply.code(), 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.body, format!(r#"{{"txt":"{DIGEST}"}}"#));
    reply.is_readable();
    assert!(door.challenges("mynas.nas.test").await.contains(DIGEST));
    assert_eq!(door.has("A").await, "192.0.2.250", "not touched");
}

#[tokio::test]
async fn a_name_and_its_wildcard_have_a_value_each() {
    let door = Door::open("127.0.0.1:0").await;
    let (user, key) = (door.user().await, door.challenge_key.reveal());
    let second = DIGEST.replace('L', "M");
    for value in [DIGEST, &second] {
        assert_eq!(door.acme(&user, key, &text(value)).await.code(), 200);
    }
    let texts = door.challenges("mynas.nas.test").await;
    assert!(texts.contains(DIGEST) && texts.contains(&second), "{texts}");
}

#[tokio::test]
async fn nobody_registers_without_the_key_of_challenges() {
    let door = Door::open("127.0.0.1:0").await;
    for key in ["wrong", "", door.key.reveal()] {
        let reply = door.register(key, "").await;
        assert_eq!(reply.code(), 401);
        assert_eq!(reply.body, r#"{"error":"forbidden"}"#);
        assert!(reply.header("www-authenticate").is_some());
        reply.is_no_success();
    }
    let reply = door.ask("POST", "/register", &[], "").await;
    assert_eq!(reply.code(), 401);
}

#[tokio::test]
async fn a_restriction_that_is_not_kept_is_not_promised() {
    let door = Door::open("127.0.0.1:0").await;
    let key = door.challenge_key.reveal();
    let reply = door
        .register(key, r#"{"allowfrom":["192.0.2.0/24"]}"#)
        .await;
    assert_eq!(reply.code(), 400);
    assert_eq!(reply.body, r#"{"error":"allowfrom_is_not_offered"}"#);
    reply.is_no_success();
}

#[tokio::test]
async fn what_is_wrong_with_an_update_is_said_in_acme_dnss_words() {
    let mut door = Door::open("127.0.0.1:0").await;
    let (_, others_key) = door.add("other");
    let (user, key) = (door.user().await, door.challenge_key.reveal());
    let address_key = door.key.reveal();
    let other = json!({"subdomain": "other", "txt": DIGEST}).to_string();
    for (user, key, body, code, error) in [
        (&*user, "wrong", text(DIGEST), 401, "forbidden"),
        (&user, address_key, text(DIGEST), 401, "forbidden"),
        (&user, others_key.reveal(), text(DIGEST), 401, "forbidden"),
        ("mynas", key, text(DIGEST), 401, "forbidden"),
        ("", key, text(DIGEST), 401, "forbidden"),
        (&user, key, other.clone(), 401, "forbidden"),
        (&user, others_key.reveal(), other, 401, "forbidden"),
        (&user, key, text(&DIGEST[1..]), 400, "bad_txt"),
        (&user, key, text(&DIGEST.replace('-', "+")), 400, "bad_txt"),
        (
            &user,
            key,
            "txt=1".to_owned(),
            400,
            "malformed_json_payload",
        ),
        (&user, key, String::new(), 400, "malformed_json_payload"),
    ] {
        let reply = door.acme(user, key, &body).await;
        assert_eq!(reply.code(), code, "{body}");
        assert_eq!(reply.body, format!(r#"{{"error":"{error}"}}"#), "{body}");
        reply.is_readable();
        reply.is_no_success();
    }
    assert_eq!(door.challenges("mynas.nas.test").await, "NOERROR");
    assert_eq!(door.challenges("other.nas.test").await, "NOERROR");
    let series = r#"updates_refused_total{door="acme_dns",reason="forbidden"}"#;
    assert_eq!(door.world.metric(series), 7.0);
}

#[tokio::test]
async fn an_account_ends_with_its_registration() {
    let mut door = Door::open("127.0.0.1:0").await;
    let before = door.user().await;
    door.world.directory.remove("mynas");
    let (_, key) = door.add("mynas");
    let reply = door.acme(&before, key.reveal(), &text(DIGEST)).await;
    assert_eq!(reply.code(), 401, "of another registration");
}

#[tokio::test]
async fn too_many_changes_pass() {
    let door = Door::strict().await;
    let (user, key) = (door.user().await, door.challenge_key.reveal());
    for number in 0..1000 {
        let digest = format!("{number:043}");
        let reply = door.acme(&user, key, &text(&digest)).await;
        if reply.code() == 503 {
            assert!(number >= 10, "after {number}");
            assert_eq!(reply.body, r#"{"error":"too_many_changes"}"#);
            assert_eq!(reply.header("retry-after"), Some("60"));
            reply.is_no_success();
            let last = format!("{:043}", number - 1);
            assert_eq!(door.acme(&user, key, &text(&last)).await.code(), 200);
            return;
        }
        assert_eq!(reply.code(), 200);
    }
    panic!("nobody is held up");
}

#[tokio::test]
async fn it_says_whether_it_is_well_and_speaks_http_1_0() {
    let door = Door::open("127.0.0.1:0").await;
    let reply = door.ask("GET", "/health", &[], "").await;
    assert_eq!(reply.code(), 200);
    reply.is_readable();
    let (user, key) = (door.user().await, door.challenge_key.reveal());
    let body = text(DIGEST);
    let request = format!(
        "POST /update HTTP/1.0\r\nX-Api-User: {user}\r\nX-Api-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let reply = send(door.addr, &request).await;
    assert_eq!(reply.status, "HTTP/1.0 200 OK");
    reply.is_readable();
}
