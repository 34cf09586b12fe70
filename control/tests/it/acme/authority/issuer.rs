//! What it issues, rightly or not: a root, one below it, and certificates of that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData as _, SanType,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::ParsedExtension;

use super::{Lie, Refusal, refused};

const DAY: Duration = Duration::from_secs(86_400);

type Signer = rcgen::Issuer<'static, KeyPair>;

pub(super) struct Issuer {
    root: String,
    /// Below the root, and its certificate.
    between: (Signer, String),
}

/// A certificate, with the others of its chain.
pub(super) struct Sealed {
    pub(super) chain: String,
    /// As RFC 9773 section 4.1 has it.
    pub(super) id: String,
}

/// A signing request whose signature is right.
pub(super) struct Request(CertificateSigningRequestParams);

impl Request {
    pub(super) fn read(der: &[u8]) -> Result<Self, Refusal> {
        match CertificateSigningRequestParams::from_der(&der.into()) {
            Ok(request) => Ok(Self(request)),
            Err(error) => refused(400, "badCSR", error.to_string()),
        }
    }

    /// The common name is one too, if there is one (RFC 8555 section 7.4).
    pub(super) fn names(&self) -> BTreeSet<String> {
        let params = &self.0.params;
        let common = params.distinguished_name.get(&DnType::CommonName);
        let common = common.map(|name| format!("{name:?}"));
        let names = params.subject_alt_names.iter().map(|name| {
            if let SanType::DnsName(name) = name {
                return name.as_str().to_owned();
            }
            format!("{name:?}")
        });
        names.chain(common).collect()
    }

    pub(super) fn key(&self) -> &[u8] {
        self.0.public_key.der_bytes()
    }
}

impl Issuer {
    pub(super) fn new() -> Self {
        let (root, root_pem) = authority("root", None);
        Self {
            between: authority("between", Some(&root)),
            root: root_pem,
        }
    }

    /// What visitors trust, in PEM.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// A certificate that is good for `life`, unless it is to `lie`.
    pub(super) fn issue(&self, request: &Request, life: Duration, lie: Option<Lie>) -> Sealed {
        let now = SystemTime::now();
        let (begin, end) = match lie {
            Some(Lie::Ended) => (now - 1000 * DAY, now - 900 * DAY),
            Some(Lie::Later) => (now + 2 * DAY, now + 90 * DAY),
            _ if life > DAY => (now - DAY / 24, now + life),
            _ => (now, now + life),
        };
        let mut request = request.0.clone();
        let params = &mut request.params;
        (params.not_before, params.not_after) = (begin.into(), end.into());
        params.serial_number = Some(rand::random::<[u8; 16]>().to_vec().into());
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        if lie == Some(Lie::OtherName) {
            let other = "mynas.other.test".try_into().unwrap();
            params.subject_alt_names = vec![SanType::DnsName(other)];
        }
        let (signer, above) = &self.between;
        let leaf = match lie {
            Some(Lie::OtherKey) => params.signed_by(&KeyPair::generate().unwrap(), signer),
            _ => request.signed_by(signer),
        };
        let leaf = leaf.unwrap();
        let above = match lie {
            Some(Lie::BrokenChain) => authority("stranger", None).1,
            _ => above.clone(),
        };
        Sealed {
            id: id_of(leaf.der()),
            chain: leaf.pem() + &above,
        }
    }
}

/// Another issuer, and its certificate in PEM.
fn authority(name: &str, above: Option<&Signer>) -> (Signer, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + 900 * DAY).into());
    params.use_authority_key_identifier_extension = above.is_some();
    let certificate = match above {
        Some(above) => params.signed_by(&key, above),
        None => params.self_signed(&key),
    };
    let pem = certificate.unwrap().pem();
    (Signer::new(params, key), pem)
}

fn id_of(leaf: &[u8]) -> String {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).unwrap();
    let key = leaf.iter_extensions().find_map(|extension| {
        if let ParsedExtension::AuthorityKeyIdentifier(found) = extension.parsed_extension() {
            return found.key_identifier.as_ref().map(|key| key.0.to_vec());
        }
        None
    });
    let (key, serial) = (key.unwrap(), leaf.raw_serial());
    format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(&key),
        BASE64URL_NOPAD.encode(serial)
    )
}

/// How it is spoken to at `host`, and what it is checked against.
pub(super) fn tls(host: IpAddr) -> (TlsAcceptor, String) {
    let (signer, own) = authority("directory", None);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host.to_string()]).unwrap();
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + 90 * DAY).into());
    let certificate = params.signed_by(&key, &signer).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), own)
}

/// As RFC 3339 writes it.
pub(super) fn in_hours(hours: i32) -> String {
    let by = Duration::from_secs(u64::from(hours.unsigned_abs()) * 3600);
    let now = SystemTime::now();
    let then = if hours < 0 { now - by } else { now + by };
    humantime::format_rfc3339_seconds(then).to_string()
}
