//! From rounds to what is shown: medians with their spread, as a table for people or as JSON for machines.
//!
//! ```text
//!   round ─► figures by column ─┐
//!   round ─► figures by column ─┼─► row: median, lowest, highest of each column ─► table of a scenario ─► text or JSON
//!   round ─► …                 ─┘
//! ```
//!
//! The rows of a table are workloads, or peers that all did the same; then each is compared with each.

mod machine;
mod summary;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub(crate) use machine::Machine;
use summary::Summary;

/// What a figure says. Each scenario has its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name in JSON, unit last.
    pub(crate) key: &'static str,
    /// Its heading in the table.
    pub(crate) heading: &'static str,
    /// How many decimals the table shows.
    pub(crate) decimals: usize,
}

impl Column {
    pub(crate) const fn new(key: &'static str, heading: &'static str, decimals: usize) -> Self {
        Self {
            key,
            heading,
            decimals,
        }
    }
}

/// The figures of one round of one workload. A figure that could not be had is not there.
pub(crate) type Round = Vec<(&'static Column, f64)>;

/// What one scenario brought.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) scenario: &'static str,
    /// What every row has done, if each is a peer. Otherwise each is a workload.
    workload: Option<&'static str>,
    /// The peers that the text compares with all others.
    compared: &'static [&'static str],
    /// How many, and what they are called: connections, tunnels, sockets.
    pub(crate) connections: (usize, &'static str),
    pub(crate) length: Length,
    /// What the tunnels ran over, if it is known.
    pub(crate) carrier: Option<String>,
    /// What lay between relay and agent, if not loopback.
    link: Option<String>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// How much is done in a round of one row.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Length {
    Seconds(u64),
    Mebibytes(u64),
    Keys(u64),
}

impl From<u64> for Length {
    fn from(seconds: u64) -> Self {
        Self::Seconds(seconds)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(f, "{seconds} s"),
            Self::Mebibytes(mebibytes) => write!(f, "{mebibytes} MiB"),
            Self::Keys(keys) => write!(f, "{keys} keys"),
        }
    }
}

/// The rounds of one workload, or of one peer.
#[derive(Debug)]
struct Row {
    name: &'static str,
    rounds: Vec<Round>,
}

impl Table {
    pub(crate) fn new(
        scenario: &'static str,
        connections: (usize, &'static str),
        length: impl Into<Length>,
        carrier: Option<String>,
    ) -> Self {
        Self {
            scenario,
            workload: None,
            compared: &[],
            connections,
            length: length.into(),
            carrier,
            link: None,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A table whose rows are peers. Those `compared` are shown beside every other one.
    pub(crate) fn of_peers(
        scenario: &'static str,
        workload: &'static str,
        connections: (usize, &'static str),
        length: impl Into<Length>,
        link: Option<String>,
        compared: &'static [&'static str],
    ) -> Self {
        Self {
            workload: Some(workload),
            link,
            compared,
            ..Self::new(scenario, connections, length, None)
        }
    }

    /// Adds a round of a workload or peer, whose row stands where its first round was added.
    pub(crate) fn add(&mut self, name: &'static str, round: Round) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.rounds.push(round),
            None => self.rows.push(Row {
                name,
                rounds: vec![round],
            }),
        }
    }

    /// Adds a sentence below the table, once.
    pub(crate) fn note(&mut self, sentence: String) {
        if !self.notes.contains(&sentence) {
            self.notes.push(sentence);
        }
    }

    fn rounds(&self) -> usize {
        self.rows.first().map_or(0, |row| row.rounds.len())
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let (count, plural) = self.connections;
        let what = match count {
            1 => plural.trim_end_matches('s'),
            _ => plural,
        };
        let workload = self.workload.map(|workload| format!(", {workload}"));
        let carrier = self
            .carrier
            .as_deref()
            .map(|carrier| format!(", {carrier} carrier"));
        let link = self.link.as_deref().map(|link| format!(", {link}"));
        let mut text = format!(
            "{}{}: {count} {what}{}{}, {} a round, median of {} (lowest–highest)\n\n",
            self.scenario,
            workload.unwrap_or_default(),
            carrier.unwrap_or_default(),
            link.unwrap_or_default(),
            self.length,
            self.rounds()
        );
        text.push_str(&aligned(&self.lines()));
        let compared = self.rows.iter();
        for row in compared.filter(|row| self.compared.contains(&row.name)) {
            text.push('\n');
            text.push_str(&aligned(&self.ratio_lines(row)));
        }
        for note in &self.notes {
            text.push_str(&format!("  {note}\n"));
        }
        text
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let columns = self.columns();
        let mut lines = vec![vec![String::new()]];
        lines[0].extend(columns.iter().map(|column| column.heading.to_owned()));
        lines.extend(self.rows.iter().map(|row| {
            let figures = columns.iter().map(|column| {
                let summary = Summary::of(&row.values(column));
                summary.map_or("–".to_owned(), |summary| summary.text(column.decimals))
            });
            [row.name.to_owned()].into_iter().chain(figures).collect()
        }));
        lines
    }

    /// How many times each other row's figures `row` has.
    fn ratio_lines(&self, row: &Row) -> Vec<Vec<String>> {
        let mut columns = self.columns();
        columns.retain(|column| !self.ratios(row, column).is_empty());
        let mut lines = vec![vec![format!("{} to", row.name)]];
        lines[0].extend(columns.iter().map(|column| column.heading.to_owned()));
        for other in self.rows.iter().filter(|other| other.name != row.name) {
            let mut line = vec![other.name.to_owned()];
            line.extend(columns.iter().map(|column| {
                let ratio = self.ratios(row, column).get(other.name).copied();
                ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}×"))
            }));
            lines.push(line);
        }
        lines
    }

    /// The median of `row` divided by that of each other peer; nothing where the rows are workloads.
    fn ratios(&self, row: &Row, column: &Column) -> BTreeMap<&'static str, f64> {
        let median = |row: &Row| Summary::of(&row.values(column)).map(|summary| summary.median);
        let peers = self.rows.iter().filter(|_| self.workload.is_some());
        peers
            .filter(|other| other.name != row.name)
            .filter_map(|other| Some((other.name, median(row)? / median(other)?)))
            .filter(|(_, ratio)| ratio.is_normal())
            .collect()
    }

    /// For machines: one object for each row.
    pub(crate) fn results(&self) -> Vec<impl Serialize + use<>> {
        self.rows.iter().map(|row| self.result(row)).collect()
    }

    fn result(&self, row: &Row) -> Measured {
        let figures = self.columns().into_iter().filter_map(|column| {
            let rounds = row.values(column);
            let figures = Figures {
                summary: Summary::of(&rounds)?,
                ratios: self.ratios(row, column),
                rounds,
            };
            Some((column.key, figures))
        });
        Measured {
            scenario: self.scenario,
            workload: self.workload.unwrap_or(row.name),
            peer: self.workload.map(|_| row.name),
            carrier: self.carrier.clone(),
            link: self.link.clone(),
            connections: self.connections.0,
            length: self.length,
            figures: figures.collect(),
            notes: self.notes.clone(),
        }
    }

    /// Those that any round has, in the order in which they first stand.
    fn columns(&self) -> Vec<&'static Column> {
        let mut columns: Vec<&'static Column> = Vec::new();
        let rounds = self.rows.iter().flat_map(|row| &row.rounds);
        for (column, _) in rounds.flatten() {
            if !columns.contains(column) {
                columns.push(column);
            }
        }
        columns
    }
}

impl Row {
    fn values(&self, column: &Column) -> Vec<f64> {
        let figures = self.rounds.iter().flatten();
        figures
            .filter(|(of, _)| *of == column)
            .map(|(_, value)| *value)
            .collect()
    }
}

#[derive(Serialize)]
struct Measured {
    scenario: &'static str,
    workload: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'static str>,
    carrier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Connections, tunnels or sockets.
    connections: usize,
    #[serde(flatten)]
    length: Length,
    figures: BTreeMap<&'static str, Figures>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Figures {
    #[serde(flatten)]
    summary: Summary,
    rounds: Vec<f64>,
    /// To the median of each other peer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ratios: BTreeMap<&'static str, f64>,
}

/// Cells below each other, each column as wide as its widest.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let line: Vec<_> = cells
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(&format!("  {}\n", line.join("  ").trim_end()));
    }
    text
}

/// Everything at once, for machines.
pub(crate) fn json(machine: &Machine, tables: &[Table]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a, R> {
        program: &'static str,
        version: &'static str,
        machine: &'a Machine,
        results: Vec<R>,
    }
    serde_json::to_string_pretty(&Report {
        program: "causeway-loadtest",
        version: env!("CARGO_PKG_VERSION"),
        machine,
        results: tables.iter().flat_map(Table::results).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static RATE: Column = Column {
        key: "requests_per_s",
        heading: "requests/s",
        decimals: 0,
    };
    static COST: Column = Column {
        key: "relay_cpu_us",
        heading: "relay CPU µs",
        decimals: 1,
    };

    #[test]
    fn a_table_shows_medians_and_their_spread() {
        let mut table = Table::new("requests", (64, "connections"), 5, Some("quic".to_owned()));
        table.add("keep_alive", vec![(&RATE, 100.0), (&COST, 2.25)]);
        table.add("new_connection", vec![(&RATE, 7.0)]);
        table.add("keep_alive", vec![(&RATE, 300.0), (&COST, 2.25)]);
        table.note("one thing to know".to_owned());
        let expected = "\
requests: 64 connections, quic carrier, 5 s a round, median of 2 (lowest–highest)

                  requests/s     relay CPU µs
  keep_alive      200 (100–300)  2.2
  new_connection  7              –
  one thing to know
";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn peers_are_compared_with_each_other() {
        let connections = (1, "connections");
        let mut table = Table::of_peers(
            "peers",
            "bulk",
            connections,
            5,
            Some("a wire".to_owned()),
            &["ours"],
        );
        table.add("ours", vec![(&RATE, 30.0), (&COST, 1.0)]);
        table.add("theirs", vec![(&RATE, 20.0), (&COST, 4.0)]);
        table.add("none", vec![(&RATE, 60.0)]);
        let expected = "\
peers, bulk: 1 connection, a wire, 5 s a round, median of 1 (lowest–highest)

          requests/s  relay CPU µs
  ours    30          1.0
  theirs  20          4.0
  none    60          –

  ours to  requests/s  relay CPU µs
  theirs   1.50×       0.25×
  none     0.50×       –
";
        assert_eq!(table.text(), expected);
        let json = json(&Machine::here(), &[table]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let theirs = &json["results"][1];
        assert_eq!(
            (&theirs["workload"], &theirs["peer"]),
            (&"bulk".into(), &"theirs".into())
        );
        assert_eq!(theirs["figures"]["relay_cpu_us"]["ratios"]["ours"], 4.0);
    }

    #[test]
    fn json_has_every_round() {
        let mut table = Table::new("dns", (8, "sockets"), 1, None);
        table.add("hit", vec![(&RATE, 1.0)]);
        table.add("hit", vec![(&RATE, 2.0)]);
        let json = json(&Machine::here(), &[table]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let figures = &json["results"][0]["figures"]["requests_per_s"];
        assert_eq!(figures["median"], 1.5);
        assert_eq!(figures["rounds"], serde_json::json!([1.0, 2.0]));
        assert!(json["machine"]["cores"].as_u64() > Some(0));
    }
}
