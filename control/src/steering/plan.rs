//! What is known of one device's own addresses, and so where its name leads. It reads no clock and asks nobody: [`Steering`](super::Steering)
//! does that.
//!
//! ```text
//!  candidate ── a check passes ──► reached        once a minute at most
//!  reached   ── a check fails  ──► not reached    at once
//! ```
//!
//! An address is a candidate if somebody who is known was heard from there: the device's tunnel comes from it, or whoever said it did. So
//! nobody can have this server knock at a third party's door.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use ddns::addresses::Addresses;
use ddns::steering::{Direct, Lead};
use relay::reach::NotThere;
use serde::{Deserialize, Serialize};

/// A device that is reached is asked again after so long, and one that is not too.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);
/// A name leads back to the device no more often.
pub(super) const RETURN: Duration = Duration::from_secs(60);
/// How long the device has to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// And when its tunnels have gone, so that it is perhaps gone itself: the name leaves it within a second.
pub(super) const HURRIED: Duration = Duration::from_millis(800);
/// At least so much lies between two checks of an address that did not pass, whatever happens meanwhile.
const AGAIN: Duration = Duration::from_secs(2);

/// Which way a name leads.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// To the device itself while it is reached there, else to its relay.
    #[default]
    Auto,
    /// To the device itself, reached or not.
    Direct,
    /// To its relay.
    Relay,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Auto, Self::Direct, Self::Relay];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Relay => "relay",
        }
    }

    /// The other way round.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// What is wished for a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The port at which visitors come to the device itself, from outside; none if they do not.
    pub(crate) port: Option<NonZeroU16>,
    pub(crate) mode: Mode,
}

/// What a plan is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) wish: Wish,
    /// The addresses that the device's name has of its own.
    pub(super) own: Addresses,
    /// Where its tunnels come from, as its relays see it.
    pub(super) tunnels: Vec<IpAddr>,
    /// Where its addresses were last said from.
    pub(super) said_from: Option<IpAddr>,
}

/// The families in the order in which a plan has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    fn of(self, addresses: Addresses) -> Option<IpAddr> {
        match self {
            Self::V4 => addresses.v4.map(IpAddr::V4),
            Self::V6 => addresses.v6.map(IpAddr::V6),
        }
    }
}

/// A question to ask now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) family: Family,
    pub(super) address: IpAddr,
    pub(super) port: NonZeroU16,
    pub(super) patience: Duration,
}

/// What a check has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// The name leads elsewhere.
    Lead,
    /// The name is to get this address: it is the device's, and the name has another one or none.
    Adopt(IpAddr),
}

/// Of nothing at first.
#[derive(Debug, Default)]
pub(super) struct Plan {
    known: Known,
    /// Where its tunnels come from, or came from before they have gone.
    heard: Vec<IpAddr>,
    of_family: [OfFamily; 2],
}

#[derive(Debug, Default)]
struct OfFamily {
    candidate: Option<IpAddr>,
    is_reached: bool,
    /// Why it was not found when it was last asked.
    missed: Option<NotThere>,
    returned: Option<Instant>,
    /// When it is to be asked.
    due: Option<Instant>,
    /// When it was last asked.
    asked: Option<Instant>,
    is_asking: bool,
    is_hurried: bool,
    /// Something has happened while it was being asked.
    is_stale: bool,
}

impl Plan {
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// Takes in what is known now.
    pub(super) fn learn(&mut self, known: Known, now: Instant) {
        let is_gone = known.tunnels.is_empty() && !self.known.tunnels.is_empty();
        let is_other = known != self.known;
        self.known = known;
        if !self.known.tunnels.is_empty() {
            self.heard.clone_from(&self.known.tunnels);
        }
        for family in Family::ALL {
            let candidate = self.candidate(family);
            let port_is_there =
                self.known.wish.port.is_some() && self.known.wish.mode == Mode::Auto;
            let of_family = &mut self.of_family[family as usize];
            if of_family.candidate != candidate || !port_is_there {
                of_family.candidate = candidate;
                of_family.is_reached = false;
                of_family.missed = None;
                of_family.is_stale = of_family.is_asking;
            }
            if candidate.is_none() || !port_is_there {
                of_family.due = None;
                continue;
            }
            if is_other {
                let soonest = of_family.asked.map_or(now, |asked| asked + AGAIN);
                let due = match of_family.is_reached {
                    true => now,
                    false => soonest.max(now),
                };
                of_family.due = Some(of_family.due.map_or(due, |before| before.min(due)));
                of_family.is_hurried |= is_gone && of_family.is_reached;
                of_family.is_stale |= of_family.is_asking && of_family.is_reached;
            }
        }
    }

    /// The address of a family that is worth asking.
    fn candidate(&self, family: Family) -> Option<IpAddr> {
        let own = family.of(self.known.own);
        let heard = |address: &IpAddr| {
            self.heard.contains(address) || Some(*address) == self.known.said_from
        };
        // One from where nobody was heard may be anybody's; the device itself is where its tunnel comes from.
        own.filter(heard).or_else(|| {
            self.heard
                .iter()
                .find(|address| family.has(address))
                .copied()
        })
    }

    /// When there is something to ask next.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self.of_family.iter().filter(|one| !one.is_asking);
        waiting.filter_map(|one| one.due).min()
    }

    /// What to ask now. It is being asked from now on.
    pub(super) fn checks(&mut self, now: Instant) -> Vec<Check> {
        let Some(port) = self.known.wish.port else {
            return Vec::new();
        };
        let mut checks = Vec::new();
        for family in Family::ALL {
            let one = &mut self.of_family[family as usize];
            let is_due = one.due.is_some_and(|due| due <= now) && !one.is_asking;
            let Some(address) = one.candidate.filter(|_| is_due) else {
                continue;
            };
            one.is_asking = true;
            one.is_stale = false;
            one.asked = Some(now);
            one.due = None;
            let patience = match std::mem::take(&mut one.is_hurried) {
                true => HURRIED,
                false => PATIENCE,
            };
            checks.push(Check {
                family,
                address,
                port,
                patience,
            });
        }
        checks
    }

    /// A check has ended. `spread` is what this device waits beyond the interval, so that not all are asked in one moment.
    pub(super) fn checked(
        &mut self,
        check: &Check,
        found: Result<(), NotThere>,
        now: Instant,
        spread: Duration,
    ) -> Change {
        let own = check.family.of(self.known.own);
        let is_same_port = self.known.wish.port == Some(check.port);
        let one = &mut self.of_family[check.family as usize];
        one.is_asking = false;
        let is_stale = std::mem::take(&mut one.is_stale);
        if one.candidate != Some(check.address)
            || !is_same_port
            || self.known.wish.mode != Mode::Auto
        {
            // Of another address than is of interest now; that one is asked when it is due.
            let is_wanted = one.candidate.is_some() && self.known.wish.mode == Mode::Auto;
            one.due = one.due.or(is_wanted.then_some(now));
            return Change::Nothing;
        }
        let next = match is_stale {
            true => now,
            false => now + INTERVAL + spread,
        };
        one.due = Some(one.due.map_or(next, |due| due.min(next)));
        one.missed = found.err();
        match (found.is_ok(), one.is_reached) {
            (true, true) | (false, false) => Change::Nothing,
            (false, true) => {
                one.is_reached = false;
                Change::Lead
            }
            (true, false) => {
                let may_return = one.returned.map(|returned| returned + RETURN);
                if let Some(may_return) = may_return.filter(|may_return| *may_return > now) {
                    one.due = Some(may_return); // and then it is asked once more
                    return Change::Nothing;
                }
                if own != Some(check.address) {
                    return Change::Adopt(check.address);
                }
                one.is_reached = true;
                one.returned = Some(now);
                Change::Lead
            }
        }
    }

    /// The name has got the address that a check has found.
    pub(super) fn adopted(&mut self, check: &Check, own: Addresses, now: Instant) {
        self.known.own = own;
        let one = &mut self.of_family[check.family as usize];
        if check.family.of(own) == Some(check.address) && one.candidate == Some(check.address) {
            one.is_reached = true;
            one.returned = Some(now);
        }
    }

    fn is_unheard(&self) -> bool {
        self.heard.is_empty() && self.known.said_from.is_none()
    }

    /// Why it leads there, in words.
    pub(super) fn why(&self) -> String {
        let Wish { port, mode } = self.known.wish;
        let port = match (mode, port) {
            (Mode::Relay, _) => return "its owner wants it so".to_owned(),
            (Mode::Auto | Mode::Direct, None) => {
                return "the device has not said that visitors come to it: its name leads where its addresses say".to_owned();
            }
            (Mode::Direct, Some(_)) => return "its owner wants it so".to_owned(),
            (Mode::Auto, Some(_)) if self.is_unheard() => {
                return "nothing was heard of the device since the server's start".to_owned();
            }
            (Mode::Auto, Some(port)) => port,
        };
        let of_family = self.of_family.iter().filter_map(|one| {
            let address = one.candidate?;
            Some(match (one.is_reached, one.missed) {
                (true, _) => format!("the device was found at {address}, port {port}"),
                (false, Some(why)) => format!("{why} at {address}, port {port}"),
                (false, None) if one.returned.is_some() => {
                    format!("names lead back to {address} once a minute at most")
                }
                (false, None) => format!("{address} is being asked"),
            })
        });
        let words: Vec<_> = of_family.collect();
        match words.is_empty() {
            true => {
                "nobody was heard from its name's addresses, so nobody is asked there".to_owned()
            }
            false => words.join("; "),
        }
    }

    /// Where the name leads.
    pub(super) fn lead(&self) -> Lead {
        let [v4, v6] = &self.of_family;
        let Wish { port, mode } = self.known.wish;
        match (mode, port) {
            (Mode::Relay, _) => Lead::Steered(Direct::NOT),
            (Mode::Auto | Mode::Direct, None) => Lead::Given,
            (Mode::Direct, Some(port)) => Lead::Steered(Direct {
                v4: self.known.own.v4.is_some(),
                v6: self.known.own.v6.is_some(),
                port,
            }),
            // After a start: it is where it was until something is heard of it.
            (Mode::Auto, Some(_)) if self.is_unheard() => Lead::Given,
            (Mode::Auto, Some(port)) => Lead::Steered(Direct {
                v4: v4.is_reached,
                v6: v6.is_reached,
                port,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: NonZeroU16 = NonZeroU16::new(443).unwrap();

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn known(own: &str, tunnel: &str) -> Known {
        let own = match ip(own) {
            IpAddr::V4(v4) => Addresses {
                v4: Some(v4),
                v6: None,
            },
            IpAddr::V6(_) => panic!("no test needs one"),
        };
        Known {
            wish: Wish {
                port: Some(PORT),
                mode: Mode::Auto,
            },
            own,
            tunnels: vec![ip(tunnel)],
            said_from: None,
        }
    }

    const HOME: &str = "203.0.113.7";

    fn is_direct(plan: &Plan) -> bool {
        plan.lead()
            == Lead::Steered(Direct {
                v4: true,
                v6: false,
                port: PORT,
            })
    }

    fn plan_of(known: Known, now: Instant) -> Plan {
        let mut plan = Plan::default();
        plan.learn(known, now);
        plan
    }

    fn found(is_there: bool) -> Result<(), NotThere> {
        is_there.then_some(()).ok_or(NotThere::Silent)
    }

    /// Asks all that is due, and answers it.
    fn ask(plan: &mut Plan, passes: bool, now: Instant) -> Vec<(IpAddr, Change)> {
        let checks = plan.checks(now).into_iter();
        checks
            .map(|check| {
                (
                    check.address,
                    plan.checked(&check, found(passes), now, Duration::ZERO),
                )
            })
            .collect()
    }

    #[test]
    fn a_name_leads_to_a_device_while_it_is_reached() {
        let now = Instant::now();
        let mut plan = plan_of(known(HOME, HOME), now);
        assert_eq!(plan.lead(), Lead::Steered(Direct::NOT));
        assert_eq!(ask(&mut plan, true, now), [(ip(HOME), Change::Lead)]);
        assert!(is_direct(&plan));
        assert_eq!(plan.due(), Some(now + INTERVAL));
        let later = now + INTERVAL;
        assert_eq!(ask(&mut plan, false, later), [(ip(HOME), Change::Lead)]);
        assert_eq!(plan.lead(), Lead::Steered(Direct::NOT));
    }

    #[test]
    fn an_address_from_where_nobody_was_heard_is_never_asked() {
        let now = Instant::now();
        let other = "198.51.100.1";
        let mut plan = plan_of(known(other, HOME), now);
        // The device's own is, and becomes its name's.
        assert_eq!(
            ask(&mut plan, true, now),
            [(ip(HOME), Change::Adopt(ip(HOME)))]
        );
        let mut nobody = known(other, HOME);
        nobody.tunnels.clear();
        let mut plan = plan_of(nobody.clone(), now);
        assert_eq!(plan.due(), None);
        nobody.said_from = Some(ip(other));
        plan.learn(nobody, now);
        assert_eq!(ask(&mut plan, true, now), [(ip(other), Change::Lead)]);
    }

    #[test]
    fn a_flapping_device_is_left_at_once_and_returned_to_once_a_minute() {
        let begin = Instant::now();
        let mut plan = plan_of(known(HOME, HOME), begin);
        let (mut returns, mut was_direct) = (Vec::new(), false);
        for second in 0..600 {
            let now = begin + Duration::from_secs(second);
            // Its tunnel comes and goes, so it is asked again and again; it is there in every other second.
            let mut tunnel = known(HOME, HOME);
            tunnel.said_from = Some(ip(&format!("192.0.2.{}", second % 250)));
            plan.learn(tunnel, now);
            let is_there = second % 2 == 0 || second % 7 == 0;
            for (_, change) in ask(&mut plan, is_there, now) {
                if !is_there {
                    assert!(!is_direct(&plan), "{second}: {change:?}");
                }
            }
            if is_direct(&plan) && !was_direct {
                returns.push(second);
            }
            was_direct = is_direct(&plan);
        }
        assert!(returns.len() > 5, "{returns:?}");
        assert!(
            returns.windows(2).all(|two| two[1] - two[0] >= 60),
            "{returns:?}"
        );
    }

    #[test]
    fn a_device_whose_tunnels_have_gone_is_asked_in_a_hurry() {
        let now = Instant::now();
        let mut plan = plan_of(known(HOME, HOME), now);
        ask(&mut plan, true, now);
        let mut gone = known(HOME, HOME);
        gone.tunnels.clear();
        plan.learn(gone, now);
        let [check] = plan.checks(now)[..] else {
            panic!("one check");
        };
        assert_eq!(check.patience, HURRIED);
        // What comes to light meanwhile is asked for behind it.
        plan.learn(known(HOME, HOME), now);
        assert_eq!(
            plan.checked(&check, found(false), now, Duration::ZERO),
            Change::Lead
        );
        assert_eq!(plan.due(), Some(now));
    }

    #[test]
    fn a_wish_is_followed_whatever_is_known() {
        let now = Instant::now();
        let mut plan = plan_of(known(HOME, HOME), now);
        ask(&mut plan, true, now);
        let wish = |port, mode| {
            let wish = Wish { port, mode };
            Known {
                wish,
                ..known(HOME, HOME)
            }
        };
        plan.learn(wish(Some(PORT), Mode::Relay), now);
        assert_eq!(
            (plan.lead(), plan.due()),
            (Lead::Steered(Direct::NOT), None)
        );
        plan.learn(wish(Some(PORT), Mode::Direct), now);
        assert!(is_direct(&plan) && plan.due().is_none());
        plan.learn(wish(None, Mode::Direct), now);
        assert_eq!(plan.lead(), Lead::Given);
        // Back to what is known, which is nothing until it is asked for.
        plan.learn(wish(Some(PORT), Mode::Auto), now + RETURN);
        assert!(!is_direct(&plan));
        ask(&mut plan, true, now + RETURN);
        assert!(is_direct(&plan));
    }

    #[test]
    fn an_address_that_was_taken_over_counts_when_it_is_the_names() {
        let now = Instant::now();
        let mut plan = plan_of(known("198.51.100.1", HOME), now);
        let [check] = plan.checks(now)[..] else {
            panic!("one check");
        };
        let change = plan.checked(&check, found(true), now, Duration::ZERO);
        assert_eq!(change, Change::Adopt(ip(HOME)));
        assert!(!is_direct(&plan));
        plan.adopted(&check, known(HOME, HOME).own, now);
        assert!(is_direct(&plan));
    }
}
