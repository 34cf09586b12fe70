//! The zone as a file, for the operator.

use super::message::Answer;
use crate::api::Cloud;

/// The page that begins behind a device, or the first.
pub(super) async fn page(cloud: &Cloud, behind: Option<String>) -> Answer {
    let Some(export) = cloud.export.clone() else {
        let sentence = "this server does not answer for the zone: it has no [ddns]";
        return Answer::Refused(sentence.to_owned());
    };
    // It takes a while, and waits for nobody.
    let page = tokio::task::spawn_blocking(move || export.page(behind.as_deref())).await;
    page.map_or_else(
        |_| Answer::Refused("a bug of the server ended this; its log says more".to_owned()),
        Answer::ZonePage,
    )
}
