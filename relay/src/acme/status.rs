//! How it stands with certificates, for people and programs.

use serde::{Deserialize, Serialize};

use super::caa::CaaStatus;

/// How it stands with the certificate that visitors see. It is of the operator's own authority while there is no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The host of the authority that has given it; absent if it is of the operator's own.
    pub authority: Option<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: Option<u64>,
    /// When the next one is ordered.
    pub renew_at: Option<u64>,
    /// The host of the authority that was to give another, and did not; absent if it was not the authority that failed.
    pub asked: Option<String>,
    /// Why there is no other although there should be, in words.
    pub problem: Option<String>,
    /// What to do about that.
    pub mend: Option<String>,
    /// When it is tried again.
    pub next_try: Option<u64>,
    /// Who alone may have one.
    #[serde(default)]
    pub caa: CaaStatus,
    /// Who was asked for the certificate before the one that has given it.
    #[serde(default)]
    pub passed_over: Option<PassedOver>,
}

/// An authority that should have given a certificate and did not, so that another was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its host.
    pub authority: String,
    /// Why it gave none, in words.
    pub problem: String,
    /// What to do about that.
    pub mend: String,
}
