//! Everything that is bytes and nothing that is a socket: the tunnel's protocol, and the readers of what strangers send.
//!
//! # The tunnel on one screen
//!
//! An agent brings its tunnel to the relay over QUIC, or over TLS on the front's TCP port where UDP is blocked. Both are
//! TLS 1.3 with [`ALPN_TUNNEL`]; the agent shows a self-signed certificate whose Ed25519 key is its identity, the relay a
//! certificate for `relay.<zone>`. One control stream carries [`Frame`]s behind a two-octet length:
//!
//! ```text
//!   agent                                     relay
//!     │── Hello { version, features, instance } ─►│  within 5 s
//!     │◄─ Welcome { version, features, seen as } ─│  or a close code from the table in `close`
//!     │── Ping { sequence } ────────────────────►│  every 5 s or so, 9 where nobody would miss it; between, QUIC's own
//!     │◄─ Pong { sequence } ─────────────────────│
//!     │◄─ Ping … ── Pong ───────────────────────►│  when a visitor waits and nothing is heard
//!     │◄─ Dial { ticket } ───────────────────────│  tls carrier only: bring a connection for a visitor
//!     │── WantIds ─────────────────────────────►│  where the agent speaks HTTP/3 itself
//!     │◄─ Ids { ids } ───────────────────────────│
//!     │◄─ Limits { bytes_per_second, visitors } ─│  when the device has limits, and when they change
//!     │── Publish { ports } ────────────────────►│  which public ports it has services for, and when that changes
//!     │◄─ Published { each } ────────────────────│  what has become of each, and when that changes
//!     │◄─ Drain { reconnect_after } ─────────────│  leave when your visitors have left
//!     │◄─ Close { code } ────────────────────────│  TLS only; QUIC has its own close
//! ```
//!
//! Each visitor crosses on a carrier of its own. It begins, from the relay, with one [`Frame::Open`], and then holds, in
//! both directions, the visitor's bytes in [`segment`]s, each direction ending on its own:
//!
//! ```text
//!   quic   a bidirectional stream of the tunnel, opened by the relay:  Open │ Data… End
//!   tls    a connection with ALPN_CARRIER, dialled by the agent:       Carry { ticket } ►   ◄ Open │ Data… End
//! ```
//!
//! Bulk leaves the stream: the relay asks for a raw TCP connection, and a direction goes on there from one exact octet on,
//! without a header or a second encryption ([`raw`]):
//!
//! ```text
//!   relay                                          agent
//!     │── Dial { ticket } ────────────────────────►│  on the visitor's stream
//!     │◄═ header: ticket, seal ════════════════════│  on a new TCP connection to the front
//!     │── Switch ─────────────────────────────────►│  if what the agent sends is to move
//!     │◄─ Moved { at } ────────────────────────────│
//!     │◄═ bytes… ══════════════════════════════════│
//!     │◄─ End { total } ───────────────────────────│
//! ```
//!
//! A visitor's UDP datagrams ([`flow`]) cross only over QUIC, beside the stream that says who comes. Of one who comes back from elsewhere
//! by an id of these ([`roaming`]) Open has no name, and the agent says there, with one octet, when it hears what is said to it:
//!
//! ```text
//!   stream     Open { datagrams } ► │ the visitor's first datagrams ►      it ends where the flow ends
//!   DATAGRAM   the stream's number │ one datagram                          the rest, both ways; what finds no room is lost
//! ```
//!
//! Who has come to a public port of a device crosses in the same way, and its Open says which port: bytes as they came, or datagrams. It never
//! leaves the tunnel for a raw connection, where nothing would be encrypted.
//!
//! A direction that ends in order says so in an End; anything else is passed on as a reset, so that a cut transfer never
//! looks complete.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)] // strangers write what is read here

pub mod client_hello;
pub mod close;
pub mod connect;
pub mod connection_id;
mod cursor;
pub mod datagram;
pub mod flow;
pub mod frame;
pub mod hello;
pub mod http3;
pub mod initial;
pub mod ports;
pub mod probe;
pub mod proxy_v2;
pub mod raw;
pub mod record;
pub mod roaming;
pub mod segment;
pub mod signed_request;
pub mod socks;

pub use close::{CloseCode, ResetCode, Retry};
pub use frame::{Frame, FrameError};
pub use hello::{Features, Hello, InstanceId};

/// The control tunnel's protocol, over QUIC and over TLS.
pub const ALPN_TUNNEL: &[u8] = b"causeway-tunnel/1";

/// One visitor's bytes over a TLS connection of their own.
pub const ALPN_CARRIER: &[u8] = b"causeway-carrier/1";

/// An app's bytes to one service of a device: see [`connect`].
pub const ALPN_CONNECT: &[u8] = b"causeway-connect/1";

/// Whoever comes straight to a device, without a relay, and wants to know whether it is that device: TLS 1.3 with the device's own name,
/// answered with the self-signed certificate of its identity. Nothing is said inside, and it closes. Only the device's own listener
/// answers it: through a tunnel it is refused as any unknown protocol is, or a relay's address would pass for the device's.
pub const ALPN_REACH: &[u8] = b"causeway-reach/1";
