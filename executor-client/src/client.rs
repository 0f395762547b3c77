//! One lane in the hands of its producer.
//!
//! It starts no thread and blocks in no system call: whoever waits, spins, and probes the sidecar's life lock now and
//! then.
//!
//! # Invariants
//! - C1: a slot's note is `Plain` or `Ticket` from its submit until its completion is taken, then `Taken`; credit
//!   advances only over slots that are taken, or whose ticket was dropped and whose task has ended.
//! - C2: completions of plain tasks are taken in order of submission; `cursor` passes over tickets.
//! - C3: nothing of a mapping is touched in a forked child: every operation compares the fork generation first.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_core::idle::{Idle, IdleStrategy};
use executor_core::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD};
use executor_core::{Clock, Status, TaskId};
use executor_shm::InstanceName;
use executor_shm::attach::{Claim, Instance};
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::lock::{LockFile, fork_generation};
use executor_shm::state::{LaneState, LaneWord};
use executor_shm::words::{ReadWords, Words, WriteWords};

use crate::completion::Completion;
use crate::connect::{ConnectError, ConnectOptions};
use crate::descriptor::TaskDescriptor;
use crate::ticket::{Abandoned, Ticket};

/// Misses between two looks at the time while waiting.
const MISSES: u32 = 256;
/// Time between two probes of the sidecar's life while waiting.
const PROBE_INTERVAL: Duration = Duration::from_millis(1);

/// A connection: one lane of one instance, from one thread at a time.
///
/// `Send`, neither `Sync` nor `Clone`: a lane has one producer. Programs with several producing threads connect several
/// times. Dropping a client detaches it; tasks it submitted run all the same, and nobody reads their completions.
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<executor_client::Client>();
/// ```
#[derive(Debug)]
pub struct Client {
    // Order matters: unmap, then unlock.
    lane: ProducerHalf<WriteWords, ReadWords>,
    instance: Instance,
    _lock: LockFile,

    notes: Box<[Note]>,
    user_data: Box<[u64]>,
    abandoned: Arc<Abandoned>,
    /// The next plain task to collect.
    cursor: u64,
    gate: usize,
    served: u64,
    free: u64,
    clock: Clock,
    timed: bool,
    generation: u64,
    number: u32,
    nonce: u64,
    base: u64,
    pub(crate) contract: u64,
    _one_thread: PhantomData<Cell<()>>,
}

/// What the client knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    Plain,
    Ticket,
    Taken,
}

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
}

impl SubmitError {
    /// The task that was not accepted.
    pub fn task(&self) -> &TaskDescriptor {
        match self {
            Self::Full(task) | Self::Poisoned(task) | Self::Forked(task) | Self::Discarded(task) => task,
            Self::TooLong { task, .. } => task,
        }
    }

    /// Whether collecting completions makes room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

/// Why a completion cannot be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// This process is a forked child of the one that connected. Connect in the child.
    #[error("this process was forked after connecting; connect in the child")]
    Forked,
    /// The completion ring holds what no sidecar of this ABI writes. Connect again and report it.
    #[error("the completion of {task_id} is corrupt: {found:#x} stands where it should be; connect again")]
    Corrupt {
        /// The task.
        task_id: TaskId,
        /// The word found.
        found: u64,
    },
}

/// Why a wait ended without a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The time is up. The task stays accepted; wait again.
    #[error("the task did not end in time; it stays accepted")]
    Timeout,
    /// No sidecar runs. The task stays accepted: the next sidecar on these files answers it; wait again.
    #[error("the executor is down; the task stays accepted and the next sidecar answers it")]
    ExecutorDown,
    /// The instance was given up: the task will never be answered.
    #[error("the instance was discarded; the task will never be answered")]
    Discarded,
    /// The ticket's completion was taken before.
    #[error("the completion was taken before")]
    AlreadyTaken,
    /// The ticket was made by another client.
    #[error("the ticket was made by another client; wait on that one")]
    ForeignTicket,
    /// The completion cannot be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
}

/// The lane and its sidecar as the last store of either left them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneStatus {
    /// Claimed; the sidecar has not noticed yet.
    Claimed,
    /// Served.
    Served,
    /// Served no more: every task is answered `Poisoned`.
    Poisoned,
    /// No longer this client's: the instance was discarded.
    Lost,
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
    /// Connects to a running sidecar of this user or of root, at normal priority.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(instance: &InstanceName) -> Result<Self, ConnectError> {
        ConnectOptions::new().connect(instance)
    }

    /// As [`connect`](Self::connect), waiting for a sidecar to start and for a free lane.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect_timeout(instance: &InstanceName, timeout: Duration) -> Result<Self, ConnectError> {
        ConnectOptions::new().timeout(timeout).connect(instance)
    }

    pub(crate) fn new(instance: Instance, claim: Claim) -> Self {
        let shape = LaneShape::new(instance.geometry());
        let capacity = shape.capacity() as usize;
        Self {
            lane: ProducerHalf::new(claim.sq, claim.cq, shape),
            _lock: claim.lock,
            notes: vec![Note::Taken; capacity].into(),
            user_data: vec![0; capacity].into(),
            abandoned: Arc::new(Abandoned::new(shape.capacity())),
            cursor: 0,
            gate: instance.gate(claim.lane),
            served: LaneWord::new(LaneState::Active, 0, claim.nonce).word(),
            free: LaneWord::new(LaneState::Free, 0, claim.nonce).word(),
            clock: instance.clock(),
            timed: instance.is_timed(),
            generation: fork_generation(),
            number: claim.lane,
            nonce: claim.nonce,
            base: claim.base,
            contract: 0,
            instance,
            _one_thread: PhantomData,
        }
    }

    /// The instance's name.
    pub fn instance(&self) -> &InstanceName {
        self.instance.name()
    }

    /// The instance's random number, the other half of a [`TaskKey`](crate::TaskKey).
    pub fn instance_nonce(&self) -> u64 {
        self.instance.nonce()
    }

    /// The lane's number.
    pub fn lane_number(&self) -> u32 {
        self.number
    }

    /// The clock of all stamps.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether tasks carry stamps.
    pub fn is_timed(&self) -> bool {
        self.timed
    }

    /// Slots of the lane: tasks that can be submitted and not collected.
    pub fn capacity(&self) -> usize {
        self.notes.len()
    }

    /// Longest payload, in bytes.
    pub fn request_limit(&self) -> usize {
        self.lane.shape().request_bytes().max(INLINE_PAYLOAD)
    }

    /// Tasks submitted whose slots are not free yet, as far as the last full lane showed.
    pub fn in_flight(&self) -> u64 {
        self.lane.submitted() - self.lane.credited()
    }

    /// The lane's state, at the price of one load. It says nothing about a sidecar that was killed:
    /// [`is_executor_alive`](Self::is_executor_alive) does.
    pub fn state(&self) -> LaneStatus {
        if self.generation != fork_generation() {
            return LaneStatus::Lost;
        }
        let word = LaneWord::from_word(self.instance.status().load(self.gate));
        match word.state() {
            _ if word.nonce() != self.nonce => LaneStatus::Lost,
            Some(LaneState::Free) => LaneStatus::Claimed,
            Some(LaneState::Active | LaneState::Draining) => LaneStatus::Served,
            Some(LaneState::Poisoned) => LaneStatus::Poisoned,
            _ => LaneStatus::Lost,
        }
    }

    /// Whether a sidecar holds the instance now: a system call of some 0.4 us.
    pub fn is_executor_alive(&self) -> bool {
        self.generation == fork_generation() && self.instance.is_alive()
    }

    pub(crate) fn shared_instance(&self) -> &Instance {
        &self.instance
    }

    pub(crate) fn lane(&self) -> &ProducerHalf<WriteWords, ReadWords> {
        &self.lane
    }

    #[inline(always)]
    pub(crate) fn task_id(&self, position: u64) -> TaskId {
        TaskId::new(self.number, self.base.wrapping_add(position))
    }

    #[inline(always)]
    fn slot(&self, position: u64) -> usize {
        (position & (self.notes.len() as u64 - 1)) as usize
    }

    #[inline(always)]
    fn note(&mut self, position: u64, note: Note) {
        let slot = self.slot(position);
        if let Some(place) = self.notes.get_mut(slot) {
            *place = note;
        }
    }

    #[inline(always)]
    fn note_of(&self, position: u64) -> Note {
        self.notes.get(self.slot(position)).copied().unwrap_or(Note::Taken)
    }

    /// Whether the next task would be accepted (C3, the gate, I1).
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

    #[cold]
    fn judge_gate(&self, task: &TaskDescriptor) -> Result<(), SubmitError> {
        match self.state() {
            LaneStatus::Claimed | LaneStatus::Served => Ok(()),
            LaneStatus::Poisoned => Err(SubmitError::Poisoned(*task)),
            LaneStatus::Lost => Err(SubmitError::Discarded(*task)),
        }
    }

    /// Advances credit as far as it goes (C1).
    #[inline]
    fn reclaim(&mut self) {
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
    fn push(&mut self, task: &TaskDescriptor, payload: &[u8], note: Note) -> Result<u64, SubmitError> {
        let length = payload.len();
        if length > INLINE_PAYLOAD && length > self.lane.shape().request_bytes() {
            return Err(self.too_long(task, length));
        }
        self.admit(task)?;
        let mut record = self.record(task, length);
        if let Some(inline) = record.inline_payload_mut().get_mut(..length) {
            inline.copy_from_slice(payload);
        } else {
            self.lane.request_buffer(length).copy_from_slice(payload);
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
        self.lane.submit(record)
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
        let position = self.push(task, payload, Note::Plain)?;
        Ok(self.task_id(position))
    }

    /// Submits a task whose completion is taken with the ticket, in any order, by [`wait`](Self::wait) and its kin.
    ///
    /// # Errors
    ///
    /// As [`try_submit`](Self::try_submit).
    pub fn submit_ticket(&mut self, task: &TaskDescriptor, payload: &[u8]) -> Result<Ticket, SubmitError> {
        let position = self.push(task, payload, Note::Ticket)?;
        Ok(Ticket {
            task_id: self.task_id(position),
            position,
            abandoned: Arc::clone(&self.abandoned),
            taken: false,
        })
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
    pub fn request(&mut self, task: &TaskDescriptor, length: usize) -> Result<RequestLoan<'_>, SubmitError> {
        if length > self.request_limit() {
            return Err(self.too_long(task, length));
        }
        self.admit(task)?;
        Ok(RequestLoan { client: self, task: *task, length, inline: [0; INLINE_PAYLOAD] })
    }

    /// The completion of the oldest plain task that has ended, if the next in order has. Looking costs one load.
    ///
    /// # Errors
    ///
    /// See [`CollectError`].
    #[inline]
    pub fn try_collect(&mut self) -> Result<Option<Completion<'_>>, CollectError> {
        if self.generation != fork_generation() {
            return Err(CollectError::Forked);
        }
        loop {
            if self.cursor == self.lane.submitted() {
                return Ok(None);
            }
            if self.note_of(self.cursor) == Note::Plain {
                break;
            }
            self.cursor += 1; // C2
        }
        let position = self.cursor;
        let Some((record, status)) = self.look(position)? else { return Ok(None) };
        self.cursor += 1;
        Ok(Some(self.take(position, record, status)))
    }

    /// Hands over the completions of plain tasks that have ended, in order, at most `most`; returns how many.
    ///
    /// # Errors
    ///
    /// See [`CollectError`]; what was handed over before stays taken.
    pub fn try_collect_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Completion<'_>),
    ) -> Result<usize, CollectError> {
        let mut count = 0;
        while count < most {
            match self.try_collect()? {
                Some(completion) => each(completion),
                None => break,
            }
            count += 1;
        }
        Ok(count)
    }

    #[inline(always)]
    fn look(&self, position: u64) -> Result<Option<(CompletionRecord, Status)>, CollectError> {
        match self.lane.look(position) {
            Look::Pending => Ok(None),
            Look::Ended(record) => match record.status() {
                Some(status) => Ok(Some((record, status))),
                None => Err(self.corrupt(position, u64::from(record.status_code()))),
            },
            Look::Corrupt(found) => Err(self.corrupt(position, found)),
        }
    }

    #[cold]
    fn corrupt(&self, position: u64, found: u64) -> CollectError {
        CollectError::Corrupt { task_id: self.task_id(position), found }
    }

    #[inline(always)]
    fn take(&mut self, position: u64, record: CompletionRecord, status: Status) -> Completion<'_> {
        self.note(position, Note::Taken);
        let user_data = self.user_data.get(self.slot(position)).copied().unwrap_or(0);
        Completion { client: self, record, status, position, user_data }
    }

    /// The ticket's completion if its task has ended.
    ///
    /// # Errors
    ///
    /// See [`WaitError`]; `Timeout` and `ExecutorDown` do not come from here.
    pub fn try_wait(&mut self, ticket: &mut Ticket) -> Result<Option<Completion<'_>>, WaitError> {
        self.check(ticket)?;
        let Some((record, status)) = self.look(ticket.position)? else { return Ok(None) };
        ticket.taken = true;
        Ok(Some(self.take(ticket.position, record, status)))
    }

    /// Waits for the ticket's task to end, spinning. A sidecar that is down ends the wait within a millisecond or so;
    /// the task then stays accepted and the ticket good.
    ///
    /// # Errors
    ///
    /// See [`WaitError`].
    pub fn wait(&mut self, ticket: &mut Ticket) -> Result<Completion<'_>, WaitError> {
        self.wait_until(ticket, None)
    }

    /// As [`wait`](Self::wait), for at most `timeout`; zero looks once.
    ///
    /// # Errors
    ///
    /// See [`WaitError`].
    pub fn wait_timeout(&mut self, ticket: &mut Ticket, timeout: Duration) -> Result<Completion<'_>, WaitError> {
        self.wait_until(ticket, Instant::now().checked_add(timeout))
    }

    fn wait_until(&mut self, ticket: &mut Ticket, until: Option<Instant>) -> Result<Completion<'_>, WaitError> {
        self.check(ticket)?;
        let (record, status) = self.spin(ticket.position, until)?;
        ticket.taken = true;
        Ok(self.take(ticket.position, record, status))
    }

    fn check(&self, ticket: &Ticket) -> Result<(), WaitError> {
        if self.generation != fork_generation() {
            Err(CollectError::Forked.into())
        } else if !Arc::ptr_eq(&self.abandoned, &ticket.abandoned) {
            Err(WaitError::ForeignTicket)
        } else if ticket.taken {
            Err(WaitError::AlreadyTaken)
        } else {
            Ok(())
        }
    }

    /// Submits one task and waits for it; the heart of `call`.
    #[inline(always)]
    pub(crate) fn run_one(
        &mut self,
        task: &TaskDescriptor,
        payload: &[u8],
        until: Option<Instant>,
    ) -> Result<Result<Completion<'_>, (TaskId, WaitError)>, SubmitError> {
        let position = self.push(task, payload, Note::Ticket)?;
        match self.spin(position, until) {
            Ok((record, status)) => Ok(Ok(self.take(position, record, status))),
            Err(error) => {
                // Nobody holds a ticket: the slot comes back once the task has ended.
                self.abandoned.set(position);
                Ok(Err((self.task_id(position), error)))
            }
        }
    }

    #[inline(always)]
    fn spin(&self, position: u64, until: Option<Instant>) -> Result<(CompletionRecord, Status), WaitError> {
        let mut idle = Idle::new(IdleStrategy::SpinThenYield);
        let mut misses = 0;
        let mut probe_at = None;
        loop {
            if let Some(ended) = self.look(position)? {
                return Ok(ended);
            }
            idle.miss();
            misses += 1;
            if misses == MISSES || (misses == 1 && until.is_some()) {
                misses = if misses == MISSES { 1 } else { misses };
                self.patience(position, until, &mut probe_at)?;
            }
        }
    }

    /// The slow side of a wait: is the time up, is anybody there to answer?
    #[cold]
    #[inline(never)]
    fn patience(
        &self,
        position: u64,
        until: Option<Instant>,
        probe_at: &mut Option<Instant>,
    ) -> Result<(), WaitError> {
        let now = Instant::now();
        if until.is_some_and(|until| now >= until) {
            return Err(WaitError::Timeout);
        }
        let due = *probe_at.get_or_insert(now + PROBE_INTERVAL);
        if now < due {
            return Ok(());
        }
        *probe_at = Some(now + PROBE_INTERVAL);
        if self.instance.is_alive() || self.look(position)?.is_some() {
            return Ok(());
        }
        Err(if self.instance.is_discarded() { WaitError::Discarded } else { WaitError::ExecutorDown })
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
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.length <= INLINE_PAYLOAD {
            self.inline.get_mut(..self.length).unwrap_or_default()
        } else {
            self.client.lane.request_buffer(self.length)
        }
    }

    /// Submits the task with what is in the loan now, stamped now; it is collected by
    /// [`try_collect`](Client::try_collect).
    pub fn submit(self) -> TaskId {
        let (client, position) = self.push(Note::Plain);
        client.task_id(position)
    }

    /// As [`submit`](Self::submit), with a ticket.
    pub fn submit_ticket(self) -> Ticket {
        let (client, position) = self.push(Note::Ticket);
        let abandoned = Arc::clone(&client.abandoned);
        Ticket { task_id: client.task_id(position), position, abandoned, taken: false }
    }

    fn push(self, note: Note) -> (&'a mut Client, u64) {
        let mut record = self.client.record(&self.task, self.length);
        if self.length <= INLINE_PAYLOAD {
            *record.inline_payload_mut() = self.inline;
        }
        let position = self.client.commit(&record, self.task.user_data, note);
        (self.client, position)
    }
}
