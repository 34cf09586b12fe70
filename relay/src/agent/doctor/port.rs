//! The public ports that are to lead to services of the running agent: whether each is open, at the relay of each tunnel.

use crate::agent::status::{PortStatus, Status, TunnelStatus};

use super::finding::{Finding, Health, Hop};

/// How it stands with each of them. Without a tunnel nothing is said: that there is none is worse.
pub(super) fn examine(status: &Status) -> Vec<Finding> {
    let of_tunnel = |tunnel: &TunnelStatus| {
        let ports = tunnel.ports.iter();
        let findings = ports.map(|port| judged(status, &tunnel.relay, port));
        findings.collect::<Vec<_>>()
    };
    status.tunnels.iter().flat_map(of_tunnel).collect()
}

/// Those of them that are not open.
pub(super) fn complaints(status: &Status) -> Vec<Finding> {
    let mut findings = examine(status);
    findings.retain(|finding| finding.health > Health::Well);
    findings
}

fn judged(status: &Status, relay: &str, port: &PortStatus) -> Finding {
    let subject = subject(status, &port.port);
    let Some(problem) = &port.problem else {
        return Hop::Relay.well(subject, format!("it is open at {relay}"));
    };
    let hop = match port.state.as_str() {
        "no_datagrams" => Hop::Way,
        _ => Hop::Relay,
    };
    let words = format!("it is not open at {relay}: {problem}");
    let mend = port.mend.as_deref().unwrap_or("ask your operator for it");
    // Where another relay has it open, visitors come there.
    match is_open_somewhere(status, &port.port) {
        true => hop.slow(subject, words, mend),
        false => hop.ill(subject, words, mend),
    }
}

fn subject(status: &Status, port: &str) -> String {
    let mut services = status.services.iter();
    match services.find(|service| service.public.as_deref() == Some(port)) {
        Some(service) => format!("service {}, port {port}", service.name),
        None => format!("port {port}"), // the file has just been changed
    }
}

fn is_open_somewhere(status: &Status, port: &str) -> bool {
    let mut ports = status.tunnels.iter().flat_map(|tunnel| &tunnel.ports);
    ports.any(|one| one.port == port && one.problem.is_none())
}
