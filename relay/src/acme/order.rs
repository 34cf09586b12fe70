//! One certificate from one authority. Where an order stands is what the authority says it is, asked anew at each step: so it does not
//! matter after which step this was interrupted, or how often a nonce was not taken.
//!
//! ```text
//!   on disk: account key ─► account ─► that an order is made ─► its address ─► what stands in the DNS ─► certificate, and all else forgotten
//! ```

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus, Problem,
};
use tokio::time::sleep;

use super::Acme;
use super::account::Speaker;
use super::authorities::{Authorities, Authority};
use super::error::{AcmeError, is_problem};
use super::folder::{AcmeState, PlacedOrder};
use super::http::Http;
use super::{Applicant, Proof};
use crate::keys::AccountKey;

/// How often an order is looked at, at least and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Nonces that are not taken until it is given up; the library gives up on each request after three.
const NONCES: usize = 50;

/// The same request again while its nonce is not taken.
macro_rules! retried {
    ($request:expr) => {{
        let mut tries = 0;
        loop {
            match $request.await {
                Err(Error::Api(problem)) if is_problem(&problem, "badNonce") && tries < NONCES => {
                    tries += 1;
                }
                answered => break answered.map_err(AcmeError::from),
            }
        }
    }};
}

/// One authority, and who the applicant is there.
pub(super) struct Customer<'a, A> {
    pub(super) acme: &'a Acme<'a, A>,
    pub(super) authority: &'a Authority,
    pub(super) http: Http,
    key: AccountKey,
}

impl<'a, A: Applicant> Customer<'a, A> {
    pub(super) fn of(acme: &'a Acme<'a, A>, authority: &'a Authority) -> Result<Self, AcmeError> {
        Ok(Self {
            acme,
            authority,
            http: Http::new(authority.roots()?, acme.resolver),
            key: acme.folder.account_key()?,
        })
    }

    /// Gets a certificate; its chain in PEM, and what it was asked for with is kept until [`AcmeState`] has it.
    pub(super) async fn order(
        &self,
        authorities: &Authorities,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<String, AcmeError> {
        let account = self.account(authorities).await?;
        self.bind(authorities).await?;
        let (mut order, is_resumed) = match self.placed(&account).await? {
            Some(order) => (order, true),
            None => (self.place(&account, replaces).await?, false),
        };
        let chain = self.follow(&mut order, is_resumed).await;
        if let Err(error) = &chain
            && error.is_final()
        {
            self.change(|state| drop(state.orders.remove(&self.authority.directory)))?;
        }
        chain
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut AcmeState)) -> Result<(), AcmeError> {
        Ok(self.acme.folder.change(change)?)
    }

    /// The account that is known, or the one that the authority makes or has for the key.
    async fn account(&self, authorities: &Authorities) -> Result<Account, AcmeError> {
        let directory = &self.authority.directory;
        let known = self.acme.folder.state()?.accounts.remove(directory);
        let id = match known {
            Some(id) => id,
            None => {
                let speaker = Speaker::with(&self.http, self.authority, &self.key).await?;
                let (contact, binding) = (&authorities.contact, &self.authority.binding);
                let id = speaker
                    .account(contact.as_deref(), binding.as_ref())
                    .await?;
                self.change(|state| drop(state.accounts.insert(directory.clone(), id.clone())))?;
                tracing::info!(
                    authority = self.authority.name(),
                    account = id,
                    "there is an account with a certificate authority"
                );
                id
            }
        };
        self.known_as(id).await
    }

    /// As somebody whom the authority knows.
    pub(super) async fn known_as(&self, id: String) -> Result<Account, AcmeError> {
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        let directory = self.authority.directory.clone();
        Ok(builder
            .from_parts(id, self.key.der().into(), directory)
            .await?)
    }

    /// The order that was made before, if it can still come to something.
    async fn placed(&self, account: &Account) -> Result<Option<Order>, AcmeError> {
        let placed = self
            .acme
            .folder
            .state()?
            .orders
            .remove(&self.authority.directory);
        let Some(placed) = placed.filter(|placed| placed.names == self.acme.names) else {
            return Ok(None);
        };
        // Where its address is not known, it has been made at most, and only the authority knows.
        let (urls, is_only_made) = match placed.url {
            Some(url) => (vec![url], false),
            None => {
                let speaker = Speaker::with(&self.http, self.authority, &self.key).await?;
                (speaker.orders(account.id()).await?, true)
            }
        };
        for url in urls.into_iter().rev() {
            let mut order = match retried!(account.order(url.clone())) {
                Ok(order) => order,
                Err(AcmeError::Api(problem)) if is_unknown(&problem) => continue,
                Err(error) => return Err(error),
            };
            let state = order.state();
            let is_open = match state.status {
                OrderStatus::Pending | OrderStatus::Ready => state.error.is_none(),
                OrderStatus::Processing | OrderStatus::Valid => !is_only_made,
                OrderStatus::Invalid => false,
            };
            if is_open && self.is_for_names(&mut order).await? {
                self.keep(&order)?;
                tracing::info!(url, "an order that was made before is taken up again");
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    async fn is_for_names(&self, order: &mut Order) -> Result<bool, AcmeError> {
        for _ in 0..NONCES {
            let mut found = Vec::new();
            let mut named = order.identifiers();
            let read = async {
                while let Some(name) = named.next().await {
                    found.push(name?.to_string());
                }
                Ok::<_, Error>(())
            };
            match read.await {
                Err(Error::Api(problem)) if is_problem(&problem, "badNonce") => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let names = &self.acme.names;
                    return Ok(
                        names.len() == found.len() && names.iter().all(|name| found.contains(name))
                    );
                }
            }
        }
        Err(AcmeError::Nonces)
    }

    /// Makes another, if it may be made now. That it is made stands on the disk before the authority hears of it.
    async fn place(
        &self,
        account: &Account,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Order, AcmeError> {
        let profile = self.authority.profile.as_deref();
        if let Some(profile) = profile {
            // The draft, section 4: a name that the directory does not have is not asked for.
            let mut offered: Vec<_> = account.profiles().map(|one| one.name.to_owned()).collect();
            if !offered.iter().any(|name| name == profile) {
                let profile = profile.to_owned();
                offered.sort_unstable();
                return Err(AcmeError::NoProfile { profile, offered });
            }
        }
        let names = self.acme.names;
        let directory = self.authority.directory.clone();
        let renews = self.acme.kept()?.is_some();
        self.acme.applicant.may_order(&directory, renews).await?;
        let made = PlacedOrder {
            url: None,
            names: names.to_vec(),
        };
        self.change(|state| drop(state.orders.insert(directory, made)))?;
        let identifiers: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
        let mut asked = NewOrder::new(&identifiers);
        if let Some(replaces) = replaces {
            asked = asked.replaces(replaces);
        }
        if let Some(profile) = profile {
            asked = asked.profile(profile);
        }
        let order = retried!(account.new_order(&asked))?;
        self.keep(&order)?;
        tracing::info!(url = order.url(), "a certificate has been ordered");
        Ok(order)
    }

    fn keep(&self, order: &Order) -> Result<(), AcmeError> {
        let placed = PlacedOrder {
            url: Some(order.url().to_owned()),
            names: self.acme.names.to_vec(),
        };
        let directory = self.authority.directory.clone();
        self.change(|state| drop(state.orders.insert(directory, placed)))
    }

    /// To its end; the caller knows how long to wait.
    async fn follow(&self, order: &mut Order, mut is_resumed: bool) -> Result<String, AcmeError> {
        let (mut nonces, mut pause) = (0, POLL.0);
        loop {
            match self.step(order, is_resumed).await {
                Ok(Some(chain)) => return Ok(chain),
                Ok(None) => {
                    is_resumed = false;
                    sleep(pause).await;
                    pause = (pause * 2).min(POLL.1);
                }
                Err(error) if error.is_bad_nonce() && nonces < NONCES => nonces += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Does what it waits for.
    async fn step(&self, order: &mut Order, is_resumed: bool) -> Result<Option<String>, AcmeError> {
        let state = order.refresh().await?;
        match (state.status, state.error.clone()) {
            (OrderStatus::Invalid, None) | (_, Some(_)) => {
                let reason = self.reason(order).await;
                return Err(AcmeError::Invalid(reason));
            }
            (OrderStatus::Pending, None) => self.prove(order, is_resumed).await?,
            (OrderStatus::Ready, None) => {
                let request = self.acme.key.order_request(self.acme.names.to_vec());
                let request = request.map_err(|_| AcmeError::Key)?;
                order.finalize_csr(&request).await?;
            }
            (OrderStatus::Processing, None) => {}
            (OrderStatus::Valid, None) => return Ok(order.certificate().await?),
        }
        Ok(None)
    }

    /// Puts into the DNS what the authority looks for there, and tells it when every answer has it. After an interruption what it is
    /// looking for already may be there no more.
    async fn prove(&self, order: &mut Order, is_resumed: bool) -> Result<(), AcmeError> {
        let mut missing = Vec::new();
        let mut proofs = order.authorizations();
        while let Some(proof) = proofs.next().await {
            let mut proof = proof?;
            match proof.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Invalid
                | AuthorizationStatus::Revoked
                | AuthorizationStatus::Expired
                | AuthorizationStatus::Deactivated => return Err(AcmeError::Invalid(None)),
            }
            let challenge = proof.challenge(ChallengeType::Dns01);
            let challenge = challenge.ok_or(AcmeError::NoDnsChallenge)?;
            let is_missing = match challenge.status {
                ChallengeStatus::Pending => true,
                ChallengeStatus::Processing => is_resumed,
                ChallengeStatus::Valid | ChallengeStatus::Invalid => false,
            };
            if is_missing {
                let Identifier::Dns(name) = challenge.identifier().identifier else {
                    return Err(AcmeError::Nonsense);
                };
                missing.push(Proof {
                    name: name.clone(),
                    value: challenge.key_authorization().dns_value(),
                });
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let values = missing.iter().map(|proof| proof.value.clone());
        self.change(|state| state.challenges.extend(values))?;
        self.acme.applicant.prove(&missing).await?;
        let mut proofs = order.authorizations();
        while let Some(proof) = proofs.next().await {
            let mut proof = proof?;
            if proof.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = proof.challenge(ChallengeType::Dns01)
                && challenge.status == ChallengeStatus::Pending
            {
                challenge.set_ready().await?;
            }
        }
        Ok(())
    }

    /// Why an order came to nothing, in the authority's words.
    async fn reason(&self, order: &mut Order) -> Option<String> {
        let mut reason = order.state().error.clone().and_then(|error| error.detail);
        let mut proofs = order.authorizations();
        while let Some(Ok(proof)) = proofs.next().await {
            let mut wrong = proof
                .challenges
                .iter()
                .filter_map(|found| found.error.clone());
            reason = wrong.find_map(|error| error.detail).or(reason);
        }
        reason
    }
}

/// That the authority knows nothing of what it was asked about.
fn is_unknown(problem: &Problem) -> bool {
    matches!(problem.status, Some(403 | 404)) || is_problem(problem, "malformed")
}
