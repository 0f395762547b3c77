//! `shm-dump diff` and `shm-dump watch` as their users see them: rates that are those of what was done in between.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use executor_client::{Client, TaskDescriptor};
use executord::handlers::{ECHO, SUM};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Folder, Sidecar, assert_refused, eventually, files_with, instance, json_of, shm_dump};

fn run(arguments: &[&str]) -> Output {
    shm_dump().args(arguments).output().unwrap()
}

/// A copy by the name `of` in a folder.
fn save(folder: &Folder, of: &str, sidecar: &Sidecar) -> String {
    let path = folder.0.join(of).to_str().unwrap().to_owned();
    let output = run(&["save", &path, sidecar.instance.as_str()]);
    assert!(output.status.success(), "{output:?}");
    path
}

#[track_caller]
fn diff(from: &str, to: &str) -> Value {
    let output = run(&["diff", "--from", from, "--to", to, "--json"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    json_of(&output)
}

fn tasks(client: &mut Client, handler: u32, bytes: usize, count: usize) {
    for _ in 0..count {
        client.try_submit(&TaskDescriptor::new(handler), &vec![0; bytes]).unwrap();
        eventually("an answer", || client.try_collect().unwrap().is_some());
    }
}

fn named<'a>(of: &'a Value, list: &str, key: &str, value: impl Into<Value>) -> &'a Value {
    let value = value.into();
    of[list].as_array().unwrap().iter().find(|one| one[key] == value).unwrap()
}

#[test]
fn two_copies_tell_what_was_done_between_them_and_nothing_else() {
    let sidecar = Sidecar::start(&instance("diff"), &[]);
    let folder = Folder::new("diff");
    let mut client = sidecar.connect();
    tasks(&mut client, ECHO, 8, 5);
    let one = save(&folder, "one", &sidecar);
    tasks(&mut client, ECHO, 8, 10);
    tasks(&mut client, SUM, 9, 1); // no number of u64s
    let two = save(&folder, "two", &sidecar);
    let change = diff(&one, &two);
    assert_eq!(
        (&change["tasks"], &change["by_status"]["done"], &change["by_status"]["failed"]),
        (&11.into(), &10.into(), &1.into())
    );
    let seconds = change["seconds"].as_f64().unwrap();
    assert!((change["tasks_per_second"].as_f64().unwrap() * seconds - 11.0).abs() < 1e-6, "{change:#}");
    let echo = named(&change, "handlers", "name", "echo");
    assert_eq!(
        (&echo["tasks"], &echo["queue_ns"]["count"], &echo["run_ns"]["count"]),
        (&10.into(), &10.into(), &10.into())
    );
    assert_eq!(named(&change, "handlers", "name", "spin")["tasks"], 0);
    let lane = named(&change, "lanes", "lane", client.lane_number());
    assert_eq!((&lane["started"], &lane["depth"], &lane["depth_change"]), (&11.into(), &0.into(), &0.into()));
    assert_eq!((&lane["total_ns"]["count"], &change["total_ns"]["count"]), (&11.into(), &11.into()));
    assert_eq!((&change["workers"][0]["tasks"], &change["starts"]), (&11.into(), &0.into()));
    let none = diff(&two, &two);
    assert_eq!((&none["tasks"], &none["seconds"], &none["tasks_per_second"]), (&0.into(), &0.0.into(), &Value::Null));
    let text = String::from_utf8(run(&["diff", "--from", &one, "--to", &two]).stdout).unwrap();
    for part in ["11 tasks in ", " a second", "not done: 1 failed", "echo"] {
        assert!(text.contains(part), "{text}\n does not say {part}");
    }
    assert!(!text.contains("spin") && !text.contains('\u{1b}'), "{text}");
    // From a copy to now.
    tasks(&mut client, ECHO, 8, 3);
    let now = json_of(&run(&["diff", "--from", &two, "--json"]));
    assert_eq!((&now["tasks"], &now["alive"], &now["lanes_attached"]), (&3.into(), &true.into(), &1.into()));
}

#[test]
fn what_went_through_a_lane_is_counted_over_its_owners_and_over_starts() {
    let name = instance("owners");
    let mut sidecar = Sidecar::start(&name, &["--lanes", "1"]);
    let folder = Folder::new("owners");
    let one = save(&folder, "one", &sidecar);
    let mut first = sidecar.connect();
    tasks(&mut first, ECHO, 8, 3);
    drop(first);
    let mut second = sidecar.connect();
    tasks(&mut second, ECHO, 8, 4);
    sidecar.crash();
    let after = Sidecar::start(&name, &[]);
    tasks(&mut second, ECHO, 8, 2);
    let two = save(&folder, "two", &after);
    let change = diff(&one, &two);
    let lane = named(&change, "lanes", "lane", 0);
    assert_eq!((&lane["started"], &lane["total_ns"]["count"]), (&9.into(), &9.into()), "{change:#}");
    assert!(lane["resets"].as_u64() >= Some(1), "{lane:#}");
    assert_eq!((&change["starts"], &change["tasks"]), (&1.into(), &9.into()));
    let text = String::from_utf8(run(&["diff", "--from", &one, "--to", &two]).stdout).unwrap();
    assert!(text.contains("was started 1 time in between"), "{text}");
}

#[test]
fn samples_that_have_nothing_in_common_are_refused_with_why() {
    let name = instance("lives");
    let mut sidecar = Sidecar::start(&name, &[]);
    let folder = Folder::new("lives");
    let one = save(&folder, "one", &sidecar);
    let two = save(&folder, "two", &sidecar);
    assert_refused(&run(&["diff", "--from", &two, "--to", &one]), 1, "the other way round");
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
    let again = Sidecar::start(&name, &[]);
    let three = save(&folder, "three", &again);
    assert_refused(&run(&["diff", "--from", &one, "--to", &three]), 1, "was made anew between the samples");
    let other = Sidecar::start(&instance("other"), &[]);
    let four = save(&folder, "four", &other);
    assert_refused(&run(&["diff", "--from", &one, "--to", &four]), 1, "there is no instance");
    assert_refused(&run(&["diff", "--to", &one]), 2, "--from <DIR>");
    assert_refused(&run(&["diff", "--from", &one, "--interval", "1s"]), 2, "--interval");
    assert_refused(&run(&["diff", "--interval", "9ms"]), 2, "10ms or more");
    assert_refused(&run(&["diff", instance("none").as_str()]), 1, "shm-dump list");
    assert_refused(&run(&["watch", "--from", &one]), 2, "shm-dump diff --from DIR --to DIR");
    assert_refused(&run(&["watch", "--count", "0"]), 2, "--count");
    assert_refused(&run(&["watch", instance("none").as_str()]), 1, "shm-dump list");
    assert_refused(&run(&["show", "--count", "3"]), 2, "--count");
}

#[test]
fn copies_that_nobody_dated_have_counts_and_no_rates() {
    let mut sidecar = Sidecar::start(&instance("undated"), &[]);
    let folder = Folder::new("undated");
    let copy = |of: &str| {
        let into = folder.0.join(of);
        fs::create_dir(&into).unwrap();
        for file in files_with(&format!("executor.{}.", sidecar.instance)) {
            fs::copy(Path::new("/dev/shm").join(&file), into.join(&file)).unwrap();
        }
        into.to_str().unwrap().to_owned()
    };
    let one = copy("one");
    let mut client = sidecar.connect();
    tasks(&mut client, ECHO, 8, 2);
    let two = copy("two");
    let change = diff(&one, &two);
    assert_eq!(
        (&change["tasks"], &change["seconds"], &change["tasks_per_second"]),
        (&2.into(), &Value::Null, &Value::Null)
    );
    let text = String::from_utf8(run(&["diff", "--from", &one, "--to", &two]).stdout).unwrap();
    assert!(text.contains("2 tasks in between; no rates"), "{text}");
    sidecar.crash();
}

#[test]
fn a_watch_prints_a_line_an_interval_and_its_lines_add_up() {
    let sidecar = Sidecar::start(&instance("watch"), &[]);
    let name = sidecar.instance.as_str();
    let mut client = sidecar.connect();
    tasks(&mut client, ECHO, 8, 1);
    let stop = AtomicBool::new(false);
    let (first, lines, last) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                tasks(&mut client, ECHO, 8, 1);
            }
        });
        let total = || json_of(&run(&["show", name, "--json"]))["tasks"].as_u64().unwrap();
        let first = total();
        let output = run(&["watch", name, "--json", "--interval", "30ms", "--count", "5"]);
        let last = total();
        stop.store(true, Relaxed);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        (first, String::from_utf8(output.stdout).unwrap(), last)
    });
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    let mut sum = 0;
    for (at, line) in lines.iter().enumerate() {
        let tasks = line["tasks"].as_u64().unwrap();
        let seconds = line["seconds"].as_f64().unwrap();
        assert!((line["tasks_per_second"].as_f64().unwrap() * seconds - tasks as f64).abs() < 1e-3, "{line:#}");
        assert_eq!((&line["alive"], &line["instance"]), (&true.into(), &name.into()));
        if at > 0 {
            let between = (line["at_ns"].as_u64().unwrap() - lines[at - 1]["at_ns"].as_u64().unwrap()) as f64 / 1e9;
            assert!((between - seconds).abs() < 1e-6, "a line begins where the one before it ended");
        }
        sum += tasks;
    }
    assert!(sum > 0 && sum <= last - first, "{sum} of {first} to {last}");
    // For people: titles, and nine columns each, four of them without a time once nothing goes on.
    eventually("lines of an idle instance", || {
        let text = String::from_utf8(run(&["watch", name, "--interval", "10ms", "--count", "2"]).stdout).unwrap();
        assert!(text.starts_with("    seconds ") && !text.contains('\u{1b}'), "{text}");
        let columns: Vec<usize> = text.lines().skip(1).map(|line| line.split_whitespace().count()).collect();
        columns == [9, 9] && text.lines().skip(1).all(|line| line.ends_with(" -"))
    });
}

#[test]
fn an_instance_that_goes_is_told_and_watched_on_until_nobody_reads() {
    let name = instance("gone");
    let mut sidecar = Sidecar::start(&name, &[]);
    let mut command = shm_dump();
    command.args(["watch", name.as_str(), "--json", "--interval", "10ms"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["alive"], true);
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
    eventually("its end", || next()["error"].as_str().is_some_and(|why| why.contains("there is no instance")));
    let _again = Sidecar::start(&name, &[]);
    eventually("its return", || next()["error"].as_str().is_some_and(|why| why.contains("is there again")));
    eventually("its life", || next()["alive"] == true);
    drop(lines);
    let mut ended = None;
    eventually("the end of a watch that nobody reads", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert!(ended.unwrap().success(), "a reader that has gone is no error");
}

#[test]
fn two_looks_at_a_living_instance_see_what_is_done_between_them() {
    let sidecar = Sidecar::start(&instance("looks"), &[]);
    let mut client = sidecar.connect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                tasks(&mut client, ECHO, 8, 1);
            }
        });
        eventually("tasks between two looks", || {
            let output = run(&["diff", sidecar.instance.as_str(), "--interval", "20ms", "--json"]);
            let change = json_of(&output);
            assert!(change["seconds"].as_f64() >= Some(0.02), "{change:#}");
            change["tasks"].as_u64() > Some(0)
        });
        stop.store(true, Relaxed);
    });
}
