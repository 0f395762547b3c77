//! `shm-dump` as its users see it: instances that live, died and never were.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::Stdio;

use executor_client::TaskDescriptor;
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX, SUM};
use serde_json::Value;
use support::{Sidecar, assert_refused, eventually, executord, files_with, instance, json_of, shm_dump};

fn show(name: &str) -> Value {
    let output = shm_dump().args(["show", name, "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    json_of(&output)
}

fn text_of(arguments: &[&str]) -> String {
    let output = shm_dump().args(arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_cannot_be_written_to_standard_output_is_a_failure() {
    let (sidecar, mut dead) = (Sidecar::start(&instance("full"), &[]), Sidecar::start(&instance("dead"), &[]));
    dead.crash();
    let name = sidecar.instance.as_str();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let views: [&[&str]; 11] = [
        &["list"],
        &["show", name],
        &["show", name, "--json"],
        &["slow", name, "--color", "always"],
        &["watch", name, "--interval", "10ms"],
        &["watch", name, "--interval", "10ms", "--json"],
        &["diff", name, "--interval", "10ms"],
        &["report", name, "--out", "-"],
        &["metrics", name],
        &["schema"],
        &["--help"],
    ];
    for arguments in views {
        let output = shm_dump().args(arguments).stdout(full()).output().unwrap();
        assert_refused(&output, 1, "cannot write to standard output: No space left on device");
    }
    let programs: [&[&str]; 5] = [
        &["load", name, "--seconds", "1", "--json"],
        &["doctor"],
        &["config"],
        &["completions", "bash"],
        &["clean", dead.instance.as_str(), "--dry-run", "--json"],
    ];
    for arguments in programs {
        let output = executord().args(arguments).stdout(full()).output().unwrap();
        assert_refused(&output, 1, "cannot write to standard output: No space left on device");
    }
}

fn listed(name: &str) -> Value {
    let output = shm_dump().args(["list", "--json"]).output().unwrap();
    let all = json_of(&output);
    all.as_array().unwrap().iter().find(|one| one["instance"] == name).unwrap().clone()
}

#[test]
fn a_live_instance_is_shown_with_its_tasks_and_its_owner() {
    let sidecar = Sidecar::start(&instance("live"), &[]);
    let name = sidecar.instance.as_str();
    let mut client = sidecar.connect();
    for number in 0..10u64 {
        client.try_submit(&TaskDescriptor::new(ECHO), &number.to_le_bytes()).unwrap();
        eventually("an answer", || client.try_collect().unwrap().is_some());
    }
    eventually("the sidecar's look at its new lane", || show(name)["lanes"][0]["state"] == "active");
    let shown = show(name);
    assert_eq!((&shown["alive"], &shown["state"]), (&true.into(), &"running".into()));
    assert_eq!((&shown["pid"], &shown["abi"]), (&sidecar.child.id().into(), &1.into()));
    let echo = &shown["handlers"][0];
    assert_eq!((&echo["name"], &echo["id"], &echo["idempotent"]), (&"echo".into(), &ECHO.into(), &true.into()));
    assert_eq!((&echo["tasks"], &echo["by_status"]["done"]), (&10.into(), &10.into()));
    for times in [&echo["queue_ns"], &echo["run_ns"], &shown["lanes"][0]["total_ns"]] {
        assert_eq!(times["count"], 10, "{shown:#}");
        let at = |key: &str| times[key].as_u64().unwrap();
        assert!(at("p50") <= at("p90") && at("p90") <= at("p99") && at("p99") <= at("max"), "{times}");
    }
    let lane = &shown["lanes"][0];
    assert_eq!((&lane["attached"], &lane["owner_pid"]), (&true.into(), &std::process::id().into()));
    assert_eq!((&lane["started"], &lane["completed"], &lane["depth"]), (&10.into(), &10.into(), &0.into()));
    assert_eq!(lane["in_flight"], Value::Null);
    let text = text_of(&["show", name]);
    for part in ["alive", "sha256-block", "10 done", "active, held", &format!("pid {}", std::process::id())] {
        assert!(text.contains(part), "{text}\n does not say {part}");
    }
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
    assert_eq!((&listed(name)["alive"], &listed(name)["lanes_attached"]), (&true.into(), &1.into()));
    assert!(text_of(&["list"]).lines().any(|line| line.starts_with(name) && line.contains("alive")));
}

#[test]
fn a_crashed_instance_tells_which_task_was_running_and_what_waits() {
    let mut sidecar = Sidecar::start(&instance("dead"), &[]);
    let name = sidecar.instance.to_string();
    let mut client = sidecar.connect();
    for _ in 0..3 {
        client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    }
    eventually("a task in flight", || show(&name)["lanes"][0]["in_flight"] != Value::Null);
    let lane = show(&name)["lanes"][0].clone();
    assert_eq!((&lane["in_flight"]["handler"], &lane["in_flight"]["position"]), (&"spin".into(), &0.into()));
    assert!(lane["in_flight"]["running_ns"].as_u64().is_some());
    assert_eq!(lane["depth"], 2);
    sidecar.crash();
    let before = files_with(&name);
    let shown = show(&name);
    assert_eq!((&shown["alive"], &shown["state"]), (&false.into(), &"running".into()));
    assert_eq!(shown["lanes"][0]["in_flight"]["handler"], "spin");
    assert_eq!((&shown["lanes"][0]["depth"], &shown["lanes"][0]["attached"]), (&2.into(), &true.into()));
    let text = text_of(&["show", &name]);
    assert!(text.contains("dead") && text.contains("0: spin") && text.contains("3 tasks wait"), "{text}");
    assert_eq!((&listed(&name)["alive"], &listed(&name)["unanswered"]), (&false.into(), &3.into()));
    assert_eq!(files_with(&name), before, "looking changes nothing");
}

#[test]
fn the_last_tasks_of_a_lane_are_told_as_they_are_living_and_dead() {
    let mut sidecar = Sidecar::start(&instance("records"), &[]);
    let name = sidecar.instance.to_string();
    let mut client = sidecar.connect();
    let lane = client.lane_number();
    for (handler, length) in [(ECHO, 8), (ECHO, 40), (SUM, 9)] {
        client.try_submit(&TaskDescriptor::new(handler), &vec![0; length]).unwrap();
        eventually("an answer", || client.try_collect().unwrap().is_some());
    }
    client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    client.try_submit(&TaskDescriptor::new(4000), &[]).unwrap();
    eventually("a task in flight", || show(&name)["lanes"][lane as usize]["in_flight"] != Value::Null);
    let records = |last: &str| {
        let lane = lane.to_string();
        let output = shm_dump().args(["records", &name, "--lane", &lane, "--last", last, "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        json_of(&output)
    };
    let of_lane = |records: &Value| records["lanes"][0]["tasks"].as_array().unwrap().clone();
    let tasks = of_lane(&records("4"));
    let told = |key: &str| tasks.iter().map(|task| task[key].clone()).collect::<Vec<Value>>();
    assert_eq!(told("position"), [1, 2, 3, 4]);
    assert_eq!(told("phase"), ["ended", "ended", "in_flight", "waiting"]);
    assert_eq!(told("handler"), [Value::from("echo"), "sum".into(), "spin".into(), Value::Null]);
    assert_eq!(
        (told("handler_id")[3].clone(), told("request_bytes")),
        (4000.into(), [40, 9, 8, 0].map(Value::from).into())
    );
    assert_eq!(told("status"), [Value::from("done"), "failed".into(), Value::Null, Value::Null]);
    assert_eq!(told("response_bytes")[0], 40);
    assert_eq!(told("attempt"), [1.into(), 1.into(), Value::Null, Value::Null]);
    assert_eq!(told("task_id")[0], format!("{lane}/1"));
    let at = |task: usize, key: &str| tasks[task][key].as_u64();
    for task in [0, 1] {
        let stamps = ["submitted_at_ns", "started_at_ns", "completed_at_ns"].map(|key| at(task, key).unwrap());
        assert!(stamps.is_sorted(), "{stamps:?}");
        assert!(at(task, "queue_ns").is_some() && at(task, "run_ns").is_some());
    }
    assert!(at(2, "started_at_ns") >= at(2, "submitted_at_ns") && at(2, "completed_at_ns").is_none());
    assert!(at(3, "submitted_at_ns").is_some() && at(3, "started_at_ns").is_none());
    assert_eq!(of_lane(&records("1000")).len(), 5);
    let text = text_of(&["records", &name]);
    for part in ["alive", "in flight", "waits", "the handler failed", "unknown 4000", " ago", "no tasks"] {
        assert!(text.contains(part), "{text}\n does not say {part}");
    }
    sidecar.crash();
    let before = files_with(&name);
    assert_eq!(of_lane(&records("4")), tasks, "a death changes no record");
    assert!(text_of(&["records", &name]).contains("was in flight"));
    assert_eq!(files_with(&name), before, "looking changes nothing");
}

#[test]
fn what_cannot_be_shown_is_refused_in_one_line_with_the_cure() {
    let refused = |arguments: &[&str]| shm_dump().args(arguments).output().unwrap();
    assert_refused(&refused(&["show", instance("none").as_str()]), 1, "shm-dump list");
    assert_refused(&refused(&["shw"]), 2, "shm-dump show shw");
    assert_refused(&refused(&["show", "a.b"]), 2, "letters, digits");
    assert_refused(&refused(&["list", "--jsno"]), 2, "--json");
    assert_refused(&refused(&["records", instance("none").as_str()]), 1, "shm-dump list");
    assert_refused(&refused(&["records", "--last", "0"]), 2, "--last");
    assert_refused(&refused(&["show", "--last", "3"]), 2, "unexpected argument '--last'");
    assert_refused(&refused(&["list", "--lane", "3"]), 2, "unexpected argument '--lane'");
    let sidecar = Sidecar::start(&instance("lanes"), &[]);
    assert_refused(&refused(&["records", sidecar.instance.as_str(), "--lane", "99"]), 1, "no lane 99");
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = shm_dump().arg("list").stdout(Stdio::from(writer)).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn help_names_the_views_and_the_exit_codes() {
    let help = text_of(&["--help"]);
    assert!(help.contains("shm-dump list") && help.contains("Exit codes"), "{help}");
}

#[test]
fn what_a_worker_does_without_work_is_shown_as_it_was_set() {
    for idle in ["adaptive", "spin", "spin-then-yield", "yield", "sleep"] {
        let sidecar = Sidecar::start(&instance("idle"), &["--idle", idle]);
        let name = sidecar.instance.as_str();
        let worker = &show(name)["workers"][0];
        assert_eq!((&worker["idle"], &worker["sleep"]["overslept"]), (&idle.into(), &0.into()));
        let may_sleep = ["adaptive", "sleep"].contains(&idle);
        let is_asleep = || show(name)["workers"][0]["sleep"]["asleep_ns"] != 0;
        if may_sleep {
            eventually("a sleep", is_asleep);
        }
        assert_eq!(is_asleep(), may_sleep);
        let text = text_of(&["show", name]);
        assert!(text.contains(&format!(", {idle}: serves")), "{text}");
        assert_eq!(text.contains(", slept "), may_sleep, "{text}");
    }
}
