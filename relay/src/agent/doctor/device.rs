//! The device itself: whether its agent runs, its processor, and what its kernel gives an agent.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::agent::status::StatusError;
use crate::quic::socket_buffers::{self, Limit};
use crate::quic::{AGENT_BUFFER, Gso};

use super::finding::{Finding, Hop};

/// `CAP_NET_ADMIN` in linux/capability.h.
const NET_ADMIN: u32 = 12;

/// Whether an agent runs, as far as it says so.
pub(super) fn agent(silence: Option<&StatusError>) -> Finding {
    const SUBJECT: &str = "agent";
    match silence {
        None => Hop::Device.well(SUBJECT, "runs"),
        Some(error @ StatusError::NotRunning(_)) => Hop::Device.unknown(
            SUBJECT,
            format!(
                "{error}: nobody reaches the device, and what only an agent knows is not looked at"
            ),
            "start it: `systemctl start causeway-agent`, or `causeway-agent run --origin URL`",
        ),
        Some(error @ StatusError::NoAnswer(_)) => Hop::Device.unknown(
            SUBJECT,
            error.to_string(),
            "ask as the user that the agent runs as, or as root; if it hangs, restart it",
        ),
    }
}

/// What has nothing to do with any network. `agent` is the process of the running agent.
pub(super) fn examine(agent: Option<i32>) -> Vec<Finding> {
    vec![
        processor(),
        udp_buffers(agent),
        congestion_control(),
        batches(),
    ]
}

/// All that passes is encrypted, and mostly with AES.
fn processor() -> Finding {
    const SUBJECT: &str = "processor";
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default(); // empty says nothing, as it should
    match has_aes(&cpuinfo) {
        Some(true) => Hop::Device.well(SUBJECT, "has instructions for AES"),
        Some(false) => Hop::Device.slow(
            SUBJECT,
            "it has no instructions for AES, so encryption costs some ten times as much of it, and sets how fast transfers are",
            "in a virtual machine let the guest see the host's processor (CPU type `host`); a processor that has none stays as it is",
        ),
        None => Hop::Device.unknown(
            SUBJECT,
            "/proc/cpuinfo does not say whether it has instructions for AES",
            "nothing, unless transfers are slow while a core is busy",
        ),
    }
}

/// `flags` is what x86 has and `Features` what ARM has; others say it in ways of their own.
fn has_aes(cpuinfo: &str) -> Option<bool> {
    let features = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(value)
    })?;
    Some(features.split_whitespace().any(|feature| feature == "aes"))
}

/// What the kernel gives is looked at, and not what its limits are: who may do so passes them.
fn udp_buffers(agent: Option<i32>) -> Finding {
    const SUBJECT: &str = "UDP buffers";
    let limit = match agent.and_then(may_pass_limits) {
        Some(false) => Limit::Respected,
        Some(true) | None => Limit::PassedIfAllowed,
    };
    let given = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket_buffers::given_of(&socket, AGENT_BUFFER, limit));
    let (receive, send) = match given {
        Ok(given) => given,
        Err(error) => {
            let words = format!("a UDP socket cannot be had: {error}");
            return Hop::Device.ill(SUBJECT, words, "see what keeps this user from sockets");
        }
    };
    let small = [("net.core.rmem_max", receive), ("net.core.wmem_max", send)];
    let settings: Vec<_> = small
        .into_iter()
        .filter(|(_, given)| *given < AGENT_BUFFER)
        .map(|(limit, _)| format!("{limit}={AGENT_BUFFER}"))
        .collect();
    if settings.is_empty() {
        return Hop::Device.well(SUBJECT, "as large as they should be");
    }
    Hop::Device.slow(
        SUBJECT,
        format!(
            "of {} KiB that are asked for the kernel gives {} to receive and {} to send: fast transfers lose packets in this device itself",
            AGENT_BUFFER / 1024,
            receive / 1024,
            send / 1024
        ),
        format!(
            "as root: `sysctl -w {}`, and the same in a file of /etc/sysctl.d, so that it stays; then restart the agent",
            settings.join(" ")
        ),
    )
}

/// Whether that process may have larger buffers than the system's limits; `None` if it cannot be seen.
fn may_pass_limits(process: i32) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(line?.trim(), 16).ok()?;
    Some(effective >> NET_ADMIN & 1 == 1)
}

/// On long paths with a little loss it decides everything, see `congestion.rs`.
fn congestion_control() -> Finding {
    const SUBJECT: &str = "congestion control";
    const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    let chosen = socket.and_then(|socket| socket.set_tcp_congestion(b"bbr"));
    match chosen {
        Ok(()) => Hop::Device.well(SUBJECT, "BBR may be used"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Hop::Device.slow(
            SUBJECT,
            "BBR is not permitted to this user: on long paths with a little loss transfers are many times slower",
            format!("add bbr to {ALLOWED}"),
        ),
        Err(_) => Hop::Device.slow(
            SUBJECT,
            "the kernel has no BBR: on long paths with a little loss transfers are many times slower",
            format!("load tcp_bbr (`modprobe tcp_bbr`), and add bbr to {ALLOWED}"),
        ),
    }
}

fn batches() -> Finding {
    const SUBJECT: &str = "packets in batches";
    match Gso::Auto.begins_with_batches() {
        true => Hop::Device.well(SUBJECT, "come out of the kernel as they went in"),
        false => Hop::Device.slow(
            SUBJECT,
            "they are damaged or lost within this device (UDP GSO), so each packet is sent by itself, which costs four times as much",
            "try another kernel, and see whether a rule of its firewall drops or changes packets that are longer than 1,500 octets; \
             after that restart the agent",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_says_what_it_has_in_the_way_of_its_kind() {
        let x86 = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu sse2 aes avx\n\n";
        assert_eq!(has_aes(x86), Some(true));
        assert_eq!(has_aes(&x86.replace(" aes ", " ")), Some(false));
        assert_eq!(has_aes(&x86.replace(" aes ", " vaes ")), Some(false));
        let arm = "processor\t: 0\nFeatures\t: fp asimd aes pmull sha1\n";
        assert_eq!(has_aes(arm), Some(true));
        assert_eq!(has_aes(&arm.replace("aes ", "")), Some(false));
        assert_eq!(has_aes("isa\t: rv64imafdc\n"), None);
        assert_eq!(has_aes(""), None);
    }

    #[test]
    fn what_a_process_may_is_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(may_pass_limits(own).is_some());
        assert_eq!(may_pass_limits(-1), None);
    }
}
