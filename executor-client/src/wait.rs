//! Waiting for one task: spin, look at the time now and then, and probe whether anybody is there to answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_core::idle::{Idle, Rest};
use executor_core::record::CompletionRecord;
use executor_core::{Status, TaskId};
use executor_shm::lane::Look;
use executor_shm::lock::fork_generation;

use crate::client::{Client, CollectError, LaneStatus, Note};
use crate::completion::Completion;
use crate::descriptor::TaskDescriptor;
use crate::submit::SubmitError;
use crate::ticket::Ticket;

/// Misses between two looks at the time.
const MISSES: u32 = 256;
/// Time between two probes of the sidecar's life.
const PROBE_INTERVAL: Duration = Duration::from_millis(1);
/// Longest sleep: a sidecar that died wakes nobody.
const NAP: Duration = Duration::from_millis(100);

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
    /// Somebody wrote into the lane's memory; the task cannot be read and will never be answered. Connect again.
    #[error("the lane's submissions were damaged; the task will never be answered; connect again")]
    Damaged,
    /// The ticket's completion was taken before.
    #[error("the completion was taken before")]
    AlreadyTaken,
    /// The ticket was made by another client.
    #[error("the ticket was made by another client; wait on that one")]
    ForeignTicket,
    /// The thread that wakes futures cannot be started: the kernel has none left. The task stays accepted; await again.
    #[error("no thread to wake futures can be started (errno {errno}); the task stays accepted")]
    NoWatcher {
        /// What the kernel said.
        errno: i32,
    },
    /// The completion cannot be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
}

/// Why a task was not accepted by a submit that waits for room. It comes back whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitCollectingError {
    /// Waiting for room would not help.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// The lane stayed full until the wait ended.
    #[error("the lane stayed full: {source}")]
    StillFull {
        /// The task.
        task: TaskDescriptor,
        /// Why the wait ended.
        source: WaitError,
    },
}

/// A close that did not come to its end. The client is whole and may be closed again.
#[derive(Debug, thiserror::Error)]
#[error("{unanswered} tasks were not answered: {source}")]
pub struct CloseError {
    /// The client.
    pub client: Box<Client>,
    /// Tasks that have not ended.
    pub unanswered: u64,
    /// Why the wait ended.
    pub source: WaitError,
}

impl Client {
    /// Submits a plain task, waiting for room at most `timeout`. While the lane is full it hands over the completions
    /// of plain tasks in order: nobody else would take them, so waiting alone would free nothing.
    ///
    /// # Errors
    ///
    /// See [`SubmitCollectingError`]; the task was not accepted.
    pub fn submit_collecting(
        &mut self,
        task: &TaskDescriptor,
        payload: &[u8],
        timeout: Duration,
        mut each: impl FnMut(Completion<'_>),
    ) -> Result<TaskId, SubmitCollectingError> {
        let until = Instant::now().checked_add(timeout);
        let mut pause = Pause::new(self, until);
        loop {
            match self.try_submit(task, payload) {
                Err(SubmitError::Full(_)) => {}
                other => return Ok(other?),
            }
            let refused = |source| SubmitCollectingError::StillFull { task: *task, source };
            let oldest = self.lane.credited();
            let is_held = self.note_of(oldest) == Note::Ticket && self.lane.look(oldest) != Look::Pending;
            match self.try_collect() {
                Ok(Some(completion)) => {
                    each(completion);
                    pause.idle.hit();
                }
                // Its ticket is held: room comes only if somebody drops that.
                Ok(None) if is_held => pause.rest_without_end(self, oldest).map_err(refused)?,
                Ok(None) => pause.rest(self, oldest).map_err(refused)?,
                Err(error) => return Err(refused(error.into())),
            }
        }
    }

    /// Waits until every accepted task has ended, handing over the completions of plain tasks in order, then detaches.
    /// Completions of tickets that are still held are lost with the client.
    ///
    /// # Errors
    ///
    /// See [`CloseError`]; the client comes back.
    pub fn close(mut self, timeout: Duration, mut each: impl FnMut(Completion<'_>)) -> Result<(), CloseError> {
        let until = Instant::now().checked_add(timeout);
        let mut pause = Pause::new(&self, until);
        let mut ended = self.lane.credited();
        loop {
            let outcome = match self.try_collect() {
                Ok(Some(completion)) => {
                    each(completion);
                    pause.idle.hit();
                    continue;
                }
                Ok(None) => loop {
                    if ended == self.lane.submitted() {
                        return Ok(());
                    }
                    match (self.note_of(ended), self.look(ended)) {
                        (Note::Taken, _) | (Note::Ticket, Ok(Some(_))) => {}
                        // It ended after the look above: it is handed over before anything else is decided.
                        (Note::Plain, Ok(Some(_))) => break Ok(()),
                        (_, Ok(None)) => break pause.rest(&mut self, ended),
                        (_, Err(error)) => break Err(error.into()),
                    }
                    ended += 1;
                },
                Err(error) => Err(error.into()),
            };
            if let Err(source) = outcome {
                let unanswered = self.lane.submitted() - ended;
                return Err(CloseError { client: Box::new(self), unanswered, source });
            }
        }
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

    /// Waits for the ticket's task to end, by the [`IdleStrategy`](crate::IdleStrategy) of the client. A sidecar that is
    /// down ends the wait within a millisecond or so, or a tenth of a second where the wait sleeps; the task then stays
    /// accepted and the ticket good.
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

    /// Whether the task at `position` has ended or still may, as far as the lane's own state tells.
    pub(crate) fn prospects(&self, position: u64) -> Result<(), WaitError> {
        if self.state() == LaneStatus::Lost {
            return if self.look(position)?.is_some() { Ok(()) } else { Err(WaitError::Discarded) };
        }
        if self.is_unreadable(position) && self.look(position)?.is_none() {
            return Err(WaitError::Damaged);
        }
        Ok(())
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
        length: usize,
        fill: impl FnOnce(&mut [u8]),
        until: Option<Instant>,
    ) -> Result<Result<Completion<'_>, (TaskId, WaitError)>, SubmitError> {
        let position = self.push_with(task, length, fill, Note::Ticket)?;
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
    fn spin(&mut self, position: u64, until: Option<Instant>) -> Result<(CompletionRecord, Status), WaitError> {
        let mut pause = Pause::new(self, until);
        loop {
            if let Some(ended) = self.look(position)? {
                pause.idle.hit();
                self.learnt = pause.idle.learnt();
                return Ok(ended);
            }
            pause.rest(self, position)?;
        }
    }
}

/// One wait: what to do between two looks, and when to give up.
struct Pause {
    until: Option<Instant>,
    idle: Idle,
    misses: u32,
    probe_at: Option<Instant>,
}

impl Pause {
    fn new(client: &Client, until: Option<Instant>) -> Self {
        Self { until, idle: Idle::knowing(client.idle, client.learnt), misses: 0, probe_at: None }
    }

    /// After a look at `position` that found nothing.
    #[inline(always)]
    fn rest(&mut self, client: &mut Client, position: u64) -> Result<(), WaitError> {
        if self.idle.miss() == Rest::Sleep {
            return self.sleep(client, position);
        }
        self.misses += 1;
        if self.misses == MISSES || (self.misses == 1 && self.until.is_some()) {
            self.patience(client, position)?;
        }
        Ok(())
    }

    /// The same, where no completion will end it.
    #[cold]
    fn rest_without_end(&mut self, client: &mut Client, position: u64) -> Result<(), WaitError> {
        if !client.idle.may_sleep() {
            return self.rest(client, position);
        }
        self.patience(client, position)?;
        std::thread::sleep(self.left().min(PROBE_INTERVAL));
        Ok(())
    }

    fn left(&self) -> Duration {
        self.until.map_or(NAP, |until| until.saturating_duration_since(Instant::now()).min(NAP))
    }

    #[cold]
    #[inline(never)]
    fn sleep(&mut self, client: &mut Client, position: u64) -> Result<(), WaitError> {
        self.patience(client, position)?;
        client.lane.sleep(position, self.left());
        self.idle.slept();
        Ok(())
    }

    /// The slow side: is the time up, is anybody there to answer?
    #[cold]
    #[inline(never)]
    fn patience(&mut self, client: &Client, position: u64) -> Result<(), WaitError> {
        self.misses = 1;
        let now = Instant::now();
        if self.until.is_some_and(|until| now >= until) {
            return Err(WaitError::Timeout);
        }
        let due = *self.probe_at.get_or_insert(now + PROBE_INTERVAL);
        if now < due {
            return Ok(());
        }
        self.probe_at = Some(now + PROBE_INTERVAL);
        client.prospects(position)?;
        if client.instance.is_alive() || client.look(position)?.is_some() {
            return Ok(());
        }
        Err(if client.instance.is_discarded() { WaitError::Discarded } else { WaitError::ExecutorDown })
    }
}
