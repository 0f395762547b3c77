//! Calls by contract: arguments in, output out, one task at a time.

use std::time::{Duration, Instant};

use executor_core::bytemuck::{CheckedBitPattern, bytes_of, cast_slice};
use executor_core::{SliceSpec, Status, TaskId, TaskSpec};

use crate::client::{Client, LaneStatus, Note};
use crate::descriptor::TaskDescriptor;
use crate::submit::SubmitError;
use crate::wait::WaitError;

/// How long a first typed call waits for the sidecar to notice the lane.
pub(crate) const NOTICE: Duration = Duration::from_secs(1);

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

/// What a contract is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contract {
    pub(crate) id: u32,
    name: &'static str,
    fingerprint: u64,
}

impl Contract {
    pub(crate) const fn of<T: TaskSpec>() -> Self {
        Self { id: T::ID, name: T::NAME, fingerprint: T::FINGERPRINT }
    }

    pub(crate) const fn of_slice<T: SliceSpec>() -> Self {
        Self { id: T::ID, name: T::NAME, fingerprint: T::FINGERPRINT }
    }
}

/// The contracts that were compared with the sidecar's table, each in the place its id leads to.
#[derive(Debug, Default)]
pub(crate) struct CheckedContracts([(u32, u64); 8]);

impl CheckedContracts {
    #[inline(always)]
    fn has(&self, contract: &Contract) -> bool {
        self.0[contract.id as usize % 8] == (contract.id, contract.fingerprint)
    }

    fn add(&mut self, contract: &Contract) {
        self.0[contract.id as usize % 8] = (contract.id, contract.fingerprint);
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
        self.call_until(&Contract::of::<T>(), size_of::<T::Args>(), |place| place.copy_from_slice(bytes_of(args)), None)
    }

    /// As [`call`](Self::call), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_timeout<T: TaskSpec>(&mut self, args: &T::Args, timeout: Duration) -> Result<T::Output, CallError> {
        let fill = |place: &mut [u8]| place.copy_from_slice(bytes_of(args));
        self.call_until(&Contract::of::<T>(), size_of::<T::Args>(), fill, Instant::now().checked_add(timeout))
    }

    /// As [`call`](Self::call), with a header and any number of items that fit the instance's request buffers. They are
    /// copied once, into the slot.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); items that do not fit are [`SubmitError::TooLong`].
    #[inline]
    pub fn call_slice<T: SliceSpec>(&mut self, header: &T::Header, items: &[T::Item]) -> Result<T::Output, CallError> {
        self.call_until(&Contract::of_slice::<T>(), slice_bytes::<T>(items), slice_fill::<T>(header, items), None)
    }

    /// As [`call_slice`](Self::call_slice), for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call_slice`](Self::call_slice).
    pub fn call_slice_timeout<T: SliceSpec>(
        &mut self,
        header: &T::Header,
        items: &[T::Item],
        timeout: Duration,
    ) -> Result<T::Output, CallError> {
        let until = Instant::now().checked_add(timeout);
        self.call_until(&Contract::of_slice::<T>(), slice_bytes::<T>(items), slice_fill::<T>(header, items), until)
    }

    #[inline(always)]
    fn call_until<O: CheckedBitPattern>(
        &mut self,
        contract: &Contract,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
        until: Option<Instant>,
    ) -> Result<O, CallError> {
        self.agree(contract)?;
        let task = TaskDescriptor::new(contract.id);
        let completion = match self.run_one(&task, length, fill, until)? {
            Ok(completion) => completion,
            Err((task_id, source)) => return Err(CallError::Wait { task_id, source }),
        };
        if completion.is_done()
            && let Some(output) = completion.response().read::<O>()
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
        self.agree(&Contract::of::<T>())?;
        Ok(self.try_submit(&TaskDescriptor::new(T::ID), bytes_of(args))?)
    }

    /// As [`try_submit_typed`](Self::try_submit_typed), with a header and items.
    ///
    /// # Errors
    ///
    /// As [`try_submit_typed`](Self::try_submit_typed); items that do not fit are [`SubmitError::TooLong`].
    #[inline]
    pub fn try_submit_slice<T: SliceSpec>(
        &mut self,
        header: &T::Header,
        items: &[T::Item],
    ) -> Result<TaskId, CallError> {
        self.agree(&Contract::of_slice::<T>())?;
        let (task, length) = (TaskDescriptor::new(T::ID), slice_bytes::<T>(items));
        let position = self.push_with(&task, length, slice_fill::<T>(header, items), Note::Plain)?;
        Ok(self.task_id(position))
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
        self.compare(&Contract::of::<T>())
    }

    /// As [`check_contract`](Self::check_contract), for a contract with items.
    ///
    /// # Errors
    ///
    /// See [`ContractError`].
    pub fn check_slice_contract<T: SliceSpec>(&mut self) -> Result<(), ContractError> {
        self.compare(&Contract::of_slice::<T>())
    }

    #[inline(always)]
    fn agree(&mut self, contract: &Contract) -> Result<(), ContractError> {
        if self.contracts.has(contract) { Ok(()) } else { self.compare(contract) }
    }

    #[cold]
    fn compare(&mut self, contract: &Contract) -> Result<(), ContractError> {
        let until = Instant::now() + NOTICE;
        while self.state() == LaneStatus::Claimed {
            if Instant::now() >= until || !self.is_executor_alive() {
                return Err(ContractError::NotServed);
            }
            self.instance.wake_housekeeping();
            std::thread::yield_now();
        }
        self.compare_now(contract)
    }

    /// Whether the contract was compared before.
    pub(crate) fn has_agreed(&self, contract: &Contract) -> bool {
        self.contracts.has(contract)
    }

    /// Compares, on a lane that the sidecar has taken.
    #[cold]
    pub(crate) fn compare_now(&mut self, contract: &Contract) -> Result<(), ContractError> {
        if self.state() == LaneStatus::Lost {
            return Err(ContractError::NotServed);
        }
        let &Contract { id, name, fingerprint } = contract;
        let row = self.instance.handler(id).filter(|row| !row.gone);
        let row = row.ok_or(ContractError::Missing { id, name })?;
        if row.fingerprint != fingerprint || row.name != name {
            let (found, found_fingerprint) = (row.name, row.fingerprint);
            return Err(ContractError::Different { id, name, found, fingerprint, found_fingerprint });
        }
        self.contracts.add(contract);
        Ok(())
    }
}

/// Bytes of the payload; more than any lane takes if they cannot be counted.
#[inline(always)]
pub(crate) fn slice_bytes<T: SliceSpec>(items: &[T::Item]) -> usize {
    T::payload_bytes(items.len()).unwrap_or(usize::MAX)
}

/// Makes the payload in its place: header, zeros up to the items, items.
#[inline(always)]
pub(crate) fn slice_fill<'a, T: SliceSpec>(header: &'a T::Header, items: &'a [T::Item]) -> impl FnOnce(&mut [u8]) + 'a {
    move |place| {
        let (head, tail) = place.split_at_mut(T::ITEMS_AT);
        let (bytes, padding) = head.split_at_mut(size_of::<T::Header>());
        bytes.copy_from_slice(bytes_of(header));
        padding.fill(0);
        tail.copy_from_slice(cast_slice(items));
    }
}
