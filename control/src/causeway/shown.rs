//! What the operator's verbs bring, shown to a person or to a program.

use anyhow::bail;
use control::operator::{
    Answer, KeyDuty, ListedDevice, ListedPort, ListedRelay, ShownKey, ShownLimits,
};
use control::steering::SteeringState;
use ddns::dnssec::keys::{Delegation, KeyStatus};

use super::certificates;

/// Facts go to standard output, one to a line; advice goes beside it.
pub(super) fn show(answer: Answer, json: bool) -> anyhow::Result<()> {
    match answer {
        Answer::Added {
            host,
            code,
            control,
        } => {
            println!("name: {host}");
            println!("code: {}", code.reveal());
            let control = control.unwrap_or_else(|| "https://cloud.ZONE".to_owned());
            eprintln!(
                "Within ten minutes, on the device: causeway-agent pair --control {control} --code CODE"
            );
        }
        Answer::Key(key) if json => println!("{}", serde_json::to_string_pretty(&key)?),
        Answer::Key(ShownKey {
            duty,
            host,
            user,
            key,
            tsig,
        }) => {
            println!("host: {host}");
            println!("user: {user}");
            println!("key: {}", key.reveal());
            println!(
                "tsig: {}:{} {}",
                tsig.algorithm,
                tsig.name,
                tsig.secret.reveal()
            );
            eprintln!("{}", advice(duty, &host));
        }
        Answer::Devices(devices) if json => println!("{}", serde_json::to_string_pretty(&devices)?),
        Answer::Devices(devices) => print!("{}", table(&devices)),
        Answer::Limited(limits) => println!("limits: {limits}"),
        Answer::Steered(steering) if json => {
            println!("{}", serde_json::to_string_pretty(&steering)?)
        }
        Answer::Steered(SteeringState { leads, why, .. }) => {
            println!("leads to: {leads}");
            eprintln!("{why}");
        }
        Answer::Removed => {
            println!("removed");
            eprintln!("The name rests for 90 days; `device add --reclaim` gives it back before.");
        }
        Answer::Relays(relays) if json => println!("{}", serde_json::to_string_pretty(&relays)?),
        Answer::Relays(relays) => print!("{}", table_of_relays(&relays)),
        Answer::RelayRemoved => {
            println!("removed");
            eprintln!("Its agents leave it within minutes; the file it joined with is worthless.");
        }
        Answer::PortAdded { host, port } => {
            println!("port: {port} of {host}");
            eprintln!(
                "The device's owner says which service it leads to, in the agent's file: public = \"{port}\". What passes there is \
                 encrypted by nobody but the service."
            );
        }
        Answer::Certificates(watched) if json => {
            println!("{}", serde_json::to_string_pretty(&watched)?)
        }
        Answer::Certificates(watched) => print!("{}", certificates::table(&watched)),
        Answer::Ports(ports) if json => println!("{}", serde_json::to_string_pretty(&ports)?),
        Answer::Ports(ports) => {
            for ListedPort { port, host, .. } in ports {
                println!("{port:<9}  {host}");
            }
        }
        Answer::PortRemoved => println!("removed"),
        Answer::Keys(status) if json => println!("{}", serde_json::to_string_pretty(&status)?),
        Answer::Keys(status) => {
            print!("{}", table_of_keys(&status.keys));
            if let Some(warning) = &status.warning {
                eprintln!("{warning}");
            }
            eprintln!("{}", status.next);
        }
        Answer::Delegation(delegation) if json => {
            println!("{}", serde_json::to_string_pretty(&delegation)?);
        }
        Answer::Delegation(delegation) => show_delegation(&delegation, false),
        Answer::Request(request) => {
            println!("{}", serde_json::to_string_pretty(&request)?);
            eprintln!(
                "On the machine that has the KSK: causeway dnssec sign --ksk FILE REQUEST > RESPONSE; then here: causeway dnssec import \
                 RESPONSE"
            );
        }
        Answer::Link { url, good_for } => {
            println!("{}", url.reveal());
            eprintln!("It works once, within {} minutes.", good_for / 60);
        }
        Answer::Top(_) | Answer::RelayAdded { .. } | Answer::ZonePage(_) | Answer::ZoneTaken(_) => {
            bail!("the answer is to another question")
        }
        Answer::Refused(sentence) => bail!(sentence),
    }
    Ok(())
}

/// What to do with a key that was just made.
fn advice(duty: KeyDuty, host: &str) -> String {
    match duty {
        KeyDuty::Addresses => format!(
            "It changes the addresses of {host} and nothing else. Give it to a DDNS client that speaks dyndns2, as the \
             password of that user; or to nsupdate, as the key after `tsig:`."
        ),
        KeyDuty::Challenges => format!(
            "It sets the ACME challenges of {host} and nothing else. Give it to a certificate client as the password \
             of that user: lego's httpreq (HTTPREQ_USERNAME, HTTPREQ_PASSWORD), or acme-dns where it asks /register. Clients \
             that speak RFC 2136 (certbot's dns-rfc2136, lego's rfc2136) want the algorithm, name and secret after `tsig:`; \
             certbot the algorithm in capitals."
        ),
    }
}

fn table(devices: &[ListedDevice]) -> String {
    if devices.is_empty() {
        return "no devices yet; `causeway device add NAME` registers one\n".to_owned();
    }
    let width = devices
        .iter()
        .map(|device| device.host.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for device in devices {
        let transport = device
            .transport
            .as_deref()
            .map(|transport| format!(" ({transport})"))
            .unwrap_or_default();
        let limits = match device.limits == ShownLimits::default() {
            true => String::new(),
            false => format!("  at most {}", device.limits),
        };
        text.push_str(&format!(
            "{:<width$}  {}{transport}{limits}\n",
            device.host, device.state
        ));
    }
    text
}

/// The records for the parent, one a line, and beside them what to do with them.
pub(super) fn show_delegation(delegation: &Delegation, dnskey: bool) {
    for key in &delegation.keys {
        println!("{}", if dnskey { &key.dnskey } else { &key.ds });
    }
    eprintln!("{}", delegation.next);
}

fn table_of_keys(keys: &[KeyStatus]) -> String {
    let width = keys.iter().map(|key| key.state.len()).max().unwrap_or(0);
    let mut text = String::new();
    for key in keys {
        let until = key.until.as_ref();
        let until = until
            .map(|until| format!(" until {until}"))
            .unwrap_or_default();
        let place = if key.offline { "  elsewhere" } else { "" };
        text.push_str(&format!(
            "{} {:<5}  {}  {:<width$}  since {}{until}{place}\n",
            key.role, key.tag, key.algorithm, key.state, key.since
        ));
    }
    text
}

fn table_of_relays(relays: &[ListedRelay]) -> String {
    if relays.is_empty() {
        return "no relay but the server's own; `causeway relay add NAME FILE --public IP` registers one\n".to_owned();
    }
    let width = relays.iter().map(|relay| relay.host.len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for relay in relays {
        let state = match relay.following {
            true if relay.devices == 1 => "follows, 1 device".to_owned(),
            true => format!("follows, {} devices", relay.devices),
            false => "away".to_owned(),
        };
        let addresses: Vec<_> = relay.addresses.iter().map(ToString::to_string).collect();
        text.push_str(&format!(
            "{:<width$}  {state}  at {} port {}\n",
            relay.host,
            addresses.join(", "),
            relay.port
        ));
    }
    text
}
