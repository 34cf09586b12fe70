//! What certificate logs have shown, for a person.

use std::fmt::Write as _;

use control::certificate_watch::{LogStatus, SeenCertificate, Watched};

/// The logs, and the certificates below.
pub(super) fn table(watched: &Watched) -> String {
    let Watched { logs, certificates } = watched;
    let mut table = String::new();
    if logs.is_empty() {
        table.push_str("no log is followed: the configuration has no [certificate_watch]\n");
    }
    for LogStatus {
        log,
        entries,
        followed_at,
        problem,
    } in logs
    {
        let followed = followed_at.map_or_else(
            || "not followed since the start".to_owned(),
            |at| format!("{entries} entries, followed {}", moment(at.cast_signed())),
        );
        let _ = writeln!(table, "log          {log}: {followed}");
        if let Some(problem) = problem {
            let _ = writeln!(table, "problem      {problem}");
        }
    }
    for SeenCertificate {
        owner,
        key,
        names,
        serial,
        issuer,
        not_after,
        log,
        entry,
        reported,
        ..
    } in certificates
    {
        let whose = match (&**owner, reported) {
            ("", _) => "of the operator's own hosts".to_owned(),
            ("*", false) => "good for every device".to_owned(),
            ("*", true) => "good for every device, and not one's own".to_owned(),
            (name, _) => format!("not {name}'s own"),
        };
        let _ = writeln!(table, "certificate  {whose}: {}", names.join(", "));
        let _ = writeln!(
            table,
            "             from {issuer}, serial {serial}, until {}",
            moment(*not_after)
        );
        let _ = writeln!(table, "             key {key}, in {log}, entry {entry}");
    }
    // Issuers have whatever names they like, and a terminal would obey them.
    table.replace(
        |letter: char| letter.is_control() && letter != '\n',
        "\u{fffd}",
    )
}

fn moment(seconds: i64) -> String {
    const LAST: i64 = 253_402_300_799; // of the year 9999
    let since = std::time::Duration::from_secs(seconds.clamp(0, LAST).unsigned_abs());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}
