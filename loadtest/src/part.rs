//! The parts that other processes of this program play when it starts everything itself: each reads its order as one line
//! of JSON from standard input, says on standard output how it is, a line of JSON each time, and lives until its input
//! ends.

pub(crate) mod agents;
pub(crate) mod body_origin;
pub(crate) mod datagram_origin;
pub(crate) mod empty_responder;
pub(crate) mod failing_origin;
pub(crate) mod link;
pub(crate) mod namespace;
pub(crate) mod origin;
pub(crate) mod plain_origin;
pub(crate) mod relay_apart;
pub(crate) mod splice_hop;
pub(crate) mod up;

use std::io::{self, Write as _, stdin, stdout};
use std::thread;

use clap::ValueEnum;
use relay::program::Inherited;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The server: control, relay and ddns.
    Up,
    /// A relay of that server, with a process of its own.
    RelayApart,
    /// Devices' agents, one or thousands.
    Agents,
    /// A device's service.
    Origin,
    /// A device's service that fails.
    FailingOrigin,
    /// The service behind every peer.
    PlainOrigin,
    /// A service whose answers can be checked, also over HTTP/3.
    BodyOrigin,
    /// The service behind every peer that carries datagrams.
    DatagramOrigin,
    /// One of the two hops of a peer that only splices.
    SpliceHop,
    /// A name server that looks nothing up.
    EmptyResponder,
    /// What lies between two network namespaces.
    Link,
    /// Somebody in a network namespace.
    Namespace,
}

impl Part {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::RelayApart => "relay-apart",
            Self::Agents => "agents",
            Self::Origin => "origin",
            Self::FailingOrigin => "failing-origin",
            Self::PlainOrigin => "plain-origin",
            Self::BodyOrigin => "body-origin",
            Self::DatagramOrigin => "datagram-origin",
            Self::SpliceHop => "splice-hop",
            Self::EmptyResponder => "empty-responder",
            Self::Link => "link",
            Self::Namespace => "namespace",
        }
    }

    /// How a person is told of it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Up => "the server",
            Self::RelayApart => "the relay apart",
            Self::Agents => "the agent",
            Self::Origin
            | Self::FailingOrigin
            | Self::PlainOrigin
            | Self::BodyOrigin
            | Self::DatagramOrigin => "the origin",
            Self::SpliceHop => "the splice hop",
            Self::EmptyResponder => "the empty responder",
            Self::Link => "the link",
            Self::Namespace => "the network namespace",
        }
    }

    /// Whether one thread plays it: what is the same for all peers leaves the other cores to them.
    pub(crate) fn is_single_threaded(self) -> bool {
        match self {
            Self::Up | Self::RelayApart | Self::Agents | Self::Origin => false,
            Self::FailingOrigin
            | Self::PlainOrigin
            | Self::BodyOrigin
            | Self::DatagramOrigin
            | Self::SpliceHop
            | Self::EmptyResponder
            | Self::Link
            | Self::Namespace => true,
        }
    }

    /// Plays the part, with the sockets that it has `inherited`. Returns only if something is wrong, or it was asked to end.
    pub(crate) async fn play(self, inherited: Inherited) -> anyhow::Result<()> {
        match self {
            Self::Up => up::play(order()?).await,
            Self::RelayApart => relay_apart::play(order()?, inherited).await,
            Self::Agents => agents::play(order()?).await,
            Self::Origin => origin::play(order()?).await,
            Self::FailingOrigin => failing_origin::play(order()?).await,
            Self::PlainOrigin => plain_origin::play(order()?).await,
            Self::BodyOrigin => body_origin::play(order()?).await,
            Self::DatagramOrigin => datagram_origin::play(order()?),
            Self::SpliceHop => splice_hop::play(order()?),
            Self::EmptyResponder => empty_responder::play(order()?),
            Self::Link => link::play(order()?),
            Self::Namespace => namespace::play(order()?).await,
        }
    }
}

/// Reads the order. From then on this process ends when the one that gave it does.
fn order<T: DeserializeOwned>() -> anyhow::Result<T> {
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    thread::spawn(|| {
        let _ = io::copy(&mut stdin().lock(), &mut io::sink());
        std::process::exit(0);
    });
    Ok(serde_json::from_str(&line)?)
}

/// Says how things are.
fn say(status: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(status)?;
    line.push(b'\n');
    stdout().write_all(&line)
}
