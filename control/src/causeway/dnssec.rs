//! The keys of a signed zone: verbs for the running server, and what a KSK does on a machine of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use control::operator::{self, Answer, DnssecPlan, DnssecVerb, Verb};
use ddns::dnssec::keys::{Key, Request, Response, Role, date, private_key, public_key};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments::{DnssecCommand, RolledKey};
use super::shown::{show, show_delegation};
use super::verbs::ask;

/// A request for a year is a tenth as long.
const MAX_FILE: u64 = 1024 * 1024;

pub(super) async fn dnssec(command: DnssecCommand) -> anyhow::Result<()> {
    let (verb, state, json) = match command {
        DnssecCommand::Status { json, state } => (DnssecVerb::Status, state, json),
        DnssecCommand::Ds {
            dnskey,
            json,
            state,
        } => {
            let answer = ask(state, Verb::Dnssec(DnssecVerb::Ds)).await?;
            if let (Answer::Delegation(delegation), false) = (&answer, json) {
                show_delegation(delegation, dnskey);
                return Ok(());
            }
            return show(answer, json);
        }
        DnssecCommand::Roll {
            key,
            ds_published,
            ds_ttl,
            json,
            state,
        } => {
            let verb = match (key, ds_published) {
                (RolledKey::Zsk, false) => DnssecVerb::Roll(Role::Zsk),
                (RolledKey::Ksk, false) => DnssecVerb::Roll(Role::Ksk),
                (RolledKey::Ksk, true) => DnssecVerb::DsPublished { ttl: ds_ttl },
                (RolledKey::Zsk, true) => bail!("the parent has a DS of the KSK only"),
            };
            (verb, state, json)
        }
        DnssecCommand::Request {
            days,
            roll_zsk,
            roll_ksk,
            ds_published,
            ds_ttl,
            begin,
            json: _,
            state,
        } => {
            let public = roll_ksk
                .map(|file| public_key(Role::Ksk, &file))
                .transpose()?;
            let plan = match (roll_zsk, public, ds_published) {
                (true, _, _) => Some(DnssecPlan::RollZsk),
                (_, Some(key), _) => Some(DnssecPlan::RollKsk {
                    public: key.dnskey_text(),
                }),
                (_, _, true) => Some(DnssecPlan::DsPublished { ttl: ds_ttl }),
                (false, None, false) => None,
            };
            let verb = DnssecVerb::Request { plan, begin, days };
            (verb, state, true)
        }
        DnssecCommand::Import {
            response,
            json,
            state,
        } => {
            let response: Response = read(&response)?;
            (DnssecVerb::Import(response), state, json)
        }
        DnssecCommand::Key { file, json } => return make_key(&file, json),
        DnssecCommand::Sign {
            ksk,
            request,
            json: _,
        } => return sign(&ksk, &request),
    };
    show(ask(state, Verb::Dnssec(verb)).await?, json)
}

fn make_key(file: &Path, json: bool) -> anyhow::Result<()> {
    let record = operator::make_ksk(file).with_context(|| file.display().to_string())?;
    match json {
        true => println!("{}", serde_json::json!({ "dnskey": record })),
        false => println!("{record}"),
    }
    eprintln!(
        "This record is the public half, and goes into a file for `causeway dnssec request --roll-ksk`. Keep {} away from the server, and a \
         copy of it: without it the zone has to be given another KSK by way of its parent.",
        file.display()
    );
    Ok(())
}

/// Signs a request, and tells the person what that was.
fn sign(ksk: &Path, request: &Path) -> anyhow::Result<()> {
    let key = private_key(Role::Ksk, ksk)?;
    let asked: Request = read(request)?;
    let signed = asked.sign(&key, operator::unix_seconds());
    let signed = signed.with_context(|| request.display().to_string())?;
    print_json(&signed)?;
    let periods = || signed.periods.iter().map(|signed| &signed.period);
    let (from, until) = (
        periods().map(|one| one.from).min(),
        periods().map(|one| one.expiration).max(),
    );
    let keys = periods().flat_map(|period| &period.dnskey);
    let keys = keys.filter_map(|text| Key::from_dnskey_text(text).ok());
    let zsks: BTreeSet<_> = keys
        .filter(|key| key.role() == Role::Zsk)
        .map(|key| key.tag())
        .collect();
    let zsks: Vec<_> = zsks.iter().map(ToString::to_string).collect();
    eprintln!(
        "Key {} of {} has signed the keys of the zone from {} on; the last signature is good until {}. Until then whoever has the private \
         half of ZSK {} can sign for the zone: see that `causeway dnssec status` shows no other.",
        signed.key,
        signed.zone,
        date(from.unwrap_or_default()),
        date(until.unwrap_or_default()),
        zsks.join(", "),
    );
    Ok(())
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(io::stdout().write_all(&text)?)
}

/// What stands in a file as JSON; `-` is standard input.
fn read<T: DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let named = || file.display().to_string();
    let mut text = Vec::new();
    match file == Path::new("-") {
        true => io::stdin().take(MAX_FILE).read_to_end(&mut text),
        false => File::open(file)
            .with_context(named)?
            .take(MAX_FILE)
            .read_to_end(&mut text),
    }
    .with_context(named)?;
    serde_json::from_slice(&text).with_context(named)
}
