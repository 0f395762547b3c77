//! The whole life of lanes against a model of it: two producers, one worker, and what befalls them, in random orders.
//!
//! The worker is the real one, with its dispatch; the lanes are the real halves, recovery and the words of a reset. What
//! others do can happen between any two steps of it, and a kill after any of its stores. The model knows the words that
//! were stored, in the order of the page on the protocol, and says of each task what it must answer: it never asks the
//! code under test.
//!
//! It is no model of the files: who may attach, and when a lane's files go, is played by rule here.
#![cfg(not(loom))]
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod mortal;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use executor_core::clock::{Calibration, Clock, ClockSource};
use executor_core::dispatch::{Lane, Scratch, Served};
use executor_core::idle::IdleStrategy;
use executor_core::meter::MeterLayout;
use executor_core::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD, INLINE_RESPONSE, WORDS};
use executor_core::recorder::Recording;
use executor_core::registry::Since;
use executor_core::response::Response;
use executor_core::status::{HandlerChange, Interrupted, Malformed, Poison};
use executor_core::task::LaneFacts;
use executor_core::worker::{QUANTUM, Worker, WorkerOptions};
use executor_core::{Handler, Priority, Ran, Registry, Status, TaskError};
use executor_shm::housekeeping::{clear_lines, count_off_ids, damaged_at, skip_ids};
use executor_shm::lane::{LaneShape, Look, ProducerHalf, Rerun, WorkerHalf};
use executor_shm::layout::journal::crash;
use executor_shm::layout::{Geometry, journal};
use executor_shm::recovery::{Charge, Circumstances, Recovered, charge, is_unanswered, recover};
use executor_shm::words::{HeapWords, Words, WordsMut};
use mortal::{FOREVER, Life};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

type Mortal = mortal::Mortal<HeapWords>;
type Half = WorkerHalf<Raced, Mortal, Mortal>;

const LANES: usize = 2;
const CAPACITY: u64 = 4;
const REQUEST_BYTES: u32 = 64;
const RESPONSE_BYTES: u32 = 64;
const GEOMETRY: Geometry = Geometry {
    capacity: CAPACITY as u32,
    request_bytes: REQUEST_BYTES,
    response_bytes: RESPONSE_BYTES,
    lanes: LANES as u32,
    handlers: 8,
    workers: 1,
};

/// Answers with its payload; must not run twice.
const ECHO: u32 = 1;
/// The same, and may run twice.
const AGAIN: u32 = 2;
const FAILS: u32 = 3;
const PANICS: u32 = 4;
/// Takes 8 bytes only.
const SIZED: u32 = 5;
/// Answers with more than there is room for.
const WIDE: u32 = 6;
/// Was there once.
const GONE: u32 = 7;
/// Never was.
const UNKNOWN: u32 = 9;

const TEXT: &str = "no such order";
const TOO_WIDE: usize = 100;

/// Where a slot begins, from the page on the wire and not from the code under test.
fn slot(position: u64) -> usize {
    512 + (position % CAPACITY) as usize * 8
}

/// Where the buffer of a slot begins.
fn buffer(position: u64) -> usize {
    512 + CAPACITY as usize * 8 + (position % CAPACITY) as usize * 8
}

/// Where the lines of a lane begin in the journal of this test.
fn lines(lane: usize) -> usize {
    lane * journal::LANE_WORDS
}

/// Submissions with a stranger beside the worker: as soon as a descriptor has been read, once, it is another.
#[derive(Clone, Debug)]
struct Raced {
    words: HeapWords,
    /// The word of the descriptor, and what becomes of it.
    race: Arc<Mutex<Option<(usize, u64)>>>,
}

impl Words for Raced {
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
        let record = self.words.load_record(at);
        if let Some((place, value)) = self.race.lock().unwrap().take() {
            self.words.store(at + place, value);
        }
        record
    }
}

/// What the lanes' files are called where the stores of a life are told.
const CQ: [&str; LANES] = ["cq 0", "cq 1"];

/// Calls of handlers that had an effect: a call by a process that is dead has none.
#[derive(Clone, Debug)]
struct Effects {
    life: Life,
    calls: Arc<Mutex<BTreeMap<(usize, u64), u32>>>,
}

impl Effects {
    /// By task id: lane, and base + position.
    fn happen(&self, context: &executor_core::TaskContext<'_>) {
        let id = context.task_id();
        if self.life.lands("effect", id.lane() as usize, id.sequence()) {
            *self.calls.lock().unwrap().entry((id.lane() as usize, id.sequence())).or_default() += 1;
        }
    }

    fn of(&self, lane: usize, id: u64) -> u32 {
        self.calls.lock().unwrap().get(&(lane, id)).copied().unwrap_or(0)
    }
}

fn registry(effects: &Effects) -> Registry {
    let handler = |id, name: &str, body: fn(&[u8], &mut Response<'_>) -> Result<(), TaskError>| {
        let effects = effects.clone();
        Handler::new(id, name, move |context, request, response| {
            effects.happen(context);
            body(request, response)
        })
    };
    let mut registry = Registry::builder();
    for handler in [
        handler(ECHO, "echo", |request, response| {
            response.write(request);
            Ok(())
        }),
        handler(AGAIN, "again", |request, response| {
            response.write(request);
            Ok(())
        })
        .idempotent(),
        handler(FAILS, "fails", |_, _| Err(TaskError::with_code(42, TEXT))),
        handler(PANICS, "panics", |_, _| std::panic::resume_unwind(Box::new(TEXT))), // without the hook and its noise
        handler(SIZED, "sized", |_, _| Ok(())).request_bytes(8..=8),
        handler(WIDE, "wide", |_, response| {
            response.write(&[7; TOO_WIDE]);
            Ok(())
        }),
    ] {
        registry.add(handler);
    }
    registry.build().unwrap()
}

/// A task as the model has it: what was in the slot when the worker took it, and why it must not run, if so.
#[derive(Clone, Debug)]
struct Taken {
    attempt: u16,
    record: DescriptorRecord,
    payload: Vec<u8>,
    /// What the worker saw when it looked whether the lane is poisoned.
    poison: Option<Poison>,
    verdict: Option<Status>,
}

/// How a task ends.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: Status,
    attempt: u16,
    response: Vec<u8>,
    submitted_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Active,
    Poisoned(Poison),
    /// The owner is gone, and the worker still has the lane.
    Draining,
    Resetting,
}

/// One lane in the hands of one owner: its files, and what the model says of it.
struct LaneLife {
    sq: HeapWords,
    cq: HeapWords,
    /// `None` once it is gone.
    producer: Option<ProducerHalf<Mortal, HeapWords>>,
    producer_life: Life,
    /// Between two turns of the worker.
    half: Option<Half>,
    /// The word that tells the worker, and what the model says is in it.
    flag: Arc<AtomicU32>,
    flagged: Option<Poison>,
    state: State,
    /// The registry generation it attached under.
    generation: u32,
    base: u64,
    submitted: u64,
    collected: u64,
    credited: u64,
    /// The next position to be served.
    position: u64,
    /// The task there was in flight when a worker died, and is to run as this attempt.
    rerun: Option<Taken>,
    /// The last task that its worker noted to have raised a signal, as what the journal counted then, and when.
    noted: Option<(u64, u64)>,
    /// When the lane was charged for a crash.
    charged: [u64; 3],
    /// The task in the worker's hands, and whether it is started.
    taken: Option<Taken>,
    started: bool,
    answers: BTreeMap<u64, Answer>,
    /// Completions as they were first seen, until their slot is given back.
    seen: BTreeMap<u64, CompletionRecord>,
    /// Somebody wrote commit words that were not its turn to write: what its producer then reads is its own affair.
    at_fault: bool,
}

impl LaneLife {
    fn attach(base: u64, generation: u32) -> Self {
        let (sq, cq) = (HeapWords::new(GEOMETRY.sq_bytes() / 8), HeapWords::new(GEOMETRY.cq_bytes() / 8));
        let producer_life = Life::new(FOREVER);
        let written = Mortal::new("sq", &sq, &producer_life);
        Self {
            producer: Some(ProducerHalf::new(written, cq.clone(), LaneShape::new(&GEOMETRY))),
            producer_life,
            sq,
            cq,
            half: None,
            flag: Arc::default(),
            flagged: None,
            state: State::Active,
            generation,
            base,
            submitted: 0,
            collected: 0,
            credited: 0,
            position: 0,
            rerun: None,
            noted: None,
            charged: [0; 3],
            taken: None,
            started: false,
            answers: BTreeMap::new(),
            seen: BTreeMap::new(),
            at_fault: false,
        }
    }

    /// Tasks started so far: what the journal counts.
    fn count(&self) -> u64 {
        self.position + u64::from(self.rerun.is_some() || self.started)
    }

    fn commit_of(&self, position: u64) -> u64 {
        self.sq.load(slot(position))
    }

    fn is_ready(&self) -> bool {
        self.rerun.is_some() || self.commit_of(self.position) == self.position + 1
    }

    fn record_at(&self, position: u64) -> DescriptorRecord {
        let mut record = DescriptorRecord::default();
        for (place, word) in record.words.iter_mut().enumerate().skip(1) {
            *word = self.sq.load(slot(position) + place);
        }
        record
    }

    fn buffer_at(&self, position: u64, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|word| self.sq.load(buffer(position) + word).to_le_bytes());
        words.take(length).collect()
    }

    fn ended(&mut self, answer: Answer) {
        assert!(self.answers.insert(self.position, answer).is_none(), "task {} was answered twice", self.position);
        self.position += 1;
        (self.rerun, self.taken, self.started) = (None, None, false);
    }

    /// Whether the crash at `now` is the third within a minute.
    fn charge(&mut self, now: u64) -> bool {
        if !self.charged.contains(&now) {
            *self.charged.iter_mut().min().unwrap() = now;
        }
        self.charged.iter().all(|&time| time != 0 && time <= now && now - time <= 60_000_000_000)
    }

    fn poisoned_by(&mut self, reason: Poison) {
        self.state = State::Poisoned(reason);
        self.flag.store(u32::from(reason.code()), Relaxed);
        self.flagged = Some(reason);
    }
}

/// What a producer asks for. The length may be one that no client sends.
#[derive(Clone, Debug)]
struct Request {
    handler: u32,
    flags: u8,
    payload: Vec<u8>,
    length: Option<u32>,
    deadline: u64,
}

/// Where somebody writes into a lane's submissions.
#[derive(Clone, Copy, Debug)]
enum Target {
    Commit,
    Word(usize),
    Buffer(usize),
}

/// What others than the worker do, at any moment.
#[derive(Clone, Debug)]
enum Act {
    Submit(Request),
    /// The producer is killed after so many stores of a submit.
    DieSubmitting(Request, u64),
    Collect,
    Credit,
    /// The owner goes, with manners or without.
    Detach,
    Corrupt {
        slot: u64,
        target: Target,
        value: u64,
    },
    Audit,
    /// Its tasks crashed the sidecar too often.
    Poison,
}

/// How a sidecar ends and the next one begins.
#[derive(Clone, Debug)]
struct Kill {
    /// Stores and effects that still happen.
    after: u64,
    /// The next one is another build, in which this handler is another.
    changed: Option<u32>,
    /// The task in flight raised a fatal signal: the second at which its worker noted that, and how many stores of the
    /// note still happened.
    signal: Option<(u64, u64)>,
    payload_lost: bool,
    /// So late that all deadlines of tasks in flight are past.
    late: bool,
    /// Stores after which the next ones are killed while they recover.
    recoveries: Vec<u64>,
}

/// A turn of the worker.
#[derive(Clone, Debug, Default)]
struct Turn {
    /// Tasks of each lane, at most.
    tasks: [u32; LANES],
    /// What others do after so many steps of it.
    acts: BTreeMap<u32, (usize, Act)>,
    /// What a stranger makes of a word of the first descriptor, right after it was read.
    race: Option<(usize, u64)>,
    kill: Option<Kill>,
}

#[derive(Clone, Debug)]
enum Operation {
    Act(usize, Act),
    Serve(Turn),
    /// One task after the other raises a signal, at these seconds.
    Crash {
        lane: usize,
        seconds: Vec<u64>,
    },
    /// The lane comes back to life for another owner, if it has none. Resets are killed after so many stores first.
    Reset {
        lane: usize,
        kills: Vec<u64>,
    },
}

struct World {
    lanes: Vec<LaneLife>,
    journal: HeapWords,
    /// The sidecar's.
    life: Life,
    effects: Effects,
    registry: Registry,
    since: BTreeMap<u32, u32>,
    generation: u32,
    /// Acts to come in this turn of the worker, by its steps.
    acts: BTreeMap<u32, (usize, Act)>,
    steps: u32,
    race: Arc<Mutex<Option<(usize, u64)>>>,
    /// Every id that was given to a task, by lane.
    ids: [BTreeSet<u64>; LANES],
}

impl World {
    fn new() -> Self {
        let life = Life::new(FOREVER);
        let effects = Effects { life: life.clone(), calls: Arc::default() };
        let since = [ECHO, AGAIN, FAILS, PANICS, SIZED, WIDE, GONE].map(|id| (id, 1));
        Self {
            lanes: (0..LANES).map(|_| LaneLife::attach(0, 1)).collect(),
            journal: HeapWords::new(lines(LANES)),
            life,
            registry: registry(&effects),
            effects,
            since: BTreeMap::from(since),
            generation: 1,
            acts: BTreeMap::new(),
            steps: 0,
            race: Arc::default(),
            ids: Default::default(),
        }
    }

    /// Between two steps of the worker: others have their turn.
    fn step(&mut self) {
        if self.life.is_over() {
            return;
        }
        if let Some((lane, act)) = self.acts.remove(&self.steps) {
            self.act(lane, act);
        }
        self.steps += 1;
    }

    fn act(&mut self, lane: usize, act: Act) {
        match act {
            Act::Submit(request) => self.submit(lane, &request, FOREVER),
            Act::DieSubmitting(request, stores) => {
                self.submit(lane, &request, stores);
                self.detach(lane);
            }
            Act::Collect => self.lanes[lane].collect(),
            Act::Credit => self.lanes[lane].credit(),
            Act::Detach => self.detach(lane),
            Act::Corrupt { slot: position, target, value } => self.lanes[lane].corrupt(position, target, value),
            Act::Audit => self.audit(lane),
            Act::Poison => {
                if self.lanes[lane].state == State::Active {
                    self.lanes[lane].poisoned_by(Poison::CrashBudget);
                }
            }
        }
    }

    fn submit(&mut self, number: usize, request: &Request, stores: u64) {
        let lane = &mut self.lanes[number];
        let Some(producer) = lane.producer.as_mut() else { return };
        let full = lane.submitted - lane.credited == CAPACITY;
        assert_eq!(producer.is_full(), full);
        if full {
            return;
        }
        let (position, length) = (lane.submitted, request.length.unwrap_or(request.payload.len() as u32));
        let mut record = DescriptorRecord::new(request.handler, length, 1000 + position, request.deadline);
        record.words[1] = DescriptorRecord::pack(request.handler, request.flags, length);
        lane.producer_life.begin(stores);
        match record.inline_payload_mut().get_mut(..request.payload.len()) {
            Some(inline) => inline.copy_from_slice(&request.payload),
            None => producer.request_buffer(request.payload.len()).copy_from_slice(&request.payload),
        }
        assert_eq!(producer.submit(&record), position);
        if lane.producer_life.has_landed("sq", slot(position), position + 1) {
            assert_eq!(lane.record_at(position).words, record.words, "accepted before it was whole");
            if request.payload.len() > INLINE_PAYLOAD {
                assert_eq!(lane.buffer_at(position, request.payload.len()), request.payload);
            }
            lane.submitted += 1;
            let id = lane.base + position;
            assert!(self.ids[number].insert(id), "task id {id} of lane {number} was given twice");
        }
    }

    fn detach(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        lane.producer = None;
        if lane.state == State::Active {
            lane.state = State::Draining;
        }
    }

    fn audit(&mut self, lane: usize) {
        let found = damaged_at(&self.journal, lines(lane), &self.lanes[lane].sq, &GEOMETRY);
        let lane = &mut self.lanes[lane];
        let (count, word) = (lane.count(), lane.commit_of(lane.count()));
        let sound = word == count + 1 || word == (count + 1).saturating_sub(CAPACITY);
        assert_eq!(found, (!sound).then_some(count));
        assert!(sound || lane.at_fault, "a lane is called damaged and is not");
        if !sound && lane.state == State::Active {
            lane.poisoned_by(Poison::Damaged);
        }
    }

    /// One turn of the worker over all lanes.
    fn serve(this: &Rc<RefCell<Self>>, tasks: [u32; LANES]) {
        let layout = MeterLayout { workers: 1, handlers: 8, lanes: LANES };
        let calibration = Calibration { ticks: 0, monotonic_ns: 0, realtime_ns: 0, ticks_per_second: 1_000_000_000 };
        let (worker, mut control) = Worker::new(WorkerOptions {
            recording: Recording::default(),
            worker: 0,
            clock: Clock::new(ClockSource::Monotonic, calibration),
            timed: true,
            idle: IdleStrategy::Yield,
            quantum: QUANTUM,
            request_bytes: REQUEST_BYTES as usize,
            meter: Vec::<AtomicU64>::new(), // nobody counts
            layout,
        });
        let (registry, since) = {
            let world = &mut *this.borrow_mut();
            for (number, lane) in world.lanes.iter_mut().enumerate() {
                let Some(half) = lane.half.take() else { continue };
                let facts = LaneFacts {
                    lane: number as u32,
                    base: lane.base,
                    instance_nonce: 1,
                    generation: lane.generation,
                    priority: Priority::Normal,
                    attached_at: 0,
                    meter: 0,
                };
                let watched = Watched { number, half, left: tasks[number], world: Rc::clone(this) };
                assert!(control.adopt(Box::new(Served::new(watched, facts))).is_ok());
            }
            let since = world.since.iter().zip(0..);
            let since: Vec<Since> = since.map(|((&id, &generation), dense)| Since { id, generation, dense }).collect();
            (world.registry.clone(), since)
        };
        assert!(control.close().is_ok());
        worker.serve(&registry, &since, |ready| assert!(ready.is_ok())).unwrap();
        while let Some(served) = control.take_returned() {
            let Watched { number, half, left, .. } = served.lane;
            let World { lanes, journal, life, .. } = &mut *this.borrow_mut();
            let lane = &mut lanes[number];
            assert!(tasks[number] - left <= CAPACITY as u32, "a lane that goes back was served more than its capacity");
            if tasks[number] == DRAIN && !half.has_rerun() && !life.is_over() {
                if lane.state == State::Poisoned(Poison::Damaged) {
                    skip_ids(&*journal, lines(number), CAPACITY);
                }
                lane.state = State::Resetting;
            }
            lane.half = Some(half);
        }
    }

    /// The sidecar's life ends here, wherever it was in the last turn; the next ones recover.
    fn kill(&mut self, kill: &Kill) {
        if let Some(id) = kill.changed {
            self.generation += 1;
            self.since.insert(id, self.generation);
        }
        for lane in 0..LANES {
            self.lanes[lane].half = None;
            if self.lanes[lane].state != State::Resetting {
                self.recover(lane, kill);
            }
        }
        self.life.begin(FOREVER);
    }

    /// What recovery owes the lane, by the stores that happened, and whether it does it.
    fn recover(&mut self, number: usize, kill: &Kill) {
        let (life, generation) = (self.life.clone(), self.lanes[number].generation);
        let has_landed = |at: usize, value| life.has_landed("journal", lines(number) + at, value);
        let lane = &mut self.lanes[number];
        let position = lane.position;
        let started = lane.rerun.is_some() || has_landed(0, position + 1);
        let task = match (&lane.rerun, &lane.taken) {
            (Some(again), _) => {
                let begun = has_landed(journal::k::ATTEMPTS, position << 8 | u64::from(again.attempt));
                Some(Taken { attempt: again.attempt - u16::from(!begun), ..again.clone() })
            }
            (None, taken) => taken.clone().filter(|_| started),
        };
        // The signal handler of the worker's thread, if a task was running there; of the note its count goes last.
        let begun =
            task.as_ref().is_some_and(|task| lane.rerun.as_ref().is_none_or(|again| again.attempt == task.attempt));
        if let Some((second, stores)) = kill.signal.filter(|_| begun) {
            let journal = Mortal::new("journal", &self.journal, &Life::new(stores));
            let at = second * 1_000_000_000;
            for (word, value) in [
                (crash::POSITION, 0),
                (crash::AT, at),
                (crash::CAUSE, u64::from(SIGNAL)),
                (crash::POSITION, position + 1),
            ] {
                journal.store(lines(number) + word, value);
            }
            match stores {
                0 => {}
                1..=3 => lane.noted = None,
                _ => lane.noted = Some((position + 1, at)),
            }
        }
        let ran = task.as_ref().is_some_and(|task| task.verdict.is_none());
        let crashed_at = lane.noted.filter(|&(count, _)| ran && count == position + 1).map(|(_, at)| at);
        let over_budget = crashed_at.is_some_and(|now| lane.charge(now));
        if over_budget && !matches!(lane.state, State::Poisoned(_)) {
            lane.state = State::Poisoned(Poison::CrashBudget);
        }
        (lane.taken, lane.started, lane.rerun) = (None, false, None);
        let mut expected = Recovered { position, rerun: None, answered: None };
        let since = task.as_ref().and_then(|task| self.since.get(&task.record.handler_id()));
        let circumstances = Circumstances {
            poisoned: matches!(lane.state, State::Poisoned(_)),
            payload_lost: kill.payload_lost,
            handler_changed: since.is_none_or(|&since| since > generation)
                || task.as_ref().is_some_and(|task| task.record.handler_id() == GONE),
            idempotent: task.as_ref().is_some_and(|task| task.record.handler_id() == AGAIN),
            signal: crashed_at.is_some(),
        };
        if let Some(task) = &task {
            let end = match task.verdict {
                Some(verdict) if task.attempt == 1 => Some((verdict, 0)),
                _ => {
                    interruption(&circumstances, task.attempt).map(|reason| (Status::Interrupted(reason), task.attempt))
                }
            };
            match end {
                Some((status, attempt)) => {
                    expected = Recovered { position: position + 1, rerun: None, answered: Some(status) };
                    let submitted_at = task.record.submitted_at();
                    lane.ended(Answer { status, attempt, response: Vec::new(), submitted_at });
                }
                None => {
                    let attempt = task.attempt + 1;
                    expected.rerun = Some(Rerun { attempt });
                    lane.rerun = Some(Taken { attempt, poison: None, verdict: None, ..task.clone() });
                }
            }
        }
        let recover = |stores| {
            let life = Life::new(stores);
            let cq = Mortal::new(CQ[number], &self.lanes[number].cq, &life);
            let journal = Mortal::new("journal", &self.journal, &life);
            let charged = charge(&journal, lines(number), &cq, &GEOMETRY);
            if life.is_over() {
                return None;
            }
            let found = recover(&self.journal, lines(number), &cq, &GEOMETRY, |record| {
                let record = record.words;
                assert_eq!(Some(record), task.as_ref().map(|task| task.record.words), "judged by other words");
                circumstances
            });
            Some((charged, found, life.has_landed(CQ[number], slot(position), position + 1)))
        };
        let mut charged = Charge { signal: crashed_at.map(|_| SIGNAL), over_budget };
        for &stores in &kill.recoveries {
            if recover(stores).is_some_and(|(.., answered)| answered) {
                // The one after it finds the answer given, and nobody is charged for a task that is answered.
                (charged, expected.answered) = (Charge::default(), None);
            }
        }
        let (charge, found, _) = recover(FOREVER).unwrap();
        assert_eq!((charge, found), (charged, expected), "of lane {number}");
        let lane = &mut self.lanes[number];
        lane.flag = Arc::default();
        lane.flagged = None;
        if let State::Poisoned(reason) = lane.state {
            lane.poisoned_by(reason);
        }
        if let Some(again) = lane.rerun.as_mut().filter(|again| kill.late && again.record.deadline() != 0) {
            // Instead of a clock that goes on: the deadline stands in the journal now, and it comes nearer.
            again.record.words[3] = 1;
            self.journal.store(lines(number) + 3, 1);
        }
        self.hand_over(number, found);
    }

    /// The worker gets the lane, from where recovery or a reset left it.
    fn hand_over(&mut self, number: usize, found: Recovered) {
        let (lane, life) = (&mut self.lanes[number], &self.life);
        lane.half = Some(WorkerHalf::new(
            Raced { words: lane.sq.clone(), race: Arc::clone(&self.race) },
            Mortal::new(CQ[number], &lane.cq, life),
            Mortal::new("journal", &self.journal, life),
            lines(number),
            LaneShape::new(&GEOMETRY),
            (found.position, found.rerun),
            Arc::clone(&lane.flag),
        ));
    }

    /// A new owner for a lane that has been reset; `kills` are sidecars that were killed while they did it.
    fn reset(&mut self, number: usize, kills: &[u64]) {
        if self.lanes[number].state != State::Resetting {
            return;
        }
        self.close_books(number);
        let mut base = 0;
        for &stores in kills.iter().chain([&FOREVER]) {
            let life = Life::new(stores);
            let journal = Mortal::new("journal", &self.journal, &life);
            base = count_off_ids(&journal, lines(number)); // its files are replaced after this
            clear_lines(&journal, lines(number));
        }
        for word in (0..journal::LANE_WORDS).filter(|&word| word != journal::k::BASE) {
            assert_eq!(self.journal.load(lines(number) + word), 0, "word {word} of a lane that was reset");
        }
        if self.lanes[number].at_fault {
            // Its owner wiped out tasks before anybody saw them: those ids never reached a handler.
            self.ids[number].retain(|&id| id < base);
        }
        assert!(self.ids[number].last().is_none_or(|&id| id < base), "ids of lane {number} will be given twice");
        self.lanes[number] = LaneLife::attach(base, self.generation);
        self.hand_over(number, Recovered { position: 0, rerun: None, answered: None });
    }

    /// Nothing is in flight any more: was everything answered, and did it have the effects that its answer says?
    fn close_books(&self, number: usize) {
        let lane = &self.lanes[number];
        if !lane.at_fault {
            assert_eq!(lane.answers.len() as u64, lane.submitted, "tasks of lane {number} that nobody answered");
        }
        for (position, answer) in &lane.answers {
            let effects = self.effects.of(number, lane.base + position);
            let legal = match (answer.status.ran(), answer.attempt) {
                (Ran::Yes, attempts) => 1..=u32::from(attempts),
                (Ran::No, _) => 0..=0,
                (Ran::Maybe, attempts) => 0..=u32::from(attempts),
            };
            assert!(legal.contains(&effects), "task {position} of lane {number}: {answer:?} and {effects} effects");
        }
    }

    /// Whether anything would be lost if the lane's files went now.
    fn look_for_unanswered(&self) {
        for (number, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.state != State::Resetting) {
            let waits = lane.commit_of(lane.count()) == lane.count() + 1;
            let found = is_unanswered(&self.journal, lines(number), &lane.sq, Some(&lane.cq), &GEOMETRY);
            assert_eq!(found, waits || lane.rerun.is_some());
        }
    }

    /// Why the task in the worker's hands must not run, if so, by the page on the protocol.
    fn verdict(&self, lane: &LaneLife, taken: &Taken) -> Option<Status> {
        let (first, record) = (taken.attempt == 1, &taken.record);
        let unless_again = |status, reason| Some(if first { status } else { Status::Interrupted(reason) });
        let unknown = Status::Malformed(Malformed::UnknownHandler);
        if let Some(reason) = taken.poison {
            let again = if reason == Poison::Damaged { Interrupted::PayloadLost } else { Interrupted::Attempts };
            return unless_again(Status::Poisoned(reason), again);
        }
        let Some(&since) = self.since.get(&record.handler_id()) else {
            return unless_again(unknown, Interrupted::HandlerChanged);
        };
        let gone = record.handler_id() == GONE;
        if since > lane.generation {
            let change = if gone { HandlerChange::Missing } else { HandlerChange::Changed };
            return unless_again(Status::HandlerChanged(change), Interrupted::HandlerChanged);
        }
        if gone {
            return unless_again(unknown, Interrupted::HandlerChanged);
        }
        let length = record.length();
        let (flags, too_long) = (record.flags() != 0, length > REQUEST_BYTES.max(INLINE_PAYLOAD as u32));
        let wrong_size = record.handler_id() == SIZED && length != 8;
        let late = record.deadline() != 0 && record.deadline() < FAR && first;
        [
            (flags, Status::Malformed(Malformed::BadFlags)),
            (too_long, Status::Malformed(Malformed::TooLong)),
            (wrong_size, Status::Malformed(Malformed::WrongSize)),
            (late, Status::Expired),
        ]
        .into_iter()
        .find_map(|(holds, status)| holds.then_some(status))
    }
}

/// All that there are: as many tasks as a lane can hold.
const TASKS_MAX: u32 = CAPACITY as u32;
/// And the lane goes back.
const DRAIN: u32 = u32::MAX;

/// What crashes raise.
const SIGNAL: u8 = 11;

/// Deadlines from here on are never reached; the ones below are past. Nothing in between is ever asked for.
const FAR: u64 = 1 << 62;
const PAST: u64 = 1 << 20;

/// Why a task that was interrupted is not run again, if so.
fn interruption(seen: &Circumstances, attempts: u16) -> Option<Interrupted> {
    let bars = [
        (attempts >= 2, Interrupted::Attempts),
        (seen.payload_lost, Interrupted::PayloadLost),
        (seen.handler_changed, Interrupted::HandlerChanged),
        (seen.poisoned || !seen.idempotent, Interrupted::Killed),
    ];
    let bar = bars.into_iter().find_map(|(holds, reason)| holds.then_some(reason));
    bar.map(|reason| if seen.signal { Interrupted::Signal } else { reason })
}

/// How a task that ran ends.
fn outcome(taken: &Taken) -> Answer {
    let (status, response) = match taken.record.handler_id() {
        ECHO | AGAIN => (Status::Done, taken.payload.clone()),
        SIZED => (Status::Done, Vec::new()),
        FAILS => (Status::Failed { code: 42 }, TEXT.into()),
        PANICS => (Status::Panicked, TEXT.into()),
        WIDE => (Status::ResponseTooLong { wanted: TOO_WIDE as u32 }, Vec::new()),
        id => panic!("handler {id} ran"),
    };
    Answer { status, attempt: taken.attempt, response, submitted_at: taken.record.submitted_at() }
}

impl LaneLife {
    fn collect(&mut self) {
        let Some(producer) = &self.producer else { return };
        for (position, first) in self.seen.iter().filter(|_| !self.at_fault) {
            assert_eq!(
                producer.look(*position),
                Look::Ended(*first),
                "completion {position} changed after it was seen"
            );
        }
        if self.collected == self.submitted {
            return;
        }
        let look = producer.look(self.collected);
        if self.at_fault {
            producer.copy_response(self.collected, 0, &mut [0; RESPONSE_BYTES as usize]);
            return;
        }
        let Some(answer) = self.answers.get(&self.collected) else {
            assert_eq!(look, Look::Pending, "a completion that nobody owes");
            return;
        };
        let Look::Ended(record) = look else { panic!("{look:?} where {answer:?} was owed") };
        let status = record.status().unwrap();
        let mut response = match status {
            Status::ResponseTooLong { .. } => Vec::new(),
            _ => vec![0xee; record.response_length() as usize],
        };
        if response.len() > INLINE_RESPONSE {
            producer.copy_response(self.collected, 0, &mut response);
        } else {
            let length = response.len();
            response.copy_from_slice(&record.inline_response()[..length]);
        }
        let found = Answer { status, attempt: record.attempt(), response, submitted_at: record.submitted_at() };
        assert_eq!(found, *answer, "of task {}", self.collected);
        assert!(record.started_at() <= record.completed_at());
        self.seen.insert(self.collected, record);
        self.collected += 1;
    }

    fn credit(&mut self) {
        let Some(producer) = &mut self.producer else { return };
        if self.credited < self.collected {
            producer.credit();
            self.seen.remove(&self.credited);
            self.credited += 1;
        }
    }

    fn corrupt(&mut self, position: u64, target: Target, value: u64) {
        match target {
            Target::Commit => {
                self.at_fault = true;
                self.sq.store(slot(position), value);
            }
            // No deadline may be near: it would be reached or not as the machine pleases.
            Target::Word(3) if (PAST..FAR).contains(&value) => self.sq.store(slot(position) + 3, FAR),
            Target::Word(word) => self.sq.store(slot(position) + word, value),
            Target::Buffer(word) => self.sq.store(buffer(position) + word, value),
        }
    }
}

/// A lane in the worker's hands, with the others beside it and the model looking on. What a dead worker still does has no
/// effect and is not looked at.
struct Watched {
    number: usize,
    half: Half,
    /// Tasks that it may still take in this turn.
    left: u32,
    world: Rc<RefCell<World>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watched({})", self.number)
    }
}

impl Watched {
    /// What the model says to this, if the worker lives.
    fn note<R>(&self, note: impl FnOnce(&mut World, usize) -> R) -> Option<R> {
        let world = &mut *self.world.borrow_mut();
        (!world.life.is_over()).then(|| note(world, self.number))
    }

    fn others_act(&self) {
        self.world.borrow_mut().step();
    }
}

impl Lane for Watched {
    fn is_ready(&self) -> bool {
        let ready = self.half.is_ready();
        self.note(|world, number| assert_eq!(ready, world.lanes[number].is_ready()));
        self.left > 0 && ready
    }

    fn take(&mut self, into: &mut DescriptorRecord) -> u16 {
        self.others_act();
        if self.left == 0 {
            return 0;
        }
        let expected = self.note(|world, number| {
            let lane = &world.lanes[number];
            match &lane.rerun {
                Some(again) => (again.attempt, again.record),
                None => (u16::from(lane.is_ready()), lane.record_at(lane.position)),
            }
        });
        let attempt = self.half.take(into);
        self.left -= u32::from(attempt > 0);
        if let Some((expected, record)) = expected {
            assert_eq!(attempt, expected);
            if attempt > 0 {
                assert_eq!(into.words, record.words);
                let inline = record.inline_payload().get(..record.length() as usize);
                let payload = inline.unwrap_or_default().to_vec();
                let taken = Taken { attempt, record, payload, poison: None, verdict: None };
                self.world.borrow_mut().lanes[self.number].taken = Some(taken);
            }
        }
        self.others_act();
        attempt
    }

    fn payload<'a>(&self, length: usize, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        self.others_act();
        let copy = self.half.payload(length, scratch);
        self.note(|world, number| {
            let lane = &mut world.lanes[number];
            let payload = lane.buffer_at(lane.position, length);
            assert_eq!(copy, Some(&payload[..]));
            lane.taken.as_mut().unwrap().payload = payload;
        });
        copy
    }

    fn poison(&self) -> Option<Poison> {
        self.others_act();
        let poison = self.half.poison();
        self.note(|world, number| {
            let lane = &mut world.lanes[number];
            assert_eq!(poison, lane.flagged);
            let taken = lane.taken.as_mut().unwrap();
            taken.poison = taken.poison.or(poison);
        });
        self.others_act();
        poison
    }

    fn start(&mut self, attempt: u16, verdict: Option<Status>, started_at: u64) -> bool {
        self.others_act();
        let alive = self.note(|world, number| {
            let lane = &world.lanes[number];
            let taken = lane.taken.as_ref().unwrap();
            assert_eq!(verdict, world.verdict(lane, taken), "of {taken:?}");
            world.lanes[number].taken.as_mut().unwrap().verdict = verdict;
        });
        let kept = self.half.start(attempt, verdict, started_at);
        if alive.is_some() {
            let World { lanes, life, .. } = &mut *self.world.borrow_mut();
            let lane = &mut lanes[self.number];
            // The lane was poisoned while the task was read: it is left, unless it says so itself.
            let says_so = matches!(verdict, Some(Status::Poisoned(_) | Status::Interrupted(_)));
            assert_eq!(kept, lane.flagged.is_none() || says_so);
            if !kept {
                lane.taken = None;
            } else if attempt == 1 {
                lane.started = life.has_landed("journal", lines(self.number), lane.position + 1);
            }
        }
        self.others_act();
        kept
    }

    fn response(&mut self) -> Response<'_> {
        self.half.response()
    }

    fn publish(&mut self, completion: &CompletionRecord) {
        self.others_act();
        let answer = self.note(|world, number| {
            let taken = world.lanes[number].taken.as_ref().unwrap();
            match taken.verdict {
                None => outcome(taken),
                Some(status) => Answer {
                    status,
                    attempt: taken.attempt - 1,
                    response: Vec::new(),
                    submitted_at: taken.record.submitted_at(),
                },
            }
        });
        self.half.publish(completion);
        if let Some(answer) = answer {
            let world = &mut *self.world.borrow_mut();
            let position = world.lanes[self.number].position;
            if world.life.has_landed(CQ[self.number], slot(position), position + 1) {
                world.lanes[self.number].ended(answer);
            }
        }
        self.others_act();
    }

    fn position(&self) -> u64 {
        self.half.position()
    }

    fn request_bytes(&self) -> usize {
        self.half.request_bytes()
    }

    fn capacity(&self) -> u64 {
        self.half.capacity()
    }
}

fn run(operations: Vec<Operation>) {
    let world = Rc::new(RefCell::new(World::new()));
    for lane in 0..LANES {
        world.borrow_mut().hand_over(lane, Recovered { position: 0, rerun: None, answered: None });
    }
    for operation in operations {
        match operation {
            Operation::Act(lane, act) => world.borrow_mut().act(lane, act),
            Operation::Serve(turn) => serve(&world, turn),
            Operation::Crash { lane, seconds } => {
                seconds.into_iter().for_each(|second| crash(&world, lane, second));
            }
            Operation::Reset { lane, kills } => world.borrow_mut().reset(lane, &kills),
        }
        world.borrow().look_for_unanswered();
    }
    settle(&world);
}

fn serve(world: &Rc<RefCell<World>>, turn: Turn) {
    let tasks = {
        let world = &mut *world.borrow_mut();
        world.life.begin(turn.kill.as_ref().map_or(FOREVER, |kill| kill.after));
        (world.acts, world.steps) = (turn.acts, 0);
        *world.race.lock().unwrap() = turn.race;
        // A lane that has no owner any more is drained, and reset when it comes back.
        std::array::from_fn(|lane| if world.lanes[lane].producer.is_none() { DRAIN } else { turn.tasks[lane] })
    };
    World::serve(world, tasks);
    let world = &mut *world.borrow_mut();
    if let Some(kill) = turn.kill {
        world.kill(&kill);
    }
    for (lane, act) in std::mem::take(&mut world.acts).into_values() {
        world.act(lane, act);
    }
}

/// The next task of the lane, one of its own if there is none, is killed by a signal that it raises.
fn crash(world: &Rc<RefCell<World>>, lane: usize, second: u64) {
    let request = Request { handler: ECHO, flags: 0, payload: Vec::new(), length: None, deadline: 0 };
    let mut tasks = [0; LANES];
    tasks[lane] = 1;
    for act in [Act::Collect, Act::Credit, Act::Submit(request)] {
        world.borrow_mut().act(lane, act);
    }
    let kill = Kill {
        after: RUNNING,
        changed: None,
        signal: Some((second, 4)),
        payload_lost: false,
        late: false,
        recoveries: Vec::new(),
    };
    serve(world, Turn { tasks, kill: Some(kill), ..Turn::default() });
}

/// Nothing befalls anybody any more: what was accepted is answered, and every lane finds a new owner that is served.
fn settle(world: &Rc<RefCell<World>>) {
    let serve = || serve(world, Turn { tasks: [TASKS_MAX; LANES], ..Turn::default() });
    serve();
    for lane in 0..LANES {
        let world = &mut *world.borrow_mut();
        if world.lanes[lane].state == State::Resetting {
            continue;
        }
        world.audit(lane);
        let life = &mut world.lanes[lane];
        assert!(life.at_fault || life.producer.is_none() || life.answers.len() as u64 == life.submitted);
        while !life.at_fault && life.producer.is_some() && life.collected < life.submitted {
            life.collect();
            life.credit();
        }
        world.detach(lane);
    }
    serve();
    for lane in 0..LANES {
        let world = &mut *world.borrow_mut();
        assert_eq!(world.lanes[lane].state, State::Resetting, "lane {lane} is stuck");
        world.reset(lane, &[]);
        let request =
            Request { handler: ECHO, flags: 0, payload: b"the next owner's".to_vec(), length: None, deadline: 0 };
        world.act(lane, Act::Submit(request));
    }
    serve();
    for lane in 0..LANES {
        let world = &mut *world.borrow_mut();
        world.lanes[lane].collect();
        assert_eq!(world.lanes[lane].collected, 1, "lane {lane} serves nobody");
        world.close_books(lane);
    }
}

fn request() -> impl Strategy<Value = Request> {
    let handler = prop_oneof![
        6 => Just(ECHO),
        6 => Just(AGAIN),
        1 => Just(FAILS),
        1 => Just(PANICS),
        1 => Just(SIZED),
        1 => Just(WIDE),
        1 => Just(GONE),
        1 => Just(UNKNOWN),
    ];
    let flags = prop_oneof![12 => Just(0), 1 => any::<u8>()];
    let payload = prop_oneof![
        1 => Just(vec![8; 8]),
        2 => prop::collection::vec(any::<u8>(), 0..=INLINE_PAYLOAD),
        2 => prop::collection::vec(any::<u8>(), 0..=REQUEST_BYTES as usize),
    ];
    let length = prop_oneof![
        12 => Just(None),
        1 => (0..200u32).prop_map(Some),
        1 => (0..1u32 << 24).prop_map(Some),
    ];
    let deadline = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(u64::MAX)];
    (handler, flags, payload, length, deadline).prop_map(|(handler, flags, payload, length, deadline)| Request {
        handler,
        flags,
        payload,
        length,
        deadline,
    })
}

/// A word that is likely to hurt.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        3 => 0..12u64,
        1 => (0..4u64).prop_map(|below| u64::MAX - below),
        1 => (0..64u32).prop_map(|bit| 1 << bit),
        2 => (0..10u64, 0..200u64).prop_map(|(handler, length)| handler | length << 40),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let target = prop_oneof![
        1 => Just(Target::Commit),
        4 => (1..8usize).prop_map(Target::Word),
        2 => (0..8usize).prop_map(Target::Buffer),
    ];
    prop_oneof![
        12 => request().prop_map(Act::Submit),
        1 => (request(), 0..=8u64).prop_map(|(request, stores)| Act::DieSubmitting(request, stores)),
        6 => Just(Act::Collect),
        6 => Just(Act::Credit),
        1 => Just(Act::Detach),
        2 => (0..CAPACITY, target, word()).prop_map(|(slot, target, value)| Act::Corrupt { slot, target, value }),
        1 => Just(Act::Audit),
        1 => Just(Act::Poison),
    ]
}

/// Stores and effects of the longest step: a descriptor into the journal, verdict, stamp, STARTED, the effect, a
/// completion.
const LONGEST: u64 = RUNNING + 8;
/// Up to its effect.
const RUNNING: u64 = 7 + 3 + 1;

/// When a crash is noted: some are a minute apart.
fn second() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![5u64, 7, 10, 65, 66, 70])
}

fn kill() -> impl Strategy<Value = Kill> {
    let changed = prop_oneof![4 => Just(None), 1 => (ECHO..=GONE).prop_map(Some)];
    let rarely = || prop::bool::weighted(0.1);
    let stores = prop_oneof![4 => Just(4), 1 => 0..4u64]; // all of the note, or less
    let signal = prop_oneof![1 => Just(None), 2 => (second(), stores).prop_map(Some)];
    let recoveries = prop::collection::vec(0..=8u64, 0..3);
    (prop_oneof![0..=LONGEST, 0..=3 * LONGEST], changed, signal, rarely(), any::<bool>(), recoveries).prop_map(
        |(after, changed, signal, payload_lost, late, recoveries)| Kill {
            after,
            changed,
            signal,
            payload_lost,
            late,
            recoveries,
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    let lane = || 0..LANES;
    let acts = prop::collection::btree_map(0..40u32, (lane(), act()), 0..4);
    let tasks = || prop_oneof![1 => Just(0), 3 => 1..=3u32];
    let seconds = prop::collection::vec(second(), 1..5);
    // Not its deadline: no deadline may be near.
    let race = prop_oneof![4 => Just(None), 1 => (prop::sample::select(vec![1usize, 2, 4]), word()).prop_map(Some)];
    let kill = prop_oneof![1 => Just(None), 1 => kill().prop_map(Some)];
    prop_oneof![
        8 => (lane(), act()).prop_map(|(lane, act)| Operation::Act(lane, act)),
        4 => ([tasks(), tasks()], acts, race, kill)
            .prop_map(|(tasks, acts, race, kill)| Operation::Serve(Turn { tasks, acts, race, kill })),
        1 => (lane(), seconds).prop_map(|(lane, seconds)| Operation::Crash { lane, seconds }),
        1 => (lane(), prop::collection::vec(0..32u64, 0..3)).prop_map(|(lane, kills)| Operation::Reset { lane, kills }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        max_shrink_iters: if cfg!(executor_mutants) { 0 } else { 20_000 }, // a fault on purpose is found, not explained
        failure_persistence: (!cfg!(executor_mutants))
            .then(|| Box::new(FileFailurePersistence::Direct("tests/lane_life.regressions")) as _),
        ..ProptestConfig::default()
    })]

    #[test]
    fn lanes_answer_as_their_model_says_whatever_befalls_them(operations in prop::collection::vec(operation(), 1..60)) {
        run(operations);
    }
}
