//! Much at once and many at once, through nginx behind a real agent.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::nginx::Nginx;
use crate::process::{Process, output_of, run_for};
use crate::world::{Place, Server};

pub(crate) const MIB: u64 = 1024 * 1024;

/// A file has gone up or down by then, on a machine that does other things too.
const LONG: Duration = Duration::from_secs(240);

/// A server with a device whose service is nginx.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) agent: Process,
    pub(crate) nginx: Nginx,
}

impl Scene {
    pub(crate) fn start(place: Place, options: &[&str]) -> Self {
        let server = Server::start_with(place, options);
        let nginx = Nginx::start(&server.place);
        let agent = server.pair("mynas").run(&nginx.origin());
        Self {
            server,
            agent,
            nginx,
        }
    }

    /// What the tunnel of the device runs over, as the operator sees it.
    pub(crate) fn transport(&self) -> String {
        self.server.devices()[1]["transport"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    /// 1 GiB down and 1 GiB up.
    pub(crate) fn a_gigabyte_each_way(&self) {
        self.each_way(1024 * MIB, 16 * MIB);
    }

    /// So many octets down and as many up, byte for byte, and what it costs in memory: less than `limit` at either end.
    fn each_way(&self, octets: u64, limit: u64) {
        let (down, up) = (self.nginx.file("down"), self.nginx.file("up"));
        write_random(&down, octets);
        let expected = sha256(&down);
        let url = |name: &str| self.server.url("mynas", &format!("/{name}"));
        write_random(&self.nginx.file("warm-up"), 10_000);
        self.server.get_file(&url("warm-up")); // settles both programs
        let before = [self.server.process.memory().0, self.agent.memory().0];
        self.server.process.forget_peak();
        self.agent.forget_peak();

        let target = self.server.folder.path().join("download");
        let mut curl = self.server.curl();
        let max_time = LONG.as_secs().to_string();
        curl.args(["--max-time", &max_time, "--fail", "--output"])
            .arg(&target)
            .arg(url("down"));
        assert!(run_for(curl, LONG).status.success());
        assert!(sha256(&target) == expected, "the download differs");
        fs::remove_file(&target).unwrap();

        let mut curl = self.server.curl();
        curl.args(["--max-time", &max_time, "--fail", "--upload-file"])
            .arg(&down)
            .arg(url("up"));
        assert!(run_for(curl, LONG).status.success());
        assert!(sha256(&up) == expected, "the upload differs");
        fs::remove_file(&up).unwrap();
        fs::remove_file(&down).unwrap();

        let after = [self.server.process.memory().1, self.agent.memory().1];
        for (who, (before, after)) in ["relay", "agent"]
            .into_iter()
            .zip(before.into_iter().zip(after))
        {
            let grown = after.saturating_sub(before);
            println!(
                "{who}: {} KiB before, {} KiB at most, {} KiB more",
                before / 1024,
                after / 1024,
                grown / 1024
            );
            assert!(grown < limit, "{who} has grown by {} KiB", grown / 1024);
        }
    }

    /// A thousand visitors who each read two kilobytes a second, and one more who is in a hurry.
    pub(crate) fn a_thousand_slow_downloads(&self) {
        const PROGRAMS: usize = 10;
        const EACH: usize = 100;
        const SECONDS: u64 = 40;
        write_random(&self.nginx.file("large"), 8 * MIB);
        write_random(&self.nginx.file("small"), 1000);
        let folder = self.server.folder.path().join("slow");
        fs::create_dir(&folder).unwrap();
        // A hundred at a time: a thousand handshakes at once are another matter, and most of it the clients' work.
        let programs: Vec<_> = (0..PROGRAMS)
            .map(|program| {
                let started = self.slow_downloads(&folder, program, EACH, SECONDS);
                self.wait_until_served(&folder, (program + 1) * EACH, SECONDS);
                started
            })
            .collect();
        let start = Instant::now();
        self.server.get_file(&self.server.url("mynas", "/small"));
        let hurry = start.elapsed();
        for mut program in programs {
            program.ended();
        }
        let sizes = sizes(&folder);
        assert_eq!(sizes.len(), PROGRAMS * EACH);
        let least = sizes.iter().min().unwrap();
        println!(
            "1000 slow downloads: least {least} octets, a quick request beside them {hurry:?}"
        );
        assert!(
            *least >= 8192,
            "somebody was starved: {least} octets in {SECONDS} s"
        );
        assert!(hurry < Duration::from_secs(5), "{hurry:?}");
        fs::remove_dir_all(folder).unwrap();
    }

    /// So many downloads of two kilobytes a second, by one program that gives up after that many seconds.
    fn slow_downloads(&self, folder: &Path, program: usize, count: usize, seconds: u64) -> Process {
        let mut curl = self.server.curl();
        // --http1.1: a connection for each, as from as many homes.
        curl.args(["--http1.1", "--parallel", "--parallel-immediate"]);
        curl.args(["--parallel-max", &count.to_string()]);
        curl.args(["--limit-rate", "2k", "--max-time", &seconds.to_string()]);
        for number in 0..count {
            curl.arg("--output")
                .arg(folder.join(format!("{program}-{number}")))
                .arg(self.server.url("mynas", "/large"));
        }
        Process::start(curl)
    }

    /// Waits until of so many downloads something has come.
    fn wait_until_served(&self, folder: &Path, count: usize, seconds: u64) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let served = sizes(folder).iter().filter(|size| **size > 0).count();
            if served == count {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "only {served} are served; {}",
                self.server.metrics("causeway_relay_visitors_")
            );
            std::thread::sleep(Duration::from_millis(10)); // there is no event; the outcome does not depend on it
        }
    }

    /// One HTTP/2 connection with a hundred requests at a time.
    pub(crate) fn a_hundred_streams(&self) {
        write_random(&self.nginx.file("page"), 10_000);
        let mut h2load = self.server.place.command("h2load");
        h2load.args([
            "--requests",
            "5000",
            "--clients",
            "1",
            "--max-concurrent-streams",
            "100",
        ]);
        h2load.arg(format!("--connect-to={}", self.server.ready.front));
        h2load.arg(self.server.url("mynas", "/page"));
        let report = output_of(h2load);
        assert!(
            report.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{report}"
        );
        assert!(report.contains("status codes: 5000 2xx"), "{report}");
        assert!(report.contains("Application protocol: h2"), "{report}");
    }
}

#[test]
fn a_gigabyte_goes_each_way_with_flat_memory() {
    let scene = Scene::start(Place::Host, &[]);
    assert_eq!(scene.transport(), "quic");
    scene.a_gigabyte_each_way();
}

#[test]
#[ignore = "takes minutes and 30 GB of disk"]
fn ten_gigabytes_go_each_way_with_flat_memory() {
    let scene = Scene::start(Place::Host, &[]);
    assert_eq!(scene.transport(), "quic");
    scene.each_way(10_000_000_000, 8 * MIB);
}

#[test]
fn a_thousand_slow_visitors_starve_nobody() {
    let scene = Scene::start(Place::Host, &[]);
    scene.a_thousand_slow_downloads();
}

#[test]
fn a_browsers_hundred_requests_share_one_connection() {
    let scene = Scene::start(Place::Host, &[]);
    scene.a_hundred_streams();
}

/// How much has come of each download.
fn sizes(folder: &Path) -> Vec<u64> {
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .collect()
}

pub(crate) fn write_random(file: &Path, size: u64) {
    let mut random = fs::File::open("/dev/urandom").unwrap().take(size);
    std::io::copy(&mut random, &mut fs::File::create(file).unwrap()).unwrap();
}

pub(crate) fn sha256(file: &Path) -> String {
    let mut command = Command::new("sha256sum");
    command.arg(file);
    output_of(command)
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}
