//! What a device has of its own in the zone: where it is, and what a certificate authority is to find. It says so itself, signed with
//! its key, which may change both.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use ddns::addresses::ChangeSet;
use ddns::challenges::{ChallengeChange, ChallengeHost, ChallengeValue, MAX_HOSTS, MAX_VALUES};
use ddns::own::Change;
use ddns::table::Held;
use ddns::update::Updater;
use directory::Device;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Code, Problem};
use super::signed::Signed;
use super::{Cloud, read_json};
use crate::steering::{Mode, SteeringState, Wish};

/// The most challenges in one request: as many as a device may have.
const MAX_CHALLENGES: usize = MAX_HOSTS * MAX_VALUES;

/// What is to change. What is not named stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsChange {
    /// Where the device is; null takes it back.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<String>, example = "203.0.113.7")]
    ipv4: Option<Option<Ipv4Addr>>,
    /// The same.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<String>, example = "2001:db8::7")]
    ipv6: Option<Option<Ipv6Addr>>,
    /// What a certificate authority is to find, and what not any more.
    #[serde(default)]
    challenges: ChallengeChanges,
    /// Where visitors come to the device itself, without a relay; null if they do not any more.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<DirectPort>)]
    direct: Option<Option<DirectPort>>,
    /// Which way its name is to lead.
    steer: Option<Mode>,
}

/// The port at which visitors come to a device itself.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectPort {
    /// As it is reached from outside.
    #[schema(value_type = u16, example = 443)]
    port: NonZeroU16,
}

/// Challenges to add and to remove; removals are made first.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ChallengeChanges {
    /// One too many at a host pushes out the oldest.
    add: Vec<Challenge>,
    /// One that is not there is no mistake.
    remove: Vec<Challenge>,
}

/// The value of one TXT record (RFC 8555 section 8.4).
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Challenge {
    /// What stands between `_acme-challenge` and the device's label; empty for the device itself.
    #[schema(example = "photos")]
    host: String,
    /// At most 255 octets.
    #[schema(example = "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo")]
    value: String,
}

/// What a device has of its own in the zone.
#[derive(Serialize, ToSchema)]
pub(super) struct DnsState {
    /// The device's full name.
    name: String,
    /// Rises with every change of this device; 0 before the first.
    version: u32,
    /// The zone's serial: answers with this one or a later one are as said here, or newer.
    serial: u32,
    /// Where the device is; without any address its name leads to the relay.
    addresses: OwnAddresses,
    /// What a certificate authority finds.
    challenges: Vec<Challenge>,
    /// Where its name leads.
    steering: Option<SteeringState>,
}

/// Where a device is.
#[derive(Serialize, ToSchema)]
pub(super) struct OwnAddresses {
    #[schema(value_type = Option<String>)]
    ipv4: Option<Ipv4Addr>,
    #[schema(value_type = Option<String>)]
    ipv6: Option<Ipv6Addr>,
}

/// The receipt of a change: it is in every answer already.
#[derive(Serialize, ToSchema)]
pub(super) struct DnsReceipt {
    #[serde(flatten)]
    state: DnsState,
    /// Whether it was otherwise before.
    changed: bool,
    /// Whether it survives a crash. What does not is not acknowledged.
    durable: bool,
    /// How long it took from the request's arrival, in microseconds.
    took_us: u64,
}

/// Tell what the device has of its own in the zone.
#[utoipa::path(
    get,
    path = "/api/device/dns",
    security(("device_signature" = [])),
    responses(
        (status = 200, body = DnsState),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
        (status = 404, body = Problem, description = "Another server answers for the zone."),
    )
)]
pub(super) async fn own(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<DnsState>, ApiError> {
    let device = request.device(&cloud)?;
    let updater = updater(&cloud)?;
    let held = updater.held(device.registration, &device.name);
    let gone = "the device was removed in this moment";
    let held = held.ok_or_else(|| ApiError::new(Code::UnknownDevice, &cloud.metrics, &gone))?;
    Ok(Json(state(&cloud, &device, updater, &held)))
}

/// Change what the device has of its own in the zone: all that is asked for, or nothing.
#[utoipa::path(
    patch,
    path = "/api/device/dns",
    request_body = DnsChange,
    security(("device_signature" = [])),
    responses(
        (status = 200, body = DnsReceipt),
        (status = 400, body = Problem),
        (status = 401, body = Problem, description = "The signature is missing or wrong."),
        (status = 403, body = Problem, description = "The key belongs to no device."),
        (status = 404, body = Problem, description = "Another server answers for the zone."),
        (status = 422, body = Problem, description = "Not a public address, no challenge, or too many."),
        (status = 429, body = Problem, description = "Too many changes; `Retry-After` says when to come back."),
    )
)]
pub(super) async fn change(
    State(cloud): State<Arc<Cloud>>,
    request: Signed,
) -> Result<Json<DnsReceipt>, ApiError> {
    let began = Instant::now();
    let device = request.device(&cloud)?;
    let updater = updater(&cloud)?;
    let asked: DnsChange = read_json(&request.body, &cloud.metrics)?;
    let wish = (asked.direct, asked.steer);
    let change = asked
        .change()
        .map_err(|(code, cause)| ApiError::new(code, &cloud.metrics, &cause))?;
    let updater = &updater.coming_from(request.from);
    let done = updater
        .update(device.registration, &device.name, change)
        .await
        .map_err(|error| ApiError::update(&error, &cloud.metrics))?;
    if let (Some(steering), (direct, mode)) = (&cloud.steering, wish)
        && (direct.is_some() || mode.is_some())
    {
        let change = |before: Wish| Wish {
            port: direct.map_or(before.port, |direct| direct.map(|direct| direct.port)),
            mode: mode.unwrap_or(before.mode),
        };
        let wished = steering.wish(&device.name, device.registration, change);
        wished
            .await
            .map_err(|error| ApiError::new(Code::Internal, &cloud.metrics, &error))?;
    }
    Ok(Json(DnsReceipt {
        state: state(&cloud, &device, updater, done.held()),
        changed: done.is_change(),
        durable: true,
        took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    }))
}

fn updater(cloud: &Cloud) -> Result<&Updater, ApiError> {
    let cause = "there is no [ddns] section";
    let updater = cloud.dns.as_ref();
    updater.ok_or_else(|| ApiError::new(Code::NoDns, &cloud.metrics, &cause))
}

impl DnsChange {
    fn change(self) -> Result<Change, (Code, &'static str)> {
        let mut addresses = ChangeSet::default();
        let mut set = |address| {
            let is_set = addresses.set(address).map(|with| addresses = with);
            is_set.map_err(|_| (Code::NotPublic, "nobody can be reached there"))
        };
        if let Some(Some(v4)) = self.ipv4 {
            set(v4.into())?;
        }
        if let Some(Some(v6)) = self.ipv6 {
            if v6.to_canonical().is_ipv4() {
                return Err((
                    Code::NotPublic,
                    "an IPv4 address in the place of an IPv6 address",
                ));
            }
            set(v6.into())?;
        }
        if self.ipv4 == Some(None) {
            addresses = addresses.forget_v4();
        }
        if self.ipv6 == Some(None) {
            addresses = addresses.forget_v6();
        }
        let ChallengeChanges { add, remove } = self.challenges;
        if add.len() > MAX_CHALLENGES || remove.len() > MAX_CHALLENGES {
            return Err((
                Code::TooManyChallenges,
                "more challenges than a device can have",
            ));
        }
        let mut changes = vec![Change::from(addresses)];
        for (challenges, make) in [
            (remove, ChallengeChange::Remove as fn(_, _) -> _),
            (add, ChallengeChange::Add),
        ] {
            for challenge in challenges {
                let (host, value) = challenge.read()?;
                changes.push(make(host, value).into());
            }
        }
        Ok(Change::All(changes))
    }
}

impl Challenge {
    fn read(&self) -> Result<(ChallengeHost, ChallengeValue), (Code, &'static str)> {
        let host = ChallengeHost::parse(&self.host)
            .ok_or((Code::BadChallenge, "the host is not made of labels"))?;
        let value = ChallengeValue::new(self.value.as_bytes())
            .ok_or((Code::BadChallenge, "the value is empty or too long"))?;
        Ok((host, value))
    }
}

fn state(cloud: &Cloud, device: &Device, updater: &Updater, held: &Held) -> DnsState {
    let own = &held.own;
    let challenges = own.challenges.iter().flat_map(|(host, values)| {
        values.iter().map(|value| Challenge {
            host: host.to_string(),
            value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        })
    });
    DnsState {
        name: cloud.zone.name_of(&device.name),
        version: held.version,
        serial: updater.serial(),
        addresses: OwnAddresses {
            ipv4: own.addresses.v4,
            ipv6: own.addresses.v6,
        },
        challenges: challenges.collect(),
        steering: cloud
            .steering
            .as_ref()
            .map(|steering| steering.state(device.registration)),
    }
}

/// What is named is `Some`, null included.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

#[cfg(test)]
mod tests {
    use ddns::own::Own;

    use super::*;

    fn change(body: &str) -> Result<Change, Code> {
        let asked: DnsChange = serde_json::from_str(body).unwrap();
        asked.change().map_err(|(code, _)| code)
    }

    #[test]
    fn only_what_is_named_changes() {
        let both = r#"{"ipv4":"203.0.113.7","ipv6":"2001:db8::7",
                       "challenges":{"add":[{"host":"","value":"a"},{"host":"photos","value":"b"}]}}"#;
        let before = change(both).unwrap().apply(&Own::default()).unwrap();
        assert_eq!(before.challenges.iter().len(), 2);
        assert_eq!(change("{}").unwrap().apply(&before).unwrap(), before);

        let after = change(r#"{"ipv6":null}"#).unwrap().apply(&before).unwrap();
        assert_eq!(
            (after.addresses.v4, after.addresses.v6),
            (before.addresses.v4, None)
        );
        assert_eq!(after.challenges, before.challenges);

        let other = r#"{"challenges":{"remove":[{"host":"","value":"a"}],"add":[{"host":"","value":"c"}]}}"#;
        let after = change(other).unwrap().apply(&before).unwrap();
        assert_eq!(after.addresses, before.addresses);
        let values = after.challenges.at(&ChallengeHost::device());
        assert_eq!(values, [ChallengeValue::new(b"c").unwrap()]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let many = r#"{"host":"","value":"a"},"#.repeat(MAX_CHALLENGES);
        for (body, code) in [
            (r#"{"ipv4":"0.0.0.0"}"#, Code::NotPublic),
            (r#"{"ipv6":"::ffff:192.0.2.1"}"#, Code::NotPublic),
            (
                r#"{"challenges":{"add":[{"host":"a..b","value":"a"}]}}"#,
                Code::BadChallenge,
            ),
            (
                r#"{"challenges":{"remove":[{"host":"","value":""}]}}"#,
                Code::BadChallenge,
            ),
            (
                &format!(r#"{{"challenges":{{"add":[{many}{{"host":"","value":"a"}}]}}}}"#),
                Code::TooManyChallenges,
            ),
        ] {
            assert_eq!(change(body).map(|_| ()), Err(code), "{body}");
        }
        for body in [
            r#"{"ipv4":"2001:db8::1"}"#,
            r#"{"ipv5":1}"#,
            r#"{"challenges":null}"#,
        ] {
            assert!(serde_json::from_str::<DnsChange>(body).is_err(), "{body}");
        }
    }
}
