//! A signed message and its reply, in the order of RFC 8945 section 5.2 and RFC 2136 section 3: whose key is it, is the message
//! the key's and from now, has it come before, what does it ask, and is that done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use directory::{Device, Duty, Reader};
use tokio_util::task::TaskTracker;

use super::change::DynamicChange;
use super::message::UpdateMessage;
use super::reply::reply;
use super::scope::Scope;
use crate::message::Header;
use crate::metrics::Metrics;
use crate::own::NotApplied;
use crate::protocol::{PLAIN_UDP_LIMIT, QUERY, Rcode, UPDATE};
use crate::query::{Parsed, Query, parse};
use crate::server::{Context, Kind, Response, Transport, limit, respond};
use crate::table::Table;
use crate::transfer::{Desk, Given, Secondary, Transfer, ZoneQuestion};
use crate::tsig::replay::{Guard, Message, Seen};
use crate::tsig::{Fault, Master, Secret, Signature, Signed, Signer, key, split, tell};
use crate::update::{Begun, Outcome, UpdateError, Updater};

/// Takes signed messages.
#[derive(Debug)]
pub(crate) struct Door {
    directory: Reader,
    table: Arc<Table>,
    updater: Updater,
    master: Master,
    guard: Mutex<Guard>,
    /// What secondaries are given.
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

/// A reply, and how it is counted.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) octets: Vec<u8>,
    pub(crate) kind: Kind,
}

/// What is to be said to a message.
#[derive(Debug)]
pub(crate) enum Taken {
    /// This.
    Reply(Reply),
    /// What comes of it, when it is on the disk.
    Waits(Box<Waiting>),
    /// A copy of the zone, in these messages.
    Transfer(Box<Transfer>),
    /// Nothing: it has come before, and the reply to the first is on its way.
    Nothing,
}

/// An update that is being made.
#[derive(Debug)]
pub(crate) struct Waiting {
    door: Arc<Door>,
    begun: Begun,
    message: Message,
    signer: Signer,
    /// The reply, if all goes well.
    good: Vec<u8>,
}

/// Whose key has signed a message.
#[derive(Debug)]
struct Holder {
    device: Device,
    duty: Duty,
}

impl Door {
    pub(crate) fn new(
        directory: Reader,
        table: Arc<Table>,
        updater: Updater,
        master: Master,
        desk: Arc<Desk>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            directory,
            table,
            updater,
            master,
            guard: Mutex::new(Guard::new(now())),
            desk,
            metrics,
            tasks: TaskTracker::new(),
        }
    }

    /// Where updates are waited for.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Takes one message, and begins what it asks. Those that are taken one after the other are begun in that order.
    pub(crate) fn take(self: &Arc<Self>, context: &Context<'_>, message: &[u8]) -> Taken {
        let now = now();
        let signed = match split(message) {
            Ok(Some(signed)) => signed,
            // RFC 2136 section 3.3: who has no right is refused, and without a name nobody has one.
            Ok(None) => return Taken::Reply(unsigned(message, Rcode::Refused)),
            Err(_) => {
                self.metrics.signed("malformed");
                return Taken::Reply(unsigned(message, Rcode::FormErr));
            }
        };
        if let Some((key, secondary)) = self.desk.key(&signed.signature.key) {
            let verified = signed.verify(&key.secret, now);
            return self.serve(context, &signed, secondary, verified, now);
        }
        match self.verify(&signed, now) {
            Ok((holder, signer, Ok(()))) => {
                self.metrics.signed("good");
                self.act(context, &signed, &holder, signer, now)
            }
            Ok((_, signer, Err(fault))) => self.refuse(&signed, &signer, fault, now),
            Err(fault) => self.refuse_unsigned(&signed, fault, now),
        }
    }

    /// Answers a secondary: it may ask for the zone, and like anybody.
    fn serve(
        &self,
        context: &Context<'_>,
        signed: &Signed<'_>,
        secondary: &Secondary,
        verified: Result<(Signer, Result<(), Fault>), Fault>,
        now: u64,
    ) -> Taken {
        let signer = match verified {
            Ok((signer, Ok(()))) => signer,
            Ok((signer, Err(fault))) => return self.refuse(signed, &signer, fault, now),
            Err(fault) => return self.refuse_unsigned(signed, fault, now),
        };
        self.metrics.signed("good");
        let asked = ZoneQuestion::read(&signed.message);
        let zone_asked = asked.and_then(|asked| {
            let mut copied = self.desk.copied_by(secondary);
            let zone = copied.find(|zone| zone.apex() == asked.name())?;
            Some((zone, asked))
        });
        let Some((zone, asked)) = zone_asked else {
            return match Header::read(&signed.message).map(|header| header.opcode) {
                Some(QUERY) => self.answer(context, signed, &signer, now),
                _ => sign(
                    unsigned(&signed.message, Rcode::Refused),
                    &signer,
                    None,
                    now,
                ),
            };
        };
        let over_udp = context.transport == Transport::Udp;
        let way = (secondary.signs, over_udp);
        match self.desk.give(zone, &asked, way, signer) {
            Given::Transfer(transfer) if over_udp => transfer.alone(now).map_or_else(
                || Taken::Reply(unsigned(&signed.message, Rcode::ServFail)),
                |octets| {
                    let kind = Kind::NoError;
                    Taken::Reply(Reply { octets, kind })
                },
            ),
            Given::Transfer(transfer) => Taken::Transfer(transfer),
            Given::Code(rcode, signer) => {
                sign(unsigned(&signed.message, rcode), &signer, None, now)
            }
        }
    }

    /// Nothing is signed to whom nothing has been proved.
    fn refuse_unsigned(&self, signed: &Signed<'_>, fault: Fault, now: u64) -> Taken {
        self.tell_of(fault);
        let rcode = match fault {
            Fault::NoMac => Rcode::FormErr,
            Fault::BadKey | Fault::BadSig | Fault::BadTrunc | Fault::BadTime => Rcode::NotAuth,
        };
        let mut reply = unsigned(&signed.message, rcode);
        tell(&mut reply.octets, &signed.signature, fault, now);
        Taken::Reply(reply)
    }

    /// Who has signed a message. What is wrong with it beyond that comes apart: its reply is signed.
    fn verify(
        &self,
        signed: &Signed<'_>,
        now: u64,
    ) -> Result<(Holder, Signer, Result<(), Fault>), Fault> {
        let (holder, secret) = self.holder(&signed.signature).ok_or(Fault::BadKey)?;
        let (signer, checked) = signed.verify(&secret, now)?;
        Ok((holder, signer, checked))
    }

    fn holder(&self, signature: &Signature<'_>) -> Option<(Holder, Secret)> {
        let labels = self.table.below_apex(&signature.key)?;
        let (name, duty) = key::holder(labels)?;
        let device = self.directory.device_by_name(&name)?;
        let token = device.key_for(duty)?;
        Some((Holder { device, duty }, self.master.secret(&token)))
    }

    fn act(
        self: &Arc<Self>,
        context: &Context<'_>,
        signed: &Signed<'_>,
        holder: &Holder,
        signer: Signer,
        now: u64,
    ) -> Taken {
        let opcode = Header::read(&signed.message).map(|header| header.opcode);
        match opcode {
            Some(QUERY) => self.answer(context, signed, &signer, now),
            Some(UPDATE) => self.update(signed, holder, signer, now),
            _ => sign(unsigned(&signed.message, Rcode::NotImp), &signer, None, now),
        }
    }

    /// A query is answered like any other, but for the signature.
    fn answer(
        &self,
        context: &Context<'_>,
        signed: &Signed<'_>,
        signer: &Signer,
        now: u64,
    ) -> Taken {
        let mut octets = vec![0; room(context, &signed.message).saturating_sub(signer.room())];
        let reply = match respond(&self.table, context, &signed.message, &mut octets) {
            Response::Reply { len, kind, .. } => {
                octets.truncate(len);
                Reply { octets, kind }
            }
            Response::Over | Response::Signed | Response::Silence(_) | Response::NoRoom => {
                unsigned(&signed.message, Rcode::ServFail)
            }
        };
        sign(reply, signer, None, now)
    }

    fn update(
        self: &Arc<Self>,
        signed: &Signed<'_>,
        holder: &Holder,
        signer: Signer,
        now: u64,
    ) -> Taken {
        let signature = &signed.signature;
        let key = (holder.device.registration, holder.duty);
        let message = Message::new(key, signature.time_signed, signature.mac);
        let admitted = self.guard().admit(message, now);
        let rcode = match admitted {
            Ok(Seen::Never) => match change(signed, holder) {
                Ok(change) => {
                    let Device {
                        registration, name, ..
                    } = &holder.device;
                    return Taken::Waits(Box::new(Waiting {
                        door: Arc::clone(self),
                        begun: self.updater.begin(*registration, name, change),
                        message,
                        signer,
                        good: reply(&signed.message, Rcode::NoError),
                    }));
                }
                Err(rcode) => {
                    self.settle(&message, rcode);
                    rcode
                }
            },
            Ok(Seen::Settled(rcode)) => {
                self.metrics.dynamic_update("repeated");
                rcode
            }
            Ok(Seen::TooMany) => {
                self.metrics.dynamic_update("too_many");
                Rcode::Refused
            }
            Ok(Seen::UnderWay) => {
                self.metrics.dynamic_update("under_way");
                return Taken::Nothing;
            }
            Err(fault) => return self.refuse(signed, &signer, fault, now),
        };
        sign(unsigned(&signed.message, rcode), &signer, None, now)
    }

    fn refuse(&self, signed: &Signed<'_>, signer: &Signer, fault: Fault, now: u64) -> Taken {
        self.tell_of(fault);
        let reply = unsigned(&signed.message, Rcode::NotAuth);
        sign(reply, signer, Some(fault), now)
    }

    fn settle(&self, message: &Message, rcode: Rcode) {
        let end = Kind::from(rcode).label();
        self.metrics.dynamic_update(end);
        if rcode != Rcode::NoError {
            tracing::info!(end, "an UPDATE was not done");
        }
        self.guard().settle(message, rcode);
    }

    /// Says why, and not who: anybody can send this.
    fn tell_of(&self, fault: Fault) {
        self.metrics.signed(fault.label());
        tracing::debug!(fault = fault.label(), "a signature was not taken");
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The reply, when the update is on the disk or has failed. If nobody waits for it, the message can be sent again in vain;
    /// so somebody should.
    pub(crate) async fn reply(self) -> Reply {
        let rcode = rcode(&self.begun.outcome().await);
        self.door.settle(&self.message, rcode);
        let mut octets = self.good;
        if let Some(code) = octets.get_mut(3) {
            *code = rcode.low_bits();
        }
        self.signer.sign(&mut octets, None, now());
        Reply {
            octets,
            kind: rcode.into(),
        }
    }
}

/// What a message asks of the device whose key has signed it.
fn change(signed: &Signed<'_>, holder: &Holder) -> Result<DynamicChange, Rcode> {
    let message = UpdateMessage::parse(&signed.message)?;
    // RFC 6891 section 6.1.3.
    if message.edns.is_some_and(|version| version != 0) {
        return Err(Rcode::BadVers);
    }
    let scope = Scope::of_key(&signed.signature.key, holder.duty).ok_or(Rcode::ServFail)?;
    scope.change(&message)
}

/// The most octets that the reply to a query may have.
fn room(context: &Context<'_>, message: &[u8]) -> usize {
    match parse(message) {
        Parsed::Query(Query { head, .. })
        | Parsed::CookieOnly(head, _)
        | Parsed::Refuse(head, _) => limit(context.transport, &head),
        Parsed::Signed | Parsed::Silence(_) => PLAIN_UDP_LIMIT,
    }
}

fn unsigned(message: &[u8], rcode: Rcode) -> Reply {
    Reply {
        octets: reply(message, rcode),
        kind: rcode.into(),
    }
}

fn sign(mut reply: Reply, signer: &Signer, fault: Option<Fault>, now: u64) -> Taken {
    signer.sign(&mut reply.octets, fault, now);
    Taken::Reply(reply)
}

/// How an update is answered.
fn rcode(result: &Result<Outcome, UpdateError>) -> Rcode {
    match result {
        Ok(Outcome::Changed(_) | Outcome::Unchanged(_)) => Rcode::NoError,
        Err(UpdateError::NotHeld) => Rcode::NotAuth,
        Err(UpdateError::NotApplied(NotApplied::Unmet(unmet))) => unmet.rcode(),
        // SERVFAIL would send the client to the next server with it, at once.
        Err(
            UpdateError::NotApplied(NotApplied::TooManyHosts(_))
            | UpdateError::NotPublic
            | UpdateError::TooOften,
        ) => Rcode::Refused,
        Err(
            UpdateError::Storage | UpdateError::Busy | UpdateError::Stalled | UpdateError::Stopped,
        ) => Rcode::ServFail,
    }
}

/// Seconds since 1970, which signatures are made for.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Instant;

    use directory::Zone;
    use zeroize::Zeroizing;

    use super::*;
    use crate::update::{Limits, Pace, Writer};

    /// A door to a table, for a zone without devices. Nothing comes through.
    pub(crate) fn door(table: &Arc<Table>, metrics: &Arc<Metrics>) -> Arc<Door> {
        let (_, directory) = directory::directory(Zone::parse("nas.test").unwrap());
        let (_writer, queue) = Writer::new(None);
        let limits = Limits {
            private_addresses: false,
            pace: Pace::new(0, Instant::now()),
        };
        let updater = Updater::new(
            directory.clone(),
            Arc::clone(table),
            Arc::clone(metrics),
            queue,
            limits,
        );
        Arc::new(Door::new(
            directory,
            Arc::clone(table),
            updater,
            Master::new(Zeroizing::new([7; Master::LEN])),
            Arc::new(Desk::new(&[], table.apex(), Arc::clone(metrics)).unwrap()),
            Arc::clone(metrics),
        ))
    }
}
