//! The devices of one shard: packed, all of one shape side by side, without holes.

use super::shape::Shape;
use crate::device::{Device, RegistrationId};

/// Where a device is: which slab, and which place in it. Good until something is taken from that slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(u32);

impl Handle {
    const PLACE_BITS: u32 = 24;

    /// Not a slab of records but the devices that are kept whole. There are 64 shapes at most.
    const WHOLE: usize = 0xFF;

    fn new(slab: usize, place: usize) -> Self {
        // A number has 32 bits: there cannot be more records than 256 shards of such slabs have places.
        assert!(place >> Self::PLACE_BITS == 0, "a slab of records is full");
        Self((slab << Self::PLACE_BITS | place) as u32)
    }

    fn slab(self) -> usize {
        (self.0 >> Self::PLACE_BITS) as usize
    }

    fn place(self) -> usize {
        (self.0 & ((1 << Self::PLACE_BITS) - 1)) as usize
    }
}

/// The devices of one shard.
#[derive(Default)]
pub(super) struct Records {
    slabs: Vec<Slab>,
    whole: Vec<Device>,
}

impl Records {
    pub(super) fn device(&self, handle: Handle) -> Device {
        match self.slabs.get(handle.slab()) {
            Some(slab) => slab.shape.device(slab.record(handle.place())),
            None => self.whole[handle.place()].clone(),
        }
    }

    pub(super) fn name(&self, handle: Handle) -> &[u8] {
        match self.slabs.get(handle.slab()) {
            Some(slab) => slab.shape.name(slab.record(handle.place())),
            None => self.whole[handle.place()].name.as_str().as_bytes(),
        }
    }

    pub(super) fn registration(&self, handle: Handle) -> RegistrationId {
        match self.slabs.get(handle.slab()) {
            Some(slab) => slab.shape.registration(slab.record(handle.place())),
            None => self.whole[handle.place()].registration,
        }
    }

    pub(super) fn push(&mut self, device: &Device) -> Handle {
        let Some((shape, registration)) = Shape::of(device) else {
            self.whole.push(device.clone());
            return Handle::new(Handle::WHOLE, self.whole.len() - 1);
        };
        let found = self.slabs.iter().position(|slab| slab.shape == shape);
        let slab = found.unwrap_or_else(|| {
            self.slabs.push(Slab::new(shape));
            self.slabs.len() - 1
        });
        let place = self.slabs[slab].push(registration, device);
        Handle::new(slab, place)
    }

    /// Takes the device at `handle` out, and moves the last one of its slab into the hole; where that was, if anywhere
    /// else.
    pub(super) fn swap_remove(&mut self, handle: Handle) -> Option<Handle> {
        let last = match self.slabs.get_mut(handle.slab()) {
            Some(slab) => slab.swap_remove(handle.place()),
            None => {
                self.whole.swap_remove(handle.place());
                self.whole.len()
            }
        };
        (last != handle.place()).then(|| Handle::new(handle.slab(), last))
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(Device)) {
        for slab in &self.slabs {
            (0..slab.len).for_each(|place| f(slab.shape.device(slab.record(place))));
        }
        for device in &self.whole {
            f(device.clone());
        }
    }
}

/// All records of one shape, in chunks: growing copies nothing and leaves little room unused.
struct Slab {
    shape: Shape,
    len: usize,
    chunks: Vec<Vec<u8>>,
}

impl Slab {
    /// Records in a chunk.
    const CHUNK: usize = 64;

    fn new(shape: Shape) -> Self {
        Self {
            shape,
            len: 0,
            chunks: Vec::new(),
        }
    }

    fn record(&self, place: usize) -> &[u8] {
        let octets = self.shape.octets();
        &self.chunks[place / Self::CHUNK][place % Self::CHUNK * octets..][..octets]
    }

    /// Adds a record; its place.
    fn push(&mut self, registration: u32, device: &Device) -> usize {
        if self.len.is_multiple_of(Self::CHUNK) {
            let chunk = Vec::with_capacity(Self::CHUNK * self.shape.octets());
            self.chunks.push(chunk);
        }
        if let Some(chunk) = self.chunks.last_mut() {
            self.shape.write(registration, device, chunk);
        }
        self.len += 1;
        self.len - 1
    }

    /// Moves the last record to `place` and ends before it; where it was.
    fn swap_remove(&mut self, place: usize) -> usize {
        let octets = self.shape.octets();
        let Some(mut chunk) = self.chunks.pop() else {
            return place;
        };
        let last = chunk.split_off(chunk.len() - octets);
        if !chunk.is_empty() {
            self.chunks.push(chunk);
        }
        self.len -= 1;
        if place < self.len {
            self.chunks[place / Self::CHUNK][place % Self::CHUNK * octets..][..octets]
                .copy_from_slice(&last);
        }
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::DeviceName;
    use crate::token::TokenHash;

    fn device(number: usize) -> Device {
        Device {
            registration: RegistrationId(number as u64),
            name: DeviceName::parse(&format!("d{number}")).unwrap(),
            identity: None,
            ddns_key: Some(TokenHash::of(&number.to_string())),
            challenge_key: None,
        }
    }

    #[test]
    fn the_last_record_moves_into_each_hole_until_nothing_is_left() {
        let mut records = Records::default();
        let mut known: Vec<_> = (0..3 * Slab::CHUNK + 1)
            .map(|number| (records.push(&device(number)), device(number)))
            .collect();
        while !known.is_empty() {
            let (hole, _) = known.swap_remove(known.len() * 5 / 7);
            if let Some(moved_from) = records.swap_remove(hole) {
                let moved = known.iter_mut().find(|(handle, _)| *handle == moved_from);
                moved.unwrap().0 = hole;
            }
            for (handle, device) in &known {
                assert_eq!(records.device(*handle), *device);
            }
            let mut visited = 0;
            records.for_each(|_| visited += 1);
            assert_eq!(visited, known.len());
        }
        assert!(records.slabs[0].chunks.is_empty(), "memory is given back");
    }
}
