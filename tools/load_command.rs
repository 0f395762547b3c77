//! `executord load` as its users see it: against sidecars that serve, stall, fail and die.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use executor_client::InstanceName;
use executor_core::cpu::allowed_cpus;
use executor_shm::inspect::Inspector;
use executor_shm::layout::lane as lane_words;
use executord::handlers::{ECHO, SPIN};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Sidecar, assert_refused, eventually, executord, instance, json_of, shm_dump, signal};

fn load(instance: &InstanceName, arguments: &[&str]) -> Command {
    let mut command = executord();
    command.args(["load", instance.as_str()]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(sidecar: &Sidecar, arguments: &[&str]) -> Child {
    load(&sidecar.instance, arguments).args(["--seconds", "3600", "--json"]).spawn().unwrap()
}

/// A load that succeeds, as JSON.
#[track_caller]
fn measure(sidecar: &Sidecar, arguments: &[&str]) -> Value {
    let output = load(&sidecar.instance, arguments).args(["--seconds", "0.2", "--json"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    json_of(&output)
}

fn show(instance: &InstanceName) -> Value {
    json_of(&shm_dump().args(["show", instance.as_str(), "--json"]).output().unwrap())
}

/// Tasks answered in all lanes as their files say, whoever serves them.
fn answered(instance: &InstanceName) -> u64 {
    show(instance)["lanes"].as_array().unwrap().iter().filter_map(|lane| lane["completed"].as_u64()).sum()
}

/// Stops a process and waits until it stands still.
fn freeze(child: &Child) {
    signal(child, Signal::SIGSTOP);
    let stopped = waitpid(Pid::from_raw(child.id() as i32), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
}

#[track_caller]
fn assert_in_order(times: &Value) {
    let at = |key: &str| times[key].as_u64().unwrap_or_else(|| panic!("{key} in {times}"));
    let all = ["p50", "p90", "p99", "p999", "p9999", "max"].map(at);
    assert!(all.is_sorted() && all[0] > 0, "{times}");
}

#[test]
fn a_closed_loop_measures_every_part_and_counts_what_the_sidecar_counts() {
    let sidecar = Sidecar::start(&instance("load"), &[]);
    let report = measure(&sidecar, &["--window", "8", "--producers", "2"]);
    for times in ["latency_ns", "queue_ns", "run_ns", "return_ns"] {
        assert_in_order(&report[times]);
    }
    assert!(report["latency_ns"]["max"].as_u64() >= report["queue_ns"]["max"].as_u64(), "{report:#}");
    let tasks = report["tasks"].as_u64().unwrap();
    assert_eq!((&report["by_status"]["done"], &report["unanswered"]), (&tasks.into(), &0.into()), "{report:#}");
    assert_eq!((&report["window"], &report["rate"], &report["late_ns"]), (&8.into(), &Value::Null, &Value::Null));
    assert_eq!((&report["request_bytes"], &report["warm_up_ns"]), (&32.into(), &20_000_000.into()));
    assert!(report["elapsed_ns"].as_u64().unwrap() >= 200_000_000, "{report:#}");
    let counted = show(&sidecar.instance)["by_status"]["done"].as_u64().unwrap();
    assert!(0 < tasks && tasks <= counted, "{tasks} measured, {counted} served, the warm-up among them");
    let text = load(&sidecar.instance, &["--seconds", "0.1"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for part in ["handler echo (1)", "requests of 32 B", "all done", "warm-up", "waited in the lane", "p99.99"] {
        assert!(text.contains(part), "{text}\n does not say {part}");
    }
}

#[test]
fn an_open_loop_sends_what_was_asked_for() {
    let sidecar = Sidecar::start(&instance("load"), &[]);
    let report = measure(&sidecar, &["--rate", "1000", "--producers", "2"]);
    // 200 tasks are due in 0.2 s; on a machine that is too busy for them the report says which were not sent.
    assert_eq!(report["tasks"].as_u64().unwrap() + report["unsent"].as_u64().unwrap(), 200, "{report:#}");
    assert_eq!(report["rate_kept"], report["unsent"] == 0, "{report:#}");
    assert_in_order(&report["latency_ns"]);
    assert!(report["latency_ns"]["max"].as_u64() >= report["late_ns"]["max"].as_u64(), "{report:#}");
}

#[test]
fn a_stall_counts_for_every_task_that_was_due_meanwhile() {
    // With two slots only two tasks are in flight while the sidecar stands: whoever measures from the submit sees two
    // slow tasks, and all the others that clients would have wanted answered in vain.
    let sidecar = Sidecar::start(&instance("stall"), &["--capacity", "2"]);
    let child = start(&sidecar, &["--rate", "1000"]);
    eventually("the end of the warm-up", || answered(&sidecar.instance) >= 600);
    freeze(&sidecar.child);
    let frozen = Instant::now();
    while frozen.elapsed() < Duration::from_millis(500) {
        std::thread::yield_now(); // the stall itself, not a wait for anything
    }
    let stall = frozen.elapsed();
    signal(&sidecar.child, Signal::SIGCONT);
    let stalled_at = answered(&sidecar.instance);
    eventually("what was due meanwhile", || answered(&sidecar.instance) >= stalled_at + 500);
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report = json_of(&output);
    let at = |key: &str| Duration::from_nanos(report["latency_ns"][key].as_u64().unwrap());
    // A task was due within a millisecond after the stop, and could not be answered before its end.
    assert!(at("max") + Duration::from_millis(1) >= stall, "{stall:?}: {report:#}");
    // So were those due in the first half of it, some 250: if they are more than a hundredth of all, the p99 is theirs.
    let tasks = report["tasks"].as_u64().unwrap();
    assert!(tasks > 20_000 || at("p99") >= stall / 2, "{tasks} tasks, {stall:?}: {report:#}");
    assert!(report["rejected_full"].as_u64().unwrap() > 0, "{report:#}");
    assert!(report["late_ns"]["max"].as_u64().unwrap() > 0, "{report:#}");
}

#[test]
fn a_rate_that_cannot_be_kept_is_told_and_not_measured_away() {
    let sidecar = Sidecar::start(&instance("over"), &["--capacity", "2"]);
    let report = measure(&sidecar, &["--rate", "100000000"]);
    assert_eq!(report["rate_kept"], false, "{report:#}");
    assert!(report["tasks"].as_u64().unwrap() > 0 && report["unsent"].as_u64().unwrap() > 1_000_000, "{report:#}");
    assert!(report["tasks_per_second"].as_f64().unwrap() < 1e8, "{report:#}");
    // The last tasks were sent when they had been due for most of the run.
    assert!(report["latency_ns"]["max"].as_u64().unwrap() >= 100_000_000, "{report:#}");
    let text = load(&sidecar.instance, &["--rate", "100000000", "--seconds", "0.1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("THE RATE WAS NOT KEPT"), "{text:?}");
}

#[test]
fn a_sidecar_that_goes_down_ends_the_load_which_says_what_stays_accepted() {
    for (stop, pace) in [
        (Signal::SIGKILL, ["--window", "8"]),
        (Signal::SIGKILL, ["--rate", "100000"]),
        (Signal::SIGTERM, ["--window", "8"]),
    ] {
        let mut sidecar = Sidecar::start(&instance("down"), &[]);
        let child = start(&sidecar, &pace);
        eventually("some answers", || answered(&sidecar.instance) >= 100);
        signal(&sidecar.child, stop);
        let output = child.wait_with_output().unwrap();
        sidecar.child.wait().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("went down") && stderr.contains("executord run"), "{stderr}");
        let report = json_of(&output);
        assert_eq!((&report["down"], &report["interrupted"]), (&true.into(), &false.into()), "{report:#}");
        let left = json_of(&shm_dump().args(["list", "--json"]).output().unwrap());
        let left = left.as_array().unwrap().iter().find(|one| one["instance"] == sidecar.instance.as_str()).unwrap();
        assert_eq!(report["unanswered"], left["unanswered"], "{stop} with {pace:?}: {report:#}");
    }
}

#[test]
fn a_lane_that_is_damaged_under_the_load_ends_it_which_says_so() {
    let sidecar = Sidecar::start(&instance("damaged"), &["--capacity", "64"]);
    let child = start(&sidecar, &["--window", "8"]);
    eventually("some answers", || answered(&sidecar.instance) >= 100);
    freeze(&sidecar.child);
    let full = || show(&sidecar.instance)["lanes"].as_array().unwrap().iter().find(|lane| lane["depth"] == 8).cloned();
    eventually("a full window", || full().is_some());
    let lane = full().unwrap();
    let (number, served) = (&lane["lane"], lane["completed"].as_u64().unwrap());
    let name = format!("executor.{}.lane-{number}-", sidecar.instance);
    let mut files = std::fs::read_dir("/dev/shm").unwrap().map(|file| file.unwrap().path());
    let file = files.find(|path| path.to_str().is_some_and(|p| p.contains(&name) && p.ends_with(".sq"))).unwrap();
    let file = std::fs::File::options().write(true).open(file).unwrap();
    for position in served..served + 8 {
        let slot = lane_words::SLOTS as u64 + position % 64 * 8;
        file.write_all_at(&u64::MAX.to_le_bytes(), slot * 8).unwrap();
    }
    signal(&sidecar.child, Signal::SIGCONT);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("was damaged from outside") && stderr.contains("unanswered"), "{stderr}");
}

#[test]
fn a_restart_that_the_load_slept_through_is_told() {
    let mut sidecar = Sidecar::start(&instance("again"), &[]);
    let child = start(&sidecar, &["--window", "4"]);
    eventually("some answers", || answered(&sidecar.instance) >= 100);
    freeze(&child);
    sidecar.crash();
    let next = Sidecar::start(&sidecar.instance, &[]);
    let before = answered(&next.instance);
    signal(&child, Signal::SIGCONT);
    eventually("answers of the next sidecar", || answered(&next.instance) > before + 100);
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    let report = json_of(&output);
    assert_eq!((&report["restarts"], &report["down"]), (&1.into(), &false.into()), "{report:#}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("was restarted"), "{output:?}");
}

#[test]
fn ctrl_c_prints_what_was_measured_also_while_the_sidecar_stands_still() {
    for is_frozen in [false, true] {
        let sidecar = Sidecar::start(&instance("stop"), &[]);
        // A task a millisecond: 700 of them are past the warm-up of 500 ms.
        let child = start(&sidecar, &["--rate", "1000"]);
        eventually("the end of the warm-up", || answered(&sidecar.instance) >= 700);
        if is_frozen {
            freeze(&sidecar.child);
            eventually("an unanswered task", || {
                show(&sidecar.instance)["lanes"].as_array().unwrap().iter().any(|lane| lane["depth"].as_u64() > Some(0))
            });
        }
        signal(&child, Signal::SIGINT);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        let report = json_of(&output);
        assert_eq!((&report["interrupted"], &report["down"]), (&true.into(), &false.into()), "{report:#}");
        assert!(report["tasks"].as_u64().unwrap() > 0, "{report:#}");
        assert_eq!(report["unanswered"].as_u64().unwrap() > 0, is_frozen, "{report:#}");
    }
}

#[test]
fn a_task_that_does_not_end_well_is_named_and_fails_the_load() {
    let sidecar = Sidecar::start(&instance("fail"), &[]);
    let arguments = ["--handler", "sum", "--bytes", "9", "--seconds", "0.1", "--json"];
    let output = load(&sidecar.instance, &arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("did not end as done") && stderr.contains("8 bytes a number"), "{stderr}");
    let report = json_of(&output);
    assert_eq!(report["by_status"]["failed"], report["tasks"], "{report:#}");
}

#[test]
fn the_size_and_the_id_of_a_handler_are_its_own() {
    let sidecar = Sidecar::start(&instance("size"), &["--no-timing"]);
    let report = measure(&sidecar, &["--handler", "6"]);
    assert_eq!((&report["handler"], &report["request_bytes"]), (&"spin".into(), &8.into()));
    assert_in_order(&report["latency_ns"]);
    assert_eq!(
        [&report["queue_ns"], &report["run_ns"], &report["return_ns"]],
        [&Value::Null; 3],
        "no stamps, no parts"
    );
    assert_eq!(measure(&sidecar, &["--handler", "sha256-block"])["request_bytes"], 64);
    assert_in_order(&measure(&sidecar, &["--rate", "500"])["latency_ns"]);
}

#[test]
fn producers_that_share_a_cpu_are_told_so() {
    let sidecar = Sidecar::start(&instance("cpu"), &[]);
    let cpu = allowed_cpus().unwrap()[0];
    let report = measure(&sidecar, &["--producers", "2", "--cpu", &cpu.to_string()]);
    assert_eq!(report["cpus"], Value::from([cpu, cpu]));
    assert!(report["note"].as_str().unwrap().contains(&format!("share CPU {cpu} ")), "{report:#}");
}

#[test]
fn what_cannot_be_measured_is_refused_in_one_line_with_the_cure() {
    let sidecar = Sidecar::start(&instance("wrong"), &["--lanes", "2", "--capacity", "64"]);
    let cases: [(&[&str], i32, &str); 17] = [
        (&["--handler", "nix"], 2, "sha256-block (5)"),
        (&["--handler", "spin", "--bytes", "9"], 2, "leave --bytes out"),
        (&["--bytes", "4KiB"], 2, "--request-bytes"),
        (&["--bytes", "many"], 2, "64KiB"),
        (&["--window", "65"], 2, "64 slots"),
        (&["--window", "0"], 2, "1..=65536"),
        (&["--window", "2", "--rate", "2"], 2, "--rate"),
        (&["--spin", "61s"], 2, "60 s at most"),
        (&["--every", "5"], 2, "--spin"),
        (&["--spin", "1s", "--every", "0"], 2, "1.."),
        (&["--collect-after", "1s"], 2, "--rate"),
        (&["--rate", "0"], 2, "1..=100000000"),
        (&["--seconds", "0"], 2, "0.5"),
        (&["--seconds", "soon"], 2, "0.5"),
        (&["--producers", "0"], 2, "--producers"),
        (&["--cpu", "1023"], 2, "online are"),
        (&["--producers", "3"], 1, "raise --lanes"),
    ];
    for (arguments, code, cure) in cases {
        assert_refused(&load(&sidecar.instance, arguments).output().unwrap(), code, cure);
    }
    assert_refused(&load(&instance("none"), &[]).output().unwrap(), 1, "executord run");
    let help: Output = executord().args(["load", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for part in ["executord load orders --rate", "latency_ns", "130", "[default: echo]"] {
        assert!(help.contains(part), "{help}\n does not say {part}");
    }
}

#[test]
fn long_tasks_in_between_are_sent_and_hold_up_those_behind_them() {
    let sidecar = Sidecar::start(&instance("between"), &[]);
    let report = measure(&sidecar, &["--window", "4", "--spin", "5ms", "--every", "10"]);
    assert_eq!((&report["spin_ns"], &report["every"]), (&5_000_000.into(), &10.into()), "{report:#}");
    assert!(report["latency_ns"]["max"].as_u64() >= Some(5_000_000), "{report:#}");
    let inspector = Inspector::open(&sidecar.instance).unwrap();
    let ended = |name: &str| {
        let handlers = inspector.look().handlers;
        handlers.iter().find(|handler| handler.row.name == name).unwrap().by_status.iter().sum::<u64>()
    };
    let (echo, spin) = (ended("echo"), ended("spin"));
    assert_eq!(spin, (echo + spin) / 10, "one in ten: {spin} of {}", echo + spin);
    eventually("a task behind a long one", || {
        inspector.recorded().slow.iter().any(|task| (task.handler_id, task.behind_lane.handler_id) == (ECHO, SPIN))
    });
    let text = load(&sidecar.instance, &["--seconds", "0.1", "--spin", "1ms"]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("one task in 100 was a spin of 1.00 ms"), "{text:?}");
}

#[test]
fn answers_that_are_left_where_they_are_fill_the_lane() {
    let sidecar = Sidecar::start(&instance("left"), &["--capacity", "64"]);
    let child = start(&sidecar, &["--rate", "10000", "--collect-after", "60m"]);
    let inspector = Inspector::open(&sidecar.instance).unwrap();
    eventually("a lane full of answers, and a submit that is refused", || {
        inspector.look().lanes.iter().any(|lane| {
            let producer = lane.producer.unwrap_or_default();
            lane.completed == Some(64) && lane.depth == Some(0) && producer.credited == 0 && producer.rejected > 0
        })
    });
    signal(&child, Signal::SIGINT);
    let report = json_of(&child.wait_with_output().unwrap());
    assert_eq!(report["collect_after_ns"], 3_600_000_000_000u64, "{report:#}");
    let report = measure(&sidecar, &["--rate", "1000", "--collect-after", "100ms"]);
    let tasks = report["tasks"].as_u64().unwrap() + report["unsent"].as_u64().unwrap();
    assert_eq!(tasks, 200, "they are collected later, and in the end all of them: {report:#}");
}
