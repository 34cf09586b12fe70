//! `causeway-connect`: the services of a device, for apps on this machine.

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Parser};
use connect::{Device, Door, Trust, forward, join_stdio, serve_socks};
use tokio::signal::unix::{SignalKind, signal};

/// Makes services of a device usable for apps on this machine. What passes is encrypted from here to the device.
///
///   causeway-connect mynas.example.com ssh --listen 127.0.0.1:2222    then: ssh -p 2222 127.0.0.1
///   ssh -o ProxyCommand='causeway-connect -W %h ssh' mynas.example.com
///   causeway-connect mynas.example.com --socks 127.0.0.1:1080         then: curl -x socks5h://127.0.0.1:1080 http://photos/
#[derive(Parser)]
#[command(
    name = "causeway-connect",
    version,
    arg_required_else_help = true,
    verbatim_doc_comment
)]
#[command(group = ArgGroup::new("where").required(true).args(["listen", "socks", "stdio"]))]
struct Arguments {
    /// The device, such as mynas.example.com
    device: String,
    /// One of its services, as its agent's configuration names it; without one, the device's own
    #[arg(
        default_value = "",
        hide_default_value = true,
        conflicts_with = "socks"
    )]
    service: String,
    /// A port of this machine that leads to the service
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// A SOCKS 5 port of this machine for all services: the host that an app asks for is the service
    #[arg(long, value_name = "ADDRESS:PORT")]
    socks: Option<SocketAddr>,
    /// Standard input and output lead to the service: for ssh's ProxyCommand
    #[arg(short = 'W', long)]
    stdio: bool,
    /// Let other machines come to that port too: whoever reaches it uses the service as you do
    #[arg(long, conflicts_with = "stdio")]
    share: bool,
    /// Certificates to check the device against, in PEM; without it, those this system trusts
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Go to this relay, wherever the device's name leads
    #[arg(long, value_name = "HOST[:PORT]")]
    at: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match act(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn act(arguments: Arguments) -> anyhow::Result<()> {
    let trust = match &arguments.ca {
        Some(file) => {
            let pem = fs::read(file).with_context(|| file.display().to_string())?;
            Trust::from_pem(&pem).with_context(|| file.display().to_string())?
        }
        None => Trust::of_system()?,
    };
    let device = Device::new(&arguments.device, &trust)?;
    let device = match &arguments.at {
        Some(front) => device.at(front),
        None => device,
    };
    let service = match arguments.service.as_str() {
        "" => String::new(),
        name => device
            .service_of(name)
            .with_context(|| format!("{name:?} is no service of {}", device.host()))?,
    };
    let service = &service;
    if arguments.stdio {
        join_stdio(device.open(service).await?).await?;
        // A read of standard input that nobody answers any more would keep the program.
        std::process::exit(0);
    }
    let address = arguments.listen.or(arguments.socks);
    let address = address.context("nowhere to listen")?; // the command line demands one
    if !address.ip().is_loopback() && !arguments.share {
        bail!(
            "whoever reaches {address} would use the service as you do: say --share if that is what you want"
        );
    }
    let door = Door::open(address, tell).await;
    let door = door.with_context(|| format!("cannot listen at {address}"))?;
    let (listens, host) = (door.address()?, device.host());
    let serve = async {
        match arguments.socks {
            Some(_) => {
                tell(&format_args!(
                    "the services of {host}: SOCKS 5 at {listens}"
                ));
                serve_socks(&door, &device).await;
            }
            None => {
                let name = if service.is_empty() {
                    "its own service"
                } else {
                    service.as_str()
                };
                tell(&format_args!("{name} of {host}: at {listens}"));
                forward(&door, &device, service).await;
            }
        }
    };
    let mut ended = signal(SignalKind::terminate())?;
    tokio::select! {
        () = serve => {}
        _ = ended.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

fn tell(words: &dyn Display) {
    eprintln!("causeway-connect: {words}");
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

    #[test]
    fn one_way_in_is_demanded() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("causeway-connect mynas.example.com ssh").is_err());
        assert!(parse("causeway-connect mynas.example.com ssh --listen 127.0.0.1:1 -W").is_err());
        assert!(parse("causeway-connect mynas.example.com ssh --socks 127.0.0.1:1").is_err());
        assert!(parse("causeway-connect -W mynas.example.com ssh").is_ok());
        assert!(parse("causeway-connect mynas.example.com --listen 127.0.0.1:2222").is_ok());
    }
}
