//! Waiting for one task: spin, look at the time now and then, and probe whether anybody is there to answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_core::idle::{Idle, IdleStrategy};
use executor_core::record::CompletionRecord;
use executor_core::{Status, TaskId};
use executor_shm::lock::fork_generation;

use crate::client::{Client, CollectError, Note};
use crate::completion::Completion;
use crate::descriptor::TaskDescriptor;
use crate::submit::SubmitError;
use crate::ticket::Ticket;

/// Misses between two looks at the time.
const MISSES: u32 = 256;
/// Time between two probes of the sidecar's life.
const PROBE_INTERVAL: Duration = Duration::from_millis(1);

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

impl Client {
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
    fn patience(&self, position: u64, until: Option<Instant>, probe_at: &mut Option<Instant>) -> Result<(), WaitError> {
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
