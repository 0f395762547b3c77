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
//! The library starts no thread and installs no signal handler. Submitting and collecting allocate nothing and enter the
//! kernel at no time. A wait enters it to yield, once it has spun for a while, and to probe about every millisecond
//! whether the sidecar is still alive. Connecting, the first call of a [`TaskSpec`], and copies of a response that own
//! memory ([`ResponseView::to_vec`] and its like) cost more.

#![deny(unsafe_code)]

mod client;
mod completion;
mod connect;
mod descriptor;
mod submit;
mod ticket;
mod typed;
mod wait;

pub use client::{Client, CollectError, LaneStatus};
pub use completion::{Completion, ResponseView, Times};
pub use connect::{ConnectError, ConnectOptions};
pub use descriptor::TaskDescriptor;
pub use executor_core::bytemuck;
pub use executor_core::idle::IdleStrategy;
pub use executor_core::{Priority, Ran, SliceSpec, Status, TaskId, TaskKey, TaskSpec};
pub use executor_shm::{InstanceName, InstanceNameError};
pub use submit::{Batch, RequestLoan, SubmitError};
pub use ticket::Ticket;
pub use typed::{CallError, ContractError, Failure};
pub use wait::{CloseError, SubmitCollectingError, WaitError};

/// The README's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
