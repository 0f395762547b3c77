//! Every interleaving of the two halves of a lane, up to the preemption bound, over `loom`'s atomics.
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
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release -p executor-shm --test loom
//! ```
#![cfg(loom)]
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use executor_core::Status;
use executor_core::dispatch::Lane;
use executor_core::record::{CompletionRecord, DescriptorRecord, WORDS};
use executor_core::status::Interrupted;
use executor_shm::lane::{LaneShape, Look, ProducerHalf, WorkerHalf};
use executor_shm::layout::{self, Geometry};
use executor_shm::recovery::{Circumstances, recover};
use executor_shm::words::{HeapWords, Words, WordsMut};

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
}

impl WordsMut for Slots {
    fn store(&self, at: usize, value: u64) {
        self.0.store(at - layout::lane::SLOTS, value);
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

fn worker(sq: Slots, cq: Slots, journal: HeapWords) -> Worker {
    WorkerHalf::new(sq, cq, journal, 0, LaneShape::new(&GEOMETRY), (0, None), Arc::new(AtomicU32::new(0)))
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
fn explore<O, const N: usize>(legal: [O; N], model: impl Fn() -> O + Send + Sync + 'static)
where
    O: Ord + Clone + Debug + Send + Sync + 'static,
{
    let legal = BTreeSet::from(legal);
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
    println!("{} executions, {} outcomes", seen.1, seen.0.len());
    assert_eq!(seen.0, legal, "legal outcomes that no execution had");
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
    explore::<Seen, _>(legal, move || {
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
    explore([(0, None, None), (1, interrupted, Some(0))], move || {
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
            Circumstances {
                poisoned: false,
                payload_lost: false,
                handler_changed: false,
                idempotent: false,
                signal: false,
            }
        });
        dying.join().unwrap();
        if let Look::Ended(record) = producer.look(0) {
            assert_eq!((record.submitted_at(), record.started_at()), (200, 700), "answered with stamps of no task");
        }
        (found.position, found.answered.map(Status::code), judged)
    });
}
