//! What is counted. No label holds a name or an address.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

use crate::dnssec::Share;
use crate::server::{Client, Kind, Transport};
use crate::store::{Disk, Log};
use crate::table::Table;
use crate::update::Door;
use crate::update::outcome::{Outcome, UpdateError};

/// Counters of one server, under `causeway_ddns_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Replies sent, by transport and by how they ended.
    queries: [[IntCounter; Kind::COUNT]; Transport::COUNT],
    /// Replies that did not fit and said so.
    truncated: IntCounter,
    /// Messages that got no reply, by transport and reason.
    dropped: [[IntCounter; Dropped::COUNT]; Transport::COUNT],
    /// Queries over UDP from a network that has had its share, by what was done.
    limited: [IntCounter; Limited::COUNT],
    /// Replies sent, by transport and by the cookie that came with the query.
    cookies: [[IntCounter; Client::COUNT]; Transport::COUNT],
    /// TCP connections taken, by transport. Open now = opened - closed.
    tcp_opened: IntCounterVec,
    /// TCP connections ended, by transport and reason.
    tcp_closed: IntCounterVec,
    /// TCP connections not taken, by transport and by the limit that was reached.
    tcp_refused: IntCounterVec,
    /// TLS handshakes that came to nothing, by reason.
    handshakes_failed: IntCounterVec,
    /// Times that a UDP worker failed and was started again.
    worker_restarts: IntCounter,
    /// Updates done, by the door they came by and by whether they changed anything.
    updates: IntCounterVec,
    /// Updates refused, by the door they came by and by reason.
    updates_refused: IntCounterVec,
    /// Signed messages, by what their signatures proved.
    signed: IntCounterVec,
    /// UPDATE messages with a good signature, by how they ended.
    dynamic_updates: IntCounterVec,
    /// How long a group of updates took from the queue to the disk.
    commit_seconds: Histogram,
    /// Octets of the log of updates, and of its snapshot.
    log_bytes: IntGauge,
    /// Records in the log behind its snapshot, overtaken ones included.
    log_records: IntGauge,
    /// Snapshots of the log, by result.
    snapshots: IntCounterVec,
    /// Signatures made of answers, by share.
    signatures_made: [IntCounter; Share::COUNT],
    /// Signatures not made because too many had been in that second, by share.
    signatures_refused: [IntCounter; Share::COUNT],
    /// Signatures that the key did not make.
    signatures_failed: IntCounter,
    /// Signatures kept for when they are asked for again.
    signatures_kept: IntGauge,
    /// What secondaries have asked for and got, by what it was.
    transfers: IntCounterVec,
    /// What secondaries were told of new versions, by how it ended.
    notifies: IntCounterVec,
    /// Secondaries that are not waited for.
    secondaries_behind: IntGauge,
    /// Devices that have a name.
    names: IntGauge,
    /// Devices that have own addresses; the others lead to a relay.
    names_with_addresses: IntGauge,
    /// Relays with a process of their own.
    relays: IntGauge,
    /// Devices that such relays hold.
    names_at_relays: IntGauge,
}

fn by_share(counters: &IntCounterVec) -> impl Fn(Share) -> IntCounter {
    |share| counters.with_label_values(&[share.label()])
}

/// Why a message got no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Shorter than a header.
    Short,
    /// A reply itself.
    Response,
    /// Longer than what is taken over its transport.
    TooLong,
    /// From port 0, where nothing can be sent to.
    PortZero,
    /// The system did not send the reply.
    NotSent,
    /// The reply could not be written: a fault of ours.
    NotWritten,
    /// It is signed, and more of those wait than can be taken.
    TooManySigned,
    /// It is an update that has come before, and the reply to the first is on its way.
    UnderWay,
    /// Its network has had its share.
    Limited,
}

impl Dropped {
    const COUNT: usize = 9;
    const ALL: [Self; Self::COUNT] = [
        Self::Short,
        Self::Response,
        Self::TooLong,
        Self::PortZero,
        Self::NotSent,
        Self::NotWritten,
        Self::TooManySigned,
        Self::UnderWay,
        Self::Limited,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
            Self::TooLong => "too_long",
            Self::PortZero => "port_zero",
            Self::NotSent => "not_sent",
            Self::NotWritten => "not_written",
            Self::TooManySigned => "too_many_signed",
            Self::UnderWay => "under_way",
            Self::Limited => "limited",
        }
    }
}

/// What was done with a query from a network that has had its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    /// It got a short reply, and may come over TCP.
    Slipped,
    /// It got a cookie, and may come with that.
    BadCookie,
    /// It got nothing; counted among the dropped as well.
    Dropped,
}

impl Limited {
    const COUNT: usize = 3;
    const ALL: [Self; Self::COUNT] = [Self::Slipped, Self::BadCookie, Self::Dropped];

    fn label(self) -> &'static str {
        match self {
            Self::Slipped => "slipped",
            Self::BadCookie => "badcookie",
            Self::Dropped => "dropped",
        }
    }
}

/// Counts kept by one thread between two batches, so that threads do not fight for cache lines.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    queries: [u32; Kind::COUNT],
    dropped: [u32; Dropped::COUNT],
    limited: [u32; Limited::COUNT],
    cookies: [u32; Client::COUNT],
    truncated: u32,
}

impl Tally {
    pub(crate) fn reply(&mut self, kind: Kind, truncated: bool, client: Client) {
        self.queries[kind as usize] += 1;
        self.cookies[client as usize] += 1;
        self.truncated += u32::from(truncated);
    }

    pub(crate) fn limited(&mut self, action: Limited) {
        self.limited[action as usize] += 1;
    }

    pub(crate) fn dropped(&mut self, reason: Dropped, count: u32) {
        self.dropped[reason as usize] += count;
    }
}

impl Metrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let names = Registrar(registry);
        let queries = names.counters("queries_total", "Replies sent.", &["transport", "rcode"])?;
        let dropped = names.counters(
            "dropped_total",
            "Messages that got no reply.",
            &["transport", "reason"],
        )?;
        let by_kind = |transport: Transport| {
            Kind::ALL.map(|kind| queries.with_label_values(&[transport.label(), kind.label()]))
        };
        let by_reason = |transport: Transport| {
            Dropped::ALL
                .map(|reason| dropped.with_label_values(&[transport.label(), reason.label()]))
        };
        let limited = names.counters(
            "limited_total",
            "Queries over UDP from a network that has had its share.",
            &["action"],
        )?;
        let cookies = names.counters(
            "cookies_total",
            "Replies sent, by the cookie that came with the query.",
            &["transport", "cookie"],
        )?;
        let by_cookie = |transport: Transport| {
            Client::ALL
                .map(|client| cookies.with_label_values(&[transport.label(), client.label()]))
        };
        let signatures_made = names.counters(
            "signatures_made_total",
            "Signatures made of answers, by what they are of.",
            &["share"],
        )?;
        let signatures_refused = names.counters(
            "signatures_refused_total",
            "Signatures not made because too many had been in that second.",
            &["share"],
        )?;
        let metrics = Self {
            limited: Limited::ALL.map(|action| limited.with_label_values(&[action.label()])),
            cookies: Transport::ALL.map(by_cookie),
            queries: Transport::ALL.map(by_kind),
            truncated: names.counter("truncated_total", "Replies that did not fit and said so.")?,
            dropped: Transport::ALL.map(by_reason),
            tcp_opened: names.counters(
                "tcp_connections_opened_total",
                "TCP connections taken.",
                &["transport"],
            )?,
            tcp_closed: names.counters(
                "tcp_connections_closed_total",
                "TCP connections ended.",
                &["transport", "reason"],
            )?,
            tcp_refused: names.counters(
                "tcp_connections_refused_total",
                "TCP connections not taken because a limit was reached.",
                &["transport", "limit"],
            )?,
            handshakes_failed: names.counters(
                "tls_handshakes_failed_total",
                "TLS handshakes that came to nothing.",
                &["reason"],
            )?,
            worker_restarts: names.counter(
                "worker_restarts_total",
                "Times that a UDP worker failed and was started again.",
            )?,
            updates: names.counters("updates_total", "Updates done.", &["door", "result"])?,
            updates_refused: names.counters(
                "updates_refused_total",
                "Updates refused.",
                &["door", "reason"],
            )?,
            signed: names.counters(
                "signed_messages_total",
                "Signed messages, by what their signatures proved.",
                &["signature"],
            )?,
            dynamic_updates: names.counters(
                "dynamic_updates_total",
                "UPDATE messages with a good signature, by how they ended.",
                &["rcode"],
            )?,
            commit_seconds: names.histogram(
                "commit_seconds",
                "How long a group of updates took from the queue to the disk.",
            )?,
            log_bytes: names.gauge(
                "log_bytes",
                "Octets of the log of updates, and of its snapshot.",
            )?,
            log_records: names.gauge(
                "log_records",
                "Records in the log of updates behind its snapshot.",
            )?,
            snapshots: names.counters(
                "snapshots_total",
                "Snapshots of the log of updates.",
                &["result"],
            )?,
            signatures_made: Share::ALL.map(by_share(&signatures_made)),
            signatures_refused: Share::ALL.map(by_share(&signatures_refused)),
            signatures_failed: names.counter(
                "signatures_failed_total",
                "Signatures that the key of the zone did not make.",
            )?,
            signatures_kept: names.gauge("signatures_kept", "Signatures of answers in memory.")?,
            transfers: names.counters(
                "transfers_total",
                "Questions of secondaries for the zone, by what they got.",
                &["result"],
            )?,
            notifies: names.counters(
                "notifies_total",
                "New versions that a secondary was told of, by how that ended.",
                &["result"],
            )?,
            secondaries_behind: names.gauge(
                "secondaries_behind",
                "Secondaries that do not have what was published, and are not waited for.",
            )?,
            names: names.gauge("names", "Devices that have a name.")?,
            names_with_addresses: names
                .gauge("names_with_addresses", "Devices that have own addresses.")?,
            relays: names.gauge("relays", "Relays with a process of their own.")?,
            names_at_relays: names.gauge(
                "names_at_relays",
                "Devices that relays with a process of their own hold.",
            )?,
        };
        metrics.show_labels();
        Ok(metrics)
    }

    /// A counter that is missing until it first counts cannot be told from one that was never there, and what alerts look at must
    /// be there before it happens.
    fn show_labels(&self) {
        for door in Door::ALL {
            for result in [CHANGED, UNCHANGED] {
                self.updates.with_label_values(&[door.label(), result]);
            }
            for reason in OUR_REASONS {
                self.updates_refused
                    .with_label_values(&[door.label(), reason]);
            }
        }
        for done in [true, false] {
            self.snapshots.with_label_values(&[snapshot_label(done)]);
        }
        for transport in [Transport::Tcp, Transport::Dot] {
            self.tcp_opened.with_label_values(&[transport.label()]);
        }
    }

    /// Adds a tally and empties it.
    pub(crate) fn add(&self, transport: Transport, tally: &mut Tally) {
        let tally = std::mem::take(tally);
        let queries = self.queries[transport as usize].iter().zip(tally.queries);
        let dropped = self.dropped[transport as usize].iter().zip(tally.dropped);
        let limited = self.limited.iter().zip(tally.limited);
        let cookies = self.cookies[transport as usize].iter().zip(tally.cookies);
        for (counter, count) in queries.chain(dropped).chain(limited).chain(cookies) {
            if count > 0 {
                counter.inc_by(count.into());
            }
        }
        if tally.truncated > 0 {
            self.truncated.inc_by(tally.truncated.into());
        }
    }

    /// An answer has been signed.
    pub(crate) fn signature_made(&self, share: Share) {
        self.signatures_made[share as usize].inc();
    }

    /// An answer has not been signed, because too many have been in this second.
    pub(crate) fn signature_refused(&self, share: Share) {
        self.signatures_refused[share as usize].inc();
    }

    /// The key has not signed.
    pub(crate) fn signature_failed(&self) {
        self.signatures_failed.inc();
    }

    /// So many signatures are kept.
    pub(crate) fn signatures_kept(&self, count: usize) {
        self.signatures_kept.set(count as i64);
    }

    /// So many secondaries are not waited for.
    pub(crate) fn secondaries_behind(&self, count: usize) {
        self.secondaries_behind.set(count as i64);
    }

    /// A secondary has asked for the zone.
    pub(crate) fn transfer(&self, result: &str) {
        self.transfers.with_label_values(&[result]).inc();
    }

    /// A secondary was told of a version.
    pub(crate) fn notified(&self, result: &str) {
        self.notifies.with_label_values(&[result]).inc();
    }

    pub(crate) fn tcp_opened(&self, transport: Transport) {
        self.tcp_opened
            .with_label_values(&[transport.label()])
            .inc();
    }

    pub(crate) fn tcp_closed(&self, transport: Transport, reason: &str) {
        self.tcp_closed
            .with_label_values(&[transport.label(), reason])
            .inc();
    }

    pub(crate) fn tcp_refused(&self, transport: Transport, limit: &str) {
        self.tcp_refused
            .with_label_values(&[transport.label(), limit])
            .inc();
    }

    pub(crate) fn handshake_failed(&self, reason: &str) {
        self.handshakes_failed.with_label_values(&[reason]).inc();
    }

    pub(crate) fn worker_restarted(&self) {
        self.worker_restarts.inc();
    }

    pub(crate) fn update(&self, door: Door, result: &Result<Outcome, UpdateError>) {
        let done = |result| {
            let labels = [door.label(), result];
            self.updates.with_label_values(&labels).inc();
        };
        match result {
            Ok(Outcome::Changed(_)) => done(CHANGED),
            Ok(Outcome::Unchanged(_)) => done(UNCHANGED),
            Err(error) => self.update_refused(door, refused_label(error)),
        }
    }

    pub(crate) fn update_refused(&self, door: Door, reason: &str) {
        self.updates_refused
            .with_label_values(&[door.label(), reason])
            .inc();
    }

    pub(crate) fn signed(&self, signature: &'static str) {
        self.signed.with_label_values(&[signature]).inc();
    }

    pub(crate) fn dynamic_update(&self, end: &'static str) {
        self.dynamic_updates.with_label_values(&[end]).inc();
    }

    pub(crate) fn commit<D: Disk>(&self, log: &Log<D>, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.log(log);
    }

    pub(crate) fn snapshot<D: Disk>(&self, log: &Log<D>, done: bool) {
        let result = snapshot_label(done);
        self.snapshots.with_label_values(&[result]).inc();
        self.log(log);
    }

    pub(crate) fn names(&self, table: &Table) {
        self.names.set(gauge(table.devices() as u64));
        self.names_with_addresses
            .set(gauge(table.devices_with_addresses() as u64));
        self.relays(table);
    }

    pub(crate) fn relays(&self, table: &Table) {
        self.relays.set(gauge(table.relays() as u64));
        let elsewhere = table.devices_elsewhere();
        self.names_at_relays.set(gauge(elsewhere as u64));
    }

    pub(crate) fn log<D: Disk>(&self, log: &Log<D>) {
        self.log_bytes.set(gauge(log.octets()));
        self.log_records.set(gauge(log.records()));
    }
}

const CHANGED: &str = "changed";
const UNCHANGED: &str = "unchanged";

fn snapshot_label(done: bool) -> &'static str {
    if done { "done" } else { "failed" }
}

fn refused_label(error: &UpdateError) -> &'static str {
    match error {
        UpdateError::NotHeld => "not_held",
        UpdateError::NotApplied(_) => "not_applied",
        UpdateError::NotPublic => "not_public",
        UpdateError::TooOften => "too_often",
        UpdateError::Storage => STORAGE,
        UpdateError::Busy => BUSY,
        UpdateError::Stalled => STALLED,
        UpdateError::Stopped => "stopped",
    }
}

/// Why updates are refused by a fault of ours while the server runs.
const OUR_REASONS: [&str; 3] = [STORAGE, BUSY, STALLED];
const STORAGE: &str = "storage";
const BUSY: &str = "busy";
const STALLED: &str = "stalled";

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Makes metrics under our prefix.
struct Registrar<'r>(&'r Registry);

impl Registrar<'_> {
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::with_opts(opts(name, help))?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(opts(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::with_opts(opts(name, help))?)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        // From a fast disk's sync to the deadline of an update.
        let buckets = prometheus::exponential_buckets(0.000_25, 2.0, 15)?;
        let options = HistogramOpts::from(opts(name, help)).buckets(buckets);
        self.add(Histogram::with_opts(options)?)
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("causeway_ddns")
}
