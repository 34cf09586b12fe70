//! What is kept of certificates that were seen: by the running agent what it has heard, and by its owner what is accepted. Each file has
//! one writer.

use serde::{Deserialize, Serialize};

use super::SeenCertificate;
use crate::kept::{KeptError, KeptFiles};

const SEEN: &str = "certificates_seen.json";
const ACCEPTED: &str = "certificates_accepted.json";

/// No more certificates are kept that are not the device's own, and no more keys of its owner's.
pub(super) const MOST: usize = 256;

/// What the agent has heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// For which host.
    host: String,
    /// The highest number.
    until: u64,
    /// The keys that the device has had, in the order in which it had them.
    own: Vec<String>,
    /// Those that are not its own.
    certificates: Vec<SeenCertificate>,
}

/// Where it is kept. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct SeenFolder {
    files: KeptFiles,
    host: String,
    /// The key that the device has now.
    key: String,
}

impl SeenFolder {
    /// For the device `host`, whose key has this hash.
    pub(crate) fn of(files: KeptFiles, host: String, key: String) -> Self {
        Self { files, host, key }
    }

    /// The key that the device has now.
    pub(crate) fn own_key(&self) -> &str {
        &self.key
    }

    /// What was heard under another name is of no concern.
    fn seen(&self) -> Result<Seen, KeptError> {
        let seen: Option<Seen> = self.files.read_json(SEEN)?;
        let mut seen = seen.filter(|seen| seen.host == self.host);
        let seen = seen.get_or_insert_default();
        seen.host.clone_from(&self.host);
        if !seen.own.contains(&self.key) {
            seen.own.push(self.key.clone());
        }
        Ok(std::mem::take(seen))
    }

    /// The number of what was heard last.
    pub(crate) fn heard_until(&self) -> Result<u64, KeptError> {
        Ok(self.seen()?.until)
    }

    /// Keeps what is new. It is on disk when this returns.
    pub(crate) fn hear(&self, new: Vec<SeenCertificate>, now: i64) -> Result<(), KeptError> {
        let mut seen = self.seen()?;
        for certificate in new {
            seen.until = seen.until.max(certificate.number);
            if !seen.own.contains(&certificate.key) {
                // The one that is good for longest stands for its key.
                seen.certificates
                    .retain(|before| before.key != certificate.key);
                seen.certificates.push(certificate);
            }
        }
        seen.certificates
            .retain(|certificate| now <= certificate.not_after);
        seen.certificates.truncate(MOST);
        match self.files.read_json(SEEN)?.as_ref() == Some(&seen) {
            true => Ok(()),
            false => self.files.write_json(SEEN, &seen),
        }
    }

    /// What was seen and has not ended, and is not the device's own, with whether its owner has accepted it.
    pub(crate) fn not_own(&self, now: i64) -> Result<Vec<(SeenCertificate, bool)>, KeptError> {
        let (seen, accepted) = (self.seen()?, self.accepted()?);
        let mut not_own = seen.certificates;
        not_own.retain(|certificate| {
            now <= certificate.not_after && !seen.own.contains(&certificate.key)
        });
        let judged = not_own.into_iter().map(|certificate| {
            let is_accepted = accepted.contains(&certificate.key);
            (certificate, is_accepted)
        });
        Ok(judged.collect())
    }

    /// What is neither the device's own nor accepted.
    pub(crate) fn strange(&self, now: i64) -> Result<Vec<SeenCertificate>, KeptError> {
        let not_own = self.not_own(now)?.into_iter();
        let strange = not_own.filter(|(_, is_accepted)| !is_accepted);
        Ok(strange.map(|(certificate, _)| certificate).collect())
    }

    fn accepted(&self) -> Result<Vec<String>, KeptError> {
        Ok(self.files.read_json(ACCEPTED)?.unwrap_or_default())
    }

    /// Accepts certificates with this key from now on.
    pub(crate) fn accept(&self, key: &str) -> Result<(), KeptError> {
        let mut accepted = self.accepted()?;
        if !accepted.iter().any(|accepted| accepted == key) {
            accepted.push(key.to_owned());
            let too_many = accepted.len().saturating_sub(MOST);
            accepted.drain(..too_many);
            self.files.write_json(ACCEPTED, &accepted)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn certificate(number: u64, key: &str, not_after: i64) -> SeenCertificate {
        SeenCertificate {
            number,
            key: key.to_owned(),
            names: vec!["mynas.example.com".to_owned()],
            serial: "01".to_owned(),
            issuer: "CN=somebody".to_owned(),
            not_before: 0,
            not_after,
            log: "https://ct.example".to_owned(),
            entry: number,
        }
    }

    fn strange(folder: &SeenFolder) -> Vec<String> {
        let strange = folder.strange(NOW).unwrap().into_iter();
        strange.map(|certificate| certificate.key).collect()
    }

    #[test]
    fn what_is_not_ones_own_is_strange_until_it_is_accepted_or_over() {
        let directory = tempfile::tempdir().unwrap();
        let files = KeptFiles::open(directory.path()).unwrap();
        let of =
            |host: &str, key: &str| SeenFolder::of(files.clone(), host.to_owned(), key.to_owned());
        let folder = of("mynas.example.com", "own");
        let new = [(1, "own", 1), (2, "a", 1), (3, "b", 1), (4, "old", -1)];
        let new = new.map(|(number, key, left)| certificate(number, key, NOW + left));
        folder.hear(new.to_vec(), NOW).unwrap();
        assert_eq!(folder.heard_until().unwrap(), 4);
        assert_eq!(strange(&folder), ["a", "b"]);
        folder.accept("a").unwrap();
        assert_eq!(strange(&folder), ["b"]);
        // A renewal of it is no news.
        folder
            .hear(vec![certificate(5, "a", NOW + 9)], NOW)
            .unwrap();
        assert_eq!(strange(&folder), ["b"]);

        // The device's earlier key stays its own.
        let renewed = of("mynas.example.com", "new");
        let of_both = [
            certificate(6, "own", NOW + 1),
            certificate(7, "new", NOW + 1),
        ];
        renewed.hear(of_both.to_vec(), NOW).unwrap();
        assert_eq!(strange(&renewed), ["b"]);

        // Another name begins anew, and its keys are its own.
        let other = of("other.example.com", "new");
        assert_eq!(other.heard_until().unwrap(), 0);
        assert!(strange(&other).is_empty());
    }

    #[test]
    fn a_cloud_that_invents_certificates_fills_no_disk() {
        let directory = tempfile::tempdir().unwrap();
        let files = KeptFiles::open(directory.path()).unwrap();
        let folder = SeenFolder::of(files, "mynas".to_owned(), "own".to_owned());
        let many = (0..1000).map(|number| certificate(number, &number.to_string(), NOW));
        folder.hear(many.collect(), NOW).unwrap();
        assert_eq!(strange(&folder).len(), MOST);
        assert_eq!(folder.heard_until().unwrap(), 999);
    }
}
