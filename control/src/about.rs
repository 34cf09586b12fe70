//! What this program is, and what its process uses: `causeway_build_info`, and the `process_` metrics that Prometheus' own client
//! libraries agree on. They are read when somebody looks, from `/proc/self` (proc(5)).

use std::fs;
use std::io;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge, IntGaugeVec, Opts, Registry};
use serde::Serialize;

/// What `/buildinfo` says, and the labels of `causeway_build_info`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Build {
    /// Of the package.
    pub(crate) version: &'static str,
    /// Of the source, if whoever built it has set `CAUSEWAY_REVISION`; else `unknown`.
    pub(crate) revision: &'static str,
    /// The machine it was built for.
    pub(crate) architecture: &'static str,
}

/// This program's.
pub(crate) const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    revision: match option_env!("CAUSEWAY_REVISION") {
        Some(revision) => revision,
        None => "unknown",
    },
    architecture: std::env::consts::ARCH,
};

/// Ticks a second in `/proc/self/stat`: USER_HZ, which is part of the kernel's interface.
const TICKS: f64 = 100.0;

/// Registers both.
///
/// # Errors
/// If they are registered already.
pub(crate) fn register(registry: &Registry) -> Result<(), prometheus::Error> {
    let info = IntGaugeVec::new(
        Opts::new(
            "causeway_build_info",
            "Always 1; the labels say what program this is.",
        ),
        &["version", "revision", "architecture"],
    )?;
    info.with_label_values(&[BUILD.version, BUILD.revision, BUILD.architecture])
        .set(1);
    registry.register(Box::new(info))?;
    registry.register(Box::new(Process::new()?))
}

/// Reads what the process uses, whenever it is collected.
struct Process {
    cpu_seconds: Counter,
    open_fds: IntGauge,
    max_fds: IntGauge,
    resident: IntGauge,
    virtual_memory: IntGauge,
    threads: IntGauge,
    start_time: prometheus::Gauge,
}

/// What `/proc/self` says, in the units of the metrics.
struct Usage {
    cpu_seconds: f64,
    open_fds: i64,
    max_fds: i64,
    resident: i64,
    virtual_memory: i64,
    threads: i64,
    start_time: f64,
}

impl Process {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "Time that processors have spent on the process.",
            )?,
            open_fds: IntGauge::new("process_open_fds", "Descriptors in use.")?,
            max_fds: IntGauge::new("process_max_fds", "Descriptors that may be in use.")?,
            resident: IntGauge::new(
                "process_resident_memory_bytes",
                "Memory of the process that is in RAM.",
            )?,
            virtual_memory: IntGauge::new(
                "process_virtual_memory_bytes",
                "Memory that the process has addresses for.",
            )?,
            threads: IntGauge::new("process_threads", "Threads of the process.")?,
            start_time: prometheus::Gauge::new(
                "process_start_time_seconds",
                "When the process began, in seconds since 1970.",
            )?,
        })
    }

    fn each(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.open_fds,
            &self.max_fds,
            &self.resident,
            &self.virtual_memory,
            &self.threads,
            &self.start_time,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.each().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Nothing is better than what was so some time ago.
        let Ok(usage) = Usage::read() else {
            return Vec::new();
        };
        let more = usage.cpu_seconds - self.cpu_seconds.get();
        self.cpu_seconds.inc_by(more.max(0.0));
        self.open_fds.set(usage.open_fds);
        self.max_fds.set(usage.max_fds);
        self.resident.set(usage.resident);
        self.virtual_memory.set(usage.virtual_memory);
        self.threads.set(usage.threads);
        self.start_time.set(usage.start_time);
        let each = self.each().into_iter();
        each.flat_map(Collector::collect).collect()
    }
}

impl Usage {
    fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        // The name before it is in brackets, and may hold anything.
        let stat = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        // Fields are numbered from 1 in proc(5), and the first behind the name is the third.
        let field = |number: usize| number_of(stat.split_whitespace().nth(number - 3));
        let status = fs::read_to_string("/proc/self/status")?;
        let kibibytes = |name| Ok::<_, io::Error>(number_of(value_of(&status, name))? * 1024);
        let limits = fs::read_to_string("/proc/self/limits")?;
        let booted = fs::read_to_string("/proc/stat")?;
        let booted = number_of(value_of(&booted, "btime"))?;
        Ok(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
            // One of them is what the directory is read with.
            open_fds: fs::read_dir("/proc/self/fd")?.count() as i64 - 1,
            max_fds: number_of(value_of(&limits, "Max open files"))?,
            resident: kibibytes("VmRSS:")?,
            virtual_memory: kibibytes("VmSize:")?,
            threads: field(20)?,
            start_time: booted as f64 + field(22)? as f64 / TICKS,
        })
    }
}

/// The first word behind `name` at the beginning of a line.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()
}

fn number_of(word: Option<&str>) -> io::Result<i64> {
    let number = word.and_then(|word| word.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_process_is_as_the_kernel_says() {
        let usage = Usage::read().unwrap();
        let file = fs::File::open("/proc/self/stat").unwrap();
        let before = usage.open_fds;
        assert!(before >= 3 && before < usage.max_fds);
        drop(file);
        assert!(usage.resident > 100_000 && usage.resident < usage.virtual_memory);
        assert!(usage.threads >= 1 && usage.cpu_seconds >= 0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - usage.start_time;
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }
}
