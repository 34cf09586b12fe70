//! Apps that know nothing of the relay, by way of `causeway-connect` and straight to their service, in turn: scp brings a file, and ssh
//! a key that comes back.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::{Observed, ScenarioError, latencies, microseconds, throughput};
use crate::process::{ProcessId, UsageError};
use crate::progress::Progress;
use crate::report::{Column, Length, Round, Table};
use crate::world::{Ssh, SshError, SshWay, Watched};

pub(crate) const NAME: &str = "apps";

const WAYS: [(SshWay, &str); 2] = [(SshWay::Direct, "direct"), (SshWay::Connect, CONNECT)];

/// Which is compared with the other.
const CONNECT: &str = "causeway-connect";

static P50: Column = Column::new("p50_us", "p50 µs", 0);
static P99: Column = Column::new("p99_us", "p99 µs", 0);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) mebibytes: u64,
    pub(crate) keys: u64,
    pub(crate) rounds: u32,
}

pub(crate) async fn run(
    connect: Option<PathBuf>,
    amount: Amount,
    progress: &Progress,
) -> Result<Vec<Table>, ScenarioError> {
    let ssh = Ssh::start(connect).await?;
    let [file, there] = ["file", "there"].map(|name| ssh.folder().join(name));
    write_random(&file, amount.mebibytes)?;
    let table = |workload, length| {
        let one = (1, "connections");
        Table::of_peers(NAME, workload, one, length, None, &[CONNECT])
    };
    let mut scp = table("scp", Length::Mebibytes(amount.mebibytes));
    let mut keys = table("ssh_keys", Length::Keys(amount.keys));
    for round in 0..amount.rounds {
        for (way, name) in WAYS {
            let what = format!("{NAME}: {name}, round {} of {}", round + 1, amount.rounds);
            progress.begin(what, 1);
            scp.add(name, bring(&ssh, way, &file, &there, amount).await?);
            keys.add(name, press(&ssh, way, amount.keys)?);
        }
    }
    Ok(vec![scp, keys])
}

fn write_random(file: &Path, mebibytes: u64) -> Result<(), SshError> {
    let mut file = File::create(file)?;
    let mut octets = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        rand::rng().fill_bytes(&mut octets);
        file.write_all(&octets)?;
    }
    file.sync_all()?; // or it would be written meanwhile
    Ok(())
}

/// From the start of scp to its end.
async fn bring(
    ssh: &Ssh,
    way: SshWay,
    file: &Path,
    there: &Path,
    amount: Amount,
) -> Result<Round, ScenarioError> {
    let watched = match way {
        SshWay::Direct => Watched::default(),
        SshWay::Connect => ssh.watched(),
    };
    let cpu = || -> Result<_, UsageError> {
        let of = |process: Option<ProcessId>| process.map(ProcessId::cpu).transpose();
        Ok((of(watched.relay)?, of(watched.agent)?))
    };
    let (before, begun) = (cpu()?, Instant::now());
    ssh.bring(way, file, there).await?;
    let (after, took) = (cpu()?, begun.elapsed());
    let spent = |before: Option<Duration>, after: Option<Duration>| {
        Some(after?.saturating_sub(before?).as_secs_f64())
    };
    let octets = (amount.mebibytes << 20) as f64;
    let observed = Observed {
        seconds: took.as_secs_f64(),
        count: octets,
        relay_cpu: spent(before.0, after.0),
        agent_cpu: spent(before.1, after.1),
    };
    Ok(throughput::figures(&observed, octets / 1e9))
}

/// One key after the other, each when the one before has come back.
fn press(ssh: &Ssh, way: SshWay, count: u64) -> Result<Round, ScenarioError> {
    let mut client = ssh.run(way, "cat");
    let client = client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.stderr(Stdio::null()).spawn()?;
    let mut latencies = latencies()?;
    let pressed = (|| {
        let (Some(keys), Some(screen)) = (&mut client.stdin, &mut client.stdout) else {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        };
        for _ in 0..count {
            let begun = Instant::now();
            keys.write_all(b"x")?;
            screen.read_exact(&mut [0])?;
            latencies.saturating_record(microseconds(begun.elapsed()));
        }
        Ok(())
    })();
    // It ends with its input, or is ended.
    drop(client.stdin.take());
    if pressed.is_err() {
        let _ = client.kill();
    }
    client.wait()?;
    pressed?;
    let at = |share| latencies.value_at_quantile(share) as f64;
    Ok(vec![(&P50, at(0.5)), (&P99, at(0.99))])
}
