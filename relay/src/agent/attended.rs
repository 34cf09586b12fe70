//! The tunnels of one keeper that are attended to: the newest takes visitors, and those before it are kept for the visitors they have.

use std::collections::VecDeque;

use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// So many tunnels are kept beside the newest: a relay may ask for another as often as it likes, and need not ever end one. More than
/// a relay keeps of one device (four), for several processes of it may follow one another while a visitor stays.
const MOST_OLDER: usize = 32;

/// The tasks that attend to the tunnels of one keeper. All end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Attended {
    tasks: JoinSet<()>,
    /// The oldest first.
    tunnels: VecDeque<Task>,
}

#[derive(Debug)]
struct Task {
    handle: AbortHandle,
    end: CancellationToken,
}

impl Attended {
    /// Attends to one more, which is to end at once when it hears so. Whether an older one had to end for it.
    pub(super) fn attend<Attending>(
        &mut self,
        attend: impl FnOnce(CancellationToken) -> Attending,
    ) -> bool
    where
        Attending: Future<Output = ()> + Send + 'static,
    {
        self.tunnels.retain(|older| !older.handle.is_finished());
        let one_ends = self.tunnels.len() > MOST_OLDER;
        if one_ends && let Some(oldest) = self.tunnels.pop_front() {
            oldest.end.cancel();
        }
        let end = CancellationToken::new();
        let handle = self.tasks.spawn(attend(end.clone()));
        self.tunnels.push_back(Task { handle, end });
        one_ends
    }

    /// Returns when one has ended; `None` if there is none.
    pub(super) async fn one_has_ended(&mut self) -> Option<()> {
        self.tasks.join_next().await.map(|_| ()) // a panic has been reported
    }

    /// Returns when all have ended.
    pub(super) async fn all_have_ended(&mut self) {
        while self.one_has_ended().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn of_the_tunnels_that_nobody_ends_the_oldest_is_ended() {
        let (ends, mut ended) = mpsc::channel(100);
        let mut attended = Attended::default();
        let mut attend = |number: usize| {
            let ends = ends.clone();
            attended.attend(async move |end: CancellationToken| {
                end.cancelled().await;
                ends.send(number).await.unwrap();
            })
        };
        for number in 0..=MOST_OLDER {
            assert!(!attend(number), "{number}");
        }
        for oldest in 0..50 {
            assert!(attend(MOST_OLDER + 1 + oldest));
            let ended = timeout(SOON, ended.recv()).await.unwrap();
            assert_eq!(ended, Some(oldest));
        }
        assert!(ended.try_recv().is_err(), "the others are kept");
    }

    #[tokio::test]
    async fn those_that_have_ended_by_themselves_do_not_count() {
        let mut attended = Attended::default();
        for _ in 0..MOST_OLDER {
            attended.attend(|end| async move { end.cancelled().await });
        }
        for _ in 0..50 {
            assert!(!attended.attend(async |_| {}));
            timeout(SOON, attended.one_has_ended()).await.unwrap();
        }
    }
}
