//! Sealing to a public key that only its owner opens: HPKE (RFC 9180) in base mode, with X25519, HKDF-SHA256 and AES-256-GCM.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

/// The length of either half of a key, and of an encapsulated one.
pub(crate) const KEY: usize = 32;

/// How much longer what is sealed becomes.
pub(crate) const TAG: usize = 16;

/// The system has no randomness to give, or the key is none.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SealError(Arc<str>);

fn failed(error: impl ToString) -> SealError {
    SealError(error.to_string().into())
}

/// A fresh pair of keys: the public one first.
pub(crate) fn generate() -> Result<([u8; KEY], Zeroizing<[u8; KEY]>), SealError> {
    let (public, secret) = SUITE.generate_key_pair().map_err(failed)?;
    let public = <[u8; KEY]>::try_from(public.0.as_slice()).map_err(failed)?;
    let secret = <[u8; KEY]>::try_from(secret.secret_bytes()).map_err(failed)?;
    Ok((public, Zeroizing::new(secret)))
}

/// Seals `plain` so that it opens only together with the same `bound`. Gives the encapsulated key and what is sealed.
pub(crate) fn seal(
    public: &[u8; KEY],
    purpose: &[u8],
    bound: &[u8],
    plain: &[u8],
) -> Result<([u8; KEY], Vec<u8>), SealError> {
    let public = HpkePublicKey(public.to_vec());
    let (encapsulated, sealed) = SUITE.seal(purpose, bound, plain, &public).map_err(failed)?;
    let encapsulated = <[u8; KEY]>::try_from(encapsulated.0.as_slice()).map_err(failed)?;
    Ok((encapsulated, sealed))
}

/// Opens what [`seal`] has sealed for the same purpose, together with the same `bound`; `None` if it is anything else.
pub(crate) fn open(
    secret: &[u8; KEY],
    purpose: &[u8],
    encapsulated: &[u8; KEY],
    bound: &[u8],
    sealed: &[u8],
) -> Option<Vec<u8>> {
    let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
    let secret = HpkePrivateKey::from(secret.to_vec()); // wiped when it is dropped
    SUITE
        .open(&encapsulated, purpose, bound, sealed, &secret)
        .ok()
}
