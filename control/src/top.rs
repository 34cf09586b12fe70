//! `causeway top`: what passes for each device, live. The server measures for a moment and answers with the busiest; whoever asked
//! shows them and asks again.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use directory::DeviceId;
use relay::program::Termination;
use relay::server::DeviceTraffic;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::api::Cloud;
use crate::operator::{self, Answer, AskError, Verb};

/// How long the server measures, at least and at most. The longest is well within what an answer may take.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// See [`SHORTEST`].
pub const LONGEST: Duration = Duration::from_secs(5);

/// Devices in one answer, at most.
const MOST: usize = 1000;

/// Lines of a screen that show no device.
const FRAME_LINES: usize = 4;

/// What passes, as it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// Registered devices.
    pub registered: usize,
    /// Those of which a tunnel is here.
    pub attached: usize,
    /// Visitors of all devices.
    pub visitors: usize,
    /// From visitors to all devices, in octets a second.
    pub to_devices_per_second: u64,
    /// From all devices to visitors, the same.
    pub to_visitors_per_second: u64,
    /// The busiest devices first.
    pub busiest: Vec<BusyDevice>,
}

/// One device of which a tunnel is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyDevice {
    /// Its name under the zone.
    pub name: String,
    /// Its full name.
    pub host: String,
    /// `attached`, or `leaving` if only visitors who are here already still reach it.
    pub state: String,
    /// What its newest tunnel runs over.
    pub transport: String,
    /// Visitors now.
    pub visitors: usize,
    /// From its visitors, in octets a second.
    pub to_device_per_second: u64,
    /// To its visitors, the same.
    pub to_visitor_per_second: u64,
    /// Since when it has been attached without a gap, in seconds since 1970; absent while it is leaving.
    pub since: Option<u64>,
}

/// What `causeway top` was asked to show.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// For programs: an object a line.
    pub json: bool,
    /// Ends after the first.
    pub once: bool,
    /// How long is measured each time.
    pub interval: Duration,
}

// At the server.

/// Measures for `interval`, or until the server stops, and gives the busiest `most`.
pub(crate) async fn measure(cloud: &Cloud, interval: Duration, most: usize) -> Top {
    let began = Instant::now();
    let before = cloud.traffic.devices();
    let before: HashMap<DeviceId, DeviceTraffic> =
        before.into_iter().map(|one| (one.device, one)).collect();
    tokio::select! {
        () = cloud.stop.cancelled() => {}
        () = sleep(interval.clamp(SHORTEST, LONGEST)) => {}
    }
    let now = cloud.traffic.devices();
    let took = began.elapsed();
    let mut rates: Vec<(DeviceTraffic, [u64; 2])> = now
        .into_iter()
        .map(|one| (one, rates(one, before.get(&one.device), took)))
        .collect();
    rates.sort_unstable_by_key(|(one, [to_device, to_visitor])| {
        std::cmp::Reverse((to_device + to_visitor, one.visitors, one.device))
    });
    let sum = |way: usize| rates.iter().map(|(_, rates)| rates[way]).sum();
    Top {
        registered: cloud.devices.directory().len(),
        attached: rates.len(),
        visitors: rates.iter().map(|(one, _)| one.visitors).sum(),
        to_devices_per_second: sum(0),
        to_visitors_per_second: sum(1),
        busiest: rates
            .iter()
            .filter_map(|(one, rates)| shown(cloud, one, *rates))
            .take(most.min(MOST))
            .collect(),
    }
}

/// Octets a second to the device and to its visitors. When a tunnel of the device has ended meanwhile there are fewer than before.
fn rates(now: DeviceTraffic, before: Option<&DeviceTraffic>, took: Duration) -> [u64; 2] {
    let (to_device, to_visitor) = before.map_or((0, 0), |one| (one.to_device, one.to_visitor));
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    [
        now.to_device.saturating_sub(to_device),
        now.to_visitor.saturating_sub(to_visitor),
    ]
    .map(|octets| octets.saturating_mul(1000) / millis)
}

/// `None` if the device was removed in this moment.
fn shown(cloud: &Cloud, one: &DeviceTraffic, rates: [u64; 2]) -> Option<BusyDevice> {
    let device = cloud.devices.directory().device_by_key(&one.key)?;
    let since = cloud.fleet.of(&one.device);
    let [to_device_per_second, to_visitor_per_second] = rates;
    Some(BusyDevice {
        host: cloud.zone.name_of(&device.name),
        name: device.name.to_string(),
        state: if one.takes_visitors {
            "attached"
        } else {
            "leaving"
        }
        .to_owned(),
        transport: one.transport.name().to_owned(),
        visitors: one.visitors,
        to_device_per_second,
        to_visitor_per_second,
        since: since.map(|attachment| seconds(attachment.since)),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

// At whoever asked.

/// Why it was not shown.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The server could not be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It did not do it.
    #[error("{0}")]
    Refused(String),
    /// What it said cannot be shown.
    #[error("cannot show it: {0}")]
    Show(#[from] io::Error),
}

/// Shows what passes through the server on the state directory `state`: drawn in place on a terminal until a signal, as an object a
/// line for programs; elsewhere once.
///
/// # Errors
/// If the server cannot be asked, or standard output takes nothing.
pub async fn show(state: &Path, wish: Wish) -> Result<(), TopError> {
    let screen = io::stdout().is_terminal() && !wish.json;
    if wish.once || !(screen || wish.json) {
        let top = ask(state, wish.interval, MOST).await?;
        return Ok(io::stdout().write_all(line_or_table(&top, wish.json)?.as_bytes())?);
    }
    let mut termination = Termination::new()?;
    let drawn = if screen { Some(Screen::enter()?) } else { None };
    loop {
        let most = drawn.as_ref().map_or(MOST, Screen::room);
        let top = tokio::select! {
            () = termination.received() => return Ok(()),
            top = ask(state, wish.interval, most) => top?,
        };
        let text = line_or_table(&top, wish.json)?;
        match &drawn {
            Some(screen) => screen.draw(&text)?,
            None => io::stdout().write_all(text.as_bytes())?,
        }
    }
}

async fn ask(state: &Path, interval: Duration, most: usize) -> Result<Top, TopError> {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    match operator::ask(state, &Verb::Top { interval_ms, most }).await? {
        Answer::Top(top) => Ok(top),
        Answer::Refused(why) => Err(TopError::Refused(why)),
        Answer::Added { .. }
        | Answer::Key(_)
        | Answer::Devices(_)
        | Answer::Limited(_)
        | Answer::Steered(_)
        | Answer::PortAdded { .. }
        | Answer::Ports(_)
        | Answer::Certificates(_)
        | Answer::PortRemoved
        | Answer::Removed
        | Answer::RelayAdded { .. }
        | Answer::Relays(_)
        | Answer::RelayRemoved
        | Answer::Keys(_)
        | Answer::ZonePage(_)
        | Answer::ZoneTaken(_)
        | Answer::Delegation(_)
        | Answer::Request(_)
        | Answer::Link { .. } => Err(TopError::Refused(
            "the answer is to another question".into(),
        )),
    }
}

fn line_or_table(top: &Top, json: bool) -> io::Result<String> {
    if json {
        return Ok(serde_json::to_string(top)? + "\n");
    }
    Ok(table(top, SystemTime::now()))
}

fn table(top: &Top, now: SystemTime) -> String {
    let mut text = format!(
        "{} of {} devices attached, {} visitors, {} to devices, {} to visitors\n",
        top.attached,
        top.registered,
        top.visitors,
        rate(top.to_devices_per_second),
        rate(top.to_visitors_per_second)
    );
    if top.busiest.is_empty() {
        return text;
    }
    let hosts = top.busiest.iter().map(|device| device.host.len());
    let width = hosts.max().unwrap_or(0).max("DEVICE".len());
    text.push_str(&format!(
        "\n{:<width$}  STATE     OVER  VISITORS    TO DEVICE   TO VISITOR  SINCE\n",
        "DEVICE"
    ));
    for device in &top.busiest {
        let since = device.since.map_or_else(
            || "-".to_owned(),
            |since| span(seconds(now).saturating_sub(since)),
        );
        text.push_str(&format!(
            "{:<width$}  {:<8}  {:<4}  {:>8}  {:>11}  {:>11}  {since}\n",
            device.host,
            device.state,
            device.transport,
            device.visitors,
            rate(device.to_device_per_second),
            rate(device.to_visitor_per_second),
        ));
    }
    if top.attached > top.busiest.len() {
        let more = top.attached - top.busiest.len();
        text.push_str(&format!("and {more} quieter\n"));
    }
    text
}

/// `12.3 MB/s`
fn rate(octets: u64) -> String {
    let mut value = octets as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$} {unit}/s");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB/s")
}

/// The two largest units of some seconds: `3h 12m`.
fn span(seconds: u64) -> String {
    let [minute, hour, day] = [60, 60 * 60, 24 * 60 * 60];
    if seconds < minute {
        format!("{seconds}s")
    } else if seconds < hour {
        format!("{}m {}s", seconds / minute, seconds % minute)
    } else if seconds < day {
        format!("{}h {}m", seconds / hour, seconds % hour / minute)
    } else {
        format!("{}d {}h", seconds / day, seconds % day / hour)
    }
}

/// The terminal while something is drawn on it: a screen of its own (xterm's alternate one), without a cursor.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        let mut out = io::stdout();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self)
    }

    /// For so many devices.
    fn room(&self) -> usize {
        let (lines, _) = console::Term::stdout().size();
        usize::from(lines).saturating_sub(FRAME_LINES).max(1)
    }

    /// Over what was there before, without a moment in which nothing is.
    fn draw(&self, text: &str) -> io::Result<()> {
        let (_, columns) = console::Term::stdout().size();
        let mut frame = "\x1b[H".to_owned();
        for line in text.lines() {
            frame.extend(line.chars().take(columns.into()));
            frame.push_str("\x1b[K\r\n");
        }
        frame.push_str("\x1b[J");
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that takes nothing has nothing to be put right.
        let mut out = io::stdout();
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use relay::server::Transport;

    use super::*;

    #[test]
    fn figures_are_short_enough_to_be_read_at_a_glance() {
        assert_eq!(rate(0), "0 B/s");
        assert_eq!(rate(999), "999 B/s");
        assert_eq!(rate(1_000), "1.0 kB/s");
        assert_eq!(rate(999_950), "1.0 MB/s");
        assert_eq!(rate(12_345_678), "12.3 MB/s");
        assert_eq!(rate(u64::MAX), "18446744.1 TB/s");
        assert_eq!(span(59), "59s");
        assert_eq!(span(61), "1m 1s");
        assert_eq!(span(3 * 3600 + 12 * 60 + 5), "3h 12m");
        assert_eq!(span(50 * 3600), "2d 2h");
    }

    #[test]
    fn a_rate_is_of_the_time_that_really_passed_and_never_negative() {
        let at = |to_device, to_visitor| DeviceTraffic {
            device: DeviceId::from_bytes([1; 16]),
            key: directory::PublicKey::from_bytes([1; 32]),
            transport: Transport::Quic,
            takes_visitors: true,
            visitors: 1,
            to_device,
            to_visitor,
        };
        let took = Duration::from_millis(500);
        assert_eq!(rates(at(150, 1000), Some(&at(100, 0)), took), [100, 2000]);
        assert_eq!(rates(at(10, 20), Some(&at(100, 0)), took), [0, 40]);
        assert_eq!(rates(at(10, 20), None, took), [20, 40]);
    }

    #[test]
    fn columns_stay_where_they_are_whatever_is_in_them() {
        let device = |host: &str, to_visitor| BusyDevice {
            name: "mynas".into(),
            host: host.into(),
            state: "attached".into(),
            transport: "quic".into(),
            visitors: 3,
            to_device_per_second: 0,
            to_visitor_per_second: to_visitor,
            since: Some(100),
        };
        let top = Top {
            registered: 9,
            attached: 3,
            visitors: 6,
            to_devices_per_second: 0,
            to_visitors_per_second: 1_200_000,
            busiest: vec![
                device("a.nas.localhost", 1_200_000),
                device("longer.nas.localhost", 7),
            ],
        };
        let text = table(&top, UNIX_EPOCH + Duration::from_secs(130));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "3 of 9 devices attached, 6 visitors, 0 B/s to devices, 1.2 MB/s to visitors"
        );
        let since = lines[2].find("SINCE").unwrap();
        for line in &lines[3..5] {
            assert_eq!(line.find("30s"), Some(since), "{text}");
        }
        assert_eq!(lines[5], "and 1 quieter");
    }
}
