//! dyn2, with what deSEC and FRITZ!Box have added to it.

use std::net::SocketAddr;

use super::{Door, basic, send};
use crate::dns::resolve;

#[tokio::test]
async fn a_router_tells_its_address_and_the_next_query_has_it() {
    let door = Door::open("127.0.0.1:0").await;
    assert_eq!(door.has("A").await, "192.0.2.250");

    let query = "system=dyndns&hostname=mynas.nas.test&myip=192.0.2.7";
    let reply = door.get(query).await;
    assert_eq!(reply.body, "good 192.0.2.7\n");
    assert_eq!(door.has("A").await, "192.0.2.7");

    assert_eq!(door.get(query).await.body, "nochg 192.0.2.7\n");
    assert_eq!(
        door.world
            .metric(r#"updates_total{door="dyn2",result="changed"}"#),
        1.0
    );
    assert_eq!(
        door.world
            .metric(r#"updates_total{door="dyn2",result="unchanged"}"#),
        1.0
    );
}

#[tokio::test]
async fn a_reply_has_the_form_that_clients_can_read() {
    let door = Door::open("127.0.0.1:0").await;
    let reply = door.get("hostname=mynas.nas.test&myip=192.0.2.7").await;
    assert_eq!(reply.status, "HTTP/1.1 200 OK");
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    reply.is_readable();
}

#[tokio::test]
async fn http_1_0_works_without_a_host() {
    let door = Door::open("127.0.0.1:0").await;
    let request = format!(
        "GET /nic/update?hostname=mynas.nas.test&myip=192.0.2.8 HTTP/1.0\r\n{}\r\n\r\n",
        basic("mynas", door.key.reveal())
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
    let request = format!(
        "GET /nic/update?hostname=mynas.nas.test HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n",
        basic("mynas", door.key.reveal())
    );
    assert_eq!(send(v4, &request).await.body, "good 127.0.0.1\n");
    let v6 = format!("[::1]:{}", door.addr.port()).parse().unwrap();
    assert_eq!(send(v6, &request).await.body, "good ::1\n");
}

#[tokio::test]
async fn a_private_address_does_not_get_into_a_public_name() {
    let door = Door::strict().await;
    let mine = "hostname=mynas.nas.test";
    for private in ["&myip=192.168.1.7", "&myip=203.0.113.7,fd00::7", ""] {
        let reply = door.get(&format!("{mine}{private}")).await;
        assert_eq!(reply.body, "dnserr\n", "{private}");
    }
    assert_eq!(door.has("A").await, "192.0.2.250");
    let refused = door
        .world
        .metric(r#"updates_refused_total{door="dyn2",reason="not_public"}"#);
    assert_eq!(refused, 3.0);
}

#[tokio::test]
async fn who_changes_too_often_waits_and_who_changes_nothing_does_not() {
    let door = Door::strict().await;
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
    door.add("other");
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
        let series = format!(r#"updates_refused_total{{door="dyn2",reason="{reason}"}}"#);
        let before = door.world.metric(&series);
        let reply = door.get(query).await;
        assert_eq!(reply.status, "HTTP/1.1 200 OK", "{query}");
        assert_eq!(reply.body, format!("{word}\n"), "{query}");
        reply.is_no_success();
        assert_eq!(door.world.metric(&series), before + 1.0, "{query}");
    }
    assert_eq!(door.has("A").await, "192.0.2.250");
}

#[tokio::test]
async fn without_the_devices_key_nothing_is_done() {
    let mut door = Door::open("127.0.0.1:0").await;
    let (other, _) = door.add("other");
    let query = "hostname=mynas.nas.test&myip=192.0.2.7";
    for (user, key) in [
        ("mynas", "wrong"),
        ("nobody", door.key.reveal()),
        ("mynas", other.reveal()),
        ("mynas", door.challenge_key.reveal()),
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
            .metric(r#"updates_refused_total{door="dyn2",reason="badauth"}"#),
        5.0
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
async fn without_a_host_it_is_the_device_whose_key_it_is() {
    let door = Door::open("127.0.0.1:0").await;
    for (last, hosts) in ["", "&hostname=", "&hostname=YES", "&host_id=mynas.nas.test"]
        .into_iter()
        .enumerate()
    {
        let reply = door.get(&format!("myip=192.0.2.{last}{hosts}")).await;
        assert_eq!(reply.body, format!("good 192.0.2.{last}\n"), "{hosts}");
        assert_eq!(door.has("A").await, format!("192.0.2.{last}"));
    }
}

#[tokio::test]
async fn a_new_prefix_moves_a_home_and_keeps_who_is_who() {
    let mut door = Door::open("127.0.0.1:0").await;
    let (other, _) = door.add("other");
    door.get("myip=192.0.2.7,2001:db8:1::7").await;
    door.get_as("other", other.reveal(), "myipv6=2001:db8:1::9")
        .await;

    let prefix = "hostname=mynas.nas.test,other.nas.test&myipv6=2001:db8:2:3::/64";
    let reply = door.get(prefix).await;
    assert_eq!(reply.body, "good 2001:db8:2:3::7\nnohost\n");
    assert_eq!(door.has("A").await, "192.0.2.7");
    let reply = door.get_as("other", other.reveal(), prefix).await;
    assert_eq!(reply.body, "nohost\ngood 2001:db8:2:3::9\n");
    assert_eq!(
        door.get(prefix).await.body,
        "nochg 2001:db8:2:3::7\nnohost\n"
    );

    // Without an address there is nothing to move; where the name leads all the same is said.
    door.get("offline=YES").await;
    assert_eq!(
        door.get("myipv6=2001:db8:2:3::/64").await.body,
        "nochg 192.0.2.250\n"
    );
}

#[tokio::test]
async fn a_private_network_is_no_place_to_move_to() {
    let door = Door::strict().await;
    assert_eq!(door.get("myip=203.0.113.7,2001:db8:1::7").await.code(), 200);
    let reply = door.get("myip=203.0.113.8&myipv6=fd00:1::/48").await;
    assert_eq!(reply.body, "dnserr\n");
    assert_eq!(door.has("A").await, "203.0.113.7");
    assert_eq!(door.has("AAAA").await, "2001:db8:1::7");
}

#[tokio::test]
async fn a_family_goes_by_an_empty_value_and_stays_by_preserve() {
    let door = Door::open("127.0.0.1:0").await;
    door.get("myip=192.0.2.7,2001:db8::7").await;
    let reply = door.get("myipv4=192.0.2.8&myipv6=preserve").await;
    assert_eq!(reply.body, "good 192.0.2.8\n");
    assert_eq!(door.has("AAAA").await, "2001:db8::7");
    let reply = door.get("myipv4=preserve&myipv6=preserve").await;
    assert_eq!(reply.body, "nochg 192.0.2.8,2001:db8::7\n");
    let reply = door.get("myip=192.0.2.9&myipv6=").await;
    assert_eq!(reply.body, "good 192.0.2.9\n");
    assert_eq!(door.has("AAAA").await, "NOERROR");
}

#[tokio::test]
async fn the_key_may_stand_in_the_url_of_a_router() {
    let door = Door::open("127.0.0.1:0").await;
    let target = format!(
        "/nic/update?username=mynas&password={}&hostname=mynas.nas.test&myip=192.0.2.7&myipv6=",
        door.key.reveal()
    );
    let reply = door.ask("GET", &target, &[], "").await;
    assert_eq!(reply.body, "good 192.0.2.7\n");
    let wrong = target.replace(door.key.reveal(), door.challenge_key.reveal());
    let reply = door.ask("GET", &wrong, &[], "").await;
    assert_eq!((reply.code(), reply.body.as_str()), (401, "badauth\n"));
}

#[tokio::test]
async fn only_get_updates() {
    let door = Door::open("127.0.0.1:0").await;
    let basic = basic("mynas", door.key.reveal());
    let target = "/nic/update?hostname=mynas.nas.test&myip=192.0.2.7";
    for method in ["HEAD", "POST", "PUT"] {
        let reply = door.ask(method, target, &[&basic], "").await;
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
