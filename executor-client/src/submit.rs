//! Submitting: from a descriptor and a payload to an accepted task.
//!
//! It waits for nobody: a full lane is an answer. Invariants N1 and N3 are those of [`client`](crate::client).

use std::sync::Arc;
use std::time::Duration;

use executor_core::TaskId;
use executor_core::record::{DescriptorRecord, INLINE_PAYLOAD};
use executor_shm::lane::Look;
use executor_shm::lock::fork_generation;
use executor_shm::words::Words;

use crate::client::{Client, LaneStatus, Note};
use crate::descriptor::TaskDescriptor;
use crate::ticket::Ticket;

/// Why a task was not accepted. It comes back whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Every slot of the lane holds a task or a completion nobody has taken. Collect, then submit again.
    #[error("the lane is full; collect completions first")]
    Full(TaskDescriptor),
    /// The lane is served no more. Connect again.
    #[error("the lane is poisoned; connect again")]
    Poisoned(TaskDescriptor),
    /// This process is a forked child of the one that connected. Connect in the child.
    #[error("this process was forked after connecting; connect in the child")]
    Forked(TaskDescriptor),
    /// The payload does not fit. Send less, or start the instance with larger request buffers.
    #[error("the payload of {length} bytes is longer than {limit}; start the instance with larger --request-bytes")]
    TooLong {
        /// The task.
        task: TaskDescriptor,
        /// Bytes of the payload.
        length: usize,
        /// Most bytes that fit.
        limit: usize,
    },
    /// The instance was given up. Connect again.
    #[error("the instance was discarded; connect again")]
    Discarded(TaskDescriptor),
    /// The thread that wakes whoever waits for room cannot be started: the kernel has none left. Submit again later.
    #[error("no thread to wake futures can be started (errno {errno})")]
    NoWatcher {
        /// The task.
        task: TaskDescriptor,
        /// What the kernel said.
        errno: i32,
    },
}

impl SubmitError {
    /// The task that was not accepted.
    pub fn task(&self) -> &TaskDescriptor {
        match self {
            Self::Full(task) | Self::Poisoned(task) | Self::Forked(task) | Self::Discarded(task) => task,
            Self::TooLong { task, .. } | Self::NoWatcher { task, .. } => task,
        }
    }

    /// Whether collecting completions makes room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Tasks accepted, from the first on.
    pub accepted: usize,
    /// The first accepted task; its followers have the next numbers.
    pub first: Option<TaskId>,
    /// Why the next one was not accepted, if there was one.
    pub refused: Option<SubmitError>,
}

impl Client {
    /// Whether the next task would be accepted (N3, the gate, I1).
    #[inline(always)]
    fn admit(&mut self, task: &TaskDescriptor) -> Result<(), SubmitError> {
        if self.generation != fork_generation() {
            return Err(SubmitError::Forked(*task));
        }
        let gate = self.instance.status().load(self.gate);
        if gate != self.served && gate != self.free {
            self.judge_gate(task)?;
        }
        if self.lane.is_full() {
            self.reclaim();
            if self.lane.is_full() {
                return Err(SubmitError::Full(*task));
            }
        }
        Ok(())
    }

    /// Counts a submit that found the lane full. Who waits for room is not refused: a future that is polled while somebody
    /// truncates its lane touches `sq` no more than before.
    #[cold]
    fn count_refused(&mut self, error: SubmitError) -> SubmitError {
        if error.is_full() {
            self.lane.rejected();
        }
        error
    }

    #[cold]
    fn judge_gate(&self, task: &TaskDescriptor) -> Result<(), SubmitError> {
        match self.state() {
            LaneStatus::Claimed | LaneStatus::Served => Ok(()),
            LaneStatus::Poisoned => Err(SubmitError::Poisoned(*task)),
            LaneStatus::Lost => Err(SubmitError::Discarded(*task)),
        }
    }

    /// Advances credit as far as it goes (N1).
    #[inline]
    pub(crate) fn reclaim(&mut self) {
        while self.lane.credited() < self.lane.submitted() {
            let position = self.lane.credited();
            match self.note_of(position) {
                Note::Taken => {}
                Note::Ticket if self.abandoned.is_set(position) && self.lane.look(position) != Look::Pending => {
                    self.abandoned.clear(position);
                    self.note(position, Note::Taken);
                }
                Note::Plain | Note::Ticket => return,
            }
            self.lane.credit();
        }
    }

    #[inline(always)]
    fn record(&self, task: &TaskDescriptor, length: usize) -> DescriptorRecord {
        let submitted_at = if self.timed { self.clock.now() } else { 0 };
        let deadline = match task.deadline {
            None => 0,
            Some(within) => self.deadline(submitted_at, within),
        };
        DescriptorRecord::new(task.handler_id, length as u32, submitted_at, deadline)
    }

    #[cold]
    fn deadline(&self, submitted_at: u64, within: Duration) -> u64 {
        let now = if submitted_at == 0 { self.clock.now() } else { submitted_at };
        let ns = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        now.saturating_add(self.clock.ns_to_ticks(ns)).max(1)
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, task: &TaskDescriptor, payload: &[u8], note: Note) -> Result<u64, SubmitError> {
        self.push_with(task, payload.len(), |place| place.copy_from_slice(payload), note)
    }

    /// As [`push`](Self::push), with a payload of `length` bytes that `fill` makes where it travels.
    #[inline(always)]
    pub(crate) fn push_with(
        &mut self,
        task: &TaskDescriptor,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
        note: Note,
    ) -> Result<u64, SubmitError> {
        if length > INLINE_PAYLOAD && length > self.lane.shape().request_bytes() {
            return Err(self.too_long(task, length));
        }
        self.admit(task)?;
        let mut record = self.record(task, length);
        if let Some(inline) = record.inline_payload_mut().get_mut(..length) {
            fill(inline);
        } else {
            fill(self.lane.request_buffer(length));
        }
        Ok(self.commit(&record, task.user_data, note))
    }

    #[inline(always)]
    fn commit(&mut self, record: &DescriptorRecord, user_data: u64, note: Note) -> u64 {
        let position = self.lane.submitted();
        let slot = self.slot(position);
        self.note(position, note);
        if let Some(place) = self.user_data.get_mut(slot) {
            *place = user_data;
        }
        let position = self.lane.submit(record);
        self.lane.rouse(self.instance.status(), self.gate, position);
        position
    }

    #[cold]
    fn too_long(&self, task: &TaskDescriptor, length: usize) -> SubmitError {
        SubmitError::TooLong { task: *task, length, limit: self.request_limit() }
    }

    /// Submits a task whose completion comes back through [`try_collect`](Self::try_collect), in order. Payloads of up
    /// to 32 bytes travel in the descriptor; longer ones are copied once into the slot's request buffer.
    ///
    /// # Errors
    ///
    /// See [`SubmitError`]; the task comes back and nothing was submitted.
    #[inline]
    pub fn try_submit(&mut self, task: &TaskDescriptor, payload: &[u8]) -> Result<TaskId, SubmitError> {
        let position = self.push(task, payload, Note::Plain).map_err(|error| self.count_refused(error))?;
        Ok(self.task_id(position))
    }

    /// Submits a task whose completion is taken with the ticket, in any order, by [`wait`](Self::wait) and its kin.
    ///
    /// # Errors
    ///
    /// As [`try_submit`](Self::try_submit).
    pub fn submit_ticket(&mut self, task: &TaskDescriptor, payload: &[u8]) -> Result<Ticket, SubmitError> {
        let position = self.push(task, payload, Note::Ticket).map_err(|error| self.count_refused(error))?;
        Ok(Ticket { task_id: self.task_id(position), position, abandoned: Arc::clone(&self.abandoned), taken: false })
    }

    /// Submits tasks one after another until one is refused.
    pub fn try_submit_batch<'p>(&mut self, tasks: impl IntoIterator<Item = (TaskDescriptor, &'p [u8])>) -> Batch {
        let mut batch = Batch { accepted: 0, first: None, refused: None };
        for (task, payload) in tasks {
            match self.try_submit(&task, payload) {
                Ok(task_id) => {
                    batch.first.get_or_insert(task_id);
                    batch.accepted += 1;
                }
                Err(error) => {
                    batch.refused = Some(error);
                    break;
                }
            }
        }
        batch
    }

    /// Lends the memory that the payload of the next task travels in, so that it can be made in place.
    ///
    /// # Errors
    ///
    /// As [`try_submit`](Self::try_submit).
    #[inline]
    pub fn request(&mut self, task: &TaskDescriptor, length: usize) -> Result<RequestLoan<'_>, SubmitError> {
        if length > self.request_limit() {
            return Err(self.too_long(task, length));
        }
        self.admit(task).map_err(|error| self.count_refused(error))?;
        Ok(RequestLoan { client: self, task: *task, length, inline: [0; INLINE_PAYLOAD] })
    }
}

/// Memory of the next task's payload, to be filled in place and submitted. Dropped, nothing was submitted.
#[derive(Debug)]
pub struct RequestLoan<'a> {
    client: &'a mut Client,
    task: TaskDescriptor,
    length: usize,
    inline: [u8; INLINE_PAYLOAD],
}

impl<'a> RequestLoan<'a> {
    /// The payload's bytes. What they hold at first is arbitrary: an earlier task's payload, or zeros.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.length <= INLINE_PAYLOAD {
            self.inline.get_mut(..self.length).unwrap_or_default()
        } else {
            self.client.lane.request_buffer(self.length)
        }
    }

    /// Submits the task with what is in the loan now, stamped now; it is collected by
    /// [`try_collect`](Client::try_collect).
    #[inline]
    pub fn submit(self) -> TaskId {
        let (client, position) = self.push(Note::Plain);
        client.task_id(position)
    }

    /// As [`submit`](Self::submit), with a ticket.
    #[inline]
    pub fn submit_ticket(self) -> Ticket {
        let (client, position) = self.push(Note::Ticket);
        let abandoned = Arc::clone(&client.abandoned);
        Ticket { task_id: client.task_id(position), position, abandoned, taken: false }
    }

    #[inline(always)]
    fn push(self, note: Note) -> (&'a mut Client, u64) {
        let mut record = self.client.record(&self.task, self.length);
        if self.length <= INLINE_PAYLOAD {
            *record.inline_payload_mut() = self.inline;
        }
        let position = self.client.commit(&record, self.task.user_data, note);
        (self.client, position)
    }
}
