//! Shared-memory segments, lanes over them, liveness, recovery, and the sidecar as a library.
//!
//! The front door is [`Sidecar::builder`]; producers use crate `executor-client`, which is built on [`attach`]. Tools
//! read everything through [`inspect`].

#![deny(unsafe_code)]

pub mod attach;
pub mod barrier;
mod bell;
mod boot;
pub mod clean;
mod cpus;
mod crew;
mod draft;
pub mod fault;
pub mod files;
mod futex;
pub mod group;
pub mod handle;
pub mod hold;
pub mod housekeeping;
pub mod inspect;
pub mod lane;
pub mod layout;
mod leftovers;
pub mod lock;
pub mod lookout;
pub mod mapped;
mod mapping;
mod master;
#[doc(hidden)]
pub mod mutant;
mod name;
pub mod recovery;
mod refusal;
#[cfg(shuttle)]
pub mod rehearsal;
#[cfg(not(shuttle))]
mod rehearsal;
mod round;
mod shape;
pub mod sidecar;
mod sigbus;
pub mod signals;
mod sleep;
mod slice;
pub mod standby;
pub mod state;
pub mod status;
mod wanted;
mod warm;
pub mod words;

pub use executor_core as core;
pub use executor_core::real_time::{RealTime, RealTimePolicy};
pub use group::{Group, GroupError};
pub use handle::{Moment, SidecarHandle, SidecarStats, StopError, StopReport, WorkerProgress};
pub use hold::{Hold, HoldView};
pub use housekeeping::Ending;
pub use master::MasterError;
pub use name::{InstanceName, InstanceNameError};
pub use sidecar::{Sidecar, SidecarBuilder, StartError};
pub use signals::StopSignals;
pub use standby::Standby;
