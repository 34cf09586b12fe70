//! The certificate of the operator's own hosts that everybody trusts, where [acme] asks for it: one for `cloud.` and, where DNS is spoken
//! over TLS, the name server. This server is its own applicant: what the authority looks for is put into the zone here.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ddns::challenges::ChallengeValue;
use ddns::update::{ProofHost, Updater};
use directory::{OperatorName, Zone};
use relay::acme::{
    Acme, AcmeError, Applicant, Authorities, Authority, Binding, CertificateStatus, Folder, Issuer,
    Kept, Proof,
};
use relay::kept::KeptFiles;
use relay::keys::TlsKey;
use relay::resolve::Resolver;
use tokio_util::sync::CancellationToken;

use super::UpError;
use super::certificates::OperatorCertificates;
use crate::authority;
use crate::config::{AcmeAuthority, AcmeConfig};
use crate::health::PublicCertificate;
use crate::orders::Orders;

/// Where it is kept, in the state directory.
const FOLDER: &str = "acme";

/// What it takes to have it.
pub(super) struct Ordering {
    folder: Folder,
    key: TlsKey,
    names: Vec<String>,
    applicant: Operator,
}

/// The operator, as one who wants certificates.
struct Operator {
    authorities: Authorities,
    zone: Zone,
    /// Absent until the zone is answered for: nothing is ordered before.
    updater: Option<Updater>,
    /// Where it is noted what has been ordered.
    orders: Arc<Orders>,
    /// The key of what is shown, in PEM.
    key: zeroize::Zeroizing<String>,
    certificates: Arc<OperatorCertificates>,
    told: PublicCertificate,
}

impl Ordering {
    /// Shows what was given last, if it is still good: before anybody can come, so that all are shown the same. Nothing is ordered yet.
    pub(super) fn open(
        config: &AcmeConfig,
        (zone, state): (&Zone, &Path),
        orders: &Arc<Orders>,
        certificates: &Arc<OperatorCertificates>,
        told: PublicCertificate,
    ) -> Result<Self, UpError> {
        let folder = Folder::of(KeptFiles::open(state.join(FOLDER))?);
        let key = folder.tls_key()?;
        let mut names = vec![zone.operator_name(OperatorName::Cloud)];
        if certificates.name_server.is_some() {
            names.push(authority::name_server(zone));
        }
        let applicant = Operator {
            authorities: authorities(config)?,
            zone: zone.clone(),
            updater: None,
            orders: Arc::clone(orders),
            key: key.pem().to_owned().into(),
            certificates: Arc::clone(certificates),
            told,
        };
        let ordering = Self {
            folder,
            key,
            names,
            applicant,
        };
        ordering.acme().show_kept()?;
        Ok(ordering)
    }

    fn acme(&self) -> Acme<'_, &Operator> {
        Acme {
            folder: &self.folder,
            resolver: Resolver::System,
            key: &self.key,
            names: &self.names,
            id: self.applicant.zone.as_str(),
            applicant: &self.applicant,
        }
    }

    /// Orders whenever it is time, from when this process is `alone` until it is not any more, which is `over`; and ends at `end`.
    pub(super) async fn keep(
        mut self,
        updater: Updater,
        alone: Option<CancellationToken>,
        over: CancellationToken,
        end: CancellationToken,
    ) {
        self.applicant.updater = Some(updater);
        let kept = async {
            if let Some(alone) = alone {
                alone.cancelled().await;
            }
            // The process before may have been given another meanwhile.
            if let Err(error) = self.acme().show_kept() {
                tracing::warn!(%error, "the certificate of the operator's hosts cannot be read");
            }
            self.acme().keep().await;
        };
        tokio::select! {
            biased;
            () = over.cancelled() => end.cancelled().await,
            () = kept => {}
        }
    }
}

impl Applicant for &Operator {
    async fn authorities(&self) -> Result<Authorities, AcmeError> {
        Ok(self.authorities.clone())
    }

    async fn may_order(&self, directory: &str, _: bool) -> Result<(), AcmeError> {
        let noted = self.orders.of_operator(directory).await;
        noted.map_err(|error| AcmeError::Unable {
            what: error.to_string(),
            mend: "see that the database can be written to",
        })
    }

    async fn prove(&self, proofs: &[Proof]) -> Result<(), AcmeError> {
        let located = proofs.iter().map(|proof| {
            let host = ProofHost::locate(&proof.name, &self.zone);
            host.zip(ChallengeValue::new(proof.value.as_bytes()))
        });
        let located: Option<Vec<_>> = located.collect();
        let located = located.ok_or(AcmeError::Nonsense)?;
        let updater = self.updater.as_ref().ok_or(AcmeError::Unable {
            what: "the name server has not begun".to_owned(),
            mend: "nothing: it is tried again by itself",
        })?;
        let proved = updater.prove(&located).await;
        proved.map_err(|error| AcmeError::Unable {
            what: error.to_string(),
            mend: "nothing, if it passes: it is tried again by itself",
        })
    }

    async fn withdraw(&self, values: &[String]) -> Result<(), AcmeError> {
        let values = values.iter();
        let values = values.filter_map(|value| ChallengeValue::new(value.as_bytes()));
        if let Some(updater) = &self.updater {
            updater.withdraw_proofs(&values.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// What stands there at `cloud.` and the name server's is the operator's to configure.
    async fn bind(&self, _: &[Issuer]) -> Result<bool, AcmeError> {
        Ok(false)
    }

    fn show(&self, kept: Option<&Kept>) {
        let public = kept.map(|kept| (&*kept.certificate.chain, &**self.key));
        if let Err(error) = self.certificates.publish(public) {
            tracing::error!(%error, "a certificate of the operator's hosts cannot be shown; what was shown still is");
        }
        if kept.is_none() {
            self.told.is_over();
        }
    }

    fn tell(&self, status: CertificateStatus) {
        self.told.tell(status);
    }
}

/// As they are configured, with what stands in the files.
fn authorities(config: &AcmeConfig) -> io::Result<Authorities> {
    let authority = |ca: &AcmeAuthority| {
        let binding = ca.eab_key_id.clone().zip(ca.eab_key()?);
        Ok(Authority {
            directory: ca.directory.clone(),
            ca: ca.ca()?,
            binding: binding.map(|(key_id, key)| Binding { key_id, key }),
            profile: ca.profile.clone(),
            caa_identity: ca.caa_identity.clone(),
        })
    };
    let list: io::Result<_> = config.ca.iter().map(authority).collect();
    Ok(Authorities {
        contact: config.contact.clone(),
        list: list?,
    })
}
