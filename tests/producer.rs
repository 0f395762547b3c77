//! A producer that does what its standard input says, a line each, and answers with a line each: `producer INSTANCE`.
//!
//! | line | answer |
//! |---|---|
//! | `connect` | `lane NUMBER`, or `refused …`; waits as long as it takes, or as many milliseconds as a number says |
//! | `enter PID` | `entered`: sees the file systems that the other process sees |
//! | `submit HANDLER TEXT` | `accepted TASK_ID`, or `refused …` |
//! | `collect` | `completion TASK_ID STATUS TEXT`, in order of submission |
//! | `drop` | `dropped` |
//! | `stream COUNT SEED` | `streamed COUNT`, every completion compared |
//! | `survive COUNT SEED` | `progress COLLECTED` now and then, `survived COUNT INTERRUPTED`: as `stream`, through killed sidecars |
//! | `steady ENOUGH` | `progress COUNT` now and then; `steady COUNT` once the file ENOUGH is there: it never reconnects |
//! | `move ENOUGH LEDGER` | as `steady`, with tasks of handlers that change; ends as `moved COUNT RECONNECTS` |
//! | `churn COUNT HOLDERS` | `churned TASK_ID` so many times, then `refused COUNT`: connects, runs one task and drops |

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's process fails by panicking")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use executor_client::{Client, ConnectError, InstanceName, Status, TaskDescriptor};
use executor_shm::core::status::{Interrupted, Malformed};
use executor_tests::FAIL_SAFE;
use executor_tests::builds::{MARKED, Marked, RETIRED, STEADY};
use executor_tests::handlers::{ECHO, tell};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

fn main() {
    set_pdeathsig(Signal::SIGKILL).unwrap(); // a test that is killed leaves no process
    let instance = InstanceName::new(&std::env::args().nth(1).unwrap()).unwrap();
    let mut client = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.splitn(3, ' ');
        let command = words.next().unwrap();
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        match command {
            "connect" => match Client::connect_timeout(&instance, words.next().map_or(FAIL_SAFE, milliseconds)) {
                Ok(connected) => {
                    tell(format_args!("lane {}", connected.lane_number()));
                    client = Some(connected);
                }
                Err(error) => tell(format_args!("refused {error:?}: {error}")),
            },
            "enter" => {
                let namespace = File::open(format!("/proc/{}/ns/mnt", number())).unwrap();
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
                tell(format_args!("entered"));
            }
            "submit" => {
                let handler = number() as u32;
                let payload = words.next().unwrap_or_default();
                match client.as_mut().unwrap().try_submit(&TaskDescriptor::new(handler), payload.as_bytes()) {
                    Ok(task_id) => tell(format_args!("accepted {}", task_id.as_u64())),
                    Err(error) => tell(format_args!("refused {error:?}: {error}")),
                }
            }
            "collect" => {
                let (task_id, status, text) = collect(client.as_mut().unwrap());
                tell(format_args!("completion {task_id} {status:?} {text}"));
            }
            "drop" => {
                client = None;
                tell(format_args!("dropped"));
            }
            "stream" => {
                let (count, seed) = (number(), words.next().unwrap().parse().unwrap());
                assert_eq!(stream(client.as_mut().unwrap(), count, seed, u64::MAX), 0, "interrupted tasks");
                tell(format_args!("streamed {count}"));
            }
            "survive" => {
                let (count, seed) = (number(), words.next().unwrap().parse().unwrap());
                let interrupted = stream(client.as_mut().unwrap(), count, seed, PROGRESS);
                tell(format_args!("survived {count} {interrupted}"));
            }
            "steady" => steady(client.as_mut().unwrap(), Path::new(words.next().unwrap())),
            "move" => {
                let (enough, ledger) = (Path::new(words.next().unwrap()), words.next().unwrap());
                wander(&instance, enough, &mut BufWriter::new(File::create(ledger).unwrap()));
            }
            "churn" => {
                let (count, holders) = (number(), words.next().unwrap());
                let holders = File::options().read(true).write(true).open(holders).unwrap();
                let refused: u64 = (0..count).map(|turn| churn(&instance, turn, &holders)).sum();
                tell(format_args!("refused {refused}"));
            }
            _ => panic!("no command is called {command}"),
        }
    }
}

fn milliseconds(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap())
}

fn collect(client: &mut Client) -> (u64, Status, String) {
    let begun = Instant::now();
    loop {
        if let Some(completion) = client.try_collect().unwrap() {
            return (completion.task_id().as_u64(), completion.status(), completion.text());
        }
        assert!(begun.elapsed() < FAIL_SAFE, "the task does not end");
        std::thread::yield_now();
    }
}

/// The payload of a task: its length and every byte follow from its number and the seed.
fn payload(seed: u64, task: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ task;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let length = usize::from(next()) % 129;
    (0..length).map(|_| next()).collect()
}

/// Completions between two reports of progress.
const PROGRESS: u64 = 100;

/// As many tasks in flight as there are slots; each completion is compared with what its task was. Returns how many
/// tasks a killed sidecar interrupted.
fn stream(client: &mut Client, count: u64, seed: u64, progress: u64) -> u64 {
    let (mut submitted, mut collected, mut interrupted, mut first) = (0, 0, 0, None);
    let mut begun = Instant::now();
    while collected < count {
        while submitted < count {
            let task = TaskDescriptor::new(ECHO).user_data(submitted);
            match client.try_submit(&task, &payload(seed, submitted)) {
                Ok(task_id) => {
                    let first = *first.get_or_insert(task_id.as_u64());
                    assert_eq!(task_id.as_u64(), first + submitted, "task ids must follow each other");
                    submitted += 1;
                }
                Err(error) if error.is_full() => break,
                Err(error) => panic!("{error}"),
            }
        }
        let mut idle = true;
        while let Some(completion) = client.try_collect().unwrap() {
            assert_eq!(completion.user_data(), collected, "completions must come in order");
            assert_eq!(Some(completion.task_id().as_u64()), first.map(|first| first + collected));
            assert_eq!(completion.attempt(), 1);
            if completion.status() == Status::Interrupted(Interrupted::Killed) {
                interrupted += 1;
            } else {
                assert_eq!(completion.status(), Status::Done);
                assert_eq!(completion.response().to_vec(), payload(seed, collected), "task {collected} of seed {seed}");
            }
            collected += 1;
            if collected % progress == 0 {
                tell(format_args!("progress {collected}"));
            }
            idle = false;
        }
        if idle {
            assert!(begun.elapsed() < FAIL_SAFE, "nothing comes back");
            std::thread::yield_now();
        } else {
            begun = Instant::now();
        }
    }
    assert!(client.try_collect().unwrap().is_none(), "more completions than tasks");
    interrupted
}

/// As many tasks in flight as there are slots, through whatever happens to the sidecar, on one lane until `enough` is
/// there: every task of a handler that stays the same is done.
fn steady(client: &mut Client, enough: &Path) {
    let (mut submitted, mut collected) = (0, 0);
    let mut begun = Instant::now();
    while collected < submitted || !enough.exists() {
        while !enough.exists() {
            let task = TaskDescriptor::new(STEADY).user_data(submitted);
            match client.try_submit(&task, &payload(0, submitted)) {
                Ok(_) => submitted += 1,
                Err(error) if error.is_full() => break,
                Err(error) => panic!("{error}"),
            }
        }
        let Some(completion) = client.try_collect().unwrap() else {
            assert!(begun.elapsed() < FAIL_SAFE, "nothing comes back");
            std::thread::yield_now();
            continue;
        };
        begun = Instant::now();
        assert_eq!((completion.user_data(), completion.status()), (collected, Status::Done));
        assert_eq!(completion.response().to_vec(), payload(0, collected));
        collected += 1;
        if collected % PROGRESS == 0 {
            tell(format_args!("progress {collected}"));
        }
    }
    assert!(client.try_collect().unwrap().is_none(), "more completions than tasks");
    tell(format_args!("steady {collected}"));
}

/// Lives of clients until `enough` is there: each ends when it is told that a handler changed, and only once all it
/// submitted is answered. Answers are judged by the build whose contract the lane was found to be attached under, and
/// written down for the test: task, status, build.
fn wander(instance: &InstanceName, enough: &Path, ledger: &mut impl Write) {
    let (mut total, mut lives) = (0, 0);
    while !enough.exists() {
        lives += 1;
        let mut client = Client::connect_timeout(instance, FAIL_SAFE).unwrap();
        let build = build_of(&mut client);
        let (mut accepted, mut told) = (VecDeque::new(), false);
        let mut begun = Instant::now();
        loop {
            while !told && !enough.exists() {
                let handler = [STEADY, MARKED, RETIRED, MARKED][accepted.len() % 4];
                match client.try_submit(&TaskDescriptor::new(handler).user_data(handler.into()), &[0; 8]) {
                    Ok(task_id) => accepted.push_back(task_id),
                    Err(error) if error.is_full() => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let Some(completion) = client.try_collect().unwrap() else {
                if accepted.is_empty() {
                    break;
                }
                assert!(begun.elapsed() < FAIL_SAFE, "nothing comes back");
                std::thread::yield_now();
                continue;
            };
            begun = Instant::now();
            assert_eq!(Some(completion.task_id()), accepted.pop_front(), "each task once and in order");
            let (handler, status) = (completion.user_data() as u32, completion.status());
            let mark = completion.response().read::<u64>().filter(|_| status == Status::Done);
            match (handler, build, status) {
                (STEADY, _, Status::Done) => {}
                (MARKED, _, Status::Done) => assert_eq!(mark, Some(build), "another build's code answered"),
                (RETIRED, 1, Status::Done) => assert_eq!(mark, Some(1)),
                (RETIRED, 2, Status::Malformed(Malformed::UnknownHandler)) => {}
                (MARKED | RETIRED, _, Status::HandlerChanged(_)) => told = true,
                (MARKED | RETIRED, _, Status::Interrupted(Interrupted::Killed | Interrupted::HandlerChanged)) => {}
                _ => panic!("a task of handler {handler} under build {build} ended as {status}"),
            }
            if handler != STEADY {
                let words = [completion.task_id().as_u64(), status.code().into(), mark.unwrap_or(0)];
                ledger.write_all(&words.map(u64::to_le_bytes).concat()).unwrap();
            }
            total += 1;
            if total % PROGRESS == 0 {
                tell(format_args!("progress {total}"));
            }
        }
    }
    ledger.flush().unwrap();
    tell(format_args!("moved {total} {}", lives - 1));
}

/// Whose contract a lane is attached under, once somebody serves it.
fn build_of(client: &mut Client) -> u64 {
    let begun = Instant::now();
    loop {
        match (client.check_contract::<Marked<1>>(), client.check_contract::<Marked<2>>()) {
            (Ok(()), _) => return 1,
            (_, Ok(())) => return 2,
            (one, two) => assert!(begun.elapsed() < FAIL_SAFE, "{one:?}, {two:?}"),
        }
        std::thread::yield_now();
    }
}

/// One whole life of a client. Two owners of one lane would see each other's tasks, or each other's mark in the file of
/// holders, which has a word a lane. Returns how often there was no lane to be had.
fn churn(instance: &InstanceName, turn: u64, holders: &File) -> u64 {
    let mut refused = 0;
    // Every other turn in a hurry: it gives up and comes again, where the others wait.
    let patience = if turn.is_multiple_of(2) { Duration::from_millis(1) } else { FAIL_SAFE };
    let begun = Instant::now();
    let mut client = loop {
        match Client::connect_timeout(instance, patience) {
            Ok(client) => break client,
            Err(error @ ConnectError::NoFreeLane { .. }) => assert!(begun.elapsed() < FAIL_SAFE, "{error}"),
            Err(error) => panic!("{error}"),
        }
        refused += 1;
    };
    let place = u64::from(client.lane_number()) * 8;
    let mark = (u64::from(std::process::id()) << 32 | turn).to_le_bytes();
    holders.write_all_at(&mark, place).unwrap();
    let payload = format!("{}/{turn}", std::process::id());
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), payload.as_bytes()).unwrap();
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    assert_eq!(completion.status(), Status::Done);
    assert_eq!(completion.response().to_vec(), payload.as_bytes());
    let task_id = completion.task_id().as_u64();
    let mut found = [0; 8];
    holders.read_exact_at(&mut found, place).unwrap();
    assert_eq!(found, mark, "lane {} has two holders", client.lane_number());
    drop(client);
    tell(format_args!("churned {task_id}"));
    refused
}
