//! `executord hash` as its users see it: what it prints, the real `sha256sum -c` accepts.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use executor_shm::Sidecar as Library;
use executor_shm::core::Registry;
use executor_shm::inspect::Inspector;
use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{Folder, Sidecar, assert_refused, eventually, executord, instance, json_of, shm_dump, signal};

fn hash(sidecar: &Sidecar, arguments: &[&str], paths: &[&Path]) -> Output {
    executord().args(["hash", "--instance", sidecar.instance.as_str()]).args(arguments).args(paths).output().unwrap()
}

/// Has `sha256sum -c` check these lines in a folder; its exit code and its verdicts.
fn check(sums: &[u8], folder: &Path) -> (Option<i32>, String) {
    let mut command = Command::new("sha256sum");
    command.args(["-c", "--strict"]).current_dir(folder).env("LC_ALL", "C").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(sums).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn digest_of(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn sha256sum_accepts_what_is_printed_and_finds_the_file_that_changed() {
    let folder = Folder::new("sums");
    let names: [OsString; 8] = [
        "empty".into(),
        "one".into(),
        "block".into(),
        "chunk".into(),
        "two words".into(),
        "back\\slash".into(),
        "line\nand\rreturn".into(),
        OsString::from_vec(b"not-\xff-utf8".to_vec()),
    ];
    for (name, bytes) in names.iter().zip([0, 1, 64, 192, 193, 1000, 5000, 100_000]) {
        folder.write(name, bytes);
    }
    // The default buffers of 256 bytes, larger ones, and a lane with fewer slots than files.
    let sizes: [&[&str]; 3] =
        [&[], &["--request-bytes", "64KiB"], &["--request-bytes", "128", "--response-bytes", "64", "--capacity", "2"]];
    for more in sizes {
        let sidecar = Sidecar::start(&instance("hash"), more);
        let hashed = hash(&sidecar, &[], &[&folder.0]);
        assert!(hashed.status.success() && hashed.stderr.is_empty(), "{hashed:?}");
        let (code, verdicts) = check(&hashed.stdout, &folder.0);
        assert_eq!((code, verdicts.matches(": OK").count()), (Some(0), names.len()), "{verdicts}");
        let theirs = Command::new("sha256sum").args(sorted(&folder.0)).output().unwrap();
        assert_eq!(hashed.stdout, theirs.stdout, "the same bytes in the same order");
        let before = fs::read(folder.0.join("chunk")).unwrap();
        folder.write("chunk", 191);
        let (code, verdicts) = check(&hashed.stdout, &folder.0);
        assert_eq!((code, verdicts.matches(": FAILED").count()), (Some(1), 1), "{verdicts}");
        assert!(verdicts.lines().any(|line| line.ends_with("chunk: FAILED")), "{verdicts}");
        fs::write(folder.0.join("chunk"), before).unwrap();
    }
}

/// Files of a folder in the order of their names.
fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    paths
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_the_others_are_hashed() {
    let folder = Folder::new("unreadable");
    folder.write("a", 10);
    folder.write("b", 300);
    let missing = folder.0.join("missing");
    let link = folder.0.join("link");
    std::os::unix::fs::symlink(folder.0.join("a"), &link).unwrap();
    let sidecar = Sidecar::start(&instance("hash"), &[]);
    let (a, b) = (folder.0.join("a"), folder.0.join("b"));
    // A regular file whose first byte nobody can read, root neither.
    let broken = PathBuf::from("/proc/self/mem");
    let paths = [&a, &missing, &broken, &link, &b].map(PathBuf::as_path);
    let output = hash(&sidecar, &[], &paths);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(check(&output.stdout, &folder.0).1.matches(": OK").count(), 2);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{stderr}");
    assert!(lines.iter().all(|line| line.starts_with("executord: ")), "{stderr}");
    for part in ["missing: no such file", "link: it is a symbolic link", "mem: input/output error"] {
        assert!(stderr.contains(part), "{stderr}\n does not say {part}");
    }
    let output = hash(&sidecar, &["--json"], &paths);
    assert_eq!(output.status.code(), Some(1));
    let report = json_of(&output);
    assert_eq!((&report["files"], &report["bytes"], &report["tasks"]), (&2.into(), &310.into(), &3.into()));
    assert_eq!(report["failed"].as_array().unwrap().len(), 3, "{report:#}");
    assert_eq!(report["digests"][1]["sha256"], digest_of(&b));
}

#[test]
fn hashing_goes_on_over_a_restart_of_the_sidecar() {
    let folder = Folder::new("restart");
    folder.write("a", 3_000_000);
    let mut sidecar = Sidecar::start(&instance("hash"), &[]);
    signal(&sidecar.child, Signal::SIGSTOP);
    let mut command = executord();
    command.args(["hash", "--instance", sidecar.instance.as_str()]).arg(&folder.0);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("a task of the file", || {
        let shown = shm_dump().args(["show", sidecar.instance.as_str(), "--json"]).output().unwrap();
        json_of(&shown)["lanes"].as_array().unwrap().iter().any(|lane| lane["depth"] == 1)
    });
    sidecar.crash();
    let _next = Sidecar::start(&sidecar.instance, &[]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(check(&output.stdout, &folder.0).0, Some(0));
}

#[test]
fn a_task_that_two_kills_interrupt_is_submitted_again() {
    const BYTES: u64 = 4 << 30;
    let folder = Folder::new("interrupted");
    folder.fill(1, BYTES);
    let name = instance("hash");
    // A task of 15 MiB takes milliseconds, in which it can be hit.
    let start = || Sidecar::start(&name, &["--json", "--request-bytes", "15MiB", "--capacity", "2", "--lanes", "1"]);
    let mut lives = vec![start()];
    let mut command = executord();
    command.args(["hash", "--instance", name.as_str(), "--json"]).arg(&folder.0);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("a task that two kills interrupt", || {
        let attempt = || {
            let lanes = Inspector::open(&name).unwrap().look().lanes;
            lanes.iter().find_map(|lane| lane.in_flight).map_or(0, |task| task.attempt)
        };
        let mut crash = || {
            lives.last_mut().unwrap().crash();
            lives.push(start());
        };
        // The first attempt dies in its worker's hands, then the second if it is hit too.
        eventually("a task in flight", || attempt() == 1);
        crash();
        let begun = Instant::now();
        while attempt() != 2 {
            if begun.elapsed() > Duration::from_secs(1) {
                return false; // it had ended before it was hit
            }
        }
        crash();
        let started: Value = serde_json::from_str(&lives.last().unwrap().first_line).unwrap();
        started["recovered"]["interrupted"] == 1
    });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = json_of(&output);
    let tasks = BYTES.div_ceil((15 << 20) - 64); // the last chunk is no whole one
    assert!(report["tasks"].as_u64() > Some(tasks), "{report:#}");
    assert_eq!(report["digests"][0]["sha256"], digest_of(&folder.0.join("zeros-0")));
}

#[test]
fn what_cannot_hash_is_refused_in_one_line_with_the_cure() {
    let folder = Folder::new("refused");
    folder.write("a", 10);
    let run = |arguments: &[&OsStr]| executord().arg("hash").args(arguments).output().unwrap();
    let none = instance("none");
    let path = folder.0.as_os_str();
    assert_refused(&run(&["--instance".as_ref(), none.as_str().as_ref(), path]), 1, "executord run");
    assert_refused(&run(&[]), 2, "PATHS");
    assert_refused(&run(&["-".as_ref()]), 2, "./-");
    assert_refused(&run(&["--instance".as_ref(), "a.b".as_ref(), path]), 2, "letters, digits");
    let small = Sidecar::start(&instance("small"), &["--request-bytes", "64"]);
    assert_refused(&hash(&small, &[], &[&folder.0]), 2, "--request-bytes");
    let mut dead = Sidecar::start(&instance("dead"), &[]);
    dead.crash();
    assert_refused(&hash(&dead, &[], &[&folder.0]), 1, "executord run");
}

#[test]
fn an_instance_without_the_handler_says_which_it_has() {
    let name = instance("handlers");
    let mut registry = Registry::builder();
    registry.handler(9, "greet", |_, _, _| Ok(()));
    let registry = registry.build().unwrap();
    let sidecar = Library::builder().instance(name.clone()).registry(registry).pinned(false).start().unwrap();
    let output = executord().args(["hash", "--instance", name.as_str(), "/proc/version"]).output().unwrap();
    assert_refused(&output, 2, "greet (9)");
    sidecar.stop();
    sidecar.join().unwrap();
}
