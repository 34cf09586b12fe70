//! Updates by HTTP at a server that has given them up to its successor: later, in the words of each dialect.

use super::acme_dns::text;
use super::httpreq::record;
use super::{DIGEST, Door};

#[tokio::test]
async fn every_dialect_says_later_and_health_is_good() {
    let door = Door::open("127.0.0.1:0").await;
    let same = "hostname=mynas.nas.test&myip=192.0.2.7";
    assert_eq!(door.get(same).await.body, "good 192.0.2.7\n");
    let user = door.user().await;
    let hand_over = door.world.server.hand_over();
    hand_over.give_up_updates().await.unwrap();

    let other = "hostname=mynas.nas.test&myip=192.0.2.8";
    // Nobody here knows any more that the name has this address already.
    for query in [other, same] {
        let reply = door.get(query).await;
        assert_eq!(reply.body, "911\n");
        reply.is_no_success();
    }
    let reply = door.duck("domains=mynas&ip=192.0.2.8").await;
    assert_eq!((reply.code(), reply.body.as_str()), (503, "KO"));
    let key = door.challenge_key.reveal();
    let acme = door.acme(&user, key, &text(DIGEST)).await;
    let body = record("_acme-challenge.mynas.nas.test.", DIGEST);
    let lego = door.lego("/present", &body).await;
    for reply in [acme, lego] {
        assert_eq!(reply.code(), 503);
        assert_eq!(reply.body, r#"{"error":"try_later"}"#);
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(door.ask("GET", "/health", &[], "").await.code(), 200);
    assert!(door.world.server.updater().is_ready());

    assert_eq!(door.has("A").await, "192.0.2.7", "what was acknowledged");
    for (name, count) in [
        ("dyn2", 2.0),
        ("duckdns", 1.0),
        ("acme_dns", 1.0),
        ("httpreq", 1.0),
    ] {
        let series = format!(r#"updates_refused_total{{door="{name}",reason="stopped"}}"#);
        assert_eq!(door.world.metric(&series), count, "{name}");
    }
}
