//! Which relays there are, and at which of them this agent is: each of its tunnels is at a relay of its own.
//!
//! A keeper holds a [`Berth`] for as long as it dials a relay or has its tunnel there, and nobody else gets one at that relay.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::tls;

/// So many tunnels an agent keeps where there are relays enough: visitors come through one while the other is dialled again.
pub(super) const TUNNELS: usize = 2;

/// The longest list that is taken.
const MOST: usize = 64;

/// A relay's address as the cloud says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RelayAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why a list of relays is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListError {
    #[error("it names no relay")]
    Empty,
    #[error("it names {0} relays, and at most {MOST} make sense")]
    TooLong(usize),
    #[error("{0:?} is no host with a port")]
    NoAddress(String),
}

impl RelayAddress {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        tls::server_name(host).ok()?;
        Some(Self {
            host: host.to_ascii_lowercase(),
            port: port.parse().ok().filter(|port| *port != 0)?,
        })
    }

    /// Those of a whole list, each once. One that cannot be read spoils it: who wrote that knows no better of the others.
    pub(super) fn parse_list(list: &[String]) -> Result<Vec<Self>, ListError> {
        match list.len() {
            0 => return Err(ListError::Empty),
            too_many if too_many > MOST => return Err(ListError::TooLong(too_many)),
            _ => {}
        }
        let mut relays = Vec::new();
        for text in list {
            let relay = Self::parse(text).ok_or_else(|| ListError::NoAddress(text.clone()))?;
            if !relays.contains(&relay) {
                relays.push(relay);
            }
        }
        Ok(relays)
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The relays of one agent. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Relays(Arc<watch::Sender<Table>>);

#[derive(Debug)]
struct Table {
    /// In control's order: the best for this device first.
    listed: Vec<RelayAddress>,
    /// One for each berth.
    taken: Vec<RelayAddress>,
    /// One for each tunnel that takes visitors.
    standing: Vec<RelayAddress>,
}

impl Table {
    /// The first free one, or the next after `relay`, and those before it last.
    fn free(&self, after: Option<&RelayAddress>) -> Option<&RelayAddress> {
        let position = after.and_then(|after| self.listed.iter().position(|relay| relay == after));
        let begin = position.map_or(0, |position| position + 1);
        let (before, next) = self.listed.split_at(begin);
        let mut in_order = next.iter().chain(before);
        in_order.find(|relay| !self.taken.contains(relay))
    }

    fn is_listed(&self, relay: &RelayAddress) -> bool {
        self.listed.contains(relay)
    }
}

impl Relays {
    pub(super) fn new(listed: Vec<RelayAddress>) -> Self {
        Self(Arc::new(watch::Sender::new(Table {
            listed,
            taken: Vec::new(),
            standing: Vec::new(),
        })))
    }

    /// From now on there are these, and no others. Whoever is at another one hears it.
    pub(super) fn list(&self, listed: Vec<RelayAddress>) {
        self.0.send_if_modified(|table| {
            let changes = table.listed != listed;
            table.listed = listed;
            changes
        });
    }

    /// The first relay of the list that is free; waits until one is.
    pub(super) async fn berth(&self) -> Berth {
        loop {
            if let Some(berth) = self.free_berth(None) {
                return berth;
            }
            self.until(|table| table.free(None).is_some()).await;
        }
    }

    fn free_berth(&self, after: Option<&RelayAddress>) -> Option<Berth> {
        let mut found = None;
        self.0.send_if_modified(|table| {
            found = table.free(after).cloned();
            table.taken.extend(found.clone());
            found.is_some()
        });
        found.map(|relay| Berth {
            relay,
            relays: self.clone(),
        })
    }

    /// Whether the list has a relay for each tunnel.
    pub(super) fn suffice(&self) -> bool {
        self.0.borrow().listed.len() >= TUNNELS
    }

    /// Whether as many tunnels stand as an agent keeps at most.
    pub(super) fn are_all_reached(&self) -> bool {
        self.0.borrow().standing.len() >= TUNNELS
    }

    /// Whether a relay is dialled where no tunnel stands.
    pub(super) fn is_one_missing(&self) -> bool {
        let table = self.0.borrow();
        table.taken.len() > table.standing.len()
    }

    /// Returns when fewer do than an agent keeps at most.
    pub(super) async fn until_one_is_lost(&self) {
        self.until(|table| table.standing.len() < TUNNELS).await;
    }

    /// Returns when a tunnel stands at a relay that is listed.
    pub(super) async fn until_a_listed_one_is_reached(&self) {
        let reached = |table: &Table| table.standing.iter().any(|relay| table.is_listed(relay));
        self.until(reached).await;
    }

    async fn until(&self, condition: impl Fn(&Table) -> bool) {
        let mut changes = self.0.subscribe();
        let _ = changes.wait_for(|table| condition(table)).await; // the sender is here
    }
}

/// The right to dial a relay and to have a tunnel there, until it is dropped.
#[derive(Debug)]
pub(super) struct Berth {
    pub(super) relay: RelayAddress,
    relays: Relays,
}

impl Berth {
    /// One at the next relay that is free; the same if none is.
    pub(super) fn elsewhere(self) -> Self {
        self.relays.free_berth(Some(&self.relay)).unwrap_or(self)
    }

    pub(super) fn is_listed(&self) -> bool {
        self.relays.0.borrow().is_listed(&self.relay)
    }

    /// Returns when the relay is not listed any more.
    pub(super) async fn unlisted(&self) {
        self.relays
            .until(|table| !table.is_listed(&self.relay))
            .await;
    }

    /// A tunnel stands here and takes visitors, until what is given back is dropped.
    pub(super) fn stands(&self) -> Stands {
        let relay = self.relay.clone();
        self.relays
            .0
            .send_modify(|table| table.standing.push(relay.clone()));
        Stands {
            relay,
            relays: self.relays.clone(),
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.relays
            .0
            .send_modify(|table| forget(&mut table.taken, &self.relay));
    }
}

/// A tunnel that takes visitors.
#[derive(Debug)]
pub(super) struct Stands {
    relay: RelayAddress,
    relays: Relays,
}

impl Drop for Stands {
    fn drop(&mut self) {
        self.relays
            .0
            .send_modify(|table| forget(&mut table.standing, &self.relay));
    }
}

/// Once: an older tunnel of the same relay may still be among them.
fn forget(relays: &mut Vec<RelayAddress>, relay: &RelayAddress) {
    if let Some(position) = relays.iter().position(|other| other == relay) {
        relays.swap_remove(position);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn addresses(hosts: &[&str]) -> Vec<RelayAddress> {
        let texts: Vec<_> = hosts.iter().map(|host| format!("{host}:443")).collect();
        RelayAddress::parse_list(&texts).unwrap()
    }

    fn relays(hosts: &[&str]) -> Relays {
        Relays::new(addresses(hosts))
    }

    fn free(relays: &Relays) -> Option<Berth> {
        relays.free_berth(None)
    }

    #[test]
    fn relay_addresses_have_a_host_and_a_port() {
        let relay = RelayAddress::parse("Relay.nas.localhost:8443").unwrap();
        assert_eq!(
            (relay.host.as_str(), relay.port),
            ("relay.nas.localhost", 8443)
        );
        for bad in [
            "relay.nas.localhost",
            "relay.nas.localhost:x",
            "relay.nas.localhost:0",
            "relay.nas.localhost:65536",
            ":443",
            "two words:443",
            "",
        ] {
            assert_eq!(RelayAddress::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_list_is_taken_as_a_whole_or_not_at_all() {
        let of = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
            RelayAddress::parse_list(&texts)
        };
        assert_eq!(of(&[]), Err(ListError::Empty));
        assert_eq!(
            of(&["a:443", "b"]),
            Err(ListError::NoAddress("b".to_owned()))
        );
        let many: Vec<_> = (0..=MOST).map(|number| format!("r{number}:443")).collect();
        assert_eq!(
            RelayAddress::parse_list(&many),
            Err(ListError::TooLong(MOST + 1))
        );
        assert_eq!(RelayAddress::parse_list(&many[1..]).unwrap().len(), MOST);
        assert_eq!(of(&["a:443", "A:443", "a:444"]).unwrap().len(), 2);
    }

    #[test]
    fn nobody_gets_a_berth_where_another_has_one() {
        let relays = relays(&["a", "b"]);
        let first = free(&relays).unwrap();
        let second = free(&relays).unwrap();
        assert_eq!(
            (first.relay.host.as_str(), second.relay.host.as_str()),
            ("a", "b")
        );
        assert!(free(&relays).is_none());
        drop(first);
        assert_eq!(free(&relays).unwrap().relay.host, "a");
    }

    #[test]
    fn who_fails_goes_on_to_the_next_free_one_and_stays_where_there_is_none() {
        let relays = relays(&["a", "b", "c"]);
        let (first, second) = (free(&relays).unwrap(), free(&relays).unwrap());
        let first = first.elsewhere();
        assert_eq!(first.relay.host, "c");
        let first = first.elsewhere();
        assert_eq!(first.relay.host, "a", "b is taken");
        let third = free(&relays).unwrap();
        assert_eq!(third.relay.host, "c");
        assert_eq!(second.elsewhere().relay.host, "b");
        drop((first, third));
        assert_eq!(free(&relays).unwrap().relay.host, "a", "all are free again");
    }

    #[tokio::test]
    async fn who_is_at_a_relay_that_is_not_listed_any_more_hears_it_and_who_waits_gets_the_new_one()
    {
        let relays = relays(&["a"]);
        let berth = free(&relays).unwrap();
        assert!(berth.is_listed());
        let waiting = tokio::spawn({
            let relays = relays.clone();
            async move { relays.berth().await }
        });
        relays.list(addresses(&["b"]));
        timeout(SOON, berth.unlisted()).await.unwrap();
        assert!(!berth.is_listed());
        let other = timeout(SOON, waiting).await.unwrap().unwrap();
        assert_eq!(other.relay.host, "b");
    }

    #[tokio::test]
    async fn what_stands_is_counted_and_an_older_tunnel_of_a_relay_takes_nothing_from_the_newer() {
        let relays = relays(&["a", "b"]);
        let (first, second) = (free(&relays).unwrap(), free(&relays).unwrap());
        let older = first.stands();
        assert!(!relays.are_all_reached() && relays.is_one_missing());
        let other = second.stands();
        assert!(relays.are_all_reached() && !relays.is_one_missing());
        let newer = first.stands();
        drop(older);
        assert!(relays.are_all_reached());
        drop(other);
        timeout(SOON, relays.until_one_is_lost()).await.unwrap();
        timeout(SOON, relays.until_a_listed_one_is_reached())
            .await
            .unwrap();
        relays.list(addresses(&["b"]));
        let reached = relays.until_a_listed_one_is_reached();
        let mut reached = std::pin::pin!(reached);
        assert!(at_once(reached.as_mut()).await.is_none());
        let _other = second.stands();
        timeout(SOON, reached).await.unwrap();
        drop(newer);
    }

    /// What `future` gives without waiting.
    async fn at_once<F: Future>(future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
