//! Every view of `shm-dump` on instances in every state: what it says to people is held against snapshots, what it says to
//! programs against the schema.
//!
//! After a change on purpose: `INSTA_UPDATE=always cargo test -p executord --test view_snapshots`, and read the difference.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod specimens;
mod support;

use serde_json::Value;
use specimens::Specimen;
use support::{Folder, json_of, shm_dump};

/// A view: its name in the schema, its arguments, and whether there is one of a copy.
const VIEWS: [(&str, &[&str], bool); 10] = [
    ("list", &["list"], true),
    ("show", &["show"], true),
    ("lanes", &["lanes", "--sort", "depth"], true),
    ("handlers", &["handlers", "--sort", "tasks"], true),
    ("slow", &["slow"], true),
    ("events", &["events", "--last", "1000"], true),
    ("errors", &["errors"], true),
    ("records", &["records", "--last", "4"], true),
    ("diff", &["diff", "--interval", "20ms"], false),
    ("watch", &["watch", "--interval", "20ms", "--count", "2"], false),
];

/// What differs from one run to the next, and what stands for it; in this order.
const DIFFERENT: [(&str, &str); 22] = [
    // Which tasks were slow, and how often a worker slept, is the machine's business.
    (r"(?m)^.*  (?:slept|gap|slow task)  .*\n", ""),
    (r"\d[\d,]* events? of [\d,]+", "[events] of [events]"),
    (r"(?m)^ *(\S+ [mun]?s +){3}(\S+) .*? (?:done|failed|malformed) .*\n", ""),
    (r"shm-dump why (\S+) \d+/\d+", "shm-dump why $1 [task]"),
    (r"(?m)^ *[\d,]+ ticks .*\n", ""),
    (
        r"(?m)^ *(\S+ [mun]?s (?:ago|before the last)|the last|-) +(started|stopping|lane taken|lane left|lane reset|answered) ",
        "[ago] $2 ",
    ),
    (r"test-(\w+)-\d+-\d+", "test-$1"),
    (r"(?m)^(\s+\d+\.\d\s.*)$", "[a line of watch]"),
    (r", slept [^\n;]*", ""),
    (r"; the kernel refuses [^\n]*", ""),
    (r"(?m)^  lane \d+: [\d,]+ wake-ups? for its producers.*\n", ""),
    (r", asleep", ""),
    (r"pid \d+", "pid [pid]"),
    (r"((?:alive|dead|copy)\S*(?:, \w+)?)  +\d+  ", "$1  [pid]  "),
    (r"\b[0-9a-f]{16}\b", "[hex]"),
    (r"\b(?:just now|\d+ s ago|\d+ min ago)", "[ago]"),
    (r"\+?\b\d+m\d\ds\b|\+?\b\d[\d.,]* (?:ns|us|ms|s)\b", "[time]"),
    (r"\b\d[\d.,]* a second", "[rate] a second"),
    (r"(?m)^(0 +\d+ +)\S+ +(?:\d+ %|-) +\d+ +\d+ +\d+$", "$1[a worker]"),
    (r"clock (?:tsc|monotonic)", "clock [clock]"),
    (r"/\S*executord-corrupt-[\w-]+", "[folder]"),
    (r"  +", "  "),
];

#[track_caller]
fn hold_views_against_snapshots(specimen: &Specimen) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (from, to) in DIFFERENT {
        settings.add_filter(from, to);
    }
    for (view, arguments, is_of_copies) in VIEWS {
        if specimen.copy.is_some() && !is_of_copies {
            continue;
        }
        let output = specimen.run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{view}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains('\u{1b}'), "{text:?}: no escape in a pipe");
        settings.bind(|| insta::assert_snapshot!(format!("{}_{view}", specimen.kind), text));
    }
}

#[test]
fn a_live_instance_looks_as_its_snapshots() {
    hold_views_against_snapshots(&Specimen::live());
}

#[test]
fn an_idle_instance_looks_as_its_snapshots() {
    hold_views_against_snapshots(&Specimen::idle());
}

#[test]
fn a_saturated_instance_looks_as_its_snapshots() {
    hold_views_against_snapshots(&Specimen::saturated());
}

#[test]
fn a_crashed_instance_looks_as_its_snapshots() {
    hold_views_against_snapshots(&Specimen::crashed());
}

#[test]
fn a_corrupt_instance_looks_as_its_snapshots() {
    hold_views_against_snapshots(&Specimen::corrupt());
}

fn schema() -> Value {
    let output = shm_dump().arg("schema").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    json_of(&output)
}

/// What a view prints is held against its definition.
fn validator(schema: &Value, view: &str) -> jsonschema::Validator {
    let mut schema = schema.clone();
    schema.as_object_mut().unwrap().remove("anyOf");
    schema["$ref"] = format!("#/$defs/{view}").into();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn assert_valid(validator: &jsonschema::Validator, printed: &Value, what: &str) {
    let errors: Vec<String> =
        validator.iter_errors(printed).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}\n{printed:#}");
}

#[test]
fn what_every_view_prints_as_json_is_what_the_schema_says() {
    let schema = schema();
    let folder = Folder::new("schema");
    for specimen in Specimen::all() {
        for (view, arguments, is_of_copies) in VIEWS {
            if specimen.copy.is_some() && !is_of_copies {
                continue;
            }
            let output = specimen.run(&[arguments, &["--json"]].concat());
            assert!(output.status.success() && output.stderr.is_empty(), "{view}: {output:?}");
            let validator = validator(&schema, view);
            let printed: Vec<Value> =
                serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>().unwrap();
            assert!(!printed.is_empty(), "{view}");
            for printed in printed {
                assert_valid(&validator, &printed, &format!("{view} of {}", specimen.kind));
            }
        }
        if specimen.copy.is_none() {
            let into = folder.0.join(specimen.kind);
            let saved = specimen.look(&["save", into.to_str().unwrap()]);
            assert_valid(&validator(&schema, "save"), &saved, specimen.kind);
        }
    }
}

#[test]
fn a_key_that_the_schema_does_not_tell_of_is_no_valid_output() {
    let specimen = Specimen::idle();
    let schema = schema();
    for (view, list) in [("show", "workers"), ("lanes", "lanes"), ("handlers", "handlers")] {
        let validator = validator(&schema, view);
        let printed = specimen.look(&[view]);
        assert!(validator.is_valid(&printed));
        let mut more = printed.clone();
        more[list][0]["secret"] = 1.into();
        let mut less = printed.clone();
        less[list][0].as_object_mut().unwrap().shift_remove("lane");
        less.as_object_mut().unwrap().shift_remove("instance");
        let mut other = printed;
        other["instance"] = 5.into();
        assert!([more, less, other].iter().all(|wrong| !validator.is_valid(wrong)), "{view}");
    }
}

#[test]
fn the_schema_tells_of_every_key_what_it_means_and_allows_no_other() {
    /// Objects with keys of their own.
    fn walk(at: &str, schema: &Value, seen: &mut usize) {
        if let Some(keys) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], false, "{at}");
            for (key, told) in keys {
                *seen += 1;
                let words = told["description"].as_str().unwrap_or_default();
                assert!(words.ends_with('.') && words.len() > 5, "{at}.{key} is not described: {told}");
            }
        }
        match schema {
            Value::Object(map) => map.iter().for_each(|(key, below)| walk(&format!("{at}/{key}"), below, seen)),
            Value::Array(list) => list.iter().for_each(|below| walk(at, below, seen)),
            _ => {}
        }
    }
    let schema = schema();
    assert!(jsonschema::draft202012::meta::is_valid(&schema));
    let mut seen = 0;
    walk("", &schema, &mut seen);
    assert!(seen > 100, "{seen} keys");
    for (view, ..) in VIEWS {
        assert!(schema["$defs"][view]["description"].as_str().unwrap().contains(&format!("shm-dump {view}")), "{view}");
    }
}

#[test]
fn a_task_that_waits_is_told_what_stands_before_it() {
    for specimen in [Specimen::saturated(), Specimen::crashed()] {
        let show = specimen.look(&["show"]);
        let flight = &show["lanes"][0]["in_flight"]["position"];
        let next = (flight.as_u64().unwrap() + 1).to_string();
        let why = |more: &[&str]| {
            let name = specimen.sidecar.instance.as_str();
            shm_dump().args([&["why", name, "0", &next], more].concat()).output().unwrap()
        };
        let output = why(&["--json"]);
        assert_valid(&validator(&schema(), "why"), &json_of(&output), specimen.kind);
        let text = String::from_utf8(why(&[]).stdout).unwrap();
        assert!(text.contains("0 tasks before it in its lane wait as well"), "{text}");
        let (running, nobody) = ("its worker runs task", "no sidecar serves it");
        assert_eq!(
            (text.contains(running), text.contains(nobody)),
            (specimen.kind == "saturated", specimen.kind != "saturated"),
            "{text}"
        );
    }
}

#[test]
fn a_slow_task_is_told_in_full_by_itself() {
    let specimen = Specimen::live();
    let slow = specimen.look(&["slow"]);
    let tasks = slow["tasks"].as_array().unwrap();
    assert!(tasks.len() >= 8, "the slowest of ten, and those over the threshold");
    for task in tasks {
        let sum = |part: &str| task[part].as_object().unwrap().values().map(|ns| ns.as_u64().unwrap()).sum::<u64>();
        let whole = |key: &str| task[key].as_u64().unwrap();
        assert_eq!((sum("wait"), sum("run")), (whole("wait_ns"), whole("run_ns")), "{task}");
        assert_eq!(whole("wait_ns") + whole("run_ns"), whole("total_ns"), "{task}");
        let name = specimen.sidecar.instance.as_str();
        let (lane, position) = (task["lane"].to_string(), task["position"].to_string());
        let output = shm_dump().args(["why", name, &lane, &position, "--json"]).output().unwrap();
        let why = json_of(&output);
        assert_valid(&validator(&schema(), "why"), &why, "why");
        assert_eq!(&why["slow"], task);
        let text = shm_dump().args(["why", name, &lane, &position]).output().unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("from submit to end") && text.contains("what would help: "), "{text}");
    }
    let output = shm_dump().args(["why", specimen.sidecar.instance.as_str(), "0", "999"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("nothing is known of task 999 of lane 0"), "{error}");
}
