//! The device as one who wants certificates of an authority of the operator's choice: the cloud says which, and puts into the DNS what
//! they look for, below the device's name and no other.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cloud::{CallError, Cloud};
use super::identity::Identity;
use super::situation::Situation;
use crate::acme::{AcmeError, Applicant, Authorities, CertificateStatus, Issuer, Kept, Proof};
use crate::tls::CertificateSlot;

/// No cloud is believed that its turns come later than in so many seconds.
const LONGEST_WAIT: u64 = 24 * 60 * 60;

/// Whether it may order, as the cloud says.
#[derive(Deserialize)]
struct OrderTurn {
    granted: bool,
    #[serde(default)]
    ahead: usize,
    #[serde(default)]
    wait_seconds: u64,
}

/// Who may have certificates for the device's name, as far as the agent has a say in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caa {
    /// The agent's own accounts with the authorities of the operator's choice, and nobody else.
    #[default]
    Own,
    /// Whoever proves the name: for a device that has certificates of others too.
    Any,
}

/// The device.
pub(super) struct Device<'a> {
    pub(super) cloud: &'a Cloud,
    pub(super) identity: &'a Identity,
    pub(super) situation: &'a Situation,
    pub(super) caa: Caa,
    /// What visitors see.
    pub(super) shown: &'a CertificateSlot,
    /// The certificate of the operator's own authority, always good.
    pub(super) own: &'a CertificateSlot,
}

impl Applicant for Device<'_> {
    /// A cloud that has never heard of authorities has none.
    async fn authorities(&self) -> Result<Authorities, AcmeError> {
        let (path, json) = ("/api/device/acme", "application/json");
        let asked = self
            .cloud
            .call(Method::GET, path, json, Vec::new(), self.identity);
        let found: Authorities = match asked.await {
            Ok(found) => found,
            Err(CallError::Refused { status: 404, .. }) => return Ok(Authorities::default()),
            Err(error) => return Err(unable(&error)),
        };
        match found.are_sound() {
            true => Ok(found),
            false => Err(AcmeError::Nonsense),
        }
    }

    /// A cloud that has never heard of turns lets everybody order.
    async fn may_order(&self, directory: &str, renews: bool) -> Result<(), AcmeError> {
        let wanted = json!({ "directory": directory, "renews": renews });
        let (path, body) = ("/api/device/acme/turn", wanted.to_string().into_bytes());
        let asked = self
            .cloud
            .call(Method::POST, path, "application/json", body, self.identity);
        match asked.await {
            Ok(OrderTurn { granted: true, .. }) | Err(CallError::Refused { status: 404, .. }) => {
                Ok(())
            }
            Ok(OrderTurn {
                ahead,
                wait_seconds,
                ..
            }) => Err(AcmeError::NotYet {
                ahead,
                wait: Duration::from_secs(wait_seconds.min(LONGEST_WAIT)),
            }),
            Err(error) => Err(unable(&error)),
        }
    }

    /// A name and what stands below it have their challenges at the same place.
    async fn prove(&self, proofs: &[Proof]) -> Result<(), AcmeError> {
        let values = proofs.iter().map(|proof| &*proof.value);
        self.challenges("add", values).await
    }

    async fn withdraw(&self, values: &[String]) -> Result<(), AcmeError> {
        self.challenges("remove", values.iter().map(String::as_str))
            .await
    }

    async fn bind(&self, issuers: &[Issuer]) -> Result<bool, AcmeError> {
        let issuers = match self.caa {
            Caa::Own => issuers,
            Caa::Any => &[],
        };
        self.change(&json!({ "caa": issuers })).await?;
        Ok(self.caa == Caa::Own)
    }

    fn show(&self, kept: Option<&Kept>) {
        let next = kept.map_or(self.own, |kept| &kept.issued.slot);
        self.shown.replace(next);
    }

    fn tell(&self, status: CertificateStatus) {
        self.situation.certificate(status);
    }

    fn clock(&self) -> u64 {
        self.cloud.clock().now()
    }
}

impl Device<'_> {
    /// Adds or removes these at the device's own name. When this returns every answer is so.
    async fn challenges<'v>(
        &self,
        what: &str,
        values: impl Iterator<Item = &'v str>,
    ) -> Result<(), AcmeError> {
        let challenges = values.map(|value| json!({ "host": "", "value": value }));
        let change = json!({ "challenges": { what: challenges.collect::<Vec<_>>() } });
        self.change(&change).await
    }

    async fn change(&self, change: &Value) -> Result<(), AcmeError> {
        let (path, body) = ("/api/device/dns", change.to_string().into_bytes());
        let told = self
            .cloud
            .tell(Method::PATCH, path, "application/json", body, self.identity);
        told.await.map(drop).map_err(|error| unable(&error))
    }
}

fn unable(error: &CallError) -> AcmeError {
    let mend = match error {
        CallError::Unreachable { .. } => {
            "nothing, if the cloud comes back: it is tried again by itself"
        }
        CallError::BadAddress(_)
        | CallError::Refused { .. }
        | CallError::BadAnswer { .. }
        | CallError::Key(_) => "the operator has to look at the cloud's log",
    };
    AcmeError::Unable {
        what: format!("the cloud: {error}"),
        mend,
    }
}
