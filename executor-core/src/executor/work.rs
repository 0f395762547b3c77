//! A task as its author writes it: a name, a priority and what to run.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sync_wrapper::SyncWrapper;

use crate::contract::TaskSpec;
use crate::status::Status;
use crate::task::{Priority, TaskError, TaskId};

/// Ids a thread takes at a time.
const BLOCK: u64 = 64;

static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static BLOCK_LEFT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// An id that no other task of this process has.
fn next_id() -> TaskId {
    let id = BLOCK_LEFT.try_with(|block| {
        let (mut next, mut end) = block.get();
        if next == end {
            next = NEXT.fetch_add(BLOCK, Relaxed);
            end = next + BLOCK;
        }
        block.set((next + 1, end));
        next
    });
    TaskId::from_u64(id.unwrap_or_else(|_| NEXT.fetch_add(BLOCK, Relaxed))) // a thread that ends has no block any more
}

/// Something to run once, with a name for people and a [`Priority`].
///
/// It has its [`id`](Self::id) from the start, so that it can be put into tables before it is submitted. Making one costs
/// the allocation of its closure, none if that captures nothing.
///
/// ```
/// use executor_core::{Priority, Task};
///
/// let task = Task::new("greet", Priority::Normal, || {
///     println!("hello");
///     Ok(())
/// });
/// assert_eq!(task.name(), "greet");
/// ```
pub struct Task {
    pub(crate) id: TaskId,
    pub(crate) name: Cow<'static, str>,
    pub(crate) priority: Priority,
    pub(crate) body: Body,
}

/// Code that a task brings. Nobody calls it through a shared reference, so a task, and an error that hands one back, may be
/// shared.
pub(crate) type Closure = SyncWrapper<Box<dyn FnOnce() -> Result<(), TaskError> + Send>>;

/// What a task runs. Two words: it lies in a ring.
pub(crate) enum Body {
    Closure(Closure),
    Errand(Box<Errand>),
}

/// What is rarer than a plain closure.
pub(crate) enum Errand {
    /// A registered handler to be called.
    Call { handler_id: u32, payload: Vec<u8>, reply: Option<Reply> },
    /// A closure somebody is told about once it has finished.
    Answer { closure: Closure, reply: Reply },
}

/// Told how a task ended, once it counts as finished: its response, or why there is none with the text of it.
pub(crate) type Reply = SyncWrapper<Box<dyn FnOnce(Result<&[u8], Failure<'_>>) + Send>>;

/// How a task failed.
#[derive(Clone, Copy)]
pub(crate) struct Failure<'a> {
    pub(crate) status: Status,
    pub(crate) text: &'a str,
}

impl Task {
    /// A task that runs `closure`. A name that is a `&'static str` costs nothing.
    ///
    /// The closure's `Err` and its panic both become a [`TaskResult`](super::TaskResult) without `success`; the worker
    /// lives on.
    pub fn new<F>(name: impl Into<Cow<'static, str>>, priority: Priority, closure: F) -> Self
    where
        F: FnOnce() -> Result<(), TaskError> + Send + 'static,
    {
        Self { id: next_id(), name: name.into(), priority, body: Body::Closure(SyncWrapper::new(Box::new(closure))) }
    }

    /// A task that calls the handler registered as `handler_id` with the bytes `payload`, as a task through shared memory
    /// does; its name is empty until it is [`named`](Self::named). Its response is for who submits it with
    /// [`submit_call`](super::TaskExecutor::submit_call).
    pub fn call(handler_id: u32, payload: impl Into<Vec<u8>>) -> Self {
        let call = Errand::Call { handler_id, payload: payload.into(), reply: None };
        Self { id: next_id(), name: Cow::Borrowed(""), priority: Priority::Normal, body: Body::Errand(Box::new(call)) }
    }

    /// The same for a typed contract.
    pub fn typed<S: TaskSpec>(args: &S::Args) -> Self {
        Self::call(S::ID, bytemuck::bytes_of(args)).named(S::NAME)
    }

    /// The same task, with somebody who is told how it ended; who was to be told before is not.
    pub(crate) fn answering(mut self, answer: impl FnOnce(Result<&[u8], Failure<'_>>) + Send + 'static) -> Self {
        let answer: Reply = SyncWrapper::new(Box::new(answer));
        self.body = Body::Errand(Box::new(match self.body {
            Body::Closure(closure) => Errand::Answer { closure, reply: answer },
            Body::Errand(errand) => match *errand {
                Errand::Call { handler_id, payload, .. } => Errand::Call { handler_id, payload, reply: Some(answer) },
                Errand::Answer { closure, .. } => Errand::Answer { closure, reply: answer },
            },
        }));
        self
    }

    /// The same task with another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// The same task with another priority.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Its number, unique in this process.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its priority.
    pub fn priority(&self) -> Priority {
        self.priority
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, priority, .. } = self;
        f.debug_struct("Task").field("id", id).field("name", name).field("priority", priority).finish_non_exhaustive()
    }
}
