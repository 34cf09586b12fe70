//! Whether an answer is signed by the zone's keys, as a validating resolver looks at it (RFC 4035 section 5.3). Nothing of our
//! server's code is in it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use domain::base::iana::{Class, SecurityAlgorithm};
use domain::base::name::ToName as _;
use domain::base::{Message, Rtype};
use domain::rdata::{A, Dnskey, Rrsig};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::question::signed_question;
use crate::scenario::ScenarioError;
use crate::world::million::ZONE;

const DNSKEY: u8 = 48;

/// How long a query waits for its answer.
const ANSWER: Duration = Duration::from_secs(1);

/// How often it is asked.
const TRIES: usize = 5;

/// What a key begins with here: a point that is not compressed.
const UNCOMPRESSED: u8 = 4;

/// The keys of the zone.
#[derive(Debug)]
pub(in crate::scenario::dns) struct Verifier {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    tag: u16,
    point: Vec<u8>,
}

impl Verifier {
    /// Asks a server for the keys of its zone.
    pub(in crate::scenario::dns) async fn ask(server: SocketAddr) -> Result<Self, ScenarioError> {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        client.connect(server).await?;
        let question = signed_question(ZONE, DNSKEY).unwrap_or_default();
        let mut octets = [0; 1500];
        for _ in 0..TRIES {
            client.send(&question).await?;
            let Ok(length) = timeout(ANSWER, client.recv(&mut octets)).await else {
                continue;
            };
            let keys = keys(octets.get(..length?).unwrap_or_default());
            if let Some(keys) = keys.filter(|keys| !keys.is_empty()) {
                return Ok(Self { keys });
            }
        }
        Err(ScenarioError::Nothing {
            workload: "signatures",
            cause: "the server does not tell its keys".to_owned(),
        })
    }

    /// Whether an answer gives this address alone to a name, signed, and the signature is good now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::scenario::dns) fn check(
        &self,
        answer: &[u8],
        name: &[u8],
        address: Ipv4Addr,
    ) -> Result<(), &'static str> {
        let broken = "it cannot be read";
        let message = Message::from_octets(answer).map_err(|_| broken)?;
        let section = message.answer().map_err(|_| broken)?;
        let (mut addresses, mut rrsigs) = (Vec::new(), Vec::new());
        for record in section {
            let record = record.map_err(|_| broken)?;
            if record.owner().to_vec().as_slice() != name || record.class() != Class::IN {
                return Err("it has a record of another name");
            }
            if let Ok(Some(record)) = record.to_record::<A>() {
                addresses.push(record.data().addr());
            } else if let Ok(Some(record)) = record.into_record::<Rrsig<_, _>>() {
                rrsigs.push(record.into_data());
            }
        }
        if addresses != [address] {
            return Err("it has another address");
        }
        let [rrsig] = &rrsigs[..] else {
            return Err("it has no signature, or several");
        };
        if rrsig.type_covered() != Rtype::A
            || rrsig.algorithm() != SecurityAlgorithm::ECDSAP256SHA256
        {
            return Err("the signature is of something else");
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs() as u32); // modulo 2^32, as in the record
        let age = now.wrapping_sub(rrsig.inception().into_int());
        let left = rrsig.expiration().into_int().wrapping_sub(now);
        if age > i32::MAX as u32 || left > i32::MAX as u32 {
            return Err("the signature is not of this time");
        }
        let key = self.keys.iter().find(|key| key.tag == rrsig.key_tag());
        let key = key.ok_or("the signature is of an unknown key")?;
        let signer = rrsig.signer_name().to_vec();
        // RFC 4034 section 3.1.8.1: the record without its signature, and the set.
        let ttl = rrsig.original_ttl().as_secs().to_be_bytes();
        let signed = [
            &rrsig.type_covered().to_int().to_be_bytes()[..],
            &[rrsig.algorithm().to_int(), rrsig.labels()],
            &ttl,
            &rrsig.expiration().into_int().to_be_bytes(),
            &rrsig.inception().into_int().to_be_bytes(),
            &rrsig.key_tag().to_be_bytes(),
            signer.as_slice(),
            name,
            &[0, 1, 0, 1],
            &ttl,
            &[0, 4],
            &address.octets(),
        ];
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
            .verify(&signed.concat(), rrsig.signature())
            .map_err(|_| "the signature is wrong")
    }
}

/// The zone keys in an answer, those of P-256.
fn keys(answer: &[u8]) -> Option<Vec<Key>> {
    let message = Message::from_octets(answer).ok()?;
    let dnskeys = message.answer().ok()?.limit_to::<Dnskey<_>>();
    let dnskeys = dnskeys.filter_map(Result::ok).map(|record| {
        let key = record.data();
        let is_ours = key.algorithm() == SecurityAlgorithm::ECDSAP256SHA256 && key.is_zone_key();
        is_ours.then(|| Key {
            tag: key.key_tag(),
            point: [&[UNCOMPRESSED][..], key.public_key()].concat(),
        })
    });
    Some(dnskeys.flatten().collect())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    const NAME: &[u8] = b"\x01h\x07example\x04test\0";
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const TTL: [u8; 4] = [0, 0, 0, 60];

    /// The zone's key, and an answer with its signature, good around now.
    fn signed(now: u32) -> (Verifier, Vec<u8>) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let terms = [
            &[0, 1, 13, 3][..],
            &TTL,
            &(now + 100).to_be_bytes(),
            &(now - 100).to_be_bytes(),
            &[0, 7],
            &NAME[2..],
        ]
        .concat();
        let record = [&[0, 1, 0, 1][..], &TTL, &[0, 4], &ADDRESS.octets()].concat();
        let octets = [&terms, NAME, &record].concat();
        let signature = key.sign(&SystemRandom::new(), &octets).unwrap();
        let length = u8::try_from(terms.len() + 64).unwrap();
        let answer = [
            &[0, 0, 0x84, 0, 0, 1, 0, 2, 0, 0, 0, 0][..],
            NAME,
            &[0, 1, 0, 1],
            &[0xC0, 12],
            &record,
            &[0xC0, 12, 0, 46, 0, 1],
            &TTL,
            &[0, length],
            &terms,
            signature.as_ref(),
        ];
        let key = Key {
            tag: 7,
            point: key.public_key().as_ref().to_vec(),
        };
        (Verifier { keys: vec![key] }, answer.concat())
    }

    fn now() -> u32 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u32::try_from(now.unwrap().as_secs()).unwrap()
    }

    #[test]
    fn a_good_signature_is_told_from_every_other() {
        let (verifier, answer) = signed(now());
        assert_eq!(verifier.check(&answer, NAME, ADDRESS), Ok(()));
        for at in answer.len() - 64..answer.len() {
            let mut other = answer.clone();
            other[at] ^= 1;
            let wrong = Err("the signature is wrong");
            assert_eq!(verifier.check(&other, NAME, ADDRESS), wrong);
        }
        let moved = Ipv4Addr::new(192, 0, 2, 2);
        assert!(verifier.check(&answer, NAME, moved).is_err());
        let (of_another_key, _) = signed(now());
        assert!(of_another_key.check(&answer, NAME, ADDRESS).is_err());
    }

    #[test]
    fn a_signature_that_is_over_or_has_not_begun_is_not_good() {
        for then in [now() - 1000, now() + 1000] {
            let (verifier, answer) = signed(then);
            let wrong = Err("the signature is not of this time");
            assert_eq!(verifier.check(&answer, NAME, ADDRESS), wrong);
        }
    }

    #[test]
    fn an_answer_without_a_signature_is_not_good() {
        let (verifier, answer) = signed(now());
        let unsigned = [&answer[..7], &[1], &answer[8..]].concat();
        assert!(verifier.check(&unsigned, NAME, ADDRESS).is_err());
        for length in 0..answer.len() {
            assert!(verifier.check(&answer[..length], NAME, ADDRESS).is_err());
        }
    }
}
