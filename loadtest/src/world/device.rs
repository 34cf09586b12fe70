//! A name with a service behind it.

use relay::tls::Roots;
use tempfile::TempDir;

use super::server::start_origin;
use super::tunnel::Tunnel;
use super::{Carrier, Ends, Place, Watched, WorldError, read};
use crate::part::origin;
use crate::process::Child;
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
    _started: Option<Started>,
}

/// Everything behind a device's name. The processes end before the folder does.
#[derive(Debug)]
struct Started {
    _tunnel: Tunnel,
    _origin: Child,
    _folder: TempDir,
}

impl Device {
    /// The device given for `scenario`, or one of our own.
    pub(crate) async fn reach(place: &Place, scenario: &'static str) -> Result<Self, WorldError> {
        let (Some(front), Some(name)) = (place.front, &place.name) else {
            if place.is_given() {
                let options = "--front ADDR and --name HOST";
                return Err(WorldError::NotGiven { scenario, options });
            }
            return Self::start(place.carrier).await;
        };
        let roots = match &place.ca {
            Some(file) => Roots::from_pem(&read(file)?)?,
            None => Roots::of_system()?,
        };
        Ok(Self {
            door: Door::new(front, name, roots).ok_or(WorldError::BadName(name.clone()))?,
            small: place.path.clone(),
            bulk: place.path.clone(),
            upload: place.upload_path.clone(),
            watched: place.watched(),
            _started: None,
        })
    }

    /// One that somebody else keeps, with our origin behind it.
    pub(super) fn behind(door: Door, watched: Watched) -> Self {
        Self {
            door,
            small: "/".to_owned(),
            bulk: origin::BULK.to_owned(),
            upload: None,
            watched,
            _started: None,
        }
    }

    async fn start(carrier: Carrier) -> Result<Self, WorldError> {
        let folder = tempfile::tempdir()?;
        let (origin, service) = start_origin(folder.path()).await?;
        let tunnel =
            Tunnel::start(folder.path(), carrier, NAME, service, &Ends::together()).await?;
        let host = format!("{NAME}.{}", tunnel.server.ready.zone);
        let roots = Roots::from_pem(&tunnel.trust_root)?;
        let front = tunnel.server.ready.front;
        Ok(Self {
            door: Door::new(front, &host, roots).ok_or(WorldError::BadName(host))?,
            small: "/".to_owned(),
            bulk: origin::BULK.to_owned(),
            upload: Some(origin::BULK.to_owned()),
            watched: tunnel.watched(),
            _started: Some(Started {
                _tunnel: tunnel,
                _origin: origin,
                _folder: folder,
            }),
        })
    }
}
