//! The operator's way into the pages: a link that works once, then a session. Kept in memory, as hashes; a restart ends
//! them all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use directory::{Token, TokenHash};
use tokio::sync::watch;
use tokio::time::sleep_until;

/// How long a link may be used.
pub const LINK_LIFE: Duration = Duration::from_secs(10 * 60);

/// How long a session lasts.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 60 * 60);

/// Links and sessions that are kept, each; the oldest makes room for the newest.
const KEPT: usize = 64;

/// The operator's links and sessions.
#[derive(Debug, Default)]
pub struct SignIn {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    links: HashMap<TokenHash, Kept<()>>,
    /// Whoever watches one sees it go when it is dropped.
    sessions: HashMap<TokenHash, Kept<watch::Sender<()>>>,
}

#[derive(Debug)]
struct Kept<T> {
    until: Instant,
    what: T,
}

/// A session that had not ended when it was looked up.
#[derive(Clone, Debug)]
pub struct Session {
    until: Instant,
    kept: watch::Receiver<()>,
}

impl Session {
    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        tokio::select! {
            _ = self.kept.changed() => {}
            () = sleep_until(self.until.into()) => {}
        }
    }
}

impl SignIn {
    /// Makes a token for a link.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new_link(&self, now: Instant) -> Result<Token, getrandom::Error> {
        let token = Token::generate()?;
        let link = Kept {
            until: now + LINK_LIFE,
            what: (),
        };
        keep(&mut self.lock().links, token.hash(), link, now);
        Ok(token)
    }

    /// Turns a link's token into a session's, once.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn redeem(&self, token: &str, now: Instant) -> Result<Option<Token>, getrandom::Error> {
        let mut inner = self.lock();
        match inner.links.remove(&TokenHash::of(token)) {
            Some(link) if now < link.until => {}
            Some(_) | None => return Ok(None),
        }
        let session = Token::generate()?;
        let kept = Kept {
            until: now + SESSION_LIFE,
            what: watch::Sender::default(),
        };
        keep(&mut inner.sessions, session.hash(), kept, now);
        Ok(Some(session))
    }

    /// The session that `token` is of, if it has not ended.
    pub fn session(&self, token: &str, now: Instant) -> Option<Session> {
        let inner = self.lock();
        let kept = inner.sessions.get(&TokenHash::of(token))?;
        (now < kept.until).then(|| Session {
            until: kept.until,
            kept: kept.what.subscribe(),
        })
    }

    /// Ends a session.
    pub fn end(&self, token: &str) {
        self.lock().sessions.remove(&TokenHash::of(token));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep<T>(kept: &mut HashMap<TokenHash, Kept<T>>, token: TokenHash, new: Kept<T>, now: Instant) {
    kept.retain(|_, one| now < one.until);
    if kept.len() >= KEPT
        && let Some(oldest) = kept
            .iter()
            .min_by_key(|(_, one)| one.until)
            .map(|(token, _)| *token)
    {
        kept.remove(&oldest);
    }
    kept.insert(token, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_works_once_and_not_for_ever() {
        let (sign_in, now) = (SignIn::default(), Instant::now());
        let link = sign_in.new_link(now).unwrap();
        let session = sign_in.redeem(link.reveal(), now).unwrap().unwrap();
        assert!(sign_in.redeem(link.reveal(), now).unwrap().is_none());
        assert!(sign_in.session(session.reveal(), now).is_some());
        assert!(sign_in.session(link.reveal(), now).is_none());
        let late = now + SESSION_LIFE;
        assert!(sign_in.session(session.reveal(), late).is_none());

        let late = sign_in.new_link(now).unwrap();
        assert!(
            sign_in
                .redeem(late.reveal(), now + LINK_LIFE)
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_early_or_late_is_over_for_those_who_watch_it() {
        let (sign_in, now) = (SignIn::default(), tokio::time::Instant::now().into_std());
        let token = || {
            let link = sign_in.new_link(now).unwrap();
            sign_in.redeem(link.reveal(), now).unwrap().unwrap()
        };
        let (first, second) = (token(), token());
        let mut session = sign_in.session(first.reveal(), now).unwrap();
        sign_in.end(first.reveal());
        session.ended().await;
        assert_eq!(tokio::time::Instant::now().into_std(), now);
        assert!(sign_in.session(first.reveal(), now).is_none());

        let mut session = sign_in.session(second.reveal(), now).unwrap();
        session.ended().await;
        assert!(tokio::time::Instant::now().into_std() >= now + SESSION_LIFE);
    }

    #[test]
    fn only_so_many_links_are_kept_and_the_newest_are_among_them() {
        let (sign_in, now) = (SignIn::default(), Instant::now());
        let first = sign_in.new_link(now).unwrap();
        for second in 1..=KEPT as u64 {
            sign_in.new_link(now + Duration::from_secs(second)).unwrap();
        }
        assert_eq!(sign_in.lock().links.len(), KEPT);
        assert!(sign_in.redeem(first.reveal(), now).unwrap().is_none());
    }
}
