//! Finding the instance and getting a lane of it.

use std::time::{Duration, Instant};

use executor_core::Priority;
use executor_core::idle::IdleStrategy;
use executor_shm::InstanceName;
use executor_shm::attach::{Claim, Instance, OpenError, Wish};
use executor_shm::files::FileError;

use crate::client::Client;

/// How long a connect tries for a lane of a running sidecar unless told otherwise: lanes are made and replaced in
/// milliseconds.
const LANE_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks for a lane or a sidecar.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Why [`Client::connect`] refused. Nothing was claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No sidecar, files of another user, another ABI, damaged files: the source says which and what to do.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// All lanes are taken. Close a client, or restart the sidecar with more lanes.
    #[error("instance {instance} has no free lane among {lanes} ({holders}); close a client or raise --lanes")]
    NoFreeLane {
        /// The instance.
        instance: InstanceName,
        /// Most lanes it has.
        lanes: u32,
        /// Who holds them, by pid as they told it.
        holders: String,
    },
    /// The lanes that are made are taken, and there is no room for more. Make room, or close a client.
    #[error(
        "instance {instance} has no free lane ({holders}) and no room for another: /dev/shm has {free} bytes left, a \
         lane takes {needed}; close a client, or enlarge it (mount -o remount,size=…, docker run --shm-size=…)"
    )]
    NoRoom {
        /// The instance.
        instance: InstanceName,
        /// Bytes that a lane takes.
        needed: u64,
        /// Bytes that are left.
        free: u64,
        /// Who holds the lanes there are, by pid as they told it.
        holders: String,
    },
    /// The files of a lane could not be opened or believed.
    #[error(transparent)]
    Lane(#[from] FileError),
}

impl ConnectError {
    /// Whether no sidecar runs, so that starting one or waiting for it would help.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::Open(OpenError::NotRunning { .. }))
    }
}

/// What a connect wants besides the instance's name.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOptions {
    priority: Priority,
    worker: Option<u32>,
    idle: IdleStrategy,
    owner: Option<u32>,
    timeout: Option<Duration>,
}

impl ConnectOptions {
    /// Normal priority, any worker, only sidecars of root and of this user, no waiting for a sidecar.
    pub fn new() -> Self {
        Self::default()
    }

    /// How urgent the lane's tasks are.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The worker that shall serve the lane, counted from 0; one that there is not means any.
    #[must_use]
    pub fn worker(mut self, worker: u32) -> Self {
        self.worker = Some(worker);
        self
    }

    /// What its waits do between two looks; unset, [`IdleStrategy::Adaptive`].
    #[must_use]
    pub fn idle(mut self, idle: IdleStrategy) -> Self {
        self.idle = idle;
        self
    }

    /// A user id whose sidecar is believed besides root's and this process's own.
    #[must_use]
    pub fn owner(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// How long to wait for a sidecar to start and for a lane to become free. Unset: a sidecar must be running, and a
    /// lane is tried for during one second.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(&self, instance: &InstanceName) -> Result<Client, ConnectError> {
        let begun = Instant::now();
        let left = |patience: Duration| patience.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        loop {
            match Instance::open(instance, self.owner) {
                Ok(found) => match self.claim(&found, &left)? {
                    Some(claim) => return Ok(Client::new(found, claim, self.idle)),
                    // It ended while we waited for a lane: there may be another by now.
                    None if self.timeout.and_then(left).is_some() => {}
                    None => return Err(OpenError::NotRunning { instance: instance.clone() }.into()),
                },
                Err(OpenError::NotRunning { .. }) if self.timeout.and_then(left).is_some() => {
                    std::thread::park_timeout(LOOK_AGAIN);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A lane, or `None` if the sidecar ended meanwhile.
    fn claim(
        &self,
        found: &Instance,
        left: &impl Fn(Duration) -> Option<Duration>,
    ) -> Result<Option<Claim>, ConnectError> {
        let wish = Wish { priority: self.priority, worker: self.worker };
        loop {
            let refused = match found.claim(wish) {
                Ok(Some(claim)) => return Ok(Some(claim)),
                Ok(None) => None,
                // The fault of one lane; another may become free.
                Err(error) if error.is_damage() || error.is_squatted() => Some(error),
                Err(error) => return Err(error.into()),
            };
            if !found.is_alive() {
                return Ok(None);
            }
            if left(self.timeout.unwrap_or(LANE_PATIENCE)).is_none() {
                if let Some(refused) = refused {
                    return Err(refused.into());
                }
                let holders = found.holders();
                let names = holders.iter().map(|(lane, state, pid)| match pid {
                    0 => format!("lane {lane} {}", state.name()),
                    pid => format!("lane {lane} {} by pid {pid}", state.name()),
                });
                let (instance, holders) = (found.name().clone(), names.collect::<Vec<_>>().join(", "));
                return Err(match found.shortage() {
                    Some((needed, free)) => ConnectError::NoRoom { instance, needed, free, holders },
                    None => ConnectError::NoFreeLane { instance, lanes: found.geometry().lanes, holders },
                });
            }
            found.nap(LOOK_AGAIN);
        }
    }
}
