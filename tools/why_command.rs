//! `shm-dump why` and `slow` as their users see them: which task is meant, and which reason holds.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::process::Output;

use executor_client::{Client, TaskDescriptor};
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX};
use serde_json::Value;
use support::{Folder, Sidecar, assert_refused, eventually, files_with, instance, json_of, shm_dump};

fn run(arguments: &[&str]) -> Output {
    shm_dump().args(arguments).output().unwrap()
}

#[track_caller]
fn look(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    json_of(&output)
}

#[track_caller]
fn text(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn submit(client: &mut Client, handler: u32, request: u64) {
    client.try_submit(&TaskDescriptor::new(handler), &request.to_le_bytes()).unwrap();
}

fn collect(client: &mut Client) {
    eventually("an answer", || client.try_collect().unwrap().is_some());
}

/// One lane; its first owner's task was slow and is gone, its second owner did not take the answer to the first of its own,
/// whose id comes along.
fn two_owners(what: &str) -> (Sidecar, Client, String) {
    let sidecar = Sidecar::start(&instance(what), &["--lanes", "1", "--capacity", "8", "--slow-after", "1ms"]);
    let name = sidecar.instance.as_str();
    let mut first = sidecar.connect();
    submit(&mut first, SPIN, 5_000_000);
    collect(&mut first);
    drop(first);
    eventually("a free lane", || look(&["show", name])["lanes"][0]["state"] == "free");
    let mut second = sidecar.connect();
    submit(&mut second, ECHO, 0);
    eventually("an answer", || look(&["show", name])["lanes"][0]["completed"] == 1);
    let id = look(&["records", name])["lanes"][0]["tasks"][0]["task_id"].as_str().unwrap().to_owned();
    assert_ne!(id, "0/0");
    (sidecar, second, id)
}

#[test]
fn a_slow_task_of_an_earlier_owner_is_told_by_its_id_and_pointed_at_by_its_position() {
    let (sidecar, _second, id) = two_owners("owners");
    let name = sidecar.instance.as_str();
    let slow_spin = ["slow", name, "--handler", "spin"];
    let (slow, hint) = (look(&slow_spin), format!("shm-dump why {name} 0/0\n"));
    let first = &slow["tasks"][0];
    assert_eq!((&first["task_id"], &first["handler"]), (&"0/0".into(), &"spin".into()), "{slow:#}");
    assert!(text(&slow_spin).ends_with(&hint), "{}", text(&slow_spin));
    assert_eq!(&look(&["why", name, "0/0"])["slow"], first);
    assert!(text(&["why", name, "0/0"]).contains("an earlier owner of the lane submitted it"));
    let present = look(&["why", name, "0", "0"]);
    assert_eq!((&present["task_id"], &present["earlier"][0]), (&id.as_str().into(), &"0/0".into()), "{present:#}");
    let told = text(&["why", name, "0", "0"]);
    assert!(told.contains(&format!("({id}), handler `echo`")) && told.ends_with(&hint), "{told}");
    let by_id = look(&["why", name, &id]);
    assert_eq!((&by_id["slow"], &by_id["ring"]), (&present["slow"], &present["ring"]));

    let folder = Folder::new("why");
    let from = folder.0.to_str().unwrap();
    assert!(run(&["save", from, name]).status.success());
    let hint = format!("shm-dump why {name} 0/0 --from {from}\n");
    assert!(text(&[&slow_spin[..], &["--from", from]].concat()).ends_with(&hint));
    assert!(text(&["why", name, "0", "0", "--from", from]).ends_with(&hint));
    assert_eq!(&look(&["why", name, "0/0", "--from", from])["slow"], first);
}

#[test]
fn only_the_present_owner_s_response_is_uncollected() {
    let (sidecar, mut second, id) = two_owners("uncollected");
    let name = sidecar.instance.as_str();
    let uncollected = || {
        let slow = look(&["slow", name]);
        let tasks = slow["tasks"].as_array().unwrap().iter();
        tasks.filter(|task| task["uncollected"] == true).map(|task| task["task_id"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(uncollected(), [id.as_str()]);
    assert_eq!(look(&["why", name, "0/0"])["uncollected"], false);
    assert!(!text(&["why", name, "0/0"]).contains("not collected yet"));
    assert!(text(&["why", name, &id]).contains("its response was not collected yet for "));
    collect(&mut second);
    assert_eq!(uncollected(), [""; 0]);
}

#[test]
fn what_names_no_task_is_refused_with_what_does() {
    let sidecar = Sidecar::start(&instance("why"), &["--lanes", "1"]);
    let name = sidecar.instance.as_str();
    assert_refused(&run(&["why", name, "0"]), 2, &format!("shm-dump why {name} 0 POSITION"));
    assert_refused(&run(&["why", name, "0/1", "1"]), 2, &format!("shm-dump why {name} 0/1"));
    assert_refused(&run(&["why", name, "0/1", "--from", "x", "1"]), 2, &format!("shm-dump why {name} 0/1 --from x"));
    for wrong in ["x", "0/", "/1", "0/1/2", "-1"] {
        let output = run(&["why", name, wrong, "1"]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
    }
    assert_refused(&run(&["why", name, "x/1"]), 2, "write for example 0 4711, or 0/4711");
    assert_refused(&run(&["why", name, "0/18446744073709551615"]), 2, "no task has such a number");
    assert_refused(&run(&["why", name, "0/77"]), 1, "nothing is known of task 0/77 of instance");
    for refused in [["why", name, "99", "0"], ["events", name, "--lane", "99"], ["records", name, "--lane", "99"]] {
        assert_refused(&run(&refused), 1, "has no lane 99; shm-dump lanes");
    }
}

#[test]
fn without_recording_or_timing_that_is_the_reason() {
    for (flag, reason) in [
        ("--no-recording", "nothing is recorded, since it was started with --no-recording"),
        ("--no-timing", "tasks are not timed, since it was started with --no-timing"),
    ] {
        let sidecar = Sidecar::start(&instance("reason"), &["--lanes", "1", flag]);
        let name = sidecar.instance.as_str();
        let mut client = sidecar.connect();
        submit(&mut client, ECHO, 0);
        collect(&mut client);
        let slow = text(&["slow", name]);
        assert!(slow.ends_with(&format!("no task is noted as slow: {reason}\n")), "{slow}");
        let why = text(&["why", name, "0", "0"]);
        assert!(why.contains(reason) && !why.contains("slow enough"), "{why}");
        assert_refused(&run(&["why", name, "0", "99"]), 1, reason);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_the_reason() {
    let mut sidecar = Sidecar::start(&instance("unreadable"), &["--lanes", "1", "--capacity", "8"]);
    let name = sidecar.instance.to_string();
    let mut client = sidecar.connect();
    submit(&mut client, SPIN, SPIN_NS_MAX);
    submit(&mut client, ECHO, 0);
    eventually("a task in flight", || look(&["show", &name])["lanes"][0]["in_flight"] != Value::Null);
    sidecar.crash();
    let folder = Folder::new("unreadable");
    let from = folder.0.to_str().unwrap();
    for file in files_with(&format!("executor.{name}.")) {
        fs::copy(format!("/dev/shm/{file}"), folder.0.join(file)).unwrap();
    }
    let gone = |part: &str| {
        let file = files_with(&format!("executor.{name}.")).into_iter().find(|file| file.contains(part)).unwrap();
        fs::remove_file(folder.0.join(&file)).unwrap();
        file
    };
    let why = || run(&["why", &name, "0", "1", "--from", from]);
    let told = String::from_utf8(why().stdout).unwrap();
    assert!(told.contains("1 task before it") || told.contains("0 tasks before it"), "{told}");
    // Without the journal nobody knows what was started.
    gone(".journal");
    let told = String::from_utf8(why().stdout).unwrap();
    assert!(told.contains("waits or runs") && !told.contains("before it"), "{told}");
    let file = gone(".sq");
    assert_refused(&why(), 1, "lane 0 cannot be read: ");
    assert_refused(&why(), 1, &file);
}

#[test]
fn a_lane_that_nobody_owns_has_no_priority_and_no_worker() {
    let sidecar = Sidecar::start(&instance("placed"), &["--lanes", "1"]);
    let name = sidecar.instance.as_str();
    let placed = || {
        let lane = look(&["lanes", name])["lanes"][0].clone();
        (lane["state"].clone(), lane["priority"].clone(), lane["worker"].clone())
    };
    eventually("a free lane", || placed().0 == "free");
    assert_eq!(placed(), ("free".into(), Value::Null, Value::Null));
    let client = sidecar.connect();
    eventually("a lane in use", || placed().0 == "active");
    assert_eq!(placed(), ("active".into(), "normal".into(), 0.into()));
    drop(client);
    eventually("a free lane", || placed().0 == "free");
    assert_eq!(placed(), ("free".into(), Value::Null, Value::Null));
}
