//! A name with a service behind it.

use std::net::SocketAddr;
use std::path::PathBuf;

use relay::tls::Roots;
use tempfile::TempDir;

use super::server::{register, start_origin};
use super::tunnel::Tunnel;
use super::{Carrier, Ends, Place, READY, Watched, WorldError, read};
use crate::part::up::Scarce;
use crate::part::{Part, agents, origin};
use crate::process::{Child, Namespace, ProcessId};
use crate::visitor::Door;

/// Its name in a server of our own.
const NAME: &str = "mynas";

/// A device that can be visited.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) door: Door,
    /// What to ask for when it should be little.
    pub(crate) small: String,
    /// What to ask for when it should be much.
    pub(crate) bulk: String,
    /// Where it takes uploads.
    pub(crate) upload: Option<String>,
    pub(crate) watched: Watched,
    /// The zone that it and the operator's own hosts are in.
    pub(crate) zone: String,
    /// Where the server tells its own counters, if that is known.
    pub(crate) admin: Option<SocketAddr>,
    started: Option<Started>,
}

/// Everything behind a device's name. The processes end before the folder does.
#[derive(Debug)]
struct Started {
    tunnel: Tunnel,
    _origin: Child,
    service: String,
    folder: TempDir,
}

/// Another device at the same server. Its agent ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sibling {
    pub(crate) door: Door,
    /// The state directory of its agent.
    pub(crate) state: PathBuf,
    agent: Child,
}

impl Sibling {
    /// The process of its agent.
    pub(crate) fn id(&self) -> ProcessId {
        self.agent.id()
    }
}

impl Device {
    /// The device given for `scenario`, or one of our own.
    pub(crate) async fn reach(place: &Place, scenario: &'static str) -> Result<Self, WorldError> {
        let (Some(front), Some(name)) = (place.front, &place.name) else {
            if place.is_given() {
                let options = "--front ADDR and --name HOST";
                return Err(WorldError::NotGiven { scenario, options });
            }
            let ends = Ends::together();
            return Self::start(place.carrier, &ends, Scarce::default()).await;
        };
        let roots = match &place.ca {
            Some(file) => Roots::from_pem(&read(file)?)?,
            None => Roots::of_system()?,
        };
        let bad_name = || WorldError::BadName(name.clone());
        let (_, zone) = name.split_once('.').ok_or_else(bad_name)?;
        Ok(Self {
            door: Door::new(front, name, roots).ok_or_else(bad_name)?,
            small: place.path.clone(),
            bulk: place.path.clone(),
            upload: place.upload_path.clone(),
            watched: place.watched(),
            zone: zone.to_owned(),
            admin: place.admin,
            started: None,
        })
    }

    /// One that somebody else keeps, with our origin behind it.
    pub(super) fn behind(door: Door, zone: String, watched: Watched) -> Self {
        Self {
            door,
            small: "/".to_owned(),
            bulk: origin::BULK.to_owned(),
            upload: None,
            watched,
            zone,
            admin: None,
            started: None,
        }
    }

    /// One of our own whose server has little of what is `scarce`.
    pub(crate) async fn start(
        carrier: Carrier,
        ends: &Ends,
        scarce: Scarce,
    ) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let (origin, service) = start_origin(Namespace::Here, folder.path()).await?;
        let service = format!("http://{service}");
        let path = folder.path();
        let tunnel =
            Tunnel::start(path, carrier, NAME, service.clone().into(), ends, scarce).await?;
        let ready = &tunnel.server.ready;
        Ok(Self {
            door: door(&tunnel, NAME)?,
            small: "/".to_owned(),
            bulk: origin::BULK.to_owned(),
            upload: Some(origin::BULK.to_owned()),
            watched: tunnel.watched(),
            zone: ready.zone.clone(),
            admin: Some(ready.admin),
            started: Some(Started {
                tunnel,
                _origin: origin,
                service,
                folder,
            }),
        })
    }

    /// Another one beside it, with a service of the same kind; `None` where the server is not ours. Its agent stays attached, or leaves
    /// once it has been.
    pub(crate) async fn sibling(
        &self,
        name: &str,
        stays: bool,
    ) -> Result<Option<Sibling>, WorldError> {
        let Some(started) = &self.started else {
            return Ok(None);
        };
        let server = &started.tunnel.server;
        let state = started.folder.path().join(name);
        let order = agents::Order {
            front: server.ready.front,
            several_relays: false,
            trust_root: started.tunnel.trust_root.clone(),
            origin: started.service.clone(),
            http3: None,
            services: None,
            answer_seconds: None,
            devices: vec![agents::Device {
                state: state.clone(),
                invitation: Some(register(&server.ready.state, name).await?),
                one_tunnel: false,
            }],
            at_once: 1,
            stay: stays,
        };
        // Not where the first one's log is.
        let logs = started.folder.path().join(format!("{name}-log"));
        std::fs::create_dir_all(&logs)?;
        let mut agent = Child::start(Namespace::Here, Part::Agents, &order, &logs)?;
        let there = |status: &agents::Status| status.attached() + status.left == 1;
        agent.until_said(READY, there).await?;
        Ok(Some(Sibling {
            door: door(&started.tunnel, name)?,
            state,
            agent,
        }))
    }
}

fn door(tunnel: &Tunnel, name: &str) -> Result<Door, WorldError> {
    let ready = &tunnel.server.ready;
    let host = format!("{name}.{}", ready.zone);
    let roots = Roots::from_pem(&tunnel.trust_root)?;
    Door::new(ready.front, &host, roots).ok_or(WorldError::BadName(host))
}
