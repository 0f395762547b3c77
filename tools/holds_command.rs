//! What a sidecar holds of the machine while it lives, and what it says where the machine says no.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use executor_client::{ConnectOptions, TaskDescriptor};
use executord::handlers::ECHO;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};
use support::{Folder, Sidecar, assert_refused, eventually, executord, instance, json_of, shm_dump, signal};

const DEVICE: &str = "/dev/cpu_dma_latency";
const ALL: [&str; 5] = ["--cpu-latency", "20", "--real-time", "fifo:7", "--lock-memory"];
/// Any that is not root; it needs no entry anywhere.
const NOBODY: u32 = 61_007;

fn cpus() -> usize {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap()).count()
}

/// Why nothing can be granted here; `None` where it can.
fn obstacle() -> Option<&'static str> {
    match () {
        () if !geteuid().is_root() => Some("only root may have all of it"),
        () if cpus() < 2 => Some("a second CPU is needed"),
        () if !fs::exists(DEVICE).unwrap() => Some("this machine has no /dev/cpu_dma_latency"),
        () => None,
    }
}

fn show(name: &str) -> Value {
    json_of(&shm_dump().args(["show", name, "--json"]).output().unwrap())
}

fn show_text(name: &str) -> String {
    String::from_utf8(shm_dump().args(["show", name]).output().unwrap().stdout).unwrap()
}

/// Policy and priority of the threads of a process whose name begins so, as the kernel has them.
fn scheduling(pid: u64, threads: &str) -> Vec<(u32, u32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let ours = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(threads)));
    ours.map(|task| {
        let stat = fs::read_to_string(task.join("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[38].parse().unwrap(), fields[37].parse().unwrap()) // 41 and 40 of proc_pid_stat(5), counted from 3
    })
    .collect()
}

fn locked_kib(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn holds_device(pid: u64) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    files.filter_map(|file| fs::read_link(file.unwrap().path()).ok()).any(|path| path.as_os_str() == DEVICE)
}

/// Asserts that the process has all of [`ALL`], whatever it says.
#[track_caller]
fn assert_holds(pid: u64) {
    assert_eq!(scheduling(pid, "executor-work"), [(1, 7)], "SCHED_FIFO");
    // A thread gives itself its name once it runs.
    eventually("housekeeping that is nothing special", || scheduling(pid, "executor-keep") == [(0, 0)]);
    assert!(locked_kib(pid) > 1000, "{} KiB", locked_kib(pid));
    assert!(holds_device(pid));
}

fn pid_of(name: &str) -> u64 {
    show(name)["pid"].as_u64().unwrap()
}

fn granted(asked: &str) -> Value {
    json!({"asked": asked, "held": true, "errno": null, "throttled": false, "reason": null, "cure": null})
}

#[test]
fn what_the_system_grants_is_held_and_shown_until_the_sidecar_ends() {
    if let Some(why) = obstacle() {
        return println!("skipped: {why}");
    }
    let mut sidecar = Sidecar::start(&instance("held"), &[&ALL[..], &["--json"]].concat());
    let name = sidecar.instance.to_string();
    let mut client = sidecar.connect();
    client.try_submit(&TaskDescriptor::new(ECHO), b"x").unwrap();
    eventually("an answer", || client.try_collect().unwrap().is_some());
    assert_holds(sidecar.child.id().into());
    let mut latency = [0; 4];
    fs::File::open(DEVICE).unwrap().read_exact(&mut latency).unwrap();
    assert!(i32::from_ne_bytes(latency) <= 20, "the kernel's own word for it: {latency:?}");
    let shown = show(&name);
    assert_eq!(shown["holds"], json!({"cpu_latency": granted("20"), "memory": granted("true")}));
    assert_eq!(shown["workers"][0]["real_time"], granted("fifo:7"));
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    let holds = json!({"cpu_latency": granted("20"), "memory": granted("true"), "real_time": granted("fifo:7")});
    assert_eq!(started["holds"], holds);
    let text = show_text(&name);
    for part in ["holds the CPUs' latency at 20 us", "holds its memory locked", "real-time scheduling fifo:7"] {
        assert!(text.contains(part), "{text}\n does not say {part}");
    }
    drop(client);
    assert!(sidecar.stop(Signal::SIGTERM).0.success());
}

#[test]
fn what_nobody_asked_for_is_not_held_and_not_shown() {
    let sidecar = Sidecar::start(&instance("bare"), &["--json"]);
    let (pid, shown) = (sidecar.child.id().into(), show(sidecar.instance.as_str()));
    assert_eq!((scheduling(pid, "executor-work"), holds_device(pid)), (vec![(0, 0)], false));
    assert_eq!((&shown["holds"], &shown["workers"][0]["real_time"]), (&json!({}), &Value::Null));
    assert!(!show_text(sidecar.instance.as_str()).contains("hold"));
}

/// Ends a program and returns what it said on standard error.
fn said(mut child: Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

/// The program, run by a shell that prepares for it; as an ordinary user.
fn unprivileged(prepare: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{prepare} exec \"$0\" \"$@\"")]).arg(executord().get_program());
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[test]
fn each_refusal_is_told_with_its_reason_and_cure_and_stops_nothing() {
    let name = instance("refused");
    let mut command = unprivileged("ulimit -l 64; ulimit -r 0;");
    command.args(["run", name.as_str(), "--unpinned", "--json"]).args(ALL).stderr(Stdio::piped());
    if cpus() < 2 {
        return println!("skipped: a second CPU is needed");
    }
    let mut sidecar = Sidecar::spawn(&name, command);
    let owner = if geteuid().is_root() { NOBODY } else { geteuid().as_raw() };
    let mut client = ConnectOptions::new().owner(owner).connect(&name).unwrap();
    client.try_submit(&TaskDescriptor::new(ECHO), b"x").unwrap();
    eventually("an answer", || client.try_collect().unwrap().is_some());
    drop(client);
    let latency = if fs::exists(DEVICE).unwrap() { Errno::EACCES } else { Errno::ENOENT };
    let refusals = [
        ("cpu_latency", "20", latency, "cannot hold the CPUs' latency at 20 us: /dev/cpu_dma_latency", "that file"),
        ("memory", "true", Errno::ENOMEM, "cannot lock memory", "LimitMEMLOCK=infinity"),
        ("real_time", "fifo:7", Errno::EPERM, "cannot schedule worker 0 at fifo:7", "LimitRTPRIO=7"),
    ];
    let (shown, text) = (show(name.as_str()), show_text(name.as_str()));
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    assert_eq!(shown["state"], "running");
    let child = std::mem::replace(&mut sidecar.child, Command::new("true").spawn().unwrap());
    signal(&child, Signal::SIGTERM);
    let told = said(child);
    assert_eq!(told.lines().count(), 3, "{told}");
    for (hold, asked, errno, reason, cure) in refusals {
        let of_dump = match hold {
            "real_time" => &shown["workers"][0]["real_time"],
            hold => &shown["holds"][hold],
        };
        for place in [of_dump, &started["holds"][hold]] {
            assert_eq!((&place["asked"], &place["held"]), (&asked.into(), &false.into()), "{place}");
            assert_eq!(place["errno"], errno as i32, "{place}");
            assert!(place["reason"].as_str().unwrap() == format!("{reason}: {}", errno.desc()), "{place}");
            assert!(place["cure"].as_str().unwrap().contains(cure), "{place}");
        }
        for place in [&told, &text] {
            let mut lines = place.lines().filter(|line| line.contains(reason) && line.contains(errno.desc()));
            assert!(lines.next().unwrap().contains(cure), "{place}");
        }
    }
}

#[test]
fn locked_memory_that_later_lanes_would_not_fit_into_is_refused() {
    // Enough for all that is mapped at the start, and a limit all the same.
    let name = instance("limit");
    let mut command = unprivileged("ulimit -l 1048576;");
    command.args(["run", name.as_str(), "--unpinned", "--lock-memory"]).stderr(Stdio::piped());
    let (_, most) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    if most < 1 << 30 && setrlimit(Resource::RLIMIT_MEMLOCK, 1 << 30, 1 << 30).is_err() {
        return println!("skipped: the limit of {most} bytes may not be raised; see the test of `may_map_more`");
    }
    let sidecar = Sidecar::spawn(&name, command);
    assert_eq!(show(name.as_str())["holds"]["memory"]["errno"], Errno::ENOMEM as i32);
    assert_eq!(locked_kib(sidecar.child.id().into()), 0, "nothing half held");
}

#[test]
fn a_machine_without_the_device_says_so() {
    if !geteuid().is_root() {
        return println!("skipped: only root can take a device away");
    }
    let (name, folder) = (instance("missing"), Folder::new("no-device"));
    let dev = folder.0.display();
    let hide = format!(
        "mount -t tmpfs none {dev} && mkdir {dev}/shm && mount --rbind /dev/shm {dev}/shm && mount --rbind {dev} /dev && \
         exec \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", &hide]).arg(executord().get_program());
    command.args(["run", name.as_str(), "--unpinned", "--cpu-latency", "0"]).stderr(Stdio::piped());
    let _sidecar = Sidecar::spawn(&name, command);
    let hold = &show(name.as_str())["holds"]["cpu_latency"];
    assert_eq!(hold["errno"], Errno::ENOENT as i32, "{hold}");
    assert!(hold["cure"].as_str().unwrap().contains("the container was not given it"), "{hold}");
}

#[test]
fn what_no_kernel_has_is_refused_before_anything_starts() {
    let name = instance("bad");
    let refused = |arguments: &[&str], says: &str| {
        let mut command = executord();
        command.args(["run", name.as_str(), "--tied"]).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_refused(&output, 2, says);
    };
    for real_time in ["fifo:0", "fifo:100", "fifo:-1", "batch:3", "7"] {
        refused(&["--real-time", real_time], "write fifo:10 or rr:10, with 1 to 99");
    }
    for latency in ["-1", "2000000001", "low"] {
        refused(&["--cpu-latency", latency], "not a number from 0 to 2000000000");
    }
    let folder = Folder::new("holds");
    let file = folder.0.join("a.toml");
    for (line, says) in
        [("cpu-latency = -1", "a.toml:1: cpu-latency = -1: not a number"), ("real-time = 7", "a string")]
    {
        fs::write(&file, line).unwrap();
        assert_refused(&executord().args(["config", "--config"]).arg(&file).output().unwrap(), 2, says);
    }
}

#[test]
fn real_time_workers_leave_a_cpu_to_housekeeping_or_do_not_start() {
    let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| before.is_set(cpu).unwrap()).collect();
    let mut one = CpuSet::new();
    one.set(cpus[0]).unwrap();
    let run = |arguments: &[&str]| {
        let name = instance("alone");
        let mut command = executord();
        // Tied to an input that has ended, one that starts all the same ends at once.
        command.args(["run", name.as_str(), "--tied", "--real-time", "rr:1"]).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let each: Vec<String> = cpus.iter().flat_map(|cpu| ["--cpu".to_owned(), cpu.to_string()]).collect();
    let on_all: Vec<&str> = each.iter().map(String::as_str).collect();
    assert_refused(&run(&on_all), 2, "allow one more, have fewer workers, or leave out real-time scheduling");
    sched_setaffinity(Pid::from_raw(0), &one).unwrap(); // of this thread; what it starts has no more either
    for arguments in [&[][..], &["--unpinned"]] {
        assert_refused(&run(arguments), 2, "would leave no CPU to housekeeping");
    }
    sched_setaffinity(Pid::from_raw(0), &before).unwrap();
}

#[test]
fn a_worker_that_spins_in_real_time_is_told_that_the_kernel_will_stop_it() {
    let throttle = fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us").unwrap_or_default();
    if let Some(why) = obstacle().or((throttle.trim() == "-1").then_some("the kernel throttles nobody here")) {
        return println!("skipped: {why}");
    }
    let name = instance("throttled");
    let mut command = executord();
    command.args(["run", name.as_str(), "--real-time", "fifo:1", "--idle", "yield"]).stderr(Stdio::piped());
    let mut sidecar = Sidecar::spawn(&name, command);
    let (hold, text) = (show(name.as_str())["workers"][0]["real_time"].clone(), show_text(name.as_str()));
    assert_eq!((&hold["held"], &hold["throttled"]), (&true.into(), &true.into()));
    let child = std::mem::replace(&mut sidecar.child, Command::new("true").spawn().unwrap());
    signal(&child, Signal::SIGTERM);
    for place in [said(child), text] {
        assert!(place.contains("worker 0 spins at fifo:1"), "{place}");
        assert!(place.contains("kernel.sched_rt_runtime_us to -1"), "{place}");
    }
}

#[test]
fn whoever_follows_holds_the_same() {
    if let Some(why) = obstacle() {
        return println!("skipped: {why}");
    }
    let name = instance("next");
    let mut first = Sidecar::start(&name, &ALL);
    let mut standby = Sidecar::start(&name, &[&ALL[..], &["--standby", "--json"]].concat());
    let waiting: Value = serde_json::from_str(&standby.first_line).unwrap();
    assert_eq!((&waiting["event"], &waiting["holds"]["memory"]), (&"standing_by".into(), &granted("true")));
    first.crash();
    let started: Value = serde_json::from_str(&standby.line()).unwrap();
    assert_eq!((&started["event"], &started["holds"]["real_time"]), (&"started".into(), &granted("fifo:7")));
    assert_holds(standby.child.id().into());
    assert_eq!(show(name.as_str())["holds"]["cpu_latency"], granted("20"));
    standby.crash();
    let mut supervised = Sidecar::start(&name, &[&ALL[..], &["--respawn"]].concat());
    let before = pid_of(name.as_str());
    assert_holds(before);
    nix::sys::signal::kill(Pid::from_raw(before as i32), Signal::SIGKILL).unwrap();
    eventually("another sidecar", || show(name.as_str())["state"] == "running" && pid_of(name.as_str()) != before);
    eventually("a line of the next", || supervised.line().contains("serves"));
    assert_holds(pid_of(name.as_str()));
    assert!(supervised.stop(Signal::SIGTERM).0.success());
}
