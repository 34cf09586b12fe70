//! The operator's verbs: carried to the running server, or done on the database when none runs.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use control::authority::Authority;
use control::devices::Devices;
use control::import::{self, List};
use control::operator::{self, Answer, AskError, DeviceVerb, PortVerb, RelayVerb, Verb};
use control::records::{self, Wanted};
use control::state::StateDirectory;
use control::store::{DATABASE, Store};
use indicatif::{ProgressBar, ProgressStyle};
use relay::files;

use super::arguments::{DeviceCommand, PortCommand, RecordsCommand, RelayCommand, StateOption};
use super::shown::show;

pub(super) async fn device(command: DeviceCommand) -> anyhow::Result<()> {
    let (verb, state, json) = match command {
        DeviceCommand::Add {
            name,
            reclaim,
            state,
        } => (DeviceVerb::Add { name, reclaim }.into(), state, false),
        DeviceCommand::Key {
            name,
            duty,
            json,
            state,
        } => (DeviceVerb::Key { name, duty }.into(), state, json),
        DeviceCommand::Limit {
            name,
            bytes_per_second,
            visitors,
            none,
            state,
        } => {
            let verb = DeviceVerb::Limit {
                name,
                bytes_per_second,
                visitors,
                none,
            };
            (verb.into(), state, false)
        }
        DeviceCommand::Steer {
            name,
            mode,
            json,
            state,
        } => (DeviceVerb::Steer { name, mode }.into(), state, json),
        DeviceCommand::Remove { name, state } => (DeviceVerb::Remove(name).into(), state, false),
        DeviceCommand::List { json, state } => (Verb::ListDevices, state, json),
        DeviceCommand::Import {
            file,
            keys,
            json,
            state,
        } => return import(&file, keys.as_deref(), json, state).await,
    };
    show(ask(state, verb).await?, json)
}

pub(super) async fn relay(command: RelayCommand) -> anyhow::Result<()> {
    match command {
        RelayCommand::Add {
            name,
            file,
            public,
            port,
            state,
        } => {
            let verb = RelayVerb::Add {
                name,
                addresses: public,
                port,
            };
            // Before anything is registered: its key is shown once.
            let mut kept = files::new_private(&file).with_context(|| file.display().to_string())?;
            let answer = ask(state, Verb::Relay(verb)).await;
            let Ok(Answer::RelayAdded { host, join }) = answer else {
                let _ = fs::remove_file(&file); // empty, and made a moment ago
                return show(answer?, false);
            };
            let written = kept.write_all(join.reveal().as_bytes());
            written
                .and_then(|()| kept.sync_all())
                .with_context(|| file.display().to_string())?;
            println!("relay: {host}");
            eprintln!(
                "Move {} to that machine; its configuration has the zone, and in [relay] `front` and `join`.",
                file.display()
            );
            Ok(())
        }
        RelayCommand::List { json, state } => show(ask(state, Verb::ListRelays).await?, json),
        RelayCommand::Remove { name, state } => {
            let verb = Verb::Relay(RelayVerb::Remove(name));
            show(ask(state, verb).await?, false)
        }
    }
}

pub(super) async fn port(command: PortCommand) -> anyhow::Result<()> {
    let (verb, state, json) = match command {
        PortCommand::Add {
            device,
            port,
            state,
        } => {
            let port = port.to_string();
            (Verb::Port(PortVerb::Add { device, port }), state, false)
        }
        PortCommand::List { json, state } => (Verb::ListPorts, state, json),
        PortCommand::Remove { port, state } => {
            let verb = PortVerb::Remove(port.to_string());
            (Verb::Port(verb), state, false)
        }
    };
    show(ask(state, verb).await?, json)
}

pub(super) async fn records(command: RecordsCommand) -> anyhow::Result<()> {
    let (key, since, until, device, json, folder, state) = match command {
        RecordsCommand::Key { file } => {
            let key = records::make_key(&file)?;
            println!("[records]\nkey = \"{key}\"");
            eprintln!(
                "This belongs into the configuration. Keep {} away from the server: whoever has it reads the records, and without it \
                 nobody does.",
                file.display()
            );
            return Ok(());
        }
        RecordsCommand::Show {
            key,
            since,
            until,
            device,
            json,
            folder,
            state,
        } => (key, since, until, device, json, folder, state),
    };
    let now = SystemTime::now();
    let moment = |text: Option<String>| {
        text.map(|text| records::parse_moment(&text, now))
            .transpose()
    };
    let wanted = Wanted {
        since: moment(since)?,
        until: moment(until)?,
        device,
        json,
    };
    let directory = state.directory.clone();
    let directory = directory.unwrap_or_else(StateDirectory::default_path);
    let folder = folder.unwrap_or_else(|| relay::records::Config::default_folder(&directory));
    // Away from the server there are no names, and ids do as well.
    let names = match ask(state, Verb::ListDevices).await {
        Ok(Answer::Devices(devices)) => devices
            .into_iter()
            .filter_map(|device| Some((device.id?, device.name)))
            .collect(),
        Ok(_) | Err(_) => HashMap::new(),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    records::show(
        &folder,
        &key,
        &wanted,
        &names,
        &mut out,
        &mut io::stderr().lock(),
    )?;
    Ok(())
}

/// Registers the names in `file`, and shows their keys or keeps them in the file `keys`.
async fn import(
    file: &Path,
    keys: Option<&Path>,
    json: bool,
    state: StateOption,
) -> anyhow::Result<()> {
    let text = if file == Path::new("-") {
        io::read_to_string(io::stdin()).context("standard input")?
    } else {
        fs::read_to_string(file).with_context(|| file.display().to_string())?
    };
    let list = List::parse(&text).with_context(|| file.display().to_string())?;
    let state = state.directory.unwrap_or_else(StateDirectory::default_path);
    let done = ProgressBar::new(list.len() as u64); // on a terminal only
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos} of {len} {elapsed}") {
        done.set_style(style);
    }
    let keys = keys.map(|file| (file, json));
    let imported = import::import(&state, &list, keys, |count| done.set_position(count as u64));
    let imported = imported.await;
    done.finish_and_clear();
    let imported = imported.with_context(|| file.display().to_string())?;
    match keys {
        Some((keys, _)) => println!("{} devices; their keys: {}", imported.len(), keys.display()),
        None => io::stdout().write_all(imported.reveal(json).as_bytes())?,
    }
    Ok(())
}

/// Asks the running server, or does it on the database when none runs.
pub(super) async fn ask(state: StateOption, verb: Verb) -> anyhow::Result<Answer> {
    let path = state.directory.unwrap_or_else(StateDirectory::default_path);
    match operator::ask(&path, &verb).await {
        Err(AskError::NotRunning) => offline(&path, verb).await,
        asked => Ok(asked?),
    }
}

async fn offline(path: &Path, verb: Verb) -> anyhow::Result<Answer> {
    let database = path.join(DATABASE);
    if !database.exists() {
        bail!(
            "{} holds no causeway state; name its directory with --state",
            path.display()
        );
    }
    let state = StateDirectory::open(path)?;
    let _lock = state.lock()?; // a server that is just starting must not be raced
    let store = Store::open_existing(&database).await?;
    let zone = store.zone().await?;
    let authority = Arc::new(Authority::open(&state, &zone)?);
    let (writer, directory) = directory::directory(zone);
    let master = state.tsig_master()?;
    let devices = Devices::load(store, writer, directory, authority, master).await?;
    let answer = operator::act_offline(&devices, verb).await;
    devices.close().await;
    Ok(answer)
}
