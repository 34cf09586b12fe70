//! The device's keys: Ed25519 for who it is, P-256 for the certificate that visitors see, and for its accounts with certificate
//! authorities. The only file of the agent that names the certificate library.

use std::fmt;

use directory::PublicKey;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PublicKeyData as _, SigningKey as _,
};
use wire::signed_request::{Claim, Headers, Request};
use zeroize::Zeroizing;

use crate::tls::AgentCertificate;

/// A key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
#[error("the key cannot be used: {0}")]
pub struct KeyError(#[from] rcgen::Error);

/// Who the device is.
pub struct Identity {
    pair: KeyPair,
    public: PublicKey,
}

impl Identity {
    /// A fresh key, in PEM (PKCS #8).
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn generate_pem() -> Result<Zeroizing<String>, KeyError> {
        Ok(KeyPair::generate_for(&PKCS_ED25519)?.serialize_pem().into())
    }

    /// The identity whose key this is: Ed25519 in PEM (PKCS #8).
    ///
    /// # Errors
    /// If it is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem_and_sign_algo(pem, &PKCS_ED25519)?;
        let public = pair
            .der_bytes()
            .try_into()
            .map_err(|_| rcgen::Error::UnsupportedSignatureAlgorithm)?;
        Ok(Self {
            pair,
            public: PublicKey::from_bytes(public),
        })
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// The self-signed certificate that carries the key in TLS. Nobody looks at anything in it but the key.
    ///
    /// # Errors
    /// If the key cannot sign it.
    pub fn certificate(&self) -> Result<AgentCertificate, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("causeway agent");
        let certificate = params.self_signed(&self.pair)?;
        AgentCertificate::from_der(certificate.der().to_vec(), self.pair.serialize_der())
            .map_err(|_| rcgen::Error::CouldNotParseKeyPair.into())
    }

    /// Signs `request` (RFC 9421). `created` is in seconds since 1970.
    ///
    /// # Errors
    /// If the key cannot sign it.
    pub fn sign(
        &self,
        request: &Request<'_>,
        created: u64,
        nonce: [u8; 16],
    ) -> Result<Headers, KeyError> {
        let claim = Claim {
            key: self.public,
            created,
            nonce,
        };
        let signature = self.pair.sign(&claim.base(request))?;
        let signature = signature
            .try_into()
            .map_err(|_| rcgen::Error::UnsupportedSignatureAlgorithm)?;
        Ok(claim.headers(request, &signature))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.public).finish()
    }
}

/// The key of the device's certificate.
pub struct TlsKey {
    pair: KeyPair,
    pem: Zeroizing<String>,
}

impl TlsKey {
    pub(super) fn generate_pem() -> Result<Zeroizing<String>, KeyError> {
        Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?
            .serialize_pem()
            .into())
    }

    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)?;
        Ok(Self {
            pair,
            pem: pem.to_owned().into(),
        })
    }

    /// The key in PEM, for the TLS library.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// The same in DER without a common name, which is too short for some names, and which not every authority takes.
    pub(super) fn order_request(&self, names: Vec<String>) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.pair)?.der().to_vec())
    }

    /// A request, in PEM, for a certificate for `names`.
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

/// The key of the device's accounts with certificate authorities.
pub(super) struct AccountKey(Zeroizing<Vec<u8>>);

impl AccountKey {
    pub(super) fn generate_pem() -> Result<Zeroizing<String>, KeyError> {
        TlsKey::generate_pem()
    }

    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)?;
        Ok(Self(pair.serialize_der().into()))
    }

    /// PKCS #8.
    pub(super) fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(…)")
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
