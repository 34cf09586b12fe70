//! The zone as a file, for the operator.

use ddns::transfer::import::DeviceInFile;

use super::message::Answer;
use crate::api::Cloud;

const NOT_HERE: &str = "this server does not answer for the zone: it has no [ddns]";

/// The page that begins behind a device, or the first.
pub(super) async fn page(cloud: &Cloud, behind: Option<String>) -> Answer {
    let Some(export) = cloud.export.clone() else {
        return Answer::Refused(NOT_HERE.to_owned());
    };
    // It takes a while, and waits for nobody.
    let page = tokio::task::spawn_blocking(move || export.page(behind.as_deref())).await;
    page.map_or_else(
        |_| Answer::Refused("a bug of the server ended this; its log says more".to_owned()),
        Answer::ZonePage,
    )
}

/// Gives devices the addresses that a file of `zone` has for them.
pub(super) async fn take(
    cloud: &Cloud,
    zone: &str,
    devices: &[DeviceInFile],
    is_trial: bool,
) -> Answer {
    let Some(import) = &cloud.import else {
        return Answer::Refused(NOT_HERE.to_owned());
    };
    let own = import.zone().to_string();
    if own != zone {
        return Answer::Refused(format!(
            "the file is of the zone {zone}, and this server's is {own}"
        ));
    }
    Answer::ZoneTaken(import.take(devices, is_trial).await)
}
