//! The keys of a signed zone: what the operator asks of them.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ddns::dnssec::keys::{ChangeError, Key, KeyError, Keys, Plan, Role};

use super::message::{Answer, DnssecPlan, DnssecVerb};
use crate::api::Cloud;

pub(super) async fn act(cloud: &Cloud, verb: DnssecVerb) -> Answer {
    let Some(keys) = cloud.keys.clone() else {
        let sentence = match cloud.dns {
            Some(_) => {
                "the zone is not signed: write [ddns.dnssec] into the configuration, which may be empty, and start the server anew"
            }
            None => "this server does not answer for the zone: it has no [ddns]",
        };
        return Answer::Refused(sentence.to_owned());
    };
    // Each change waits for the disk.
    let done = tokio::task::spawn_blocking(move || ask(&keys, verb, unix_seconds())).await;
    match done {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::Refused(error.to_string()),
        Err(_) => Answer::Refused("a bug of the server ended this; its log says more".to_owned()),
    }
}

fn ask(keys: &Keys, verb: DnssecVerb, now: u32) -> Result<Answer, ChangeError> {
    match verb {
        DnssecVerb::Status => Ok(Answer::Keys(keys.status(now))),
        DnssecVerb::Ds => Ok(Answer::Delegation(keys.delegation(now))),
        DnssecVerb::Roll(role) => {
            let status = keys.roll(role, now)?;
            tracing::info!(%role, "a roll of the zone's keys has begun");
            Ok(Answer::Keys(status))
        }
        DnssecVerb::DsPublished { ttl } => {
            let status = keys.ds_published(seconds(ttl), now)?;
            tracing::info!("the operator says that the parent has the DS of the newest KSK");
            Ok(Answer::Keys(status))
        }
        DnssecVerb::Request { plan, begin, days } => {
            let plan = plan.map(|plan| match plan {
                DnssecPlan::RollZsk => Ok(Plan::RollZsk),
                DnssecPlan::RollKsk { public } => {
                    let key = Key::from_public_text(Role::Ksk, &public);
                    key.map(Plan::RollKsk)
                }
                DnssecPlan::DsPublished { ttl } => Ok(Plan::DsPublished { ttl: seconds(ttl) }),
            });
            let plan = plan.transpose();
            let plan = plan.map_err(|error: KeyError| ChangeError::Roll(error.into()))?;
            let begin = now.saturating_add(seconds(begin));
            tracing::info!(?plan, "a KSK elsewhere is asked for signatures");
            Ok(Answer::Request(keys.request(plan, begin, days, now)?))
        }
        DnssecVerb::Import(response) => {
            let status = keys.import(&response, now)?;
            tracing::info!(
                key = response.key,
                "signatures of a KSK elsewhere were taken"
            );
            Ok(Answer::Keys(status))
        }
    }
}

/// Makes a KSK for another machine: its private half in the file `path`, which was not there before, and its DNSKEY record, as a zone
/// file has its data.
///
/// # Errors
/// If there is such a file, or the system refuses.
pub fn make_ksk(path: &Path) -> anyhow::Result<String> {
    use std::io::Write as _;

    use anyhow::Context as _;

    let key = Key::generate(Role::Ksk)?;
    let text = key.private_text()?.context("it has no private half")?;
    let mut file = relay::files::new_private(path)?;
    file.write_all(text.reveal().as_bytes())?;
    file.sync_all()?;
    Ok(key.dnskey_text())
}

/// The clock of signatures.
pub fn unix_seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    seconds(now.unwrap_or_default())
}

fn seconds(duration: Duration) -> u32 {
    duration.as_secs().try_into().unwrap_or(u32::MAX)
}
