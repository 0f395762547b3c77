//! The dashboard and the alerts name what there is: each name and label in them is of a scrape of an instance at work, and
//! each name of that scrape stands in the table of `docs/operations.md`.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod scrape;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use executor_client::TaskDescriptor;
use executord::handlers::{SPIN, SPIN_NS_MAX};
use scrape::Metrics;
use serde_json::Value;
use support::{Sidecar, eventually, instance};

/// Labels that a scrape gets from Prometheus.
const TARGET: [&str; 2] = ["instance", "job"];

type Exported = BTreeMap<String, BTreeSet<String>>;

/// A scrape of an instance that has everything there is to tell: a hold, a task that failed, one in flight.
fn everything() -> Metrics {
    let arguments = ["--json", "--metrics", "127.0.0.1:0", "--cpu-latency", "1000"];
    let sidecar = Sidecar::start(&instance("dashboard"), &arguments);
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    let page = started["metrics"].as_str().unwrap().parse().unwrap();
    let mut client = sidecar.connect();
    let mut wrong = client.submit_ticket(&TaskDescriptor::new(SPIN), &u64::MAX.to_le_bytes()).unwrap();
    client.wait_timeout(&mut wrong, Duration::from_secs(60)).unwrap();
    client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    eventually("a task in flight", || scrape::scrape(page).has("executor_lane_running_seconds"));
    scrape::scrape(page)
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// An expression without what stands in quotes.
fn bare(expression: &str) -> String {
    assert!(expression.matches('"').count().is_multiple_of(2), "a quote is open: {expression}");
    expression.split('"').step_by(2).collect()
}

fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|letter| !is_word(letter)).filter(|word| !word.is_empty())
}

/// What each bracket holds that stands behind one of these words, and the words in it.
fn behind(expression: &str, openers: &[&str], open: char, close: char) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices(open) {
        let word = expression[..at].trim_end();
        let word: String = word.chars().rev().take_while(|&letter| is_word(letter)).collect();
        let word: String = word.chars().rev().collect();
        if !openers.is_empty() && !openers.contains(&word.as_str()) {
            continue;
        }
        let inside = &expression[at + 1..];
        let inside = &inside[..inside.find(close).unwrap_or_else(|| panic!("{open} is open: {expression}"))];
        found.push((word, words(inside).map(str::to_owned).collect()));
    }
    found
}

/// What is wrong with an expression, by names and labels; and all labels that it knows.
fn complaints(expression: &str, exported: &Exported) -> (Vec<String>, BTreeSet<String>) {
    let mut wrong = Vec::new();
    let mut known: BTreeSet<String> = TARGET.map(str::to_owned).into();
    let mut names = 0;
    let expression = &bare(expression);
    for word in words(expression).filter(|word| word.starts_with("executor_")) {
        names += 1;
        match exported.get(word) {
            Some(labels) => known.extend(labels.iter().cloned()),
            None => wrong.push(format!("no {word} is exported: {expression}")),
        }
    }
    if names == 0 {
        wrong.push(format!("it looks at nothing of ours: {expression}"));
    }
    for (name, labels) in behind(expression, &[], '{', '}') {
        let own = exported.get(&name).cloned().unwrap_or_default();
        let foreign = labels.iter().filter(|label| !own.contains(*label));
        wrong.extend(foreign.map(|label| format!("{name} has no label {label}: {expression}")));
    }
    for (_, labels) in behind(expression, &["by", "on", "without", "ignoring", "group_left", "group_right"], '(', ')') {
        let foreign = labels.iter().filter(|label| !known.contains(*label));
        wrong.extend(foreign.map(|label| format!("nothing in it has a label {label}: {expression}")));
    }
    let count = |letter| expression.matches(letter).count();
    if [('(', ')'), ('{', '}'), ('[', ']')].iter().any(|&(open, close)| count(open) != count(close)) {
        wrong.push(format!("a bracket is missing: {expression}"));
    }
    (wrong, known)
}

/// The words behind `marker` in a text with places to fill in.
fn places(text: &str, marker: &str) -> Vec<String> {
    let parts = text.split("{{").skip(1).filter_map(|part| part.split("}}").next());
    let named = parts.filter_map(|part| part.trim().strip_prefix(marker));
    named.map(|part| part.chars().take_while(|&letter| is_word(letter)).collect()).collect()
}

/// Every string of a JSON tree that stands at one of these keys, with the object it stands in.
fn strings<'a>(tree: &'a Value, keys: &[&str], found: &mut Vec<(&'a str, &'a Value)>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| strings(item, keys, found)),
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str().filter(|_| keys.contains(&key.as_str())) {
                    Some(text) => found.push((text, tree)),
                    None => strings(value, keys, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_what_is_exported() {
    let exported = everything().labels;
    let dashboard: Value = serde_json::from_str(include_str!("grafana/executor.json")).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard, &["expr", "definition"], &mut expressions);
    assert!(expressions.len() > 30, "{}", expressions.len());
    let mut wrong = Vec::new();
    for (expression, around) in expressions {
        let query =
            expression.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')')?.split_once(", "));
        let expression = match query {
            Some((name, label)) => format!("count by ({label}) ({name})"),
            None => expression.to_owned(),
        };
        let (complaints, known) = complaints(&expression, &exported);
        wrong.extend(complaints);
        for key in ["legendFormat", "titleFormat"] {
            let text = around[key].as_str().unwrap_or_default();
            let foreign = places(text, "").into_iter().filter(|label| !known.contains(label));
            wrong.extend(foreign.map(|label| format!("{label} of {text} is no label of {expression}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel:#}");
        assert!(!panel["title"].as_str().unwrap().is_empty() && panel["gridPos"]["w"].as_u64() <= Some(24));
    }
}

#[test]
fn every_alert_looks_at_what_is_exported_and_says_what_to_do() {
    let exported = everything().labels;
    let dashboard: Value = serde_json::from_str(include_str!("grafana/executor.json")).unwrap();
    let rules: Value = serde_saphyr::from_str(include_str!("prometheus/alerts.yml")).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let alerts: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(alerts.len() >= 7, "{}", alerts.len());
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for alert in alerts {
        let text =
            |key: &str| alert.pointer(key).and_then(Value::as_str).unwrap_or_else(|| panic!("no {key}: {alert:#}"));
        assert!(names.insert(text("/alert")), "{} is there twice", text("/alert"));
        assert!(text("/for").ends_with('m'), "{alert:#}");
        assert!(["critical", "warning", "info"].contains(&text("/labels/severity")), "{alert:#}");
        let (complaints, known) = complaints(text("/expr"), &exported);
        wrong.extend(complaints);
        for key in ["/annotations/summary", "/annotations/description"] {
            assert!(text(key).len() > 30, "{alert:#}");
            let foreign = places(text(key), "$labels.").into_iter().filter(|label| !known.contains(label));
            wrong.extend(foreign.map(|label| format!("{label} of {} is no label of {}", text(key), text("/expr"))));
        }
        let cure = text("/annotations/description").to_lowercase();
        let means = ["executord", "shm-dump", "panel \"", "docs/"];
        assert!(means.iter().any(|means| cure.contains(means)), "this tells nobody what to do: {cure}");
        for named in cure.split("panel \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let is_there = dashboard["panels"].as_array().unwrap().iter().any(|panel| panel["title"] == named);
            assert!(is_there, "the dashboard has no panel {named:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_operations_page_lists_every_name_with_its_labels_and_no_other() {
    let exported = everything();
    let page = include_str!("../docs/operations.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Metrics")).expect("a section `## Metrics`");
    let mut told = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `executor")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(cells.len(), 3, "{line}");
        assert!(told.insert(quoted(cells[0]).pop_first().unwrap(), quoted(cells[1])).is_none(), "{line}");
    }
    let mut found = BTreeMap::new();
    for (name, labels) in exported.labels {
        let histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
        let labels = labels.into_iter().filter(|label| !["le", "executor"].contains(&label.as_str())).collect();
        found.insert(histogram.unwrap_or(&name).to_owned(), labels);
    }
    assert_eq!(told, found);
}

#[test]
fn a_name_or_label_that_is_not_there_is_seen() {
    let labels = |list: &[&str]| list.iter().map(|label| label.to_string()).collect::<BTreeSet<_>>();
    let exported = Exported::from([
        ("executor_up".to_owned(), labels(&["executor"])),
        ("executor_lanes".to_owned(), labels(&["executor", "state"])),
    ]);
    let count = |expression: &str| complaints(expression, &exported).0.len();
    for right in [
        "executor_up == 0",
        "executor_lanes{state=~\"executor_x|{y\"} > 0",
        "sum by (job, state) (executor_lanes{executor=~\"$executor\"})",
        "executor_lanes > on (executor) group_left () executor_up",
    ] {
        assert_eq!(count(right), 0, "{right}");
    }
    for wrong in [
        "executor_ups == 0",
        "up == 0",
        "executor_lanes{stat=\"x\"}",
        "executor_up{state=\"x\"}",
        "sum by (lane) (executor_lanes)",
        "sum by (state) (executor_lanes",
        "executor_lanes > on (executer) executor_up",
    ] {
        assert_eq!(count(wrong), 1, "{wrong}");
    }
    assert_eq!(places("{{executor}} at {{ $labels.lane }}", "$labels."), ["lane"]);
    assert_eq!(places("{{executor}} p99 {{ le }}", ""), ["executor", "le"]);
}
