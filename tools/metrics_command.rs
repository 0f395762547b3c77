//! `shm-dump metrics`: a file that the node exporter reads, of instances that live, died or were copied.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod scrape;
mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use executor_client::TaskDescriptor;
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX};
use nix::sys::stat::Mode;
use prometheus_parse::Value;
use scrape::Metrics;
use support::{Folder, Sidecar, assert_refused, eventually, executord, instance, shm_dump};

fn metrics(arguments: &[&str]) -> Output {
    shm_dump().arg("metrics").args(arguments).output().unwrap()
}

#[track_caller]
fn read(arguments: &[&str]) -> Metrics {
    let output = metrics(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Metrics::parse(&String::from_utf8(output.stdout).unwrap())
}

/// Three tasks that were answered, and two more of which one runs for long.
fn busy(what: &str) -> Sidecar {
    let sidecar = Sidecar::start(&instance(what), &["--lanes", "2", "--capacity", "8"]);
    let mut client = sidecar.connect();
    for _ in 0..3 {
        client.try_submit(&TaskDescriptor::new(ECHO), b"x").unwrap();
        eventually("an answer", || client.try_collect().unwrap().is_some());
    }
    for _ in 0..2 {
        client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    }
    let name = sidecar.instance.to_string();
    eventually("a task in flight", || read(&[&name]).value("executor_lane_started_total", &[("lane", "0")]) == 4.0);
    sidecar
}

#[test]
fn the_text_is_what_the_node_exporter_reads() {
    let sidecar = busy("text");
    let name = sidecar.instance.as_str();
    let metrics = read(&[name]);
    // It knows neither of these, and of a counter only the name that its samples have.
    for foreign in ["# UNIT", "# EOF", " info\n"] {
        assert!(!metrics.text.contains(foreign), "{foreign} in {}", metrics.text);
    }
    let done = metrics.samples.iter().find(|sample| {
        sample.metric == "executor_handler_tasks_total"
            && sample.labels.get("handler") == Some("echo")
            && sample.labels.get("status") == Some("done")
            && sample.labels.get("executor") == Some(name)
    });
    assert_eq!(done.unwrap().value, Value::Counter(3.0));
    assert_eq!(metrics.value("executor_lane_depth", &[("lane", "0")]), 1.0);
    assert_eq!(metrics.value("executor_up", &[]), 1.0);
}

#[test]
fn a_file_is_written_whole_readable_by_others_and_in_place_of_the_last() {
    let sidecar = busy("file");
    let name = sidecar.instance.as_str();
    let folder = Folder::new("metrics");
    let file = folder.0.join("orders.prom");
    let mut before = 0;
    for _ in 0..2 {
        let output = metrics(&[name, "--out", file.to_str().unwrap()]);
        assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
        let written = Metrics::parse(&fs::read_to_string(&file).unwrap());
        assert_eq!(written.value("executor_up", &[("executor", name)]), 1.0);
        let stat = fs::metadata(&file).unwrap();
        assert_ne!(stat.ino(), before, "a reader would have seen it half");
        assert_eq!(stat.permissions().mode() & 0o444, 0o444, "the node exporter is another user");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "something is left beside it");
        before = stat.ino();
    }
    // Without a folder in its name it goes to the one that this runs in.
    let output = shm_dump().args(["metrics", name, "--out", "here.prom"]).current_dir(&folder.0).output().unwrap();
    assert!(output.status.success() && folder.0.join("here.prom").exists(), "{output:?}");
}

#[test]
fn a_dead_instance_is_told_as_down_with_its_last_counts() {
    let mut sidecar = busy("dead");
    sidecar.crash();
    let metrics = read(&[sidecar.instance.as_str()]);
    assert_eq!(metrics.value("executor_up", &[]), 0.0);
    assert_eq!(metrics.value("executor_handler_tasks_total", &[("handler", "echo"), ("status", "done")]), 3.0);
    assert!(!metrics.has("executor_lane_running_seconds"), "nothing runs any more");
}

#[test]
fn a_copy_tells_what_the_files_told_and_not_whether_anybody_lives() {
    let sidecar = busy("copy");
    let name = sidecar.instance.as_str();
    let folder = Folder::new("saved");
    let saved = folder.0.to_str().unwrap();
    assert!(shm_dump().args(["save", saved, name]).output().unwrap().status.success());
    let metrics = read(&["--from", saved]);
    assert_eq!(metrics.value("executor_lane_depth", &[("lane", "0"), ("executor", name)]), 1.0);
    assert_eq!(metrics.value("executor_lane_completed_total", &[("lane", "0")]), 3.0);
    for unknown in ["executor_up", "executor_lane_attached", "executor_lane_running_seconds"] {
        assert!(!metrics.has(unknown), "{unknown} cannot be known of a copy");
    }
}

#[test]
fn what_cannot_be_written_or_read_is_refused_in_one_line() {
    let sidecar = Sidecar::start(&instance("refused"), &[]);
    let name = sidecar.instance.as_str();
    let folder = Folder::new("refused");
    let inside = |name: &str| folder.0.join(name).display().to_string();
    assert_refused(&metrics(&[name, "--json"]), 2, &format!("shm-dump show {name} --json"));
    assert_refused(&metrics(&[name, "--out", &inside("no/such/file.prom")]), 1, "cannot write");
    assert_refused(&metrics(&["no-such-instance-metrics"]), 1, "shm-dump list");
    assert_refused(&metrics(&["--from", &inside("nowhere")]), 1, "cannot list");
    fs::create_dir(inside("taken.prom")).unwrap();
    fs::write(inside("taken.prom/file"), "x").unwrap();
    symlink(inside("target.prom"), inside("link.prom")).unwrap();
    nix::unistd::mkfifo(Path::new(&inside("pipe.prom")), Mode::S_IRWXU).unwrap();
    for (file, what) in [("taken", "a folder"), ("link", "a symbolic link"), ("pipe", "a pipe")] {
        assert_refused(&metrics(&[name, "--out", &inside(&format!("{file}.prom"))]), 2, what);
    }
    let kind = |name: &str| fs::symlink_metadata(inside(name)).unwrap().file_type();
    assert!(kind("pipe.prom").is_fifo() && kind("link.prom").is_symlink(), "it was replaced");
    assert_refused(&metrics(&[name, "--out", &inside("orders.txt")]), 2, &inside("orders.txt.prom"));
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3, "a half file is left");
    assert!(read(&[name, "--out", "-"]).value("executor_up", &[]) == 1.0);
}

const OWNER: u32 = 61_021;
const MEMBER: u32 = 61_022;
const GROUP: u32 = 61_120;

#[test]
fn what_a_member_of_the_group_may_not_read_is_left_out_and_counted() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can become other users");
    }
    let version = shm_dump().arg("--version").uid(MEMBER).gid(GROUP).output();
    if !version.as_ref().is_ok_and(|output| output.status.success()) {
        return println!("skipped: other users cannot run {}: {version:?}", env!("CARGO_BIN_EXE_shm-dump"));
    }
    let instance = instance("member");
    let mut command = executord();
    command.args(["run", instance.as_str(), "--unpinned", "--group", "61120"]).uid(OWNER).gid(GROUP);
    let _sidecar = Sidecar::spawn(&instance, command);
    let as_user = |uid| {
        let output = shm_dump().args(["metrics", instance.as_str()]).uid(uid).gid(GROUP).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Metrics::parse(&String::from_utf8(output.stdout).unwrap())
    };
    let (owner, member) = (as_user(OWNER), as_user(MEMBER));
    for name in ["executor_lane_depth", "executor_lane_started_total", "executor_lane_completed_total"] {
        assert!(owner.has(name) && !member.has(name), "{name}");
    }
    let unreadable = |metrics: &Metrics| metrics.value("executor_lanes_unreadable", &[]);
    assert!(unreadable(&owner) == 0.0 && unreadable(&member) > 0.0);
    assert_eq!(member.value("executor_up", &[]), 1.0);
    assert_eq!(member.value("executor_tasks_total", &[("status", "done")]), 0.0, "what is known to be none is 0");
}

#[test]
fn an_unprivileged_sidecar_has_a_page_and_is_told_which_ports_are_not_for_it() {
    let mut command = executord();
    let name = instance("port");
    command.args(["run", name.as_str(), "--unpinned", "--metrics", "127.0.0.1:80"]);
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        let version = executord().arg("--version").uid(OWNER).gid(OWNER).output();
        if !version.is_ok_and(|output| output.status.success()) {
            return println!("skipped: other users cannot run {}", env!("CARGO_BIN_EXE_executord"));
        }
        command.uid(OWNER).gid(OWNER);
    }
    let first = fs::read_to_string(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
    if first.is_ok_and(|first| first.trim().parse::<u32>().is_ok_and(|first| first <= 80)) {
        println!("skipped in part: every port is for everybody here");
    } else {
        assert_refused(&command.output().unwrap(), 1, "choose a port from 1024 on with --metrics");
    }
    let mut command = executord();
    command.args(["run", name.as_str(), "--unpinned", "--metrics", "127.0.0.1:0"]);
    if is_root {
        command.uid(OWNER).gid(OWNER);
    }
    let sidecar = Sidecar::spawn(&name, command);
    let url = sidecar.first_line.split("metrics: http://").nth(1).unwrap();
    let page = url.split("/metrics").next().unwrap().parse().unwrap();
    assert_eq!(scrape::scrape(page).value("executor_lanes_unreadable", &[]), 0.0);
}
