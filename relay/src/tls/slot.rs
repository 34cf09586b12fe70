//! What certificate is shown, and to whom.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustls::DistinguishedName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Roots, TlsError, certified};

/// A certificate chain with its key, which can be replaced while connections are accepted with it.
#[derive(Clone)]
pub struct CertificateSlot(Arc<RwLock<Slot>>);

struct Slot {
    certified: Arc<CertifiedKey>,
    public: Option<Public>,
}

/// What is shown instead to whoever does not say that it trusts `own` (RFC 8446 section 4.2.4), which is the authority of what would
/// be shown without it.
struct Public {
    certified: Arc<CertifiedKey>,
    own: Vec<DistinguishedName>,
}

impl Slot {
    fn of(certified: Arc<CertifiedKey>) -> Self {
        Self {
            certified,
            public: None,
        }
    }

    /// For a client that names these authorities.
    fn for_client(&self, trusted: Option<&[DistinguishedName]>) -> Arc<CertifiedKey> {
        let is_own = |name: &DistinguishedName, public: &Public| {
            public.own.iter().any(|own| own.as_ref() == name.as_ref())
        };
        let public = self.public.as_ref().filter(|public| {
            let mut trusted = trusted.unwrap_or_default().iter();
            !trusted.any(|name| is_own(name, public))
        });
        let certified = public.map_or(&self.certified, |public| &public.certified);
        Arc::clone(certified)
    }
}

impl CertificateSlot {
    /// A slot with the chain (leaf first) and the PKCS#8 key, both in PEM.
    ///
    /// # Errors
    /// If they cannot be read or do not fit each other.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(Slot::of(certified(
            chain, key,
        )?)))))
    }

    /// A slot of its own with what is in this one now.
    pub(crate) fn apart(&self) -> Self {
        Self(Arc::new(RwLock::new(Slot::of(self.current()))))
    }

    /// Puts the chain and key of another slot in place; connections accepted from now on get them.
    pub fn replace(&self, next: &Self) {
        let next = next.current();
        self.write().certified = next;
    }

    /// Shows `public` from now on, but for those who say that they trust the authorities in `own`: they are shown what they always
    /// were. With `None` everybody is.
    pub fn publish(&self, public: Option<&Self>, own: &Roots) {
        let public = public.map(|public| Public {
            certified: public.current(),
            own: own.store.subjects(),
        });
        self.write().public = public;
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slot> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Slot> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.read().certified)
    }
}

impl fmt::Debug for CertificateSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateSlot(…)")
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read().for_client(hello.certificate_authorities()))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::tls::{HTTP1, Prefixed, operator_acceptor, program_client};

    const HOST: &str = "cloud.nas.test";

    /// An authority's certificate in PEM, and a slot with one that it has given.
    fn authority(name: &str) -> (String, CertificateSlot) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([HOST.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap().pem();
        let slot = CertificateSlot::from_pem(&leaf, &key.serialize_pem()).unwrap();
        (root, slot)
    }

    /// Whether a client with these roots comes in.
    async fn comes_in(slot: &CertificateSlot, roots: &Roots) -> bool {
        let acceptor = operator_acceptor(slot.clone()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (stream, accepted) = tokio::join!(stream, listener.accept());
        let whole = |stream| Prefixed::new(bytes::Bytes::new(), stream);
        let name = HOST.try_into().unwrap();
        let connector = program_client(roots, HTTP1).unwrap();
        let client = connector.connect(name, whole(stream.unwrap()));
        let server = acceptor.accept(whole(accepted.unwrap().0));
        let (client, _) = tokio::join!(client, server);
        client.is_ok()
    }

    #[tokio::test]
    async fn who_trusts_the_own_authority_alone_says_so_and_all_others_see_the_public_certificate()
    {
        let (own_root, slot) = authority("own");
        let (public_root, public) = authority("public");
        let pinned = Roots::from_pem(&own_root).unwrap();
        let knows = Roots::from_pem(&public_root).unwrap();
        // As one who trusts what its system does: it says nothing of that.
        let silent = |roots: &Roots| Roots {
            is_pinned: false,
            ..roots.clone()
        };
        assert!(comes_in(&slot, &pinned).await && comes_in(&slot, &silent(&pinned)).await);

        slot.publish(Some(&public), &pinned);
        assert!(comes_in(&slot, &pinned).await);
        assert!(comes_in(&slot, &knows).await && comes_in(&slot, &silent(&knows)).await);
        assert!(!comes_in(&slot, &silent(&pinned)).await);

        // Another one of the own authority changes nothing of that, for either.
        let (other_root, other) = authority("own");
        slot.replace(&other);
        assert!(comes_in(&slot, &silent(&knows)).await);
        assert!(comes_in(&slot, &Roots::from_pem(&other_root).unwrap()).await);

        slot.publish(None, &pinned);
        assert!(!comes_in(&slot, &knows).await);
    }
}
