//! `causeway`: runs the server, checks its configuration, and carries the operator's verbs to it.

mod arguments;
mod certificates;
mod dnssec;
mod serve;
mod shown;
mod verbs;
mod zone;

use std::process::ExitCode;

use clap::Parser as _;
use control::apart::Revoked;
use control::config::{Config, Overrides};
use control::operator::Verb;
use control::ready;
use control::state::StateDirectory;
use control::top;
use relay::program::{self, Inherited};
use tokio::runtime::Runtime;

use arguments::{Arguments, Command, TopOptions};
use serve::up;
use shown::show;
use verbs::{ask, device, port, records, relay};

/// How a relay ends that control does not know any more: EX_CONFIG of sysexits(3), after which its unit is not started again.
const REVOKED: u8 = 78;

fn main() -> ExitCode {
    program::start_log();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway: {error:#}");
            match error.is::<Revoked>() {
                true => ExitCode::from(REVOKED),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let mut inherited = Inherited::default();
    if let Command::Up(_) = command {
        inherited = Inherited::of_environment()?; // before there are other threads
    }
    Runtime::new()?.block_on(Box::pin(act(command, inherited)))
}

async fn act(command: Command, inherited: Inherited) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => up(*options, inherited).await,
        Command::Check { file } => {
            Config::read(&file, &Overrides::default())?;
            println!("{}: good", file.display());
            Ok(())
        }
        Command::Health { admin } => {
            ready::ask(admin).await?;
            println!("ready");
            Ok(())
        }
        Command::Device { verb } => device(verb).await,
        Command::Relay { verb } => relay(verb).await,
        Command::Port { verb } => port(verb).await,
        Command::Records { verb } => records(verb).await,
        Command::Zone { verb } => zone::zone(verb).await,
        Command::Dnssec { verb } => dnssec::dnssec(verb).await,
        Command::Certificates { json, state } => {
            show(ask(state, Verb::ListCertificates).await?, json)
        }
        Command::SignIn(state) => show(ask(state, Verb::SignIn).await?, false),
        Command::Top(TopOptions {
            json,
            once,
            interval,
            state,
        }) => {
            let state = state.directory.unwrap_or_else(StateDirectory::default_path);
            let wish = top::Wish {
                json,
                once,
                interval,
            };
            Ok(top::show(&state, wish).await?)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_its_manual_is_left_in_target_manual() {
        Arguments::command().debug_assert();
        manual::leave(Arguments::command()).unwrap();
    }
}
