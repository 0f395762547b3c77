//! `shm-dump --from` as its users see it: copies of an instance's files, whole, damaged and missing.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Output;

use executor_client::TaskDescriptor;
use executor_shm::InstanceName;
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX};
use nix::sys::stat::Mode;
use serde_json::Value;
use support::{Folder, Sidecar, assert_refused, eventually, files_with, instance, json_of, shm_dump};

/// Leaves a dead instance with answered tasks, one in flight and one that waits.
fn dead_instance(what: &str) -> Sidecar {
    let mut sidecar = Sidecar::start(&instance(what), &["--lanes", "2", "--capacity", "8"]);
    let mut client = sidecar.connect();
    for number in 0..5u64 {
        client.try_submit(&TaskDescriptor::new(ECHO), &number.to_le_bytes()).unwrap();
        eventually("an answer", || client.try_collect().unwrap().is_some());
    }
    for _ in 0..2 {
        client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    }
    let name = sidecar.instance.to_string();
    eventually("a task in flight", || {
        let shown = json_of(&shm_dump().args(["show", &name, "--json"]).output().unwrap());
        shown["lanes"].as_array().unwrap().iter().any(|lane| lane["in_flight"] != Value::Null)
    });
    sidecar.crash();
    sidecar
}

fn copy(instance: &InstanceName, into: &Path) -> Vec<PathBuf> {
    let names = files_with(&format!("executor.{instance}."));
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        fs::copy(format!("/dev/shm/{name}"), into.join(name)).unwrap();
    }
    names.iter().map(|name| into.join(name)).collect()
}

fn look(arguments: &[&str], from: &Path) -> Output {
    shm_dump().args(arguments).arg("--from").arg(from).output().unwrap()
}

#[track_caller]
fn json_from(arguments: &[&str], from: &Path) -> Value {
    let output = look(arguments, from);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    json_of(&output)
}

#[test]
fn a_copy_shows_what_the_files_showed() {
    let sidecar = dead_instance("copy");
    let (name, folder) = (sidecar.instance.as_str(), Folder::new("copy"));
    copy(&sidecar.instance, &folder.0);
    let there = |view: &str| json_of(&shm_dump().args([view, name, "--json"]).output().unwrap());
    // The name may be left out where there is only one.
    for arguments in [["show", "--json"].as_slice(), &["show", name, "--json"]] {
        let (copied, mut original) = (json_from(arguments, &folder.0), there("show"));
        assert_eq!(copied["alive"], Value::Null);
        original["alive"] = Value::Null;
        for lane in original["lanes"].as_array_mut().unwrap() {
            lane["attached"] = Value::Null;
        }
        assert_eq!(copied, original);
    }
    let (copied, original) = (json_from(&["records", "--json"], &folder.0), there("records"));
    assert_eq!(copied["lanes"], original["lanes"]);
    let phases: Vec<&Value> = copied["lanes"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|lane| lane["tasks"].as_array().unwrap())
        .map(|task| &task["phase"])
        .collect();
    assert_eq!(phases, ["ended", "ended", "ended", "ended", "ended", "in_flight", "waiting"]);
    let listed = json_from(&["list", "--json"], &folder.0);
    assert_eq!((&listed[0]["instance"], &listed[0]["unanswered"]), (&name.into(), &2.into()));
    for (view, parts) in [
        ("list", ["a copy, running", name]),
        ("show", ["2 tasks unanswered when it was made", "5: spin"]),
        ("records", [" before", "in flight"]),
    ] {
        let output = look(&[view], &folder.0);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}\n does not say {parts:?}");
    }
}

/// What is done to a file, by name.
type Damage = (&'static str, fn(&Path));

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Bytes that look like nothing, the same in every run.
fn noise(bytes: &mut [u8], seed: u64) {
    let mut state = seed | 1;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

/// Files that no longer are what their names say.
const DAMAGES: [Damage; 7] = [
    ("gone", |path| fs::remove_file(path).unwrap()),
    ("empty", |path| drop(File::create(path).unwrap())),
    ("a hundred bytes", |path| rewrite(path, |bytes| bytes.truncate(100))),
    ("a page", |path| rewrite(path, |bytes| bytes.truncate(4096))),
    ("noise", |path| rewrite(path, |bytes| noise(bytes, 7))),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("a pipe", |path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    }),
];

/// Every view in both forms; each shows something, or refuses in one line.
fn look_at_everything(name: &str, folder: &Path, what: &str) {
    for view in ["list", "show", "records"] {
        for form in [["--json"].as_slice(), &[]] {
            let output = look(&[&[view, name], form].concat(), folder);
            let stderr = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                Some(0) => assert!(stderr.is_empty() && !output.stdout.is_empty(), "{what}: {view}: {stderr}"),
                Some(1) => {
                    assert_eq!(stderr.lines().count(), 1, "{what}: {view}: {stderr}");
                    assert!(stderr.starts_with("shm-dump: ") && output.stdout.is_empty(), "{what}: {stderr}");
                }
                code => panic!("{what}: {view}: {code:?}: {stderr}"),
            }
        }
    }
}

#[test]
fn a_damaged_file_is_an_error_or_a_marked_lane() {
    let sidecar = dead_instance("damage");
    let name = sidecar.instance.as_str();
    for (what, damage) in DAMAGES {
        for at in 0..files_with(name).len() {
            let folder = Folder::new("damage");
            let path = copy(&sidecar.instance, &folder.0).remove(at);
            damage(&path);
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            look_at_everything(name, &folder.0, &format!("{file} is {what}"));
            if file.ends_with(".status") {
                assert_refused(&look(&["show", name], &folder.0), 1, &file);
                let listed = json_from(&["list", "--json"], &folder.0);
                assert!(listed[0]["error"].as_str().unwrap().contains(&file), "{listed:#}");
                continue;
            }
            let shown = json_from(&["show", name, "--json"], &folder.0);
            let marked: Vec<&Value> =
                shown["lanes"].as_array().unwrap().iter().filter(|lane| lane["unreadable"] != Value::Null).collect();
            let all = shown["lanes"].as_array().unwrap().len();
            assert_eq!(marked.len(), if file.ends_with(".journal") { all } else { 1 }, "{file} is {what}: {shown:#}");
            assert!(marked.iter().all(|lane| lane["unreadable"].as_str().unwrap().contains(&file)), "{shown:#}");
            assert!(marked.iter().all(|lane| lane["started"] == Value::Null), "{shown:#}");
            let text = String::from_utf8(look(&["show", name], &folder.0).stdout).unwrap();
            assert!(text.contains("'-' for positions of lane") && text.contains(&file), "{text}");
            let listed = &json_from(&["list", "--json"], &folder.0)[0]["unanswered"];
            let is_told = marked.iter().all(|lane| lane["state"] == "free");
            assert_eq!(listed, &if is_told { Value::from(2) } else { Value::Null }, "{file} is {what}");
            assert_eq!(text.contains("cannot be told"), !is_told, "{file} is {what}: {text}");
            let records = json_from(&["records", name, "--json"], &folder.0);
            let unreadable =
                records["lanes"].as_array().unwrap().iter().filter(|lane| lane["tasks"] == Value::Null).count();
            // Without the journal the rings tell all but which task was in flight.
            assert_eq!(unreadable, usize::from(!file.ends_with(".journal")), "{file} is {what}: {records:#}");
        }
    }
}

#[test]
fn noise_behind_a_good_header_shows_something_and_never_panics() {
    let sidecar = dead_instance("noise");
    let name = sidecar.instance.as_str();
    for seed in 1..=10 {
        for at in 0..files_with(name).len() {
            let folder = Folder::new("noise");
            let path = copy(&sidecar.instance, &folder.0).remove(at);
            // Header and sizes stay, so that the rest is believed to be what it should be.
            rewrite(&path, |bytes| noise(&mut bytes[128..], seed * 1_000_003));
            look_at_everything(name, &folder.0, &format!("noise {seed} in {}", path.display()));
        }
    }
}

#[test]
fn a_journal_of_another_instance_is_not_believed() {
    let (one, other) = (dead_instance("one"), dead_instance("other"));
    let folder = Folder::new("mixed");
    copy(&one.instance, &folder.0);
    let journal = |instance: &InstanceName| format!("executor.{instance}.journal");
    fs::copy(Path::new("/dev/shm").join(journal(&other.instance)), folder.0.join(journal(&one.instance))).unwrap();
    let shown = json_from(&["show", "--json"], &folder.0);
    assert!(shown["lanes"][0]["unreadable"].as_str().unwrap().contains("another instance"), "{shown:#}");
}

#[test]
fn a_folder_without_what_was_asked_for_is_told_in_one_line() {
    let folder = Folder::new("nothing");
    let missing = folder.0.join("missing");
    for view in ["list", "show", "records"] {
        assert_refused(&look(&[view], &missing), 1, "missing: No such file or directory");
    }
    assert_refused(&look(&["show"], &folder.0), 1, "shm-dump save");
    assert_refused(&look(&["records", "orders"], &folder.0), 1, "there is no instance orders in");
    let empty = look(&["list"], &folder.0);
    assert!(empty.status.success() && String::from_utf8_lossy(&empty.stdout).contains("no instance in"), "{empty:?}");
    assert_eq!(json_from(&["list", "--json"], &folder.0), Value::Array(Vec::new()));
    let (one, other) = (dead_instance("one"), dead_instance("other"));
    copy(&one.instance, &folder.0);
    copy(&other.instance, &folder.0);
    assert_refused(&look(&["show"], &folder.0), 1, other.instance.as_str());
    assert_eq!(json_from(&["show", one.instance.as_str(), "--json"], &folder.0)["instance"], one.instance.as_str());
}
