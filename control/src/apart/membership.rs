//! Which relay this is, of whose zone: what the join file says, read once and checked.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use directory::{RelayName, Zone};
use relay::agent::{Cloud, Identity};
use relay::files::Readers;
use relay::resolve::Resolver;
use relay::tls::Roots;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::fleet::join::JoinFile;
use crate::state::{StateDirectory, StateError};

/// The file that says by which join file the state directory came about.
const JOINED: &str = "joined";

/// Which relay this process is.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) name: RelayName,
    pub(crate) zone: Zone,
    pub(crate) cloud: Cloud,
    pub(crate) identity: Identity,
    /// Of everything that tells this membership from others.
    mark: String,
}

/// Why a join file cannot be used. Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// It cannot be read.
    #[error("{}: {cause}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// Whoever reads it can be this relay.
    #[error("{} can be read by others, who could be this relay with it: make it its owner's alone (chmod 600)", .0.display())]
    Open(PathBuf),
    /// It is something else.
    #[error("{}: {sentence}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        sentence: String,
    },
}

impl Membership {
    /// Reads the join file at `path`.
    ///
    /// # Errors
    /// If others may read it, or it is no file of `causeway relay add`.
    pub(crate) fn read(path: &Path) -> Result<Self, MembershipError> {
        let unreadable = |cause| MembershipError::Unreadable {
            path: path.to_owned(),
            cause,
        };
        let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(MembershipError::Open(path.to_owned()));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
        Self::parse(&text).map_err(|sentence| MembershipError::Wrong {
            path: path.to_owned(),
            sentence,
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file = JoinFile::read(text).map_err(|error| error.to_string())?;
        let wrong = |what: &'static str| {
            move |error: &dyn std::fmt::Display| format!("its {what} cannot be used: {error}")
        };
        let name = RelayName::parse(&file.name).map_err(|error| wrong("name")(&error))?;
        let zone = Zone::parse(&file.zone).map_err(|error| wrong("zone")(&error))?;
        let roots = Roots::from_pem(&file.trust_root);
        let roots = roots.map_err(|error| wrong("trust_root")(&error))?;
        let cloud = Cloud::new(&file.control, roots, Resolver::System);
        let cloud = cloud.map_err(|error| wrong("control")(&error))?;
        let identity = Identity::from_pem(&file.key).map_err(|error| wrong("key")(&error))?;
        let mut mark = Sha256::new();
        for part in [
            name.as_str(),
            zone.as_str(),
            &file.trust_root,
            &identity.public_key().to_string(),
        ] {
            mark.update(part);
            mark.update([0]);
        }
        Ok(Self {
            name,
            zone,
            cloud,
            identity,
            mark: HEXLOWER.encode(&mark.finalize()),
        })
    }

    /// Makes sure that the state directory holds nothing of another membership: `forget` removes it.
    ///
    /// # Errors
    /// If it cannot be read, removed or written.
    pub(crate) fn settle(
        &self,
        state: &StateDirectory,
        forget: impl FnOnce() -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        if fs::read_to_string(state.file(JOINED)).is_ok_and(|kept| kept == self.mark) {
            return Ok(());
        }
        forget()?;
        state.write(JOINED, self.mark.as_bytes(), Readers::Owner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::Permissions;

    use super::*;
    use crate::authority::Authority;

    /// A join file for the relay eu1 of `zone`, in `folder`.
    pub(crate) fn join_file(folder: &Path, zone: &str) -> PathBuf {
        let state = StateDirectory::open(folder.join("control")).unwrap();
        let authority = Authority::open(&state, &Zone::parse(zone).unwrap()).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let file = JoinFile {
            name: "eu1".to_owned(),
            zone: zone.to_owned(),
            control: format!("https://cloud.{zone}"),
            port: 443,
            trust_root: authority.certificate_pem().to_owned(),
            key: key.serialize_pem().into(),
        };
        let path = folder.join("eu1.join");
        fs::write(&path, file.write().unwrap().as_bytes()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = join_file(folder.path(), "nas.test");
        assert_eq!(Membership::read(&path).unwrap().name.as_str(), "eu1");
        let refused = || Membership::read(&path).unwrap_err().to_string();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(refused().contains("chmod 600"), "{}", refused());
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for (from, to, said) in [
            ("eu1\"", "eu_1\"", "its name cannot be used"),
            ("https://", "http://", "its control cannot be used"),
            ("BEGIN PRIVATE", "BEGIN SECRET", "its key cannot be used"),
            ("BEGIN CERT", "BEGIN CERTI", "its trust_root cannot be used"),
            ("port = ", "ports = ", "this is no file of"),
        ] {
            fs::write(&path, text.replace(from, to)).unwrap();
            assert!(refused().contains(said), "{}", refused());
        }
        fs::remove_file(&path).unwrap();
        assert!(refused().contains("eu1.join"), "{}", refused());
    }

    #[test]
    fn another_membership_finds_nothing_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path().join("state")).unwrap();
        let read = || Membership::read(&join_file(folder.path(), "nas.test")).unwrap();
        let is_forgotten = |member: &Membership| {
            let mut forgotten = false;
            let forget = || {
                forgotten = true;
                Ok(())
            };
            member.settle(&state, forget).unwrap();
            forgotten
        };
        let first = read();
        assert!(is_forgotten(&first));
        assert!(!is_forgotten(&first));
        assert!(is_forgotten(&read())); // of another key
    }
}
