//! The keys of a running server: what is in force, told to whoever signs, and the operator's changes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use directory::Zone;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::elsewhere::{ImportError, Plan};
use super::file::FolderError;
use super::folder::Folder;
use super::key::Role;
use super::request::{Request, Response};
use super::ring::{InForce, Keyring};
use super::roll::RollError;
use super::status::{Delegation, Status};
use super::timing::Leads;
use crate::unix_seconds;

/// At least so often the clock is looked at: it may have been set.
const LOOK: Duration = Duration::from_secs(60);
/// So often what was removed long ago is forgotten, and what goes wrong soon is said.
const UPKEEP: u32 = 86_400;

/// The keys of the zone. A clone is the same keys. What changes something waits for the disk: not to be called on a thread that others
/// wait for.
#[derive(Clone, Debug)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Folder,
    zone: String,
    apex: Box<[u8]>,
    leads: Leads,
    /// Held for moments only: the runtime waits for it.
    ring: Mutex<Keyring>,
    /// Held while the disk is.
    changing: Mutex<()>,
    told: watch::Sender<Arc<InForce>>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The operator's to wait for.
    #[error(transparent)]
    Roll(#[from] RollError),
    /// Whoever has signed what does not fit.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The disk's, or the operator's to mend.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl Keys {
    /// The keys in the folder at `path`, which is made with the first ones if it is not there.
    ///
    /// # Errors
    /// If there are keys, and they cannot be used; or none can be made.
    pub fn open(path: PathBuf, zone: &Zone, leads: Leads, now: u32) -> Result<Self, FolderError> {
        let apex = crate::zone::apex_of(zone);
        let folder = Folder::new(path, apex.clone());
        let ring = folder.open(now, leads)?;
        let (told, _) = watch::channel(Arc::new(ring.in_force(now)));
        Ok(Self(Arc::new(Inner {
            folder,
            zone: zone.as_str().to_owned(),
            apex,
            leads,
            ring: Mutex::new(ring),
            changing: Mutex::default(),
            told,
        })))
    }

    /// What is in force.
    pub fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.0.told.borrow())
    }

    /// The same, and whenever it becomes another.
    pub fn watch(&self) -> watch::Receiver<Arc<InForce>> {
        self.0.told.subscribe()
    }

    /// How it stands with them.
    pub fn status(&self, now: u32) -> Status {
        Status::of(&self.ring(), &self.0.zone, now)
    }

    /// What the parent is to be told.
    pub fn delegation(&self, now: u32) -> Delegation {
        Delegation::of(&self.ring(), &self.0.zone, &self.0.apex, now)
    }

    /// Begins to roll the keys of this role, to a new one that is made here.
    ///
    /// # Errors
    /// If a roll is under way, or the disk does not take it.
    pub fn roll(&self, role: Role, now: u32) -> Result<Status, ChangeError> {
        self.change(now, |ring, leads| {
            let new = ring.another(role).map_err(RollError::from)?;
            let next = match role {
                Role::Zsk => ring.roll_zsk(now, leads, new)?,
                Role::Ksk => ring.roll_ksk(now, leads, new)?,
            };
            next.can_follow(ring, now)?;
            Ok(next)
        })
    }

    /// The operator says that the parent has the DS of the newest KSK, and no other; others may keep what it had before for `ttl`
    /// seconds.
    ///
    /// # Errors
    /// If that was said before, or cannot be, or the disk does not take it.
    pub fn ds_published(&self, ttl: u32, now: u32) -> Result<Status, ChangeError> {
        self.change(now, |ring, leads| {
            let next = ring.ds_published(now, leads, ttl)?;
            next.can_follow(ring, now)?;
            Ok(next)
        })
    }

    /// What KSKs that are elsewhere have to sign for so many days, with `plan`, which is to begin at `begin`; or with what was planned
    /// before, if that can still begin.
    ///
    /// # Errors
    /// If there are no such keys, another roll is under way, or the disk does not take the plan.
    pub fn request(
        &self,
        plan: Option<Plan>,
        begin: u32,
        days: u32,
        now: u32,
    ) -> Result<Request, ChangeError> {
        self.change(now, |ring, leads| match plan {
            Some(plan) => Ok(ring.with_plan(plan, begin, now, leads)?),
            None => Ok(ring.without_late_plan(now)),
        })?;
        Ok(Request::of(&self.ring(), &self.0.zone, days, now)?)
    }

    /// Takes what a KSK has signed elsewhere. What was planned comes into force if all have signed it.
    ///
    /// # Errors
    /// If it is not what it should have signed, or not signed by it, or the disk does not take it.
    pub fn import(&self, response: &Response, now: u32) -> Result<Status, ChangeError> {
        self.change(now, |ring, _| {
            Ok(ring.import(response, &self.0.zone, &self.0.apex, now)?)
        })
    }

    /// Reads them again, as the process before this one has left them.
    ///
    /// # Errors
    /// If they cannot be used; those that were are in force on.
    pub fn read_again(&self, now: u32) -> Result<(), FolderError> {
        let _changing = self.changing();
        self.put(self.0.folder.read(now)?, now);
        Ok(())
    }

    /// Tells what is in force when it becomes another, until `stop`. `alone` is cancelled when the process before this one has left the
    /// keys, if there is one.
    pub async fn keep(self, alone: Option<CancellationToken>, stop: CancellationToken) {
        let mut predecessor = alone;
        let mut told = self.watch();
        let mut upkeep = 0;
        loop {
            let now = unix_seconds();
            let next = {
                let ring = self.ring();
                self.tell(&ring, now);
                told.mark_unchanged();
                ring.in_force(now).next_change
            };
            if now >= upkeep {
                upkeep = now.saturating_add(UPKEEP);
                let keys = self.clone();
                // A bug there has said so itself.
                let _ = tokio::task::spawn_blocking(move || keys.upkeep(now)).await;
            }
            let wait = next.map_or(LOOK, |next| {
                Duration::from_secs(next.saturating_sub(now).into())
            });
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = left(predecessor.as_ref()) => {
                    predecessor = None;
                    let keys = self.clone();
                    let read = tokio::task::spawn_blocking(move || keys.read_again(unix_seconds())).await;
                    if let Ok(Err(error)) = read {
                        tracing::error!(%error, "the keys of the zone cannot be read again; those that were are in force on");
                    }
                }
                // The operator has: something else is next.
                _ = told.changed() => {}
                () = sleep(wait.min(LOOK)) => {}
            }
        }
    }

    /// From what is on the disk, so that nothing is lost that another process has changed, to what `change` makes of it.
    fn change(
        &self,
        now: u32,
        change: impl FnOnce(&Keyring, Leads) -> Result<Keyring, ChangeError>,
    ) -> Result<Status, ChangeError> {
        let _changing = self.changing();
        let _lock = self.0.folder.lock()?;
        let before = self.0.folder.read(now)?;
        let next = change(&before, self.0.leads)?.without_history(now);
        self.0.folder.replace(&before, &next)?;
        let status = Status::of(&next, &self.0.zone, now);
        self.put(next, now);
        Ok(status)
    }

    fn upkeep(&self, now: u32) {
        let (has_history, warning) = {
            let ring = self.ring();
            (ring.without_history(now) != *ring, ring.warning(now))
        };
        if has_history && let Err(error) = self.change(now, |ring, _| Ok(ring.clone())) {
            tracing::warn!(%error, "keys that were removed from the zone long ago are still on the disk");
        }
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
    }

    fn put(&self, next: Keyring, now: u32) {
        let mut ring = self.ring();
        self.tell(&next, now);
        *ring = next;
    }

    fn tell(&self, ring: &Keyring, now: u32) {
        let in_force = ring.in_force(now);
        self.0.told.send_if_modified(|told| {
            let is_other = **told != in_force;
            *told = Arc::new(in_force);
            is_other
        });
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        let locked = self.0.changing.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic elsewhere leaves a whole keyring: it is only ever replaced.
    fn ring(&self) -> MutexGuard<'_, Keyring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn left(predecessor: Option<&CancellationToken>) {
    match predecessor {
        Some(alone) => alone.cancelled().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const IN_TIME: Duration = Duration::from_secs(10);

    fn open(folder: &tempfile::TempDir, leads: Leads) -> Keys {
        let zone = Zone::parse("nas.example").unwrap();
        Keys::open(folder.path().join("dnssec"), &zone, leads, unix_seconds()).unwrap()
    }

    #[test]
    fn what_the_operator_changes_is_told_and_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let keys = open(&folder, Leads::NONE);
        let mut watch = keys.watch();
        let (before, now) = (keys.in_force(), unix_seconds());
        keys.roll(Role::Zsk, now).unwrap();
        assert!(watch.has_changed().unwrap());
        let after = Arc::clone(&watch.borrow_and_update());
        assert_ne!(after.zsk, before.zsk);
        let status = keys.roll(Role::Ksk, now).unwrap();
        assert_eq!(status, keys.status(now));
        assert_eq!(keys.in_force().ksks.len(), 2);
        let refused = keys.roll(Role::Ksk, now).unwrap_err().to_string();
        assert!(refused.contains("--ds-published"), "{refused}");
        keys.ds_published(0, now).unwrap();
        let last = keys.in_force();
        assert_eq!(last.ksks, last.cds);
        assert_ne!(last.ksks, before.ksks);
        assert_eq!(open(&folder, Leads::NONE).in_force(), last);
        assert_eq!(keys.delegation(now).keys[0].tag, last.ksks[0].tag());
    }

    #[tokio::test]
    async fn the_file_of_a_key_goes_thirty_days_after_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let zone = Zone::parse("nas.example").unwrap();
        let path = folder.path().join("dnssec");
        let long_ago = unix_seconds() - 31 * 86_400;
        let keys = Keys::open(path.clone(), &zone, Leads::NONE, long_ago).unwrap();
        let old = keys.in_force().zsk.tag();
        keys.roll(Role::Zsk, long_ago).unwrap();
        let file = path.join(format!("zsk-{old}.pem"));
        assert!(file.exists());
        let stop = CancellationToken::new();
        let kept = tokio::spawn(keys.clone().keep(None, stop.clone()));
        let gone = async {
            while keys.status(unix_seconds()).keys.len() > 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(IN_TIME, gone).await.unwrap();
        assert!(!file.exists());
        assert_eq!(
            open(&folder, Leads::NONE).in_force().zsk,
            keys.in_force().zsk
        );
        stop.cancel();
        timeout(IN_TIME, kept).await.unwrap().unwrap();
    }

    #[test]
    fn a_disk_that_does_not_take_a_roll_leaves_all_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let keys = open(&folder, Leads::NONE);
        let (before, now) = (keys.in_force(), unix_seconds());
        let watch = keys.watch();
        // In the way of the second of the two files.
        std::fs::create_dir(folder.path().join("dnssec/keys.new")).unwrap();
        let refused = keys.roll(Role::Zsk, now).unwrap_err();
        assert!(matches!(
            refused,
            ChangeError::Folder(FolderError::Io { .. })
        ));
        assert_eq!(keys.in_force(), before);
        assert!(!watch.has_changed().unwrap());
        assert_eq!(keys.status(now).keys.len(), 2);
    }

    #[tokio::test]
    async fn what_the_process_before_has_changed_is_read_when_it_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let (older, newer) = (open(&folder, Leads::NONE), open(&folder, Leads::NONE));
        let (alone, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut watch = newer.watch();
        let kept = tokio::spawn(newer.clone().keep(Some(alone.clone()), stop.clone()));
        older.roll(Role::Zsk, unix_seconds()).unwrap();
        alone.cancel();
        timeout(IN_TIME, watch.changed()).await.unwrap().unwrap();
        assert_eq!(newer.in_force().zsk, older.in_force().zsk);
        // Nor does a change here lose one there.
        older.roll(Role::Ksk, unix_seconds()).unwrap();
        newer.roll(Role::Zsk, unix_seconds()).unwrap();
        assert_eq!(newer.in_force().ksks, older.in_force().ksks);
        stop.cancel();
        timeout(IN_TIME, kept).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_key_begins_to_sign_when_its_time_has_come() {
        let folder = tempfile::tempdir().unwrap();
        let leads = Leads {
            margin: 1,
            ..Leads::NONE
        };
        let keys = open(&folder, leads);
        let before = keys.in_force();
        let mut watch = keys.watch();
        let stop = CancellationToken::new();
        let kept = tokio::spawn(keys.clone().keep(None, stop.clone()));
        keys.roll(Role::Zsk, unix_seconds()).unwrap();
        let changed =
            watch.wait_for(|in_force| in_force.zsk != before.zsk && in_force.next_change.is_none());
        let in_force = timeout(IN_TIME, changed).await.unwrap().unwrap().clone();
        assert!(!in_force.dnskeys.contains(&before.zsk));
        stop.cancel();
        timeout(IN_TIME, kept).await.unwrap().unwrap();
    }
}
