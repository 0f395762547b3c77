//! Many tasks of a runtime, or of none, share one client: each gets its own answer, and none waits for ever.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread::ThreadId;

use executor_client::{
    AsyncClient, CallError, CompletionFd, ContractError, InstanceName, LaneStatus, OwnedCompletion, Status,
    SubmitError, TaskDescriptor, TaskFuture, WaitError,
};
use executor_shm::clean::{CleanOptions, clean};
use executor_tests::block_on::{Unpark, block_on, poll_once};
use executor_tests::handlers::{COUNT, ECHO, FAIL, FAILURE, Flip, SLOW, SLOW_IDEMPOTENT, Sum, WIDE};
use executor_tests::instance::TestInstance;
use executor_tests::process::{self, Process};
use executor_tests::{FAIL_SAFE, until};
use futures_core::Stream;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const ECHOED: TaskDescriptor = TaskDescriptor::new(ECHO);

fn connect(instance: &TestInstance) -> AsyncClient {
    AsyncClient::connect_timeout(instance.name(), FAIL_SAFE).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

/// Submits without waiting.
fn submit(client: &AsyncClient, handler: u32, payload: &[u8]) -> TaskFuture {
    client.try_submit(&TaskDescriptor::new(handler), payload).unwrap()
}

fn done(ended: Result<OwnedCompletion, WaitError>) -> OwnedCompletion {
    let completion = ended.unwrap();
    assert_eq!(completion.status(), Status::Done);
    completion
}

#[test]
fn many_tasks_of_a_runtime_share_one_client_and_each_gets_its_own_answer() {
    let instance = TestInstance::new("futures-many");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "32"]);
    let (client, runtime) = (connect(&instance), runtime());
    let tasks: Vec<_> = (0..200u64)
        .map(|task| {
            let client = client.clone();
            runtime.spawn(async move {
                for round in 0..50u64 {
                    let word = task << 32 | round;
                    let task = ECHOED.user_data(word);
                    let future = client.submit(&task, word.to_le_bytes()).await.unwrap();
                    let id = future.task_id();
                    let completion = done(future.await);
                    assert_eq!((completion.task_id(), completion.user_data()), (id, word));
                    assert_eq!((completion.read(), completion.attempt()), (Some(word), 1));
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_future_needs_no_runtime_and_owns_what_it_resolves_to() {
    let instance = TestInstance::new("futures-bare");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
    let client = connect(&instance);
    let payload = b"to be answered by bytes that do not fit a record".to_vec();
    let completion = done(block_on(block_on(client.submit(&ECHOED, payload.clone())).unwrap()));
    let mut future = submit(&client, ECHO, b"short");
    let short = done(block_on(&mut future));
    drop(client);
    assert_eq!((completion.response(), short.response()), (&payload[..], &b"short"[..]));
    assert!(completion.times().is_some_and(|times| times.total_ns() > 0));
    assert_eq!(completion.into_response(), payload);
    assert_eq!(block_on(&mut future).unwrap_err(), WaitError::AlreadyTaken);
}

#[test]
fn a_call_by_contract_answers_fails_and_refuses_as_that_of_a_client() {
    let instance = TestInstance::new("futures-call");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--changed", "10"]);
    let client = connect(&instance);
    let sums: Vec<_> = (0..100).map(|i| (i, client.call::<Sum>(&[i, 1]))).collect();
    for (i, sum) in sums {
        assert_eq!(block_on(sum).unwrap(), i + 1);
    }
    let other = block_on(client.call::<Flip>(&true)).unwrap_err();
    assert!(matches!(other, CallError::Contract(ContractError::Different { .. })), "{other}");
    let failed = block_on(submit(&client, FAIL, b"")).unwrap();
    assert_eq!((failed.status(), failed.text().as_str()), (Status::Failed { code: 42 }, FAILURE));
    let long = block_on(submit(&client, WIDE, &100u32.to_le_bytes())).unwrap();
    assert_eq!(long.response(), [7; 100]);
}

#[test]
fn futures_that_are_dropped_give_their_slots_back() {
    let instance = TestInstance::new("futures-dropped");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "16"]);
    let client = connect(&instance);
    for round in 0..10 {
        let held = submit(&client, SLOW, b"held");
        assert_eq!(sidecar.line(), "entered held 1");
        for i in 1..16u64 {
            let mut future = submit(&client, ECHO, &i.to_le_bytes());
            if (i + round) % 2 == 0 {
                assert!(poll_once(&mut future).is_pending()); // the watcher knows of it
            }
        }
        assert!(client.try_submit(&ECHOED, b"").unwrap_err().is_full());
        drop(held);
        let mut next = client.submit(&ECHOED, b"next");
        assert!(poll_once(&mut next).is_pending());
        latch.open();
        assert_eq!(done(block_on(block_on(next).unwrap())).response(), b"next");
    }
    // With nobody who submits, the watcher gives them back.
    let last = submit(&client, ECHO, b"");
    drop(last);
    until("an empty lane", || client.in_flight() == 0);
}

#[test]
fn a_full_lane_lets_submits_in_as_it_empties_in_the_order_in_which_they_began_to_wait() {
    let instance = TestInstance::new("futures-full");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "4"]);
    let client = connect(&instance);
    let held = submit(&client, SLOW, b"held");
    assert_eq!(sidecar.line(), "entered held 1");
    let behind: Vec<_> = (0..3).map(|_| submit(&client, ECHO, b"")).collect();
    assert_eq!(client.try_submit(&ECHOED, b"").unwrap_err(), SubmitError::Full(ECHOED));
    let mut waiting: Vec<_> = (0..20u64).map(|i| client.submit(&ECHOED, i.to_le_bytes())).collect();
    let woken = Arc::new(Mutex::new(Vec::new()));
    for (number, submit) in waiting.iter_mut().enumerate() {
        let waker = Waker::from(Arc::new(Numbered { number, woken: Arc::clone(&woken) }));
        assert!(Pin::new(submit).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    latch.open();
    done(block_on(held));
    behind.into_iter().for_each(|future| drop(done(block_on(future))));
    until("four are let in", || woken.lock().unwrap().len() >= 4);
    for (number, submit) in waiting.into_iter().enumerate() {
        // Those that give up leave their place to the next one.
        if number % 3 == 1 {
            continue;
        }
        assert_eq!(done(block_on(block_on(submit).unwrap())).read(), Some(number as u64));
    }
    // Two threads let in, each whoever is the next; only what one of them does has an order.
    let woken = woken.lock().unwrap();
    let by = |thread| woken.iter().filter(move |(by, _)| *by == thread).map(|(_, number)| number);
    assert!(woken.iter().all(|(thread, _)| by(*thread).is_sorted()), "one was let in before its turn: {woken:?}");
}

/// Tells who was let in, and by which thread.
struct Numbered {
    number: usize,
    woken: Arc<Mutex<Vec<(ThreadId, usize)>>>,
}

impl Wake for Numbered {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push((std::thread::current().id(), self.number));
    }
}

#[test]
fn submits_that_were_let_in_and_give_up_or_are_forgotten_let_the_next_one_in() {
    let instance = TestInstance::new("futures-given-up");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "2"]);
    let client = connect(&instance);
    for is_forgotten in [false, true] {
        drop(submit(&client, SLOW, b"held"));
        assert_eq!(sidecar.line(), "entered held 1");
        drop(submit(&client, ECHO, b""));
        let unpark = Unpark::new();
        let waker = Waker::from(Arc::clone(&unpark));
        let mut first: Vec<_> = (0..2).map(|_| client.submit(&ECHOED, b"first")).collect();
        for submit in &mut first {
            assert!(Pin::new(submit).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let (mut last, last_unpark) = (client.submit(&ECHOED, b"last"), Unpark::new());
        let waker = Waker::from(Arc::clone(&last_unpark));
        assert!(Pin::new(&mut last).poll(&mut Context::from_waker(&waker)).is_pending());
        latch.open();
        until("both are let in", || unpark.count() == 2);
        if is_forgotten {
            first.into_iter().for_each(std::mem::forget);
        } else {
            drop(first);
        }
        until("the last one is let in", || last_unpark.count() > 0); // it does not look by itself
        assert_eq!(done(block_on(block_on(last).unwrap())).response(), b"last");
    }
}

/// Polls a future, and drops it, on the thread that wakes it.
struct Inline(Mutex<Option<(TaskFuture, AsyncClient)>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take()); // and with it the last owners of a lane
        panic!("a waker that panics on purpose");
    }
}

#[test]
fn a_waker_that_drops_futures_or_panics_harms_no_other() {
    let instance = TestInstance::new("futures-waker");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
    let (client, other) = (connect(&instance), connect(&instance));
    for _ in 0..10 {
        let first = submit(&client, SLOW, b"held");
        assert_eq!(sidecar.line(), "entered held 1");
        let inline = Arc::new(Inline(Mutex::new(Some((submit(&client, ECHO, b"inline"), connect(&instance))))));
        let mut watched = submit(&other, ECHO, b"");
        let waker = Waker::from(Arc::clone(&inline));
        assert!(Pin::new(&mut watched).poll(&mut Context::from_waker(&waker)).is_pending());
        latch.open();
        done(block_on(first));
        until("the waker", || inline.0.try_lock().map_or(true, |held| held.is_none()));
        done(block_on(watched));
        done(block_on(submit(&client, ECHO, b"")));
    }
}

#[test]
fn a_future_outlives_the_sidecar_and_resolves_once_by_the_next() {
    let instance = TestInstance::new("futures-restart");
    let latch = instance.latch("held");
    let client = {
        let _first = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
        connect(&instance)
    };
    let runtime = runtime();
    for round in 0..4u64 {
        let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
        let kind = if round % 2 == 0 { SLOW } else { SLOW_IDEMPOTENT };
        let held = submit(&client, kind, b"held");
        let ids = Arc::new(Mutex::new(BTreeSet::new()));
        let behind: Vec<_> = (0..50)
            .map(|_| {
                let (future, ids) = (submit(&client, COUNT, b""), Arc::clone(&ids));
                runtime.spawn(async move {
                    let id = future.task_id();
                    assert_eq!(done(future.await).task_id(), id);
                    assert!(ids.lock().unwrap().insert(id.as_u64()));
                })
            })
            .collect();
        sidecar.expect("entered held 1");
        let first = runtime.spawn(held);
        sidecar.kill();
        assert!(!client.is_executor_alive());
        // Both sides of the restart: while nobody serves, nothing ends.
        let mut sidecar = Process::start(&mut process::sidecar_command(SIDECAR, &instance, &["--idle", "sleep"]));
        if kind == SLOW_IDEMPOTENT {
            sidecar.expect("entered held 2");
            latch.open();
        }
        runtime.block_on(async {
            let ended = first.await.unwrap().unwrap();
            let is_again = kind == SLOW_IDEMPOTENT;
            assert_eq!((ended.status() == Status::Done, ended.attempt()), (is_again, if is_again { 2 } else { 1 }));
            for task in behind {
                task.await.unwrap();
            }
        });
        assert_eq!(ids.lock().unwrap().len(), 50);
        let ran: BTreeSet<u64> = (0..50).map(|_| sidecar.expect("ran").parse().unwrap()).collect();
        assert_eq!(ran, *ids.lock().unwrap(), "each task ran once, in the second life");
        sidecar.kill();
    }
}

/// The `sq` of a lane, cut to nothing, as any process of its user can.
fn truncate(instance: &InstanceName, lane: u32) {
    let lane = format!(".lane-{lane}-");
    let files = executor_tests::instance::files_of(instance);
    let name = files.into_iter().find(|name| name.contains(&lane) && name.ends_with(".sq")).unwrap();
    std::fs::File::options().write(true).open(format!("/dev/shm/{name}")).unwrap().set_len(0).unwrap();
}

#[test]
fn a_truncated_lane_ends_the_futures_that_it_cannot_answer_and_answers_the_others() {
    let instance = TestInstance::new("futures-truncated");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "4"]);
    let (client, victim) = (connect(&instance), connect(&instance));
    let mut running = submit(&client, SLOW, b"held");
    assert_eq!(sidecar.line(), "entered held 1");
    let mut waiting: Vec<_> = (0..3).map(|_| submit(&client, ECHO, b"behind it")).collect();
    let mut full = client.submit(&ECHOED, b"in the queue");
    assert!(poll_once(&mut running).is_pending());
    assert!(waiting.iter_mut().all(|future| poll_once(future).is_pending()));
    assert!(poll_once(&mut full).is_pending());
    truncate(instance.name(), client.lane_number());
    latch.open();
    for mut future in waiting {
        assert_eq!(block_on(&mut future).unwrap_err(), WaitError::Damaged);
        assert_eq!(block_on(future).unwrap_err(), WaitError::Damaged);
    }
    assert_eq!(block_on(full).unwrap_err(), SubmitError::Poisoned(ECHOED));
    done(block_on(running));
    assert_eq!((client.state(), client.is_damaged()), (LaneStatus::Poisoned, true));
    done(block_on(submit(&victim, ECHO, b"")));
}

/// Whether a descriptor becomes readable.
fn is_readable(fd: &CompletionFd) -> bool {
    let timeout = PollTimeout::from(FAIL_SAFE.as_millis() as u16);
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
}

/// The next item of a stream.
fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    block_on(poll_fn(|context| Pin::new(&mut *stream).poll_next(context)))
}

#[test]
fn a_lane_that_is_damaged_ends_its_stream_and_raises_its_event() {
    let instance = TestInstance::new("stream-truncated");
    let latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
    let client = connect(&instance);
    let (mut stream, fd) = (client.completions(), client.completion_fd().unwrap());
    client.try_submit_plain(&TaskDescriptor::new(SLOW), b"held").unwrap();
    assert_eq!(sidecar.line(), "entered held 1");
    client.try_submit_plain(&ECHOED, b"behind it").unwrap();
    assert!(fd.try_collect().unwrap().is_none());
    truncate(instance.name(), client.lane_number());
    latch.open();
    assert!(is_readable(&fd));
    assert!(next(&mut stream).unwrap().unwrap().is_done());
    assert_eq!(next(&mut stream).unwrap().unwrap_err(), WaitError::Damaged);
    assert!(next(&mut stream).is_none(), "it has ended");
    assert!(is_readable(&fd), "a poller is told");
    assert_eq!(fd.try_collect().unwrap_err(), WaitError::Damaged);
}

#[test]
fn a_discarded_instance_ends_its_futures() {
    let instance = TestInstance::new("futures-discarded");
    let _latch = instance.latch("held");
    let mut sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep", "--capacity", "2"]);
    let client = connect(&instance);
    let (held, behind) = (submit(&client, SLOW, b"held"), submit(&client, ECHO, b""));
    assert_eq!(sidecar.line(), "entered held 1");
    let mut full = client.submit(&ECHOED, b"");
    assert!(poll_once(&mut full).is_pending());
    sidecar.kill();
    assert!(clean(instance.name(), CleanOptions { discard: true, dry_run: false }).unwrap().removed);
    assert_eq!(block_on(held).unwrap_err(), WaitError::Discarded);
    assert_eq!(block_on(behind).unwrap_err(), WaitError::Discarded);
    assert_eq!(block_on(full).unwrap_err(), SubmitError::Discarded(ECHOED));
}

#[test]
fn a_forked_child_is_refused_and_gets_a_client_of_its_own_and_the_parents_goes_on() {
    let instance = TestInstance::new("futures-forked");
    let _sidecar = process::sidecar(SIDECAR, &instance, &["--idle", "sleep"]);
    let mut forker =
        Process::start(Command::new(env!("CARGO_BIN_EXE_forker")).args([instance.name().as_str(), "futures"]));
    assert_eq!(forker.line(), "child refused");
    assert_eq!(forker.line(), "child served");
    assert_eq!(forker.line(), "parent served");
    assert!(forker.rest().1.success());
}

#[test]
fn more_lanes_than_the_kernel_sleeps_on_are_all_served() {
    let instance = TestInstance::new("futures-crowd");
    let options = ["--idle", "sleep", "--lanes", "140", "--capacity", "2"];
    let _sidecar = process::sidecar(SIDECAR, &instance, &options);
    let clients: Vec<_> = (0..140).map(|_| connect(&instance)).collect();
    for _ in 0..3 {
        let futures: Vec<_> = clients.iter().map(|client| submit(client, ECHO, b"")).collect();
        futures.into_iter().for_each(|future| drop(done(block_on(future))));
    }
}
