//! What is told a person, or a machine, of how the agent is and of what keeps visitors away.

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use relay::acme::CaaStatus;
use relay::agent::{
    self, CertificateStatus, Cloud, ConfigurationStatus, DirectStatus, DnsStatus, Finding,
    FlowsStatus, Health, Identity, LimitsStatus, PassedOver, PortStatus, ServiceStatus, State,
    Status, Steer, SteeringStatus, TunnelStatus,
};
use relay::octets;
use relay::resolve::Resolver;
use relay::tls::Roots;
use serde::Serialize;
use tokio::time::timeout;

use super::arguments::StateOption;
use super::certificates;

/// How long the cloud may take to say where the device's name leads.
const CLOUD_TIME: Duration = Duration::from_secs(3);

/// Says how the agent is. It is a failure if nobody can reach the device.
pub(super) async fn tell(state: StateOption, json: bool) -> anyhow::Result<()> {
    let state = state.open()?;
    let mut status = agent::ask(&state).await?;
    if let Some(direct) = &mut status.direct {
        // Nobody is to wait for a cloud that is away to hear how the device is.
        let asked = timeout(CLOUD_TIME, steering_of(&state)).await;
        direct.steering = asked.ok().and_then(Result::ok).flatten();
    }
    let complaints = agent::complaints(&status);
    if json {
        let (status, complaints) = (&status, &complaints);
        let told = serde_json::to_string_pretty(&Told { status, complaints })?;
        println!("{told}");
    } else {
        println!("{}", printable(&in_words(&status)));
        for complaint in &complaints {
            println!("{}", printable(&to_mend(complaint)));
        }
    }
    match status.tunnel {
        Some(_) => Ok(()),
        None => bail!("the device cannot be reached: it has no tunnel"),
    }
}

/// Says where the device's name is to lead, and what the cloud makes of that.
pub(super) async fn steer(to: Steer, state: StateOption, json: bool) -> anyhow::Result<()> {
    let state = state.open()?;
    let (cloud, identity) = cloud_of(&state)?;
    let Some(steering) = agent::steer(&cloud, &identity, to).await? else {
        bail!("the cloud does not steer names: it is older than this agent");
    };
    match json {
        true => println!("{}", serde_json::to_string_pretty(&steering)?),
        false => println!("{}", printable(&steering_in_words(&steering))),
    }
    Ok(())
}

async fn steering_of(state: &State) -> anyhow::Result<Option<SteeringStatus>> {
    let (cloud, identity) = cloud_of(state)?;
    Ok(agent::steering(&cloud, &identity).await?)
}

fn cloud_of(state: &State) -> anyhow::Result<(Cloud, Identity)> {
    let pairing = state.pairing()?;
    let roots = Roots::from_pem(&pairing.trust_root)?;
    let cloud = Cloud::new(&pairing.cloud, roots, Resolver::System)?;
    Ok((cloud, state.identity()?))
}

/// A status, and what is amiss by it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a Status,
    complaints: &'a [Finding],
}

/// A text without what a terminal would obey: some of it is what others have said, such as whoever answers in the relay's place.
pub(super) fn printable(text: &str) -> String {
    let is_obeyed = |letter: char| letter.is_control() && letter != '\n';
    text.replace(is_obeyed, "\u{fffd}")
}

/// What it is has been said above.
fn to_mend(complaint: &Finding) -> String {
    let Finding {
        hop, subject, mend, ..
    } = complaint;
    let mend = mend.as_deref().unwrap_or("nothing can be done");
    format!("to mend     {hop} ({subject}): {mend}")
}

fn in_words(status: &Status) -> String {
    let mut lines = vec![format!("device      {}", status.device)];
    lines.extend(status.tunnels.iter().flat_map(tunnel_in_words));
    lines.push(format!("visitors    {}", status.visitors));
    lines.extend(services_in_words(&status.services));
    let configuration = status.configuration.as_ref();
    if let Some(ConfigurationStatus {
        file,
        problem: Some(problem),
    }) = configuration
    {
        lines.push(format!(
            "not read    {file}, so what it said before is in force:"
        ));
        lines.extend(problem.lines().map(because));
    }
    lines.extend(flows_in_words(&status.flows));
    let limits = status.tunnel.as_ref().and_then(|tunnel| tunnel.limits);
    lines.extend(limits.map(limits_in_words));
    lines.extend(status.clock_behind.map(clock_in_words));
    lines.extend(status.dns.as_ref().map(dns_in_words));
    lines.extend(status.lan.as_ref().map(lan_in_words));
    lines.extend(status.direct.iter().flat_map(direct_in_words));
    lines.extend(status.certificate.iter().flat_map(certificate_in_words));
    lines.extend(status.seen.iter().flat_map(certificates::in_words));
    if status.tunnels.is_empty() {
        lines.extend(status.why.iter().map(because));
    }
    lines.join("\n")
}

/// Those of which there is something to say. Where there is one for all names, it needs none.
fn services_in_words(services: &[ServiceStatus]) -> Vec<String> {
    let width = services.iter().map(|service| service.name.len()).max();
    let is_named = services.iter().any(|service| service.name != "*");
    let mut lines = Vec::new();
    for service in services {
        let ServiceStatus {
            name,
            origin,
            reach,
            public,
            health,
            problem,
            ..
        } = service;
        let name = match is_named {
            true => format!("{name:<width$}  ", width = width.unwrap_or_default()),
            false => String::new(),
        };
        let state = match (health.as_deref(), problem) {
            (Some("ill"), Some(problem)) => format!(": not well, {problem}"),
            (_, Some(problem)) => format!(": {problem}"),
            (Some(health), None) => format!(": {health}"),
            (None, None) if is_named => String::new(),
            (None, None) => continue,
        };
        let reach = match reach.as_str() {
            "name" => String::new(),
            "both" => ", for apps too".to_owned(),
            "port" => String::new(),
            _ => ", for apps".to_owned(),
        };
        let public = public.as_ref().map(|port| format!(", at port {port}"));
        let public = public.unwrap_or_default();
        lines.push(format!("service     {name}{origin}{reach}{public}{state}"));
    }
    lines
}

fn tunnel_in_words(tunnel: &TunnelStatus) -> Vec<String> {
    let since = Duration::from_secs(tunnel.seconds);
    let mut lines = vec![
        format!(
            "tunnel      {} to {}, for {}",
            tunnel.transport.to_uppercase(),
            tunnel.relay,
            humantime::format_duration(since)
        ),
        format!("seen as     {}", tunnel.seen_as),
    ];
    if let Some(path) = &tunnel.path {
        lines.push(format!(
            "path        {:.1} ms round trip, {} of {} packets lost, {}",
            path.round_trip_ms,
            path.packets_lost,
            path.packets_sent,
            path.congestion_control.to_uppercase()
        ));
    }
    lines.push(match tunnel.bulk.as_str() {
        "raw" => format!(
            "bulk        over TCP beside the tunnel ({} came, {} did not)",
            tunnel.raw_came, tunnel.raw_missed
        ),
        _ => "bulk        in the tunnel".to_owned(),
    });
    lines.extend(tunnel.why.iter().map(because));
    for PortStatus { port, problem, .. } in &tunnel.ports {
        lines.push(match problem {
            None => format!("port        {port} is open"),
            Some(problem) => format!("port        {port} is not open: {problem}"),
        });
    }
    lines
}

fn because(why: &(impl fmt::Display + ?Sized)) -> String {
    format!("because     {why}")
}

fn flows_in_words(flows: &FlowsStatus) -> Option<String> {
    let refused: u64 = flows.refused.values().sum();
    let lost: u64 = flows.lost.values().sum();
    (flows.taken + refused > 0).then(|| {
        format!(
            "datagrams   {} visitors ({} came, {refused} were refused; {lost} datagrams lost here)",
            flows.visitors, flows.taken
        )
    })
}

fn limits_in_words(limits: LimitsStatus) -> String {
    let rate = limits.bytes_per_second.map_or_else(
        || "any number of bytes".to_owned(),
        |rate| octets::write(rate.get()),
    );
    format!("at most     {rate} a second, {} visitors", limits.visitors)
}

fn clock_in_words(behind: i64) -> String {
    let by = humantime::format_duration(Duration::from_secs(behind.unsigned_abs()));
    let way = match behind > 0 {
        true => "behind",
        false => "ahead of",
    };
    format!(
        "clock       {by} {way} the cloud's; set it (`timedatectl set-ntp true`), for certificates begin and end by it"
    )
}

fn dns_in_words(dns: &DnsStatus) -> String {
    let addresses: Vec<_> = dns.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    match (&dns.problem, dns.version) {
        (Some(problem), _) => format!("name        not led here: {problem}"),
        (None, Some(version)) if addresses.is_empty() => {
            format!("name        led back to the relay (version {version})")
        }
        (None, version) => format!(
            "name        leads to {addresses} (version {})",
            version.unwrap_or_default()
        ),
    }
}

fn lan_in_words(lan: &DnsStatus) -> String {
    let addresses: Vec<_> = lan.addresses.iter().map(ToString::to_string).collect();
    match (&lan.problem, addresses.is_empty()) {
        (Some(problem), _) => format!("at home     not told: {problem}"),
        (None, true) => "at home     at no address of a private network".to_owned(),
        (None, false) => format!(
            "at home     lan. in front of the name leads to {}",
            addresses.join(", ")
        ),
    }
}

fn direct_in_words(direct: &DirectStatus) -> Vec<String> {
    let DirectStatus {
        port,
        visitors,
        proofs,
        refused,
        steering,
        problem,
    } = direct;
    let refused: u64 = refused.values().sum();
    let mut lines = vec![format!(
        "direct      at port {port}: {visitors} visitors ({refused} were refused), found there {proofs} times"
    )];
    lines.extend(steering.as_ref().map(steering_in_words));
    lines.extend(problem.iter().map(because));
    lines
}

fn steering_in_words(steering: &SteeringStatus) -> String {
    let SteeringStatus {
        mode, leads, why, ..
    } = steering;
    let leads = match leads.as_str() {
        "device" => "to this device",
        "relay" => "to the relay",
        _ => "where its addresses say",
    };
    format!("steered     {mode}, {leads}: {why}")
}

fn certificate_in_words(certificate: &CertificateStatus) -> Vec<String> {
    let day = |seconds: u64| {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let time = time.unwrap_or(UNIX_EPOCH);
        humantime::format_rfc3339_seconds(time).to_string()
    };
    let CertificateStatus {
        authority,
        not_after,
        renew_at,
        asked,
        problem,
        mend,
        next_try,
        passed_over,
        caa,
    } = certificate;
    let mut lines = vec![match (authority, not_after, renew_at) {
        (Some(authority), Some(end), Some(renew)) => format!(
            "certificate from {authority}, until {}; the next is ordered {}",
            day(*end),
            day(*renew)
        ),
        _ => "certificate from the operator's own authority".to_owned(),
    }];
    if let Some(problem) = problem {
        let asked = asked.as_ref().map(|asked| format!("{asked}: "));
        let next = next_try.map(|next| format!(" (tried again {})", day(next)));
        let (asked, next) = (asked.unwrap_or_default(), next.unwrap_or_default());
        lines.push(format!("not renewed {asked}{problem}{next}"));
    }
    if let Some(passed_over) = passed_over {
        let PassedOver {
            authority, problem, ..
        } = passed_over;
        lines.push(format!("passed over {authority}: {problem}"));
    }
    let mends = mend.iter().chain(passed_over.iter().map(|over| &over.mend));
    let mut mends: Vec<_> = mends.collect();
    mends.dedup();
    let mends = mends.into_iter();
    lines.extend(mends.map(|mend| format!("to mend     certificate: {mend}")));
    let CaaStatus { issuers, problem } = caa;
    if !issuers.is_empty() {
        let issuers = issuers.join(" and ");
        lines.push(format!(
            "caa         {issuers} alone may issue for the name, and for this device's account"
        ));
    }
    if let Some(problem) = problem {
        lines.push(format!(
            "caa         others may have certificates for the name too: {problem}"
        ));
    }
    lines
}

/// Says what was found. It is a failure if something is bad.
pub(super) async fn examine(state: StateOption, json: bool) -> anyhow::Result<()> {
    let state = state.open()?;
    let is_watched = stderr().is_terminal();
    let progress = |done: usize, of: usize| {
        if is_watched {
            // Each over the one before; the last is gone.
            match done == of {
                true => eprint!("\r\x1b[K"),
                false => eprint!("\rlooking: {done} of {of} done"),
            }
        }
    };
    let findings = agent::examine(&state, Resolver::System, &progress).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        println!("{}", printable(&findings_in_words(&findings)));
    }
    let bad = findings
        .iter()
        .filter(|finding| finding.health == Health::Ill);
    match bad.count() {
        0 => Ok(()),
        count => bail!("{count} of {} things are bad", findings.len()),
    }
}

/// A line for each, a second one for what to do about it, and one at the end for where to begin.
fn findings_in_words(findings: &[Finding]) -> String {
    let widths = findings
        .iter()
        .map(|finding| finding.subject.chars().count());
    let width = widths.max().unwrap_or_default();
    let mut lines = Vec::new();
    for Finding {
        subject,
        health,
        words,
        mend,
        ..
    } in findings
    {
        lines.push(format!("{health:<4}  {subject:<width$}  {words}"));
        let mend = mend.as_ref();
        lines.extend(mend.map(|mend| format!("      {:<width$}  to mend: {mend}", "")));
    }
    lines.push(String::new());
    lines.push(match agent::worst(findings) {
        None => "all that could be looked at is well".to_owned(),
        Some(Finding {
            hop,
            subject,
            health,
            ..
        }) => format!("begin with {hop}: {subject} is {health}"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nobody_who_was_asked() {
        let said = "closed: \u{1b}[2J\u{9b}all is well\r\nbad";
        let shown = "closed: \u{fffd}[2J\u{fffd}all is well\u{fffd}\nbad";
        assert_eq!(printable(said), shown);
    }
}
