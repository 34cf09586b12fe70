//! keys
mod folder;
mod key;
mod ring;
mod timing;
pub use folder::FolderError;
pub use key::{Key, KeyError, PrivateText, Role, SignError};
pub use ring::{InForce, Keyring, RingError, RollError};
pub use timing::{DNSKEY_TTL, Leads, Timing, date};
