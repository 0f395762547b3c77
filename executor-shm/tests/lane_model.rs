//! A lane against a model of it: random orders of everything both sides can do, kills after any store included.
//!
//! The oracle is three `rtrb` rings: one holds a token for each slot in use, one the tasks nobody has ended, one the
//! completions nobody has taken. Full, empty, order and contents of the lane must be theirs at every step. What a kill
//! leaves is judged by the stores that landed, never by what recovery reads back.
#![cfg(not(loom))]
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod mortal;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use executor_core::Status;
use executor_core::dispatch::{Lane, Scratch};
use executor_core::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD, INLINE_RESPONSE};
use executor_core::status::{Interrupted, Malformed, Poison};
use executor_shm::lane::{LaneShape, Look, ProducerHalf, Rerun, WorkerHalf};
use executor_shm::layout::{Geometry, journal};
use executor_shm::recovery::{Circumstances, Recovered, recover};
use executor_shm::words::{HeapWords, Words};
use mortal::{FOREVER, Life};
use proptest::prelude::*;

type Mortal = mortal::Mortal<HeapWords>;

/// A task as the oracle remembers it.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    position: u64,
    payload: Vec<u8>,
}

/// A completion as the oracle expects it.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    position: u64,
    status: Status,
    attempt: u16,
    response: Vec<u8>,
}

/// What the handler of one step will do.
#[derive(Clone, Debug)]
struct Step {
    /// The task must not run and ends so.
    verdict: Option<Status>,
    response: Vec<u8>,
    /// Stores before the worker is killed.
    kill: Option<u64>,
    circumstances: Circumstances,
    /// Stores of a first recovery before that one is killed too.
    kill_recovery: Option<u64>,
}

struct Bench {
    geometry: Geometry,
    sq: HeapWords,
    cq: HeapWords,
    journal: HeapWords,
    life: Life,
    producer: ProducerHalf<Mortal, HeapWords>,
    worker: WorkerHalf<HeapWords, Mortal, Mortal>,
    scratch: Scratch,
    collected: u64,
    /// The attempt the next step will be, as the model has it.
    attempt: u16,
    /// Times the handler was called for the task that is next.
    calls: u16,
    slots: (rtrb::Producer<()>, rtrb::Consumer<()>),
    tasks: (rtrb::Producer<Asked>, rtrb::Consumer<Asked>),
    answers: (rtrb::Producer<Answer>, rtrb::Consumer<Answer>),
}

impl Bench {
    fn new(capacity: u32, request_bytes: u32, response_bytes: u32) -> Self {
        let geometry = Geometry { capacity, request_bytes, response_bytes, lanes: 1, handlers: 1, workers: 1 };
        geometry.check().unwrap();
        let sq = HeapWords::new(geometry.sq_bytes() / 8);
        let cq = HeapWords::new(geometry.cq_bytes() / 8);
        let journal = HeapWords::new(journal::LANE_WORDS);
        let life = Life::new(FOREVER);
        let producer =
            ProducerHalf::new(Mortal::new("sq", &sq, &Life::new(FOREVER)), cq.clone(), LaneShape::new(&geometry));
        let worker = worker(&geometry, &sq, &cq, &journal, &life, (0, None));
        let ring = capacity as usize;
        Self {
            geometry,
            sq,
            cq,
            journal,
            life,
            producer,
            worker,
            scratch: Scratch::new(request_bytes as usize),
            collected: 0,
            attempt: 1,
            calls: 0,
            slots: rtrb::RingBuffer::new(ring),
            tasks: rtrb::RingBuffer::new(ring),
            answers: rtrb::RingBuffer::new(ring),
        }
    }

    fn request_limit(&self) -> usize {
        (self.geometry.request_bytes as usize).max(INLINE_PAYLOAD)
    }

    fn response_limit(&self) -> usize {
        (self.geometry.response_bytes as usize).max(INLINE_RESPONSE)
    }

    fn submit(&mut self, mut payload: Vec<u8>) {
        payload.truncate(self.request_limit());
        let full = self.slots.0.push(()).is_err();
        assert_eq!(self.producer.is_full(), full, "full when the oracle is not, or the other way round");
        if full {
            return;
        }
        let position = self.producer.submitted();
        let mut record = DescriptorRecord::new(7, payload.len() as u32, 1000 + position, 0);
        match record.inline_payload_mut().get_mut(..payload.len()) {
            Some(inline) => inline.copy_from_slice(&payload),
            None => self.producer.request_buffer(payload.len()).copy_from_slice(&payload),
        }
        assert_eq!(self.producer.submit(&record), position);
        self.tasks.0.push(Asked { position, payload }).unwrap();
    }

    /// One step of the worker, and its next life if it is killed in it.
    fn step(&mut self, step: &Step) {
        let mut step = step.clone();
        step.response.truncate(self.response_limit());
        let expected = self.tasks.1.peek().ok().cloned();
        assert_eq!(self.worker.is_ready(), expected.is_some(), "ready without a task, or the other way round");
        self.life.begin(step.kill.unwrap_or(FOREVER));
        let mut record = DescriptorRecord::default();
        let attempt = self.worker.take(&mut record);
        let Some(asked) = expected else {
            assert_eq!(attempt, 0);
            if step.kill.is_some() {
                self.restart(&step, None);
            }
            return;
        };
        assert_eq!(attempt, self.attempt);
        assert_eq!(self.worker.position(), asked.position);
        assert_eq!(record.submitted_at(), 1000 + asked.position);
        assert_eq!(record.length() as usize, asked.payload.len());
        let payload = match record.inline_payload().get(..asked.payload.len()) {
            Some(inline) => inline.to_vec(),
            None => self.worker.payload(asked.payload.len(), &mut self.scratch).unwrap().to_vec(),
        };
        assert_eq!(payload, asked.payload);

        let verdict = step.verdict.filter(|_| attempt == 1);
        let started_at = 2000 + asked.position;
        assert!(self.worker.start(attempt, verdict, started_at));
        let answer = match verdict {
            Some(status) => Answer { position: asked.position, status, attempt: 0, response: Vec::new() },
            None => {
                self.calls += u16::from(!self.life.is_over());
                let response = step.response.clone();
                Answer { position: asked.position, status: Status::Done, attempt, response }
            }
        };
        let mut response = self.worker.response();
        response.write(&answer.response);
        let written = response.finish();
        assert!(written.fits);
        self.worker.publish(&CompletionRecord::new(
            answer.status,
            answer.attempt,
            written.wanted as u32,
            record.submitted_at(),
            started_at,
            3000 + asked.position,
            written.inline,
        ));
        if step.kill.is_some() {
            self.restart(&step, Some((answer, verdict)));
        } else {
            self.ended(answer);
        }
    }

    fn ended(&mut self, answer: Answer) {
        self.tasks.1.pop().unwrap();
        assert!(self.calls <= 2, "a task was run {} times", self.calls);
        self.answers.0.push(answer).unwrap();
        (self.attempt, self.calls) = (1, 0);
    }

    /// The worker was killed in a step that would have ended as `answer`.
    fn restart(&mut self, step: &Step, answer: Option<(Answer, Option<Status>)>) {
        let seen = step.circumstances;
        let position = self.worker.position();
        let (served, fate) = match answer {
            None => (position, None),
            Some((answer, verdict)) => {
                let position = answer.position;
                let slot = self.geometry.slot(position);
                let started = self.life.has_landed("journal", 0, position + 1) || self.attempt > 1;
                let again = position << 8 | u64::from(self.attempt);
                let attempts = match self.attempt {
                    1 => 1,
                    second if self.life.has_landed("journal", journal::k::ATTEMPTS, again) => second,
                    second => second - 1,
                };
                let bar = if attempts >= 2 {
                    Some(Interrupted::Attempts)
                } else if seen.payload_lost {
                    Some(Interrupted::PayloadLost)
                } else if seen.handler_changed {
                    Some(Interrupted::HandlerChanged)
                } else if seen.poisoned || !seen.idempotent {
                    Some(Interrupted::Killed)
                } else {
                    None
                };
                let reason = bar.map(|reason| if seen.signal { Interrupted::Signal } else { reason });
                if self.life.has_landed("cq", slot, position + 1) {
                    self.ended(answer);
                    (position + 1, None)
                } else if !started {
                    assert_eq!(self.calls, 0, "the handler ran before the task was started");
                    (position, None)
                } else if let Some(verdict) = verdict {
                    self.ended(Answer { response: Vec::new(), ..answer });
                    (position + 1, Some(Err(verdict)))
                } else if let Some(reason) = reason {
                    let status = Status::Interrupted(reason);
                    self.ended(Answer { position, status, attempt: attempts, response: Vec::new() });
                    (position + 1, Some(Err(status)))
                } else {
                    self.attempt = attempts + 1;
                    (position, Some(Ok(attempts + 1)))
                }
            }
        };
        let expected = Recovered {
            position: served,
            rerun: fate.and_then(Result::ok).map(|attempt| Rerun { attempt }),
            answered: fate.and_then(Result::err),
        };
        if let Some(stores) = step.kill_recovery {
            self.life.begin(stores);
            self.recover(seen);
            if self.life.has_landed("cq", self.geometry.slot(served.wrapping_sub(1)), served) {
                // The first recovery got as far as the answer, and the second finds it given.
                self.life.begin(FOREVER);
                assert_eq!(self.recover(seen), Recovered { answered: None, ..expected });
                return self.serve_again(served, expected.rerun);
            }
        }
        self.life.begin(FOREVER);
        let found = self.recover(seen);
        assert_eq!(found, expected);
        self.serve_again(found.position, found.rerun);
    }

    fn recover(&self, seen: Circumstances) -> Recovered {
        recover(&self.journal, 0, &Mortal::new("cq", &self.cq, &self.life), &self.geometry, |_| seen)
    }

    fn serve_again(&mut self, position: u64, rerun: Option<Rerun>) {
        self.worker = worker(&self.geometry, &self.sq, &self.cq, &self.journal, &self.life, (position, rerun));
    }

    fn collect(&mut self) {
        if self.collected == self.producer.submitted() {
            return;
        }
        let look = self.producer.look(self.collected);
        let Ok(answer) = self.answers.1.pop() else {
            assert_eq!(look, Look::Pending, "a completion that the oracle has not");
            return;
        };
        let Look::Ended(record) = look else { panic!("{look:?} where the oracle has {answer:?}") };
        let mut response = vec![0xee; record.response_length() as usize];
        match record.inline_response().get(..response.len()) {
            Some(inline) => response.copy_from_slice(inline),
            None => self.producer.copy_response(self.collected, 0, &mut response),
        }
        let status = record.status().unwrap();
        let found = Answer { position: self.collected, status, attempt: record.attempt(), response };
        assert_eq!(found, answer);
        assert_eq!(record.submitted_at(), 1000 + answer.position);
        assert_eq!(record.started_at(), 2000 + answer.position);
        self.collected += 1;
    }

    fn credit(&mut self) {
        if self.producer.credited() < self.collected {
            self.producer.credit();
            self.slots.1.pop().unwrap();
        }
    }

    /// Serves, collects and credits until nothing is left.
    fn finish(mut self) {
        let plain = Step { verdict: None, response: vec![9; 9], kill: None, circumstances: CALM, kill_recovery: None };
        while self.producer.credited() < self.producer.submitted() {
            self.step(&plain);
            self.collect();
            self.credit();
        }
        assert!(self.tasks.1.is_empty() && self.answers.1.is_empty() && self.slots.1.is_empty());
        assert_eq!(self.producer.submitted(), self.worker.position());
    }
}

/// Where a slot begins, from the page on the wire and not from the code under test.
trait Slot {
    fn slot(&self, position: u64) -> usize;
}

impl Slot for Geometry {
    fn slot(&self, position: u64) -> usize {
        512 + (position % u64::from(self.capacity)) as usize * 8
    }
}

const CALM: Circumstances =
    Circumstances { poisoned: false, payload_lost: false, handler_changed: false, idempotent: false, signal: false };

fn worker(
    geometry: &Geometry,
    sq: &HeapWords,
    cq: &HeapWords,
    journal: &HeapWords,
    life: &Life,
    start: (u64, Option<Rerun>),
) -> WorkerHalf<HeapWords, Mortal, Mortal> {
    let (cq, journal) = (Mortal::new("cq", cq, life), Mortal::new("journal", journal, life));
    WorkerHalf::new(sq.clone(), cq, journal, 0, LaneShape::new(geometry), start, Arc::new(AtomicU32::new(0)))
}

/// What one side can do next.
#[derive(Clone, Debug)]
enum Action {
    Submit(Vec<u8>),
    Step(Step),
    Collect,
    Credit,
}

fn circumstances() -> impl Strategy<Value = Circumstances> {
    let rarely = || prop::bool::weighted(0.1);
    (rarely(), rarely(), rarely(), prop::bool::weighted(0.7), any::<bool>()).prop_map(
        |(poisoned, payload_lost, handler_changed, idempotent, signal)| Circumstances {
            poisoned,
            payload_lost,
            handler_changed,
            idempotent,
            signal,
        },
    )
}

/// Stores of the longest step: a descriptor into the journal, verdict, stamp, STARTED, a completion, COMPLETED.
const STORES: u64 = 7 + 3 + 8;

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        8 => Just(None),
        1 => Just(Some(Status::Expired)),
        1 => Just(Some(Status::Malformed(Malformed::WrongSize))),
    ];
    let kill = prop_oneof![2 => Just(None), 1 => (0..=STORES).prop_map(Some)];
    let kill_recovery = prop_oneof![1 => Just(None), 1 => (0..=8u64).prop_map(Some)];
    (verdict, prop::collection::vec(any::<u8>(), 0..130), kill, circumstances(), kill_recovery).prop_map(
        |(verdict, response, kill, circumstances, kill_recovery)| Step {
            verdict,
            response,
            kill,
            circumstances,
            kill_recovery,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..=INLINE_PAYLOAD).prop_map(Action::Submit),
        2 => prop::collection::vec(any::<u8>(), 0..=128).prop_map(Action::Submit),
        4 => step().prop_map(Action::Step),
        4 => Just(Action::Collect),
        4 => Just(Action::Credit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_lane_answers_as_its_model_does_whatever_is_killed_when(
        capacity in prop::sample::select(vec![2u32, 4, 8]),
        request_bytes in prop::sample::select(vec![0u32, 64, 128]),
        response_bytes in prop::sample::select(vec![0u32, 64, 128]),
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let mut bench = Bench::new(capacity, request_bytes, response_bytes);
        for action in actions {
            match action {
                Action::Submit(payload) => bench.submit(payload),
                Action::Step(step) => bench.step(&step),
                Action::Collect => bench.collect(),
                Action::Credit => bench.credit(),
            }
        }
        bench.finish();
    }
}

#[test]
fn a_kill_after_any_store_of_a_step_and_of_its_recovery_costs_no_completion() {
    let payload = |task: u8| vec![task; 40];
    let mut kills = 0;
    for before in 0..3 {
        for verdict in [None, Some(Status::Expired)] {
            for idempotent in [false, true] {
                for first in 0..=STORES {
                    for second in (0..=STORES).map(Some).chain([None]) {
                        for kill_recovery in (0..=8).map(Some).chain([None]) {
                            let mut bench = Bench::new(2, 64, 64);
                            let circumstances = Circumstances { idempotent, ..CALM };
                            let response = vec![5; 60];
                            let mut step = Step { verdict: None, response, kill: None, circumstances, kill_recovery };
                            for task in 0..before {
                                bench.submit(payload(task));
                                bench.step(&step);
                                bench.collect();
                                bench.credit();
                            }
                            bench.submit(payload(9));
                            bench.submit(payload(10));
                            step.verdict = verdict;
                            step.kill = Some(first);
                            bench.step(&step);
                            step.kill = second;
                            bench.step(&step);
                            bench.finish();
                            kills += 1;
                        }
                    }
                }
            }
        }
    }
    println!("{kills} orders of kills");
}

#[test]
fn a_submit_that_was_cut_off_before_its_last_store_is_not_accepted() {
    for stores in 0..8 {
        let bench = Bench::new(2, 64, 0);
        let life = Life::new(FOREVER);
        life.begin(stores);
        let sq = Mortal::new("sq", &bench.sq, &life);
        let mut dying = ProducerHalf::new(sq, bench.cq.clone(), LaneShape::new(&bench.geometry));
        dying.request_buffer(40).fill(7);
        dying.submit(&DescriptorRecord::new(7, 40, 1, 2));
        let mut worker = bench.worker;
        assert!(!worker.is_ready());
        assert_eq!(worker.take(&mut DescriptorRecord::default()), 0, "after {stores} stores");
    }
}

#[test]
fn a_lane_that_is_poisoned_between_take_and_start_leaves_the_task() {
    for poison in [2, 1 << 8] {
        let (sq, cq, journal) = (HeapWords::new(4096), HeapWords::new(4096), HeapWords::new(64));
        let geometry =
            Geometry { capacity: 4, request_bytes: 64, response_bytes: 64, lanes: 1, handlers: 8, workers: 1 };
        let shape = LaneShape::new(&geometry);
        let word = Arc::new(AtomicU32::new(0));
        let mut producer = ProducerHalf::new(sq.clone(), cq.clone(), shape);
        let mut lane = WorkerHalf::new(sq, cq, journal.clone(), 0, shape, (0, None), Arc::clone(&word));
        producer.submit(&DescriptorRecord::new(1, 0, 0, 0));
        let mut record = DescriptorRecord::default();
        assert_eq!(lane.take(&mut record), 1);
        assert_eq!(lane.poison(), None);
        word.store(poison, std::sync::atomic::Ordering::Relaxed); // the file went; what comes now is judged by zeros
        for verdict in [None, Some(Status::Malformed(Malformed::UnknownHandler)), Some(Status::Expired)] {
            assert!(!lane.start(1, verdict, 0), "{verdict:?}");
            assert_eq!(journal.load(0), 0, "it was started");
        }
        assert_eq!(lane.poison(), Some(Poison::Damaged));
        assert!(lane.start(1, Some(Status::Poisoned(Poison::Damaged)), 0), "what says so is answered");
    }
}
