//! Beside an app: the services of a device, reached by name through its relay. TLS ends on the device.
//!
//! ```text
//!   app ──► causeway-connect ══ TLS for connect.<device>, ALPN causeway-connect/1 ══► relay ──► agent ──► service
//! ```
//!
//! | where | what |
//! |---|---|
//! | `device` | who is reached, and how: every address of its name, one after another and then beside each other |
//! | `pass` | one service's bytes, once the agent has granted it |
//! | `forward` | a port of this machine, a connection to the service for each that comes to it |
//! | `socks` | the same for all services of a device, by SOCKS 5 |
//! | `stdio` | standard input and output, for `ssh` |

#![forbid(unsafe_code)]

mod device;
mod error;
mod forward;
mod pass;
mod socks;
mod stdio;

pub use device::{Device, Trust};
pub use error::ConnectError;
pub use forward::{Door, forward};
pub use pass::Connection;
pub use socks::serve as serve_socks;
pub use stdio::join as join_stdio;
