//! What a signed zone says: asked for once, so that its signatures are made; and whether they are good.

mod verify;
mod warm;

pub(super) use verify::Verifier;
pub(super) use warm::{Those, warm};
