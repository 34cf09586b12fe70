//! Visitors who come back from elsewhere to the connection that they have with an agent: which device the id in their packets leads to
//! ([`wire::roaming`]).

use std::iter::repeat_with;
use std::sync::Arc;

use dashmap::DashMap;
use directory::DeviceId;
use wire::connection_id::{self, ConnectionIdKey};
use wire::datagram::has_short_header;
use wire::roaming::{MOST_AT_ONCE, RoamingId, RoamingKey, Tag};

/// The devices of one relay whose agents have such ids. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Roaming(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    key: RoamingKey,
    /// That of the relay's own ids, which are shorter: none of these may look like one of them.
    own: ConnectionIdKey,
    by_tag: DashMap<Tag, DeviceId>,
}

impl Roaming {
    pub(crate) fn new(key: RoamingKey, own: ConnectionIdKey) -> Self {
        let by_tag = DashMap::new();
        Self(Arc::new(Kept { key, own, by_tag }))
    }

    fn tag(&self, device: &DeviceId) -> Tag {
        self.0.key.tag(device.as_bytes())
    }

    /// Some ids that lead to `device`, until it is [forgotten](Self::forget).
    pub(super) fn give(&self, device: DeviceId) -> Vec<RoamingId> {
        let tag = self.tag(&device);
        self.0.by_tag.insert(tag, device);
        let made = repeat_with(|| self.0.key.make(tag, rand::random()));
        made.filter(|id| !self.looks_like_ours(id))
            .take(MOST_AT_ONCE)
            .collect()
    }

    fn looks_like_ours(&self, id: &RoamingId) -> bool {
        id.first_chunk::<{ connection_id::LENGTH }>()
            .is_some_and(|id| self.0.own.owner(id).is_some())
    }

    /// No session of the device is left.
    pub(super) fn forget(&self, device: &DeviceId) {
        self.0.by_tag.remove(&self.tag(device));
    }

    /// The device that a packet is for, as far as its id says so.
    pub(super) fn device(&self, packet: &[u8]) -> Option<DeviceId> {
        if self.0.by_tag.is_empty() || !has_short_header(packet) {
            return None;
        }
        let tag = self.0.key.read(packet)?;
        self.0.by_tag.get(&tag).map(|device| *device)
    }
}
