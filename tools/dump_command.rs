//! `shm-dump` as its users see it: instances that live, died and never were.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::Stdio;

use executor_client::TaskDescriptor;
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX};
use serde_json::Value;
use support::{Sidecar, assert_refused, eventually, files_with, instance, json_of, shm_dump};

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
fn what_cannot_be_shown_is_refused_in_one_line_with_the_cure() {
    let refused = |arguments: &[&str]| shm_dump().args(arguments).output().unwrap();
    assert_refused(&refused(&["show", instance("none").as_str()]), 1, "shm-dump list");
    assert_refused(&refused(&["shw"]), 2, "list and show");
    assert_refused(&refused(&["show", "a.b"]), 2, "letters, digits");
    assert_refused(&refused(&["list", "--jsno"]), 2, "--json");
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
