//! Workers and producers that sleep are woken by what they wait for, and never by the end of their time alone.
//!
//! Where a sleep must be ended by a wake-up, it is one that would last for a day.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_client::{Client, ConnectOptions, IdleStrategy, LaneStatus, Status, TaskDescriptor, WaitError};
use executor_shm::attach::{Claim, Instance, Wish};
use executor_shm::core::record::{COMMIT, DescriptorRecord, WORDS};
use executor_shm::inspect::{Inspection, Inspector};
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::layout::lane::{SLOTS, WAITING};
use executor_shm::lock::LockFile;
use executor_shm::mapped::{ReadWords, WriteWords};
use executor_shm::words::WordsMut;
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{ECHO, SLOW};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process, sidecar_command};
use executor_tests::shared::KeptFile;
use rustix::thread::futex;

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const ASLEEP: [&str; 2] = ["--idle", "sleep"];
const A_DAY: Duration = Duration::from_secs(86_400);

fn connect(instance: &TestInstance, idle: IdleStrategy) -> Client {
    ConnectOptions::new().idle(idle).timeout(FAIL_SAFE).connect(instance.name()).unwrap()
}

fn echo(client: &mut Client) {
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), b"wake up").unwrap();
    assert_eq!(client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap().status(), Status::Done);
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < FAIL_SAFE, "never came: {what}");
        std::thread::yield_now();
    }
}

fn look(instance: &TestInstance) -> Inspection {
    Inspector::open(instance.name()).unwrap().look()
}

/// Waits until a worker sleeps.
#[track_caller]
fn until_asleep(instance: &TestInstance) {
    let inspector = Inspector::open(instance.name()).unwrap();
    until("a sleeping worker", || inspector.look().lanes.iter().any(|lane| lane.sleeping));
}

/// No worker has slept over a task, and each was woken.
#[track_caller]
fn assert_none_lost(instance: &TestInstance) {
    for worker in look(instance).workers {
        assert!(worker.sleep.wakes > 0, "{worker:?}");
        assert_eq!(worker.sleep.overslept, 0, "a wake-up was lost: {worker:?}");
    }
}

/// A lane without a client around it.
struct Raw {
    instance: Instance,
    gate: usize,
    half: ProducerHalf<WriteWords, ReadWords>,
    _lock: LockFile,
}

impl Raw {
    fn attach(instance: &TestInstance) -> Self {
        let instance = Instance::open(instance.name(), None).unwrap();
        let begun = Instant::now();
        let Claim { lane, sq, cq, lock, .. } = loop {
            if let Some(claim) = instance.claim(Wish::default()).unwrap() {
                break claim;
            }
            assert!(begun.elapsed() < FAIL_SAFE, "no lane becomes free");
            instance.nap(Duration::from_millis(1));
        };
        instance.wake_housekeeping();
        let half = ProducerHalf::new(sq, cq, LaneShape::new(instance.geometry()));
        Self { gate: instance.gate(lane), half, _lock: lock, instance }
    }

    fn submit(&mut self, handler: u32, payload: &[u8]) -> u64 {
        let mut record = DescriptorRecord::new(handler, payload.len() as u32, self.instance.clock().now(), 0);
        record.inline_payload_mut()[..payload.len()].copy_from_slice(payload);
        let position = self.half.submit(&record);
        self.half.rouse(self.instance.status(), self.gate, position);
        position
    }

    /// Sleeps until the task has ended.
    fn await_end(&mut self, position: u64) {
        while self.half.look(position) == Look::Pending {
            self.half.sleep(position, A_DAY);
        }
        self.half.credit();
    }
}

/// Runs what sleeps for a day where nobody wakes it: then the test fails, and its process ends with the thread in it.
#[track_caller]
fn in_time<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let running = std::thread::spawn(body);
    until(what, || running.is_finished());
    running.join().unwrap()
}

#[test]
fn a_worker_and_a_producer_that_sleep_wake_each_other() {
    let instance = TestInstance::new("sleep");
    let sidecar = process::sidecar(SIDECAR, &instance, &[&ASLEEP[..], &["--workers", "2"]].concat());
    let mut clients =
        [IdleStrategy::Sleep, IdleStrategy::Spin, IdleStrategy::Adaptive].map(|idle| connect(&instance, idle));
    for _ in 0..200 {
        for client in &mut clients {
            until_asleep(&instance);
            echo(client);
        }
    }
    assert_none_lost(&instance);
    drop(clients);
    instance.wait_until_deserted();
    sidecar.terminate();
    assert!(sidecar.rest().1.success(), "a stop wakes whoever sleeps");
}

#[test]
fn a_producer_that_sleeps_is_woken_by_its_completion_alone() {
    let instance = TestInstance::new("sleep-woken");
    let _sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let (mut raw, mut busy) = (Raw::attach(&instance), connect(&instance, IdleStrategy::Spin));
    let enough = std::sync::Arc::new(AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&enough);
    // Another lane keeps the worker awake half of the time.
    let other = std::thread::spawn(move || {
        while !stop.load(Relaxed) {
            (0..50).for_each(|_| echo(&mut busy));
            std::thread::yield_now();
        }
    });
    in_time("the completions of 2000 tasks", move || {
        for _ in 0..2000 {
            let position = raw.submit(ECHO, b"");
            raw.await_end(position);
        }
    });
    enough.store(true, Relaxed);
    other.join().unwrap();
    assert_none_lost(&instance);
}

#[test]
fn a_producer_that_sleeps_is_woken_by_the_recovery_that_answers_it() {
    let instance = TestInstance::new("sleep-recovered");
    let _latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let mut raw = Raw::attach(&instance);
    let position = raw.submit(SLOW, b"held");
    assert_eq!(sidecar.line(), "entered held 1");
    let sleeper = std::thread::spawn(move || raw.await_end(position));
    let owner = |instance| look(instance).lanes.iter().any(|lane| lane.in_flight.is_some());
    until("the task in flight", || owner(&instance));
    sidecar.kill();
    let _sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    until("a wake-up", || sleeper.is_finished());
    sleeper.join().unwrap();
}

#[test]
fn races_of_falling_asleep_and_waking_lose_no_wake_up() {
    for (races, denied) in [(100_000, None), (5_000, Some("--sidecar-denied")), (5_000, Some("--producer-denied"))] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sleepers"));
        command.args(["--json", "--races", &races.to_string()]);
        if let Some(option) = denied {
            command.args([option, "membarrier"]);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{denied:?}: {text}");
        assert!(output.status.success(), "{denied:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(seen["races"], races);
        let sleeps = [&seen["worker"]["wakes"], &seen["producer"]["sleeps"]].map(|count| count.as_u64().unwrap());
        assert!(sleeps.iter().all(|&count| count > races / 100), "they hardly ever sleep: {text}");
        assert_eq!(seen["worker"]["without_barrier"], denied == Some("--sidecar-denied"));
    }
}

/// Nanoseconds of a core that a process has used, all its threads together.
fn cpu_ns(process: &Process) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let used = |thread: std::io::Result<fs::DirEntry>| -> u64 {
        let text = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    threads.map(used).sum()
}

#[test]
fn an_idle_sidecar_burns_next_to_nothing_and_wakes_for_a_task() {
    for idle in ["adaptive", "sleep"] {
        let instance = TestInstance::new("sleep-idle");
        let sidecar = process::sidecar(SIDECAR, &instance, &["--idle", idle]);
        let mut clients: Vec<Client> = (0..4).map(|_| connect(&instance, IdleStrategy::Spin)).collect();
        clients.iter_mut().for_each(echo);
        until_asleep(&instance);
        let (begun, before) = (Instant::now(), cpu_ns(&sidecar));
        std::thread::sleep(Duration::from_secs(2)); // the time that is measured
        let (used, wall) = (cpu_ns(&sidecar) - before, begun.elapsed().as_nanos() as u64);
        println!("{idle}: {:.3} % of a core", used as f64 * 100.0 / wall as f64);
        assert!(used * 50 < wall, "{idle}: {used} ns of a core in {wall} ns without a task");
        for client in &mut clients {
            until_asleep(&instance);
            echo(client);
        }
        assert_none_lost(&instance);
    }
}

#[test]
fn a_worker_that_spins_burns_its_core_and_one_that_yields_never_sleeps() {
    for idle in ["spin", "spin-then-yield", "yield"] {
        let instance = TestInstance::new("sleep-spin");
        let sidecar = process::sidecar(SIDECAR, &instance, &["--idle", idle]);
        let mut client = connect(&instance, IdleStrategy::SpinThenYield);
        echo(&mut client);
        let before = cpu_ns(&sidecar);
        until("20 ms of a core", || cpu_ns(&sidecar) > before + 20_000_000);
        let view = look(&instance);
        assert_eq!(view.workers[0].idle.map(IdleStrategy::name), Some(idle));
        assert_eq!(view.workers[0].sleep.wakes + view.workers[0].sleep.naps, 0);
    }
}

#[test]
fn a_sleeping_worker_is_woken_by_each_command() {
    let instance = TestInstance::new("sleep-commands");
    let sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let _first = connect(&instance, IdleStrategy::Sleep);
    let inspector = Inspector::open(instance.name()).unwrap();
    for _ in 0..10 {
        until_asleep(&instance);
        let before = inspector.look().workers.remove(0);
        let second = connect(&instance, IdleStrategy::Sleep);
        until("the lane with the worker", || inspector.look().workers[0].lanes == before.lanes + 1);
        until_asleep(&instance);
        let adopted = inspector.look().workers.remove(0);
        assert!(adopted.sleep.wakes > before.sleep.wakes, "a lane was adopted by chance: {before:?}, {adopted:?}");
        drop(second);
        until("the lane back", || inspector.look().workers[0].lanes == before.lanes);
        until_asleep(&instance);
        let drained = inspector.look().workers.remove(0);
        assert!(drained.sleep.wakes > adopted.sleep.wakes, "a lane was drained by chance: {adopted:?}, {drained:?}");
    }
    sidecar.terminate();
    assert!(sidecar.rest().1.success());
}

#[test]
fn a_sleeping_producer_hears_of_the_end_of_its_sidecar_and_of_its_task_from_the_next() {
    let instance = TestInstance::new("sleep-killed");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let mut client = connect(&instance, IdleStrategy::Sleep);
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(SLOW), b"held").unwrap();
    assert_eq!(sidecar.line(), "entered held 1");
    let waiting = std::thread::spawn(move || {
        let error = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap_err();
        (client, ticket, error)
    });
    sidecar.kill();
    let (mut client, mut ticket, error) = waiting.join().unwrap();
    assert_eq!(error, WaitError::ExecutorDown);
    let _sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    assert!(client.wait_timeout(&mut ticket, FAIL_SAFE).is_ok());
    echo(&mut client);
    drop(latch);
}

#[test]
fn a_sidecar_that_died_asleep_leaves_no_sleep_that_the_next_one_could_be_taken_for() {
    let instance = TestInstance::new("sleep-died");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let mut client = connect(&instance, IdleStrategy::Sleep);
    for _ in 0..5 {
        echo(&mut client);
        until_asleep(&instance);
        sidecar.kill();
        assert!(look(&instance).lanes[client.lane_number() as usize].sleeping, "it died asleep");
        // The wake-up for the dead one, which must not count for the next.
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), b"").unwrap();
        sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
        assert!(client.wait_timeout(&mut ticket, FAIL_SAFE).is_ok());
    }
    assert_none_lost(&instance);
}

#[test]
fn a_standby_takes_over_from_a_sleeping_sidecar_and_sleeps_itself() {
    let instance = TestInstance::new("sleep-standby");
    let sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let mut client = connect(&instance, IdleStrategy::Sleep);
    echo(&mut client);
    let options = [&ASLEEP[..], &["--standby", "1"]].concat();
    let mut standby = Process::start(&mut sidecar_command(SIDECAR, &instance, &options));
    standby.expect("warm");
    until_asleep(&instance);
    sidecar.kill();
    standby.expect("ready");
    for _ in 0..50 {
        until_asleep(&instance);
        echo(&mut client);
    }
    assert_none_lost(&instance);
}

#[test]
fn a_wait_ends_in_its_time_whatever_sleeps() {
    let instance = TestInstance::new("sleep-timeout");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    for idle in ["spin", "spin-then-yield", "yield", "adaptive", "sleep"] {
        let mut client = connect(&instance, idle.parse().unwrap());
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(SLOW), b"held").unwrap();
        assert_eq!(sidecar.line(), "entered held 1");
        for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(3), Duration::from_millis(150)] {
            let begun = Instant::now();
            assert_eq!(client.wait_timeout(&mut ticket, timeout).unwrap_err(), WaitError::Timeout);
            assert!(begun.elapsed() >= timeout);
        }
        latch.open();
        assert!(client.wait_timeout(&mut ticket, Duration::MAX).is_ok(), "a huge timeout is none");
    }
}

#[test]
fn a_lane_that_is_truncated_under_a_sleeping_worker_costs_nobody_else_anything() {
    let instance = TestInstance::new("sleep-truncated");
    let _sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let (mut victim, client) = (connect(&instance, IdleStrategy::Sleep), connect(&instance, IdleStrategy::Sleep));
    until_asleep(&instance);
    sq_file(&instance, client.lane_number(), true).set_len(0).unwrap();
    until("the poison", || {
        echo(&mut victim);
        client.state() == LaneStatus::Poisoned
    });
    std::mem::forget(client); // it maps the file as well
    for _ in 0..50 {
        until_asleep(&instance);
        echo(&mut victim);
    }
    assert_none_lost(&instance);
}

/// The `sq` of a lane.
fn sq_file(instance: &TestInstance, lane: u32, write: bool) -> File {
    let of = format!(".lane-{lane}-");
    let name = instance.files().into_iter().find(|name| name.contains(&of) && name.ends_with(".sq")).unwrap();
    File::options().read(true).write(write).open(format!("/dev/shm/{name}")).unwrap()
}

#[test]
fn a_damaged_commit_word_ends_the_wait_of_who_sleeps_and_no_other() {
    let instance = TestInstance::new("sleep-damaged");
    let _sidecar = process::sidecar(SIDECAR, &instance, &ASLEEP);
    let (mut victim, mut client) = (connect(&instance, IdleStrategy::Sleep), connect(&instance, IdleStrategy::Sleep));
    echo(&mut client);
    until_asleep(&instance);
    let at = (SLOTS + WORDS + COMMIT) as u64 * 8;
    std::os::unix::fs::FileExt::write_all_at(&sq_file(&instance, client.lane_number(), true), &[0x77; 8], at).unwrap();
    until("the poison", || client.state() == LaneStatus::Poisoned);
    assert!(client.submit_ticket(&TaskDescriptor::new(ECHO), b"").is_err());
    echo(&mut victim);
}

#[test]
fn a_waiting_word_that_lies_costs_its_own_lane_only_and_is_counted() {
    let instance = TestInstance::new("sleep-liar");
    // A worker that never sleeps: one that is about to makes good for what it put off, since it has nothing to lose.
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "yield"]);
    let (mut honest, mut liar) = (Raw::attach(&instance), Raw::attach(&instance));
    let begun = Instant::now();
    // As many as show a rate, and no more than that where each waits for a CPU.
    let (mut liar, tasks) = in_time("the tasks of a liar", move || {
        let mut tasks = 0;
        while tasks < 1_000 || (tasks < 20_000 && begun.elapsed() < Duration::from_secs(5)) {
            liar.half.sq().store(WAITING, tasks + 1);
            let position = liar.submit(ECHO, b"");
            until("its end", || liar.half.look(position) != Look::Pending);
            liar.half.credit();
            tasks += 1;
        }
        (liar, tasks)
    });
    let milliseconds = begun.elapsed().as_millis() as u64;
    let useless = |instance| look(instance).lanes.iter().map(|lane| lane.useless_wakes).max().unwrap();
    let counted = useless(&instance);
    println!("{counted} useless wake-ups of {tasks} in {milliseconds} ms");
    assert!(counted >= 64, "they are counted");
    assert!(counted <= 64 + milliseconds + 1, "{counted} useless wake-ups in {milliseconds} ms");
    // Held back, and really asleep for once: it is woken all the same.
    in_time("the liar's own wake-up", move || {
        for _ in 0..100 {
            let position = liar.submit(ECHO, b"");
            liar.await_end(position);
        }
    });
    in_time("the wake-ups of others", move || {
        for _ in 0..100 {
            let position = honest.submit(ECHO, b"");
            honest.await_end(position);
        }
    });
}

#[test]
fn a_thief_of_wake_ups_takes_none_from_those_they_are_for() {
    let instance = TestInstance::new("sleep-thief");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "2"]);
    let mut raw = Raw::attach(&instance);
    let lane = look(&instance).lanes.iter().find(|lane| lane.attached == Some(true)).unwrap().lane;
    let file = KeptFile::map(&sq_file(&instance, lane, false)).unwrap();
    let stop = AtomicBool::new(false);
    let slots = [SLOTS + COMMIT, SLOTS + WORDS + COMMIT];
    std::thread::scope(|scope| {
        // They sleep where the worker does, as many as would take every wake-up that is meant for one.
        let (file, stop) = (&file, &stop);
        for at in slots {
            for _ in 0..2 {
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let word = file.half(at);
                        let _ = futex::wait(word, futex::Flags::empty(), word.load(Relaxed), Some(&MILLISECOND));
                    }
                });
            }
        }
        // And one who wakes the worker for nothing.
        scope.spawn(move || {
            while !stop.load(Relaxed) {
                let _ = futex::wake(file.half(slots[0]), futex::Flags::empty(), 1);
                std::thread::yield_now();
            }
        });
        in_time("2000 tasks beside thieves", move || {
            for _ in 0..2000 {
                let position = raw.submit(ECHO, b"");
                raw.await_end(position);
            }
        });
        stop.store(true, Relaxed);
    });
    assert_none_lost(&instance);
}

const MILLISECOND: futex::Timespec = futex::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

#[test]
fn where_the_kernel_refuses_what_sleeping_needs_it_falls_back_and_says_so() {
    for (denied, barrier, watch) in
        [("membarrier", true, false), ("futex_waitv", false, true), ("membarrier,futex_waitv", true, true)]
    {
        let instance = TestInstance::new("sleep-denied");
        let sidecar = process::sidecar(SIDECAR, &instance, &["--deny", denied, "--idle", "sleep"]);
        let mut clients = [IdleStrategy::Sleep, IdleStrategy::Adaptive].map(|idle| connect(&instance, idle));
        for _ in 0..200 {
            clients.iter_mut().for_each(echo);
        }
        let worker = look(&instance).workers.remove(0);
        let told = (worker.sleep.without_barrier, worker.sleep.without_watch);
        assert_eq!(told, (barrier, watch), "{denied}: {worker:?}");
        assert_eq!(worker.sleep.overslept, 0);
        let before = cpu_ns(&sidecar);
        let begun = Instant::now();
        std::thread::sleep(Duration::from_secs(1)); // the time that is measured
        let (used, wall) = (cpu_ns(&sidecar) - before, begun.elapsed().as_nanos() as u64);
        println!("without {denied}: {:.3} % of a core", used as f64 * 100.0 / wall as f64);
        assert!(used * 4 < wall, "without {denied}: {used} ns of a core in {wall} ns without a task");
        drop(clients);
        instance.wait_until_deserted();
        sidecar.terminate();
        assert!(sidecar.rest().1.success());
    }
}

#[test]
fn more_lanes_than_a_worker_can_sleep_on_are_all_served() {
    let instance = TestInstance::new("sleep-crowd");
    let small = ["--lanes", "132", "--capacity", "2", "--request-bytes", "0", "--response-bytes", "0"];
    let _sidecar = process::sidecar(SIDECAR, &instance, &[&ASLEEP[..], &small].concat());
    let mut clients: Vec<Client> = (0..130).map(|_| connect(&instance, IdleStrategy::Sleep)).collect();
    for _ in 0..3 {
        clients.iter_mut().rev().for_each(echo);
    }
    let worker = look(&instance).workers.remove(0);
    assert_eq!(worker.lanes, 130);
    assert_eq!(worker.sleep.overslept, 0, "{worker:?}");
}

#[test]
fn a_worker_gets_no_more_lanes_than_it_can_sleep_on_while_another_has_room() {
    let instance = TestInstance::new("sleep-wish");
    let small =
        ["--lanes", "130", "--capacity", "2", "--request-bytes", "0", "--response-bytes", "0", "--workers", "2"];
    let _sidecar = process::sidecar(SIDECAR, &instance, &[&ASLEEP[..], &small].concat());
    let wishing = ConnectOptions::new().worker(0).timeout(FAIL_SAFE);
    let mut clients: Vec<Client> = (0..129).map(|_| wishing.clone().connect(instance.name()).unwrap()).collect();
    clients.iter_mut().for_each(echo);
    let lanes: Vec<u64> = look(&instance).workers.iter().map(|worker| worker.lanes).collect();
    assert_eq!(lanes, [127, 2]);
}
