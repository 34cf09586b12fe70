//! The operator's way into the pages: a link that works once, then a session. Kept in memory, as hashes; a restart ends
//! them all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use directory::{Token, TokenHash};

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
    links: HashMap<TokenHash, Instant>,
    sessions: HashMap<TokenHash, Instant>,
}

impl SignIn {
    /// Makes a token for a link.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new_link(&self, now: Instant) -> Result<Token, getrandom::Error> {
        let token = Token::generate()?;
        keep(&mut self.lock().links, token.hash(), now, LINK_LIFE);
        Ok(token)
    }

    /// Turns a link's token into a session's, once.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn redeem(&self, token: &str, now: Instant) -> Result<Option<Token>, getrandom::Error> {
        let mut inner = self.lock();
        match inner.links.remove(&TokenHash::of(token)) {
            Some(until) if now < until => {}
            Some(_) | None => return Ok(None),
        }
        let session = Token::generate()?;
        keep(&mut inner.sessions, session.hash(), now, SESSION_LIFE);
        Ok(Some(session))
    }

    /// Whether `token` is that of a session which has not ended.
    pub fn is_session(&self, token: &str, now: Instant) -> bool {
        self.lock()
            .sessions
            .get(&TokenHash::of(token))
            .is_some_and(|until| now < *until)
    }

    /// Ends a session.
    pub fn end(&self, token: &str) {
        self.lock().sessions.remove(&TokenHash::of(token));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(kept: &mut HashMap<TokenHash, Instant>, token: TokenHash, now: Instant, life: Duration) {
    kept.retain(|_, until| now < *until);
    if kept.len() >= KEPT
        && let Some(oldest) = kept
            .iter()
            .min_by_key(|(_, until)| **until)
            .map(|(token, _)| *token)
    {
        kept.remove(&oldest);
    }
    kept.insert(token, now + life);
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
        assert!(sign_in.is_session(session.reveal(), now));
        assert!(!sign_in.is_session(link.reveal(), now));
        assert!(!sign_in.is_session(session.reveal(), now + SESSION_LIFE));

        let late = sign_in.new_link(now).unwrap();
        assert!(
            sign_in
                .redeem(late.reveal(), now + LINK_LIFE)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_session_that_was_ended_is_over() {
        let (sign_in, now) = (SignIn::default(), Instant::now());
        let link = sign_in.new_link(now).unwrap();
        let session = sign_in.redeem(link.reveal(), now).unwrap().unwrap();
        sign_in.end(session.reveal());
        assert!(!sign_in.is_session(session.reveal(), now));
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
