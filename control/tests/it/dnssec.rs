//! The keys of a signed zone: the operator's verbs, and what a validator makes of the zone meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::process::{output_of, run, until};
use crate::reload::{Operator, good};
use crate::world::{Server, causeway};

/// Not below `localhost`, which validators answer themselves.
const ZONE: &str = "causeway.example";

fn signed() -> Operator {
    Operator::start(&(good().replace("nas.localhost", ZONE) + "\n[ddns.dnssec]\n"))
}

/// What a verb answers for programs.
fn json(server: &Server, verb: &[&str]) -> Value {
    let output = server.causeway(&[&["dnssec"], verb, &["--json"]].concat());
    assert!(output.status.success(), "{verb:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// With which sentence a verb is refused.
fn refusal(server: &Server, verb: &[&str]) -> String {
    let output = server.causeway(&[&["dnssec"], verb].concat());
    assert!(!output.status.success(), "{verb:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn dig(server: &Server, kind: &str) -> String {
    let mut dig = Command::new("dig");
    let dns = server.ready.dns;
    dig.args([&format!("@{}", dns.ip()), "-p", &dns.port().to_string()]);
    dig.args([ZONE, kind, "+dnssec", "+noall", "+answer", "+tries=1"]);
    output_of(dig)
}

/// How many records of this type, or signatures of such, there are.
fn count(server: &Server, kind: &str, part: &str) -> usize {
    let answer = dig(server, kind).replace(char::is_whitespace, " ");
    answer.matches(part).count()
}

/// What a validator says that trusts this DS record.
fn delv(server: &Server, ds: &str, question: &str) -> String {
    let fields: Vec<_> = ds.split(' ').skip(3).collect();
    let [tag, algorithm, kind, digest] = fields[..] else {
        panic!("{ds}");
    };
    let anchors = server.folder.path().join("anchors");
    let anchor =
        format!("trust-anchors {{ {ZONE}. static-ds {tag} {algorithm} {kind} \"{digest}\"; }};");
    fs::write(&anchors, anchor).unwrap();
    let mut delv = Command::new("delv");
    let dns = server.ready.dns;
    delv.args([&format!("@{}", dns.ip()), "-p", &dns.port().to_string()]);
    delv.arg("-a").arg(&anchors).arg(format!("+root={ZONE}"));
    delv.args(question.split(' '));
    let Output { stdout, stderr, .. } = run(delv);
    String::from_utf8([stdout, stderr].concat()).unwrap()
}

fn ds(server: &Server) -> String {
    let delegation = json(server, &["ds"]);
    delegation["keys"][0]["ds"].as_str().unwrap().to_owned()
}

#[test]
fn the_zone_is_believed_by_who_trusts_the_ds_that_is_printed() {
    let Operator { mut server, .. } = signed();
    let printed = server.causeway(&["dnssec", "ds"]);
    let records = String::from_utf8(printed.stdout).unwrap();
    let advice = String::from_utf8(printed.stderr).unwrap();
    assert!(records.starts_with("causeway.example. IN DS "), "{records}");
    assert_eq!(records.lines().count(), 1);
    // Answers without signatures may still be known to others.
    assert!(
        advice.contains("Wait until 20") && advice.contains("--ds-published"),
        "{advice}"
    );
    let verdict = delv(&server, records.trim(), &format!("cloud.{ZONE} A"));
    assert!(verdict.contains("; fully validated"), "{verdict}");

    // A tool of others makes the same of the other form.
    let dnskey = server.causeway(&["dnssec", "ds", "--dnskey"]).stdout;
    let file = server.folder.path().join("dnskey");
    fs::write(&file, dnskey).unwrap();
    let mut from_key = Command::new("dnssec-dsfromkey");
    from_key.args(["-2", "-f"]).arg(&file).arg(ZONE);
    assert_eq!(output_of(from_key), records);

    let status = json(&server, &["status"]);
    assert_eq!(status["zone"], ZONE);
    assert_eq!(status["keys"][0]["role"], "KSK");
    assert_eq!(status["keys"][0]["algorithm"], "ECDSAP256SHA256");
    assert_eq!(status["keys"][1]["state"], "signs");
    let table = String::from_utf8(server.causeway(&["dnssec", "status"]).stdout).unwrap();
    assert!(
        table.contains("ECDSAP256SHA256  signs, not for the parent yet  since 20"),
        "{table}"
    );

    let folder = server.ready.state.join("dnssec");
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{entry:?}"
        );
    }
    // The keys are the same after a crash, and the verbs have a server or say that there is none.
    server.process.kill();
    assert!(refusal(&server, &["status"]).contains("no causeway is running"));
}

#[test]
fn both_keys_are_served_while_one_is_rolled() {
    let Operator { server, .. } = signed();
    let old = ds(&server);
    let question = format!("cloud.{ZONE} A");
    let is_believed = |ds: &str| {
        let verdict = delv(&server, ds, &question);
        assert!(verdict.contains("; fully validated"), "{verdict}");
    };
    json(&server, &["roll", "zsk"]);
    until(
        || count(&server, "DNSKEY", "DNSKEY 256 3 13") == 2,
        || dig(&server, "DNSKEY"),
    );
    is_believed(&old);
    let again = refusal(&server, &["roll", "zsk"]);
    assert!(
        again.contains("a roll of the ZSK is under way until 20"),
        "{again}"
    );

    assert!(refusal(&server, &["roll", "zsk", "--ds-published"]).contains("of the KSK only"));
    let status = json(&server, &["roll", "ksk"]);
    until(
        || count(&server, "DNSKEY", "RRSIG DNSKEY 13") == 2,
        || dig(&server, "DNSKEY"),
    );
    let new = status["keys"][1]["tag"].as_u64().unwrap();
    assert_eq!(status["keys"][1]["state"], "signs, not for the parent yet");
    let dnskey = dig(&server, "DNSKEY");
    assert!(dnskey.contains(&format!(" {new} {ZONE}. ")), "{dnskey}");
    is_believed(&old);
    // By the DS of the new one as well, as a tool of others makes it.
    let file = server.folder.path().join("keys");
    fs::write(&file, dnskey).unwrap();
    let mut from_key = Command::new("dnssec-dsfromkey");
    from_key.args(["-2", "-f"]).arg(&file).arg(ZONE);
    let both = output_of(from_key);
    assert_eq!(both.lines().count(), 2, "{both}");
    both.lines().for_each(is_believed);
    // For the parent it is too early, and the old one stays.
    assert!(ds(&server).starts_with(&format!("{ZONE}. IN DS {new} ")));
    let early = refusal(&server, &["roll", "ksk", "--ds-published"]);
    assert!(
        early.contains(&format!("should not have the DS of key {new} before 20")),
        "{early}"
    );
    let again = refusal(&server, &["roll", "ksk"]);
    assert!(
        again.contains("until the parent has the DS of key"),
        "{again}"
    );
}

#[test]
fn a_zone_that_is_not_signed_has_no_keys_to_show() {
    let server = Server::start();
    for verb in [
        &["status"][..],
        &["ds"],
        &["roll", "zsk"],
        &["request", "--roll-zsk"],
    ] {
        let sentence = refusal(&server, verb);
        assert!(
            sentence.contains("write [ddns.dnssec] into the configuration"),
            "{sentence}"
        );
    }
    assert!(!server.ready.state.join("dnssec").exists());
}

#[test]
fn keys_that_others_can_read_keep_the_server_from_starting_and_it_says_which() {
    let Operator { mut server, .. } = signed();
    server.process.kill();
    let folder = server.ready.state.join("dnssec");
    let key = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let key = key
        .filter(|path| path.extension().is_some_and(|end| end == "pem"))
        .min()
        .unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mut up = server.place.command(causeway());
    up.args(["up", "--config"])
        .arg(server.folder.path().join("causeway.toml"));
    up.arg("--state").arg(&server.ready.state);
    let refused = run(up);
    let said = String::from_utf8([refused.stdout, refused.stderr].concat()).unwrap();
    assert!(!refused.status.success());
    assert!(
        said.contains(&format!("chmod 600 {}", key.display())),
        "{said}"
    );
}

/// Another machine, which has no network but a folder.
struct Elsewhere(PathBuf);

impl Elsewhere {
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &[u8]) -> String {
        let file = self.file(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    fn causeway(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("unshare");
        command.args(["--net"]).arg(causeway()).args(arguments);
        run(command)
    }

    fn sign(&self, key: &Path, request: &Value) -> Output {
        let request = self.write("request.json", request.to_string().as_bytes());
        let key = key.display().to_string();
        self.causeway(&["dnssec", "sign", "--ksk", &key, &request])
    }
}

#[test]
fn a_ksk_that_never_comes_to_the_server_signs_its_keys() {
    let Operator { server, .. } = signed();
    let old = ds(&server);
    let there = Elsewhere(server.folder.path().join("elsewhere"));
    fs::create_dir(&there.0).unwrap();
    let key = there.file("ksk.pem");
    let made = there.causeway(&["dnssec", "key", &key.display().to_string()]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let public = there.write("ksk.pub", &made.stdout);

    // Nothing is asked of anybody as long as the server signs for itself.
    assert!(refusal(&server, &["request"]).contains("no KSK of this zone signs elsewhere"));
    let request = json(
        &server,
        &["request", "--roll-ksk", &public, "--begin", "4s"],
    );
    let signed = there.sign(&key, &request);
    assert!(signed.status.success(), "{signed:?}");
    let told = String::from_utf8(signed.stderr).unwrap();
    assert!(
        told.contains("of causeway.example has signed") && told.contains("private half of ZSK "),
        "{told}"
    );
    let mut forged: Value = serde_json::from_slice(&signed.stdout).unwrap();
    let response = there.write("response.json", &signed.stdout);
    forged["periods"][0]["period"]["expiration"] = 4_000_000_000_u32.into();
    let forged = there.write("forged.json", forged.to_string().as_bytes());
    let refused = refusal(&server, &["import", &forged]);
    assert!(refused.contains("has not signed this"), "{refused}");
    let status = json(&server, &["import", &response]);
    let new = status["keys"][1]["tag"].as_u64().unwrap();
    assert_eq!(status["keys"][1]["offline"], true, "{status}");

    // It is in force when its time has come, and whoever trusts either key believes the zone.
    until(
        || count(&server, "DNSKEY", "DNSKEY 257 3 13") == 2,
        || dig(&server, "DNSKEY"),
    );
    until(
        || count(&server, "DNSKEY", "RRSIG DNSKEY 13") == 2,
        || dig(&server, "DNSKEY"),
    );
    let file = server.folder.path().join("keys");
    fs::write(&file, dig(&server, "DNSKEY")).unwrap();
    let mut from_key = Command::new("dnssec-dsfromkey");
    from_key.args(["-2", "-f"]).arg(&file).arg(ZONE);
    let both = output_of(from_key);
    assert!(
        both.contains(&old) && both.contains(&format!(" IN DS {new} ")),
        "{both}"
    );
    for ds in both.lines() {
        for question in [format!("{ZONE} DNSKEY"), format!("cloud.{ZONE} A")] {
            let verdict = delv(&server, ds, &question);
            assert!(verdict.contains("; fully validated"), "{verdict}");
        }
    }
    let folder = server.ready.state.join("dnssec");
    assert!(folder.join(format!("ksk-{new}.pub")).exists());
    assert!(!folder.join(format!("ksk-{new}.pem")).exists());

    // What changes the set of keys has to be signed first, and no other key can.
    let refused = refusal(&server, &["roll", "zsk"]);
    assert!(refused.contains("`causeway dnssec request`"), "{refused}");
    let asked = json(&server, &["request", "--roll-zsk", "--days", "30"]);
    let planned = json(&server, &["status"]);
    assert!(
        planned["next"]
            .as_str()
            .unwrap()
            .contains("waits for signatures of key"),
        "{planned}"
    );
    let other = there.file("other.pem");
    assert!(
        there
            .causeway(&["dnssec", "key", &other.display().to_string()])
            .status
            .success()
    );
    let refused = there.sign(&other, &asked);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("is not asked to sign this"),
        "{said}"
    );
    let signed = there.sign(&key, &asked);
    let response = there.write("response.json", &signed.stdout);
    let status = json(&server, &["import", &response]);
    assert_eq!(status["keys"].as_array().unwrap().len(), 4, "{status}");
    let next = status["next"].as_str().unwrap();
    assert!(next.contains("dnssec request --ds-published"), "{status}");
}
