//! Updates by nsupdate of BIND, as it comes: four processes at a time, each with a file of messages that it sends one after the other,
//! over UDP.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{UPDATE_CPU, UPDATES, address};
use crate::report::Round;
use crate::scenario::{FAILURES, ScenarioError};
use crate::world::million::{ZONE, host};
use crate::world::{NameServer, UpdateDoor};

/// Processes at a time.
const AT_ONCE: usize = 4;
/// Messages in a file.
const MESSAGES: u32 = 500;

/// Runs them until `length` has passed, and to their end. Says the first of their complaints too. `None` where names cannot be moved.
pub(crate) async fn measure(
    server: &NameServer,
    program: &Path,
    names: u32,
    length: Duration,
    folder: &Path,
) -> Result<Option<(Round, Option<String>)>, ScenarioError> {
    let Some(door) = &server.updates else {
        return Ok(None);
    };
    let (mut count, mut files) = (rand::random::<u32>(), Vec::new());
    for file in 0..AT_ONCE {
        files.push(folder.join(format!("nsupdate-{file}")));
    }
    let (mut sent, mut failures, mut why) = (0, 0, None);
    let (begun, before) = (Instant::now(), server.process.cpu()?);
    let mut running = JoinSet::new();
    while begun.elapsed() < length || !running.is_empty() {
        while begun.elapsed() < length
            && let Some(file) = files.pop()
        {
            std::fs::write(&file, batch(server, door, names, count))?;
            count = count.wrapping_add(MESSAGES);
            let program = program.to_owned();
            running.spawn_blocking(move || run(&program, file));
        }
        if let Some(ended) = running.join_next().await {
            let (file, complaints) = ended.map_err(io::Error::from)??;
            files.push(file);
            sent += MESSAGES;
            failures += u32::try_from(complaints.len()).unwrap_or(u32::MAX);
            why = why.or_else(|| complaints.into_iter().next());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = server.process.cpu()?.saturating_sub(before).as_secs_f64();
    let done = f64::from(sent.saturating_sub(failures));
    let round = vec![
        (&UPDATES, done / seconds),
        (&UPDATE_CPU, cpu * 1e6 / done.max(1.0)),
        (&FAILURES, f64::from(failures)),
    ];
    Ok(Some((round, why)))
}

/// What nsupdate(1) reads: a message for each name, signed by the key of that name where updates are signed.
fn batch(server: &NameServer, door: &UpdateDoor, names: u32, first: u32) -> String {
    let (ip, port) = (server.address.ip(), server.address.port());
    let mut batch = format!("server {ip} {port}\nzone {ZONE}\n");
    for at in 0..MESSAGES {
        let count = first.wrapping_add(at);
        let (host, address) = (host(count % names), address(count.into()));
        // Writing into a String cannot fail.
        if let UpdateDoor::Dyn2 { tsig, .. } = door {
            let _ = writeln!(batch, "key hmac-sha256:{host} {}", tsig.as_str());
        }
        let _ = writeln!(
            batch,
            "update delete {host} A\nupdate add {host} 60 A {address}\nsend"
        );
    }
    batch
}

/// Runs it to its end, and returns its complaints, one for each message that was not done.
fn run(program: &Path, file: PathBuf) -> io::Result<(PathBuf, Vec<String>)> {
    let ran = Command::new(program)
        .arg(&file)
        .stdin(Stdio::null())
        .output()?;
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines = said.lines().filter(|line| !line.is_empty());
    let mut complaints: Vec<_> = lines.map(str::to_owned).collect();
    if !ran.status.success() && complaints.is_empty() {
        complaints.push(ran.status.to_string());
    }
    Ok((file, complaints))
}
