//! Who the device is: its Ed25519 key. Those of its certificate are in [`crate::keys`].

use std::fmt;

use directory::PublicKey;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use wire::signed_request::{Claim, Headers, Request};
use zeroize::Zeroizing;

use crate::keys::common_name;
pub use crate::keys::{KeyError, TlsKey};
use crate::tls::AgentCertificate;

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
