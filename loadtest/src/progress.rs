//! What a person sees while it runs: one line on standard error, if that is a terminal.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the line moves although nothing has changed.
const TICK: Duration = Duration::from_millis(200);

/// The line; clones are the same one. It is gone when the last of them is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Line>);

#[derive(Debug)]
struct Line(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(1);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {bar:24} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message("starting");
        bar.enable_steady_tick(TICK);
        Self(Arc::new(Line(bar)))
    }

    /// The next thing to be done, in so many steps.
    pub(crate) fn begin(&self, what: String, steps: u64) {
        self.0.0.set_message(what);
        self.0.0.set_length(steps);
        self.0.0.set_position(0);
    }

    /// So many of its steps are done.
    pub(crate) fn at(&self, steps: u64) {
        self.0.0.set_position(steps);
    }

    /// A sentence for a person, beside the line.
    pub(crate) fn note(&self, sentence: &str) {
        self.0.0.suspend(|| eprintln!("{sentence}"));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
