//! A client for futures: one lane, shared by as many tasks of a runtime as like.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use executor_core::bytemuck::{CheckedBitPattern, bytes_of};
use executor_core::{SliceSpec, Status, TaskId, TaskSpec};
use executor_shm::InstanceName;

use crate::client::{Client, CollectError, LaneStatus, Note};
use crate::completion::OwnedCompletion;
use crate::completion_fd::CompletionFd;
use crate::completions::Completions;
use crate::connect::ConnectError;
use crate::descriptor::TaskDescriptor;
use crate::shared_lane::{Inner, NoWatcher, SharedLane};
use crate::submit::SubmitError;
use crate::task_future::{Push, Submit, SubmitPlain, TaskFuture};
use crate::ticket::Ticket;
use crate::typed::{CallError, Contract, ContractError, Failure, slice_bytes, slice_fill};
use crate::wait::WaitError;

/// A connection for futures: a [`Client`] that is cloned, sent and shared freely. It works on every runtime, and on none.
///
/// All clones have the one lane: tasks run one after another, in the order of their submits. A submit takes the lane's
/// mutex, which its threads hold for a copy at a time, and otherwise costs what it costs a [`Client`]; where that is too
/// much, or one lane too slow, connect several times. Awaiting enters the kernel only if the end is not there yet: then one thread
/// of the library, for all clients of the process, sleeps until it is and wakes the future. It is started by the first
/// future that has to wait, and ends when the last client is gone.
///
/// Futures may be dropped at any time. A submit that was dropped before it had resolved has submitted nothing; a
/// [`TaskFuture`] that is dropped gives its slot back once the task has ended, and the task runs all the same.
///
/// While no sidecar runs, futures stay pending: what was accepted stays accepted, and the next sidecar on the same files
/// answers it. Whoever does not want to wait that long sets a time limit with its runtime, and then asks
/// [`is_executor_alive`](Self::is_executor_alive). A lane that will never answer ends them with an error.
///
/// In a forked child every operation ends as `Forked`. The lane is detached when the last clone and the last future of it
/// are gone.
///
/// ```
/// # use executor_client::{AsyncClient, InstanceName, TaskDescriptor};
/// # use executor_shm::{Sidecar, core::Registry};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// #     let instance = InstanceName::new(&format!("doc-async-{}", std::process::id()))?;
/// #     let mut registry = Registry::builder();
/// #     registry.handler(1, "echo", |_, request, response| { response.write(request); Ok(()) });
/// #     let _sidecar = Sidecar::builder().instance(instance.clone()).registry(registry.build()?).pinned(false).start()?;
/// #     let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
/// let client = AsyncClient::connect(&instance)?;
/// let echo = TaskDescriptor::new(1);
/// runtime.block_on(async {
///     let tasks = (0..100u64).map(|i| {
///         let client = client.clone();
///         tokio::spawn(async move {
///             let completion = client.submit(&echo, i.to_le_bytes()).await?.await?;
///             assert_eq!(completion.read::<u64>(), Some(i));
///             Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
///         })
///     });
///     for task in tasks.collect::<Vec<_>>() {
///         task.await?.map_err(|error| error.to_string())?;
///     }
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AsyncClient {
    pub(crate) lane: Arc<SharedLane>,
}

/// What users build on, checked wherever this is compiled.
const _: () = {
    const fn shared<T: Clone + Send + Sync + 'static>() {}
    const fn sent<T: Send + 'static>() {}
    shared::<AsyncClient>();
    sent::<TaskFuture>();
    sent::<Submit<Vec<u8>>>();
    sent::<SubmitPlain<&'static [u8]>>();
    sent::<Completions>();
    sent::<CompletionFd>();
    sent::<OwnedCompletion>();
};

impl Client {
    /// The same connection for futures. Tickets that are still held are worth nothing afterwards; completions of plain
    /// tasks come by [`AsyncClient::completions`] and its kin. Free.
    pub fn into_async(self) -> AsyncClient {
        AsyncClient { lane: SharedLane::new(self) }
    }
}

impl AsyncClient {
    /// Connects as [`Client::connect`] does. It blocks: for a millisecond or so, for a second if all lanes are taken.
    /// For other options: [`ConnectOptions::connect`](crate::ConnectOptions::connect), then [`Client::into_async`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(instance: &InstanceName) -> Result<Self, ConnectError> {
        Client::connect(instance).map(Client::into_async)
    }

    /// Connects as [`Client::connect_timeout`] does. It blocks, for as long as that.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect_timeout(instance: &InstanceName, timeout: Duration) -> Result<Self, ConnectError> {
        Client::connect_timeout(instance, timeout).map(Client::into_async)
    }

    /// Submits a task as soon as the lane has room; the future it resolves to resolves to the completion.
    ///
    /// The payload is whatever owns or borrows bytes: `Vec<u8>` or `[u8; N]` for a future that is spawned, `&[u8]` for one
    /// that is awaited here. It is copied once, into the lane.
    pub fn submit<P: AsRef<[u8]>>(&self, task: &TaskDescriptor, payload: P) -> Submit<P> {
        Submit { push: Push::new(&self.lane, task, Note::Ticket), payload }
    }

    /// Submits a task if the lane has room.
    ///
    /// # Errors
    ///
    /// See [`SubmitError`]; the task comes back and nothing was submitted.
    pub fn try_submit(&self, task: &TaskDescriptor, payload: &[u8]) -> Result<TaskFuture, SubmitError> {
        let ticket = self.lane.with(|inner, _| inner.client.submit_ticket(task, payload));
        let ticket: Ticket = ticket.ok_or(SubmitError::Forked(*task))??;
        Ok(TaskFuture { lane: Arc::clone(&self.lane), ticket })
    }

    /// Submits a plain task as soon as the lane has room: its completion comes in order, by
    /// [`completions`](Self::completions), a [`CompletionFd`] or [`try_collect`](Self::try_collect). Somebody has to take
    /// them: their slots are free only then.
    pub fn submit_plain<P: AsRef<[u8]>>(&self, task: &TaskDescriptor, payload: P) -> SubmitPlain<P> {
        SubmitPlain { push: Push::new(&self.lane, task, Note::Plain), payload }
    }

    /// Submits a plain task if the lane has room.
    ///
    /// # Errors
    ///
    /// See [`SubmitError`]; the task comes back and nothing was submitted.
    pub fn try_submit_plain(&self, task: &TaskDescriptor, payload: &[u8]) -> Result<TaskId, SubmitError> {
        self.lane.with(|inner, _| inner.client.try_submit(task, payload)).ok_or(SubmitError::Forked(*task))?
    }

    /// The completion of the oldest plain task, if it has ended.
    ///
    /// # Errors
    ///
    /// As [`Completions`].
    pub fn try_collect(&self) -> Result<Option<OwnedCompletion>, WaitError> {
        self.lane.with(Inner::collect).ok_or(CollectError::Forked)?
    }

    /// The completions of plain tasks as a stream.
    pub fn completions(&self) -> Completions {
        Completions::new(&self.lane)
    }

    /// A descriptor that is readable while completions of plain tasks are there, for a loop of the program's own.
    ///
    /// # Errors
    ///
    /// The process has no descriptor or no thread left, or is a forked child.
    pub fn completion_fd(&self) -> std::io::Result<CompletionFd> {
        CompletionFd::new(&self.lane)
    }

    /// Runs one task by contract and waits for its output, without blocking. The first call of a contract compares it with
    /// the sidecar's table, as [`Client::call`] does.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub fn call<T>(&self, args: &T::Args) -> impl Future<Output = Result<T::Output, CallError>> + Send + use<T>
    where
        T: TaskSpec<Args: Send> + 'static,
    {
        let (client, args) = (self.clone(), *args);
        async move {
            let submit = move |push: &mut Push, context: &Context<'_>| {
                let bytes = bytes_of(&args);
                push.poll(bytes.len(), |place| place.copy_from_slice(bytes), context)
            };
            client.run(Contract::of::<T>(), submit).await
        }
    }

    /// As [`call`](Self::call), with a header and any number of items that fit the instance's request buffers: a
    /// `Vec` or an array of them for a future that is spawned, a slice for one that is awaited here. They are copied once.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); items that do not fit are [`SubmitError::TooLong`].
    pub fn call_slice<T, I>(
        &self,
        header: &T::Header,
        items: I,
    ) -> impl Future<Output = Result<T::Output, CallError>> + Send + use<T, I>
    where
        T: SliceSpec<Header: Send> + 'static,
        I: AsRef<[T::Item]> + Send,
    {
        let (client, header) = (self.clone(), *header);
        async move {
            let submit = move |push: &mut Push, context: &Context<'_>| {
                let items = items.as_ref(); // code of the caller's, before the lock
                push.poll(slice_bytes::<T>(items), slice_fill::<T>(&header, items), context)
            };
            client.run(Contract::of_slice::<T>(), submit).await
        }
    }

    async fn run<O: CheckedBitPattern>(
        &self,
        contract: Contract,
        mut submit: impl FnMut(&mut Push, &Context<'_>) -> Poll<Result<(u64, TaskId), SubmitError>>,
    ) -> Result<O, CallError> {
        let mut until = None;
        poll_fn(|context| self.lane.poll(|inner, _| inner.poll_agree(&contract, &mut until, context))).await?;
        let mut push = Push::new(&self.lane, &TaskDescriptor::new(contract.id), Note::Ticket);
        let (position, task_id) = poll_fn(|context| submit(&mut push, context)).await?;
        let future = push.future(position, task_id);
        drop(push);
        let completion = future.await.map_err(|source| CallError::Wait { task_id, source })?;
        match completion.status() {
            Status::Done => {
                completion.read().ok_or_else(|| CallError::BadOutput { task_id, length: completion.response().len() })
            }
            status => Err(Failure { task_id, status, text: completion.text() }.into()),
        }
    }

    /// The lane's state, as [`Client::state`].
    pub fn state(&self) -> LaneStatus {
        self.lane.with(|inner, _| inner.client.state()).unwrap_or(LaneStatus::Lost)
    }

    /// Whether a sidecar holds the instance now, as [`Client::is_executor_alive`].
    pub fn is_executor_alive(&self) -> bool {
        self.lane.with(|inner, _| inner.client.is_executor_alive()).unwrap_or(false)
    }

    /// Whether accepted tasks can never be answered, as [`Client::is_damaged`].
    pub fn is_damaged(&self) -> bool {
        self.lane.with(|inner, _| inner.client.is_damaged()).unwrap_or(false)
    }

    /// Tasks submitted whose slots are not free yet, as far as is known; 0 in a forked child.
    pub fn in_flight(&self) -> u64 {
        self.lane.with(|inner, _| inner.client.in_flight()).unwrap_or(0)
    }

    /// Slots of the lane: tasks that can be submitted and not taken.
    pub fn capacity(&self) -> usize {
        self.lane.facts.capacity
    }

    /// Longest payload, in bytes.
    pub fn request_limit(&self) -> usize {
        self.lane.facts.request_limit
    }

    /// The lane's number.
    pub fn lane_number(&self) -> u32 {
        self.lane.facts.number
    }

    /// The instance's name.
    pub fn instance(&self) -> &InstanceName {
        &self.lane.facts.instance
    }
}

impl From<CollectError> for ContractError {
    fn from(_: CollectError) -> Self {
        Self::NotServed
    }
}

impl From<NoWatcher> for ContractError {
    fn from(_: NoWatcher) -> Self {
        Self::NotServed
    }
}
