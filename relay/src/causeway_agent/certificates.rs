//! What is told of certificates that were seen for the device's name, and what their owner says of them.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use relay::agent::{self, LogStatus, SeenCertificate, SeenStatus};
use serde::Serialize;

use super::arguments::CertificatesCommand;
use super::shown::printable;

/// So many letters of a key tell which is meant.
const ENOUGH: usize = 8;

pub(super) fn act(command: CertificatesCommand) -> anyhow::Result<()> {
    match command {
        CertificatesCommand::List { state, json } => {
            let state = state.open()?;
            let own_key = agent::own_key(&state)?;
            let not_own = agent::certificates_not_own(&state)?;
            let listed = not_own.into_iter().map(|(certificate, accepted)| Listed {
                certificate,
                accepted,
            });
            list(own_key, listed.collect(), json)
        }
        CertificatesCommand::Accept { key, state } => {
            let state = state.open()?;
            let wanted = key.replace(':', "").to_ascii_lowercase();
            if wanted.len() < ENOUGH {
                bail!("at least {ENOUGH} letters of the key have to be named");
            }
            let not_own = agent::certificates_not_own(&state)?.into_iter();
            let keys = not_own.map(|(certificate, _)| certificate.key);
            let keys: Vec<_> = keys.filter(|key| key.starts_with(&wanted)).collect();
            match &keys[..] {
                [key] => {
                    agent::accept_certificate(&state, key)?;
                    println!("accepted: {key}");
                    Ok(())
                }
                [] => bail!(
                    "no certificate with that key has been seen; `causeway-agent certificates list` shows which have"
                ),
                _ => bail!("several keys begin so: name more of it"),
            }
        }
    }
}

/// For programs.
#[derive(Serialize)]
struct List {
    own_key: String,
    certificates: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    certificate: SeenCertificate,
    accepted: bool,
}

fn list(own_key: String, certificates: Vec<Listed>, json: bool) -> anyhow::Result<()> {
    let strange = certificates
        .iter()
        .filter(|listed| !listed.accepted)
        .count();
    if json {
        let list = List {
            own_key,
            certificates,
        };
        println!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        println!("own         {own_key}");
        for Listed {
            certificate,
            accepted,
        } in &certificates
        {
            let word = match accepted {
                true => "accepted",
                false => "strange",
            };
            println!("{}", printable(&format!("{word:<12}{}", certificate.key)));
            println!("{}", printable(&details(certificate)));
        }
    }
    match strange {
        0 => Ok(()),
        count => bail!("{count} of them are not known to be yours"),
    }
}

fn details(certificate: &SeenCertificate) -> String {
    let SeenCertificate {
        names,
        serial,
        issuer,
        not_before,
        not_after,
        log,
        entry,
        ..
    } = certificate;
    format!(
        "            for {}\n            from {issuer}, serial {serial}\n            good from {} until {}\n            seen in {log}, entry {entry}",
        names.join(", "),
        day(*not_before),
        day(*not_after)
    )
}

/// For the status: how far logs are followed, and what is amiss.
pub(super) fn in_words(seen: &SeenStatus) -> Vec<String> {
    let SeenStatus {
        logs,
        problem,
        strange,
        certificates,
        ..
    } = seen;
    let mut lines = Vec::new();
    if !logs.is_empty() {
        lines.push(match strange {
            0 => "watched     no certificate of anybody else's was seen for this name".to_owned(),
            count => {
                format!("watched     {count} CERTIFICATES FOR THIS NAME ARE NOT THIS DEVICE'S")
            }
        });
    }
    for SeenCertificate {
        key, names, issuer, ..
    } in certificates
    {
        let names = names.join(", ");
        lines.push(format!("strange     {names}, from {issuer}, key {key}"));
    }
    for LogStatus { log, problem, .. } in logs {
        let problem = problem.as_ref();
        lines.extend(problem.map(|problem| format!("not watched {log}: {problem}")));
    }
    let problem = problem.as_ref();
    lines.extend(problem.map(|problem| format!("not watched {problem}")));
    lines
}

fn day(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let time = UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
    // No certificate is for longer than people count years with four digits.
    let most = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.min(most)).to_string()
}
