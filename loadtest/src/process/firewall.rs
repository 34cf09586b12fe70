//! Packets that are dropped without a word, in a network namespace of this program's own.

use std::io::{self, Write as _};
use std::process::Stdio;

use super::Namespace;

/// The table with our rules.
const TABLE: &str = "causeway_loadtest";

/// Rules that drop packets where they arrive: who sends them is not told. They are gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Dropped(Namespace);

/// Why nothing is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirewallError {
    #[error("nft, of nftables, cannot be run: {0}")]
    NoProgram(io::Error),
    #[error("nft drops no packets: {0}")]
    Refused(String),
}

impl Dropped {
    /// From now on what arrives in `namespace` and matches any of `matching` is dropped, each being what nft(8) has before `drop`.
    pub(crate) fn in_namespace(
        namespace: Namespace,
        matching: &[&str],
    ) -> Result<Self, FirewallError> {
        let rules: String = matching
            .iter()
            .map(|matching| format!("{matching} drop; "))
            .collect();
        let chain = format!("chain input {{ type filter hook input priority 0; {rules} }}");
        nft(namespace, &format!("table inet {TABLE} {{ {chain}; }}"))?;
        Ok(Self(namespace))
    }

    /// Whether packets can be dropped at all.
    pub(crate) fn can_be(namespace: Namespace) -> Result<(), FirewallError> {
        nft(
            namespace,
            &format!("add table inet {TABLE}\ndelete table inet {TABLE}"),
        )
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        // A namespace that is gone has no rules either.
        let _ = nft(self.0, &format!("delete table inet {TABLE}"));
    }
}

fn nft(namespace: Namespace, rules: &str) -> Result<(), FirewallError> {
    let mut nft = namespace.command("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped());
    nft.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut nft = nft.spawn().map_err(FirewallError::NoProgram)?;
    if let Some(mut stdin) = nft.stdin.take() {
        // One that does not read says why.
        let _ = writeln!(stdin, "{rules}");
    }
    let output = nft.wait_with_output().map_err(FirewallError::NoProgram)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(FirewallError::Refused(said.trim().to_owned()))
        }
    }
}
