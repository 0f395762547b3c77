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

use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;

use crate::clock::Clock;
use crate::handler::Fault;
use crate::histogram::BUCKETS;
use crate::meter::{self, COUNTS, MeterLayout};
use crate::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD};
use crate::registry::{Row, Table};
use crate::response::{Response, Written};
use crate::rota::Place;
use crate::status::{HandlerChange, Interrupted, Malformed, Poison, Status};
use crate::task::{LaneFacts, TaskContext, TaskId};
use crate::view::RequestView;

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
    /// The position at which it goes back, once it is being drained. Kept as a position and not as a count of tasks
    /// left, so that a handler that unwinds leaves nothing to be made good.
    limit: Option<u64>,
}

impl<L> Served<L> {
    /// A lane to be adopted by a worker.
    pub fn new(lane: L, facts: LaneFacts) -> Self {
        Self { lane, facts, limit: None }
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
            return true;
        };

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
        let (code, detail, ran) = match outcome {
            Ok(()) => (Status::Done.code(), 0, true),
            Err(fault) => fail(fault, &mut response),
        };
        let written = response.finish();
        self.in_flight = None;
        let attempt = if ran { attempt } else { attempt - 1 };
        self.end(served, &Ended { code, detail, attempt, ran, started_at, dense }, &written);
        true
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
        self.end(served, &Ended { code, detail, attempt, ran: true, started_at, dense }, &written);
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

        let worker = self.layout.worker(self.worker as usize);
        meter::add(&self.meter, worker + meter::WorkerWord::Tasks as usize, 1);
        if code != Status::Done.code() {
            meter::add(&self.meter, served.facts.meter + code as usize, 1);
        }
        if let Some(dense) = dense {
            let handler = self.layout.handler(self.worker as usize, dense as usize);
            meter::add(&self.meter, handler + code as usize, 1);
            if self.timed && ran {
                meter::record(&self.meter, handler + COUNTS + BUCKETS, completed_at.saturating_sub(started_at));
                if submitted_at != 0 {
                    // The producer's stamp is its own word: held between its attach and the start.
                    let submitted_at = submitted_at.max(served.facts.attached_at).min(started_at);
                    meter::record(&self.meter, handler + COUNTS, started_at - submitted_at);
                    let total = completed_at.saturating_sub(submitted_at);
                    meter::record(&self.meter, served.facts.meter + COUNTS, total);
                }
            }
        }
    }
}

/// Why the task must not run, if so. A task that runs again was judged before; its deadline is not looked at twice.
#[inline(always)]
fn judge<L: Lane>(
    record: &DescriptorRecord,
    row: Option<&Row>,
    served: &Served<L>,
    attempt: u16,
    started_at: u64,
    clock: &Clock,
) -> Option<Status> {
    if let Some(reason) = served.lane.poison() {
        return Some(match reason {
            reason if attempt == 1 => Status::Poisoned(reason),
            Poison::Damaged => Status::Interrupted(Interrupted::PayloadLost),
            _ => Status::Interrupted(Interrupted::Attempts),
        });
    }
    let Some(row) = row else {
        return Some(unknown(attempt));
    };
    if row.since > served.facts.generation || row.is_gone() {
        return Some(changed(row, served.facts.generation, attempt));
    }
    let length = record.length();
    if record.flags() != 0 {
        return Some(Status::Malformed(Malformed::BadFlags));
    }
    if length as usize > INLINE_PAYLOAD && length as usize > served.lane.request_bytes() {
        return Some(Status::Malformed(Malformed::TooLong));
    }
    if !row.takes(length) {
        return Some(Status::Malformed(Malformed::WrongSize));
    }
    if record.deadline() != 0 && attempt == 1 {
        let now = if started_at != 0 { started_at } else { clock.now() };
        if now > record.deadline() {
            return Some(Status::Expired);
        }
    }
    None
}

#[cold]
fn unknown(attempt: u16) -> Status {
    if attempt == 1 {
        Status::Malformed(Malformed::UnknownHandler)
    } else {
        Status::Interrupted(Interrupted::HandlerChanged)
    }
}

#[cold]
fn changed(row: &Row, generation: u32, attempt: u16) -> Status {
    if attempt > 1 {
        Status::Interrupted(Interrupted::HandlerChanged)
    } else if row.since <= generation {
        Status::Malformed(Malformed::UnknownHandler) // it was gone before this lane attached
    } else if row.is_gone() {
        Status::HandlerChanged(HandlerChange::Missing)
    } else {
        Status::HandlerChanged(HandlerChange::Changed)
    }
}

#[cold]
fn payload_lost(attempt: u16) -> Status {
    if attempt == 1 { Status::Poisoned(Poison::Damaged) } else { Status::Interrupted(Interrupted::PayloadLost) }
}

/// Status byte, detail byte, and whether it was the author's code that failed.
#[cold]
fn fail(fault: Fault, response: &mut Response<'_>) -> (u8, u8, bool) {
    let (status, ran) = match fault {
        Fault::Task(error) => {
            response.set_text(error.message());
            (Status::Failed { code: error.code() }, true)
        }
        Fault::Malformed(reason) => {
            response.clear();
            (Status::Malformed(reason), false)
        }
    };
    (status.code(), status.detail(), ran)
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
