//! Who alone may have certificates for the applicant's names (RFC 8657): its own accounts with the authorities that it asks. Said before
//! each order, so that the authority finds itself there; but no order waits for that to be possible.

use serde::{Deserialize, Serialize};

use super::authorities::Authorities;
use super::folder::AcmeState;
use super::order::Customer;
use super::{Acme, AcmeError, Applicant, account};

/// An account that may have certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issuer {
    /// The address of the authority's directory.
    pub directory: String,
    /// What the authority looks for in CAA records: a name of its own (RFC 8659 section 4.2).
    pub issuer: String,
    /// The account's address.
    pub account: String,
}

/// Who alone may have certificates, as the DNS says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaaStatus {
    /// What the authorities are known by whose accounts these are. Without any, whoever proves the names may.
    pub issuers: Vec<String>,
    /// Why that is not as it should be, in words.
    pub problem: Option<String>,
}

impl<A: Applicant> Customer<'_, A> {
    /// Says that the accounts with authorities, this one's among them, are the only ones that may have certificates.
    pub(super) async fn bind(&self, authorities: &Authorities) -> Result<(), AcmeError> {
        let directory = self.authority.directory.clone();
        match account::caa_identity(&self.http, self.authority).await {
            Ok(identity) => self.change(|state| match identity {
                Some(identity) => drop(state.identities.insert(directory, identity)),
                None => drop(state.identities.remove(&directory)),
            })?,
            Err(error) => {
                tracing::debug!(%error, "what the authority looks for in CAA records is as it was")
            }
        }
        let found = issuers(authorities, &self.acme.folder.state()?);
        let status = match found {
            Ok(issuers) => self.acme.say(&issuers).await,
            // Nobody else must be shut out, nor this one.
            Err(nameless) => {
                let mut status = self.acme.say(&[]).await;
                let problem = format!(
                    "{nameless} does not say what it looks for in CAA records; the operator can, with `caa_identity` in [[acme.ca]]"
                );
                status.problem.get_or_insert(problem);
                status
            }
        };
        if let Some(problem) = &status.problem {
            tracing::warn!(
                problem,
                "other accounts than this device's own may have certificates for its name"
            );
        }
        self.change(|state| state.caa = status)
    }
}

impl<A: Applicant> Acme<'_, A> {
    /// There is nobody to be asked any more, so nobody is kept from asking on his own.
    pub(super) async fn unbind(&self) -> Result<(), AcmeError> {
        if self.folder.state()?.caa.issuers.is_empty() {
            return Ok(());
        }
        let status = self.say(&[]).await;
        if status.problem.is_none() {
            self.folder.change(|state| state.caa = status)?;
        }
        Ok(())
    }

    async fn say(&self, issuers: &[Issuer]) -> CaaStatus {
        let names = issuers.iter().map(|issuer| issuer.issuer.clone());
        match self.applicant.bind(issuers).await {
            Ok(true) => CaaStatus {
                issuers: names.collect(),
                problem: None,
            },
            Ok(false) => CaaStatus::default(),
            Err(error) => CaaStatus {
                issuers: Vec::new(),
                problem: Some(error.to_string()),
            },
        }
    }
}

/// The accounts with those that are asked; or the first of these that has one, and of which nobody knows what it looks for.
fn issuers(authorities: &Authorities, state: &AcmeState) -> Result<Vec<Issuer>, String> {
    let mut issuers = Vec::new();
    for authority in &authorities.list {
        let directory = &authority.directory;
        let Some(account) = state.accounts.get(directory) else {
            continue;
        };
        let issuer = state.identities.get(directory);
        issuers.push(Issuer {
            directory: directory.clone(),
            issuer: issuer.ok_or_else(|| authority.name())?.clone(),
            account: account.clone(),
        });
    }
    Ok(issuers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_an_account_is_among_them_or_nobody_is() {
        let directory = |name: &str| format!("https://{name}/dir");
        let list = ["a.test", "b.test", "c.test"]
            .map(|name| serde_json::json!({ "directory": directory(name) }));
        let authorities = serde_json::json!({ "authorities": list });
        let authorities: Authorities = serde_json::from_value(authorities).unwrap();
        let mut state = AcmeState::default();
        let of = |state: &AcmeState| {
            let found = issuers(&authorities, state)?;
            let pairs = found.into_iter().map(|found| (found.issuer, found.account));
            Ok(pairs.collect::<Vec<_>>())
        };
        assert_eq!(of(&state), Ok(vec![]));
        for name in ["a.test", "b.test", "gone.test"] {
            let account = format!("https://{name}/acct/1");
            state.accounts.insert(directory(name), account);
        }
        assert_eq!(of(&state), Err("a.test".to_owned()));
        state.identities.insert(directory("a.test"), "a".to_owned());
        assert_eq!(of(&state), Err("b.test".to_owned()));
        state.identities.insert(directory("b.test"), "b".to_owned());
        let pair = |name: &str, of: &str| (name.to_owned(), format!("https://{of}/acct/1"));
        assert_eq!(
            of(&state),
            Ok(vec![pair("a", "a.test"), pair("b", "b.test")])
        );
    }
}
