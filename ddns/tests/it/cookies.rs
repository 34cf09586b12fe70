//! Cookies between servers that stand in for each other. What one server makes of them is in `recipes/cookies.txt`.

use crate::dns::{ask_udp, decode, query};
use crate::world::World;

/// A change from one secret to another, of servers that stand in for each other.
#[tokio::test]
async fn a_cookie_is_good_at_every_server_that_knows_its_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, digit: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.path().join(name);
        std::fs::write(&path, digit.repeat(32)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        format!("{path:?}")
    };
    let (old, new) = (file("old", "1"), file("new", "2"));
    let mut worlds = Vec::new();
    for secrets in [old.clone(), format!("{new}, {old}"), new] {
        let config = format!("listen = \"127.0.0.1:0\"\ncookie_secret_files = [{secrets}]");
        worlds.push(World::with_config(&config).await);
    }
    // Whether the server takes it, and the one that it returns.
    let show = async |server: usize, cookie: &str| {
        let reply = ask_udp(worlds[server].v4(), &query(&["nothing", cookie])).await;
        let lines = decode(&reply);
        let cookie = lines[1].split(' ').next_back().unwrap().to_owned();
        (lines[0] == "NOERROR", cookie)
    };
    let (_, of_old) = show(0, "cookie=0102030405060708").await;
    assert_eq!(show(0, &of_old).await, (true, of_old.clone()));
    let (is_good, of_new) = show(1, &of_old).await;
    assert!(is_good && of_new != of_old);
    assert_eq!(show(2, &of_new).await, (true, of_new.clone()));
    assert!(!show(2, &of_old).await.0);
    assert!(!show(0, &of_new).await.0);
}

#[tokio::test]
async fn a_secret_that_everybody_may_read_is_refused_with_a_sentence() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cookie");
    std::fs::write(&path, "1".repeat(32)).unwrap();
    let config = format!("listen = \"127.0.0.1:0\"\ncookie_secret_files = [{path:?}]");
    let registry = prometheus::Registry::new();
    let reader = &world.directory.reader;
    let started = crate::world::start(reader, folder.path(), &config, &registry, &world.stop);
    let error = started.await.unwrap_err().to_string();
    assert!(error.contains("can be read by everybody"), "{error}");
}
