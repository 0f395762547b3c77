//! Both halves of a lane over words of any kind: the producer submits and looks, the worker takes and publishes.
//!
//! It maps nothing, waits for nobody, and neither half ever reads back a word that it wrote itself, save the worker its
//! journal at a recovery.
//!
//! # Invariants
//! - I1: `submitted - credited <= capacity`; both are private counters of the producer, never shared memory.
//! - I2: slot `s & mask` of either ring belongs to task `s`, from its submit until its credit is taken back.
//! - I3: every index comes from a private counter and a private mask; of shared memory only lengths are used, checked.
//! - I4: the worker stores STARTED(s+1) only after COMPLETED(s): at most one task a lane is unresolved after a kill.
//!
//! # Memory ordering
//! | pair | commit (`Release`)              | load (`Acquire`)           | otherwise                                |
//! |------|---------------------------------|----------------------------|------------------------------------------|
//! | P1   | SQ w0, [`ProducerHalf::submit`] | SQ w0, `WorkerHalf::take`  | the executor runs half a descriptor      |
//! | P2   | CQ w0, `WorkerHalf::publish`    | CQ w0, [`ProducerHalf::look`] | the producer reads half a completion  |
//! | P3   | J w0, `WorkerHalf::start`       | J w0, `recovery::recover`  | recovery judges a task by another's words |
//!
//! Who sleeps, and who wakes whom, is told in `sleep.rs`; a half without a gate tells nobody and wakes nobody.
//!
//! P3's reader is a later process: the kill between them orders the stores, so only the compiler could break it. The
//! compiler fences around the handler keep its effects between STARTED and COMPLETED.

mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, compiler_fence};
use std::time::Duration;

use executor_core::dispatch::{Lane, Scratch};
use executor_core::record::{COMMIT, CompletionRecord, DescriptorRecord};
use executor_core::response::Response;
use executor_core::status::{Poison, Status};
use executor_core::view::RequestView;

use crate::barrier;
use crate::bell::Bell;
use crate::fault::Running;
use crate::layout::journal::k;
use crate::layout::lane::WAITING;
use crate::layout::status::{GATE_SLEEPING, LANE_USELESS_WAKES};
use crate::mutant::Mutant;
use crate::sigbus::BROKEN;
use crate::words::{Words, WordsMut};

pub use crate::shape::LaneShape;

/// The producer's half: writes `sq`, reads `cq`.
#[derive(Debug)]
pub struct ProducerHalf<S, C> {
    sq: S,
    cq: C,
    shape: LaneShape,
    submitted: u64,
    credited: u64,
    collected: u64,
    rejected: u64,
    /// Whether this process is registered for the barrier that a worker raises before it sleeps.
    registered: bool,
}

/// What [`ProducerHalf::look`] sees at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The task has not ended yet.
    Pending,
    /// The task ended so. Its commit word is not part of the copy.
    Ended(CompletionRecord),
    /// The commit word is one that no correct sidecar writes at this position.
    Corrupt(u64),
}

impl<S: WordsMut, C: Words> ProducerHalf<S, C> {
    /// The half of a pristine lane, from position 0.
    pub fn new(sq: S, cq: C, shape: LaneShape) -> Self {
        let registered = barrier::is_registered();
        Self { sq, cq, shape, submitted: 0, credited: 0, collected: 0, rejected: 0, registered }
    }

    /// Tasks submitted so far: the position of the next.
    #[inline(always)]
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Positions below this one have given their slots back.
    #[inline(always)]
    pub fn credited(&self) -> u64 {
        self.credited
    }

    /// Whether there is no slot for another task (I1).
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.submitted - self.credited >= self.shape.capacity() + u64::from(Mutant::FullLaneTakesOneMore.is_on())
    }

    /// The lane's sizes.
    #[inline(always)]
    pub fn shape(&self) -> &LaneShape {
        &self.shape
    }

    /// The request buffer of the next task, for payloads that do not lie inline. The lane must not be full.
    #[inline(always)]
    pub fn request_buffer(&mut self, length: usize) -> &mut [u8] {
        debug_assert!(!self.is_full());
        let at = self.shape.request(self.submitted);
        self.sq.buffer(at, length.min(self.shape.request_bytes()))
    }

    /// Submits the next task: from here on it is accepted. The lane must not be full; a payload that does not lie
    /// inline is in the request buffer already. Returns its position.
    #[inline(always)]
    pub fn submit(&mut self, record: &DescriptorRecord) -> u64 {
        debug_assert!(!self.is_full());
        let position = self.submitted;
        let slot = self.shape.slot(position);
        Mutant::CommitBeforeDescriptor.then(|| self.sq.commit(slot + COMMIT, position + 1));
        self.sq.store_record(slot, &record.words);
        self.sq.commit(slot + COMMIT, position + 1); // P1
        self.submitted = position + 1;
        self.tell();
        position
    }

    /// The other half of a worker's falling asleep: after the submit of `position` a look into the lane's gate at whether
    /// the worker sleeps on it. Once that is so, later tasks need no wake-up, however many come before it is awake.
    #[inline(always)]
    pub fn rouse(&self, status: &impl Words, gate: usize, position: u64) {
        let sleeping = barrier::pass(self.registered, || status.load_pair(gate + GATE_SLEEPING));
        if sleeping == position + 1 && !Mutant::SubmitWakesNobody.is_on() {
            self.sq.wake(self.shape.slot(position) + COMMIT);
        }
    }

    /// Looks at the completion of `position`, which must be submitted and not credited.
    #[inline(always)]
    pub fn look(&self, position: u64) -> Look {
        let slot = self.shape.slot(position);
        let commit = self.cq.load_commit(slot + COMMIT); // P2
        if commit != position + 1 {
            // The slot still holds the completion of one capacity earlier, or nothing yet.
            let earlier = (position + 1).saturating_sub(self.shape.capacity());
            return if commit == earlier || commit == 0 { Look::Pending } else { Look::Corrupt(commit) };
        }
        Look::Ended(CompletionRecord { words: self.cq.load_record(slot) })
    }

    /// Copies response bytes of `position` from the buffer of its slot, from word `word` of it.
    #[inline]
    pub fn copy_response(&self, position: u64, word: usize, into: &mut [u8]) {
        let left = self.shape.response_bytes().saturating_sub(word * 8);
        let end = into.len().min(left);
        self.cq.copy_out(self.shape.response(position) + word, &mut into[..end]);
    }

    /// Sleeps until the task at `position` has ended, for at most `timeout`, or for no reason. As with a worker that sleeps
    /// (see `sleep.rs`), the sidecar looks for the word that says so after each completion.
    #[cold]
    pub fn sleep(&mut self, position: u64, timeout: Duration) {
        self.sq.store(WAITING, if Mutant::WaitSleepsUnsaid.is_on() { 0 } else { position + 1 });
        let timeout = if barrier::raise() { timeout } else { timeout.min(LOOK_AGAIN) };
        let at = self.shape.slot(position) + COMMIT;
        let seen = self.cq.load(at);
        if seen != position + 1 || Mutant::WaitLooksOnce.is_on() {
            self.cq.nap(at, seen, timeout);
        }
        self.sq.store(WAITING, 0);
    }

    /// The words of `sq`, for the owner's own line.
    pub fn sq(&self) -> &S {
        &self.sq
    }

    /// The words of `cq`, to sleep on.
    pub(crate) fn cq(&self) -> &C {
        &self.cq
    }
}

/// How long to sleep at a time where nothing is sure to end the sleep.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A task that was in flight when the last sidecar died and is to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rerun {
    /// The attempt it will be, at least 2.
    pub attempt: u16,
}

/// The worker's half: reads `sq`, writes `cq` and the lane's lines of the journal.
#[derive(Debug)]
pub struct WorkerHalf<S, C, J> {
    sq: S,
    cq: C,
    journal: J,
    /// Where the lane's lines begin in the journal.
    lines: usize,
    shape: LaneShape,
    position: u64,
    rerun: Option<Rerun>,
    poison: Arc<AtomicU32>,
    running: Arc<Running>,
    gate: Option<Gate<J>>,
}

/// What a lane whose sides may sleep needs beside its records.
#[derive(Debug)]
struct Gate<J> {
    status: J,
    /// Where the lane's gate lies in `status`.
    at: usize,
    /// Whether this process is registered for the barrier that a producer raises before it sleeps.
    registered: bool,
    bell: Bell,
}

impl<S: Words, C: WordsMut, J: WordsMut> WorkerHalf<S, C, J> {
    /// The half at `position`, as recovery or a reset left the lane. `poison` is shared with whoever may poison it.
    pub fn new(
        sq: S,
        cq: C,
        journal: J,
        lines: usize,
        shape: LaneShape,
        (position, rerun): (u64, Option<Rerun>),
        poison: Arc<AtomicU32>,
    ) -> Self {
        let running = Arc::default();
        Self { sq, cq, journal, lines, shape, position, rerun, poison, running, gate: None }
    }

    /// Tells `running` of each task while it runs, for the signal handler of the worker's thread.
    #[must_use]
    pub(crate) fn telling(mut self, running: &Arc<Running>) -> Self {
        self.running = Arc::clone(running);
        self
    }

    /// Tells producers in the gate at word `gate` of `status` when the worker sleeps, and wakes those that do.
    #[must_use]
    pub fn gated(mut self, status: J, gate: usize) -> Self {
        self.gate = Some(Gate { status, at: gate, registered: barrier::is_registered(), bell: Bell::default() });
        self
    }

    /// The word that changes when the next task comes, and what it holds now; `None` if a task is there.
    pub fn awaited(&self) -> Option<(usize, u64)> {
        let at = self.shape.slot(self.position) + COMMIT;
        let seen = self.sq.load(at);
        let is_idle = seen != self.position.wrapping_add(1) || Mutant::WorkerLooksOnce.is_on();
        (self.rerun.is_none() && is_idle).then_some((at, seen))
    }

    /// Shows the word that [`awaited`](Self::awaited) names; `false` if a task is there.
    pub(crate) fn expect(&self, show: impl FnOnce(&AtomicU64, u64)) -> bool {
        let Some((at, seen)) = self.awaited() else { return false };
        if let Some([word]) = self.sq.atomics(at, 1) {
            show(word, seen);
        }
        true
    }

    /// The stamp of the task that waits to be taken, as its producer set it; `None` if there is none.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        let (at, is_fresh) = (self.shape.slot(self.position) + 2, self.rerun.is_none());
        (self.is_ready() && is_fresh).then(|| self.sq.load(at))
    }

    /// Wakes the producer if it sleeps, on whatever completion: a recovery may have published it, or the life before,
    /// which died before its wake-up.
    pub(crate) fn wake_at_start(&self) {
        let waiting = self.sq.load(WAITING);
        if waiting != 0 && !Mutant::RecoveryWakesNobody.is_on() {
            self.cq.wake(self.shape.slot(waiting.wrapping_sub(1)) + COMMIT);
        }
    }

    /// Wakes the producer if it sleeps on the completion just published, whose slot is at `slot` of `cq`. Completions come
    /// in order, so the one it sleeps on is met.
    #[inline(always)]
    fn wake_producer(&mut self, slot: usize) {
        let Some(gate) = &self.gate else { return };
        let waiting = barrier::pass(gate.registered, || self.sq.load_pair(WAITING));
        if waiting == self.position && !Mutant::CompletionWakesNobody.is_on() {
            self.wake_now_or_later(slot + COMMIT);
        }
    }

    #[cold]
    fn wake_now_or_later(&mut self, at: usize) {
        let Some(gate) = &mut self.gate else { return };
        if gate.bell.is_worn() {
            gate.bell.put_off(at);
        } else {
            self.wake_now(at);
        }
    }

    fn wake_now(&mut self, at: usize) {
        let Some(gate) = &mut self.gate else { return };
        let woken = self.cq.wake(at);
        gate.bell.rung(woken);
        if woken == 0 {
            let word = gate.at + LANE_USELESS_WAKES;
            gate.status.store(word, gate.status.load(word).wrapping_add(1));
        }
    }

    /// A look that found no task.
    #[inline(always)]
    fn missed(&mut self) {
        if self.gate.as_ref().is_some_and(|gate| gate.bell.is_owed()) {
            self.pay(false);
        }
    }

    /// Makes good for a wake-up that was put off, if it is time or the worker has none to lose.
    #[cold]
    pub(crate) fn pay(&mut self, at_once: bool) {
        let Some(gate) = &mut self.gate else { return };
        if (at_once || !gate.bell.is_worn())
            && let Some(at) = gate.bell.take_owed()
        {
            self.wake_now(at);
        }
    }

    /// Gives the files back.
    pub fn into_parts(self) -> (S, C) {
        (self.sq, self.cq)
    }

    /// Whether a task that was in flight still has to run again.
    pub fn has_rerun(&self) -> bool {
        self.rerun.is_some()
    }

    #[cold]
    fn take_again(&self, into: &mut DescriptorRecord, rerun: Rerun) -> u16 {
        into.words = self.journal.load_record(self.lines);
        Mutant::RerunFromSubmission.then(|| into.words = self.sq.load_record(self.shape.slot(self.position)));
        rerun.attempt
    }

    #[cold]
    fn start_again(&mut self, attempt: u16) {
        if !Mutant::AttemptNotStored.is_on() {
            self.journal.store(self.lines + k::ATTEMPTS, self.position << 8 | u64::from(attempt));
        }
        self.rerun = None;
    }
}

/// The journal's word for a verdict: status code | detail << 8, 0 to run the task.
pub(crate) fn verdict_word(verdict: Option<Status>) -> u64 {
    verdict.map_or(0, |status| u64::from(status.code()) | u64::from(status.detail()) << 8)
}

impl<S: Words, C: WordsMut, J: WordsMut> Lane for WorkerHalf<S, C, J> {
    #[inline(always)]
    fn is_ready(&self) -> bool {
        self.rerun.is_some() || self.sq.load(self.shape.slot(self.position) + COMMIT) == self.position.wrapping_add(1)
    }

    #[inline(always)]
    fn take(&mut self, into: &mut DescriptorRecord) -> u16 {
        if let Some(rerun) = self.rerun {
            return self.take_again(into, rerun);
        }
        let slot = self.shape.slot(self.position);
        if self.sq.load_commit(slot + COMMIT) != self.position.wrapping_add(1) {
            self.missed();
            return 0; // P1
        }
        // The private snapshot, each word loaded once; it goes to the journal as well, where a later life can find it.
        into.words = self.sq.load_record(slot);
        if !Mutant::DescriptorNotJournalled.is_on() {
            self.journal.store_record(self.lines, &into.words);
        }
        Mutant::DescriptorReadTwice.then(|| into.words = self.sq.load_record(slot));
        1
    }

    #[inline]
    fn payload<'a>(&self, length: usize, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        if length > self.shape.request_bytes() {
            return None; // I3
        }
        let copy = scratch.get(length)?;
        if !Mutant::PayloadNotCopied.is_on() {
            self.sq.copy_out(self.shape.request(self.position), copy);
        }
        Some(copy)
    }

    #[inline(always)]
    fn poison(&self) -> Option<Poison> {
        match self.poison.load(Relaxed) {
            0 => None,
            _ if Mutant::PoisonNotLookedAt.is_on() => None,
            word if word & BROKEN != 0 => Some(Poison::Damaged),
            word => Some(Poison::from_code(word as u8)),
        }
    }

    #[inline(always)]
    fn start(&mut self, attempt: u16, verdict: Option<Status>, started_at: u64) -> bool {
        // SeqCst: only the compiler is held back. The second look at the poison comes after everything was read from `sq`:
        // a file that is truncated meanwhile reads as zeros, and what was judged by zeros is not to be answered.
        compiler_fence(SeqCst);
        let is_told = matches!(verdict, Some(Status::Poisoned(_) | Status::Interrupted(_)));
        if self.poison.load(Relaxed) != 0 && !is_told && !Mutant::PoisonNotLookedAtAgain.is_on() {
            return false;
        }
        if self.rerun.is_some() {
            self.start_again(attempt);
            self.running.begin(self.lines);
            // SeqCst: only the compiler is held back, as below.
            compiler_fence(SeqCst);
            return true;
        }
        let count = self.position.wrapping_add(1);
        Mutant::StartedBeforeVerdict.then(|| self.journal.commit(self.lines + COMMIT, count));
        self.journal.store(self.lines + k::VERDICT, verdict_word(verdict));
        Mutant::StartedBeforeTime.then(|| self.journal.commit(self.lines + COMMIT, count));
        self.journal.store(self.lines + k::STARTED_AT, started_at);
        if !Mutant::StartedAfterHandler.is_on() {
            self.journal.commit(self.lines + COMMIT, count); // P3
        }
        self.running.begin(self.lines);
        // SeqCst: only the compiler is held back here. The handler's effects must not move before STARTED: a kill
        // between them would otherwise leave effects of a task that the journal calls not started.
        compiler_fence(SeqCst);
        true
    }

    fn doze(&mut self, asleep: bool) {
        let asleep = asleep && !Mutant::WorkerSleepsUnsaid.is_on();
        if let Some(gate) = &self.gate {
            gate.status.store(gate.at + GATE_SLEEPING, if asleep { self.position.wrapping_add(1) } else { 0 });
        }
    }

    #[inline(always)]
    fn response(&mut self) -> Response<'_> {
        let at = self.shape.response(self.position);
        Response::new(self.cq.buffer(at, self.shape.response_bytes()))
    }

    #[inline]
    fn has_view(&self) -> bool {
        self.sq.atomics(self.shape.request(self.position), 0).is_some()
    }

    #[inline]
    fn response_and_view(&mut self, length: usize) -> (Response<'_>, RequestView<'_>) {
        let length = length.min(self.shape.request_bytes()); // I3
        let words = self.sq.atomics(self.shape.request(self.position), length.div_ceil(8)).unwrap_or_default();
        let at = self.shape.response(self.position);
        let response = Response::new(self.cq.buffer(at, self.shape.response_bytes()));
        (response, RequestView::shared(words, length))
    }

    #[inline(always)]
    fn publish(&mut self, completion: &CompletionRecord) {
        // SeqCst: only the compiler is held back; the handler's effects must not move past COMPLETED.
        compiler_fence(SeqCst);
        self.rerun = None;
        Mutant::StartedAfterHandler.then(|| self.journal.commit(self.lines + COMMIT, self.position.wrapping_add(1)));
        let slot = self.shape.slot(self.position);
        Mutant::CompletedBeforeRecord.then(|| self.cq.commit(slot + COMMIT, self.position.wrapping_add(1)));
        self.cq.store_record(slot, &completion.words);
        self.cq.commit(slot + COMMIT, self.position.wrapping_add(1)); // P2
        self.running.end();
        self.position = self.position.wrapping_add(1);
        self.wake_producer(slot);
    }

    #[inline(always)]
    fn position(&self) -> u64 {
        self.position
    }

    #[inline(always)]
    fn request_bytes(&self) -> usize {
        self.shape.request_bytes()
    }

    #[inline(always)]
    fn capacity(&self) -> u64 {
        self.shape.capacity()
    }
}
