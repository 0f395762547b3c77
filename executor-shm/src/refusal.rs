//! Why a sidecar did not start.

use executor_core::cpu::CpuError;
use executor_core::registry::{RegistryError, TableError};

use crate::files::FileError;
use crate::master::MasterError;
use crate::name::InstanceName;

/// Why a sidecar did not start. Nothing of another instance or of a living one was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Mend the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The instance's files could not be taken.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// The instance's lanes could not be made or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A CPU cannot be used.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A CPU was named twice; a worker wants one for itself.
    #[error("CPU {cpu} is named twice; each worker needs one of its own")]
    CpuTwice {
        /// The CPU.
        cpu: u32,
    },
    /// Real-time workers would leave no CPU to anybody else, housekeeping included. Allow one more CPU, have fewer workers, or
    /// leave out real-time scheduling.
    #[error(
        "real-time workers ({workers}) would leave no CPU to housekeeping: {allowed} allowed; allow one more, have fewer \
         workers, or leave out real-time scheduling"
    )]
    NoCpuLeft {
        /// Workers.
        workers: usize,
        /// CPUs that this process may use.
        allowed: usize,
    },
    /// A handler's own state could not be made.
    #[error(transparent)]
    Handler(#[from] TableError),
    /// More handlers than the instance's files have room for. Remove the instance's files first.
    #[error("instance {instance} has room for {room} handlers, retired ones included; remove its files first")]
    NoRoom {
        /// The instance.
        instance: InstanceName,
        /// Rows there are.
        room: u32,
    },
    /// This process is a forked child of the one that stands by.
    #[error("this process was forked from the one that stands by, which still does")]
    Forked,
    /// The kernel gave no thread or descriptor.
    #[error("cannot start a thread of the sidecar")]
    Thread(#[source] std::io::Error),
}
