//! What an operator can limit: every key with its default, its bounds and their reasons.

use serde::Deserialize;

use crate::octets;

/// The `[relay.limits]` section. What is absent has its default. All of it can be changed while the relay runs
/// ([`Handle::set_limits`](crate::server::Handle::set_limits)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Visitors who are served, in all. Absent: as many as there are descriptors for.
    pub visitors: Option<usize>,
    /// Of these, of one address: a household or an office is many, but never everybody. Absent: half of all.
    pub visitors_per_address: Option<usize>,
    /// Visitors of one device.
    pub visitors_per_device: Option<usize>,
    /// Connections that have not said yet whom they want, in all.
    pub unnamed: Option<usize>,
    /// Of these, of one address.
    pub unnamed_per_address: Option<usize>,
    /// New connections a second of one address.
    pub connections_per_second_per_address: Option<u32>,
    /// Agents' handshakes a second of one address.
    pub handshakes_per_second_per_address: Option<u32>,
    /// TLS handshakes with agents and for the operator's own hosts that one worker has under way at a time.
    pub tls_handshakes_per_worker: Option<usize>,
    /// With more QUIC handshakes than this under way, an agent must first show that its address is its own.
    pub retry_above: Option<usize>,
    /// Memory of this process: `"2GiB"`. Newcomers are sent away while less than an eighth of it is left or will be, and where
    /// more is used, the newest visitors. Absent: three quarters of what the machine has or the control group allows.
    #[serde(deserialize_with = "octets::amount")]
    pub memory: Option<u64>,
    /// What all visitors of a device together may move, both ways, in octets a second: `"10MB"`. Absent: no limit.
    #[serde(deserialize_with = "octets::amount")]
    pub bytes_per_second_per_device: Option<u64>,
}

/// Below the number of streams an agent grants, so that one is always free; that is 4096.
pub(crate) const VISITORS_PER_DEVICE: usize = 4000;

/// So many wait in a flood of visitors who say nothing, for five seconds each: 3000 a second. Each has a descriptor and 2 KiB.
pub(super) const UNNAMED: usize = 15_000;

/// Many addresses are needed to shut others out.
pub(super) const UNNAMED_PER_ADDRESS: usize = 1024;

/// An office is one address, and a page takes a connection or two: some hundreds of people who all open one at once.
pub(super) const CONNECTIONS_PER_SECOND: u32 = 500;

/// A provider may have thousands of devices behind one address, which all come back after a restart.
pub(super) const HANDSHAKES_PER_SECOND: u32 = 500;

/// As many as there may be over QUIC. An agent without UDP brings a carrier for each visitor who comes, and a thousand may come at once.
pub(super) const TLS_HANDSHAKES: usize = 4096;

/// A Retry costs an agent a round trip and a forger the reward.
pub(super) const RETRY_ABOVE: usize = 256;

/// With less the relay sends everybody away before anybody has come.
const LEAST_MEMORY: u64 = 64 << 20;

/// With less no page would come to its end.
pub const LEAST_BYTES_PER_SECOND: u64 = 16_000;

/// More than any machine moves: such a limit is a slip of the pen.
pub const MOST_BYTES_PER_SECOND: u64 = 1_000_000_000_000;

/// More than the kernel gives descriptors for.
const MOST: u64 = 10_000_000;

impl LimitsConfig {
    /// What is wrong with it: a key of the section, and a sentence.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let number = |value: Option<usize>| value.map(|value| value as u64);
        let rate = |value: Option<u32>| value.map(u64::from);
        let values = [
            ("visitors", number(self.visitors), 1, MOST),
            (
                "visitors_per_address",
                number(self.visitors_per_address),
                1,
                MOST,
            ),
            // Above it the agent's streams run out, and its visitors wait for each other without being told.
            (
                "visitors_per_device",
                number(self.visitors_per_device),
                1,
                VISITORS_PER_DEVICE as u64,
            ),
            // With fewer, those who are merely on a slow path would be refused.
            ("unnamed", number(self.unnamed), 16, MOST),
            (
                "unnamed_per_address",
                number(self.unnamed_per_address),
                4,
                MOST,
            ),
            // Fewer would refuse one browser that opens one page.
            (
                "connections_per_second_per_address",
                rate(self.connections_per_second_per_address),
                10,
                MOST,
            ),
            (
                "handshakes_per_second_per_address",
                rate(self.handshakes_per_second_per_address),
                1,
                MOST,
            ),
            (
                "tls_handshakes_per_worker",
                number(self.tls_handshakes_per_worker),
                1,
                MOST,
            ),
            // 0 asks everybody always, which is a way to be safe.
            ("retry_above", number(self.retry_above), 0, MOST),
        ];
        let mut faults = Vec::new();
        for (key, value, least, most) in values {
            if let Some(value) = value
                && !(least..=most).contains(&value)
            {
                faults.push((
                    key,
                    format!("{value} cannot be; from {least} to {most} can"),
                ));
            }
        }
        if let Some(value) = self.memory
            && value < LEAST_MEMORY
        {
            let sentence = format!("{} cannot be; 64MiB and more can", octets::write(value));
            faults.push(("memory", sentence));
        }
        if let Some(value) = self.bytes_per_second_per_device
            && !(LEAST_BYTES_PER_SECOND..=MOST_BYTES_PER_SECOND).contains(&value)
        {
            let sentence = format!(
                "{} cannot be; from {} to {} can",
                octets::write(value),
                octets::write(LEAST_BYTES_PER_SECOND),
                octets::write(MOST_BYTES_PER_SECOND)
            );
            faults.push(("bytes_per_second_per_device", sentence));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_good_and_what_cannot_be_is_told_with_what_can() {
        assert_eq!(LimitsConfig::default().faults(), []);
        let bad = LimitsConfig {
            visitors_per_device: Some(4001),
            unnamed: Some(0),
            bytes_per_second_per_device: Some(15_999),
            ..LimitsConfig::default()
        };
        let faults = bad.faults();
        let keys: Vec<_> = faults.iter().map(|(key, _)| *key).collect();
        assert_eq!(
            keys,
            [
                "visitors_per_device",
                "unnamed",
                "bytes_per_second_per_device"
            ]
        );
        assert_eq!(faults[0].1, "4001 cannot be; from 1 to 4000 can");
        assert_eq!(faults[2].1, "15999B cannot be; from 16kB to 1000GB can");
    }
}
