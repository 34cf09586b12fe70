//! Whose turn it is to order a certificate, where an authority takes so many orders of one domain and no more (`orders` in [[acme.ca]]):
//! all devices of the zone share that. A device asks before it orders.
//!
//! ```text
//!   device ─► ask ─► line (who waits, what counts) ─► the order is in the database ─► "now"
//! ```

mod line;
mod metrics;

use std::collections::HashMap;
use std::time::Duration;

use directory::RegistrationId;
use prometheus::Registry;
use tokio::sync::Mutex;

use self::line::Line;
pub(crate) use self::line::{Purpose, Turn};
use self::metrics::Metrics;
use crate::config::AcmeConfig;
use crate::devices::now_ms;
use crate::store::{Store, StoreError};

/// So many orders, and no more, within any such time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// At least one.
    pub(crate) orders: usize,
    pub(crate) within: Duration,
}

/// The orders of all authorities that are asked.
#[derive(Debug)]
pub(crate) struct Orders {
    /// By their directories. Those without a limit take as many as come.
    limited: HashMap<String, Option<Limited>>,
    store: Store,
    metrics: Metrics,
}

/// One that has a limit.
#[derive(Debug)]
struct Limited {
    limit: Limit,
    /// Made when it is first asked for: until then another process may add to what has been ordered.
    line: Mutex<Option<Line>>,
}

impl Orders {
    /// As [acme] says.
    ///
    /// # Errors
    /// If the metrics are registered already.
    pub(crate) fn new(
        config: Option<&AcmeConfig>,
        store: Store,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let authorities = config.iter().flat_map(|config| &config.ca);
        let limited = authorities.map(|authority| {
            let limited = authority.limit().map(|limit| Limited {
                limit,
                line: Mutex::default(),
            });
            (authority.directory.clone(), limited)
        });
        Ok(Self {
            limited: limited.collect(),
            store,
            metrics: Metrics::register(registry)?,
        })
    }

    /// Whether `device` may order of the authority now; `None` if that is not one that is asked. What it may counts at once.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn ask(
        &self,
        directory: &str,
        device: RegistrationId,
        purpose: Purpose,
    ) -> Result<Option<Turn>, StoreError> {
        let Some(limited) = self.limited.get(directory) else {
            return Ok(None);
        };
        let Some(Limited { limit, line }) = limited else {
            self.metrics.turn(Turn::Now);
            return Ok(Some(Turn::Now));
        };
        let (mut line, now) = (line.lock().await, now());
        let line = self.read(directory, *limit, &mut line, now).await?;
        let (waited, turn) = (line.waiting(), line.ask(device, purpose, now));
        if turn == Turn::Now {
            line.ordered(Some(device), now);
            if let Err(error) = self.keep(directory, *limit, Some(device), now).await {
                line.not_ordered(Some(device), now);
                return Err(error);
            }
        }
        self.metrics.turn(turn);
        self.metrics.waiting(waited, line.waiting());
        Ok(Some(turn))
    }

    /// The operator's own order, which waits for nobody, and counts.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn of_operator(&self, directory: &str) -> Result<(), StoreError> {
        let limited = self.limited.get(directory).and_then(Option::as_ref);
        if let Some(Limited { limit, line }) = limited {
            let (mut line, now) = (line.lock().await, now());
            let line = self.read(directory, *limit, &mut line, now).await?;
            line.ordered(None, now);
            self.keep(directory, *limit, None, now).await?;
        }
        Ok(())
    }

    async fn read<'l>(
        &self,
        directory: &str,
        limit: Limit,
        line: &'l mut Option<Line>,
        now: u64,
    ) -> Result<&'l mut Line, StoreError> {
        let line = match line.take() {
            Some(read) => line.insert(read),
            None => {
                let since = now.saturating_sub(limit.within.as_secs());
                let ordered = self.store.acme_orders(directory, since).await?;
                line.insert(Line::new(limit, ordered))
            }
        };
        Ok(line)
    }

    async fn keep(
        &self,
        directory: &str,
        limit: Limit,
        by: Option<RegistrationId>,
        now: u64,
    ) -> Result<(), StoreError> {
        let counts_from = now.saturating_sub(limit.within.as_secs());
        self.store
            .add_acme_order(directory, by, now, counts_from)
            .await
    }
}

/// In seconds since 1970.
fn now() -> u64 {
    u64::try_from(now_ms() / 1000).unwrap_or(0)
}
