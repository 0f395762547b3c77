//! What must not start or connect, and says why; and odd surroundings in which everything must go on all the same.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use executor_client::{Client, ConnectError, Status, TaskDescriptor};
use executor_shm::attach::OpenError;
use executor_shm::core::cpu::CpuError;
use executor_shm::core::status::HandlerChange;
use executor_shm::files::FileError;
use executor_shm::{Sidecar, StartError};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{ECHO, Sum};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process, sidecar_command};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const PRODUCER: &str = env!("CARGO_BIN_EXE_producer");

/// Starts a sidecar that must refuse; what it says.
#[track_caller]
fn refusal(instance: &TestInstance, options: &[&str]) -> String {
    let (lines, status) = Process::start(&mut sidecar_command(SIDECAR, instance, options)).rest();
    assert_eq!(status.code(), Some(3), "{lines:?}");
    lines[0].strip_prefix("refused ").unwrap_or_else(|| panic!("{lines:?}")).to_owned()
}

/// A program started by a shell that was told something before.
fn under(shell: &str, program: &Command) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{shell}; exec \"$@\" {}", if shell.contains("<&-") { "<&-" } else { "" }), "sh"]);
    command.arg(program.get_program()).args(program.get_args());
    command
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn serves(instance: &TestInstance) {
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
}

#[test]
fn a_second_sidecar_on_a_living_name_is_refused_and_harms_nothing() {
    let instance = TestInstance::new("twice");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
    // The lane that was taken is being replaced by a spare one; only then do the files stand still.
    let begun = std::time::Instant::now();
    let is_settled = |files: &[String]| {
        files.iter().filter(|file| file.ends_with(".sq")).count() == 3
            && !files.iter().any(|file| file.contains(".tmp-"))
    };
    while !is_settled(&instance.files()) {
        assert!(begun.elapsed() < FAIL_SAFE, "no spare lane was made: {:?}", instance.files());
        std::thread::yield_now();
    }
    let files = instance.files();
    for options in [&[][..], &["--capacity", "8"], &["--lanes", "3"]] {
        let text = refusal(&instance, options);
        assert!(text.contains("AlreadyRunning") && text.contains("is already running; stop it"), "{text}");
        assert_eq!(instance.files(), files);
    }
    assert_eq!(client.call_timeout::<Sum>(&[3, 4], FAIL_SAFE), Ok(7));
    drop(client);
    instance.wait_until_deserted();
    sidecar.terminate();
    assert_eq!(sidecar.rest().0, ["ended Removed after 2 tasks"]);
}

#[test]
fn a_start_with_other_sizes_than_the_files_have_is_refused_naming_both() {
    let instance = TestInstance::new("sizes");
    let sidecar = process::sidecar(SIDECAR, &instance, &["--capacity", "16", "--lanes", "4"]);
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    sidecar.kill();
    let files = instance.files();
    for (options, text) in [
        (["--capacity", "32"], "was made with capacity 16, not 32"),
        (["--lanes", "5"], "was made with lanes 4, not 5"),
        (["--request-bytes", "64"], "was made with request-bytes 256, not 64"),
        (["--response-bytes", "0"], "was made with response-bytes 256, not 0"),
        (["--timing", "0"], "was made with timing 1, not 0"),
    ] {
        let found = refusal(&instance, &options);
        assert!(found.contains(text), "{found}");
        assert_eq!(instance.files(), files);
    }
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--capacity", "16"]);
    assert_eq!(client.call_timeout::<Sum>(&[3, 4], FAIL_SAFE), Ok(7));
}

#[test]
fn sizes_out_of_bounds_are_refused_by_name_and_leave_nothing() {
    let instance = TestInstance::new("bounds");
    for (option, value, name) in [
        ("--capacity", "0", "capacity"),
        ("--capacity", "1000", "capacity"),
        ("--capacity", "131072", "capacity"),
        ("--lanes", "0", "lanes"),
        ("--lanes", "1025", "lanes"),
        ("--request-bytes", "65", "request_bytes"),
        ("--response-bytes", "16777216", "response_bytes"),
    ] {
        let text = refusal(&instance, &[option, value]);
        assert!(text.contains(&format!("{name} is {value}; it must be ")), "{text}");
        assert_eq!(instance.files(), [""; 0]);
    }
}

/// Puts another ABI into the header of a file and returns what was there.
fn patch_abi(instance: &TestInstance, kind: &str, abi: u32) -> u32 {
    let file = File::options().read(true).write(true).open(instance.path(kind)).unwrap();
    let mut old = [0; 4];
    file.read_exact_at(&mut old, 8).unwrap();
    file.write_all_at(&abi.to_le_bytes(), 8).unwrap();
    u32::from_le_bytes(old)
}

#[test]
fn files_of_another_abi_are_refused_by_both_sides_naming_both_versions() {
    let instance = TestInstance::new("abi");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let abi = patch_abi(&instance, "status", 77);
    match Client::connect(instance.name()) {
        Err(ConnectError::Open(OpenError::File(FileError::AbiMismatch { found: 77, expected, .. }))) => {
            assert_eq!(expected, abi);
        }
        other => panic!("{other:?}"),
    }
    patch_abi(&instance, "status", abi);
    serves(&instance);
    sidecar.kill();
    patch_abi(&instance, "journal", 77);
    let files = instance.files();
    let text = refusal(&instance, &[]);
    assert!(
        text.contains("AbiMismatch")
            && text
                .contains(&format!("speaks ABI 77 and has 16 lanes, this build speaks {abi}; restart the older side"))
            && text.contains("executord clean --discard"),
        "{text}"
    );
    assert_eq!(instance.files(), files);
    patch_abi(&instance, "journal", abi);
    // Beside a journal of this ABI it is no less another build's.
    patch_abi(&instance, "status", 77);
    let before = fs::metadata(instance.path("status")).unwrap().ino();
    let text = refusal(&instance, &[]);
    assert!(text.contains("status speaks ABI 77 and has 16 lanes"), "{text}");
    assert_eq!(fs::metadata(instance.path("status")).unwrap().ino(), before, "it was replaced all the same");
    assert_eq!(instance.files(), files);
    patch_abi(&instance, "status", abi);
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    serves(&instance);
}

#[test]
fn files_of_another_user_are_believed_by_neither_side() {
    if !is_root() {
        println!("skipped: only root can give files away");
        return;
    }
    let instance = TestInstance::new("owner");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let status = instance.path("status");
    std::os::unix::fs::chown(&status, Some(12_345), None).unwrap();
    match Client::connect(instance.name()) {
        Err(ConnectError::Open(OpenError::WrongOwner { owner: 12_345, .. })) => {}
        other => panic!("{other:?}"),
    }
    executor_client::ConnectOptions::new().owner(12_345).timeout(FAIL_SAFE).connect(instance.name()).unwrap();
    sidecar.kill();
    for kind in ["status", "journal"] {
        std::os::unix::fs::chown(instance.path(kind), Some(12_345), None).unwrap();
        let files = instance.files();
        let text = refusal(&instance, &[]);
        assert!(text.contains("it belongs to uid 12345, this process runs as uid 0; run it"), "{text}");
        assert_eq!(instance.files(), files);
        std::os::unix::fs::chown(instance.path(kind), Some(0), None).unwrap();
    }
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    serves(&instance);
}

#[test]
fn a_name_that_nobody_runs_is_told_from_one_that_cannot_be_used() {
    let instance = TestInstance::new("nobody");
    let error = Client::connect(instance.name()).unwrap_err();
    assert!(error.is_not_running());
    let cure = format!("no executor is running instance {0}; start one with: executord run {0}", instance.name());
    assert_eq!(error.to_string(), cure);
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    sidecar.kill();
    assert!(Client::connect(instance.name()).unwrap_err().is_not_running(), "files without a sidecar");
    fs::write(instance.path("status"), [0; 8192]).unwrap();
    let error = Client::connect(instance.name()).unwrap_err();
    assert!(matches!(error, ConnectError::Open(OpenError::File(FileError::Foreign { .. }))), "{error:?}");
}

#[test]
fn a_full_shared_memory_refuses_the_start_with_need_and_room_and_keeps_nothing() {
    if !is_root() {
        println!("skipped: only root can mount a small /dev/shm of its own");
        return;
    }
    let instance = TestInstance::new("room");
    // The journal fits into the first, status into the second, one lane and a half into the third.
    for size in ["4k", "64k", "256k", "512k", "1m", "1500k"] {
        let options = ["--shared-memory", size];
        let (lines, status) = Process::start(&mut sidecar_command(SIDECAR, &instance, &options)).rest();
        if is_skipped(&lines[0]) {
            return;
        }
        assert_eq!(status.code(), Some(3), "{size}: {lines:?}");
        assert!(lines[0].starts_with("refused ") && lines[0].contains("Full {"), "{size}: {lines:?}");
        assert!(lines[0].contains(" bytes are needed for ") && lines[0].contains(" are free"), "{size}: {lines:?}");
        assert!(lines[0].contains("lower --lanes or --capacity, or enlarge it"), "{size}: {lines:?}");
        assert_eq!(lines[1], "left []", "{size}");
    }
    let options = ["--shared-memory", "8m", "--capacity", "64"];
    let mut roomy = Process::start(&mut sidecar_command(SIDECAR, &instance, &options));
    assert_eq!(roomy.line(), "ready");
}

#[test]
fn a_shared_memory_that_runs_full_refuses_further_lanes_and_harms_none_that_is_there() {
    if !is_root() {
        println!("skipped: only root can mount a small /dev/shm of its own");
        return;
    }
    let instance = TestInstance::new("filled");
    let sizes = ["--capacity", "8", "--request-bytes", "128", "--response-bytes", "128"];
    let options = [&["--shared-memory", "1420k"], &sizes[..]].concat();
    let mut sidecar = Process::start(&mut sidecar_command(SIDECAR, &instance, &options));
    let line = sidecar.line();
    if is_skipped(&line) {
        return;
    }
    assert_eq!(line, "ready");
    let mut holders = Vec::new();
    let refused = loop {
        let mut producer = process::producer(PRODUCER, &instance);
        producer.ask(&format!("enter {}", sidecar.pid()), "entered");
        producer.tell("connect 2000");
        let line = producer.line();
        match line.strip_prefix("refused ") {
            Some(refused) => break refused.to_owned(),
            None => holders.push(producer),
        }
    };
    assert!((1..16).contains(&holders.len()), "{} lanes", holders.len());
    assert!(refused.starts_with("NoRoom {") && refused.contains("enlarge it"), "{refused}");
    assert!(refused.contains(" bytes left, a lane takes 16384; close a client"), "{refused}");
    assert!(refused.contains(&format!("by pid {}", holders[0].pid())), "{refused}");
    for holder in &mut holders {
        holder.ask("stream 200 1", "streamed");
    }
    // What makes room is a lane given back.
    holders.remove(0).kill();
    let mut next = process::producer(PRODUCER, &instance);
    next.ask(&format!("enter {}", sidecar.pid()), "entered");
    next.ask("connect", "lane");
    next.ask("stream 200 2", "streamed");
    for holder in &mut holders {
        holder.ask("stream 200 3", "streamed");
    }
}

/// Whether a sidecar found that it cannot have what the test needs; it has said why.
fn is_skipped(line: &str) -> bool {
    let is_skipped = line.starts_with("skipped");
    if is_skipped {
        println!("{line}");
    }
    is_skipped
}

/// Puts a file of its own in the place of `status`, as somebody might who restores a backup.
fn replace_status(instance: &TestInstance, bytes: &[u8]) -> u64 {
    let draft = instance.folder().join("status");
    fs::write(&draft, bytes).unwrap();
    // Not by renaming: the folder may lie in another file system.
    fs::remove_file(instance.path("status")).unwrap();
    fs::copy(&draft, instance.path("status")).unwrap();
    fs::metadata(instance.path("status")).unwrap().ino()
}

#[test]
fn a_status_that_is_not_the_journals_is_replaced_and_nothing_that_was_accepted_is_lost() {
    let (instance, other) = (TestInstance::new("foreign"), TestInstance::new("stranger"));
    let _stranger = process::sidecar(SIDECAR, &other, &[]);
    let of_the_stranger = fs::read(other.path("status")).unwrap();
    let mut damaged = of_the_stranger.clone();
    damaged[..8].fill(0xee);
    let statuses: [&[u8]; 5] = [&of_the_stranger, &of_the_stranger[..4096], &damaged, b"no header", b""];
    for foreign in statuses {
        let sidecar = process::sidecar(SIDECAR, &instance, &[]);
        let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
        assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
        sidecar.kill();
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), b"accepted").unwrap();
        let inode = replace_status(&instance, foreign);
        assert!(Client::connect(instance.name()).is_err(), "nobody serves it");

        let sidecar = process::sidecar(SIDECAR, &instance, &[]);
        let status = fs::metadata(instance.path("status")).unwrap();
        assert!(status.ino() != inode && status.mode() & 0o7777 == 0o600, "the foreign file still has the name");
        serves(&instance);
        // Its answer is there; whether the handlers are those it was meant for nobody knows without the old table.
        let begun = std::time::Instant::now();
        let answer = loop {
            if let Some(completion) = client.try_wait(&mut ticket).unwrap() {
                break completion.status();
            }
            assert!(begun.elapsed() < FAIL_SAFE, "the task is not answered");
            std::thread::yield_now();
        };
        assert_eq!(answer, Status::HandlerChanged(HandlerChange::Changed));
        drop(client);
        instance.wait_until_deserted();
        sidecar.terminate();
        let (lines, _) = sidecar.rest();
        assert!(lines[0].starts_with("ended Removed"), "{lines:?}");
        assert_eq!(instance.files(), [""; 0]);
    }
    serves(&other);
}

/// Locks a file as nobody of the executor's does: through a description of the test's own.
fn lock(instance: &TestInstance, kind: &str, what: i32) -> File {
    let file = File::options().read(true).write(true).open(instance.path(kind)).unwrap();
    let lock = libc::flock { l_type: what as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}

#[test]
fn a_foreign_lock_on_a_file_refuses_the_start_by_name_until_it_is_gone() {
    let instance = TestInstance::new("locked");
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
    sidecar.kill();
    let files = instance.files();
    for kind in ["status", "journal"] {
        let held = lock(&instance, kind, libc::F_RDLCK);
        let text = refusal(&instance, &[]);
        let name =
            format!("/dev/shm/executor.{}.{kind} is read-locked by a process that is no executor", instance.name());
        assert!(text.contains("ReadLocked") && text.contains(&name), "{text}");
        drop(held);
        let held = lock(&instance, kind, libc::F_WRLCK);
        let text = refusal(&instance, &[]);
        assert!(text.contains("AlreadyRunning"), "who holds the write lock lives: {text}");
        drop(held);
        assert_eq!(instance.files(), files);
    }
    let sidecar = process::sidecar(SIDECAR, &instance, &[]);
    assert_eq!(client.call_timeout::<Sum>(&[3, 4], FAIL_SAFE), Ok(7), "nothing of the files was touched");
    sidecar.kill();
    // A life lock on a status that is not even the journal's: some sidecar lives there.
    let inode = replace_status(&instance, b"no header");
    let held = lock(&instance, "status", libc::F_WRLCK);
    let text = refusal(&instance, &[]);
    assert!(text.contains("AlreadyRunning"), "{text}");
    assert_eq!(fs::metadata(instance.path("status")).unwrap().ino(), inode);
    drop(held);
    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    serves(&instance);
}

#[test]
fn a_cpu_that_is_not_there_refuses_the_start_naming_those_that_are_and_leaves_nothing() {
    let instance = TestInstance::new("cpu");
    let start = |cpus: &[u32]| Sidecar::builder().instance(instance.name().clone()).cpus(cpus).start().unwrap_err();
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let error = start(&[1023]);
    assert!(matches!(&error, StartError::Cpu(CpuError::Absent { cpu: 1023, .. })), "{error:?}");
    assert_eq!(error.to_string(), format!("cpu 1023 is not there or offline; online are {}", online.trim()));
    assert!(matches!(start(&[1024]), StartError::Cpu(CpuError::TooHigh { cpu: 1024 })));
    let there = executor_shm::core::cpu::allowed_cpus().unwrap()[0];
    assert!(matches!(start(&[there, there]), StartError::CpuTwice { cpu } if cpu == there));
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn processes_started_without_a_standard_input_go_on_as_others() {
    let instance = TestInstance::new("closed");
    let mut sidecar = Process::start(&mut under(":<&-", &sidecar_command(SIDECAR, &instance, &[])));
    assert_eq!(sidecar.line(), "ready");
    serves(&instance);
    drop(Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap());
    instance.wait_until_deserted();
    sidecar.terminate();
    assert_eq!(sidecar.rest().0, ["ended Removed after 1 tasks"]);
    assert_eq!(instance.files(), [""; 0]);
}

#[test]
fn an_odd_umask_changes_no_mode_and_stops_nothing() {
    let instance = TestInstance::new("umask");
    let mut sidecar = Process::start(&mut under("umask 0777", &sidecar_command(SIDECAR, &instance, &[])));
    assert_eq!(sidecar.line(), "ready");
    for name in instance.files() {
        let mode = fs::metadata(format!("/dev/shm/{name}")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    let command = {
        let mut command = Command::new(PRODUCER);
        command.arg(instance.name().as_str());
        command
    };
    let mut producer = Process::start(&mut under("umask 0777", &command));
    producer.ask("connect", "lane");
    producer.ask("stream 100 1", "streamed");
}

#[test]
fn too_few_descriptors_refuse_a_start_or_a_connect_by_name_and_leave_nothing() {
    let instance = TestInstance::new("descriptors");
    let mut refused = 0;
    let mut started = false;
    for limit in 4..=40 {
        let command = sidecar_command(SIDECAR, &instance, &["--capacity", "8"]);
        let mut sidecar = Process::start(&mut under(&format!("ulimit -n {limit}"), &command));
        let line = sidecar.line();
        if line == "ready" {
            started = true;
            serves(&instance);
            instance.wait_until_deserted();
            sidecar.terminate();
            let (lines, _) = sidecar.rest();
            assert!(lines[0].starts_with("ended Removed"), "limit {limit}: {lines:?}");
            break;
        }
        let (_, status) = sidecar.rest();
        assert!(line.starts_with("refused ") && line.contains("Too many open files"), "limit {limit}: {line}");
        assert_eq!(status.code(), Some(3), "limit {limit}");
        assert_eq!(instance.files(), [""; 0], "limit {limit}: {line}");
        refused += 1;
    }
    assert!(started && refused > 0, "no limit is too low, or none is high enough");

    let _sidecar = process::sidecar(SIDECAR, &instance, &[]);
    let mut refused = 0;
    for limit in 4..=40 {
        let mut command = Command::new(PRODUCER);
        command.arg(instance.name().as_str());
        let mut producer = Process::start(&mut under(&format!("ulimit -n {limit}"), &command));
        producer.tell("connect");
        let line = producer.line();
        if line.starts_with("lane") {
            producer.ask("stream 10 1", "streamed");
            break;
        }
        assert!(line.starts_with("refused ") && line.contains("Too many open files"), "limit {limit}: {line}");
        refused += 1;
    }
    assert!(refused > 0, "no limit is too low");
    serves(&instance);
}
