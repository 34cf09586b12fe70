//! What keeps copies of the zone at secondaries, if there are any.

use std::sync::Arc;

use super::StartError;
use super::parts::Parts;
use super::signing::Signing;
use crate::config::Config;
use crate::dnssec::DenialKind;
use crate::metrics::Metrics;
use crate::table::Table;
use crate::transfer::{Desk, Publisher, Rotation, notify};

/// The copies, before anybody makes them.
pub(super) struct Copies {
    /// Where secondaries ask; without any, it knows nobody.
    pub(super) desk: Arc<Desk>,
    publisher: Option<Publisher>,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
}

impl Copies {
    /// Reads the keys of the secondaries.
    pub(super) fn begin(
        config: &Config,
        signing: Option<&Signing>,
        table: &Arc<Table>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let denial = config.dnssec.as_ref().map(|dnssec| dnssec.denial);
        if denial == Some(DenialKind::Compact)
            && let Some(secondary) = config.secondary.iter().find(|secondary| !secondary.signs)
        {
            return Err(StartError::NoSignedCopy(secondary.address));
        }
        let desk = Arc::new(Desk::new(
            &config.secondary,
            table.apex(),
            Arc::clone(metrics),
        )?);
        let signer = signing.filter(|_| denial == Some(DenialKind::Nsec3));
        let publisher = Publisher {
            desk: Arc::clone(&desk),
            table: Arc::clone(table),
            signer: signer.map(|signing| Arc::clone(&signing.signer)),
        };
        Ok(Self {
            desk,
            publisher: (!config.secondary.is_empty()).then_some(publisher),
            table: Arc::clone(table),
            metrics: Arc::clone(metrics),
        })
    }

    /// Begins to make versions, to tell of them, and to look who has them.
    pub(super) fn keep(self, parts: &mut Parts) -> Result<Option<Rotation>, StartError> {
        let Some(publisher) = self.publisher else {
            return Ok(None);
        };
        let stopping = parts.stopping();
        parts.thread("ddns-copy", move || {
            publisher.run(&stopping);
            Ok(())
        })?;
        for (key, secondary) in self.desk.secondaries() {
            for zone in self.desk.copied_by(secondary) {
                parts.task(notify(
                    secondary.address,
                    key.clone(),
                    zone.apex().into(),
                    zone.serial(),
                    Arc::clone(&self.metrics),
                    parts.stop.clone(),
                ));
            }
        }
        let rotation = Rotation::new(self.desk);
        let following = rotation.clone();
        parts.task(following.follow(self.table.apex().into(), parts.stop.clone()));
        Ok(Some(rotation))
    }
}
