//! Calls by contract: arguments in, output out, one task at a time.

use std::time::{Duration, Instant};

use executor_core::bytemuck::bytes_of;
use executor_core::{Status, TaskId, TaskSpec};

use crate::client::{Client, LaneStatus};
use crate::descriptor::TaskDescriptor;
use crate::submit::SubmitError;
use crate::wait::WaitError;

/// How long a first typed call waits for the sidecar to notice the lane.
const NOTICE: Duration = Duration::from_secs(1);

/// The sidecar's handler and the caller's contract are not the same. Build both sides from one contract crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// No handler has the contract's id.
    #[error("the instance has no handler {id} ({name:?})")]
    Missing {
        /// The id.
        id: u32,
        /// The contract's name for it.
        name: &'static str,
    },
    /// The handler was built from another version of the contract, or is another handler.
    #[error("handler {id} is {found:?} with contract {found_fingerprint:016x}, not {name:?} with {fingerprint:016x}")]
    Different {
        /// The id.
        id: u32,
        /// The contract's name for it.
        name: &'static str,
        /// The handler's name.
        found: String,
        /// The contract's fingerprint.
        fingerprint: u64,
        /// The handler's fingerprint.
        found_fingerprint: u64,
    },
    /// The sidecar has not noticed the lane: without that nobody can say which handlers it was accepted under.
    #[error("the sidecar does not take the lane; it is down or stopping")]
    NotServed,
}

/// A task that ended, but not as `Done`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {task_id}: {status}{}{text}", if text.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// The task.
    pub task_id: TaskId,
    /// How it ended.
    pub status: Status,
    /// The handler's or the panic's text.
    pub text: String,
}

/// Why a call has no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The contract differs; nothing was submitted.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The task was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The task was accepted and its end was not seen. It stays accepted; its completion goes unread.
    #[error("task {task_id}: {source}")]
    Wait {
        /// The task.
        task_id: TaskId,
        /// Why the wait ended.
        source: WaitError,
    },
    /// The task ended, but not as `Done`.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The handler answered with something that is no value of the output type.
    #[error("task {task_id}: the response of {length} bytes is no legal value of the output type")]
    BadOutput {
        /// The task.
        task_id: TaskId,
        /// Bytes of the response.
        length: usize,
    },
}

/// The contracts that were compared with the sidecar's table, each in the place its id leads to.
#[derive(Debug, Default)]
pub(crate) struct CheckedContracts([(u32, u64); 8]);

impl CheckedContracts {
    #[inline(always)]
    fn has<T: TaskSpec>(&self) -> bool {
        self.0[T::ID as usize % 8] == (T::ID, T::FINGERPRINT)
    }

    fn add<T: TaskSpec>(&mut self) {
        self.0[T::ID as usize % 8] = (T::ID, T::FINGERPRINT);
    }
}

impl Client {
    /// Runs one task by contract and waits for its output, spinning. Completions of other tasks stay where they are.
    /// The first call of a contract compares it with the sidecar's table. The client remembers eight contracts; ids that
    /// differ by a multiple of eight share a place and are compared at every change between them.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. A sidecar that dies ends the wait as `ExecutorDown` within a millisecond or so; it never
    /// hangs.
    #[inline]
    pub fn call<T: TaskSpec>(&mut self, args: &T::Args) -> Result<T::Output, CallError> {
        self.call_until::<T>(args, None)
    }

    /// As [`call`](Self::call), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_timeout<T: TaskSpec>(&mut self, args: &T::Args, timeout: Duration) -> Result<T::Output, CallError> {
        self.call_until::<T>(args, Instant::now().checked_add(timeout))
    }

    #[inline(always)]
    fn call_until<T: TaskSpec>(&mut self, args: &T::Args, until: Option<Instant>) -> Result<T::Output, CallError> {
        if !self.contracts.has::<T>() {
            self.check_contract::<T>()?;
        }
        let task = TaskDescriptor::new(T::ID);
        let completion = match self.run_one(&task, bytes_of(args), until)? {
            Ok(completion) => completion,
            Err((task_id, source)) => return Err(CallError::Wait { task_id, source }),
        };
        if completion.is_done()
            && let Some(output) = completion.response().read::<T::Output>()
        {
            return Ok(output);
        }
        let task_id = completion.task_id();
        Err(match completion.status() {
            Status::Done => CallError::BadOutput { task_id, length: completion.response().len() },
            status => Failure { task_id, status, text: completion.text() }.into(),
        })
    }

    /// Submits one task by contract, to be collected by [`try_collect`](Self::try_collect).
    ///
    /// # Errors
    ///
    /// `Contract` and `Submit` of [`CallError`].
    #[inline]
    pub fn try_submit_typed<T: TaskSpec>(&mut self, args: &T::Args) -> Result<TaskId, CallError> {
        if !self.contracts.has::<T>() {
            self.check_contract::<T>()?;
        }
        Ok(self.try_submit(&TaskDescriptor::new(T::ID), bytes_of(args))?)
    }

    /// Compares a contract with the sidecar's table.
    ///
    /// The lane must be served first: tasks are judged by the handlers as they were when the sidecar took the lane, so
    /// only a table read after that can be compared. What changes later is answered `HandlerChanged`.
    ///
    /// # Errors
    ///
    /// See [`ContractError`].
    pub fn check_contract<T: TaskSpec>(&mut self) -> Result<(), ContractError> {
        let until = Instant::now() + NOTICE;
        while self.state() == LaneStatus::Claimed {
            if Instant::now() >= until || !self.is_executor_alive() {
                return Err(ContractError::NotServed);
            }
            self.instance.wake_housekeeping();
            std::thread::yield_now();
        }
        if self.state() == LaneStatus::Lost {
            return Err(ContractError::NotServed);
        }
        let row = self.instance.handler(T::ID).filter(|row| !row.gone);
        let row = row.ok_or(ContractError::Missing { id: T::ID, name: T::NAME })?;
        if row.fingerprint != T::FINGERPRINT || row.name != T::NAME {
            return Err(ContractError::Different {
                id: T::ID,
                name: T::NAME,
                found: row.name,
                fingerprint: T::FINGERPRINT,
                found_fingerprint: row.fingerprint,
            });
        }
        self.contracts.add::<T>();
        Ok(())
    }
}
