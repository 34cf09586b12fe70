//! The keys of certificates, and of accounts with the authorities that give them: P-256, made where they are used. With the agent's
//! `identity`, the only file that names the certificate library.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use rcgen::PublicKeyData as _;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

/// A key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
#[error("the key cannot be used: {0}")]
pub struct KeyError(#[from] rcgen::Error);

/// The key of a certificate: of a device's, or of the operator's hosts.
pub struct TlsKey {
    pair: KeyPair,
    pem: Zeroizing<String>,
}

impl TlsKey {
    pub(crate) fn generate_pem() -> Result<Zeroizing<String>, KeyError> {
        Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?
            .serialize_pem()
            .into())
    }

    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)?;
        Ok(Self {
            pair,
            pem: pem.to_owned().into(),
        })
    }

    /// The key in PEM, for the TLS library.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The SHA-256 of its public half, as certificates have that, in hexadecimal.
    pub(crate) fn public_hash(&self) -> String {
        let public = self.pair.subject_public_key_info();
        HEXLOWER.encode(digest(&SHA256, &public).as_ref())
    }

    /// A request in DER without a common name, which is too short for some names, and which not every authority takes.
    pub(crate) fn order_request(&self, names: Vec<String>) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.pair)?.der().to_vec())
    }

    /// The same, in PEM, for a certificate for `names`.
    ///
    /// # Errors
    /// If a name cannot stand in a certificate.
    pub fn signing_request(&self, names: Vec<String>) -> Result<String, KeyError> {
        let common = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = common_name(&common);
        Ok(params.serialize_request(&self.pair)?.pem()?)
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsKey(…)")
    }
}

/// The key of accounts with certificate authorities.
pub(crate) struct AccountKey(Zeroizing<Vec<u8>>);

impl AccountKey {
    pub(crate) fn generate_pem() -> Result<Zeroizing<String>, KeyError> {
        TlsKey::generate_pem()
    }

    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)?;
        Ok(Self(pair.serialize_der().into()))
    }

    /// PKCS #8.
    pub(crate) fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(…)")
    }
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
