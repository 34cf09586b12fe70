//! Where names are to lead, as the operator says.

use directory::DeviceName;

use super::message::Answer;
use crate::api::Cloud;
use crate::steering::{Mode, Wish};

/// Has the name of a device lead one way or another from now on.
pub(super) async fn steer(cloud: &Cloud, name: &str, mode: Mode) -> Answer {
    let Some(steering) = &cloud.steering else {
        let sentence = "this server does not answer for the zone: it has no [ddns]";
        return Answer::Refused(sentence.to_owned());
    };
    let directory = cloud.devices.directory();
    let name = match DeviceName::parse(name) {
        Ok(name) => name,
        Err(error) => return Answer::Refused(error.to_string()),
    };
    let Some(registration) = directory.registration_by_name(&name) else {
        return Answer::Refused(format!("there is no device named {name}"));
    };
    let wished = steering.wish(&name, registration, |before| Wish { mode, ..before });
    match wished.await {
        Ok(()) => Answer::Steered(steering.state(registration)),
        Err(error) => Answer::Refused(error.to_string()),
    }
}
