//! The zone as a file.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};

use anyhow::Context as _;
use control::operator::{Answer, Verb};
use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::{StateOption, ZoneCommand};
use super::shown::show;
use super::verbs::ask;

pub(super) async fn zone(command: ZoneCommand) -> anyhow::Result<()> {
    match command {
        ZoneCommand::Export { state } => export(state).await,
    }
}

/// Asks for one page after the other, and prints them.
async fn export(state: StateOption) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    // On a terminal only, and not among the lines.
    let progress = match io::stdout().is_terminal() {
        true => ProgressBar::hidden(),
        false => ProgressBar::no_length(),
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos} of {len} {elapsed}") {
        progress.set_style(style);
    }
    let mut behind = None;
    loop {
        let state = StateOption {
            directory: state.directory.clone(),
        };
        let answer = ask(state, Verb::ExportZone { behind }).await?;
        let Answer::ZonePage(page) = answer else {
            return show(answer, false); // which says why
        };
        progress.set_length(page.devices as u64);
        progress.set_position(page.done as u64);
        let printed = out.write_all(page.text.as_bytes());
        printed.context("standard output")?;
        match page.next {
            Some(last) => behind = Some(last),
            None => break,
        }
    }
    progress.finish_and_clear();
    out.flush().context("standard output")
}
