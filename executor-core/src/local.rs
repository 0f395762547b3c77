//! In-process lanes: a pair of `rtrb` rings between one submitting thread and one worker.
//!
//! They keep no journal, because what would read it dies with them; otherwise they owe their submitter what a lane in
//! shared memory does: strict order, and exactly one completion for every accepted task.
//!
//! # Invariants
//! - R1: `submitted - collected <= capacity`, both private to the submitter, so the completion ring is never full.

use crate::dispatch::{Lane, Scratch};
use crate::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD, INLINE_RESPONSE};
use crate::response::Response;
use crate::status::{Poison, Status};

/// A task on its way to the worker.
#[derive(Debug)]
struct LocalTask {
    record: DescriptorRecord,
    payload: Option<Box<[u8]>>,
}

/// An ended task on its way back.
#[derive(Debug)]
pub struct LocalCompletion {
    /// How it ended and when.
    pub record: CompletionRecord,
    response: Option<Box<[u8]>>,
}

impl LocalCompletion {
    /// The answer's bytes.
    pub fn response(&self) -> &[u8] {
        match &self.response {
            Some(bytes) => bytes,
            None => self.record.inline_response().get(..self.record.response_length() as usize).unwrap_or_default(),
        }
    }
}

/// The submitting end of an in-process lane.
#[derive(Debug)]
pub struct LocalProducer {
    tasks: rtrb::Producer<LocalTask>,
    completions: rtrb::Consumer<LocalCompletion>,
    submitted: u64,
    collected: u64,
    capacity: u64,
}

/// Why a task was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalSubmitError {
    /// Collect a completion first.
    #[error("the lane is full; collect a completion first")]
    Full,
}

/// The worker's end of an in-process lane.
#[derive(Debug)]
pub struct LocalLane {
    tasks: rtrb::Consumer<LocalTask>,
    completions: rtrb::Producer<LocalCompletion>,
    position: u64,
    capacity: u64,
    request_bytes: usize,
    payload: Option<Box<[u8]>>,
    buffer: Box<[u8]>,
}

/// A lane for `capacity` tasks (at least 1) with payloads of up to `request_bytes` and responses of up to
/// `response_bytes`; up to 32 and 24 bytes always fit.
pub fn lane(capacity: usize, request_bytes: usize, response_bytes: usize) -> (LocalProducer, LocalLane) {
    let capacity = capacity.max(1);
    let (task_writer, task_reader) = rtrb::RingBuffer::new(capacity);
    let (completion_writer, completion_reader) = rtrb::RingBuffer::new(capacity);
    (
        LocalProducer {
            tasks: task_writer,
            completions: completion_reader,
            submitted: 0,
            collected: 0,
            capacity: capacity as u64,
        },
        LocalLane {
            tasks: task_reader,
            completions: completion_writer,
            position: 0,
            capacity: capacity as u64,
            request_bytes,
            payload: None,
            buffer: vec![0; response_bytes].into(),
        },
    )
}

impl LocalProducer {
    /// Submits a task and returns its position. Payloads past 32 bytes cost an allocation.
    ///
    /// # Errors
    ///
    /// [`LocalSubmitError::Full`] while `capacity` tasks are uncollected.
    pub fn try_submit(
        &mut self,
        handler_id: u32,
        payload: &[u8],
        submitted_at: u64,
        deadline: u64,
    ) -> Result<u64, LocalSubmitError> {
        if self.submitted - self.collected == self.capacity {
            return Err(LocalSubmitError::Full);
        }
        // The wire has 24 bits; a longer payload is cut to the longest, which no lane takes, so it ends as TooLong.
        let length = payload.len().min(0x00ff_ffff) as u32;
        let mut record = DescriptorRecord::new(handler_id, length, submitted_at, deadline);
        let mut task = LocalTask { record, payload: None };
        if let Some(inline) = record.inline_payload_mut().get_mut(..payload.len()) {
            inline.copy_from_slice(payload);
            task.record = record;
        } else {
            task.payload = Some(payload.into());
        }
        self.tasks.push(task).map_err(|_| LocalSubmitError::Full)?;
        self.submitted += 1;
        Ok(self.submitted - 1)
    }

    /// The next completion, in order of submission.
    pub fn try_collect(&mut self) -> Option<LocalCompletion> {
        let completion = self.completions.pop().ok()?;
        self.collected += 1;
        Some(completion)
    }

    /// Tasks submitted and not collected.
    pub fn in_flight(&self) -> u64 {
        self.submitted - self.collected
    }
}

impl Lane for LocalLane {
    #[inline(always)]
    fn is_ready(&self) -> bool {
        !self.tasks.is_empty()
    }

    #[inline(always)]
    fn take(&mut self, into: &mut DescriptorRecord) -> u16 {
        match self.tasks.pop() {
            Ok(task) => {
                *into = task.record;
                self.payload = task.payload;
                1
            }
            Err(_) => 0,
        }
    }

    #[inline]
    fn payload<'a>(&self, length: usize, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        let bytes = self.payload.as_deref()?;
        let copy = scratch.get(length)?;
        copy.copy_from_slice(bytes.get(..length)?);
        Some(copy)
    }

    #[inline(always)]
    fn poison(&self) -> Option<Poison> {
        None
    }

    #[inline(always)]
    fn start(&mut self, _attempt: u16, _verdict: Option<Status>, _started_at: u64) -> bool {
        true
    }

    #[inline(always)]
    fn response(&mut self) -> Response<'_> {
        Response::new(&mut self.buffer)
    }

    #[inline(always)]
    fn publish(&mut self, completion: &CompletionRecord) {
        let length = completion.response_length() as usize;
        let response = if length > INLINE_RESPONSE { self.buffer.get(..length).map(Box::from) } else { None };
        self.position += 1;
        if self.completions.push(LocalCompletion { record: *completion, response }).is_err() {
            unreachable!("R1: the submitter keeps room for every accepted task's completion");
        }
    }

    #[inline(always)]
    fn position(&self) -> u64 {
        self.position
    }

    #[inline(always)]
    fn request_bytes(&self) -> usize {
        self.request_bytes.max(INLINE_PAYLOAD)
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }
}
