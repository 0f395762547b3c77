//! `executord demo` as its users see it: every digest right, nothing left behind, however it ends.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use executor_core::cpu::{allowed_cpus, pin_current_thread};
use executor_shm::inspect::{Inspection, list};
use executord::handlers::SHA256_BLOCK;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{Folder, assert_refused, eventually, executord, files_with, json_of, signal};

fn demo(folder: &Path, arguments: &[&str]) -> Output {
    executord().arg("demo").arg(folder).args(arguments).output().unwrap()
}

#[track_caller]
fn assert_good(output: &Output) -> Value {
    let report = json_of(output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["lost"], &report["mismatched"]), (&0.into(), &0.into()), "{report:#}");
    report
}

fn digests(report: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let digests = report["digests"].as_array().unwrap();
    digests.iter().map(|one| (text(&one["path"]), text(&one["sha256"]))).collect()
}

fn digest_of(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_digest_is_right_whatever_the_file() {
    let folder = Folder::new("kinds");
    let sizes = [0, 1, 55, 56, 63, 64, 65, 4095, 4096, 4097, 8192, 100_000];
    for bytes in sizes {
        folder.write(format!("{bytes}"), bytes);
    }
    folder.write(OsString::from_vec(b"not-\xff-utf8".to_vec()), 300);
    folder.write("two words\nand lines", 301);
    std::os::unix::fs::symlink(folder.0.join("65"), folder.0.join("link")).unwrap();
    std::os::unix::fs::symlink(&folder.0, folder.0.join("loop")).unwrap();
    for chunk in ["64", "4KiB", "16KiB"] {
        let report = assert_good(&demo(&folder.0, &["--json", "--digests", "--chunk", chunk, "--producers", "2"]));
        assert_eq!(report["files"], sizes.len() + 2, "{report:#}");
        assert_eq!(report["bytes"], sizes.iter().sum::<usize>() + 300 + 301);
        let expected: BTreeMap<String, String> = fs::read_dir(&folder.0)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.symlink_metadata().unwrap().is_file())
            .map(|path| (text_of(&path), digest_of(&path)))
            .collect();
        assert_eq!(digests(&report), expected);
        let chunk = report["chunk_bytes"].as_u64().unwrap();
        let tasks: u64 = sizes.iter().chain(&[300, 301]).map(|&bytes| bytes as u64 / chunk + 1).sum();
        assert_eq!(report["tasks"], tasks, "a chain has a task for each whole chunk and one for the rest");
    }
}

#[test]
fn sums_are_printed_as_sha256sum_reads_them() {
    let folder = Folder::new("sums");
    folder.write("a", 5000);
    folder.write(OsString::from_vec(b"b-\xff".to_vec()), 10);
    folder.write("c\\d\ne", 20);
    let sums = demo(&folder.0, &["--digests"]);
    assert!(sums.status.success(), "{sums:?}");
    let mut check =
        std::process::Command::new("sha256sum").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), &sums.stdout).unwrap();
    let checked = check.wait_with_output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(checked.stdout.iter().filter(|&&byte| byte == b'\n').count(), 3, "{checked:?}");
}

#[test]
fn the_report_has_every_figure() {
    let folder = Folder::new("figures");
    (0..20).for_each(|number| folder.write(format!("{number}"), 10_000 * number));
    let report = assert_good(&demo(&folder.0, &["--json"]));
    for key in ["tasks_per_second", "bytes_per_second", "echo_ns", "unix_socket_ns"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report:#}");
    }
    // Null where something else keeps the CPUs busy: the bare ping-pong never yields.
    assert!(report["ping_pong_ns"].is_null() || report["ping_pong_ns"].as_f64() > Some(0.0), "{report:#}");
    for times in ["round_trip_ns", "queue_ns", "run_ns", "return_ns"] {
        let at = |key: &str| report[times][key].as_u64().unwrap();
        assert!(at("p50") <= at("p90") && at("p90") <= at("p99"), "{report:#}");
        assert!(at("p99") <= at("p999") && at("p999") <= at("max"), "{report:#}");
    }
    assert!(report["round_trip_ns"]["max"].as_u64() >= report["run_ns"]["max"].as_u64());
    assert_eq!(report["cpus"]["sidecar"].as_array().unwrap().len(), 1);
    assert!(matches!(report["clock"].as_str(), Some("tsc" | "monotonic")));
    let text = demo(&folder.0, &[]);
    let text = String::from_utf8(text.stdout).unwrap();
    for part in ["bare ping-pong", "Unix socket", "tasks/s", "MB/s", "p99.9", "every digest agrees", "shm-dump show"] {
        assert!(text.contains(part), "{text}\n does not say {part}");
    }
}

#[test]
fn the_limit_leaves_files_out_and_says_so() {
    let folder = Folder::new("limit");
    ["a", "b", "c"].into_iter().for_each(|name| folder.write(name, 40_000));
    let report = assert_good(&demo(&folder.0, &["--json", "--limit", "100KB"]));
    assert_eq!((&report["files"], &report["left_out"]), (&2.into(), &1.into()));
    let report = assert_good(&demo(&folder.0, &["--json", "--limit", "0"]));
    assert_eq!((&report["files"], &report["left_out"], &report["tasks"]), (&0.into(), &3.into(), &0.into()));
}

#[test]
fn wrong_arguments_are_refused_in_one_line_with_the_cure() {
    let cases: [(&[&str], &str); 7] = [
        (&["/nowhere/at/all"], "no such file"),
        (&["--limit", "lots"], "256MiB"),
        (&["--chunk", "100"], "multiple of 64"),
        (&["--producers", "0"], "--producers"),
        (&["--jsno"], "--json"),
        (&["--kill", "0"], "milliseconds from 1"),
        (&["--kill", "."], "paths go before --kill"),
    ];
    for (arguments, cure) in cases {
        assert_refused(&executord().arg("demo").args(arguments).output().unwrap(), 2, cure);
    }
}

#[test]
fn an_unprivileged_user_sees_what_could_not_be_read() {
    let folder = Folder::new("unprivileged");
    folder.write("open", 100);
    folder.write("closed", 100);
    fs::create_dir(folder.0.join("locked")).unwrap();
    folder.write("locked/inside", 100);
    for (name, mode) in [("open", 0o644), ("closed", 0), ("locked", 0)] {
        fs::set_permissions(folder.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    // The program may lie where nobody else may go.
    let program = folder.0.join("executord");
    fs::copy(env!("CARGO_BIN_EXE_executord"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = std::process::Command::new(&program);
    command.current_dir("/").arg("demo").arg(&folder.0).args(["--json", "--digests"]);
    if nix::unistd::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let report = assert_good(&command.output().unwrap());
    assert_eq!(report["files"], 2, "{report:#}");
    let skipped: Vec<_> = report["skipped_files"].as_array().unwrap().iter().collect();
    assert_eq!((skipped.len(), &report["skipped"]), (2, &2.into()), "{report:#}");
    for (one, name) in skipped.iter().zip(["closed", "locked"]) {
        assert!(one["path"].as_str().unwrap().ends_with(name) && one["why"] == "permission denied", "{one}");
    }
    fs::set_permissions(folder.0.join("locked"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_without_an_end_is_skipped() {
    let pagemap = Path::new("/proc/self/pagemap"); // a regular file of 0 bytes, and 2^38 to read
    let output = demo(pagemap, &["--json", "/proc/self/cmdline"]);
    let report = assert_good(&output);
    assert_eq!((&report["files"], &report["skipped"]), (&1.into(), &1.into()), "{report:#}");
    assert!(report["skipped_files"][0]["why"].as_str().unwrap().contains("past the size"), "{report:#}");
}

#[test]
fn one_cpu_is_enough() {
    let folder = Folder::new("one-cpu");
    folder.write("file", 1_000_000);
    let cpu = *allowed_cpus().unwrap().last().unwrap();
    pin_current_thread(cpu).unwrap(); // children inherit it
    let report = assert_good(&demo(&folder.0, &["--json", "--producers", "2"]));
    assert_eq!(report["cpus"], serde_json::json!({"sidecar": [cpu], "producers": [cpu, cpu]}));
}

#[test]
fn a_sidecar_that_is_killed_over_and_over_costs_no_task_and_no_digest() {
    let folder = Folder::new("kill");
    let sizes = [0, 64, 4095, 4096, 100_000, 300_000];
    sizes.into_iter().for_each(|bytes| folder.write(format!("{bytes}"), bytes));
    let expected: BTreeMap<String, String> = sizes
        .iter()
        .map(|bytes| folder.0.join(format!("{bytes}")))
        .map(|path| (text_of(&path), digest_of(&path)))
        .collect();
    for (kill, producers) in [("20", "1"), ("5", "2")] {
        let report = assert_good(&demo(&folder.0, &["--json", "--digests", "--producers", producers, "--kill", kill]));
        let number = |key: &str| report[key].as_u64().unwrap();
        assert!(number("kills") >= 10 && number("passes") > 1, "{report:#}");
        assert_eq!((number("restarts"), &report["failures"]), (0, &serde_json::json!([])), "{report:#}");
        assert_eq!(digests(&report), expected, "what is the same in each pass is told once");
        assert_eq!(report["digests"].as_array().unwrap().len(), expected.len());
        if producers == "1" {
            assert_eq!(number("files"), sizes.len() as u64 * number("passes"), "{report:#}");
            assert_eq!(number("bytes"), sizes.iter().sum::<usize>() as u64 * number("passes"), "{report:#}");
            let tasks: u64 = sizes.iter().map(|&bytes| bytes as u64 / 4096 + 1).sum();
            assert_eq!(number("tasks") - number("interrupted"), tasks * number("passes"), "{report:#}");
        }
    }
    let text = demo(&folder.0, &["--kill", "10"]);
    let text = String::from_utf8(text.stdout).unwrap();
    for part in ["the sidecar was killed ", "in flight run again", "0 lost", "every digest agrees"] {
        assert!(text.contains(part), "{text}\n does not say {part}");
    }
    assert!(!text.contains("bare ping-pong"), "{text}");
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A demo with minutes of work, seen once the sidecar has done some of it.
struct Running {
    demo: Child,
    sidecar: Inspection,
    part: String,
    _folder: Folder,
}

impl Running {
    fn start(what: &str, files: u32, bytes: u64, more: &[&str]) -> Self {
        let folder = Folder::new(what);
        folder.fill(files, bytes);
        let mut command = executord();
        command.arg("demo").arg(&folder.0).args(["--json", "--limit", "1TiB"]).args(more);
        let demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let part = format!("demo-{}-", demo.id());
        let mut sidecar = None;
        eventually("a task of the demo", || {
            let found = list().unwrap().into_iter().find(|one| one.instance.as_str().contains(&part));
            sidecar = found.and_then(|one| one.view.ok()).map(|view| *view);
            let row = sidecar.iter().flat_map(|view| &view.handlers).find(|handler| handler.row.id == SHA256_BLOCK);
            row.is_some_and(|handler| handler.by_status.iter().sum::<u64>() > 0)
        });
        Self { demo, sidecar: sidecar.unwrap(), part, _folder: folder }
    }

    fn sidecar(&self) -> Pid {
        Pid::from_raw(self.sidecar.pid as i32)
    }
}

#[test]
fn ctrl_c_stops_everything_and_leaves_no_file() {
    let running = Running::start("interrupt", 64, 1 << 30, &[]);
    let sidecar = running.sidecar();
    signal(&running.demo, Signal::SIGINT);
    let output = running.demo.wait_with_output().unwrap();
    assert_refused(&output, 130, "interrupted");
    assert_eq!(files_with(&running.part), [""; 0]);
    assert!(kill(sidecar, None).is_err(), "the sidecar must have been waited for");
}

#[test]
fn ctrl_c_between_two_kills_leaves_no_file_either() {
    for kill in ["1", "3", "40"] {
        let running = Running::start("interrupt-kill", 16, 1 << 30, &["--kill", kill]);
        signal(&running.demo, Signal::SIGINT);
        let output = running.demo.wait_with_output().unwrap();
        assert_refused(&output, 130, "interrupted");
        assert_eq!(files_with(&running.part), [""; 0]);
    }
}

#[test]
fn a_killed_demo_takes_its_processes_and_files_with_it() {
    let mut running = Running::start("killed", 64, 1 << 30, &[]);
    running.demo.kill().unwrap();
    running.demo.wait().unwrap();
    eventually("an empty /dev/shm", || files_with(&running.part).is_empty());
}

#[test]
fn a_killed_sidecar_is_started_again_and_no_task_is_lost() {
    let running = Running::start("crash", 16, 32 << 20, &[]);
    kill(running.sidecar(), Signal::SIGKILL).unwrap(); // the demo's child, found by the demo's own instance
    let report = assert_good(&running.demo.wait_with_output().unwrap());
    assert_eq!((&report["restarts"], &report["files"]), (&1.into(), &16.into()), "{report:#}");
    assert_eq!(report["bytes"], 16u64 * (32 << 20));
    assert_eq!(files_with(&running.part), [""; 0]);
}
