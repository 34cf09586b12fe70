//! A service whose answers can be checked, and the way to it through a server and an agent of our own.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::tunnel::{Service, Tunnel};
use super::{Carrier, Ends, READY, Watched, WorldError};
use crate::part::up::Scarce;
use crate::part::{Part, body_origin};
use crate::process::{Child, ProcessId};

/// The device, and its whole name in the zone of a server started here.
const DEVICE: &str = "mynas";
pub(crate) const HOST: &str = "mynas.nas.localhost";

/// The service. Its process ends before the folder does.
#[derive(Debug)]
pub(crate) struct BodyOrigin {
    pub(crate) ready: body_origin::Ready,
    process: Child,
    _folder: TempDir,
}

impl BodyOrigin {
    /// At the far end.
    pub(crate) async fn start(ends: &Ends) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let order = body_origin::Order {
            listen: ends.far.any_port(),
            host: HOST.to_owned(),
        };
        let mut process =
            Child::start(ends.far.namespace, Part::BodyOrigin, &order, folder.path())?;
        let ready = process.until_said(READY, |_: &body_origin::Ready| true);
        Ok(Self {
            ready: ready.await?,
            process,
            _folder: folder,
        })
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.process.id()
    }
}

/// The way to it. Nothing of it leaves the tunnel.
#[derive(Debug)]
pub(crate) struct BodyWay {
    tunnel: Tunnel,
    _folder: TempDir,
}

impl BodyWay {
    pub(crate) async fn open(ends: &Ends, origin: &BodyOrigin) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let service = Service {
            origin: format!("tls://{}", origin.ready.tls),
            http3: Some(origin.ready.http3),
            file: None,
            public: None,
        };
        let (path, carrier) = (folder.path(), Carrier::QuicOnly);
        let tunnel = Tunnel::start(path, carrier, DEVICE, service, ends, Scarce::default());
        Ok(Self {
            tunnel: tunnel.await?,
            _folder: folder,
        })
    }

    /// Where visitors arrive.
    pub(crate) fn front(&self) -> SocketAddr {
        self.tunnel.server.ready.front
    }

    pub(crate) fn watched(&self) -> Watched {
        self.tunnel.watched()
    }
}
