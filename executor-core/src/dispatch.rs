//! One task, from its descriptor to its completion: judged, journalled, run, published, counted.
//!
//! It chooses nothing: which lane is next is the [worker's](crate::worker) business, where the records lie is the
//! [`Lane`]'s.
//!
//! # Invariants
//! - D1: a lane's `take`, `start` and `publish` are called in this order, once each a task; nothing else of the lane's
//!   records is used after `take`.
//! - D2: the handler is called only between `start` with no verdict and `publish`.
//! - D3: a panic leaves `in_flight` set, so `Desk::resolve_panic` can end that very task.

mod judgement;

use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;

use crate::clock::Clock;
use crate::handler::Fault;
use crate::histogram::{BUCKETS, bucket_of};
use crate::meter::{self, COUNTS, HANDLER_WORDS, LANE_WORDS, MeterLayout, WORKER_WORDS, WorkerWord};
use crate::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD};
use crate::recorder::{Ending, EventKind, Failure, Notebook, SlowTask};
use crate::registry::Table;
use crate::response::{Response, Written};
use crate::rota::Place;
use crate::status::{Malformed, Poison, Status};
use crate::task::{LaneFacts, TaskContext, TaskId};
use crate::view::RequestView;
use judgement::{fail, judge, payload_lost};

/// One lane as the dispatch loop sees it.
pub trait Lane {
    /// Whether [`Lane::take`] would find a task now.
    fn is_ready(&self) -> bool;

    /// Copies the next task's descriptor to private memory and says which attempt this is: 0 no task is there, 1 a
    /// fresh one, more the task that was in flight when the last worker died. Changes no position.
    fn take(&mut self, into: &mut DescriptorRecord) -> u16;

    /// Copies a payload that does not lie inline. `None` if it cannot be read.
    fn payload<'a>(&self, length: usize, scratch: &'a mut Scratch) -> Option<&'a [u8]>;

    /// Why the lane answers nothing but `Poisoned`, if so.
    fn poison(&self) -> Option<Poison>;

    /// Notes durably that the task is about to run (`None`) or ends with this status unrun. `false`: leave the task.
    fn start(&mut self, attempt: u16, verdict: Option<Status>, started_at: u64) -> bool;

    /// Where the answer goes.
    fn response(&mut self) -> Response<'_>;

    /// Whether a payload that does not lie inline can be read where it is.
    fn has_view(&self) -> bool {
        false
    }

    /// Where the answer goes, beside the payload where it is; empty without [`Lane::has_view`].
    fn response_and_view(&mut self, length: usize) -> (Response<'_>, RequestView<'_>) {
        let _ = length;
        (self.response(), RequestView::private(&[]))
    }

    /// Tells whoever submits that the worker is about to sleep and must be woken (`true`), or no longer is.
    fn doze(&mut self, asleep: bool) {
        let _ = asleep;
    }

    /// Whether the task that `take` found brings its own code, which [`Lane::run_own`] runs, and asks for no handler.
    #[inline(always)]
    fn brings_code(&self) -> bool {
        false
    }

    /// Runs the code that the task brought; the error is a code of the author's choosing, its text stays with the lane. It
    /// may unwind.
    ///
    /// # Errors
    ///
    /// What the author's code returned.
    fn run_own(&mut self) -> Result<(), u8> {
        Ok(())
    }

    /// The id of the task that `take` found, where its position does not say it.
    #[inline(always)]
    fn own_id(&self) -> Option<TaskId> {
        None
    }

    /// Publishes the completion and moves to the next position.
    fn publish(&mut self, completion: &CompletionRecord);

    /// The position of the task that `take` found or will find.
    fn position(&self) -> u64;

    /// The longest payload that does not lie inline, in bytes.
    fn request_bytes(&self) -> usize;

    /// Bytes of [`Scratch`] to have ready for it.
    fn scratch_bytes(&self) -> usize {
        self.request_bytes()
    }

    /// Tasks a lane can hold.
    fn capacity(&self) -> u64;
}

/// A lane with what its tasks are told and what the worker keeps about it.
#[derive(Debug)]
pub struct Served<L> {
    /// The lane's records.
    pub lane: L,
    /// What its tasks are told.
    pub facts: LaneFacts,
    /// When its worker got it, in ticks.
    pub(crate) since: u64,
    /// The position at which it goes back, once it is being drained. Kept as a position and not as a count of tasks
    /// left, so that a handler that unwinds leaves nothing to be made good.
    limit: Option<u64>,
}

impl<L> Served<L> {
    /// A lane to be adopted by a worker.
    pub fn new(lane: L, facts: LaneFacts) -> Self {
        Self { lane, facts, since: 0, limit: None }
    }
}

impl<L: Lane> Served<L> {
    /// Lets it be served its capacity once more; `false` if that was said before.
    pub(crate) fn drain(&mut self) -> bool {
        let first = self.limit.is_none();
        if first {
            self.limit = Some(self.lane.position().saturating_add(self.lane.capacity()));
        }
        first
    }

    /// Tasks it may still be served, once it is being drained.
    #[inline(always)]
    pub(crate) fn left(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.lane.position()))
    }
}

/// Private, 64-aligned memory for one payload.
#[derive(Debug, Default)]
pub struct Scratch {
    lines: Vec<Line>,
}

#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Scratch {
    /// Memory for payloads of up to `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { lines: vec![Line([0; 64]); bytes.div_ceil(64)] }
    }

    /// The first `length` bytes, or `None` if it was made for fewer.
    #[inline]
    pub fn get(&mut self, length: usize) -> Option<&mut [u8]> {
        bytemuck::cast_slice_mut::<Line, u8>(&mut self.lines).get_mut(..length)
    }

    /// Makes room for payloads of up to `bytes`.
    pub(crate) fn grow(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(64);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
    }
}

const TOO_LONG: u8 = Status::ResponseTooLong { wanted: 0 }.code();

/// A worker's private desk: its table of handlers, its clock, the task in its hands.
pub(crate) struct Desk<M> {
    pub(crate) table: Table,
    pub(crate) clock: Clock,
    pub(crate) timed: bool,
    pub(crate) worker: u32,
    pub(crate) meter: M,
    pub(crate) layout: MeterLayout,
    pub(crate) scratch: Scratch,
    pub(crate) record: DescriptorRecord,
    pub(crate) in_flight: Option<InFlight>,
    /// `completed_at` of the task just served, 0 after a miss: a task submitted before it starts at it.
    pub(crate) last_completed_at: u64,
    pub(crate) notes: Notebook,
}

/// The task whose handler is running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) place: Place,
    attempt: u16,
    dense: Option<u32>,
    started_at: u64,
}

/// A task's end, but for its answer. The status is in the bytes of the wire: as a [`Status`] it went through memory, a
/// byte stored and eight loaded, and the load waited for the store to leave the store buffer, 5 ns a task.
struct Ended {
    code: u8,
    detail: u8,
    /// The attempt that ended, 0 if there was none.
    attempt: u16,
    /// Whether the author's code ran now, so that there is something to time.
    ran: bool,
    started_at: u64,
    dense: Option<u32>,
}

impl<M: Deref<Target = [AtomicU64]>> Desk<M> {
    /// Serves one task of the lane, or returns `false` if there is none. Does not return if the handler panics.
    #[inline(always)]
    pub(crate) fn step<L: Lane>(&mut self, served: &mut Served<L>, place: Place) -> bool {
        let attempt = served.lane.take(&mut self.record);
        if attempt == 0 {
            return false;
        }
        let started_at = self.stamp();
        self.notes.found(&self.meter, started_at, started_at == self.last_completed_at);
        if served.lane.brings_code() {
            return self.run_own(served, place, attempt, started_at);
        }
        let record = &self.record;
        let mut row = self.table.find(record.handler_id());
        let mut verdict = judge(record, row.as_deref(), served, attempt, started_at, &self.clock);
        let length = record.length() as usize;
        let mut request: &[u8] = &[];
        let mut in_place = false;
        if verdict.is_none() {
            if length <= INLINE_PAYLOAD {
                request = record.inline_payload().get(..length).unwrap_or_default();
            } else if row.as_ref().is_some_and(|row| row.is_in_place()) && served.lane.has_view() {
                in_place = true;
            } else if let Some(copy) = served.lane.payload(length, &mut self.scratch) {
                request = copy;
            } else {
                verdict = Some(payload_lost(attempt));
            }
        }
        if !served.lane.start(attempt, verdict, started_at) {
            return false;
        }
        let dense = row.as_ref().map(|row| row.dense);
        let (Some(row), None) = (row.as_mut(), verdict) else {
            let status = verdict.unwrap_or(Status::Malformed(Malformed::UnknownHandler));
            let (code, detail) = (status.code(), status.detail());
            let ended = Ended { code, detail, attempt: attempt - 1, ran: false, started_at, dense };
            self.end(served, &ended, &Written::NOTHING);
            self.judged(served, status);
            return true;
        };
        if attempt > 1 {
            let values = [served.lane.position(), u64::from(attempt)];
            self.notes.tell(&self.meter, EventKind::RunAgain, served.facts.lane, &values);
        }
        self.notes.runs(row.dense, started_at);

        self.in_flight = Some(InFlight { place, attempt, dense, started_at });
        let context = TaskContext {
            record,
            lane: &served.facts,
            clock: &self.clock,
            position: served.lane.position(),
            own_id: served.lane.own_id(),
            started_at,
            attempt,
            worker: self.worker,
        };
        let (mut response, outcome);
        if in_place {
            let (room, view) = served.lane.response_and_view(length);
            response = room;
            outcome = row.run_in_place(&context, view, &mut response); // D3: may unwind
        } else {
            response = served.lane.response();
            outcome = row.run(&context, request, &mut response); // D3: may unwind
        }
        self.notes.ran(&self.meter, started_at);
        let Err(fault) = outcome else {
            let written = response.finish();
            self.in_flight = None;
            let (code, detail) = (Status::Done.code(), 0);
            self.end(served, &Ended { code, detail, attempt, ran: true, started_at, dense }, &written);
            if !written.fits {
                self.failed(served, TOO_LONG, 0, "the response is longer than a response buffer");
            }
            return true;
        };
        let (code, detail, ran) = fail(&fault, &mut response);
        let written = response.finish();
        self.in_flight = None;
        let attempt = if ran { attempt } else { attempt - 1 };
        self.end(served, &Ended { code, detail, attempt, ran, started_at, dense }, &written);
        match &fault {
            Fault::Task(error) => self.failed(served, code, detail, error.message()),
            Fault::Malformed(reason) => self.failed(served, code, detail, reason.text()),
        }
        true
    }

    /// Notes that a task was not run.
    #[cold]
    fn judged<L: Lane>(&mut self, served: &Served<L>, status: Status) {
        let text = match status {
            Status::Malformed(reason) => reason.text(),
            Status::Interrupted(reason) => reason.text(),
            Status::HandlerChanged(reason) => reason.text(),
            Status::Poisoned(reason) => reason.text(),
            Status::Expired => "the deadline had passed before the task could start",
            _ => return,
        };
        self.failed(served, status.code(), status.detail(), text);
    }

    /// Notes the error of the task that was just published.
    #[cold]
    fn failed<L: Lane>(&mut self, served: &Served<L>, status: u8, detail: u8, text: &str) {
        let position = served.lane.position().wrapping_sub(1);
        let (handler_id, lane) = (self.record.handler_id(), served.facts.lane);
        self.notes.failed(&self.meter, &Failure { handler_id, status, detail, lane, position, text });
    }

    /// Serves a task that brings its own code.
    #[inline(always)]
    fn run_own<L: Lane>(&mut self, served: &mut Served<L>, place: Place, attempt: u16, started_at: u64) -> bool {
        if !served.lane.start(attempt, None, started_at) {
            return false;
        }
        self.in_flight = Some(InFlight { place, attempt, dense: None, started_at });
        let outcome = served.lane.run_own(); // D3: may unwind
        self.in_flight = None;
        let (code, detail) = match outcome {
            Ok(()) => (Status::Done.code(), 0),
            Err(detail) => (Status::Failed { code: detail }.code(), detail),
        };
        self.end(served, &Ended { code, detail, attempt, ran: true, started_at, dense: None }, &Written::NOTHING);
        true
    }

    /// Ends the task whose handler panicked. The worker calls it after catching the panic.
    #[cold]
    pub(crate) fn resolve_panic<L: Lane>(
        &mut self,
        flight: InFlight,
        served: &mut Served<L>,
        panic: &(dyn Any + Send),
    ) {
        let mut response = served.lane.response();
        response.set_text(panic_text(panic));
        let written = response.finish();
        let InFlight { attempt, dense, started_at, .. } = flight;
        let (code, detail) = (Status::Panicked.code(), 0);
        self.notes.ran(&self.meter, started_at);
        self.end(served, &Ended { code, detail, attempt, ran: true, started_at, dense }, &written);
        self.failed(served, code, detail, panic_text(panic));
    }

    #[inline(always)]
    fn stamp(&self) -> u64 {
        if !self.timed {
            return 0;
        }
        // One comparison for "stamped, and not after the last task ended": 0 wraps to the greatest value.
        let submitted_at = self.record.submitted_at();
        if submitted_at.wrapping_sub(1) < self.last_completed_at { self.last_completed_at } else { self.clock.now() }
    }

    /// Publishes first and counts afterwards: while the producer fetches the line, counting costs it nothing.
    #[inline(always)]
    fn end<L: Lane>(&mut self, served: &mut Served<L>, ended: &Ended, written: &Written) {
        let &Ended { attempt, ran, started_at, dense, .. } = ended;
        let length = u32::try_from(written.wanted).unwrap_or(u32::MAX);
        let (code, detail) = if written.fits { (ended.code, ended.detail) } else { (TOO_LONG, 0) };
        let completed_at = if self.timed && ran { self.clock.now() } else { started_at };
        let submitted_at = self.record.submitted_at();
        let packed = CompletionRecord::pack(code, detail, attempt, length);
        let [a, b, c] = written.inline;
        let words = [0, packed, submitted_at, started_at, completed_at, a, b, c];
        served.lane.publish(&CompletionRecord { words });
        self.last_completed_at = completed_at;

        let meter = &*self.meter;
        let worker = self.layout.worker(self.worker as usize);
        let Some(worker) = meter::block::<WORKER_WORDS>(meter, worker) else { return };
        meter::bump(&worker[WorkerWord::Tasks as usize], 1);
        let Some(lane) = meter::block::<LANE_WORDS>(meter, served.facts.meter) else { return };
        if code != Status::Done.code() {
            meter::bump(&lane[usize::from(code) % COUNTS], 1);
        }
        let Some(dense) = dense else { return };
        let handler = self.layout.handler(self.worker as usize, dense as usize);
        let Some(handler) = meter::block::<HANDLER_WORDS>(meter, handler) else { return };
        meter::bump(&handler[usize::from(code) % COUNTS], 1);
        if !(ran && self.notes.is_on) {
            return;
        }
        let (request, response) = (self.record.length(), if written.fits { length } else { 0 });
        for of in [handler.first_chunk::<COUNTS>(), lane.first_chunk::<COUNTS>()].into_iter().flatten() {
            meter::bump(&of[meter::REQUEST_BYTES], u64::from(request));
            meter::bump(&of[meter::RESPONSE_BYTES], u64::from(response));
        }
        if !self.timed {
            return;
        }
        let run = completed_at.saturating_sub(started_at);
        meter::bump(&worker[WorkerWord::BusyTicks as usize], run);
        meter::bump(&handler[COUNTS + BUCKETS + bucket_of(run)], 1);
        // A clock that went back makes it the longest of all, so that costs no look of its own.
        if self.notes.is_long(completed_at.wrapping_sub(started_at)) {
            let place = (served.facts.lane, served.lane.position().wrapping_sub(1));
            self.notes.took_long(&self.meter, dense, place, [started_at, completed_at]);
        }
        let mut waits_since = started_at;
        if submitted_at != 0 {
            // The producer's stamp is its own word: held between its attach and the start.
            waits_since = submitted_at.max(served.facts.attached_at).min(started_at);
            meter::bump(&handler[COUNTS + bucket_of(started_at - waits_since)], 1);
            meter::bump(&lane[COUNTS + bucket_of(completed_at.saturating_sub(waits_since))], 1);
        }
        let total = completed_at.saturating_sub(waits_since);
        if self.notes.is_slow(dense, total) && self.notes.admits(&self.meter, dense, total, completed_at) {
            let stamps = [waits_since, started_at, completed_at];
            self.slow(served, (dense, code, detail, attempt), stamps, (request, response));
        }
        self.notes.history.task(started_at, completed_at, served.facts.lane, self.record.handler_id());
    }

    /// Notes the task that was just published, which was slow.
    #[cold]
    #[inline(never)]
    fn slow<L: Lane>(
        &mut self,
        served: &Served<L>,
        (dense, status, detail, attempt): (u32, u8, u8, u16),
        [submitted_at, started_at, completed_at]: [u64; 3],
        (request_bytes, response_bytes): (u32, u32),
    ) {
        let position = served.lane.position().wrapping_sub(1);
        let task = SlowTask {
            task_id: TaskId::new(served.facts.lane, served.facts.base.wrapping_add(position)).as_u64(),
            lane: served.facts.lane,
            position,
            worker: self.worker,
            handler_id: self.record.handler_id(),
            status,
            detail,
            attempt,
            request_bytes,
            response_bytes,
            submitted_at,
            started_at,
            completed_at,
            ..SlowTask::default()
        };
        self.notes.note(&self.meter, &Ending { task, dense, served_since: served.since });
    }
}

/// Calls code of somebody else's whose panic is nobody's business; it has said so on stderr. The payload is its author's own
/// type as well, whose drop may panic again.
#[cfg(not(loom))]
pub(crate) fn contain(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        discard(panic);
    }
}

/// Drops the payload of a panic, which may panic again.
#[cold]
pub(crate) fn discard(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
}

/// The text of a panic, as `panic!` and its relatives leave it.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "a panic without a text"
    }
}
