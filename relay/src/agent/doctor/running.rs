//! What a running agent says is amiss, hop by hop, with what to do about it: what `status` tells, and what only time shows the doctor.

use crate::agent::choice::Reason;
use crate::agent::origin_failure::OriginFailure;
use crate::agent::status::{Status, TunnelStatus};

use super::finding::{Finding, Hop};
use super::{port, service};

/// What is amiss by its `status`, from the device to its service. Empty if nothing is.
pub fn complaints(status: &Status) -> Vec<Finding> {
    let mut complaints = Vec::new();
    let of_tunnels = status.tunnels.iter().flat_map(of_tunnel);
    complaints.extend(of_tunnels);
    if status.tunnels.is_empty() {
        complaints.extend(known(&status.reasons).map(|reason| complaint("relay", reason)));
        complaints.push(Hop::Way.ill(
            "tunnel",
            "there is none: nobody reaches the device",
            "`causeway-agent doctor` looks for what keeps it from its relay",
        ));
    }
    let problem = status.dns.as_ref().and_then(|dns| dns.problem.as_ref());
    complaints.extend(problem.map(|problem| {
        Hop::Name.slow(
            &status.device,
            format!("it is not led to this device: {problem}"),
            "without a public address of its own run the agent without `--dns report`: the relay leads visitors here",
        )
    }));
    complaints.extend(misconfigured(status));
    complaints.extend(strange_certificates(status));
    complaints.extend(port::complaints(status));
    complaints.extend(status.services.iter().filter_map(|service| {
        let problem = service.problem.as_ref()?;
        let failure = OriginFailure::of_words(problem);
        let mend = failure.map_or("see what the service's log says", OriginFailure::mend);
        Some(Hop::Service.ill(service::subject(service), problem, mend))
    }));
    complaints.sort_by_key(|complaint| complaint.hop);
    complaints
}

/// What the file of the services says and is not in force.
fn misconfigured(status: &Status) -> Option<Finding> {
    let configuration = status.configuration.as_ref()?;
    let problem = configuration.problem.as_ref()?;
    Some(Hop::Device.ill(
        "configuration",
        format!("what stood there before is in force: {problem}"),
        format!(
            "mend {}; the agent reads it again by itself",
            configuration.file
        ),
    ))
}

/// Certificates for the device's name that are not its own.
fn strange_certificates(status: &Status) -> Option<Finding> {
    let seen = status.seen.as_ref()?;
    let first = seen.certificates.first()?;
    let more = match seen.strange {
        0 | 1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    let (names, issuer) = (first.names.join(", "), &first.issuer);
    Some(Hop::Name.ill(
        "certificates",
        format!("somebody else has a certificate for {names}, from {issuer}{more}: who has it can pose as this device"),
        "`causeway-agent certificates list` shows it; if it is yours, `causeway-agent certificates accept` its key, else ask the operator, \
         and have its authority revoke it",
    ))
}

/// Those of them that the doctor cannot see by itself, or not in the time that it has.
pub(super) fn only_in_time(status: &Status) -> Vec<Finding> {
    let of_tunnel = |tunnel: &TunnelStatus| {
        let reasons: Vec<_> = known(&tunnel.reasons).collect();
        let subject = tunnel.relay.clone();
        let lasting = reasons.into_iter().filter(|reason| match reason {
            Reason::PathLossy | Reason::PathQueued | Reason::RawMissed | Reason::BatchesLost => {
                true
            }
            Reason::UdpUnanswered | Reason::RawNotOffered | Reason::BatchesDamaged => false,
        });
        lasting
            .map(|reason| complaint(&subject, reason))
            .collect::<Vec<_>>()
    };
    let of_tunnels = status.tunnels.iter().flat_map(of_tunnel);
    let lasting = of_tunnels.chain(misconfigured(status));
    lasting.chain(strange_certificates(status)).collect()
}

fn of_tunnel(tunnel: &TunnelStatus) -> Vec<Finding> {
    let reasons = known(&tunnel.reasons);
    reasons
        .map(|reason| complaint(&tunnel.relay, reason))
        .collect()
}

/// Those that this version knows: the agent may be a newer one.
fn known(names: &[String]) -> impl Iterator<Item = Reason> {
    names.iter().filter_map(|name| Reason::of_name(name))
}

fn complaint(relay: &str, reason: Reason) -> Finding {
    let (hop, subject, mend) = match reason {
        Reason::UdpUnanswered => (
            Hop::Way,
            format!("{relay} over UDP"),
            "let UDP to the relay's port out through the firewall of this device, of its router, and of its network",
        ),
        Reason::RawNotOffered => (
            Hop::Relay,
            format!("{relay}, bulk"),
            "nothing on this device: the operator has set it so (`raw` in [relay])",
        ),
        Reason::RawMissed => (
            Hop::Way,
            format!("{relay}, bulk"),
            "let TCP to the relay's port out through the firewalls on the way, without any that looks into what passes",
        ),
        Reason::PathLossy => (
            Hop::Way,
            format!("{relay}, losses"),
            "if it stays so, see what loses packets: Wi-Fi instead of a cable, an overloaded uplink, a provider that slows UDP",
        ),
        Reason::PathQueued => (
            Hop::Way,
            format!("{relay}, delay"),
            "the uplink is full, or the provider slows UDP; a router that shares it fairly helps (SQM, fq_codel)",
        ),
        Reason::BatchesDamaged => (
            Hop::Device,
            "packets in batches".to_owned(),
            "`causeway-agent doctor` says what to look at",
        ),
        Reason::BatchesLost => (
            Hop::Way,
            format!("{relay}, batches"),
            "update the driver of the network interface, or run the agent with `--gso off`",
        ),
    };
    hop.slow(subject, reason.to_string(), mend)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Health;
    use super::*;
    use crate::agent::status::{ConfigurationStatus, PortStatus};

    fn status(reasons: &[&str], problem: Option<&str>) -> Status {
        let tunnel = serde_json::json!({
            "relay": "relay:443", "transport": "quic", "seen_as": "203.0.113.7:1", "seconds": 1, "bulk": "raw", "visitors": 0,
            "raw_came": 0, "raw_missed": 0, "why": [], "reasons": reasons, "limits": null, "path": null,
        });
        let status = serde_json::json!({
            "device": "mynas.example.com", "software": "", "tunnel": tunnel, "tunnels": [tunnel], "visitors": 0, "too_slow": {},
            "raw_came": 0, "raw_missed": 0, "why": [], "reasons": reasons, "dns": null,
            "origin": { "address": "127.0.0.1:80", "problem": problem, "failures": {} },
            "services": [{ "name": "*", "origin": "http://127.0.0.1:80", "proxy_header": false, "http3": null, "reach": "name", "health": null,
                "problem": problem, "failures": {} }],
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn each_reason_has_a_hop_and_a_mend() {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        let complaints = complaints(&status(&names, Some("nobody listens there")));
        assert_eq!(complaints.len(), names.len() + 1);
        assert!(complaints.iter().all(|complaint| complaint.mend.is_some()));
        assert_eq!(complaints.first().unwrap().hop, Hop::Device);
        assert_eq!(complaints.last().unwrap().hop, Hop::Service);
    }

    #[test]
    fn a_file_that_is_wrong_is_named() {
        let mut status = status(&[], None);
        status.configuration = Some(ConfigurationStatus {
            file: "agent.toml".to_owned(),
            problem: Some("agent.toml:3: unknown field".to_owned()),
        });
        let complaints = complaints(&status);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].words.contains(":3: unknown field"));
    }

    /// A tunnel to that relay, which has said so of a public port.
    fn tunnel(relay: &str, problem: Option<&str>) -> TunnelStatus {
        let mut tunnel = status(&[], None).tunnels.remove(0);
        relay.clone_into(&mut tunnel.relay);
        tunnel.ports.push(PortStatus {
            port: "20022/tcp".to_owned(),
            state: problem.map_or("open", |_| "taken").to_owned(),
            problem: problem.map(str::to_owned),
            mend: problem.map(|_| "ask for another one".to_owned()),
        });
        tunnel
    }

    #[test]
    fn a_service_whose_public_port_is_not_open_is_named() {
        let mut status = status(&[], None);
        status.services[0].public = Some("20022/tcp".to_owned());
        status.tunnels = vec![tunnel("one:443", Some("another device has it"))];
        let complaint = complaints(&status).remove(0);
        let of = (complaint.hop, complaint.health, complaint.mend.as_deref());
        assert_eq!(of, (Hop::Relay, Health::Ill, Some("ask for another one")));
        assert_eq!(complaint.subject, "service *, port 20022/tcp");
        assert_eq!(
            complaint.words,
            "it is not open at one:443: another device has it"
        );
        // Where another relay has it open, visitors come all the same.
        status.tunnels.push(tunnel("two:443", None));
        let complaints = complaints(&status);
        assert_eq!(complaints.len(), 1);
        assert_eq!(complaints[0].health, Health::Slow);
    }

    #[test]
    fn an_agent_that_is_well_has_none_and_one_without_a_tunnel_is_ill() {
        assert_eq!(complaints(&status(&[], None)), []);
        assert_eq!(complaints(&status(&["of_a_later_version"], None)), []);
        let mut away = status(&[], None);
        away.tunnels.clear();
        let complaints = complaints(&away);
        assert_eq!(complaints.len(), 1);
        assert_eq!(complaints[0].health, Health::Ill);
    }
}
