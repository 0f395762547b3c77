//! The producer's side of the executor: connect to a running sidecar, submit tasks, collect their completions.
//!
//! ```no_run
//! use executor_client::{Client, InstanceName, TaskDescriptor};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut client = Client::connect(&InstanceName::default())?;
//!     let echo = TaskDescriptor::new(1);
//!     client.try_submit(&echo, b"hello")?;
//!     loop {
//!         if let Some(completion) = client.try_collect()? {
//!             assert_eq!(completion.response().to_vec(), b"hello");
//!             return Ok(());
//!         }
//!         std::hint::spin_loop();
//!     }
//! }
//! ```
//!
//! The library starts no thread for it and installs no signal handler. Submitting and collecting allocate nothing and enter
//! the kernel at no time. A wait enters it to yield, once it has spun for a while, and to probe about every millisecond
//! whether the sidecar is still alive. Connecting, the first call of a [`TaskSpec`], and copies of a response that own
//! memory ([`ResponseView::to_vec`] and its like) cost more.
//!
//! [`AsyncClient`] is a client for futures, on any runtime or none, which many tasks share. Here there is a thread, one for
//! the whole process: the first future that has to wait starts it, and it ends with the last such client.
//!
//! # Features
//!
//! `tokio` (off by default): `TokioCompletions`, which has tokio's reactor wait for completions.

#![deny(unsafe_code)]

mod async_client;
mod client;
mod completion;
mod completion_fd;
mod completions;
mod connect;
mod descriptor;
mod shared_lane;
mod submit;
mod task_future;
mod ticket;
#[cfg(feature = "tokio")]
mod tokio_completions;
mod typed;
mod wait;
mod watcher;

pub use async_client::AsyncClient;
pub use client::{Client, CollectError, LaneStatus};
pub use completion::{Completion, OwnedCompletion, ResponseView, Times};
pub use completion_fd::CompletionFd;
pub use completions::Completions;
pub use connect::{ConnectError, ConnectOptions};
pub use descriptor::TaskDescriptor;
pub use executor_core::bytemuck;
pub use executor_core::idle::IdleStrategy;
pub use executor_core::{Priority, Ran, SliceSpec, Status, TaskId, TaskKey, TaskSpec};
pub use executor_shm::{InstanceName, InstanceNameError};
pub use submit::{Batch, RequestLoan, SubmitError};
pub use task_future::{Submit, SubmitPlain, TaskFuture};
pub use ticket::Ticket;
#[cfg(feature = "tokio")]
pub use tokio_completions::TokioCompletions;
pub use typed::{CallError, ContractError, Failure};
pub use wait::{CloseError, SubmitCollectingError, WaitError};
#[doc(hidden)]
pub use watcher::overslept;

/// The README's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
