//! The parts of the server that run until they are told to stop. One that ends before is a failure, and all end with it.

use std::collections::HashMap;
use std::future::pending;

use tokio::task::{Id, JoinSet};

/// The running parts. Dropped, it ends them where they are.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    parts: JoinSet<()>,
    name_by_id: HashMap<Id, &'static str>,
}

/// A part has ended, and nobody had told it to. Why is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} has ended by itself, and everything ends with it")]
pub struct PartEnded(&'static str);

impl Supervisor {
    /// Runs `part`, which people know as `name`.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.parts.spawn(part).id();
        self.name_by_id.insert(id, name);
    }

    /// Waits until the next part has ended, in order or by a bug.
    pub(crate) async fn next_end(&mut self) -> PartEnded {
        let id = match self.parts.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return pending().await,
        };
        PartEnded(self.name_by_id.get(&id).copied().unwrap_or("a part"))
    }

    /// Waits until every part has ended; they must have been told to.
    pub(crate) async fn all_ended(mut self) {
        while self.parts.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_is_named_however_it_ends() {
        let mut parts = Supervisor::default();
        parts.run("the lasting part", pending());
        parts.run("the panicking part", async {
            panic!("a test of what a panic does")
        });
        assert_eq!(parts.next_end().await, PartEnded("the panicking part"));
        parts.run("the short part", async {});
        let ended = parts.next_end().await.to_string();
        assert!(ended.starts_with("the short part has ended"), "{ended}");
    }
}
