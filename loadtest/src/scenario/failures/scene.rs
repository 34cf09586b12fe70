//! What a failure of one device begins with: that device, and a bystander with another one at the same relay, who has had its share.

use super::Stage;
use super::beside::Beside;
use crate::scenario::ScenarioError;
use crate::world::{Neighbour, Neighbours, Side, Wish};

/// The name of the device that it happens to.
const VICTIM: &str = "mynas";

/// See the module. What is first ends first.
pub(super) struct Scene {
    pub(super) beside: Beside,
    pub(super) victim: Neighbour,
    _other: Neighbour,
    pub(super) neighbours: Neighbours,
}

impl Scene {
    /// With a victim at the far end of the link, where there is one.
    pub(super) async fn with_a_far_victim(stage: &Stage<'_>) -> Result<Self, ScenarioError> {
        let neighbours = Neighbours::apart(stage.plan.carrier, &stage.ends).await?;
        let victim = Wish {
            side: Side::Far,
            ..Self::victim(&neighbours)
        };
        Self::set(stage, neighbours, victim).await
    }

    /// A victim like any other device.
    pub(super) fn victim(neighbours: &Neighbours) -> Wish {
        Wish::plain(VICTIM, Some(neighbours.front()))
    }

    pub(super) async fn set(
        stage: &Stage<'_>,
        neighbours: Neighbours,
        victim: Wish,
    ) -> Result<Self, ScenarioError> {
        let other = Wish::plain("bystander", Some(neighbours.front()));
        let other = neighbours.settle(other, &stage.ends).await?;
        Ok(Self {
            victim: neighbours.settle(victim, &stage.ends).await?,
            beside: Beside::start(&other.device, stage.length()).await?,
            _other: other,
            neighbours,
        })
    }
}
