//! The operator's own certificate authority: made at the first start, bound to the zone, asked for the certificates of
//! the operator's hosts and of the devices. The only file of control that names the certificate library.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use directory::{DeviceName, OperatorName, RelayName, Zone};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
    SerialNumber, SignatureAlgorithm,
};
use relay::files::Readers;
use x509_parser::pem::parse_x509_pem;
use zeroize::Zeroizing;

use crate::state::{StateDirectory, StateError};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// How long the authority itself is good.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How long the operator's own certificates are good; they are replaced at every start and reload, and at two thirds.
const OPERATOR_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a device's certificate is good; its agent renews it at two thirds.
const DEVICE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

// A name rests until the last certificate of its last holder has ended.
const _: () = assert!(DEVICE_LIFE.as_secs() <= directory::REST.as_secs());

/// Clocks differ: a certificate is good a little before it was made.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// An uncompressed point on P-256 (SEC 1 section 2.3.3).
const P256_KEY_OCTETS: usize = 65;

/// The authority of one zone.
#[derive(Debug)]
pub struct Authority {
    zone: Zone,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate_file: PathBuf,
}

/// A certificate and its key, in PEM, for a host of the operator's own.
pub struct OperatorCertificate {
    /// Leaf first.
    pub chain: String,
    /// PKCS#8.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for OperatorCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorCertificate(…)")
    }
}

/// A certificate for a device's own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCertificate {
    /// Leaf first, in PEM.
    pub chain: String,
    /// When to ask for the next one, in seconds since 1970.
    pub renew_at: u64,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
}

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its files cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its files are damaged, or a certificate could not be made.
    #[error("the certificate authority cannot be used: {0}")]
    Unusable(#[from] rcgen::Error),
    /// A certificate of this server cannot be read.
    #[error("a certificate of this server is damaged")]
    Damaged,
}

/// Why a signing request was refused.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// It cannot be read, or its signature is wrong.
    #[error("this is no valid certificate signing request")]
    Malformed,
    /// Its key is of another kind.
    #[error("only P-256 keys get a certificate")]
    WrongKey,
    /// It asks for a name that is not the device's own.
    #[error("the request asks for a name that is not this device's")]
    WrongName,
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] rcgen::Error),
}

impl Authority {
    /// Opens the authority of `zone` in `state`, making it at the first call.
    ///
    /// # Errors
    /// If its files cannot be read or written, or are damaged.
    pub fn open(state: &StateDirectory, zone: &Zone) -> Result<Self, AuthorityError> {
        let certificate_file = state.file(CERTIFICATE);
        if !certificate_file.exists() {
            make(state, zone)?;
        }
        let (certificate_pem, issuer) = kept(state)?;
        Ok(Self {
            zone: zone.clone(),
            issuer,
            certificate_pem,
            certificate_file,
        })
    }

    /// Whether a start would find this authority in `state`, and no other.
    ///
    /// # Errors
    /// If it would find none that works.
    pub fn is_kept_in(&self, state: &StateDirectory) -> Result<bool, AuthorityError> {
        let (certificate_pem, _) = kept(state)?;
        Ok(certificate_pem == self.certificate_pem)
    }

    /// The authority's certificate, in PEM: what clients are to trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The file that holds it.
    pub fn certificate_file(&self) -> &Path {
        &self.certificate_file
    }

    /// A certificate with a new key for one of the operator's hosts. `cloud.` and `relay.` have one each, so that a
    /// browser never shares a connection between them and a device.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn operator_certificate(
        &self,
        name: OperatorName,
    ) -> Result<OperatorCertificate, AuthorityError> {
        self.host_certificate(self.zone.operator_name(name))
    }

    /// The same for the name server of the zone, which proves by it over TLS who it is.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn name_server_certificate(&self) -> Result<OperatorCertificate, AuthorityError> {
        self.host_certificate(name_server(&self.zone))
    }

    fn host_certificate(&self, host: String) -> Result<OperatorCertificate, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = leaf_params(&host, vec![host.clone()], OPERATOR_LIFE)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(OperatorCertificate {
            chain: certificate.pem(),
            key: key.serialize_pem().into(),
        })
    }

    /// How long after its making an operator certificate is to be replaced.
    pub fn operator_renewal() -> Duration {
        OPERATOR_LIFE / 3 * 2
    }

    /// Signs a device's request (PKCS#10, PEM). Of the request only the key counts; the names are the device's own
    /// whatever it asks for, and asking for others is an error.
    ///
    /// # Errors
    /// If the request is malformed, has another kind of key, or asks for others' names.
    pub fn sign_for_device(
        &self,
        device: &DeviceName,
        request: &str,
    ) -> Result<DeviceCertificate, SigningError> {
        let name = self.zone.name_of(device);
        let own = [name.clone(), format!("*.{name}")];
        self.sign(&own, DEVICE_LIFE, request)
    }

    /// The same for a relay with a process of its own, for its host alone.
    ///
    /// # Errors
    /// If the request is malformed, has another kind of key, or asks for others' names.
    pub fn sign_for_relay(
        &self,
        relay: &RelayName,
        request: &str,
    ) -> Result<DeviceCertificate, SigningError> {
        self.sign(&[self.zone.relay_name(relay)], OPERATOR_LIFE, request)
    }

    /// Signs for `own`, the first of which is the common name.
    fn sign(
        &self,
        own: &[String],
        life: Duration,
        request: &str,
    ) -> Result<DeviceCertificate, SigningError> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|_| SigningError::Malformed)?;
        let key = &request.public_key;
        let p256: &SignatureAlgorithm = &PKCS_ECDSA_P256_SHA256;
        if key.algorithm() != p256 || key.der_bytes().len() != P256_KEY_OCTETS {
            return Err(SigningError::WrongKey);
        }
        let asks_for_own_only = request.params.subject_alt_names.iter().all(|asked| {
            matches!(asked, SanType::DnsName(asked) if own.iter().any(|own| own == asked.as_str()))
        });
        if !asks_for_own_only {
            return Err(SigningError::WrongName);
        }
        let name = own.first().map_or("", String::as_str);
        let params = leaf_params(name, own.to_vec(), life)?;
        let certificate = params.signed_by(key, &self.issuer)?;
        let made_at = seconds(SystemTime::now());
        Ok(DeviceCertificate {
            chain: certificate.pem(),
            renew_at: made_at + (life / 3 * 2).as_secs(),
            not_after: made_at + life.as_secs(),
        })
    }
}

/// When the first certificate of a chain in PEM ends, in seconds since 1970.
pub(crate) fn end_of(chain: &str) -> Result<i64, AuthorityError> {
    let (_, pem) = parse_x509_pem(chain.as_bytes()).map_err(|_| AuthorityError::Damaged)?;
    let certificate = pem.parse_x509().map_err(|_| AuthorityError::Damaged)?;
    Ok(certificate.validity().not_after.timestamp())
}

/// The full name of the zone's name server.
pub(crate) fn name_server(zone: &Zone) -> String {
    format!("{}.{zone}", ddns::zone::NAME_SERVER)
}

/// Makes an authority for `zone`, and keeps it in `state`.
fn make(state: &StateDirectory, zone: &Zone) -> Result<(), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = authority_params(zone).self_signed(&key)?.pem();
    let key = Zeroizing::new(key.serialize_pem());
    state.write(KEY, key.as_bytes(), Readers::Owner)?;
    // Last, so that a certificate without its key is never seen.
    state.write(CERTIFICATE, certificate.as_bytes(), Readers::All)?;
    Ok(())
}

/// The authority that is kept in `state`: its certificate in PEM, and what signs by its key.
fn kept(state: &StateDirectory) -> Result<(String, Issuer<'static, KeyPair>), AuthorityError> {
    let certificate = state.read(CERTIFICATE)?;
    let key = KeyPair::from_pem(&Zeroizing::new(state.read(KEY)?))?;
    let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
    Ok((certificate, issuer))
}

fn authority_params(zone: &Zone) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Causeway authority of {zone}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Whoever trusts this authority trusts it for the zone and nothing else: not for other names, not for addresses.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(zone.as_str().to_owned())],
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                0,
            )),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                0,
            )),
        ],
    });
    good_for(&mut params, AUTHORITY_LIFE);
    params
}

fn leaf_params(
    common: &str,
    names: Vec<String>,
    life: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = common_name(common);
    params.serial_number = Some(serial_number());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    good_for(&mut params, life);
    Ok(params)
}

/// Of its own for each certificate, also of one key: some clients refuse two certificates of one issuer and serial.
/// Positive and of 20 octets at most (RFC 5280 section 4.1.2.2).
fn serial_number() -> SerialNumber {
    let mut octets: [u8; 16] = rand::random();
    octets[0] = octets[0] & 0x7f | 0x40; // neither a sign nor leading zeros
    SerialNumber::from_slice(&octets)
}

fn good_for(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
}

fn common_name(name: &str) -> DistinguishedName {
    /// RFC 5280 appendix A.1, ub-common-name.
    const LONGEST: usize = 64;
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name.get(..LONGEST).unwrap_or(name));
    distinguished
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Authority {
        let state = StateDirectory::open(directory).unwrap();
        Authority::open(&state, &Zone::parse("nas.localhost").unwrap()).unwrap()
    }

    fn request(names: &[&str], key: &KeyPair) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        CertificateParams::new(names)
            .unwrap()
            .serialize_request(key)
            .unwrap()
            .pem()
            .unwrap()
    }

    fn p256() -> KeyPair {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
    }

    #[test]
    fn the_authority_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path()).certificate_pem().to_owned();
        assert_eq!(open(directory.path()).certificate_pem(), first);
    }

    #[test]
    fn when_a_certificate_ends_is_read_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path());
        let cloud = authority.operator_certificate(OperatorName::Cloud).unwrap();
        for (chain, life) in [
            (authority.certificate_pem(), AUTHORITY_LIFE),
            (&cloud.chain, OPERATOR_LIFE),
        ] {
            let expected = seconds(SystemTime::now() + life);
            let end = u64::try_from(end_of(chain).unwrap()).unwrap();
            assert!((expected - 60..=expected).contains(&end), "{end}");
        }
        assert!(matches!(end_of("nothing"), Err(AuthorityError::Damaged)));
    }

    #[test]
    fn a_device_gets_its_own_names_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path());
        let mynas = DeviceName::parse("mynas").unwrap();
        let good = request(&["mynas.nas.localhost", "*.mynas.nas.localhost"], &p256());
        assert!(
            authority
                .sign_for_device(&mynas, &good)
                .unwrap()
                .chain
                .contains("BEGIN CERTIFICATE")
        );
        for other in [
            "other.nas.localhost",
            "nas.localhost",
            "*.nas.localhost",
            "cloud.nas.localhost",
            "192.0.2.1",
        ] {
            let refused = authority
                .sign_for_device(&mynas, &request(&["mynas.nas.localhost", other], &p256()));
            assert!(matches!(refused, Err(SigningError::WrongName)), "{other}");
        }
    }

    #[test]
    fn two_certificates_of_one_key_differ_in_their_serials() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path());
        let mynas = DeviceName::parse("mynas").unwrap();
        let request = request(&["mynas.nas.localhost"], &p256());
        let serial = || serial_of(&authority.sign_for_device(&mynas, &request).unwrap().chain);
        let (first, second) = (serial(), serial());
        assert_eq!(first.len(), 16);
        assert!(first[0] < 0x80, "it is positive");
        assert_ne!(first, second);
    }

    /// `SEQUENCE { SEQUENCE { [0] version, INTEGER serial, …`; both sequences have two octets of length.
    fn serial_of(chain: &str) -> Vec<u8> {
        let base64: String = chain
            .lines()
            .skip(1)
            .take_while(|line| !line.starts_with('-'))
            .collect();
        let der = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
        let [2, length, rest @ ..] = &der[13..] else {
            panic!("no serial in {der:?}");
        };
        rest[..usize::from(*length)].to_vec()
    }

    #[test]
    fn bad_requests_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path());
        let mynas = DeviceName::parse("mynas").unwrap();
        for text in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ] {
            assert!(matches!(
                authority.sign_for_device(&mynas, text),
                Err(SigningError::Malformed)
            ));
        }
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let refused =
            authority.sign_for_device(&mynas, &request(&["mynas.nas.localhost"], &ed25519));
        assert!(matches!(refused, Err(SigningError::WrongKey)));
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let refused = authority.sign_for_device(&mynas, &request(&["mynas.nas.localhost"], &p384));
        assert!(matches!(refused, Err(SigningError::WrongKey)));
    }
}
