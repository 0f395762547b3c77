//! A task's end as its producer sees it.

use executor_core::bytemuck::{CheckedBitPattern, checked};
use executor_core::record::{CompletionRecord, INLINE_RESPONSE};
use executor_core::{Status, TaskId};
use executor_shm::lane::ProducerHalf;
use executor_shm::mapped::{ReadWords, WriteWords};

use crate::client::Client;

/// How one task ended. It borrows the client, so its slot cannot be reused while anybody looks at the response.
#[derive(Debug)]
pub struct Completion<'a> {
    pub(crate) client: &'a Client,
    pub(crate) record: CompletionRecord,
    pub(crate) status: Status,
    pub(crate) position: u64,
    pub(crate) user_data: u64,
}

/// Where a task's time went, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From submit until the worker began with the task.
    pub queue_ns: u64,
    /// From there until it was done: the handler and the engine around it.
    pub run_ns: u64,
    /// From there until now.
    pub return_ns: u64,
}

impl Times {
    /// From submit until now.
    pub fn total_ns(&self) -> u64 {
        self.queue_ns.saturating_add(self.run_ns).saturating_add(self.return_ns)
    }
}

impl Completion<'_> {
    /// The task's number.
    pub fn task_id(&self) -> TaskId {
        self.client.task_id(self.position)
    }

    /// The word that was submitted with the task.
    pub fn user_data(&self) -> u64 {
        self.user_data
    }

    /// How it ended.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether it ended as [`Status::Done`].
    pub fn is_done(&self) -> bool {
        self.status == Status::Done
    }

    /// The attempt that ended it: 1, or 2 for an idempotent task that a crash interrupted; 0 if it never ran.
    pub fn attempt(&self) -> u16 {
        self.record.attempt()
    }

    /// Where its time went; `None` if the instance stamps no tasks. Reads the clock once.
    pub fn times(&self) -> Option<Times> {
        let clock = self.client.clock();
        let (submitted, started, completed) =
            (self.record.submitted_at(), self.record.started_at(), self.record.completed_at());
        if submitted == 0 {
            return None;
        }
        let span = |from: u64, to: u64| clock.ticks_to_ns(to.saturating_sub(from));
        Some(Times {
            queue_ns: span(submitted, started),
            run_ns: span(started, completed),
            return_ns: span(completed, clock.now()),
        })
    }

    /// The three stamps in ticks of [`Client::clock`]: submitted, started, completed; 0 with timing off.
    pub fn stamps(&self) -> [u64; 3] {
        [self.record.submitted_at(), self.record.started_at(), self.record.completed_at()]
    }

    /// The response: the handler's output, or the text of its error or panic.
    pub fn response(&self) -> ResponseView<'_> {
        ResponseView { lane: &self.client.lane, record: &self.record, position: self.position }
    }

    /// The response as text, for a task that failed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.response().to_vec()).into_owned()
    }
}

/// The bytes of a response. They lie in memory that the sidecar can write, so they are copied, never borrowed.
#[derive(Clone, Copy, Debug)]
pub struct ResponseView<'a> {
    lane: &'a ProducerHalf<WriteWords, ReadWords>,
    record: &'a CompletionRecord,
    position: u64,
}

impl ResponseView<'_> {
    /// Its length in bytes. A length that no response can have reads as the longest it can.
    pub fn len(&self) -> usize {
        let limit = self.lane.shape().response_bytes().max(INLINE_RESPONSE);
        (self.record.response_length() as usize).min(limit)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A value of the response's exact length; `None` if the length differs or the bytes are no legal value. Values of
    /// up to 1,024 bytes cost no allocation.
    #[inline]
    pub fn read<T: CheckedBitPattern>(&self) -> Option<T> {
        if self.len() != size_of::<T>() {
            return None;
        }
        if size_of::<T>() <= INLINE_RESPONSE {
            let bytes = self.record.inline_response().get(..size_of::<T>())?;
            checked::try_pod_read_unaligned(bytes).ok()
        } else if size_of::<T>() <= 64 {
            self.read_through(&mut [0; 64])
        } else if size_of::<T>() <= 1024 {
            self.read_through(&mut [0; 1024])
        } else {
            self.read_through(&mut vec![0; size_of::<T>()])
        }
    }

    fn read_through<T: CheckedBitPattern>(&self, buffer: &mut [u8]) -> Option<T> {
        let bytes = buffer.get_mut(..size_of::<T>())?;
        self.copy_to(bytes);
        checked::try_pod_read_unaligned(bytes).ok()
    }

    /// Copies as much as fits from the response's start; returns how many bytes.
    pub fn copy_to(&self, into: &mut [u8]) -> usize {
        let length = self.len().min(into.len());
        let into = into.get_mut(..length).unwrap_or_default();
        if self.len() <= INLINE_RESPONSE {
            into.copy_from_slice(self.record.inline_response().get(..length).unwrap_or_default());
        } else {
            self.lane.copy_response(self.position, 0, into);
        }
        length
    }

    /// Hands the response over in pieces that fit `buffer`, in order. A buffer of less than 8 bytes gets none.
    pub fn chunks(&self, buffer: &mut [u8], mut piece: impl FnMut(&[u8])) {
        let length = self.len();
        if length <= INLINE_RESPONSE {
            let bytes = self.record.inline_response().get(..length).unwrap_or_default();
            bytes.chunks(buffer.len().max(1)).for_each(piece);
            return;
        }
        let step = buffer.len() / 8 * 8;
        let mut at = 0;
        while at < length && step > 0 {
            let Some(into) = buffer.get_mut(..step.min(length - at)) else { return };
            self.lane.copy_response(self.position, at / 8, into);
            piece(into);
            at += into.len();
        }
    }

    /// A copy of it all.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(&mut bytes);
        bytes
    }
}

/// How one task ended, on its own: it borrows nothing and holds no slot.
#[derive(Clone, Debug)]
pub struct OwnedCompletion {
    task_id: TaskId,
    user_data: u64,
    status: Status,
    record: CompletionRecord,
    times: Option<Times>,
    /// The response if it does not lie in the record.
    long: Vec<u8>,
}

impl Completion<'_> {
    /// A copy that owns its response and gives the slot back. Responses of up to 24 bytes cost no allocation.
    pub fn into_owned(self) -> OwnedCompletion {
        let response = self.response();
        let long = if response.len() > INLINE_RESPONSE { response.to_vec() } else { Vec::new() };
        let (task_id, times) = (self.task_id(), self.times());
        let Self { record, status, user_data, .. } = self;
        OwnedCompletion { task_id, user_data, status, record, times, long }
    }
}

impl OwnedCompletion {
    /// The task's number.
    pub fn task_id(&self) -> TaskId {
        self.task_id
    }

    /// The word that was submitted with the task.
    pub fn user_data(&self) -> u64 {
        self.user_data
    }

    /// How it ended.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether it ended as [`Status::Done`].
    pub fn is_done(&self) -> bool {
        self.status == Status::Done
    }

    /// As [`Completion::attempt`].
    pub fn attempt(&self) -> u16 {
        self.record.attempt()
    }

    /// Where its time went until it was taken; `None` if the instance stamps no tasks.
    pub fn times(&self) -> Option<Times> {
        self.times
    }

    /// As [`Completion::stamps`].
    pub fn stamps(&self) -> [u64; 3] {
        [self.record.submitted_at(), self.record.started_at(), self.record.completed_at()]
    }

    /// The response: the handler's output, or the text of its error or panic.
    pub fn response(&self) -> &[u8] {
        if self.long.is_empty() {
            let length = (self.record.response_length() as usize).min(INLINE_RESPONSE);
            self.record.inline_response().get(..length).unwrap_or_default()
        } else {
            &self.long
        }
    }

    /// The response without a copy, if it is a long one, or else with one.
    pub fn into_response(self) -> Vec<u8> {
        if self.long.is_empty() { self.response().to_vec() } else { self.long }
    }

    /// A value of the response's exact length; `None` if the length differs or the bytes are no legal value.
    pub fn read<T: CheckedBitPattern>(&self) -> Option<T> {
        checked::try_pod_read_unaligned(self.response()).ok()
    }

    /// The response as text, for a task that failed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.response()).into_owned()
    }
}
