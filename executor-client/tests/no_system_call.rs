//! The path of a task enters the kernel on neither side: both threads are traced while tasks go round.
//!
//! The test runs itself under `strace`; where that is missing or may not trace, it says so and proves nothing. Waiting is
//! left out: whoever waits probes the sidecar's life now and then, which is a system call on purpose.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use executor_client::{Client, InstanceName, TaskDescriptor};
use executor_shm::Sidecar;
use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::recorder::Recording;
use executor_shm::core::{Handler, Registry};
use nix::unistd::{getpid, getppid, gettid};

const TRACED: &str = "EXECUTOR_TRACED";
/// What the traced process writes once it knows its threads, and its second word.
const THREADS: &str = "threads";
const TASKS: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_task_enters_the_kernel_on_neither_side() {
    if std::env::var_os(TRACED).is_some() {
        return go_round();
    }
    let log = std::env::temp_dir().join(format!("executor-calls-{}", std::process::id()));
    let mut command = Command::new("strace");
    command.arg("-fy").arg("-o").arg(&log).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "a_task_enters_the_kernel_on_neither_side", "--nocapture"]).env(TRACED, "1");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("skipped: strace is not installed");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let calls = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if calls.is_empty() {
        println!("skipped: strace cannot trace here: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));

    let line = told.lines().find_map(|line| line.split_once(THREADS)).unwrap().1;
    let threads: Vec<&str> = line.split_whitespace().collect();
    let [client, worker] = threads[..] else { panic!("{line}") };
    // Between the client's two marks, each a call of its own that nobody else makes.
    let marks: Vec<usize> =
        calls.lines().enumerate().filter(|(_, line)| line.contains("getppid(")).map(|(at, _)| at).collect();
    let [begin, end] = marks[..] else { panic!("{} marks in {} lines", marks.len(), calls.lines().count()) };
    let inside: Vec<&str> = calls
        .lines()
        .take(end)
        .skip(begin + 1)
        .filter(|line| !line.contains("getppid") && !line.contains(" resumed>")) // the second half of one that took long
        .filter(|line| line.split_whitespace().next().is_some_and(|thread| thread == client || thread == worker))
        .collect();
    // After a preemption the worker asks once for how long, and around a task that took long for its page faults.
    let is_noted = |line: &&str| line.contains("/schedstat>") || line.contains("getrusage(RUSAGE_THREAD");
    let (noted, inside): (Vec<&str>, Vec<&str>) = inside.iter().partition(|line| is_noted(line));
    assert!(inside.is_empty(), "system calls while {TASKS} tasks of either kind ran:\n{}", inside.join("\n"));
    assert!(
        noted.len() < TASKS as usize / 2,
        "{} of {TASKS} tasks had the worker enter the kernel\n{}",
        noted.len(),
        noted[..40].join("\n")
    );
    let workers_own = calls.lines().filter(|line| line.split_whitespace().next() == Some(worker)).count();
    assert!(workers_own > 0, "the worker is traced");
}

fn go_round() {
    static WORKER: AtomicI32 = AtomicI32::new(0);
    let instance = InstanceName::new(&format!("calls-{}", getpid())).unwrap();
    let mut registry = Registry::builder();
    registry.add(Handler::per_worker(1, "echo", |_| {
        WORKER.store(gettid().as_raw(), Relaxed);
        |_, request, response| {
            response.write(request);
            Ok(())
        }
    }));
    let builder = Sidecar::builder().instance(instance.clone()).capacity(64).pinned(false).idle(IdleStrategy::Spin);
    // Traced, all tasks take long.
    let builder = builder.recording(Recording::SlowAfter(Duration::from_secs(3600)));
    let sidecar = builder.registry(registry.build().unwrap()).start().unwrap();
    let mut client = Client::connect_timeout(&instance, PATIENCE).unwrap();
    pipeline(&mut client, 100, &[1; 16]);
    println!("{THREADS} {} {}", gettid(), WORKER.load(Relaxed));
    let _ = getppid();
    pipeline(&mut client, TASKS, &[2; 16]);
    pipeline(&mut client, TASKS, &[3; 200]);
    let _ = getppid();
    drop(client);
    drop(sidecar);
}

fn pipeline(client: &mut Client, tasks: u64, payload: &[u8]) {
    let (mut submitted, mut collected) = (0, 0);
    while collected < tasks {
        while submitted < tasks && client.try_submit(&TaskDescriptor::new(1), payload).is_ok() {
            submitted += 1;
        }
        while let Some(completion) = client.try_collect().unwrap() {
            assert!(completion.is_done());
            collected += 1;
        }
        std::hint::spin_loop();
    }
}
