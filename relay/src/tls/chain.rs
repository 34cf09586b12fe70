//! Whether a chain of certificates holds together.

use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::UnixTime;
use rustls::server::ParsedCertificate;

use super::{certificates, provider};

/// Longer than any chain that is good for something; each certificate costs a try.
const LONGEST: usize = 10;

/// Whether a visitor who trusts one of the certificates that follow in `chain` (in PEM, leaf first), or whoever has signed that, trusts the
/// first at the time `at`, in seconds since 1970. A certificate that stands alone does: who has signed it is not known here.
pub(crate) fn holds_together(chain: &str, at: u64) -> bool {
    let Ok(chain) = certificates(chain) else {
        return false;
    };
    let Some((leaf, following)) = chain.split_first() else {
        return false;
    };
    let Ok(leaf) = ParsedCertificate::try_from(leaf) else {
        return false;
    };
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
    let algorithms = provider().signature_verification_algorithms.all;
    let leads_to = |trusted: &_| {
        let mut roots = RootCertStore::empty();
        roots.add(Clone::clone(trusted)).is_ok()
            && verify_server_cert_signed_by_trust_anchor(&leaf, &roots, following, at, algorithms)
                .is_ok()
    };
    following.is_empty() || (chain.len() <= LONGEST && following.iter().any(leads_to))
}
