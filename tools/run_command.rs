//! `executord run` and `executord clean` as their users see them.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::Duration;

use executor_client::{Client, Status, TaskDescriptor};
use executord::handlers::{CRC32C, ECHO, SHA256, SHA256_BLOCK, SPIN, SPIN_NS_MAX, SUM, Spin};
use executord::sha256_block::{Chain, Midstate};
use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{Sidecar, assert_refused, executord, files_with, instance, json_of};

/// Runs one task to its end.
fn ask(client: &mut Client, handler: u32, request: &[u8]) -> (Status, Vec<u8>) {
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(handler), request).unwrap();
    let completion = client.wait_timeout(&mut ticket, Duration::from_secs(60)).unwrap();
    (completion.status(), completion.response().to_vec())
}

#[test]
fn the_builtin_handlers_answer_what_the_crates_say() {
    let sidecar = Sidecar::start(&instance("handlers"), &["--request-bytes", "4KiB", "--response-bytes", "4KiB"]);
    let mut client = sidecar.connect();
    for length in [0, 1, 24, 25, 32, 33, 64, 1000, 4096] {
        let data: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
        assert_eq!(ask(&mut client, ECHO, &data), (Status::Done, data.clone()), "{length}");
        let crc = crc32c::crc32c(&data).to_le_bytes().to_vec();
        assert_eq!(ask(&mut client, CRC32C, &data), (Status::Done, crc), "{length}");
        let digest = Sha256::digest(&data).to_vec();
        assert_eq!(ask(&mut client, SHA256, &data), (Status::Done, digest), "{length}");
    }
    let numbers: Vec<u8> = (1..=100u64).flat_map(u64::to_le_bytes).collect();
    assert_eq!(ask(&mut client, SUM, &numbers), (Status::Done, 5050u64.to_le_bytes().to_vec()));
    let (status, text) = ask(&mut client, SUM, &numbers[..9]);
    assert_eq!(status, Status::Failed { code: 0 });
    assert!(String::from_utf8_lossy(&text).contains("8 bytes a number"));
    assert!(client.call::<Spin>(&1_000_000).unwrap() >= 1_000_000);
    let (status, _) = ask(&mut client, SPIN, &(SPIN_NS_MAX + 1).to_le_bytes());
    assert_eq!(status, Status::Failed { code: 0 }, "a spin past the limit would hold the worker");
}

#[test]
fn a_chain_of_block_tasks_ends_in_the_digest_of_the_whole() {
    let sidecar = Sidecar::start(&instance("chain"), &["--request-bytes", "192"]);
    let mut client = sidecar.connect();
    for length in [0, 1, 63, 64, 65, 128, 129, 1000] {
        let data: Vec<u8> = (0..length).map(|i| (i * 31) as u8).collect();
        let mut chain = Chain::default();
        let mut rest = &data[..];
        while chain.digest().is_none() {
            let (chunk, after) = rest.split_at(rest.len().min(128));
            let last = chunk.len() < 128;
            let request = [bytemuck::bytes_of(&chain.header(last)), chunk].concat();
            let (status, answer) = ask(&mut client, SHA256_BLOCK, &request);
            assert_eq!(status, Status::Done);
            chain.advance(bytemuck::pod_read_unaligned::<Midstate>(&answer), chunk.len(), last).unwrap();
            rest = after;
        }
        assert_eq!(chain.digest().unwrap()[..], Sha256::digest(&data)[..], "{length}");
    }
    let short = ask(&mut client, SHA256_BLOCK, &[0; 63]).0;
    assert!(matches!(short, Status::Malformed(_)), "{short}");
}

#[test]
fn a_stop_tells_the_totals_and_leaves_no_file() {
    for stop in [Signal::SIGTERM, Signal::SIGINT] {
        let mut sidecar = Sidecar::start(&instance("stop"), &["--json"]);
        let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
        assert_eq!(started["event"], "started");
        assert_eq!(started["instance"], sidecar.instance.as_str());
        assert_eq!(started["pid"], sidecar.child.id());
        assert!(started["shm_bytes"].as_u64().unwrap() > 0);
        assert!(!files_with(sidecar.instance.as_str()).is_empty());
        let mut client = sidecar.connect();
        for _ in 0..3 {
            assert_eq!(ask(&mut client, ECHO, b"x").0, Status::Done);
        }
        assert!(matches!(ask(&mut client, 4000, b"x").0, Status::Malformed(_)));
        client.close(Duration::from_secs(60), |_| {}).unwrap();
        let (status, rest) = sidecar.stop(stop);
        let stopped: Value = serde_json::from_str(&rest).unwrap();
        assert!(status.success());
        assert_eq!((&stopped["event"], &stopped["files"]), (&"stopped".into(), &"removed".into()), "{rest}");
        assert_eq!((&stopped["tasks"], &stopped["by_status"]["done"]), (&4.into(), &3.into()), "{rest}");
        assert_eq!(stopped["by_status"]["malformed"], 1, "{rest}");
        assert_eq!(files_with(sidecar.instance.as_str()), [""; 0]);
    }
}

#[test]
fn the_first_line_says_how_to_look_and_how_to_stop() {
    let sidecar = Sidecar::start(&instance("line"), &[]);
    let (name, line) = (sidecar.instance.as_str(), &sidecar.first_line);
    assert!(line.contains(&format!("shm-dump show {name}")), "{line}");
    assert!(line.contains(&format!("kill {}", sidecar.child.id())), "{line}");
    assert!(line.contains("in /dev/shm") && line.contains("sha256-block"), "{line}");
}

#[test]
fn a_second_sidecar_of_an_instance_is_refused() {
    let sidecar = Sidecar::start(&instance("twice"), &[]);
    let output = executord().args(["run", sidecar.instance.as_str(), "--unpinned"]).output().unwrap();
    assert_refused(&output, 1, "already running");
}

#[test]
fn wrong_arguments_are_refused_in_one_line_with_the_cure() {
    let cases: [(&[&str], &str); 9] = [
        (&["run", "a.b"], "letters, digits"),
        (&["run", "--capacity", "1000"], "1024"),
        (&["run", "--request-bytes", "100"], "multiple of 64"),
        (&["run", "--lanes", "0"], "1 to 1024"),
        (&["run", "--idle", "doze"], "spin-then-yield"),
        (&["run", "--drain", "soon"], "5s"),
        (&["run", "--cpu", "1023"], "online are"),
        (&["ruin"], "'run'"),
        (&["clean"], "--all"),
    ];
    for (arguments, cure) in cases {
        assert_refused(&executord().args(arguments).output().unwrap(), 2, cure);
    }
}

#[test]
fn a_crashed_instance_is_kept_until_somebody_cleans_it() {
    let mut sidecar = Sidecar::start(&instance("clean"), &[]);
    let name = sidecar.instance.to_string();
    let clean = |more: &[&str]| executord().args(["clean", &name]).args(more).output().unwrap();
    assert_refused(&clean(&["--discard"]), 1, "already running");
    sidecar.crash();
    let dry = clean(&["--dry-run", "--json"]);
    assert_eq!((&json_of(&dry)[0]["removed"], dry.status.code()), (&true.into(), Some(0)));
    assert!(!files_with(&name).is_empty(), "a dry run removes nothing");
    assert!(clean(&[]).status.success());
    assert_eq!(files_with(&name), [""; 0]);
    assert_refused(&clean(&[]), 1, "shm-dump list");
}

#[test]
fn a_crashed_instance_with_unanswered_tasks_is_cleaned_only_by_discard() {
    let mut sidecar = Sidecar::start(&instance("unanswered"), &[]);
    let name = sidecar.instance.to_string();
    let mut client = sidecar.connect();
    client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    sidecar.crash();
    drop(client);
    let kept = executord().args(["clean", &name]).output().unwrap();
    assert_eq!(kept.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&kept.stdout).contains("--discard"), "{kept:?}");
    assert!(!files_with(&name).is_empty());
    assert!(executord().args(["clean", &name, "--discard"]).status().unwrap().success());
    assert_eq!(files_with(&name), [""; 0]);
}
