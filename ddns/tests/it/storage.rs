//! No acknowledged update is ever lost, whenever the disk crashes and however it tears what was not synced.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ddns::Config;
use ddns::addresses::ChangeSet;
use ddns::caa::{Issuer, Issuers};
use ddns::challenges::{ChallengeChange, ChallengeHost, ChallengeValue};
use ddns::lan::LanChange;
use ddns::own::{Change, Own};
use ddns::store::Log;
use ddns::table::{Held, Table};
use ddns::update::{Committer, Outcome, Update, UpdateError, write_snapshot};
use ddns::zone::Contents;
use directory::{DeviceName, RegistrationId, Zone};

use crate::fake_disk::{Dice, FakeDisk};
use crate::world::change;

/// Registrations are numbers that do not occur among other octets by chance.
const FIRST_REGISTRATION: u64 = 0xD00D_F00D_0000_0000;

/// Seeds, each with a crash somewhere.
const SEEDS: u64 = 10_000;
/// The first of them have one at every one of their fifty or so calls of the disk.
const AT_EVERY_CALL: u64 = 500;

#[test]
fn no_acknowledged_update_is_lost_at_any_crash() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || {
                for seed in (first as u64..SEEDS).step_by(threads) {
                    let calls = lives(seed, u64::MAX);
                    let crashes = match seed < AT_EVERY_CALL {
                        true => 1..=calls,
                        false => {
                            let crash = 1 + Dice(seed).roll(calls);
                            crash..=crash
                        }
                    };
                    for crash in crashes {
                        lives(seed, crash);
                    }
                }
            });
        }
    });
}

/// Two lives of a server on one disk: the first ends at its `crash`-th call of the disk, the second somewhere, and a third finds
/// out what has lasted. After the first the machine may go on without a crash; the kernel's memory is then what the second reads.
/// Returns the calls of the first.
fn lives(seed: u64, crash: u64) -> u64 {
    let mut dice = Dice(seed);
    let disk = FakeDisk::new(seed ^ crash.rotate_left(32));
    let mut owner = Owner::new();

    disk.crash_after(crash);
    owner.live(&disk, &mut dice);
    let calls = disk.calls();
    match dice.roll(2) {
        0 => disk.reboot(),
        _ => disk.restart(),
    }

    disk.crash_after(1 + Dice(seed ^ crash).roll(40));
    owner.live(&disk, &mut dice);
    disk.reboot();

    owner.live(&disk, &mut Dice(seed));
    calls
}

/// What the world outside knows: who holds which name, and what was acknowledged to them.
struct Owner {
    registration_by_name: BTreeMap<&'static str, RegistrationId>,
    promise_by_registration: BTreeMap<RegistrationId, Promise>,
    registrations: u64,
}

/// What a device may be found to have after a crash.
#[derive(Default)]
struct Promise {
    acknowledged: Own,
    /// What is answered: the same, or what a start has read of a file that perhaps does not last.
    answered: Own,
    /// The version that was acknowledged with it.
    version: u32,
    /// Asked for since, and refused; a crash in between may have let it through.
    perhaps: Vec<Own>,
}

impl Promise {
    fn allows(&self, found: &Held) -> bool {
        let is_known = self.acknowledged == found.own || self.perhaps.contains(&found.own);
        is_known && found.version >= self.version
    }

    fn acknowledge(&mut self, held: &Held) {
        self.acknowledged = held.own.clone();
        self.answered = held.own.clone();
        self.version = held.version;
        self.perhaps.clear();
    }
}

impl Owner {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn new() -> Self {
        let mut owner = Self {
            registration_by_name: BTreeMap::new(),
            promise_by_registration: BTreeMap::new(),
            registrations: 0,
        };
        for name in Self::NAMES {
            owner.register(name);
        }
        owner
    }

    fn register(&mut self, name: &'static str) -> RegistrationId {
        self.registrations += 1;
        let registration = RegistrationId(FIRST_REGISTRATION + self.registrations);
        self.registration_by_name.insert(name, registration);
        self.promise_by_registration
            .insert(registration, Promise::default());
        registration
    }

    /// Starts, checks what is there, and does this and that until it is done or the disk has crashed.
    fn live(&mut self, disk: &FakeDisk, dice: &mut Dice) {
        let table = Arc::new(table());
        let Ok((log, recovered)) = Log::open(disk.clone()) else {
            assert!(disk.has_crashed(), "a log of ours that cannot be read");
            return;
        };
        let recovered = recovered.held_by_registration;
        for (name, registration) in &self.registration_by_name {
            let found = recovered.get(registration);
            let nothing = Held::default();
            let held = found.unwrap_or(&nothing);
            let promise = self.promise_by_registration.get_mut(registration).unwrap();
            assert!(
                promise.allows(held),
                "{name} has {held:?}, but {:?} of version {} was acknowledged",
                promise.acknowledged,
                promise.version
            );
            promise.answered = held.own.clone();
            promise.perhaps.push(held.own.clone());
            table.put(&device(name), *registration, found);
        }
        let mut committer = Committer::new(log, Arc::clone(&table));
        if committer.begin_anew().is_ok() {
            for (name, registration) in &self.registration_by_name {
                let held = table.held(&device(name), *registration).unwrap();
                let promise = self.promise_by_registration.get_mut(registration);
                promise.unwrap().acknowledge(&held);
            }
        }

        let mut now = Instant::now();
        for _ in 0..8 {
            now += Duration::from_secs(2);
            match dice.roll(10) {
                0 => self.replace(&table, dice),
                1 => self.tidy(&mut committer, disk),
                2 => self.snapshot(&mut committer, &table, now, dice),
                3 => disk.set_faults([0, 0, 30][dice.roll(3) as usize]),
                _ => self.update(&mut committer, &table, now, dice),
            }
        }
    }

    /// A group of updates.
    fn update(
        &mut self,
        committer: &mut Committer<FakeDisk>,
        table: &Table,
        now: Instant,
        dice: &mut Dice,
    ) {
        let updates: Vec<_> = (0..=dice.roll(3)).map(|_| self.wish(dice)).collect();
        let outcomes = committer.commit(&updates, now);
        let mut wished = BTreeMap::new();
        for (update, outcome) in updates.iter().zip(outcomes) {
            let promise = self.promise_by_registration.get_mut(&update.registration);
            let promise = promise.unwrap();
            let before = wished
                .get(&update.registration)
                .unwrap_or(&promise.answered);
            let wish = update.change.apply(before).unwrap();
            match outcome {
                Ok(Outcome::Changed(now)) => {
                    assert_eq!(now.own, wish);
                    assert!(now.version > promise.version);
                    promise.acknowledge(&now);
                }
                Ok(Outcome::Unchanged(now)) => {
                    assert_eq!(now.own, wish);
                    promise.acknowledge(&now);
                }
                Err(UpdateError::Storage) => {
                    wished.insert(update.registration, wish.clone());
                    promise.perhaps.push(wish);
                }
                Err(error) => panic!("{error}"),
            }
        }
        // What is answered is what was acknowledged, or read at the start, and nothing of what was refused.
        for (name, registration) in &self.registration_by_name {
            let promise = &self.promise_by_registration[registration];
            let answered = table.held(&device(name), *registration).unwrap();
            assert_eq!(answered.own, promise.answered);
        }
    }

    fn wish(&self, dice: &mut Dice) -> Update {
        let name = Self::NAMES[dice.roll(4) as usize];
        let v4 = Ipv4Addr::new(192, 0, 2, dice.roll(200) as u8 + 1).to_string();
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, dice.roll(200) as u16 + 1).to_string();
        let proof = ChallengeValue::new(v4.as_bytes()).unwrap();
        let at_home = Ipv4Addr::new(192, 168, 1, dice.roll(200) as u8 + 1);
        let lan = LanChange::default();
        let account = format!("https://ca.test/{v4}");
        let issuer = Issuer {
            issuer: "ca.test",
            account: &account,
        };
        let change: Change = match dice.roll(12) {
            0 => ChangeSet::forget_all().into(),
            1 => change(&[&v6]).into(),
            2 => change(&[&v4, &v6]).into(),
            3 | 4 => ChallengeChange::Add(ChallengeHost::device(), proof).into(),
            5 => ChallengeChange::Clear(ChallengeHost::device()).into(),
            6 => lan.set(at_home.into()).unwrap().into(),
            7 => lan.forget_v4().into(),
            8 => Issuers::new(&[issuer]).unwrap().into(),
            9 => Issuers::default().into(),
            _ => change(&[&v4]).into(),
        };
        Update {
            registration: self.registration_by_name[name],
            name: device(name),
            change,
        }
    }

    /// One holder of a name gives way to another.
    fn replace(&mut self, table: &Table, dice: &mut Dice) {
        let name = Self::NAMES[dice.roll(4) as usize];
        assert!(table.remove(&device(name)));
        let registration = self.register(name);
        table.put(&device(name), registration, None);
    }

    /// A snapshot is written while updates go on.
    fn snapshot(
        &mut self,
        committer: &mut Committer<FakeDisk>,
        table: &Table,
        now: Instant,
        dice: &mut Dice,
    ) {
        if !committer.log().is_sound() {
            return;
        }
        let Ok(snapshot) = committer.begin_snapshot() else {
            return;
        };
        let before = dice.roll(2) == 0;
        if before {
            self.update(committer, table, now, dice);
        }
        // As the server does: nothing is repaired while a snapshot is being written.
        let written = write_snapshot(snapshot, table, || !dice.0.is_multiple_of(7));
        if !before && committer.log().is_sound() {
            self.update(committer, table, now, dice);
        }
        if let Ok(written) = written {
            let _ = committer.finish(&written);
        }
    }

    /// After a beginning anew, nothing of those who have gone is on the disk.
    fn tidy(&self, committer: &mut Committer<FakeDisk>, disk: &FakeDisk) {
        if committer.begin_anew().is_err() {
            return;
        }
        let log = disk.kept();
        for gone in self.promise_by_registration.keys() {
            let is_gone = !self.registration_by_name.values().any(|held| held == gone);
            let octets = gone.0.to_be_bytes();
            let is_there = log.windows(octets.len()).any(|window| window == octets);
            assert!(!(is_gone && is_there), "{gone:?} is still on the disk");
        }
    }
}

#[test]
fn a_disk_that_works_again_takes_updates_again() {
    let disk = FakeDisk::new(1);
    let table = Arc::new(table());
    table.put(&device("a"), RegistrationId(1), None);
    let (log, _) = Log::open(disk.clone()).unwrap();
    let mut committer = Committer::new(log, Arc::clone(&table));
    committer.begin_anew().unwrap();

    let now = Instant::now();
    let mut set = |address: &str, seconds| {
        let update = Update {
            registration: RegistrationId(1),
            name: device("a"),
            change: change(&[address]).into(),
        };
        let now = now + Duration::from_secs(seconds);
        committer.commit(&[update], now).remove(0)
    };
    assert!(set("192.0.2.1", 0).is_ok());
    disk.set_faults(100);
    assert_eq!(set("192.0.2.2", 1), Err(UpdateError::Storage));
    assert_eq!(set("192.0.2.2", 2), Err(UpdateError::Storage));
    disk.set_faults(0);
    assert_eq!(
        set("192.0.2.2", 2),
        Err(UpdateError::Storage),
        "too soon to try the whole log again"
    );
    assert!(set("192.0.2.2", 4).is_ok());
}

#[test]
fn an_update_of_a_name_that_has_just_changed_hands_is_refused() {
    let table = Arc::new(table());
    table.put(&device("a"), RegistrationId(2), None);
    let (log, _) = Log::open(FakeDisk::new(1)).unwrap();
    let mut committer = Committer::new(log, Arc::clone(&table));
    committer.begin_anew().unwrap();

    let late = Update {
        registration: RegistrationId(1),
        name: device("a"),
        change: change(&["192.0.2.1"]).into(),
    };
    let outcome = committer.commit(&[late], Instant::now());
    assert_eq!(outcome, [Err(UpdateError::NotHeld)]);
    let held = table.held(&device("a"), RegistrationId(2)).unwrap();
    assert_eq!(held.own, Own::default());
}

fn table() -> Table {
    let zone = Zone::parse("nas.test").unwrap();
    let contents = Contents::new(&zone, &Config::default(), &[], &[]).unwrap();
    Table::new(contents, 0)
}

fn device(name: &str) -> DeviceName {
    DeviceName::parse(name).unwrap()
}
