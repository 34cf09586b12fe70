//! A relay is told what there is, and then what changes, for as long as it listens.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use directory::{DeviceName, Reader, RelayName};
use following::{BEAT, Checksum, Facts, FollowedDevice, Known, SILENCE, Told};
use futures_util::stream::unfold;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Fleet;
use super::sessions::{End, Session};

/// Pieces that a slow relay has not taken yet.
const QUEUE: usize = 4;

/// A piece is sent when it is this long, in octets.
const PIECE: usize = 32 * 1024;

/// How often it is looked whether a relay has reported.
const LOOK: Duration = Duration::from_millis(250);

impl Fleet {
    /// What `relay`, which knows everything up to `known`, is told from now on: the body of an answer that ends with the session.
    /// `None` if the relay was removed in this moment.
    pub(crate) fn follow(
        self: &Arc<Self>,
        relay: &RelayName,
        known: Option<Known>,
        stop: CancellationToken,
    ) -> Option<Body> {
        let session = self.begin(relay)?;
        let (out, pieces) = mpsc::channel(QUEUE);
        let teller = Teller {
            fleet: Arc::clone(self),
            out,
        };
        // It ends with the body, which it notices when it speaks or waits.
        self.tasks.spawn(teller.attend(session, known, stop));
        let pieces = unfold(pieces, |mut pieces: mpsc::Receiver<Bytes>| async {
            let piece = pieces.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(piece), pieces))
        });
        Some(Body::from_stream(pieces))
    }
}

struct Teller {
    fleet: Arc<Fleet>,
    out: mpsc::Sender<Bytes>,
}

/// The relay listens no more.
struct Gone;

impl Teller {
    async fn attend(self, mut session: Session, known: Option<Known>, stop: CancellationToken) {
        let end = session.end.clone();
        session.why = tokio::select! {
            biased;
            () = stop.cancelled() => End::Stopped,
            () = end.cancelled() => End::Replaced,
            () = self.silence(&session) => End::Silent,
            () = self.out.closed() => End::Left,
            Err(Gone) = self.tell(&session, known) => End::Left,
        };
    }

    async fn silence(&self, session: &Session) {
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            if self.fleet.notice_silence(session) {
                return;
            }
        }
    }

    /// Goes on until the relay is gone.
    async fn tell(&self, session: &Session, mut known: Option<Known>) -> Result<(), Gone> {
        let history = &self.fleet.history;
        let mut versions = history.versions();
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let welcome = Told::Welcome {
            session: session.id,
        };
        self.say(&[welcome]).await?;
        loop {
            versions.mark_unchanged();
            let missed = known.and_then(|at| Some((at, history.after(at)?)));
            let Some((Known { epoch, version }, missed)) = missed else {
                known = Some(self.say_everything().await?);
                continue;
            };
            let Some(&(newest, _)) = missed.last() else {
                tokio::select! {
                    Ok(()) = versions.changed() => {}
                    _ = beats.tick() => self.say(&[Told::Beat { version }]).await?,
                }
                continue;
            };
            let directory = &self.fleet.around.directory;
            let changes = missed.into_iter();
            let changes = changes.map(|(version, name)| change(directory, version, name));
            self.say(&changes.collect::<Vec<_>>()).await?;
            let version = newest;
            known = Some(Known { epoch, version });
        }
    }

    /// Says where everything stands; gives back up to which change that is.
    async fn say_everything(&self) -> Result<Known, Gone> {
        let known = self.fleet.history.now();
        let (directory, out) = (self.fleet.around.directory.clone(), self.out.clone());
        // A million devices take a second: not on a thread that others wait for.
        let said = spawn_blocking(move || say_snapshot(&directory, known, &out));
        match said.await {
            Ok(Ok(())) => Ok(known),
            Ok(Err(Gone)) | Err(_) => Err(Gone),
        }
    }

    async fn say(&self, told: &[Told]) -> Result<(), Gone> {
        let mut piece = Vec::new();
        for told in told {
            put_line(&mut piece, told);
        }
        self.out.send(piece.into()).await.map_err(|_| Gone)
    }
}

/// What `name` stands for now: by the change of this version, or by a later one, whose turn comes too.
fn change(directory: &Reader, version: u64, name: DeviceName) -> Told {
    match directory.device_by_name(&name) {
        Some(device) => Told::Put {
            version,
            device: FollowedDevice::of(&Facts::of(device, directory)),
        },
        None => Told::Removed {
            version,
            name: name.to_string(),
        },
    }
}

fn say_snapshot(directory: &Reader, known: Known, out: &mpsc::Sender<Bytes>) -> Result<(), Gone> {
    let mut piece = Vec::new();
    let begin = Told::Snapshot {
        epoch: known.epoch,
        version: known.version,
        devices: directory.len() as u64,
    };
    put_line(&mut piece, &begin);
    let (mut devices, mut checksum) = (0, Checksum::default());
    let mut gone = false;
    directory.for_each(|device| {
        if gone {
            return;
        }
        let begin = piece.len();
        let facts = Facts::of(device, directory);
        put_line(&mut piece, &Told::Device(FollowedDevice::of(&facts)));
        checksum.take(piece.get(begin..).unwrap_or_default().trim_ascii_end());
        devices += 1;
        if piece.len() >= PIECE {
            gone = out
                .blocking_send(std::mem::take(&mut piece).into())
                .is_err();
        }
    });
    let digest = checksum.finish();
    put_line(&mut piece, &Told::Complete { devices, digest });
    out.blocking_send(piece.into()).map_err(|_| Gone)
}

fn put_line(piece: &mut Vec<u8>, told: &Told) {
    // Texts and numbers: nothing of it cannot be written.
    let _ = serde_json::to_writer(&mut *piece, told);
    piece.push(b'\n');
}

// A relay that hears nothing for a few beats begins anew.
const _: () = assert!(BEAT.as_secs() * 3 < SILENCE.as_secs());
