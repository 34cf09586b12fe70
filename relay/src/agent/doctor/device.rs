//! The device itself: what its kernel gives an agent.

use std::fs;
use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use crate::quic::{self, Gso};

use super::finding::{Finding, Health, finding};

/// What a UDP socket should be allowed to keep, in octets.
const BUFFER: u64 = quic::AGENT_BUFFER as u64;

/// Looks at all of it.
pub(super) fn examine() -> Vec<Finding> {
    vec![congestion_control(), udp_buffers(), batches()]
}

/// On long paths with a little loss it decides everything, see `congestion.rs`.
fn congestion_control() -> Finding {
    const SUBJECT: &str = "congestion control";
    const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    let chosen = socket.and_then(|socket| socket.set_tcp_congestion(b"bbr"));
    match chosen {
        Ok(()) => finding(SUBJECT, Health::Well, "BBR may be used"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => finding(
            SUBJECT,
            Health::Slow,
            format!("BBR is not permitted to this user: add bbr to {ALLOWED}"),
        ),
        Err(_) => finding(
            SUBJECT,
            Health::Slow,
            format!("the kernel has no BBR: load tcp_bbr, and add bbr to {ALLOWED}"),
        ),
    }
}

fn batches() -> Finding {
    const SUBJECT: &str = "packets in batches";
    match Gso::Auto.begins_with_batches() {
        true => finding(
            SUBJECT,
            Health::Well,
            "come out of the kernel as they went in",
        ),
        false => finding(
            SUBJECT,
            Health::Slow,
            "this kernel damages them (UDP GSO), so each packet is sent by itself: try another kernel",
        ),
    }
}

fn udp_buffers() -> Finding {
    const SUBJECT: &str = "UDP buffers";
    let limits = ["net.core.rmem_max", "net.core.wmem_max"].map(|limit| {
        let file = format!("/proc/sys/{}", limit.replace('.', "/"));
        let text = fs::read_to_string(file).unwrap_or_default();
        (limit, text.trim().parse::<u64>().ok())
    });
    let small: Vec<_> = limits
        .iter()
        .filter(|(_, octets)| octets.is_some_and(|octets| octets < BUFFER))
        .map(|(limit, _)| *limit)
        .collect();
    if small.is_empty() {
        return finding(SUBJECT, Health::Well, "as large as they should be");
    }
    let words = format!("raise {} to {BUFFER}", small.join(" and "));
    finding(SUBJECT, Health::Slow, words)
}
