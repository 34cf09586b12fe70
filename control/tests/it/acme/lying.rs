//! Two authorities, of which the first is away, fails or lies: the other gives the certificate, and it is said why the first did not.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::authority::{Authority, Lie, Manner};
use super::{ISSUED, certificate_status, is_welcome, status, visit};
use crate::process::{run, until};
use crate::reload::good;
use crate::world::{Place, Server};

/// A server whose operator has two authorities asked, the first of them first.
pub(super) struct Choice {
    pub(super) server: Server,
    pub(super) first: Authority,
    pub(super) second: Authority,
    _folder: TempDir,
}

impl Choice {
    /// Each with lines of its own in the server's file.
    pub(super) fn start(first: (Manner, &str), second: (Manner, &str)) -> Self {
        Self::start_with("", first, second)
    }

    /// With lines for both.
    fn start_with(
        both: &str,
        (first, its): (Manner, &str),
        (second, seconds): (Manner, &str),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::start("127.0.0.1", first);
        let second = Authority::start("127.0.0.2", second);
        let config = folder.path().join("causeway.toml");
        let sections = first.section(its) + &second.section(seconds);
        fs::write(&config, format!("{}\n[acme]\n{both}\n{sections}", good())).unwrap();
        let config = config.display().to_string();
        let server = Server::start_with(Place::Host, &["--config", &config]);
        for authority in [&first, &second] {
            authority.asks(server.ready.dns);
        }
        Self {
            server,
            first,
            second,
            _folder: folder,
        }
    }
}

fn lying(place: &'static str, lie: Lie) -> Manner {
    Manner {
        lie: Some((place, lie)),
        ..Manner::default()
    }
}

/// What each lie comes to, in words; and what the agent does with it stays small.
#[test]
fn an_authority_that_fails_or_lies_is_passed_over_and_it_is_said_why() {
    let Choice {
        server,
        first,
        second,
        _folder,
    } = Choice::start((Manner::default(), ""), (Manner::default(), ""));
    let too_long = "what it answers is too long";
    let no_sense = "what it answers makes no sense";
    let lies = [
        (
            "/dir",
            Lie::Status(500),
            "it answers with the HTTP status 500",
        ),
        ("/dir", Lie::Maintenance, "it refuses: down for maintenance"),
        (
            "/order",
            Lie::Status(503),
            "it answers with the HTTP status 503",
        ),
        ("/authorization", Lie::Garbage, no_sense),
        ("/dir", Lie::Garbage, no_sense),
        (
            "/certificate",
            Lie::Garbage,
            "what it gave is no certificate",
        ),
        ("", Lie::NoHttp, no_sense),
        (
            "/dir",
            Lie::Plain,
            "it leads to an address that is not one of HTTPS",
        ),
        ("/dir", Lie::Silent, "it does not answer in time"),
        ("/dir", Lie::Huge, too_long),
        ("/certificate", Lie::Huge, too_long),
        ("/dir", Lie::Endless, too_long),
        ("/finalize", Lie::Endless, too_long),
        ("", Lie::EndlessHead, too_long),
        (
            "/finalize",
            Lie::OtherName,
            "its certificate lacks a name of this device",
        ),
        (
            "/finalize",
            Lie::OtherKey,
            "its certificate is for another key than this device's",
        ),
        (
            "/finalize",
            Lie::Ended,
            "its certificate has ended already, 20",
        ),
        (
            "/finalize",
            Lie::Later,
            "its certificate begins only later, 20",
        ),
        (
            "/finalize",
            Lie::BrokenChain,
            "its certificate is signed by none of those that it sends along",
        ),
    ];
    let is_passed_over = |name: &str, words: &str| {
        let begun = Instant::now();
        let device = server.pair(name);
        let agent = device.run("http://127.0.0.1:1");
        agent.until_said(ISSUED);
        let visit = visit(&server, &second.root(), name);
        assert!(is_welcome(&visit), "{words}: {visit:?}");
        let told = certificate_status(&device);
        assert_eq!(told["authority"], "127.0.0.2", "{told}");
        let passed_over = &told["passed_over"];
        assert_eq!(passed_over["authority"], "127.0.0.1", "{words}: {told}");
        let problem = passed_over["problem"].as_str().unwrap();
        assert!(problem.starts_with(words), "{words}: {told}");
        let is_one_line = problem.len() < 400 && !problem.contains(char::is_control);
        assert!(is_one_line, "{told}");
        let mend = passed_over["mend"].as_str().unwrap();
        assert!(
            !mend.is_empty() && !mend.contains("device's clock"),
            "{told}"
        );
        assert!(told["problem"].is_null(), "{told}");
        let said = status(&device);
        assert!(
            said.contains(&format!("passed over 127.0.0.1: {words}")),
            "{said}"
        );
        assert!(
            said.contains(&format!("to mend     certificate: {mend}")),
            "{said}"
        );
        let (_, peak) = agent.memory();
        assert!(peak < 128 << 20, "{words}: {peak} octets");
        println!("{words}: {:?}, {} MiB", begun.elapsed(), peak >> 20);
        (device, agent, passed_over.clone())
    };
    for (i, (place, lie, words)) in lies.into_iter().enumerate() {
        first.is_to(lying(place, lie));
        is_passed_over(&format!("lie{i}"), words);
    }
    // It looks for the proof where it is not.
    first.is_to(Manner::default());
    first.asks("127.0.0.1:1".parse().unwrap());
    let words = "it has rejected the order: the TXT record has another value";
    is_passed_over("elsewhere", words);
    drop(first);
    let (device, agent, passed_over) = is_passed_over("away", "it cannot be reached: ");
    drop(agent);
    let agent = device.run("http://127.0.0.1:1");
    until(
        || certificate_status(&device)["passed_over"] == passed_over,
        || format!("the next agent knows it too: {}", agent.said()),
    );
    let made = second.look(|books| (books.accounts.len(), books.orders.len()));
    assert_eq!(
        made,
        (lies.len() + 2, lies.len() + 2),
        "once for each device"
    );
    assert_eq!(second.look(|books| books.refusals.clone()), [""; 0]);
}

#[test]
fn what_has_served_goes_on_while_none_gives_a_good_one() {
    let short = Manner {
        validity: Some(Duration::from_secs(40)),
        ..Manner::default()
    };
    let world = Choice::start((short.clone(), ""), (short.clone(), ""));
    let device = world.server.pair("mynas");
    let agent = device.run("http://127.0.0.1:1");
    agent.until_said(ISSUED);
    let root = world.first.root();
    let lie = |lie| Manner {
        lie: Some(("/finalize", lie)),
        ..short.clone()
    };
    world.first.is_to(lie(Lie::OtherKey));
    world.second.is_to(lie(Lie::BrokenChain));
    agent.until_said("there is no new certificate");
    let told = certificate_status(&device);
    assert_eq!(told["authority"], "127.0.0.1", "{told}");
    let problem = "its certificate is for another key than this device's";
    assert_eq!(told["problem"], problem, "what the first says is told");
    let visit_of = |root| visit(&world.server, root, "mynas");
    assert!(is_welcome(&visit_of(&root)), "it serves on");
    world.second.is_to(short);
    let second = world.second.root();
    let begun = Instant::now();
    loop {
        let (old, new) = (visit_of(&root), visit_of(&second));
        if is_welcome(&new) {
            break;
        }
        // What came between the two visits is welcome to the second.
        assert!(
            is_welcome(&old) || is_welcome(&visit_of(&second)),
            "{old:?}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "{}",
            agent.said()
        );
    }
    let told = certificate_status(&device);
    assert_eq!(told["authority"], "127.0.0.2", "{told}");
    assert_eq!(told["passed_over"]["problem"], problem, "{told}");
    // Once the first is good again it is as if nothing had been.
    world.first.is_to(Manner::default());
    let first = world.first.root();
    until(|| is_welcome(&visit_of(&first)), || agent.said());
    let told = certificate_status(&device);
    assert!(
        told["passed_over"].is_null() && told["problem"].is_null(),
        "{told}"
    );
}

#[test]
fn the_operators_hosts_have_theirs_of_the_second_too() {
    let lie = lying("/finalize", Lie::BrokenChain);
    let world = Choice::start_with("operator = true", (lie, ""), (Manner::default(), ""));
    let Choice { server, .. } = &world;
    let is_trusted = || {
        let mut curl = server.place.command("curl");
        curl.args(["--silent", "--max-time", "10", "--output", "/dev/null"]);
        curl.arg("--cacert").arg(world.second.root());
        curl.arg(server.url("cloud", "/offline"));
        run(curl).status.success()
    };
    until(is_trusted, || server.process.said());
    let said = server.process.said();
    let words = "its certificate is signed by none of those that it sends along";
    assert!(said.contains(words), "{said}");
    assert_eq!(world.second.look(|books| books.orders.len()), 1);
}
