//! The keys of a signed zone: a KSK, which signs the set of keys, and a ZSK, which signs the rest, each with moments in its metadata that
//! say from when to when it does what.
//!
//! ```text
//!  key.rs        one key: its records, its signatures
//!  timing.rs     its moments, and how long a roll waits for caches
//!  ring.rs       all keys, and what is in force at a moment
//!  roll.rs       what begins a roll, and ends one
//!  folder.rs     the same on the disk: file.rs for each, index.rs for their moments
//!  handle.rs     the same in a running server: told when something changes, by the clock or by the operator
//!  elsewhere.rs  a KSK that is not on the server: request.rs, what it is asked to sign; premade.rs, what it has signed
//!  status.rs     how it stands, in words
//! ```

mod elsewhere;
mod file;
mod folder;
mod handle;
mod index;
mod key;
mod premade;
mod request;
mod ring;
mod roll;
mod status;
mod timing;

pub use elsewhere::{ImportError, Plan};
pub use file::{FolderError, private_key, public_key};
pub use handle::{ChangeError, Keys};
pub use key::{Key, KeyError, PrivateText, Role, SignError};
pub use premade::{Period, PeriodError, Premade, SignedPeriod};
pub use request::{MOST_DAYS, Request, RequestError, Response};
pub use ring::{InForce, Keyring, RingError};
pub use roll::RollError;
pub use status::{DelegatedKey, Delegation, KeyStatus, Status};
pub use timing::{DNSKEY_TTL, Leads, Timing, date};
