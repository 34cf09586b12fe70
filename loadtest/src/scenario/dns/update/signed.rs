//! Updates of a signed zone, one after the other: what one costs, whether what is asked next is signed, and whether other names
//! are as they were.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{ANSWER, Mover, UPDATE_CPU, UPDATE_P99, UPDATES, address, wire};
use crate::admin::Metrics;
use crate::question::{A, signed_question};
use crate::report::{Column, Round};
use crate::scenario::dns::WRONG;
use crate::scenario::dns::signed::{Those, Verifier, warm};
use crate::scenario::{FAILURES, ScenarioError, latencies, microseconds};
use crate::world::NameServer;
use crate::world::million::host;

/// So many of the last names, half of them at most, are not moved: their signatures, and those of as many names that do not exist,
/// are to be as they were. Only the SOA that says so has another serial.
const NEIGHBOURS: u32 = 10_000;

/// What our server counts.
pub(in crate::scenario::dns) const SIGNATURES_MADE: &str = "causeway_ddns_signatures_made_total";

static CPU_WITH_QUERY: Column =
    Column::new("server_cpu_us_per_update_and_query", "with its DO query", 1);
static QUERIES: Column = Column::new("queries", "queries", 0);
static OF_UPDATES: Column = Column::new("signatures_of_updates", "signatures of updates", 0);
static OF_QUERIES: Column = Column::new("signatures_of_queries", "of queries", 0);
static OF_OTHERS: Column = Column::new("signatures_of_others", "of other names", 0);
static OF_MISSING: Column = Column::new("signatures_of_missing", "of missing names", 0);

/// Moves names for so long, and then as long names that are asked for at once with the DO bit, each answer verified. `None` where
/// names cannot be moved.
pub(in crate::scenario::dns) async fn signed_update(
    server: &NameServer,
    names: u32,
    length: Duration,
) -> Result<Option<(Round, Option<String>)>, ScenarioError> {
    let Some(admin) = server.admin else {
        return Ok(None);
    };
    let Some(mover) = Mover::quick_at(server).await? else {
        return Ok(None);
    };
    let made = async || Ok::<_, ScenarioError>(Metrics::ask(admin).await?.sum(SIGNATURES_MADE));
    let moved = names.saturating_sub(NEIGHBOURS.min(names / 2));
    let neighbours = async |those| warm(server.address, moved..names, those).await;
    let mut moves = Moves {
        mover,
        verifier: Verifier::ask(server.address).await?,
        client: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        names: moved,
        count: rand::random_range(0..1 << 20),
        failures: 0,
        wrong: 0,
        why: None,
    };
    moves.client.connect(server.address).await?;
    neighbours(Those::Exist).await?;
    neighbours(Those::Missing).await?;

    let before = made().await?;
    let alone = moves.run(server, length, false).await?;
    let after_updates = made().await?;
    let with_query = moves.run(server, length, true).await?;
    let after_queries = made().await?;
    neighbours(Those::Exist).await?;
    let after_others = made().await?;
    neighbours(Those::Missing).await?;
    let after_missing = made().await?;

    let round = vec![
        (&UPDATES, alone.count / alone.seconds),
        (&UPDATE_CPU, alone.cpu_us),
        (&UPDATE_P99, alone.p99_us),
        (&CPU_WITH_QUERY, with_query.cpu_us),
        (&QUERIES, with_query.count),
        (&WRONG, moves.wrong as f64),
        (&FAILURES, moves.failures as f64),
        (&OF_UPDATES, after_updates - before),
        (&OF_QUERIES, after_queries - after_updates),
        (&OF_OTHERS, after_others - after_queries),
        (&OF_MISSING, after_missing - after_others),
    ];
    Ok(Some((round, moves.why)))
}

/// Who moves and looks.
struct Moves {
    mover: Mover,
    verifier: Verifier,
    client: UdpSocket,
    /// So many are moved, in turn.
    names: u32,
    count: u64,
    failures: u64,
    wrong: u64,
    /// The first failure.
    why: Option<String>,
}

/// What came of it.
struct Ran {
    count: f64,
    seconds: f64,
    cpu_us: f64,
    p99_us: f64,
}

impl Moves {
    async fn run(
        &mut self,
        server: &NameServer,
        length: Duration,
        asks: bool,
    ) -> Result<Ran, ScenarioError> {
        let (begun, cpu) = (Instant::now(), server.process.cpu()?);
        let mut times = latencies()?;
        while begun.elapsed() < length {
            self.count += 1;
            let number = (self.count % u64::from(self.names)) as u32;
            let address = address(self.count);
            let sent = Instant::now();
            if let Err(why) = self.mover.set(number, address).await {
                self.failures += 1;
                self.why.get_or_insert(why);
                continue;
            }
            times.saturating_record(microseconds(sent.elapsed()));
            if asks && let Err(why) = self.ask(number, address).await? {
                self.wrong += 1;
                self.why.get_or_insert(why.to_owned());
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = server.process.cpu()?.saturating_sub(cpu);
        let count = times.len() as f64;
        Ok(Ran {
            count,
            seconds,
            cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1.0),
            p99_us: times.value_at_quantile(0.99) as f64,
        })
    }

    /// Asks once, and says what is wrong with the answer.
    async fn ask(
        &self,
        number: u32,
        address: Ipv4Addr,
    ) -> Result<Result<(), &'static str>, ScenarioError> {
        let host = host(number);
        let mut question = signed_question(&host, A).unwrap_or_default();
        let id = rand::random::<[u8; 2]>();
        question[..2].copy_from_slice(&id);
        self.client.send(&question).await?;
        let mut octets = [0; 1500];
        let answer = timeout(ANSWER, async {
            loop {
                let length = self.client.recv(&mut octets).await?;
                // Not one that comes late.
                if octets.starts_with(&id) {
                    return Ok::<_, std::io::Error>(length);
                }
            }
        });
        let Ok(length) = answer.await else {
            return Ok(Err("there was no answer"));
        };
        let answer = octets.get(..length?).unwrap_or_default();
        let name = wire(&host).unwrap_or_default();
        Ok(self.verifier.check(answer, &name, address))
    }
}
