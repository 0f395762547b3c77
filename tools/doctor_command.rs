//! `executord doctor` as its users see it: on this machine, and where the kernel really refuses something.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use executor_client::TaskDescriptor;
use executor_shm::layout::{ABI_VERSION, LAYOUT_HASH, MAGIC};
use executord::handlers::{SPIN, SPIN_NS_MAX};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, geteuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde_json::Value;
use support::{Folder, Sidecar, assert_refused, eventually, executord, files_with, instance, json_of, shm_dump};

const NOBODY: u32 = 65_534;

fn doctor(arguments: &[&str]) -> Output {
    executord().arg("doctor").args(arguments).output().unwrap()
}

/// One check of a diagnosis in JSON.
#[track_caller]
fn check(output: &Output, key: &str) -> Value {
    let all = json_of(output);
    all["checks"].as_array().unwrap().iter().find(|check| check["key"] == key).unwrap().clone()
}

#[track_caller]
fn assert_says(check: &Value, state: &str, part: &str) {
    assert_eq!(check["state"], state, "{check:#}");
    let text = format!("{} {}", check["fact"], check["cure"]);
    assert!(text.contains(part), "{text} does not say {part}");
}

/// Removes names of an instance that no program made.
struct Names(String);

impl Drop for Names {
    fn drop(&mut self) {
        for name in files_with(&format!("executor.{}.", self.0)) {
            let _ = fs::remove_file(format!("/dev/shm/{name}"));
        }
    }
}

fn names(what: &str) -> Names {
    Names(instance(what).to_string())
}

#[test]
fn this_machine_is_told_in_a_line_a_check_and_the_same_in_json() {
    let name = instance("doctor");
    let output = doctor(&[name.as_str(), "--lanes", "1", "--capacity", "2"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let json = json_of(&doctor(&[name.as_str(), "--lanes", "1", "--capacity", "2", "--json"]));
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(lines.len(), checks.len() + 1, "{text}");
    for (line, check) in lines.iter().zip(checks) {
        let mut words = line.split_whitespace();
        let (state, key) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(key, check["key"].as_str().unwrap());
        // What is free, what others have left, and which CPUs they use differs from look to look.
        if !["shm_size", "leftovers", "cpus"].contains(&key) {
            assert_eq!(state, check["state"].as_str().unwrap());
            assert!(line.contains(check["fact"].as_str().unwrap()), "{line}");
            assert_eq!(line.contains("; cure: "), check["cure"].is_string(), "{line}");
        }
    }
    let errors = checks.iter().filter(|check| check["state"] == "error").count();
    assert_eq!((&json["counts"]["error"], &json["instance"]), (&errors.into(), &name.as_str().into()));
    assert_eq!(output.status.code(), Some(i32::from(errors > 0)));
    assert!(output.stderr.is_empty());
}

#[test]
fn room_is_reckoned_as_the_sidecar_reckons_it() {
    let name = instance("reckon");
    let sizes = ["--lanes", "5", "--capacity", "64", "--request-bytes", "1KiB", "--response-bytes", "64"];
    let before = check(&doctor(&[&[name.as_str(), "--json"], sizes.as_slice()].concat()), "shm_size");
    let _sidecar = Sidecar::start(&name, &sizes);
    let figure = |check: &Value, key: &str| check["figures"][key].as_u64().unwrap();
    let bytes_of = || {
        let files = files_with(&format!("executor.{name}."));
        let bytes: u64 =
            files.iter().map(|file| fs::metadata(format!("/dev/shm/{file}")).map_or(0, |facts| facts.len())).sum();
        let lanes = files.iter().filter(|file| file.ends_with(".sq")).count() as u64;
        (bytes, lanes, files.iter().filter(|file| file.contains(".tmp-")).count())
    };
    eventually("the spare lanes", || {
        let (bytes, lanes, drafts) = bytes_of();
        let reckoned = figure(&before, "base_bytes") + lanes * figure(&before, "lane_bytes");
        drafts == 0
            && lanes == 2
            && bytes.next_multiple_of(4096) <= reckoned
            && reckoned - bytes < 4096 * 2 * (lanes + 1)
    });
    assert_eq!(figure(&before, "need_bytes"), figure(&before, "base_bytes") + 5 * figure(&before, "lane_bytes"));
    let shown = json_of(&shm_dump().args(["show", name.as_str(), "--json"]).output().unwrap());
    let shm_bytes = shown["shm_bytes"].as_u64().unwrap();
    assert_eq!(
        shm_bytes,
        figure(&before, "base_bytes") + 2 * figure(&before, "lane_bytes"),
        "what the sidecar itself tells"
    );
    // Of the files that are there, whatever is asked for now.
    let after = check(&doctor(&[name.as_str(), "--json"]), "shm_size");
    assert_eq!(figure(&after, "need_bytes"), figure(&before, "need_bytes"));
    assert_eq!(figure(&after, "there_bytes"), shm_bytes);
}

#[test]
fn a_living_instance_and_what_it_became_are_told_apart() {
    let mut sidecar = Sidecar::start(&instance("lives"), &["--lanes", "2"]);
    let name = sidecar.instance.to_string();
    let look = |more: &[&str]| doctor(&[&[name.as_str(), "--json"], more].concat());
    let alive = look(&[]);
    assert_says(&check(&alive, "instance"), "ok", &format!("pid {} serves it", sidecar.child.id()));
    assert_says(&check(&alive, "abi"), "ok", "as this build does");
    assert!(!check(&alive, "leftovers")["fact"].as_str().unwrap().contains(&name));
    assert_eq!(alive.status.code(), Some(0), "{}", String::from_utf8_lossy(&alive.stdout));
    let mut client = sidecar.connect();
    for _ in 0..2 {
        client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    }
    eventually("a task in flight", || check(&look(&[]), "instance")["figures"]["unanswered"] == 2);
    sidecar.crash();
    let dead = look(&[]);
    assert_says(&check(&dead, "instance"), "note", "nobody serves it, and 2 tasks wait");
    assert_says(&check(&dead, "leftovers"), "note", &name);
    assert_eq!(dead.status.code(), Some(0), "a start would serve it");
    let other = look(&["--lanes", "3"]);
    assert_says(&check(&other, "sizes"), "error", "made with lanes 2, not 3");
    assert_eq!(other.status.code(), Some(1));
    assert_refused(
        &executord().args(["run", &name, "--unpinned", "--lanes", "3"]).output().unwrap(),
        1,
        "lanes 2, not 3",
    );
}

#[test]
fn a_strangers_read_lock_is_refused_by_it_as_by_a_start() {
    let mut sidecar = Sidecar::start(&instance("locked"), &[]);
    let name = sidecar.instance.to_string();
    sidecar.crash();
    for kind in ["status", "journal"] {
        let file = File::open(format!("/dev/shm/executor.{name}.{kind}")).unwrap();
        let lock = libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        let output = doctor(&[&name, "--json"]);
        let part = format!("executor.{name}.{kind} is read-locked by a process that is no executor");
        assert_says(&check(&output, "instance"), "error", &part);
        assert_eq!(output.status.code(), Some(1));
        assert_refused(&executord().args(["run", &name, "--unpinned"]).output().unwrap(), 1, "read-locked");
    }
    // A process that another test is starting may have a copy of the descriptor until its `exec` closes it.
    eventually("the end of the lock", || check(&doctor(&[&name, "--json"]), "instance")["state"] == "note");
}

/// Has calls refused by the kernel, or whoever makes them killed, in a thread and all that it starts.
fn filtered(action: SeccompAction, rules: Vec<(i64, Vec<SeccompRule>)>, arguments: &[&str]) -> Output {
    std::thread::scope(|scope| {
        let run = || {
            let architecture = std::env::consts::ARCH.try_into().unwrap();
            let rules = rules.into_iter().collect();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture).unwrap();
            let program: BpfProgram = filter.try_into().unwrap();
            let mut command = executord();
            // No standard input of /dev/null, which would be opened for writing too.
            command.arg("doctor").args(arguments).stdin(Stdio::inherit()).stdout(Stdio::piped()).stderr(Stdio::piped());
            seccompiler::apply_filter(&program).unwrap();
            command.output().unwrap()
        };
        scope.spawn(run).join().unwrap()
    })
}

/// Calls whose argument is one of these values under a mask.
fn argument(at: u8, mask: u64, values: &[u64]) -> Vec<SeccompRule> {
    let condition = |value: &u64| {
        let compare = SeccompCmpOp::MaskedEq(mask);
        SeccompRule::new(vec![SeccompCondition::new(at, SeccompCmpArgLen::Dword, compare, *value).unwrap()]).unwrap()
    };
    values.iter().map(condition).collect()
}

/// Everything by which a process takes a lock, opens for writing, or changes a file or its name.
fn changes() -> Vec<(i64, Vec<SeccompRule>)> {
    let locks = [libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_SETLK, libc::F_OFD_SETLKW].map(|call| call as u64);
    let writing = argument(2, libc::O_ACCMODE as u64, &[libc::O_WRONLY as u64, libc::O_RDWR as u64]);
    let mut calls = vec![(libc::SYS_fcntl, argument(1, u64::from(u32::MAX), &locks)), (libc::SYS_openat, writing)];
    let others = [
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_mkdirat,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_flock,
        libc::SYS_fchmod,
        libc::SYS_fchown,
        libc::SYS_pwrite64,
        libc::SYS_kill,
    ];
    calls.extend(others.map(|call| (call, Vec::new())));
    calls
}

#[test]
fn it_takes_no_lock_and_opens_nothing_for_writing() {
    let mut sidecar = Sidecar::start(&instance("reads"), &[]);
    let name = sidecar.instance.to_string();
    let told = |output: &Output| {
        assert!(output.stderr.is_empty(), "{output:?}");
        let checks = json_of(output)["checks"].as_array().unwrap().clone();
        // What others have left, and which CPUs, differs from look to look.
        let own = checks.iter().filter(|check| check["key"] != "leftovers" && check["key"] != "cpus");
        own.map(|check| (check["key"].to_string(), check["state"].to_string())).collect::<Vec<_>>()
    };
    for is_alive in [true, false] {
        if !is_alive {
            sidecar.crash();
        }
        let strict = filtered(SeccompAction::KillProcess, changes(), &[&name, "--json"]);
        assert_eq!(strict.status.code(), Some(0), "{strict:?}");
        assert_eq!(told(&strict), told(&doctor(&[&name, "--json"])), "nothing was missing");
    }
    // The filter does kill: it is no proof otherwise.
    let killed = filtered(SeccompAction::KillProcess, vec![(libc::SYS_membarrier, Vec::new())], &[&name]);
    assert_eq!(killed.status.code(), None);
}

#[test]
fn calls_that_a_sandbox_refuses_are_told() {
    let name = instance("sandbox");
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let calls = [libc::SYS_membarrier, libc::SYS_futex_waitv].map(|call| (call, Vec::new())).to_vec();
    let output = filtered(refuse, calls, &[name.as_str(), "--json"]);
    assert_says(&check(&output, "membarrier"), "note", "each submit takes a fence");
    assert_says(&check(&output, "futex_waitv"), "note", "let the sandbox (seccomp) allow it");
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let output = filtered(missing, vec![(libc::SYS_futex_waitv, Vec::new())], &[name.as_str(), "--json"]);
    assert_says(&check(&output, "futex_waitv"), "note", "Linux 5.16");
}

#[test]
fn files_of_another_abi_are_refused_by_it_as_by_a_start() {
    let names = names("abi");
    let name = &names.0;
    for kind in ["status", "journal"] {
        let number = if kind == "status" { 1 } else { 2 };
        let head = [MAGIC, u64::from(ABI_VERSION + 1) | number << 32, 7, 2, 16, LAYOUT_HASH, 8192, 0];
        let mut bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(8192, 0);
        fs::write(format!("/dev/shm/executor.{name}.{kind}"), bytes).unwrap();
    }
    let output = doctor(&[name, "--json"]);
    let part = format!("speaks ABI {} and has 16 lanes", ABI_VERSION + 1);
    assert_says(&check(&output, "abi"), "error", &part);
    assert_eq!(check(&output, "abi")["figures"]["found"], ABI_VERSION + 1);
    assert_eq!(output.status.code(), Some(1));
    assert_refused(&executord().args(["run", name, "--unpinned"]).output().unwrap(), 1, &part);
    assert_eq!(files_with(name).len(), 2, "nothing was removed");
}

#[test]
fn a_name_that_is_no_file_is_refused_by_it_as_by_a_start() {
    let names = names("link");
    symlink("/etc/passwd", format!("/dev/shm/executor.{}.journal", names.0)).unwrap();
    let output = doctor(&[&names.0, "--json"]);
    assert_says(&check(&output, "owner"), "error", "is a symbolic link");
    assert_eq!(output.status.code(), Some(1));
    assert_refused(&executord().args(["run", &names.0, "--unpinned"]).output().unwrap(), 1, "a symbolic link");
}

#[test]
fn a_file_of_another_user_is_refused_by_it_as_by_a_start() {
    if !geteuid().is_root() {
        return println!("skipped: only root can make a file of another user");
    }
    let names = names("owner");
    let path = format!("/dev/shm/executor.{}.journal", names.0);
    fs::write(&path, "").unwrap();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    let output = doctor(&[&names.0, "--json"]);
    assert_says(&check(&output, "owner"), "error", "belongs to uid 65534, this process runs as uid 0");
    assert_eq!(output.status.code(), Some(1));
    assert_refused(&executord().args(["run", &names.0, "--unpinned"]).output().unwrap(), 1, "belongs to uid 65534");
}

#[test]
fn another_users_living_instance_is_an_error_unless_its_group_lets_this_one_in() {
    if !geteuid().is_root() {
        return println!("skipped: only root can become another user");
    }
    if executord().arg("--version").uid(NOBODY).gid(NOBODY).output().is_err() {
        return println!("skipped: other users may not run the programs of this folder");
    }
    for (group, state, part) in [
        (None, "error", "this process runs as uid 65534: a start will be refused"),
        (Some("65534"), "note", "its sidecar runs as that user"),
    ] {
        let flags = group.map_or(vec![], |group| vec!["--group", group]);
        let sidecar = Sidecar::start(&instance("visited"), &flags);
        let mut command = executord();
        command.args(["doctor", sidecar.instance.as_str(), "--json"]).uid(NOBODY).gid(NOBODY);
        let output = command.output().unwrap();
        assert_says(&check(&output, "owner"), state, part);
        let (instance, part) = match group {
            None => ("error", "is not let in".to_owned()),
            Some(_) => ("ok", format!("pid {} serves it", sidecar.child.id())),
        };
        assert_says(&check(&output, "instance"), instance, &part);
        assert!(
            !check(&output, "leftovers")["fact"].to_string().contains(sidecar.instance.as_str()),
            "it may be served"
        );
    }
}

#[test]
fn a_small_dev_shm_is_told_with_what_fits_and_a_start_agrees() {
    // A namespace of mounts with a /dev/shm of its own.
    let within = |size: &str, script: &str| {
        let mount = format!("mount -t tmpfs -o size={size},mode=1777 tmpfs /dev/shm && {script}");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &mount]).env("EXECUTORD", env!("CARGO_BIN_EXE_executord"));
        command.output()
    };
    if !geteuid().is_root() || !within("1m", "true").is_ok_and(|output| output.status.success()) {
        return println!("skipped: no mounts of its own can be had here");
    }
    let small = within("1m", "\"$EXECUTORD\" doctor --json").unwrap();
    let room = check(&small, "shm_size");
    assert_says(&room, "error", "a start will be refused");
    assert_eq!((small.status.code(), &room["figures"]["size_bytes"]), (Some(1), &(1 << 20).into()));
    let start = within("1m", "\"$EXECUTORD\" run --unpinned").unwrap();
    assert_refused(&start, 1, "/dev/shm is full");
    let middle = within("4m", "\"$EXECUTORD\" doctor --json").unwrap();
    let room = check(&middle, "shm_size");
    assert_says(&room, "warning", "only 5 lanes will be made");
    assert_eq!((middle.status.code(), &room["figures"]["lanes_fit"]), (Some(0), &5.into()));
    // The cure that is told is one.
    let cure = room["cure"].as_str().unwrap();
    let size = cure.split("size=").nth(1).unwrap().split('M').next().unwrap();
    let cured = within(&format!("{size}m"), "\"$EXECUTORD\" doctor --json").unwrap();
    assert_eq!(check(&cured, "shm_size")["state"], "ok", "{size} MiB");
    let pids = Command::new("unshare")
        .args(["-p", "-f", "--mount-proc", env!("CARGO_BIN_EXE_executord"), "doctor", "--json"])
        .output()
        .unwrap();
    assert_says(&check(&pids, "pid_namespace"), "note", "a container's own");
}

#[test]
fn a_cpu_outside_the_affinity_is_refused_by_it_as_by_a_start() {
    let mine = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| mine.is_set(cpu).unwrap()).collect();
    let [first, .., last] = cpus[..] else { return println!("skipped: a single CPU") };
    let name = instance("affinity");
    let run = |verb: &str| {
        std::thread::scope(|scope| {
            let run = || {
                let mut one = CpuSet::new();
                one.set(first).unwrap();
                sched_setaffinity(Pid::from_raw(0), &one).unwrap();
                let cpu = last.to_string();
                let json: &[&str] = if verb == "doctor" { &["--json"] } else { &[] };
                executord().args([verb, name.as_str(), "--cpu", &cpu]).args(json).output().unwrap()
            };
            scope.spawn(run).join().unwrap()
        })
    };
    let output = run("doctor");
    assert_says(&check(&output, "cpus"), "error", &format!("CPU {last} is not allowed to this process"));
    assert_eq!(check(&output, "cpus")["figures"]["allowed"], Value::from(vec![first]));
    assert_eq!(output.status.code(), Some(1));
    assert_refused(&run("run"), 2, "not allowed");
}

#[test]
fn rights_that_a_user_lacks_are_told_where_they_are_asked_for() {
    let name = instance("rights");
    let mut command = executord();
    command.args(["doctor", name.as_str(), "--json", "--cpu-latency", "0"]);
    if geteuid().is_root() {
        if executord().arg("--version").uid(NOBODY).gid(NOBODY).output().is_err() {
            return println!("skipped: other users may not run the programs of this folder");
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let latency = check(&output, "cpu_latency");
    if latency["state"] == "ok" {
        return println!("skipped: this user may write /dev/cpu_dma_latency");
    }
    assert_says(&latency, "warning", "--cpu-latency 0 will be refused");
    assert_eq!(output.status.code(), Some(0), "a start serves without it");
}

#[test]
fn an_address_for_metrics_that_a_start_would_not_get_is_told_with_its_cure() {
    let name = instance("metrics");
    let ask = |address: &str, more: &[&str]| {
        let output = doctor(&[&[name.as_str(), "--json", "--metrics", address], more].concat());
        (check(&output, "metrics"), output.status.code())
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let (finding, code) = ask(&taken, &[]);
    assert_says(&finding, "error", "choose another port with --metrics");
    assert_eq!((&finding["figures"]["address"], code), (&taken.as_str().into(), Some(1)));
    let start = executord().args(["run", name.as_str(), "--unpinned", "--metrics", &taken]).output().unwrap();
    assert_refused(&start, 1, "choose another port with --metrics");
    assert_says(&ask(&taken, &["--standby"]).0, "warning", "choose another port"); // it serves, and tries on
    // An address for documentation, which is nobody's.
    assert_says(&ask("192.0.2.7:9464", &[]).0, "error", "an address of this machine");
    assert_says(&ask("127.0.0.1:0", &[]).0, "ok", "can be served");
    // What the sidecar itself has is no reason to look for another.
    let sidecar = Sidecar::start(&name, &["--metrics", "127.0.0.1:0"]);
    let page = sidecar.first_line.split("metrics: http://").nth(1).unwrap().split("/metrics").next().unwrap();
    assert_says(&ask(page, &[]).0, "note", "has its page there");
}

#[test]
fn wrong_arguments_and_a_wrong_config_are_refused_in_one_line() {
    assert_refused(&doctor(&["a.b"]), 2, "letters, digits");
    assert_refused(&doctor(&["--jsno"]), 2, "--json");
    assert_refused(&doctor(&["--lanes", "0"]), 2, "1 to 1024");
    assert_refused(&doctor(&["one", "two"]), 2, "unexpected argument 'two'");
    assert_refused(&doctor(&["--config", "/nowhere/at/all"]), 2, "/nowhere/at/all");
    let folder = Folder::new("doctor");
    let path = folder.0.join("orders.toml");
    fs::write(&path, "lanes = 7\ncapacity = 3\n").unwrap();
    assert_refused(&doctor(&["--config", path.to_str().unwrap()]), 2, ":2: ");
    fs::write(&path, "lanes = 7\n").unwrap();
    let name = instance("file");
    let output = doctor(&[name.as_str(), "--config", path.to_str().unwrap(), "--json"]);
    assert_eq!(check(&output, "shm_size")["figures"]["lanes"], 7);
}
