//! What a device has of its own in the zone: where it is, where it is in its own network, what a certificate authority is to find, and
//! which way its name leads. It says so itself, signed with its key, which may change all of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use ddns::addresses::{Addresses, ChangeSet};
use ddns::caa::{Issuer, Issuers};
use ddns::challenges::{ChallengeChange, ChallengeHost, ChallengeValue, MAX_HOSTS, MAX_VALUES};
use ddns::lan::LanChange;
use ddns::own::Change;
use ddns::table::Held;
use ddns::update::Updater;
use directory::Device;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::acme::AcmeAuthorities;
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
    /// Where the device is in its own network: what `lan.` in front of its name says, to everybody who asks. There is no such name until
    /// the device says one.
    #[serde(default)]
    lan: LanAddressChanges,
    /// What a certificate authority is to find, and what not any more.
    #[serde(default)]
    challenges: ChallengeChanges,
    /// The device's accounts with certificate authorities: these and nobody else may have certificates for its name. Without any,
    /// there is what the operator has set for every device.
    caa: Option<Vec<CaaAccount>>,
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

/// What is to change of `lan`. What is not named stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LanAddressChanges {
    /// An address of RFC 1918; null takes it back.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<String>, example = "192.168.1.7")]
    ipv4: Option<Option<Ipv4Addr>>,
    /// An address in fc00::/7; null takes it back.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<String>, example = "fd12:3456:789a::7")]
    ipv6: Option<Option<Ipv6Addr>>,
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

/// An account that may have certificates (RFC 8657).
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CaaAccount {
    /// The address of the authority's directory, as /api/device/acme has it.
    #[schema(example = "https://acme-v02.api.letsencrypt.org/directory")]
    directory: String,
    /// What the authority looks for in CAA records, in lower case.
    #[schema(example = "letsencrypt.org")]
    issuer: String,
    /// The account's https:// address, of at most 255 characters.
    #[schema(example = "https://acme-v02.api.letsencrypt.org/acme/acct/7")]
    account: String,
}

/// An account that may have certificates, and nobody else.
#[derive(Serialize, ToSchema)]
pub(super) struct CaaState {
    issuer: String,
    account: String,
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
    /// Where the device is in its own network; without any address there is no such name.
    lan: OwnAddresses,
    /// What a certificate authority finds.
    challenges: Vec<Challenge>,
    /// Who alone may have certificates for its name.
    caa: Vec<CaaState>,
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
        (status = 422, body = Problem, description = "Not a public address, or none of a private network, no challenge, or too many, or no account with an authority."),
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
        .change(&cloud.acme)
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
    fn change(self, authorities: &AcmeAuthorities) -> Result<Change, (Code, &'static str)> {
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
        let lan = self.lan.change()?;
        let mut changes = vec![Change::from(addresses), lan.into()];
        if let Some(accounts) = &self.caa {
            changes.push(issuers(accounts, authorities)?.into());
        }
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

fn issuers(
    accounts: &[CaaAccount],
    authorities: &AcmeAuthorities,
) -> Result<Issuers, (Code, &'static str)> {
    let bad = |cause| (Code::BadIssuer, cause);
    let mut asked = accounts.iter();
    if !asked.all(|account| authorities.has(&account.directory, &account.issuer)) {
        return Err(bad("the operator asks no such authority"));
    }
    let accounts = accounts.iter().map(|account| Issuer {
        issuer: &account.issuer,
        account: &account.account,
    });
    Issuers::new(&accounts.collect::<Vec<_>>())
        .map_err(|_| bad("an account cannot stand in a CAA record, or they are too many"))
}

impl LanAddressChanges {
    fn change(self) -> Result<LanChange, (Code, &'static str)> {
        let mut change = LanChange::default();
        let v4 = self.ipv4.flatten().map(IpAddr::V4);
        let v6 = self.ipv6.flatten().map(IpAddr::V6);
        for address in v4.into_iter().chain(v6) {
            change = change
                .set(address)
                .map_err(|_| (Code::NotOfLan, "the address under lan is none of a LAN"))?;
        }
        if self.ipv4 == Some(None) {
            change = change.forget_v4();
        }
        if self.ipv6 == Some(None) {
            change = change.forget_v6();
        }
        Ok(change)
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
    let caa = own.issuers.iter().map(|of| CaaState {
        issuer: of.issuer.to_owned(),
        account: of.account.to_owned(),
    });
    DnsState {
        name: cloud.zone.name_of(&device.name),
        version: held.version,
        serial: updater.serial(),
        addresses: own.addresses.into(),
        lan: own.lan.addresses().into(),
        challenges: challenges.collect(),
        caa: caa.collect(),
        steering: cloud
            .steering
            .as_ref()
            .map(|steering| steering.state(device.registration)),
    }
}

impl From<Addresses> for OwnAddresses {
    fn from(Addresses { v4, v6 }: Addresses) -> Self {
        Self { ipv4: v4, ipv6: v6 }
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
        let authorities = AcmeAuthorities::of_tests();
        asked.change(&authorities).map_err(|(code, _)| code)
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

        let at_home = r#"{"lan":{"ipv4":"192.168.1.7","ipv6":"fd00::7"}}"#;
        let at_home = change(at_home).unwrap().apply(&before).unwrap();
        assert_eq!(at_home.addresses, before.addresses);
        assert_eq!(at_home.lan.addresses().iter().count(), 2);
        let after = change(r#"{"ipv4":null,"lan":{"ipv6":null}}"#).unwrap();
        let after = after.apply(&at_home).unwrap();
        assert_eq!(after.lan.addresses().v4, Some([192, 168, 1, 7].into()));
        assert_eq!(after.lan.addresses().v6, None);

        let bound = r#"{"caa":[{"directory":"https://ca.test/dir","issuer":"any.test","account":"https://ca.test/a/7"},
                               {"directory":"https://said.test/dir","issuer":"said.test","account":"https://said.test/7"}]}"#;
        let bound = change(bound).unwrap().apply(&before).unwrap();
        let issuers: Vec<_> = bound.issuers.iter().map(|of| of.issuer).collect();
        assert_eq!(issuers, ["any.test", "said.test"]);
        assert_eq!(bound.challenges, before.challenges);
        assert_eq!(change("{}").unwrap().apply(&bound).unwrap(), bound);
        let free = change(r#"{"caa":[]}"#).unwrap().apply(&bound).unwrap();
        assert_eq!(free, before);

        let other = r#"{"challenges":{"remove":[{"host":"","value":"a"}],"add":[{"host":"","value":"c"}]}}"#;
        let after = change(other).unwrap().apply(&before).unwrap();
        assert_eq!(after.addresses, before.addresses);
        let values = after.challenges.at(&ChallengeHost::device());
        assert_eq!(values, [ChallengeValue::new(b"c").unwrap()]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let account = |directory: &str, issuer: &str, account: &str| {
            let of =
                serde_json::json!({ "directory": directory, "issuer": issuer, "account": account });
            serde_json::json!({ "caa": [of] }).to_string()
        };
        let many = r#"{"host":"","value":"a"},"#.repeat(MAX_CHALLENGES);
        for (body, code) in [
            (r#"{"ipv4":"0.0.0.0"}"#, Code::NotPublic),
            (r#"{"ipv6":"::ffff:192.0.2.1"}"#, Code::NotPublic),
            (r#"{"lan":{"ipv4":"203.0.113.7"}}"#, Code::NotOfLan),
            (r#"{"lan":{"ipv4":"169.254.1.1"}}"#, Code::NotOfLan),
            (
                r#"{"lan":{"ipv4":null,"ipv6":"2001:db8::7"}}"#,
                Code::NotOfLan,
            ),
            (r#"{"lan":{"ipv6":"fe80::7"}}"#, Code::NotOfLan),
            (r#"{"lan":{"ipv6":"::ffff:192.168.1.7"}}"#, Code::NotOfLan),
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
            (
                &account("https://other.test/dir", "ca.test", "https://ca.test/7"),
                Code::BadIssuer,
            ),
            (
                &account("https://said.test/dir", "ca.test", "https://ca.test/7"),
                Code::BadIssuer,
            ),
            (
                &account("https://ca.test/dir", "ca.test; x", "https://ca.test/7"),
                Code::BadIssuer,
            ),
            (
                &account("https://ca.test/dir", "ca.test", "http://ca.test/7"),
                Code::BadIssuer,
            ),
            (
                &account("https://ca.test/dir", "ca.test", "https://ca.test/7;x"),
                Code::BadIssuer,
            ),
            (
                &account(
                    "https://ca.test/dir",
                    "ca.test",
                    &format!("https://ca.test/{}", "7".repeat(240)),
                ),
                Code::BadIssuer,
            ),
        ] {
            assert_eq!(change(body).map(|_| ()), Err(code), "{body}");
        }
        for body in [
            r#"{"ipv4":"2001:db8::1"}"#,
            r#"{"ipv5":1}"#,
            r#"{"challenges":null}"#,
            r#"{"lan":null}"#,
            r#"{"lan":{"ipv5":1}}"#,
            r#"{"lan":{"ipv4":"fd00::1"}}"#,
        ] {
            assert!(serde_json::from_str::<DnsChange>(body).is_err(), "{body}");
        }
    }
}
