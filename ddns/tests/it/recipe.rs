//! Runs the conversations in `recipes/*.txt` over real sockets. `recipes/README.md` says how they are written.

use std::net::SocketAddr;
use std::path::Path;

use ddns::addresses::ChangeSet;
use directory::DeviceName;

use crate::dns::{ask_tcp, ask_udp, decode, query, receive, udp_socket, unhex};
use crate::signing::{SignedMessage, Signer, update};
use crate::world::World;

/// The operator's own records in the zone of every recipe.
fn config() -> String {
    let long = "x".repeat(600);
    let longer = "x".repeat(1300);
    format!(
        r#"
        listen = "[::]:0"
        threads = 1 # what is asked first is answered first
        nsid = "ns1-of-recipes"
        record = [
            {{ name = "@", type = "TXT", value = "v=spf1 -all", ttl_seconds = 300 }},
            {{ name = "www", type = "A", value = "192.0.2.81" }},
            {{ name = "www", type = "A", value = "192.0.2.80" }},
            {{ name = "a._deep.www", type = "TXT", value = "below an empty name" }},
            {{ name = "_600", type = "TXT", value = "{long}" }},
            {{ name = "_1300", type = "TXT", value = "{longer}" }},
        ]"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recipe_comes_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/recipes");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut mistakes = Vec::new();
    for file in files {
        mistakes.extend(cook(&file).await);
    }
    assert!(mistakes.is_empty(), "\n{}", mistakes.join("\n"));
}

/// Runs one recipe on a server of its own and returns where reality differs.
async fn cook(file: &Path) -> Vec<String> {
    let more = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("why") => "\nwhy = true",
        _ => "",
    };
    let mut world = World::with_config(&(config() + more)).await;
    let mut mistakes = Vec::new();
    let mut last_cookie = String::new();
    let mut last_update = None;
    for step in read(file) {
        for (heard, asked) in step
            .run(&mut world, &mut last_cookie, &mut last_update)
            .await
        {
            if !matches(&step.expected, &heard) {
                let heard = heard.join("\n    ");
                let expected = step.expected.join("\n    ");
                mistakes.push(format!(
                    "{}: {}\n  {asked} answers\n    {heard}\n  instead of\n    {expected}\n",
                    step.place, step.line
                ));
            }
        }
    }
    mistakes
}

struct Step {
    /// File and line.
    place: String,
    line: String,
    expected: Vec<String>,
}

fn read(file: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(file).unwrap();
    let name = file.file_name().unwrap().to_string_lossy();
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(' ') {
            steps.last_mut().unwrap().expected.push(line.trim().into());
        } else {
            steps.push(Step {
                place: format!("{name}:{}", number + 1),
                line: line.into(),
                expected: Vec::new(),
            });
        }
    }
    steps
}

impl Step {
    /// What was heard, by each transport that was asked.
    async fn run(
        &self,
        world: &mut World,
        last_cookie: &mut String,
        last: &mut Option<(Signer, SignedMessage)>,
    ) -> Vec<(Vec<String>, &'static str)> {
        let line = self
            .line
            .replace("cookie=last", &format!("cookie={last_cookie}"));
        if let Some(rest) = line.strip_prefix("update") {
            return self.update(rest, world, last).await;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["device", name] => _ = world.directory.add(name),
            ["remove", name] => world.directory.remove(name),
            ["set", name, ref addresses @ ..] => _ = world.set(name, addresses).await.unwrap(),
            ["lan", name, ref addresses @ ..] => {
                world.set_lan(name, addresses).await.unwrap();
            }
            ["issuers", name, ref accounts @ ..] => {
                let accounts: Vec<_> = accounts.chunks(2).map(|pair| (pair[0], pair[1])).collect();
                world.set_issuers(name, &accounts).await.unwrap();
            }
            ["offline", name] => offline(world, name).await,
            ["ask", ref rest @ ..] => {
                let (transports, rest) = transports(rest);
                let mut rest = rest.to_vec();
                if let Some(signer) = Signer::take(&mut rest, &world.directory) {
                    let message = signer.sign(&query(&rest));
                    return talk_signed(world.v4(), transports, &signer, &message).await;
                }
                let heard = talk(world.v4(), transports, &query(&rest)).await;
                if let Some(cookie) = cookie(&heard) {
                    *last_cookie = cookie;
                }
                return heard;
            }
            ["again", transport] => {
                let (signer, message) = last.as_ref().unwrap();
                return talk_signed(world.v4(), &[transport], signer, message).await;
            }
            ["key", name] => _ = world.directory.new_keys(name),
            ["send", ref rest @ ..] => {
                let (transports, rest) = transports(rest);
                return talk(world.v4(), transports, &unhex(&rest.concat())).await;
            }
            _ => panic!("{}: no such step: {}", self.place, self.line),
        }
        Vec::new()
    }

    /// An update changes something, so it is sent once: over UDP, if it is not said otherwise.
    async fn update(
        &self,
        rest: &str,
        world: &World,
        last: &mut Option<(Signer, SignedMessage)>,
    ) -> Vec<(Vec<String>, &'static str)> {
        let (options, statements) = rest.split_once(": ").unwrap_or((rest, ""));
        let mut words: Vec<_> = options.split_whitespace().collect();
        let signer = Signer::take(&mut words, &world.directory);
        let transport = match words.first() {
            Some(&"tcp") => "tcp",
            _ => "udp",
        };
        words.retain(|word| !["udp", "tcp"].contains(word));
        let zone = match words[..] {
            [] => "nas.test",
            [word] => word.strip_prefix("zone=").unwrap(),
            _ => panic!("{}: no such options: {options}", self.place),
        };
        let message = update(zone, statements);
        let Some(signer) = signer else {
            return talk(world.v4(), &[transport], &message).await;
        };
        let message = signer.sign(&message);
        let heard = talk_signed(world.v4(), &[transport], &signer, &message).await;
        *last = Some((signer, message));
        heard
    }
}

async fn offline(world: &World, name: &str) {
    let name = DeviceName::parse(name).unwrap();
    let device = world.directory.reader.device_by_name(&name).unwrap();
    let updater = world.server.updater();
    updater
        .update(device.registration, &name, ChangeSet::forget_all())
        .await
        .unwrap();
}

fn transports<'w>(words: &'w [&'w str]) -> (&'static [&'static str], &'w [&'w str]) {
    match words {
        ["udp", rest @ ..] => (&["udp"], rest),
        ["tcp", rest @ ..] => (&["tcp"], rest),
        rest => (&["udp", "tcp"], rest),
    }
}

async fn talk(
    server: SocketAddr,
    transports: &[&'static str],
    message: &[u8],
) -> Vec<(Vec<String>, &'static str)> {
    let mut heard = Vec::new();
    for &transport in transports {
        let reply = match transport {
            "udp" => by_udp(server, message).await,
            _ => ask_tcp(server, message).await,
        };
        let lines = reply.map_or_else(|| vec!["silence".into()], |reply| decode(&reply));
        heard.push((lines, transport));
    }
    heard
}

/// Signed messages are always answered here; and not before those behind them.
async fn talk_signed(
    server: SocketAddr,
    transports: &[&str],
    signer: &Signer,
    message: &SignedMessage,
) -> Vec<(Vec<String>, &'static str)> {
    let mut heard = Vec::new();
    for &transport in transports {
        let (reply, transport) = match transport {
            "udp" => (ask_udp(server, &message.octets).await, "udp"),
            _ => (ask_tcp(server, &message.octets).await.unwrap(), "tcp"),
        };
        let mut lines = decode(&reply);
        if signer.is_signed(message, &reply) {
            lines[0] += " signed";
        }
        heard.push((lines, transport));
    }
    heard
}

/// The last cookie that was heard.
fn cookie(heard: &[(Vec<String>, &str)]) -> Option<String> {
    heard
        .iter()
        .flat_map(|(lines, _)| lines)
        .flat_map(|line| line.split_whitespace())
        .filter_map(|word| word.strip_prefix("cookie="))
        .next_back()
        .map(str::to_owned)
}

/// Silence cannot be waited for. A query behind the message, on the same socket, is answered after it: if its answer
/// comes first, there was none to the message.
async fn by_udp(server: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    const MARK: [u8; 2] = [0x77, 0x77];
    let socket = udp_socket(server).await;
    socket.send(message).await.unwrap();
    let mut behind = query(&["nas.test", "SOA"]);
    behind[..2].copy_from_slice(&MARK);
    socket.send(&behind).await.unwrap();
    let first = receive(&socket).await;
    (first[..2] != MARK).then_some(first)
}

/// Word by word; `*` stands for any word, or for any end of one.
fn matches(expected: &[String], heard: &[String]) -> bool {
    let same = |expected: &String, heard: &String| {
        let (expected, heard) = (expected.split_whitespace(), heard.split_whitespace());
        expected.clone().count() == heard.clone().count()
            && expected.zip(heard).all(|(e, h)| match e.strip_suffix('*') {
                Some(start) => h.starts_with(start),
                None => e == h,
            })
    };
    expected.len() == heard.len() && expected.iter().zip(heard).all(|(e, h)| same(e, h))
}
