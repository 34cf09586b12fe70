//! The machine on which, and the day on which it was measured.

use std::fs;

use serde::Serialize;
use time::OffsetDateTime;

/// On what and when it was measured: figures of different machines or days do not compare.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    date: String,
    cpu: String,
    cores: usize,
    kernel: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown".to_owned(), |(_, model)| model.to_owned());
        Self {
            date: OffsetDateTime::now_utc().date().to_string(),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!(
            "{}, {} cores, {}, {}",
            self.cpu, self.cores, self.kernel, self.date
        )
    }
}
