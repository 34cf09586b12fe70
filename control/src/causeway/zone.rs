//! The zone as a file.

use std::fs;
use std::io::{self, BufWriter, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use control::operator::{Answer, Verb};
use ddns::transfer::import::{MAX_DEVICES, Taken, ZoneFile};
use indicatif::{ProgressBar, ProgressStyle};

use super::arguments::{StateOption, ZoneCommand};
use super::shown::show;
use super::verbs::ask;

pub(super) async fn zone(command: ZoneCommand) -> anyhow::Result<()> {
    match command {
        ZoneCommand::Export { state } => export(state).await,
        ZoneCommand::Import {
            file,
            dry_run,
            skip,
            json,
            state,
        } => {
            let options = ImportOptions {
                dry_run,
                skip,
                json,
            };
            import(&file, &options, state.directory).await
        }
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
    let progress = progress.with_style(style());
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

/// What to do with a file.
struct ImportOptions {
    dry_run: bool,
    skip: bool,
    json: bool,
}

/// Tries all that is in the file, and then does it.
async fn import(
    path: &Path,
    options: &ImportOptions,
    state: Option<PathBuf>,
) -> anyhow::Result<()> {
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut text);
        read.map(|_| text).context("standard input")?
    } else {
        fs::read(path).with_context(|| path.display().to_string())?
    };
    let file = ZoneFile::read(&text).with_context(|| path.display().to_string())?;
    drop(text);
    let tried = take(&file, true, &state).await?;
    let is_clean = tried.unknown.is_empty() && tried.refused.is_empty();
    let is_done = !options.dry_run && (is_clean || options.skip);
    let taken = match is_done {
        true => take(&file, false, &state).await?,
        false => tried,
    };
    say_what_was_not_taken(&file, &taken);
    say_what_was_taken(&file, &taken, is_done, options.json)?;
    if !is_clean && !options.skip {
        bail!(
            "nothing was changed: mend the file or register these names, or pass them over with --skip"
        );
    }
    if is_done && !taken.refused.is_empty() && !options.skip {
        bail!("not all was done: do it again, and who has its address already is left alone");
    }
    Ok(())
}

/// Asks for one part after the other.
async fn take(file: &ZoneFile, is_trial: bool, state: &Option<PathBuf>) -> anyhow::Result<Taken> {
    let progress = ProgressBar::new(file.devices.len() as u64).with_style(style()); // on a terminal only
    let mut taken = Taken::default();
    for devices in file.devices.chunks(MAX_DEVICES) {
        let verb = Verb::ImportZone {
            zone: file.zone.to_string(),
            devices: devices.to_vec(),
            is_trial,
        };
        let state = StateOption {
            directory: state.clone(),
        };
        let answer = ask(state, verb).await?;
        let Answer::ZoneTaken(part) = answer else {
            progress.finish_and_clear();
            show(answer, false)?; // which says why
            bail!("the answer is to another question");
        };
        taken.add(part);
        progress.inc(devices.len() as u64);
    }
    progress.finish_and_clear();
    Ok(taken)
}

/// A line each, beside what is printed.
fn say_what_was_not_taken(file: &ZoneFile, taken: &Taken) {
    for name in &taken.unknown {
        eprintln!("{name}: no device has this name here");
    }
    for (name, why) in &taken.refused {
        eprintln!("{name}: {why}");
    }
    for name in &file.differing {
        eprintln!("{name}: passed over; what is below a device leads where the device does");
    }
}

fn say_what_was_taken(
    file: &ZoneFile,
    taken: &Taken,
    is_done: bool,
    json: bool,
) -> anyhow::Result<()> {
    if json {
        let told = serde_json::json!({
            "zone": file.zone.to_string(),
            "done": is_done,
            "set": taken.set,
            "same": taken.same,
            "led_to_relays": file.led_to_relays,
            "unknown": taken.unknown,
            "refused": taken.refused.iter().map(|(name, why)| serde_json::json!({"name": name, "why": why})).collect::<Vec<_>>(),
            "differing": file.differing,
            "passed_over": file.passed_over,
        });
        println!("{}", serde_json::to_string_pretty(&told)?);
        return Ok(());
    }
    let set = match is_done {
        true => "set",
        false => "to set",
    };
    println!("{set}: {}", taken.set);
    println!("set already: {}", taken.same);
    println!("led to the file's relays: {}", file.led_to_relays);
    let passed_over: Vec<_> = file.passed_over.iter().collect();
    let passed_over: Vec<_> = passed_over
        .iter()
        .map(|(rtype, count)| format!("{count} {rtype}"))
        .collect();
    if !passed_over.is_empty() {
        println!("passed over: {}", passed_over.join(", "));
    }
    Ok(())
}

fn style() -> ProgressStyle {
    let template = "{bar:24} {pos} of {len} {elapsed}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
