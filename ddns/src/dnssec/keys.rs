//! The keys of a signed zone: a KSK, which signs the set of keys, and a ZSK, which signs the rest, each with moments in its metadata that
//! say from when to when it does what.
//!
//! ```text
//!  key.rs        one key: its records, its signatures
//!  timing.rs     its moments, and how long a roll waits for caches
//!  ring.rs       all keys: what is in force at a moment, and what begins a roll
//!  folder.rs     the same on the disk
//!  handle.rs     the same in a running server: told when something changes, by the clock or by the operator
//!  elsewhere.rs  a KSK that is not on the server: what it is asked to sign, and what it has signed (premade.rs)
//!  status.rs     how it stands, in words
//! ```

mod elsewhere;
mod folder;
mod handle;
mod key;
mod premade;
mod ring;
mod status;
mod timing;

pub use elsewhere::{ImportError, MOST_DAYS, Plan, Request, RequestError, Response};
pub use folder::{FolderError, private_key, public_key};
pub use handle::{ChangeError, Keys};
pub use key::{Key, KeyError, PrivateText, Role, SignError};
pub use premade::{Period, PeriodError, Premade, SignedPeriod};
pub use ring::{InForce, Keyring, RingError, RollError};
pub use status::{DelegatedKey, Delegation, KeyStatus, Status};
pub use timing::{DNSKEY_TTL, Leads, Timing, date};
