//! What a task of an asynchronous client waits for: room, and its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use executor_core::TaskId;

use crate::client::{CollectError, Note};
use crate::completion::OwnedCompletion;
use crate::descriptor::TaskDescriptor;
use crate::shared_lane::{NoWatcher, Place, SharedLane};
use crate::submit::SubmitError;
use crate::ticket::Ticket;
use crate::wait::WaitError;

/// The end of an accepted task, to be awaited: `Result<OwnedCompletion, WaitError>`.
///
/// Made by [`AsyncClient::submit`](crate::AsyncClient::submit) and its kin. The task is under way already: it runs whether
/// this is polled or not. Dropped, the completion is nobody's, and its slot comes back once the task has ended.
///
/// It stays pending while no sidecar runs: the task stays accepted, and the next sidecar on the same files answers it.
///
/// # Errors
///
/// [`Discarded`](WaitError::Discarded) and [`Damaged`](WaitError::Damaged): the task will never be answered, which is
/// noticed within some 0.1 s. [`Collect`](WaitError::Collect): the lane is corrupt, or this is a forked child.
/// [`NoWatcher`](WaitError::NoWatcher): see there; it may be awaited again. [`AlreadyTaken`](WaitError::AlreadyTaken): it was
/// polled after it had ended.
#[derive(Debug)]
#[must_use = "the task runs all the same, but nobody learns how it ended"]
pub struct TaskFuture {
    pub(crate) lane: Arc<SharedLane>,
    pub(crate) ticket: Ticket,
}

impl TaskFuture {
    /// The task's number.
    pub fn task_id(&self) -> TaskId {
        self.ticket.task_id()
    }
}

impl Future for TaskFuture {
    type Output = Result<OwnedCompletion, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { lane, ticket } = &mut *self;
        lane.poll(|inner, wakers| inner.poll_task(ticket, context, wakers))
    }
}

impl Drop for TaskFuture {
    fn drop(&mut self) {
        let Self { lane, ticket } = self;
        lane.with(|inner, wakers| inner.abandon(ticket, wakers));
    }
}

impl From<NoWatcher> for WaitError {
    fn from(NoWatcher(errno): NoWatcher) -> Self {
        Self::NoWatcher { errno }
    }
}

/// A submit that waits for room: one place in the queue, given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Push {
    lane: Arc<SharedLane>,
    task: TaskDescriptor,
    place: Place,
    note: Note,
}

/// Why a push ended without a position.
pub(crate) enum PushError {
    Submit(SubmitError),
    NoWatcher(i32),
    Forked,
}

impl From<SubmitError> for PushError {
    fn from(error: SubmitError) -> Self {
        Self::Submit(error)
    }
}

impl From<NoWatcher> for PushError {
    fn from(NoWatcher(errno): NoWatcher) -> Self {
        Self::NoWatcher(errno)
    }
}

impl From<CollectError> for PushError {
    fn from(_: CollectError) -> Self {
        Self::Forked
    }
}

impl PushError {
    fn of(self, task: TaskDescriptor) -> SubmitError {
        match self {
            Self::Submit(error) => error,
            Self::NoWatcher(errno) => SubmitError::NoWatcher { task, errno },
            Self::Forked => SubmitError::Forked(task),
        }
    }
}

impl Push {
    pub(crate) fn new(lane: &Arc<SharedLane>, task: &TaskDescriptor, note: Note) -> Self {
        Self { lane: Arc::clone(lane), task: *task, place: Place::default(), note }
    }

    /// `fill` makes the payload of `length` bytes, under the lane's lock.
    pub(crate) fn poll(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
        context: &Context<'_>,
    ) -> Poll<Result<(u64, TaskId), SubmitError>> {
        let Self { lane, task, place, note } = self;
        let polled = lane.poll(|inner, wakers| {
            let pushed = inner.poll_push(place, task, (length, fill), *note, (context, wakers));
            pushed.map_ok(|position| (position, inner.client.task_id(position))).map_err(PushError::from)
        });
        polled.map_err(|error| error.of(self.task))
    }

    /// The future of the task at `position`.
    pub(crate) fn future(&self, position: u64, task_id: TaskId) -> TaskFuture {
        let abandoned = self.lane.abandoned();
        let ticket = Ticket { task_id, position, abandoned, taken: false };
        TaskFuture { lane: Arc::clone(&self.lane), ticket }
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        let Self { lane, place, .. } = self;
        if place.is_queued() {
            lane.with(|inner, wakers| inner.leave(place, wakers));
        }
    }
}

/// A submit that waits for room; resolves to the [`TaskFuture`] of the accepted task.
///
/// Nothing is submitted before it is polled, and nothing if it is dropped before it has resolved. Submits that wait are
/// let in one after another, in the order in which they began to wait.
///
/// # Errors
///
/// See [`SubmitError`]; `Full` does not come from here.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Submit<P> {
    pub(crate) push: Push,
    pub(crate) payload: P,
}

impl<P> Unpin for Submit<P> {}

impl<P: AsRef<[u8]>> Future for Submit<P> {
    type Output = Result<TaskFuture, SubmitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { push, payload } = &mut *self;
        let bytes = payload.as_ref();
        let polled = push.poll(bytes.len(), |place| place.copy_from_slice(bytes), context);
        polled.map_ok(|(position, task_id)| push.future(position, task_id))
    }
}

/// A submit that waits for room; resolves to the [`TaskId`] of an accepted task whose completion comes by
/// [`Completions`](crate::Completions) and its kin. Otherwise as [`Submit`].
///
/// # Errors
///
/// See [`SubmitError`]; `Full` does not come from here.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct SubmitPlain<P> {
    pub(crate) push: Push,
    pub(crate) payload: P,
}

impl<P> Unpin for SubmitPlain<P> {}

impl<P: AsRef<[u8]>> Future for SubmitPlain<P> {
    type Output = Result<TaskId, SubmitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { push, payload } = &mut *self;
        let bytes = payload.as_ref();
        push.poll(bytes.len(), |place| place.copy_from_slice(bytes), context).map_ok(|(_, task_id)| task_id)
    }
}
