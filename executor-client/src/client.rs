//! One lane in the hands of its producer.
//!
//! It starts no thread; an [`AsyncClient`](crate::AsyncClient) made of it does. Whoever waits does so by its
//! [`IdleStrategy`], and probes the sidecar's life lock now and then.
//!
//! # Invariants
//! - N1: a slot's note is `Plain` or `Ticket` from its submit until its completion is taken, then `Taken`; credit
//!   advances only over slots that are taken, or whose ticket was dropped and whose task has ended.
//! - N2: completions of plain tasks are taken in order of submission; `cursor` passes over tickets.
//! - N3: nothing of a mapping is touched in a forked child: every operation compares the fork generation first.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use executor_core::idle::{IdleStrategy, Learnt};
use executor_core::record::{CompletionRecord, INLINE_PAYLOAD};
use executor_core::{Clock, Status, TaskId};
use executor_shm::InstanceName;
use executor_shm::attach::{Claim, Instance};
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::lock::{LockFile, fork_generation};
use executor_shm::mapped::{ReadWords, WriteWords};
use executor_shm::state::{LaneState, LaneWord};
use executor_shm::words::Words;

use crate::completion::Completion;
use crate::connect::{ConnectError, ConnectOptions};
use crate::ticket::Abandoned;
use crate::typed::CheckedContracts;

/// A connection: one lane of one instance, from one thread at a time.
///
/// `Send`, neither `Sync` nor `Clone`: a lane has one producer. Programs with several producing threads connect several
/// times. Dropping a client detaches it; tasks it submitted run all the same, and nobody reads their completions.
///
/// A child that another thread is starting at that moment with `posix_spawn` or `vfork`, as [`std::process::Command`]
/// does, has a copy of the client's lock until its `exec` closes it: that long the lane stays taken, and a sidecar that
/// is stopped meanwhile finds it attached and keeps the files. A forked child has no copy; its operations are refused.
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<executor_client::Client>();
/// ```
#[derive(Debug)]
pub struct Client {
    // Order matters: unmap, then unlock, then tell housekeeping, which dropping the instance does.
    pub(crate) lane: ProducerHalf<WriteWords, ReadWords>,
    lock: LockFile,
    pub(crate) instance: Instance,

    notes: Box<[Note]>,
    pub(crate) user_data: Box<[u64]>,
    pub(crate) abandoned: Arc<Abandoned>,
    /// The next plain task to collect.
    cursor: u64,
    pub(crate) gate: usize,
    /// What a wait does between two looks, and what the last ones have learnt.
    pub(crate) idle: IdleStrategy,
    pub(crate) learnt: Learnt,
    pub(crate) served: u64,
    pub(crate) free: u64,
    pub(crate) clock: Clock,
    pub(crate) timed: bool,
    pub(crate) generation: u64,
    number: u32,
    nonce: u64,
    base: u64,
    pub(crate) contracts: CheckedContracts,
    /// Whether what was collected is told at once, and not first by the next submit or by the watcher, which looks before it
    /// stores: futures have to end well on a lane that was truncated a moment ago, whose `sq` kills whoever stores into it.
    pub(crate) tells: bool,
    _one_thread: PhantomData<Cell<()>>,
}

/// What the client knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Plain,
    Ticket,
    Taken,
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

/// The lane and its sidecar as the last store of either left them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneStatus {
    /// Claimed; the sidecar has not noticed yet.
    Claimed,
    /// Served.
    Served,
    /// Served no more: every task that can still be read is answered `Poisoned`; see [`Client::is_damaged`].
    Poisoned,
    /// No longer this client's: the instance was discarded.
    Lost,
}

impl Client {
    /// Connects to a running sidecar at normal priority. Files that belong to root or to this user are believed.
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

    pub(crate) fn new(instance: Instance, claim: Claim, idle: IdleStrategy) -> Self {
        let shape = LaneShape::new(instance.geometry());
        let capacity = shape.capacity() as usize;
        Self {
            lane: ProducerHalf::new(claim.sq, claim.cq, shape),
            lock: claim.lock,
            notes: vec![Note::Taken; capacity].into(),
            user_data: vec![0; capacity].into(),
            abandoned: Arc::new(Abandoned::new(shape.capacity())),
            cursor: 0,
            gate: instance.gate(claim.lane),
            idle,
            learnt: Learnt::default(),
            served: LaneWord::new(LaneState::Active, 0, claim.nonce).word(),
            free: LaneWord::new(LaneState::Free, 0, claim.nonce).word(),
            clock: instance.clock(),
            timed: instance.is_timed(),
            generation: fork_generation(),
            number: claim.lane,
            nonce: claim.nonce,
            base: claim.base,
            contracts: CheckedContracts::default(),
            tells: true,
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

    /// Whether the task at `position` can never be answered, because what was submitted there cannot be read any more.
    pub(crate) fn is_unreadable(&self, position: u64) -> bool {
        self.state() == LaneStatus::Poisoned && self.instance.damaged_at(self.number).is_some_and(|at| position >= at)
    }

    /// Whether accepted tasks of this client can never be answered, because what was submitted cannot be read any more: a
    /// damaged or truncated lane. Waits for them end as [`WaitError::Damaged`](crate::WaitError::Damaged); whoever collects
    /// asks here now and then, at the price of two loads.
    pub fn is_damaged(&self) -> bool {
        self.lane.submitted().checked_sub(1).is_some_and(|last| self.is_unreadable(last))
    }

    /// Whether a sidecar holds the instance now: a system call of some 0.4 us.
    pub fn is_executor_alive(&self) -> bool {
        self.generation == fork_generation() && self.instance.is_alive()
    }

    #[inline(always)]
    pub(crate) fn task_id(&self, position: u64) -> TaskId {
        TaskId::new(self.number, self.base.wrapping_add(position))
    }

    #[inline(always)]
    pub(crate) fn slot(&self, position: u64) -> usize {
        (position & (self.notes.len() as u64 - 1)) as usize
    }

    #[inline(always)]
    pub(crate) fn note(&mut self, position: u64, note: Note) {
        let slot = self.slot(position);
        if let Some(place) = self.notes.get_mut(slot) {
            *place = note;
        }
    }

    #[inline(always)]
    pub(crate) fn note_of(&self, position: u64) -> Note {
        self.notes.get(self.slot(position)).copied().unwrap_or(Note::Taken)
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
        let Some(position) = self.next_plain() else { return Ok(None) };
        let Some((record, status)) = self.look(position)? else { return Ok(None) };
        self.cursor += 1;
        Ok(Some(self.take(position, record, status)))
    }

    /// The plain task whose completion is the next to collect, if one is under way.
    #[inline(always)]
    pub(crate) fn next_plain(&mut self) -> Option<u64> {
        // Slots below the credit belong to later tasks by now; their notes say nothing about tasks of then.
        self.cursor = self.cursor.max(self.lane.credited());
        loop {
            if self.cursor == self.lane.submitted() {
                return None;
            }
            if self.note_of(self.cursor) == Note::Plain {
                return Some(self.cursor);
            }
            self.cursor += 1; // N2
        }
    }

    /// Whether the lane's own file still has its length: a store past the end of one that was truncated ends the process.
    pub(crate) fn is_whole(&self) -> bool {
        self.lock.size().is_some_and(|size| size >= self.instance.geometry().sq_bytes() as u64)
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
    pub(crate) fn look(&self, position: u64) -> Result<Option<(CompletionRecord, Status)>, CollectError> {
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
    pub(crate) fn take(&mut self, position: u64, record: CompletionRecord, status: Status) -> Completion<'_> {
        self.note(position, Note::Taken);
        self.lane.collected();
        if position == self.lane.credited() {
            self.lane.credit(); // N1: a step at a time, so that no submit finds a whole lap to give back
        }
        if self.tells && self.instance.status().load(self.gate) == self.served {
            self.lane.tell();
        }
        let user_data = self.user_data.get(self.slot(position)).copied().unwrap_or(0);
        Completion { client: self, record, status, position, user_data }
    }
}
