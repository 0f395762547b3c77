//! A value on its way from a task to whoever submitted it.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::sync::rouse;
use super::wait::{deadline, leave_to_others, nap_until};
use super::work::Task;
use crate::dispatch::{contain, panic_text};
use crate::idle::{Idle, IdleStrategy, Rest};
use crate::status::Status;
use crate::task::{Priority, TaskError, TaskId};

/// Why a ticket brings no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError<E = TaskError> {
    /// The task failed with this.
    #[error("the task failed")]
    Failed(E),
    /// The task panicked with this text.
    #[error("the task panicked: {0}")]
    Panicked(String),
    /// A registered handler could not run or did not answer.
    #[error("{status}")]
    Unanswered {
        /// How it ended.
        status: Status,
    },
    /// The task goes on; [`Ticket::wait_timeout`] leaves the ticket with who waits.
    #[error("the task did not finish within {waited:?}")]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
    /// The caller is a task of the executor whose value it waits for, and no worker would be left to run that.
    #[error("waiting here would leave no worker of this executor to go on")]
    WouldDeadlock,
    /// The value was handed out before.
    #[error("the value was taken already")]
    Taken,
}

type End<T, E> = Result<T, TicketError<E>>;

struct Slip<T, E> {
    state: Mutex<State<T, E>>,
    /// 0 until the task has finished.
    finished: AtomicU32,
}

struct State<T, E> {
    end: Option<End<T, E>>,
    waker: Option<Waker>,
}

/// The value of a task: wait for it, or await it on any runtime. Dropped, the task runs all the same.
#[must_use = "the value is lost with its ticket"]
pub struct Ticket<T, E = TaskError> {
    id: TaskId,
    slip: Arc<Slip<T, E>>,
    idle: IdleStrategy,
    /// The number of the executor whose task it is.
    executor: u64,
}

impl<T, E> Slip<T, E> {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { end: None, waker: None }), finished: AtomicU32::new(0) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, end: End<T, E>) {
        self.state().end = Some(end);
    }

    fn finish(&self) {
        let waker = {
            let mut state = self.state();
            self.finished.store(1, Release);
            state.waker.take()
        };
        rouse(&self.finished);
        if let Some(waker) = waker {
            contain(|| waker.wake()); // before the value is dropped, which must not happen while a panic unwinds
        }
    }
}

/// A task that runs `closure` and its ticket.
pub(crate) fn of_closure<T, E, F>(
    name: Cow<'static, str>,
    priority: Priority,
    closure: F,
    engine: &Engine,
) -> (Task, Ticket<T, E>)
where
    F: FnOnce() -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let slip = Slip::new();
    let (inner, outer) = (Arc::clone(&slip), Arc::clone(&slip));
    let task = Task::new(name, priority, move || match catch_unwind(AssertUnwindSafe(closure)) {
        Ok(Ok(value)) => {
            inner.put(Ok(value));
            Ok(())
        }
        Ok(Err(error)) => {
            inner.put(Err(TicketError::Failed(error)));
            Err(TaskError::new("the closure returned an error, which its ticket holds"))
        }
        Err(panic) => {
            inner.put(Err(TicketError::Panicked(panic_text(&*panic).to_owned())));
            resume_unwind(panic)
        }
    });
    let id = task.id();
    (task.answering(move |_| outer.finish()), Ticket { id, slip, idle: engine.terms.idle, executor: engine.number })
}

/// A task that calls a handler, with the ticket for what `read` makes of its response.
pub(crate) fn of_call<T: Send + 'static>(
    task: Task,
    engine: &Engine,
    read: impl Fn(&[u8]) -> Option<T> + Send + 'static,
) -> (Task, Ticket<T>) {
    let slip = Slip::new();
    let outer = Arc::clone(&slip);
    let id = task.id();
    let task = task.answering(move |answer| {
        outer.put(match answer {
            Ok(bytes) => read(bytes).ok_or(TicketError::Unanswered { status: Status::Done }),
            Err(failure) => Err(match failure.status {
                Status::Failed { code } => TicketError::Failed(TaskError::with_code(code, failure.text.to_owned())),
                Status::Panicked => TicketError::Panicked(failure.text.to_owned()),
                status => TicketError::Unanswered { status },
            }),
        });
        outer.finish();
    });
    (task, Ticket { id, slip, idle: engine.terms.idle, executor: engine.number })
}

impl<T, E> Ticket<T, E> {
    /// The task.
    pub fn task_id(&self) -> TaskId {
        self.id
    }

    /// Whether it has finished.
    pub fn is_finished(&self) -> bool {
        self.slip.finished.load(Acquire) != 0
    }

    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// Every variant of [`TicketError`] but `Taken`. After `Timeout` and `WouldDeadlock` the value is lost; see
    /// [`wait_timeout`](Self::wait_timeout).
    pub fn wait(mut self, timeout: Duration) -> Result<T, TicketError<E>> {
        self.wait_timeout(timeout)
    }

    /// The same, and after [`TicketError::Timeout`] and [`TicketError::WouldDeadlock`] again.
    ///
    /// # Errors
    ///
    /// Every variant of [`TicketError`].
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<T, TicketError<E>> {
        let mut idle = Idle::new(self.idle);
        let (mut end, mut misses) = (None, 0u32);
        let _guest = match leave_to_others(self.executor) {
            Ok(guest) => guest,
            Err(_) if self.is_finished() => None,
            Err(_) => return Err(TicketError::WouldDeadlock),
        };
        while !self.is_finished() {
            misses = misses.wrapping_add(1);
            let rest = idle.miss();
            if rest != Rest::Sleep && !misses.is_multiple_of(64) && !timeout.is_zero() {
                continue;
            }
            let end = *end.get_or_insert_with(|| deadline(timeout));
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(TicketError::Timeout { waited: timeout });
            }
            if rest == Rest::Sleep {
                nap_until(&self.slip.finished, 0, end);
                idle.slept();
            }
        }
        self.take()
    }

    fn take(&self) -> End<T, E> {
        self.slip.state().end.take().unwrap_or(Err(TicketError::Taken))
    }
}

impl<T, E> Future for Ticket<T, E> {
    type Output = Result<T, TicketError<E>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slip.state();
        if self.slip.finished.load(Relaxed) != 0 {
            return Poll::Ready(state.end.take().unwrap_or(Err(TicketError::Taken)));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            waker => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T, E> fmt::Debug for Ticket<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("task_id", &self.id).field("is_finished", &self.is_finished()).finish()
    }
}
