//! What an operator watches the server with: alerts, their runbooks and the dashboard fit what the server really exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::apart::Relay;
use crate::process::{output_of, run_for};
use crate::reload::good;
use crate::world::{Place, Server};

/// promtool works through days of samples.
const PROMTOOL_TIME: Duration = Duration::from_secs(300);

/// Labels that Prometheus puts on everything it fetches, and the bounds of histograms.
const LABELS_OF_PROMETHEUS: [&str; 3] = ["instance", "job", "le"];

fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../relay/ops")
        .join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(ops(file)).unwrap()
}

fn promtool(arguments: &[&str], file: &Path) {
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).arg(file);
    let output = run_for(promtool, PROMTOOL_TIME);
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A rule of `alerts.yml`.
#[derive(Debug, Default)]
struct Rule {
    /// `alert` or `record`.
    kind: String,
    name: String,
    expression: String,
}

/// The rules, by the little of YAML that their file needs: `- alert: NAME` or `- record: NAME`, then `expr: …` on one line, or
/// `expr: |` with deeper lines below.
fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut block = None;
    for line in text("alerts.yml").lines() {
        let depth = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some((kind, name)) = line
            .strip_prefix("- ")
            .and_then(|rest| rest.split_once(": "))
            && ["alert", "record"].contains(&kind)
        {
            let (kind, name) = (kind.to_owned(), name.to_owned());
            rules.push(Rule {
                kind,
                name,
                ..Rule::default()
            });
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            let rule = rules.last_mut().unwrap();
            match expression {
                "|" => block = Some(depth),
                _ => rule.expression = expression.to_owned(),
            }
        } else if block.is_some_and(|outside| depth > outside) {
            let rule = rules.last_mut().unwrap();
            rule.expression.push_str(line);
            rule.expression.push('\n');
        } else {
            block = None;
        }
    }
    assert!(rules.iter().all(|rule| !rule.expression.is_empty()));
    rules
}

/// Every expression of the dashboard, with its variables filled in.
fn expressions_of_dashboard() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("expr", Value::String(expression)) => {
                            found.push(expression.clone());
                        }
                        ("id", _) => panic!("an id belongs to one Grafana, and not into the file"),
                        _ => collect(value, found),
                    }
                }
            }
            Value::Array(values) => {
                values.iter().for_each(|value| collect(value, found));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut dashboard: Value = serde_json::from_str(&text("dashboard.json")).unwrap();
    assert_eq!(dashboard["uid"], "causeway");
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    // What Grafana looks at when it imports; the ids there are names of plugins.
    dashboard.as_object_mut().unwrap().remove("__requires");
    let mut found = Vec::new();
    collect(&dashboard, &mut found);
    let filled = |expression: String| {
        expression
            .replace("$__rate_interval", "5m")
            .replace("$job", "causeway")
            .replace("$instance", ".*")
    };
    found.into_iter().map(filled).collect()
}

/// A metric as an expression uses it, with the values that it wants labels to have.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    metric: String,
    wanted: Vec<(String, String)>,
}

/// The metrics that an expression uses, and the labels by which it groups.
fn uses(expression: &str) -> (Vec<Use>, BTreeSet<String>) {
    let (mut found, mut groups) = (Vec::new(), BTreeSet::new());
    let mut rest = expression;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        rest = &rest[start..];
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        let next = rest.trim_start();
        if ["by", "on"].contains(&word) {
            let list = next.strip_prefix('(').unwrap();
            let (list, after) = list.split_once(')').unwrap();
            groups.extend(list.split(',').map(|label| label.trim().to_owned()));
            rest = after;
            continue;
        }
        let matchers = next
            .strip_prefix('{')
            .map(|next| next.split_once('}').unwrap());
        if let Some((_, after)) = matchers {
            rest = after;
        } else if !word.contains(['_', ':']) || next.starts_with('(') {
            // A function, an operator or a duration.
            assert!(!next.starts_with('['), "{word} in {expression}");
            continue;
        }
        let mut wanted = Vec::new();
        for matcher in matchers.map_or("", |(matchers, _)| matchers).split(", ") {
            let Some((label, value)) = matcher.split_once('=') else {
                continue;
            };
            if let Some(label) = label.strip_suffix('!') {
                groups.insert(label.to_owned()); // it is there, whatever it is
                continue;
            }
            let value = value.trim_start_matches('~').trim_matches('"');
            let values = value
                .split('|')
                .map(|value| (label.to_owned(), value.to_owned()));
            wanted.extend(values);
        }
        found.push(Use {
            metric: word.to_owned(),
            wanted,
        });
    }
    (found, groups)
}

/// For each metric, the values that each of its labels has.
type Exported = BTreeMap<String, BTreeSet<(String, String)>>;

/// What the server with this admin listener exports.
fn export(admin: SocketAddr, labels_by_metric: &mut Exported) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail"]);
    curl.arg(format!("http://{admin}/metrics"));
    for line in output_of(curl)
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
        let known = labels_by_metric.entry(metric.to_owned()).or_default();
        for label in labels.trim_end_matches('}').split(',') {
            if let Some((name, value)) = label.split_once('=') {
                known.insert((name.to_owned(), value.trim_matches('"').to_owned()));
            }
        }
    }
}

/// A server whose hosts are to have certificates of another authority, which is away.
fn with_certificates_of_others() -> Server {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let config = folder.path().join("causeway.toml");
    let acme = "[acme]\ncontact = \"mailto:hostmaster@example.com\"\noperator = true\n\
                [[acme.ca]]\ndirectory = \"https://127.0.0.1:1/dir\"\n";
    fs::write(&config, format!("{}\n{acme}", good())).unwrap();
    Server::start_on(Place::Host, folder, &["--config", config.to_str().unwrap()])
}

#[test]
fn every_metric_and_label_that_is_watched_is_exported() {
    let (server, (_control, relay)) = (Server::start(), Relay::with_control());
    let mut exported = Exported::new();
    export(server.ready.admin, &mut exported);
    export(relay.admin, &mut exported); // which has some that no whole server has
    let ordering = with_certificates_of_others();
    export(ordering.ready.admin, &mut exported); // and so does this
    let rules = rules();
    let recorded: BTreeSet<&str> = rules
        .iter()
        .filter(|rule| rule.kind == "record")
        .map(|rule| rule.name.as_str())
        .collect();
    let mut expressions = expressions_of_dashboard();
    assert!(rules.len() > 30 && expressions.len() > 30);
    expressions.extend(rules.iter().map(|rule| rule.expression.clone()));

    let mut missing = Vec::new();
    for expression in &expressions {
        let (uses, groups) = uses(expression);
        assert!(!uses.is_empty(), "{expression}");
        let mut labels: BTreeSet<&str> = LABELS_OF_PROMETHEUS.into();
        for Use { metric, wanted } in &uses {
            if recorded.contains(metric.as_str()) || metric == "up" {
                continue;
            }
            let Some(known) = exported.get(metric) else {
                missing.push(format!("{metric} in {expression}"));
                continue;
            };
            labels.extend(known.iter().map(|(label, _)| label.as_str()));
            for (label, value) in wanted {
                let is_ours = !LABELS_OF_PROMETHEUS.contains(&label.as_str());
                if is_ours && !known.contains(&(label.clone(), value.clone())) {
                    missing.push(format!("{metric}{{{label}={value:?}}} in {expression}"));
                }
            }
        }
        let strange = groups
            .iter()
            .filter(|group| !labels.contains(group.as_str()));
        missing.extend(strange.map(|group| format!("the label {group} in {expression}")));
    }
    assert!(missing.is_empty(), "not exported: {missing:#?}");
}

#[test]
fn an_expression_is_read_as_prometheus_reads_it() {
    let (uses, groups) = uses(
        "sum by (instance, le) (rate(a_total{b=~\"c|d\", e=\"f\"}[5m])) / on (job) g:h > 0.5 and max_over_time(i_seconds{k!=\"l\"}[1h]) > 3",
    );
    let pair = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    let one = |metric: &str, wanted| Use {
        metric: metric.to_owned(),
        wanted,
    };
    let wanted = vec![pair("b", "c"), pair("b", "d"), pair("e", "f")];
    assert_eq!(
        uses,
        [
            one("a_total", wanted),
            one("g:h", vec![]),
            one("i_seconds", vec![])
        ]
    );
    assert_eq!(
        groups.into_iter().collect::<Vec<_>>(),
        ["instance", "job", "k", "le"]
    );
}

#[test]
fn prometheus_takes_the_rules_and_alerts_fire_when_they_should() {
    promtool(&["check", "rules"], &ops("alerts.yml"));
    promtool(&["test", "rules"], &ops("alerts_test.yml"));
    let tests = text("alerts_test.yml");
    for rule in rules().iter().filter(|rule| rule.kind == "alert") {
        let fires = format!("alertname=\"{}\"", rule.name);
        assert!(tests.contains(&fires), "no test has {} fire", rule.name);
    }
}

#[test]
fn prometheus_takes_every_expression_of_the_dashboard() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yml");
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, expression) in expressions_of_dashboard().iter().enumerate() {
        let expression = serde_json::to_string(expression).unwrap();
        rules.push_str(&format!(
            "  - record: panel:{number}\n    expr: {expression}\n"
        ));
    }
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules"], &file);
}

#[test]
fn each_alert_has_a_runbook_and_each_runbook_an_alert() {
    let alerts: BTreeSet<String> = rules()
        .into_iter()
        .filter(|rule| rule.kind == "alert")
        .map(|rule| rule.name)
        .collect();
    let runbooks: BTreeSet<String> = fs::read_dir(ops("runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(alerts, runbooks);
    let linked = text("alerts.yml");
    for name in &alerts {
        assert!(linked.contains(&format!("runbook_url: relay/ops/runbooks/{name}.md")));
        let runbook = text(&format!("runbooks/{name}.md"));
        let headings: Vec<&str> = runbook
            .lines()
            .filter(|line| line.starts_with('#'))
            .collect();
        let title = format!("# {name}");
        assert_eq!(
            headings,
            [
                &title,
                "## Meaning",
                "## Impact",
                "## Diagnosis",
                "## Mitigation"
            ],
        );
    }
}
