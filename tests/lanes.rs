//! Lanes come, go, run out, and are inherited by forks.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::process::Command;

use executor_client::{Client, ConnectError, ConnectOptions};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::Sum;
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");
const FORKER: &str = env!("CARGO_BIN_EXE_forker");

const SMALL: [&str; 6] = ["--capacity", "8", "--request-bytes", "64", "--response-bytes", "64"];

fn small(lanes: &'static str) -> Vec<&'static str> {
    [&SMALL[..], &["--lanes", lanes]].concat()
}

#[test]
fn a_connect_without_a_free_lane_names_those_that_hold_them() {
    let instance = TestInstance::new("full");
    let _sidecar = process::sidecar(SIDECAR, &instance, &small("2"));
    let mut holders: Vec<Process> = (0..2).map(|_| process::producer(PRODUCER, &instance)).collect();
    let mut lanes: Vec<String> = holders.iter_mut().map(|holder| holder.ask("connect", "lane")).collect();
    for holder in &mut holders {
        holder.ask("submit 1 hello", "accepted");
        holder.ask("collect", "completion"); // served, so the sidecar knows who holds it
    }
    lanes.sort();
    assert_eq!(lanes, ["0", "1"]);
    let error = Client::connect(instance.name()).unwrap_err();
    let ConnectError::NoFreeLane { lanes: 2, holders: named, .. } = &error else { panic!("{error}") };
    for holder in &holders {
        assert!(named.contains(&format!("active by pid {}", holder.pid())), "{named}");
    }
    assert!(error.to_string().contains("raise --lanes") && error.to_string().contains(named), "{error}");
    assert_eq!(holders[0].ask("drop", "dropped"), "");
    Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
}

#[test]
fn a_dropped_client_gives_its_lane_to_the_next() {
    let instance = TestInstance::new("next");
    let sidecar = process::sidecar(SIDECAR, &instance, &small("1"));
    for turn in 0..50 {
        let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
        if turn % 2 == 0 {
            assert_eq!(client.call_timeout::<Sum>(&[turn, 1], FAIL_SAFE), Ok(turn + 1));
        }
    }
    instance.wait_until_deserted();
    sidecar.terminate();
    assert_eq!(sidecar.rest().0, ["ended Removed after 25 tasks"]);
    assert_eq!(instance.files(), [""; 0]);
}

/// Sets processes off that attach and detach `turns` times each.
fn churners(instance: &TestInstance, count: u32, turns: u32) -> Vec<Process> {
    let holders = instance.folder().join("holders");
    std::fs::write(&holders, [0; 8 * CHURNED_LANES as usize]).unwrap();
    let mut producers: Vec<Process> = (0..count).map(|_| process::producer(PRODUCER, instance)).collect();
    for producer in &mut producers {
        producer.tell(&format!("churn {turns} {}", holders.display()));
    }
    producers
}

/// Fewer than there are processes that want one.
const CHURNED_LANES: u32 = 3;

/// Takes the ids of a churner's tasks until it is through; returns how often it found no lane.
fn churned(producer: &mut Process, ids: &mut BTreeSet<u64>) -> u64 {
    loop {
        let line = producer.line();
        match line.split_once(' ').unwrap() {
            ("churned", id) => assert!(ids.insert(id.parse().unwrap()), "task id {id} was given twice"),
            ("refused", count) => return count.parse().unwrap(),
            _ => panic!("{line}"),
        }
    }
}

/// Every lane is there for one owner, and none for one more.
fn every_lane_can_be_had(instance: &TestInstance) {
    let mut owners = Vec::new();
    for _ in 0..CHURNED_LANES {
        owners.push(Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap());
    }
    let mut lanes: Vec<u32> = owners.iter().map(Client::lane_number).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, (0..CHURNED_LANES).collect::<Vec<_>>());
    assert!(matches!(Client::connect(instance.name()), Err(ConnectError::NoFreeLane { .. })));
}

#[test]
fn ten_thousand_attaches_of_eight_processes_lose_no_lane_and_share_none() {
    const TURNS: u32 = 1250;
    let instance = TestInstance::new("churn");
    let sidecar = process::sidecar(SIDECAR, &instance, &small("3"));
    let mut producers = churners(&instance, 8, TURNS);
    let mut ids = BTreeSet::new();
    let refused: u64 = producers.iter_mut().map(|producer| churned(producer, &mut ids)).sum();
    println!("{refused} connects found no lane in a millisecond");
    assert_eq!(ids.len(), 8 * TURNS as usize);
    assert!(refused > 0, "no process ever had to wait for a lane");
    every_lane_can_be_had(&instance);
    drop(producers);
    instance.wait_until_deserted();
    sidecar.terminate();
    assert_eq!(sidecar.rest().0, ["ended Removed after 10000 tasks"]);
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn processes_killed_while_they_attach_and_detach_cost_no_lane_and_no_task() {
    let instance = TestInstance::new("killed");
    let sidecar = process::sidecar(SIDECAR, &instance, &small("3"));
    let mut producers = churners(&instance, 8, 150);
    let mut ids = BTreeSet::new();
    // Wherever each is by then: between two clients, in a connect, with a task on its way.
    for (kill, mut producer) in (0..).zip(producers.drain(..5)) {
        for _ in 0..10 + 13 * kill {
            let id = producer.expect("churned").parse().unwrap();
            assert!(ids.insert(id), "task id {id} was given twice");
        }
        producer.kill();
    }
    for producer in &mut producers {
        churned(producer, &mut ids);
    }
    every_lane_can_be_had(&instance);
    drop(producers);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    let ran = lines[0].strip_prefix("ended Removed after ").and_then(|rest| rest.strip_suffix(" tasks"));
    let ran = ran.unwrap_or_else(|| panic!("{lines:?}")).parse::<usize>().unwrap();
    assert!(ids.len() <= ran, "{} tasks were answered and {ran} ran", ids.len());
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn three_producers_get_each_completion_once_in_order_and_whole() {
    let instance = TestInstance::new("three");
    let sidecar = process::sidecar(
        SIDECAR,
        &instance,
        &["--capacity", "64", "--request-bytes", "128", "--response-bytes", "128"],
    );
    let mut producers: Vec<Process> = (0..3).map(|_| process::producer(PRODUCER, &instance)).collect();
    let lanes: Vec<String> = producers.iter_mut().map(|producer| producer.ask("connect", "lane")).collect();
    assert!(lanes[0] != lanes[1] && lanes[1] != lanes[2] && lanes[0] != lanes[2], "lanes {lanes:?}");
    for (seed, producer) in producers.iter_mut().enumerate() {
        producer.tell(&format!("stream 20000 {seed}"));
    }
    for producer in &mut producers {
        assert_eq!(producer.line(), "streamed 20000");
    }
    drop(producers);
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert!(lines[0].ends_with(" after 60000 tasks"), "{lines:?}");
}

#[test]
fn a_worker_that_is_wished_for_and_missing_is_replaced_by_another() {
    let instance = TestInstance::new("wish");
    let _sidecar = process::sidecar(SIDECAR, &instance, &small("1"));
    let options = ConnectOptions::new().worker(60).timeout(FAIL_SAFE);
    let mut client = options.connect(instance.name()).unwrap();
    assert_eq!(client.call_timeout::<Sum>(&[2, 3], FAIL_SAFE), Ok(5));
}

#[test]
fn a_forked_child_is_refused_and_its_end_costs_the_parent_nothing() {
    let instance = TestInstance::new("fork");
    let sidecar = process::sidecar(SIDECAR, &instance, &small("2"));
    let mut forker = Process::start(Command::new(FORKER).args([instance.name().as_str(), "use"]));
    assert_eq!(forker.line(), "child refused");
    assert_eq!(forker.line(), "child served");
    let lane = forker.expect("parent served");
    // The parent's lane must not have become free by its child's end: two more owners, one lane.
    let other = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    assert_ne!(other.lane_number().to_string(), lane);
    assert!(matches!(Client::connect(instance.name()), Err(ConnectError::NoFreeLane { .. })));
    forker.close();
    assert_eq!(forker.line(), "parent served again");
    drop((forker, other));
    instance.wait_until_deserted();
    sidecar.terminate();
    let (lines, _) = sidecar.rest();
    assert_eq!(lines, ["ended Removed after 4 tasks"]);
}

#[test]
fn a_killed_parent_is_seen_as_gone_while_its_forked_child_lives() {
    let instance = TestInstance::new("orphan");
    let _sidecar = process::sidecar(SIDECAR, &instance, &small("1"));
    let mut forker = Process::start(Command::new(FORKER).args([instance.name().as_str(), "orphan"]));
    let mut lines = [forker.line(), forker.line()];
    lines.sort();
    assert_eq!(lines, ["child refused", "parent waits"]);
    // The child holds the same pipe and ends when the test closes it.
    let pipe = forker.kill_keeping_input();
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    assert_eq!(client.call_timeout::<Sum>(&[4, 5], FAIL_SAFE), Ok(9));
    drop(pipe);
}
