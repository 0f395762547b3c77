//! A lane whose `sq` holds arbitrary bytes and is written to between any two loads, served by the real dispatch loop.
//!
//! ```text
//! input   sizes u8 | start u8 | position u64 | writes u8 | writes, 12 bytes each | image of `sq` behind its first page
//! sizes   bits 0-1 capacity 2 << n, 2-3 request buffers of n * 64 bytes, 4-5 response buffers
//! start   bit 0 the task at the position is run again, bit 1 tasks are stamped, bit 2 position 0 whatever it says
//! write   loads before it u8 | kind u8 | place u16 | value u64; after the last one some loads more, then the end
//! kind    0 a word anywhere   1 the commit that makes the next task there   2 poison   3 a word of the next descriptor
//! ```
//!
//! Whatever the bytes: nothing panics, every position that was committed is answered once and in order, each answer is
//! whole, within bounds and started in the journal before, nothing else is written, and a recovery agrees.

#![no_main]

mod input;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use executor_core::clock::{Calibration, Clock, ClockSource};
use executor_core::dispatch::Served;
use executor_core::idle::IdleStrategy;
use executor_core::meter::{self, MeterLayout};
use executor_core::record::{COMMIT, CompletionRecord, INLINE_RESPONSE, WORDS};
use executor_core::recorder::Recording;
use executor_core::registry::Since;
use executor_core::task::{LaneFacts, Priority};
use executor_core::worker::{Control, Worker, WorkerOptions, totals};
use executor_core::{Handler, Registry, SliceSpec, Status, TaskError, TaskSpec};
use executor_shm::lane::{LaneShape, Rerun, WorkerHalf};
use executor_shm::layout::{Geometry, journal, journal::k, lane::SLOTS};
use executor_shm::recovery::{Circumstances, recover};
use executor_shm::words::{HeapWords, Words, WordsMut};
use input::{Input, lay};
use libfuzzer_sys::fuzz_target;

const HANDLERS: usize = 12;
const LAYOUT: MeterLayout = MeterLayout { workers: 1, handlers: HANDLERS, lanes: 1 };
/// Loads of an idle worker after the last write, before it is told to close.
const IDLE_LOADS: u32 = 8;

/// Takes a number.
enum Twice {}

impl TaskSpec for Twice {
    const ID: u32 = 3;
    const NAME: &'static str = "twice";
    const SCHEMA: u32 = 1;
    type Args = u64;
    type Output = u64;
}

/// Takes a header and items.
enum Total {}

impl SliceSpec for Total {
    const ID: u32 = 9;
    const NAME: &'static str = "total";
    const SCHEMA: u32 = 1;
    type Header = u32;
    type Item = u16;
    type Output = u64;
}

fn registry() -> Registry {
    let mut registry = Registry::builder();
    registry
        .add(Handler::new(1, "echo", |_, request, response| {
            response.write(request);
            Ok(())
        }))
        .add(Handler::in_place(2, "in-place", |_, request, response| {
            let mut copy = vec![0; request.len()];
            request.copy_to(0, &mut copy);
            response.write(&copy);
            Ok(())
        }))
        .add(Handler::typed::<Twice>(|_, number| Ok(number.wrapping_mul(2))).idempotent())
        .add(Handler::new(4, "fails", |_, request, _| {
            Err(TaskError::new("a text of more than one word".repeat(request.len())))
        }))
        .add(Handler::new(5, "wants", |_, request, response| {
            // As many bytes as the request says, and past every buffer if it says so.
            let wanted =
                request.iter().fold(0usize, |sum, &byte| sum.wrapping_mul(3).wrapping_add(byte.into())) % 100_000;
            if let Some(room) = response.reserve(wanted) {
                room.fill(5);
            }
            Ok(())
        }))
        // Not `panic!`: the fuzzer's hook ends the process there, and rightly so for all panics but this one.
        .add(Handler::new(6, "panics", |_, request, _| std::panic::resume_unwind(Box::new(format!("{request:?}")))))
        .add(Handler::new(7, "changed", |_, _, _| Ok(())))
        .add(
            Handler::new(8, "sized", |_, request, response| {
                assert!((8..=40).contains(&request.len()), "{} bytes", request.len());
                response.write_value(&request.len());
                Ok(())
            })
            .request_bytes(8..=40),
        )
        .add(Handler::slice::<Total>(|_, header, items| {
            Ok(items.iter().fold(u64::from(*header), |sum, &item| sum + u64::from(item)))
        }))
        .add(Handler::per_worker(10, "counts", |_| {
            let mut count = 0u64;
            move |_, _, response| {
                count += 1;
                response.write_value(&count);
                Ok(())
            }
        }));
    registry.build().expect("the registry is one")
}

/// What all blocks of one run see.
struct Run {
    geometry: Geometry,
    sq: Box<[AtomicU64]>,
    position: Cell<u64>,
    /// The task at the position needs no commit word: it is run again.
    again: Cell<bool>,
    /// The commit word that was loaded last.
    seen: Cell<(usize, u64)>,
    writes: RefCell<VecDeque<Write>>,
    /// Loads until the next of them.
    wait: Cell<Option<u32>>,
    poison: Arc<AtomicU32>,
    control: RefCell<Option<Control<Half>>>,
    /// The next thing after the idle loads is the order to close.
    is_closing: Cell<bool>,
    started: Cell<Option<u64>>,
    answers: RefCell<Vec<(usize, [u64; WORDS])>>,
    answered: Cell<u64>,
}

/// A stranger's store.
struct Write {
    wait: u32,
    kind: u8,
    place: usize,
    value: u64,
}

impl Write {
    fn of(input: &mut Input<'_>) -> Self {
        let (wait, kind, place, value) = (input.byte(), input.byte(), input.half(), input.word());
        Self { wait: wait.into(), kind, place: place.into(), value }
    }
}

type Half = WorkerHalf<Sq, Cq, Journal>;

impl Run {
    fn slot(&self, position: u64) -> usize {
        SLOTS + (position & self.geometry.mask()) as usize * WORDS
    }

    /// A load is about to happen: the writes that are due come first, and after the last one the order to close.
    fn tick(&self) {
        while self.wait.get() == Some(0) {
            match self.writes.borrow_mut().pop_front() {
                Some(write) => self.store(&write),
                None => {
                    self.control.borrow_mut().iter_mut().for_each(|control| control.close().expect("there is room"))
                }
            }
            self.wait.set(self.wait_for_next());
        }
        self.wait.set(self.wait.get().map(|wait| wait - 1));
    }

    /// `None` once it was told to close.
    fn wait_for_next(&self) -> Option<u32> {
        match self.writes.borrow().front() {
            Some(write) => Some(write.wait),
            None => (!self.is_closing.replace(true)).then_some(IDLE_LOADS),
        }
    }

    fn store(&self, write: &Write) {
        let next = self.slot(self.position.get());
        let (at, value) = match write.kind % 4 {
            0 => (SLOTS + write.place % (self.sq.len() - SLOTS), write.value),
            1 => (next + COMMIT, self.position.get().wrapping_add(1)),
            2 => return self.poison.store((write.value & 3) as u32, Relaxed),
            _ => (next + 1 + write.place % (WORDS - 1), write.value),
        };
        self.sq[at].store(value, Relaxed);
    }
}

/// Blocks are made of one run; there is nothing else to say of them.
impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Run")
    }
}

/// The producer's file: somebody writes to it whenever they like.
#[derive(Debug)]
struct Sq(Rc<Run>);

impl Words for Sq {
    fn len(&self) -> usize {
        self.0.sq.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.0.tick();
        self.0.sq[at].load(Relaxed)
    }

    fn load_commit(&self, at: usize) -> u64 {
        let word = self.load(at);
        self.0.seen.set((at, word));
        word
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        std::array::from_fn(|word| if word == COMMIT { 0 } else { self.load(at + word) })
    }

    fn atomics(&self, at: usize, words: usize) -> Option<&[AtomicU64]> {
        self.0.tick();
        Some(&self.0.sq[at..at + words])
    }
}

/// The lane's lines, and what may be stored there.
#[derive(Debug)]
struct Journal(HeapWords, Rc<Run>);

impl Words for Journal {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.0.load(at)
    }

    fn load_commit(&self, at: usize) -> u64 {
        self.0.load_commit(at)
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        self.0.load_record(at)
    }
}

impl WordsMut for Journal {
    fn store(&self, at: usize, value: u64) {
        assert!((COMMIT + 1..=k::STARTED_AT).contains(&at), "a worker stored word {at} of the journal");
        self.0.store(at, value);
    }

    fn commit(&self, at: usize, value: u64) {
        assert_eq!((at, value), (COMMIT, self.1.position.get().wrapping_add(1)), "started another task");
        assert_ne!(self.1.started.replace(Some(value)), Some(value), "started twice");
        self.0.commit(at, value);
    }

    fn store_record(&self, at: usize, record: &[u64; WORDS]) {
        assert_eq!(at, COMMIT, "a descriptor belongs to J");
        self.0.store_record(at, record);
    }

    fn buffer(&mut self, _: usize, _: usize) -> &mut [u8] {
        unreachable!("a journal has no buffers")
    }
}

/// The sidecar's file: each store is looked at.
#[derive(Debug)]
struct Cq {
    words: HeapWords,
    journal: HeapWords,
    run: Rc<Run>,
    buffer: Vec<u8>,
}

impl Words for Cq {
    fn len(&self) -> usize {
        self.words.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.words.load(at)
    }

    fn load_commit(&self, at: usize) -> u64 {
        self.words.load_commit(at)
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        self.words.load_record(at)
    }
}

impl WordsMut for Cq {
    fn store(&self, at: usize, _: u64) {
        panic!("a worker stored word {at} of a cq outside a record");
    }

    fn store_record(&self, at: usize, record: &[u64; WORDS]) {
        assert_eq!(at, self.run.slot(self.run.position.get()), "an answer in another task's slot");
        self.words.store_record(at, record);
    }

    fn commit(&self, at: usize, value: u64) {
        let run = &self.run;
        let position = run.position.get();
        let slot = run.slot(position);
        assert_eq!((at, value), (slot + COMMIT, position.wrapping_add(1)), "answered another position");
        let again = run.again.replace(false);
        assert!(again || run.started.get() == Some(value), "answered before it was started");
        assert!(again || run.seen.get() == (slot + COMMIT, value), "answered what nobody submitted");
        let mut record = CompletionRecord { words: self.words.load_record(slot) };
        let status = record.status().expect("a status that a build writes");
        let room = INLINE_RESPONSE.max(run.geometry.response_bytes as usize);
        assert!(record.response_length() as usize <= room, "{status} with {} bytes", record.response_length());
        assert_eq!(record.submitted_at(), self.journal.load(2), "the echo of another stamp");
        assert!(record.attempt() <= if again { 2 } else { 1 });
        let verdict = self.journal.load(k::VERDICT);
        if !again && verdict != 0 {
            assert_eq!(verdict, u64::from(status.code()) | u64::from(status.detail()) << 8, "another verdict");
            assert_eq!((record.attempt(), record.response_length()), (0, 0), "an answer of a task that never ran");
        }
        self.words.commit(at, value);
        record.words[COMMIT] = value;
        let mut answers = run.answers.borrow_mut();
        answers.retain(|(at, _)| *at != slot);
        answers.push((slot, record.words));
        run.position.set(value);
        run.answered.set(run.answered.get() + 1);
    }

    fn buffer(&mut self, at: usize, length: usize) -> &mut [u8] {
        let geometry = &self.run.geometry;
        let index = (self.run.position.get() & geometry.mask()) as usize;
        let expected = geometry.buffers() + index * geometry.response_bytes as usize / 8;
        assert_eq!((at, length), (expected, geometry.response_bytes as usize), "another task's buffer");
        self.buffer.resize(length, 0);
        &mut self.buffer
    }
}

thread_local! {
    static REGISTRY: Registry = registry();
    static METER: Arc<[AtomicU64]> = meter::heap(&LAYOUT);
}

fuzz_target!(|data: &[u8]| REGISTRY.with(|registry| METER.with(|meter| serve(data, registry, meter))));

fn serve(data: &[u8], registry: &Registry, meter: &Arc<[AtomicU64]>) {
    let mut input = Input(data);
    let (sizes, start, position) = (input.byte(), input.byte(), input.word());
    let geometry = Geometry {
        capacity: 2 << (sizes & 3),
        request_bytes: u32::from(sizes >> 2 & 3) * 64,
        response_bytes: u32::from(sizes >> 4 & 3) * 64,
        lanes: 1,
        handlers: HANDLERS as u32,
        workers: 1,
    };
    let (again, timed) = (start & 1 != 0, start & 2 != 0);
    let position = if start & 4 != 0 { 0 } else { position };
    let count = input.byte() % 64;
    let writes: VecDeque<Write> = (0..count).map(|_| Write::of(&mut input)).collect();
    let image = HeapWords::new(geometry.sq_bytes() / 8);
    lay(&image, SLOTS, input.0);
    let (cq, lines) = (HeapWords::new(geometry.cq_bytes() / 8), HeapWords::new(journal::LANE_WORDS));
    let run = Rc::new(Run {
        geometry,
        sq: (0..image.len()).map(|at| AtomicU64::new(image.load(at))).collect(),
        position: Cell::new(position),
        again: Cell::new(again),
        seen: Cell::new((0, 0)),
        writes: RefCell::new(writes),
        wait: Cell::new(None),
        poison: Arc::new(AtomicU32::new(0)),
        control: RefCell::new(None),
        is_closing: Cell::new(false),
        started: Cell::new(None),
        answers: RefCell::default(),
        answered: Cell::new(0),
    });
    run.wait.set(run.wait_for_next());
    if again {
        // J names the task that is run again; its words are the slot's.
        lines.store_record(COMMIT, &image.load_record(run.slot(position)));
        lines.store(COMMIT, position.wrapping_add(1));
    }
    let rerun = again.then_some(Rerun { attempt: 2 });
    let half = WorkerHalf::new(
        Sq(Rc::clone(&run)),
        Cq { words: cq.clone(), journal: lines.clone(), run: Rc::clone(&run), buffer: Vec::new() },
        Journal(lines.clone(), Rc::clone(&run)),
        0,
        LaneShape::new(&geometry),
        (position, rerun),
        Arc::clone(&run.poison),
    );
    let facts = LaneFacts {
        lane: 0,
        base: position,
        instance_nonce: 1,
        generation: 1,
        priority: Priority::Normal,
        attached_at: 0,
        meter: LAYOUT.lane(0),
    };
    let clock = Calibration { ticks: 0, monotonic_ns: 0, realtime_ns: 0, ticks_per_second: 1_000_000_000 };
    let (worker, mut control) = Worker::new(WorkerOptions {
        recording: Recording::default(),
        worker: 0,
        clock: Clock::new(ClockSource::Monotonic, clock),
        timed,
        idle: IdleStrategy::Spin,
        quantum: 3,
        request_bytes: geometry.request_bytes as usize,
        meter: Arc::clone(meter),
        layout: LAYOUT,
    });
    control.adopt(Box::new(Served::new(half, facts))).expect("the ring has room");
    *run.control.borrow_mut() = Some(control);
    let since = [Since { id: 7, generation: 2, dense: 6 }, Since { id: 11, generation: 1, dense: 10 }];
    let before = totals(meter, &LAYOUT, 0).tasks;
    worker.serve(registry, &since, |ready| assert!(ready.is_ok())).expect("handlers are made");

    let mut control = run.control.borrow_mut().take().expect("it was put there");
    let served = control.take_returned().expect("a worker that closed gives its lane back");
    assert!(control.take_returned().is_none());
    drop(served);
    assert_eq!(totals(meter, &LAYOUT, 0).tasks - before, run.answered.get(), "counted otherwise than answered");
    assert_eq!(run.position.get(), position.wrapping_add(run.answered.get()));
    for (slot, words) in run.answers.borrow().iter() {
        let mut found = cq.load_record(*slot);
        found[COMMIT] = cq.load(*slot + COMMIT);
        assert_eq!(found, *words, "an answer changed");
    }
    if run.answered.get() > 0 && run.position.get() != 0 {
        assert_eq!(lines.load(COMMIT), run.position.get());
        let circumstances = |_: &_| -> Circumstances { unreachable!("every task has an answer") };
        let recovered = recover(&lines, 0, &cq, &geometry, circumstances);
        assert_eq!(
            (recovered.position, recovered.rerun, recovered.answered),
            (run.position.get(), None, None::<Status>)
        );
    }
}
