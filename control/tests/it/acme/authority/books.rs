//! Who has an account, and what was ordered, proved and issued.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::issuer::{Request, Sealed};
use super::jws::{Said, sha256};
use super::{Refusal, refused};

/// All that it knows.
#[derive(Default)]
pub(in crate::acme) struct Books {
    /// Those that it has given and that were not used.
    pub(super) nonces: BTreeSet<String>,
    /// Their keys.
    pub(in crate::acme) accounts: Vec<Vec<u8>>,
    pub(in crate::acme) orders: Vec<Order>,
    authorizations: Vec<Authorization>,
    /// What was issued, as RFC 9773 section 4.1 names it.
    pub(in crate::acme) issued: BTreeMap<String, Issued>,
    /// For which of these it was asked when to renew them.
    pub(in crate::acme) asked_for_advice: Vec<String>,
    /// What it has not taken.
    pub(in crate::acme) refusals: Vec<String>,
}

pub(in crate::acme) struct Order {
    account: usize,
    names: Vec<String>,
    authorizations: Vec<usize>,
    pub(in crate::acme) replaces: Option<String>,
    pub(in crate::acme) profile: Option<String>,
    /// What came of it, in PEM.
    chain: Option<String>,
}

/// A certificate.
pub(in crate::acme) struct Issued {
    account: usize,
    names: Vec<String>,
    is_replaced: bool,
}

struct Authorization {
    account: usize,
    /// Without the wildcard.
    name: String,
    is_wildcard: bool,
    token: String,
    thumbprint: String,
    /// Whether the proof was found.
    is_proved: Option<bool>,
}

impl Books {
    pub(super) fn nonce(&mut self) -> String {
        let nonce = random();
        self.nonces.insert(nonce.clone());
        nonce
    }

    /// Whose account is at this address.
    pub(super) fn known(&self, url: &str) -> Result<(usize, Vec<u8>), Refusal> {
        let number = url.rsplit_once("/account/");
        let number = number.and_then(|(_, number)| number.parse().ok());
        let key = number.and_then(|number: usize| Some((number, self.accounts.get(number)?)));
        match key {
            Some((number, key)) => Ok((number, key.clone())),
            None => refused(400, "accountDoesNotExist", format!("{url} is nobody's")),
        }
    }

    /// The number of the account that the key has, and whether it is new (RFC 8555 section 7.3).
    pub(super) fn account(
        &mut self,
        said: &Said,
        binding: Option<(&str, &str)>,
        url: &str,
    ) -> Result<(usize, bool), Refusal> {
        let asked = said.object(&[
            "termsOfServiceAgreed",
            "contact",
            "onlyReturnExisting",
            "externalAccountBinding",
        ])?;
        if let Some(number) = self.accounts.iter().position(|key| *key == said.point) {
            return Ok((number, false));
        }
        if asked["onlyReturnExisting"] == true {
            return refused(400, "accountDoesNotExist", "there is none with this key");
        }
        for contact in asked["contact"].as_array().into_iter().flatten() {
            if !contact
                .as_str()
                .is_some_and(|text| text.starts_with("mailto:"))
            {
                return refused(400, "unsupportedContact", contact.to_string());
            }
        }
        match (binding, &asked["externalAccountBinding"]) {
            (Some(_), Value::Null) => {
                return refused(403, "externalAccountRequired", "whose are you?");
            }
            (Some(binding), bound) => said.is_bound(bound, binding, url)?,
            (None, _) => {}
        }
        self.accounts.push(said.point.clone());
        Ok((self.accounts.len() - 1, true))
    }

    /// An account, or its orders, told to whom it belongs.
    pub(super) fn about(
        &self,
        id: Option<&str>,
        said: &Said,
        base: &str,
    ) -> Result<Value, Refusal> {
        let own = said.account.unwrap();
        said.asks_only()?;
        let orders = format!("{own}/orders");
        match id {
            Some(id) if id == own.to_string() => {
                Ok(json!({ "status": "valid", "orders": format!("{base}/account/{orders}") }))
            }
            Some(id) if id == orders => {
                let orders = self.orders.iter().enumerate();
                let own = orders.filter(|(_, order)| order.account == own);
                let own: Vec<_> = own.map(|(i, _)| format!("{base}/order/{i}")).collect();
                Ok(json!({ "orders": own }))
            }
            _ => refused(403, "unauthorized", "that is another's account"),
        }
    }

    /// RFC 8555 section 7.4; the number of the new order.
    pub(super) fn order(&mut self, said: &Said, profiles: &[&str]) -> Result<usize, Refusal> {
        let account = said.account.unwrap();
        let asked = said.object(&["identifiers", "replaces", "profile"])?;
        let named = asked["identifiers"].as_array().into_iter().flatten();
        let names: Option<Vec<_>> = named
            .map(|one| (one["type"] == "dns").then(|| one["value"].as_str().map(str::to_owned))?)
            .collect();
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            return refused(400, "malformed", "for which names?");
        };
        let text = |member: &str| asked[member].as_str().map(str::to_owned);
        let (replaces, profile) = (text("replaces"), text("profile"));
        if let Some(profile) = &profile
            && !profiles.contains(&profile.as_str())
        {
            return refused(400, "invalidProfile", format!("what is {profile}?"));
        }
        // RFC 9773 section 5
        if let Some(replaces) = &replaces {
            match self.issued.get(replaces) {
                Some(issued) if issued.is_replaced => {
                    return refused(409, "alreadyReplaced", replaces);
                }
                Some(issued)
                    if issued.account == account
                        && issued.names.iter().any(|name| names.contains(name)) => {}
                _ => return refused(400, "malformed", format!("{replaces} is none of yours")),
            }
        }
        let first = self.authorizations.len();
        self.authorizations.extend(names.iter().map(|name| {
            let base = name.strip_prefix("*.");
            Authorization {
                account,
                name: base.unwrap_or(name).to_owned(),
                is_wildcard: base.is_some(),
                token: random(),
                thumbprint: said.thumbprint.clone(),
                is_proved: None,
            }
        }));
        self.orders.push(Order {
            account,
            names,
            authorizations: (first..self.authorizations.len()).collect(),
            replaces,
            profile,
            chain: None,
        });
        Ok(self.orders.len() - 1)
    }

    /// Takes no order that replaces anything.
    pub(super) fn has_replaced(&mut self, number: usize) -> Result<(), Refusal> {
        let replaces = self.orders.pop_if(|order| order.replaces.is_some());
        match replaces.and_then(|order| order.replaces) {
            Some(replaces) => refused(409, "alreadyReplaced", format!("{replaces} {number}")),
            None => Ok(()),
        }
    }

    /// Whether an order is there, and his who asks.
    pub(super) fn own(&self, number: usize, said: &Said) -> Result<&Order, Refusal> {
        match self.orders.get(number) {
            Some(order) if Some(order.account) == said.account => Ok(order),
            Some(_) => refused(403, "unauthorized", "that is another's order"),
            None => refused(404, "malformed", "there is no such order"),
        }
    }

    fn status(&self, order: &Order) -> &'static str {
        let mut proved = order.authorizations.iter();
        let proved = proved.try_fold(true, |all, number| {
            match self.authorizations[*number].is_proved {
                Some(false) => None,
                is_proved => Some(all && is_proved.is_some()),
            }
        });
        match (proved, &order.chain) {
            (None, _) => "invalid",
            (Some(false), _) => "pending",
            (Some(true), None) => "ready",
            (Some(true), Some(_)) => "valid",
        }
    }

    /// RFC 8555 section 7.1.3
    pub(super) fn seen(&self, number: usize, base: &str) -> Value {
        let order = &self.orders[number];
        let names = order.names.iter();
        let names = names.map(|name| json!({ "type": "dns", "value": name }));
        let proofs = order.authorizations.iter();
        let proofs = proofs.map(|number| format!("{base}/authorization/{number}"));
        let mut seen = json!({
            "status": self.status(order),
            "expires": super::issuer::in_hours(24),
            "identifiers": names.collect::<Vec<_>>(),
            "authorizations": proofs.collect::<Vec<_>>(),
            "finalize": format!("{base}/finalize/{number}"),
        });
        for (member, value) in [("replaces", &order.replaces), ("profile", &order.profile)] {
            if let Some(value) = value {
                seen[member] = json!(value);
            }
        }
        if order.chain.is_some() {
            seen["certificate"] = json!(format!("{base}/certificate/{number}"));
        }
        seen
    }

    fn proof(&self, number: usize, said: &Said) -> Result<&Authorization, Refusal> {
        match self.authorizations.get(number) {
            Some(proof) if Some(proof.account) == said.account => Ok(proof),
            Some(_) => refused(403, "unauthorized", "that is another's"),
            None => refused(404, "malformed", "there is no such authorization"),
        }
    }

    /// RFC 8555 section 7.1.4
    pub(super) fn authorization(
        &self,
        number: usize,
        said: &Said,
        base: &str,
    ) -> Result<Value, Refusal> {
        let proof = self.proof(number, said)?;
        let mut challenges = vec![self.challenge(number, base)];
        if !proof.is_wildcard {
            let other = json!({ "type": "http-01", "status": "pending", "token": random(),
                "url": format!("{base}/http/{number}") });
            challenges.insert(0, other);
        }
        let mut seen = json!({
            "status": proof.status(),
            "expires": super::issuer::in_hours(24),
            "identifier": { "type": "dns", "value": proof.name },
            "challenges": challenges,
        });
        if proof.is_wildcard {
            seen["wildcard"] = json!(true);
        }
        Ok(seen)
    }

    fn challenge(&self, number: usize, base: &str) -> Value {
        let proof = &self.authorizations[number];
        let mut seen = json!({ "type": "dns-01", "status": proof.status(), "token": proof.token,
            "url": format!("{base}/challenge/{number}") });
        if proof.is_proved == Some(false) {
            seen["error"] = json!({ "type": "urn:ietf:params:acme:error:unauthorized",
                "detail": "the TXT record has another value" });
        }
        seen
    }

    /// Where in the DNS the proof is to be.
    pub(super) fn to_look_at(&self, number: usize, said: &Said) -> Result<String, Refusal> {
        let proof = self.proof(number, said)?;
        said.object(&[])?;
        match proof.is_proved {
            None => Ok(format!("_acme-challenge.{}.", proof.name)),
            Some(_) => refused(400, "malformed", "it was looked at before"),
        }
    }

    /// What was `found` there.
    pub(super) fn has_looked(&mut self, number: usize, found: &[String], base: &str) -> Value {
        let proof = &self.authorizations[number];
        let value = sha256(&format!("{}.{}", proof.token, proof.thumbprint));
        let is_proved = found.contains(&value);
        // What comes of it is heard later, as with those that look from several places.
        let mut seen = self.challenge(number, base);
        seen["status"] = json!("processing");
        self.authorizations[number].is_proved = Some(is_proved);
        seen
    }

    /// RFC 8555 section 7.4
    pub(super) fn finalize(
        &mut self,
        number: usize,
        said: &Said,
        issue: impl FnOnce(&Request) -> Sealed,
    ) -> Result<(), Refusal> {
        let order = self.own(number, said)?;
        let asked = said.object(&["csr"])?;
        if self.status(order) != "ready" {
            return refused(403, "orderNotReady", self.status(order));
        }
        let csr = asked["csr"].as_str().unwrap_or_default();
        let csr = BASE64URL_NOPAD.decode(csr.as_bytes()).unwrap_or_default();
        let request = Request::read(&csr)?;
        if request.names() != order.names.iter().cloned().collect() {
            return refused(400, "badCSR", "it is not for the names of the order");
        }
        if request.key() == said.point {
            return refused(400, "badCSR", "an account's key is for nothing else");
        }
        let Sealed { chain, id } = issue(&request);
        let issued = Issued {
            account: order.account,
            names: order.names.clone(),
            is_replaced: false,
        };
        let replaced = order.replaces.clone();
        let replaced = replaced.and_then(|id| self.issued.get_mut(&id));
        if let Some(replaced) = replaced {
            replaced.is_replaced = true;
        }
        self.issued.insert(id, issued);
        self.orders[number].chain = Some(chain);
        Ok(())
    }

    pub(super) fn chain(&self, number: usize, said: &Said) -> Result<String, Refusal> {
        match &self.own(number, said)?.chain {
            Some(chain) => Ok(chain.clone()),
            None => refused(404, "malformed", "there is none yet"),
        }
    }
}

impl Authorization {
    fn status(&self) -> &'static str {
        match self.is_proved {
            None => "pending",
            Some(true) => "valid",
            Some(false) => "invalid",
        }
    }
}

fn random() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<[u8; 16]>())
}
