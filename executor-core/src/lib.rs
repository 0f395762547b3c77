//! The engine of the executor without any shared memory: what a task is, who runs it, and how a worker serves lanes.
//!
//! This crate maps nothing and opens nothing under `/dev/shm`; it may read `/proc` and `/sys`. Its [dispatch
//! loop](worker) is generic over a source of [lanes](dispatch::Lane) with two implementors: lanes in shared memory
//! (crate `executor-shm`) and [in-process lanes](local) over `rtrb` rings.

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_endian = "little", target_pointer_width = "64")))]
compile_error!("executor runs on 64-bit little-endian Linux only");

pub mod clock;
pub mod contract;
mod control;
pub mod cpu;
pub mod dispatch;
#[cfg(not(loom))]
pub mod executor;
pub mod handler;
pub mod histogram;
pub mod idle;
pub mod local;
pub mod meter;
pub mod preempt;
pub mod real_time;
pub mod record;
pub mod recorder;
pub mod registry;
pub mod response;
mod rota;
pub mod status;
pub mod task;
pub mod trial;
pub mod view;
pub mod worker;

pub use bytemuck;
pub use clock::{Clock, ClockSource};
pub use contract::{SliceSpec, TaskSpec};
#[cfg(not(loom))]
pub use executor::{
    BatchError, Error, ExecutorBuilder, ExecutorConfig, ExecutorStats, LatencyGoal, LatencyKind, LatencyTargetReport,
    NanoTime, Task, TaskExecutor, TaskResult, Ticket, TicketError, global_time_source,
};
pub use handler::Handler;
pub use registry::{Registry, RegistryBuilder, RegistryError};
pub use response::Response;
pub use status::{Ran, Status};
pub use task::{Priority, TaskContext, TaskError, TaskId, TaskKey};
pub use trial::Trial;
pub use view::RequestView;
