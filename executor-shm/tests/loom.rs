//! Every interleaving of the two halves of a lane, up to the preemption bound, over `loom`'s atomics; and of a producer
//! with a sidecar that is killed after any of its stores and with the one that comes after it.
//!
//! Each model lists the outcomes that are legal. An execution with any other outcome fails, and so does a model that
//! did not see every listed outcome: a model that explores nothing proves nothing. Contents are compared word by word
//! in the order in which they were seen, so a torn, lost, doubled or overtaken record is an outcome that no list has.
//!
//! | model | pair | weakened, it sees |
//! |---|---|---|
//! | [`three_tasks_through_two_slots_arrive_whole_and_in_order`] | P1 | a descriptor with words of no task |
//! | the same | P2 | a completion with words of no task |
//! | [`a_started_task_is_recovered_with_its_own_words`] | P3 | a journal record with words of no task |
//!
//! A kill leaves what was stored before it, in the program's order: the rest of the step is left out. The kernel frees the
//! dead sidecar's lock after its last store and gives it to the next one, which orders the two: they are one thread here.
//!
//! | model | killed after each store of |
//! |---|---|
//! | [`a_step_killed_after_any_of_its_stores_costs_no_completion`] | a step: run, idempotent, not run |
//! | [`a_second_attempt_killed_after_any_of_its_stores_is_the_last`] | the step that runs a task again |
//! | [`a_recovery_killed_after_any_of_its_stores_is_recovered_alike`] | a recovery, after each store of the step before it |
//! | [`a_submit_killed_after_any_of_its_stores_is_whole_or_nothing`] | a submit, beside each store of a step |
//!
//! | model | who sleeps | weakened, somebody sleeps for ever |
//! |---|---|---|
//! | [`a_worker_that_falls_asleep_beside_submits_is_woken`] | the worker | Z1, Z2 of `sleep.rs`: a look before the flag, no second look, no fence on either side |
//! | [`a_producer_that_falls_asleep_beside_completions_is_woken`] | the producer | Z3, Z4 likewise |
//! | [`both_sides_of_a_lane_that_sleep_wake_each_other`] | both | all of them |
//!
//! Nobody wakes by himself there: a wake-up that is lost is a deadlock. Both sides use fences of their own, the path of a
//! process that is not registered for the kernel's barrier; that barrier is no part of loom's memory model, and
//! `sleep_model.rs` has it.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release -p executor-shm --test loom
//! ```
#![cfg(loom)]
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod mortal;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use executor_core::Status;
use executor_core::dispatch::Lane;
use executor_core::record::{CompletionRecord, DescriptorRecord, WORDS};
use executor_core::status::Interrupted;
use executor_shm::barrier;
use executor_shm::lane::{LaneShape, Look, ProducerHalf, Rerun, WorkerHalf};
use executor_shm::layout::{self, Geometry};
use executor_shm::recovery::{Circumstances, Recovered, is_unanswered, recover};
use executor_shm::words::{HeapWords, Words, WordsMut};
use mortal::{FOREVER, Life, Mortal};

const GEOMETRY: Geometry =
    Geometry { capacity: 2, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 1, workers: 1 };

/// The words of a file from the first slot on. The page before them is left out: a model pays for each of its words in
/// every execution.
#[derive(Clone, Debug)]
struct Slots(HeapWords);

impl Slots {
    fn new() -> Self {
        Self(HeapWords::new(GEOMETRY.capacity as usize * WORDS))
    }
}

impl Words for Slots {
    fn len(&self) -> usize {
        layout::lane::SLOTS + self.0.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.0.load(at - layout::lane::SLOTS)
    }

    fn load_commit(&self, at: usize) -> u64 {
        self.0.load_commit(at - layout::lane::SLOTS)
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        self.0.load_record(at - layout::lane::SLOTS)
    }

    fn nap(&self, at: usize, seen: u64, timeout: Duration) {
        self.0.nap(at - layout::lane::SLOTS, seen, timeout);
    }

    fn wake(&self, at: usize) -> u32 {
        self.0.wake(at - layout::lane::SLOTS)
    }
}

impl WordsMut for Slots {
    fn store(&self, at: usize, value: u64) {
        // What a producer counts for people takes part in no protocol, and nobody loads it here.
        if !(layout::lane::SUBMITTED..=layout::lane::REJECTED).contains(&at) {
            self.0.store(at - layout::lane::SLOTS, value);
        }
    }

    fn commit(&self, at: usize, value: u64) {
        self.0.commit(at - layout::lane::SLOTS, value);
    }

    fn store_record(&self, at: usize, record: &[u64; WORDS]) {
        self.0.store_record(at - layout::lane::SLOTS, record);
    }

    fn buffer(&mut self, _at: usize, _length: usize) -> &mut [u8] {
        &mut []
    }
}

type Worker = WorkerHalf<Slots, Slots, HeapWords>;
type Producer = ProducerHalf<Mortal<Slots>, Slots>;

fn worker(sq: Slots, cq: Slots, journal: HeapWords) -> Worker {
    half(sq, cq, journal, (0, None))
}

fn half<C: WordsMut, J: WordsMut>(
    sq: Slots,
    cq: C,
    journal: J,
    start: (u64, Option<Rerun>),
) -> WorkerHalf<Slots, C, J> {
    WorkerHalf::new(sq, cq, journal, 0, LaneShape::new(&GEOMETRY), start, Arc::new(AtomicU32::new(0)))
}

fn journal() -> HeapWords {
    HeapWords::new(layout::journal::LANE_WORDS)
}

/// The descriptor of the task at `position`; each of its words names the position.
fn asked(position: u64) -> DescriptorRecord {
    let mut record = DescriptorRecord::new(100 + position as u32, 32, 200 + position, 300 + position);
    for (place, word) in record.words.iter_mut().enumerate().skip(4) {
        *word = place as u64 * 1000 + position;
    }
    record
}

/// The completion that answers it; each of its words names the position.
fn answered(position: u64) -> CompletionRecord {
    let inline = [4000 + position, 5000 + position, 6000 + position];
    let length = 24;
    CompletionRecord::new(
        Status::Done,
        1 + position as u16,
        length,
        200 + position,
        700 + position,
        800 + position,
        inline,
    )
}

/// Which task a descriptor is, whole.
fn asks(record: &DescriptorRecord) -> u64 {
    let position = record.words[2].wrapping_sub(200);
    assert_eq!(record.words, asked(position).words, "a descriptor with words of no task");
    position
}

/// Which task a completion answers, whole.
fn answers(record: &CompletionRecord) -> u64 {
    let position = record.words[2].wrapping_sub(200);
    assert_eq!(record.words, answered(position).words, "a completion with words of no task");
    position
}

/// Runs `model` over all interleavings; what it returns must be listed, and all that is listed must be returned.
#[track_caller]
fn explore<O>(legal: impl IntoIterator<Item = O>, model: impl Fn() -> O + Send + Sync + 'static) -> u64
where
    O: Ord + Clone + Debug + Send + Sync + 'static,
{
    let legal = BTreeSet::from_iter(legal);
    let seen = Arc::new(Mutex::new((BTreeSet::new(), 0u64)));
    let (allowed, note) = (legal.clone(), Arc::clone(&seen));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.check(move || {
        let outcome = model();
        assert!(allowed.contains(&outcome), "an outcome that is not legal: {outcome:?}");
        let mut seen = note.lock().unwrap();
        seen.0.insert(outcome);
        seen.1 += 1;
    });
    let seen = seen.lock().unwrap();
    assert_eq!(seen.0, legal, "legal outcomes that no execution had");
    seen.1
}

/// Steps of the worker and looks of the producer, found something or not.
const LOOKS: usize = 3;

/// What both sides saw while they ran side by side: the tasks the worker took and the completions the producer took.
type Seen = (Vec<u64>, Vec<u64>);

#[test]
fn three_tasks_through_two_slots_arrive_whole_and_in_order() {
    let list = |taken: &[u64], seen: &[u64]| (taken.to_vec(), seen.to_vec());
    // Whoever finds nothing lets the other side run first, so somebody always finds something.
    let legal = [
        list(&[0], &[]),
        list(&[0], &[0]),
        list(&[0, 1], &[]),
        list(&[0, 1], &[0]),
        list(&[0, 1], &[0, 1]),
        list(&[0, 1, 2], &[0]), // the third task can only be taken once the first is collected
        list(&[0, 1, 2], &[0, 1]),
        list(&[0, 1, 2], &[0, 1, 2]),
    ];
    let executions = explore::<Seen>(legal, move || {
        let (sq, cq) = (Slots::new(), Slots::new());
        let mut producer = ProducerHalf::new(sq.clone(), cq.clone(), LaneShape::new(&GEOMETRY));
        let mut worker = worker(sq, cq, journal());

        let serving = loom::thread::spawn(move || {
            let mut taken = Vec::new();
            for _ in 0..LOOKS {
                serve(&mut worker, &mut taken);
            }
            (worker, taken)
        });

        producer.submit(&asked(0));
        producer.submit(&asked(1));
        assert!(producer.is_full(), "two tasks in two slots");
        let mut seen = Vec::new();
        for _ in 0..LOOKS {
            collect(&mut producer, &mut seen);
        }
        let (mut worker, mut taken) = serving.join().unwrap();
        let outcome = (taken.clone(), seen.clone());

        // Nobody races any more: what is left comes out in the same order.
        while seen.len() < 3 {
            serve(&mut worker, &mut taken);
            collect(&mut producer, &mut seen);
        }
        assert_eq!((taken, seen), list(&[0, 1, 2], &[0, 1, 2]));
        assert_eq!((producer.submitted(), producer.credited()), (3, 3));
        outcome
    });
    println!("{executions} executions");
}

/// One look of the worker: takes, starts and answers the next task if it sees one.
fn serve(worker: &mut Worker, taken: &mut Vec<u64>) {
    let mut record = DescriptorRecord::default();
    if worker.take(&mut record) == 0 {
        loom::thread::yield_now();
        return;
    }
    let position = asks(&record);
    assert_eq!(position, worker.position());
    taken.push(position);
    assert!(worker.start(1, None, 700 + position));
    worker.publish(&answered(position));
}

/// One look of the producer: takes the next completion if it sees one, and submits the third task into the slot.
fn collect(producer: &mut ProducerHalf<Slots, Slots>, seen: &mut Vec<u64>) {
    match producer.look(seen.len() as u64) {
        Look::Pending => loom::thread::yield_now(),
        Look::Corrupt(word) => panic!("a commit word of no task: {word}"),
        Look::Ended(record) => {
            seen.push(answers(&record));
            producer.credit();
            if producer.submitted() < 3 {
                producer.submit(&asked(producer.submitted()));
            }
        }
    }
}

#[test]
fn a_started_task_is_recovered_with_its_own_words() {
    let interrupted = Some(Status::Interrupted(Interrupted::Killed).code());
    let executions = explore([(0, None, None), (1, interrupted, Some(0))], move || {
        let (sq, cq, journal) = (Slots::new(), Slots::new(), journal());
        let mut producer = ProducerHalf::new(sq.clone(), cq.clone(), LaneShape::new(&GEOMETRY));
        producer.submit(&asked(0));
        let mut worker = worker(sq, cq.clone(), journal.clone());

        // The worker dies inside the handler: nothing of it is stored after STARTED. Whoever recovers is told of the
        // death by the kernel, which the model leaves out: it may look at any moment and rely on the journal alone.
        let dying = loom::thread::spawn(move || {
            let mut record = DescriptorRecord::default();
            assert_eq!(worker.take(&mut record), 1);
            assert!(worker.start(1, None, 700));
        });
        let mut judged = None;
        let found = recover(&journal, 0, &cq, &GEOMETRY, |record| {
            judged = Some(asks(record));
            CALM
        });
        dying.join().unwrap();
        if let Look::Ended(record) = producer.look(0) {
            assert_eq!((record.submitted_at(), record.started_at()), (200, 700), "answered with stamps of no task");
        }
        (found.position, found.answered.map(Status::code), judged)
    });
    println!("{executions} executions");
}

const CALM: Circumstances =
    Circumstances { poisoned: false, payload_lost: false, handler_changed: false, idempotent: false, signal: false };

/// What becomes of the task whose step is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Runs,
    Idempotent,
    /// It must not run and ends so.
    Expires,
}

impl Kind {
    fn verdict(self) -> Option<Status> {
        (self == Kind::Expires).then_some(Status::Expired)
    }

    fn circumstances(self) -> Circumstances {
        Circumstances { idempotent: self == Kind::Idempotent, ..CALM }
    }
}

/// Stores of a step up to its STARTED: a descriptor into the journal, verdict, stamp, STARTED.
const STARTED: u64 = 7 + 3;
/// And up to its COMPLETED.
const COMPLETED: u64 = STARTED + 8;
/// Stores of a recovery that answers.
const ANSWERED: u64 = 8;
/// The task whose step is killed. The slots hold earlier ones, as they mostly do.
const KILLED: u64 = 2;

/// A lane whose earlier tasks are done and forgotten.
struct Files {
    sq: Slots,
    cq: Slots,
    journal: HeapWords,
}

impl Files {
    fn new() -> Self {
        Self { sq: Slots::new(), cq: Slots::new(), journal: journal() }
    }

    /// The lane with `KILLED` tasks behind it, and its producer with its life.
    fn used() -> (Self, Producer, Life) {
        let (lane, life) = (Self::new(), Life::new(FOREVER));
        let sq = Mortal::new("sq", &lane.sq, &life);
        let mut producer = ProducerHalf::new(sq, lane.cq.clone(), LaneShape::new(&GEOMETRY));
        let mut worker = lane.life((0, None));
        for position in 0..KILLED {
            producer.submit(&asked(position));
            assert_eq!(step(&mut worker, None), Some((position, 1)));
            producer.credit();
        }
        (lane, producer, life)
    }

    fn life(&self, start: (u64, Option<Rerun>)) -> Worker {
        half(self.sq.clone(), self.cq.clone(), self.journal.clone(), start)
    }

    /// One step of a sidecar that is killed after `stores`: position and attempt of the task, if one was there.
    fn die(&self, stores: u64, start: (u64, Option<Rerun>), kind: Kind) -> Option<(u64, u16)> {
        let life = Life::new(stores);
        let (cq, journal) = (Mortal::new("cq", &self.cq, &life), Mortal::new("journal", &self.journal, &life));
        step(&mut half(self.sq.clone(), cq, journal, start), kind.verdict())
    }

    /// The same, and what recovery finds.
    fn kill(&self, stores: u64, start: (u64, Option<Rerun>), kind: Kind) -> (Option<(u64, u16)>, Recovered) {
        (self.die(stores, start, kind), self.recover(kind))
    }

    fn recover(&self, kind: Kind) -> Recovered {
        self.recover_until(FOREVER, kind)
    }

    /// A recovery that is killed after `stores`.
    fn recover_until(&self, stores: u64, kind: Kind) -> Recovered {
        let cq = Mortal::new("cq", &self.cq, &Life::new(stores));
        recover(&self.journal, 0, &cq, &GEOMETRY, |record| {
            assert_eq!(asks(record), KILLED, "judged by the words of another task");
            kind.circumstances()
        })
    }
}

/// One look of a worker: position and attempt of the task it served.
fn step<C: WordsMut, J: WordsMut>(worker: &mut WorkerHalf<Slots, C, J>, verdict: Option<Status>) -> Option<(u64, u16)> {
    let mut record = DescriptorRecord::default();
    let attempt = worker.take(&mut record);
    if attempt == 0 {
        loom::thread::yield_now();
        return None;
    }
    let position = asks(&record);
    assert_eq!(position, worker.position());
    let verdict = verdict.filter(|_| position == KILLED && attempt == 1);
    let started_at = 700 + position;
    assert!(worker.start(attempt, verdict, started_at));
    let end = match verdict {
        Some(status) => CompletionRecord::new(status, 0, 0, 200 + position, started_at, started_at, [0; 3]),
        None => done(position, attempt),
    };
    worker.publish(&end);
    Some((position, attempt))
}

fn done(position: u64, attempt: u16) -> CompletionRecord {
    let inline = [4000 + position, 5000 + position, 6000 + position];
    CompletionRecord::new(Status::Done, attempt, 24, 200 + position, 700 + position, 800 + position, inline)
}

/// How a task ended, checked word by word, or not yet.
fn end(producer: &Producer, position: u64) -> Option<(Status, u16)> {
    let record = match producer.look(position) {
        Look::Pending => return None,
        Look::Corrupt(word) => panic!("a commit word of no task: {word}"),
        Look::Ended(record) => record,
    };
    let (status, attempt) = (record.status().unwrap(), record.attempt());
    let whole = match status {
        Status::Done => done(position, attempt),
        unrun => CompletionRecord::new(unrun, attempt, 0, 200 + position, 700 + position, 700 + position, [0; 3]),
    };
    assert_eq!(record.words, whole.words, "a completion with words of no task");
    Some((status, attempt))
}

/// What recovery is to find and how the task is to end.
type Fate = (Found, (Status, u16));
/// [`Recovered`] in order: the next position, the attempt there if the task runs again, the answer that was given.
type Found = (u64, Option<u16>, Option<(u8, u8)>);

fn found(found: Recovered) -> Found {
    (found.position, found.rerun.map(|rerun| rerun.attempt), found.answered.map(code))
}

fn code(status: Status) -> (u8, u8) {
    (status.code(), status.detail())
}

/// What the page on recovery says of a step that was killed after `stores`, had it begun.
fn fate(stores: u64, kind: Kind) -> Fate {
    let killed = Status::Interrupted(Interrupted::Killed);
    match (stores, kind) {
        // Nothing of it is looked at again; the next sidecar of this model judges no task.
        (..STARTED, _) => ((KILLED, None, None), (Status::Done, 1)),
        (STARTED..COMPLETED, Kind::Runs) => ((KILLED + 1, None, Some(code(killed))), (killed, 1)),
        (STARTED..COMPLETED, Kind::Idempotent) => ((KILLED, Some(2), None), (Status::Done, 2)),
        (STARTED..COMPLETED, Kind::Expires) => ((KILLED + 1, None, Some(code(Status::Expired))), (Status::Expired, 0)),
        (_, Kind::Expires) => ((KILLED + 1, None, None), (Status::Expired, 0)),
        _ => ((KILLED + 1, None, None), (Status::Done, 1)),
    }
}

/// What a run came to: whether the task was there for the sidecar that is killed, what the next one found, and what the
/// producer saw meanwhile at each of two looks.
type Outcome = (bool, Found, [bool; 2]);

/// A producer looks at one task while sidecars come and go: pending first, and as it ended from some moment on.
const LOOKED: [[bool; 2]; 3] = [[false, false], [false, true], [true, true]];

/// The producer's part beside the sidecars: it submits `KILLED` unless that is done and the task after it, looks at
/// `KILLED` twice, and takes whatever it finds for how the task ended.
fn produce(producer: &mut Producer) -> ([bool; 2], Option<(Status, u16)>) {
    while producer.submitted() < KILLED + 2 {
        producer.submit(&asked(producer.submitted()));
    }
    let looks = [0; 2].map(|_| {
        let end = end(producer, KILLED);
        if end.is_none() {
            loom::thread::yield_now();
        }
        end
    });
    if let [Some(first), second] = looks {
        assert_eq!(second, Some(first), "a completion changed after it was seen");
    }
    (looks.map(|end| end.is_some()), looks[1])
}

/// The sidecar that comes last, and is not killed: two looks.
fn serve_on(lane: &Files, found: Recovered) -> Worker {
    let mut worker = lane.life((found.position, found.rerun));
    for _ in 0..2 {
        step(&mut worker, None);
    }
    worker
}

/// Nobody races any more: what is left is served, `KILLED` ends as `expected` and the task after it is untouched by it.
fn settle(producer: &Producer, worker: &mut Worker, seen: Option<(Status, u16)>, expected: (Status, u16)) {
    while worker.is_ready() {
        step(worker, None);
    }
    assert_eq!(worker.position(), producer.submitted(), "a task that nobody serves, or one too many");
    assert_eq!(end(producer, KILLED), Some(expected));
    assert!(seen.is_none_or(|seen| seen == expected), "seen as {seen:?}, and later as {expected:?}");
    assert_eq!(end(producer, KILLED + 1), Some((Status::Done, 1)));
}

#[test]
fn a_step_killed_after_any_of_its_stores_costs_no_completion() {
    let mut executions = 0;
    for kind in [Kind::Runs, Kind::Idempotent, Kind::Expires] {
        for stores in 0..=COMPLETED {
            // The task was not there yet when the first sidecar looked; or it was, and the kill left a part of its step.
            let fates = [(false, fate(0, kind)), (true, fate(stores, kind))];
            let legal = fates.map(|(begun, (found, _))| LOOKED.map(|looks| (begun, found, looks))).concat();
            executions += explore::<Outcome>(legal, move || {
                let (lane, mut producer, _) = Files::used();
                let sidecars = loom::thread::spawn(move || {
                    let (begun, found) = lane.kill(stores, (KILLED, None), kind);
                    (begun.is_some(), found, serve_on(&lane, found))
                });
                let (looks, seen) = produce(&mut producer);
                let (begun, recovered, mut worker) = sidecars.join().unwrap();
                let (_, expected) = fate(if begun { stores } else { 0 }, kind);
                settle(&producer, &mut worker, seen, expected);
                (begun, found(recovered), looks)
            });
        }
    }
    println!("{executions} executions");
}

#[test]
fn a_second_attempt_killed_after_any_of_its_stores_is_the_last() {
    const AGAIN: u64 = 1 + 8; // the attempts word, a completion
    let mut executions = 0;
    for stores in 0..=AGAIN {
        let attempts = Status::Interrupted(Interrupted::Attempts);
        let (expected_found, expected) = match stores {
            0 => ((KILLED, Some(2), None), (Status::Done, 2)), // the second attempt had not begun
            1..AGAIN => ((KILLED + 1, None, Some(code(attempts))), (attempts, 2)),
            _ => ((KILLED + 1, None, None), (Status::Done, 2)),
        };
        executions += explore::<Outcome>(LOOKED.map(|looks| (true, expected_found, looks)), move || {
            let (lane, mut producer, _) = Files::used();
            producer.submit(&asked(KILLED));
            let (begun, first) = lane.kill(STARTED, (KILLED, None), Kind::Idempotent);
            assert_eq!((begun, found(first)), (Some((KILLED, 1)), (KILLED, Some(2), None)));
            let sidecars = loom::thread::spawn(move || {
                let (begun, found) = lane.kill(stores, (first.position, first.rerun), Kind::Idempotent);
                assert_eq!(begun, Some((KILLED, 2)));
                (found, serve_on(&lane, found))
            });
            let (looks, seen) = produce(&mut producer);
            let (recovered, mut worker) = sidecars.join().unwrap();
            settle(&producer, &mut worker, seen, expected);
            (true, found(recovered), looks)
        });
    }
    println!("{executions} executions");
}

#[test]
fn a_recovery_killed_after_any_of_its_stores_is_recovered_alike() {
    let mut executions = 0;
    for kind in [Kind::Runs, Kind::Expires] {
        for stores in STARTED..COMPLETED {
            for recovered_stores in 0..=ANSWERED {
                let ((position, rerun, answered), expected) = fate(stores, kind);
                // Answered once: the recovery after the one that got as far as the answer finds it given.
                let answered = answered.filter(|_| recovered_stores < ANSWERED);
                let expected_found = (position, rerun, answered);
                executions += explore::<Outcome>(LOOKED.map(|looks| (true, expected_found, looks)), move || {
                    let (lane, mut producer, _) = Files::used();
                    producer.submit(&asked(KILLED));
                    lane.die(stores, (KILLED, None), kind);
                    let sidecars = loom::thread::spawn(move || {
                        lane.recover_until(recovered_stores, kind);
                        let found = lane.recover(kind);
                        (found, serve_on(&lane, found))
                    });
                    let (looks, seen) = produce(&mut producer);
                    let (recovered, mut worker) = sidecars.join().unwrap();
                    settle(&producer, &mut worker, seen, expected);
                    (true, found(recovered), looks)
                });
            }
        }
    }
    println!("{executions} executions");
}

#[test]
fn a_submit_killed_after_any_of_its_stores_is_whole_or_nothing() {
    const ACCEPTED: u64 = 8;
    let mut executions = 0;
    for submitted in 0..=ACCEPTED {
        for stores in 0..=COMPLETED {
            let begun = [(false, fate(0, Kind::Runs).0), (true, fate(stores, Kind::Runs).0)];
            let legal = begun.into_iter().filter(|(begun, _)| !begun || submitted == ACCEPTED);
            executions += explore(legal.collect::<Vec<_>>(), move || {
                let (lane, mut producer, life) = Files::used();
                life.begin(submitted);
                let sidecars = loom::thread::spawn(move || {
                    let (begun, found) = lane.kill(stores, (KILLED, None), Kind::Runs);
                    (begun.is_some(), found, lane)
                });
                producer.submit(&asked(KILLED));
                let (begun, recovered, lane) = sidecars.join().unwrap();
                // Whoever stops or cleans the instance now asks whether anything would be lost.
                let waits = is_unanswered(&lane.journal, 0, &lane.sq, Some(&lane.cq), &GEOMETRY);
                let mut worker = lane.life((recovered.position, recovered.rerun));
                assert_eq!(worker.is_ready(), waits);
                assert_eq!(waits, submitted == ACCEPTED && recovered.position == KILLED);
                while worker.is_ready() {
                    step(&mut worker, None);
                }
                let expected = (submitted == ACCEPTED).then(|| fate(if begun { stores } else { 0 }, Kind::Runs).1);
                assert_eq!(end(&producer, KILLED), expected);
                (begun, found(recovered))
            });
        }
    }
    println!("{executions} executions");
}

/// An `sq` with the line on which its producer says that it sleeps.
#[derive(Clone, Debug)]
struct Sq {
    slots: Slots,
    waiting: HeapWords,
}

impl Sq {
    fn new() -> Self {
        Self { slots: Slots::new(), waiting: HeapWords::new(2) }
    }

    fn place(at: usize) -> Option<usize> {
        at.checked_sub(layout::lane::WAITING).filter(|&at| at < 2)
    }
}

impl Words for Sq {
    fn len(&self) -> usize {
        self.slots.len()
    }

    fn load(&self, at: usize) -> u64 {
        Self::place(at).map_or_else(|| self.slots.load(at), |at| self.waiting.load(at))
    }

    fn load_commit(&self, at: usize) -> u64 {
        self.slots.load_commit(at)
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        self.slots.load_record(at)
    }

    fn nap(&self, at: usize, seen: u64, timeout: Duration) {
        self.slots.nap(at, seen, timeout);
    }

    fn wake(&self, at: usize) -> u32 {
        self.slots.wake(at)
    }
}

impl WordsMut for Sq {
    fn store(&self, at: usize, value: u64) {
        match Self::place(at) {
            Some(at) => self.waiting.store(at, value),
            None => self.slots.store(at, value),
        }
    }

    fn commit(&self, at: usize, value: u64) {
        self.slots.commit(at, value);
    }

    fn store_record(&self, at: usize, record: &[u64; WORDS]) {
        self.slots.store_record(at, record);
    }

    fn buffer(&mut self, _at: usize, _length: usize) -> &mut [u8] {
        &mut []
    }
}

/// A gate and its facts.
const GATE_WORDS: usize = layout::status::LANE_WORDS;
const A_DAY: Duration = Duration::from_secs(86_400);

type Sleepy = WorkerHalf<Sq, Slots, HeapWords>;

/// A lane whose sides may sleep: its producer, its worker, its `sq` and its gate. Its records are not looked at, so that the
/// model has room for the words that matter.
fn sleepy() -> (ProducerHalf<Sq, Slots>, Sleepy, Sq, HeapWords) {
    let (sq, cq, gate) = (Sq::new(), Slots::new(), HeapWords::new(GATE_WORDS));
    let shape = LaneShape::new(&GEOMETRY);
    let producer = ProducerHalf::new(sq.clone(), cq.clone(), shape);
    let worker = WorkerHalf::new(sq.clone(), cq, journal(), 0, shape, (0, None), Arc::new(AtomicU32::new(0)));
    (producer, worker.gated(gate.clone(), 0), sq, gate)
}

/// Serves so many tasks, asleep in between as a worker with this lane alone; says how often it found nothing to do and lay
/// down.
fn serve_asleep(worker: &mut Sleepy, sq: &Sq, tasks: u64) -> usize {
    let (mut record, mut sleeps) = (DescriptorRecord::default(), 0);
    while worker.position() < tasks {
        if worker.take(&mut record) != 0 {
            assert_eq!(asks(&record), worker.position());
            assert!(worker.start(1, None, 700));
            worker.publish(&answered(worker.position()));
            continue;
        }
        worker.doze(true);
        assert!(barrier::raise());
        if let Some((at, seen)) = worker.awaited() {
            sq.nap(at, seen, A_DAY);
            sleeps += 1;
        }
        worker.doze(false);
    }
    sleeps
}

#[test]
fn a_worker_that_falls_asleep_beside_submits_is_woken() {
    let executions = explore([0, 1, 2], || {
        let (mut producer, mut worker, sq, gate) = sleepy();
        let serving = loom::thread::spawn(move || serve_asleep(&mut worker, &sq, 2));
        for position in 0..2 {
            assert_eq!(producer.submit(&asked(position)), position);
            producer.rouse(&gate, 0, position);
        }
        serving.join().unwrap()
    });
    println!("{executions} executions");
}

#[test]
fn a_producer_that_falls_asleep_beside_completions_is_woken() {
    let executions = explore([0, 1, 2], || {
        let (mut producer, mut worker, ..) = sleepy();
        for position in 0..2 {
            producer.submit(&asked(position));
        }
        let mut record = DescriptorRecord::default();
        let serving = loom::thread::spawn(move || {
            for position in 0..2 {
                assert_eq!(worker.take(&mut record), 1);
                assert!(worker.start(1, None, 700));
                worker.publish(&answered(position));
            }
        });
        let sleeps = (0..2).map(|position| collect_asleep(&mut producer, position)).sum();
        serving.join().unwrap();
        sleeps
    });
    println!("{executions} executions");
}

/// Waits for a completion, asleep; says how often it lay down.
fn collect_asleep(producer: &mut ProducerHalf<Sq, Slots>, position: u64) -> usize {
    let mut sleeps = 0;
    loop {
        match producer.look(position) {
            Look::Pending => {
                producer.sleep(position, A_DAY);
                sleeps += 1;
            }
            Look::Corrupt(word) => panic!("a commit word of no task: {word}"),
            Look::Ended(record) => {
                assert_eq!(answers(&record), position);
                return sleeps;
            }
        }
    }
}

#[test]
fn both_sides_of_a_lane_that_sleep_wake_each_other() {
    let executions = explore([(0, 0), (0, 1), (1, 0), (1, 1)], || {
        let (mut producer, mut worker, sq, gate) = sleepy();
        let serving = loom::thread::spawn(move || serve_asleep(&mut worker, &sq, 1));
        producer.submit(&asked(0));
        producer.rouse(&gate, 0, 0);
        let sleeps = collect_asleep(&mut producer, 0);
        (serving.join().unwrap(), sleeps)
    });
    println!("{executions} executions");
}
