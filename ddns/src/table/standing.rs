//! Which of the names that there are stands behind a name that is asked for (RFC 4592 section 3.3).

use std::sync::Arc;

use crate::lan::LanAddresses;
use crate::rrset::Rrset;
use crate::why::WHY_LABEL;

/// Where a name stands. Octets are counted from the end of what stands before the zone's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is one of the names that there are, be it without any record.
    Here,
    /// It is not, and a wildcard answers for it.
    Wildcard {
        /// The octets of the closest encloser, right under which the wildcard stands.
        encloser: usize,
    },
    /// There is no such name.
    Nowhere {
        /// The octets of the closest encloser.
        encloser: usize,
    },
}

/// What answers for a name at or below a device's.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    /// The device, or its wildcard.
    Device,
    /// Its challenges.
    Challenges(Arc<Rrset>),
    /// Where it is in its own network.
    Lan(LanAddresses),
    /// Why its name leads where it does.
    Why,
    /// A name without records, because there are names below it.
    Empty,
    /// There is no such name.
    Nobody,
}

/// Where a name at or below a device's stands; octets are those in front of the device's own label.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) owner: Owner,
    pub(super) place: Place,
}

impl Standing {
    /// The labels `front`, of which the last `device` octets have all that the device has, and a wildcard below them.
    pub(super) fn below_device(front: &[u8], device: usize) -> Self {
        let below = front.len().saturating_sub(device);
        let below = front.get(..below).unwrap_or_default();
        let of_device = |place| Self {
            owner: Owner::Device,
            place,
        };
        if below.is_empty() || below == WILDCARD {
            return of_device(Place::Here);
        }
        if below.ends_with(WILDCARD) && ends_with_label(below, WILDCARD) {
            return Self {
                owner: Owner::Nobody,
                place: Place::Nowhere {
                    encloser: device.saturating_add(WILDCARD.len()),
                },
            };
        }
        of_device(Place::Wildcard { encloser: device })
    }

    /// The labels `front`, of which the last is that of why; no other name stands below it.
    pub(super) fn at_or_below_why(front: &[u8]) -> Self {
        match front == WHY_LABEL {
            true => Self {
                owner: Owner::Why,
                place: Place::Here,
            },
            false => Self {
                owner: Owner::Nobody,
                place: Place::Nowhere {
                    encloser: WHY_LABEL.len(),
                },
            },
        }
    }

    /// The place in the zone, if the device's own label and what stands behind it are so many octets.
    pub(super) fn place(&self, of_device: usize) -> Place {
        let add = |encloser: usize| encloser.saturating_add(of_device);
        match self.place {
            Place::Here => Place::Here,
            Place::Wildcard { encloser } => Place::Wildcard {
                encloser: add(encloser),
            },
            Place::Nowhere { encloser } => Place::Nowhere {
                encloser: add(encloser),
            },
        }
    }
}

/// The label of a wildcard.
pub(crate) const WILDCARD: &[u8] = b"\x01*";

/// Whether the last label is this one, and not one that only ends in its octets.
pub(super) fn ends_with_label(labels: &[u8], label: &[u8]) -> bool {
    let mut rest = labels;
    while rest.len() > label.len() {
        rest = behind_first_label(rest);
    }
    rest == label
}

/// All labels but the first.
pub(crate) fn behind_first_label(labels: &[u8]) -> &[u8] {
    labels
        .split_first()
        .and_then(|(&length, behind)| behind.get(length.into()..))
        .unwrap_or_default()
}
