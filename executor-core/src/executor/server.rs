//! One worker's end of a lane: how the dispatch loop takes tasks from it and where they end.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::account::{Account, Current};
use super::engine::Engine;
use super::lane::{Job, Shared};
use super::sync::rouse;
use super::target::LatencyKind;
use super::work::{Body, Closure, Errand, Failure, Reply};
use crate::dispatch::{Lane, Scratch, contain};
use crate::preempt::Sentinel;
use crate::record::{CompletionRecord, DescriptorRecord, INLINE_RESPONSE, LENGTH_MAX};
use crate::response::Response;
use crate::status::{Poison, Ran, Status};
use crate::task::TaskId;

/// Longest text of a closure's panic that is kept, in bytes; that of a registered handler is a response.
pub(crate) const TEXT_BYTES: usize = 1024;

/// A worker's end of a lane.
pub(crate) struct Server {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    worker: usize,
    /// The task in hand.
    taken: Option<Taken>,
    position: u64,
    /// Made when it is first needed.
    buffer: Box<[u8]>,
}

thread_local! {
    /// Whether the kernel takes the worker's CPU away during a task.
    static SENTINEL: Sentinel = Sentinel::of_this_thread();
}

struct Taken {
    id: u64,
    submitted_at: u64,
    slot: u32,
    name: Cow<'static, str>,
    closure: Option<Closure>,
    payload: Vec<u8>,
    reply: Option<Reply>,
    error: Option<Box<str>>,
    /// It calls a registered handler.
    is_call: bool,
}

impl Taken {
    fn prepare(&mut self, errand: Errand, submitted_at: u64) -> DescriptorRecord {
        match errand {
            Errand::Answer { closure, reply } => {
                self.closure = Some(closure);
                self.reply = Some(reply);
                DescriptorRecord::new(0, 0, submitted_at, 0)
            }
            Errand::Call { handler_id, payload, reply } => {
                // The wire has 24 bits for a length; a longer payload is one that no lane takes, so it ends as too long.
                let mut record =
                    DescriptorRecord::new(handler_id, payload.len().min(0x00ff_ffff) as u32, submitted_at, 0);
                if let Some(inline) = record.inline_payload_mut().get_mut(..payload.len()) {
                    inline.copy_from_slice(&payload);
                } else {
                    self.payload = payload;
                }
                self.reply = reply;
                self.is_call = true;
                record
            }
        }
    }
}

impl Server {
    pub(crate) fn new(engine: Arc<Engine>, shared: Arc<Shared>, worker: usize) -> Self {
        Self { engine, shared, worker, taken: None, position: 0, buffer: Box::default() }
    }

    fn account(&self) -> Option<&Account> {
        self.engine.accounts.get(self.worker)
    }

    /// What the completion says went wrong.
    #[cold]
    fn text(&self, completion: &CompletionRecord) -> Box<str> {
        let said = String::from_utf8_lossy(self.answer(completion));
        match (said.is_empty(), completion.status()) {
            (false, Some(Status::Failed { .. } | Status::Panicked)) => said.into(),
            (_, Some(status)) => status.to_string().into(),
            (_, None) => "it ended in no known way".into(),
        }
    }

    fn answer<'a>(&'a self, completion: &'a CompletionRecord) -> &'a [u8] {
        let length = completion.response_length() as usize;
        if length <= INLINE_RESPONSE {
            completion.inline_response().get(..length).unwrap_or_default()
        } else {
            self.buffer.get(..length).unwrap_or_default()
        }
    }
}

impl Lane for Server {
    #[inline(always)]
    fn is_ready(&self) -> bool {
        self.shared.has_task()
    }

    #[inline(always)]
    fn take(&mut self, into: &mut DescriptorRecord) -> u16 {
        let Some(Job { body, name, id, submitted_at, slot }) = self.shared.pop() else { return 0 };
        let mut taken = Taken {
            id,
            submitted_at,
            slot,
            name,
            closure: None,
            payload: Vec::new(),
            reply: None,
            error: None,
            is_call: false,
        };
        *into = match body {
            Body::Closure(closure) => {
                taken.closure = Some(closure);
                DescriptorRecord::new(0, 0, submitted_at, 0)
            }
            Body::Errand(errand) => taken.prepare(*errand, submitted_at),
        };
        self.taken = Some(taken);
        1
    }

    fn payload<'a>(&self, length: usize, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        let payload = &self.taken.as_ref()?.payload;
        scratch.grow(payload.len());
        let copy = scratch.get(length)?;
        copy.copy_from_slice(payload.get(..length)?);
        Some(copy)
    }

    #[inline(always)]
    fn poison(&self) -> Option<Poison> {
        None
    }

    #[inline(always)]
    fn start(&mut self, _attempt: u16, _verdict: Option<Status>, started_at: u64) -> bool {
        if let Some(taken) = &mut self.taken {
            let current = Current { id: TaskId::from_u64(taken.id), name: std::mem::take(&mut taken.name), started_at };
            if let Some(account) = self.engine.accounts.get(self.worker) {
                account.begin(current, taken.submitted_at);
            }
            if started_at != 0 {
                SENTINEL.with(Sentinel::arm); // after everything that may enter the kernel
            }
        }
        true
    }

    fn response(&mut self) -> Response<'_> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.engine.terms.response_bytes.clamp(TEXT_BYTES, LENGTH_MAX)].into();
        }
        // A text of the closure's own kind of failure fits whatever handlers may answer.
        let is_call = self.taken.as_ref().is_some_and(|taken| taken.is_call);
        let limit = if is_call { self.engine.terms.response_bytes } else { TEXT_BYTES };
        let end = limit.min(self.buffer.len());
        Response::new(self.buffer.get_mut(..end).unwrap_or_default())
    }

    #[inline(always)]
    fn brings_code(&self) -> bool {
        matches!(&self.taken, Some(Taken { closure: Some(_), .. }))
    }

    #[inline(always)]
    fn run_own(&mut self) -> Result<(), u8> {
        let Some(taken) = &mut self.taken else { return Ok(()) };
        let Some(closure) = taken.closure.take() else { return Ok(()) };
        (closure.into_inner())().map_err(|error| {
            taken.error = Some(error.message().into());
            error.code()
        })
    }

    fn own_id(&self) -> Option<TaskId> {
        self.taken.as_ref().map(|taken| TaskId::from_u64(taken.id))
    }

    #[inline(always)]
    fn publish(&mut self, completion: &CompletionRecord) {
        self.position += 1;
        let Some(mut taken) = self.taken.take() else { return };
        let success = completion.status_code() == Status::Done.code();
        let times = [completion.started_at(), completion.completed_at()];
        // What never ran has no time to be counted.
        let ran = success || completion.status().is_some_and(|status| status.ran() == Ran::Yes);
        let preempted = if times[1] == 0 { None } else { SENTINEL.with(Sentinel::disarm) };
        let mut error = taken.error.take();
        if !success && error.is_none() {
            error = Some(self.text(completion));
        }
        if let Some(account) = self.account() {
            account.end(success, if ran { times } else { [0; 2] });
            if ran && times[1] != 0 {
                let kind = self.engine.terms.goal.kind;
                let stamps = [taken.submitted_at, times[0], times[1]];
                let since = if kind == LatencyKind::Execution { times[0] } else { taken.submitted_at };
                let why = || account.explain(stamps, preempted, kind);
                let which = |reason| account.describe(reason);
                account.recent.count(times[1], times[1].saturating_sub(since), why, which);
            }
        }
        let away = taken.reply.is_some().then(|| self.engine.beds.leave());
        let finished = self.engine.depth.finish();
        if let Some(reply) = taken.reply.take() {
            // Once it counts as finished, so that who hears of it and submits the next task is not refused for it.
            let text = error.as_deref().unwrap_or_default();
            let status = completion.status().unwrap_or(Status::Panicked);
            let answer = if success { Ok(self.answer(completion)) } else { Err(Failure { status, text }) };
            // Who hears of it, and the value where its ticket was dropped, are the author's: either may panic.
            contain(|| (reply.into_inner())(answer));
        }
        drop(away);
        if let Some(word) = self.engine.results.complete(taken.slot, finished.sequence, times, error) {
            rouse(word);
        }
        if finished.is_last {
            self.engine.tell(|news| news.drained = true);
        }
    }

    #[inline(always)]
    fn position(&self) -> u64 {
        self.position
    }

    #[inline(always)]
    fn request_bytes(&self) -> usize {
        LENGTH_MAX
    }

    fn scratch_bytes(&self) -> usize {
        0 // grown by the first payload that needs it
    }

    fn capacity(&self) -> u64 {
        u64::MAX
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("worker", &self.worker).field("position", &self.position).finish_non_exhaustive()
    }
}
