//! A zone with names in it.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::ends::End;
use super::server::{Server, register_all};
use super::{Place, WorldError};
use crate::part::up::Scarce;
use crate::process::ProcessId;
use crate::progress::Progress;

/// A zone that is served, and names in it.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) server: SocketAddr,
    pub(crate) zone: String,
    /// They exist.
    pub(crate) hosts: Vec<String>,
    pub(crate) process: Option<ProcessId>,
    _started: Option<(Server, TempDir)>,
}

impl Names {
    /// The zone given, with the names that are in every zone, or one of our own with so many devices.
    pub(crate) async fn reach(
        place: &Place,
        scenario: &'static str,
        devices: usize,
        progress: &Progress,
    ) -> Result<Self, WorldError> {
        if let (Some(server), Some(zone)) = (place.dns, &place.zone) {
            let zone = zone.trim_end_matches('.').to_owned();
            return Ok(Self {
                server,
                hosts: ["cloud", "relay"]
                    .map(|host| format!("{host}.{zone}"))
                    .into(),
                zone,
                process: place.watched().relay,
                _started: None,
            });
        }
        if place.is_given() {
            let options = "--dns ADDR and --zone NAME";
            return Err(WorldError::NotGiven { scenario, options });
        }
        let folder = tempfile::tempdir()?;
        let server = Server::start(
            folder.path(),
            place.carrier,
            End::HERE.any_port(),
            Scarce::default(),
        )
        .await?;
        let names: Vec<_> = (0..devices).map(|number| format!("nas-{number}")).collect();
        register_all(&server.ready.state, &names, progress).await?;
        let zone = &server.ready.zone;
        Ok(Self {
            server: server.ready.dns,
            hosts: names.iter().map(|name| format!("{name}.{zone}")).collect(),
            zone: zone.clone(),
            process: Some(server.child.id()),
            _started: Some((server, folder)),
        })
    }
}
