//! What one round measures: the executor and its floor over the same two CPUs.
//!
//! Every answer is checked; a wrong one ends the bench.

use std::error::Error;
use std::time::Instant;

use executor_client::bytemuck::bytes_of;
use executor_client::{Client, TaskDescriptor};
use executor_core::idle::IdleStrategy;
use executor_core::registry::RegistryError;
use executor_core::{Registry, TaskSpec};
use executord::floor::{self, CAPACITY, PingPong, Pinned, TripTimes, WARM_UP, sample_trips, time_trips};

use crate::report::Side;
use crate::sidecar::{Setup, SidecarProcess};
use crate::sum::{Sum, Wrong, call, sum};

/// The handlers of the bench's sidecar.
pub(crate) fn registry() -> Result<Registry, RegistryError> {
    Registry::builder().typed::<Sum>(|_, numbers| Ok(sum(numbers))).build()
}

/// Where and how everything is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    /// The producer's CPU and the sidecar's.
    pub(crate) cpus: (u32, u32),
    /// Round trips of each pass.
    pub(crate) round_trips: u64,
    /// Tasks of each throughput pass.
    pub(crate) tasks: u64,
    /// Tasks that the throughput loops submit and collect in one go.
    pub(crate) batch: u64,
}

impl Course {
    /// Whether both sides share one CPU.
    pub(crate) fn is_lonely(&self) -> bool {
        self.cpus.0 == self.cpus.1
    }

    /// Runs `measure` with a client of a sidecar that was just started and used a little.
    fn with_client<T>(
        &self,
        timing: bool,
        measure: impl FnOnce(&mut Client) -> Result<T, Box<dyn Error>>,
    ) -> Result<T, Box<dyn Error>> {
        let idle = if self.is_lonely() { IdleStrategy::Yield } else { IdleStrategy::Spin };
        let sidecar = SidecarProcess::start(&Setup { timing, idle, ..Setup::one_lane(self.cpus.1) })?;
        let mut client = sidecar.connect()?;
        let _pinned = Pinned::to(self.cpus.0)?;
        time_trips(WARM_UP, |number| call(&mut client, number))?;
        measure(&mut client)
    }

    /// Bare round trips, both kinds.
    pub(crate) fn floor_trips(&self) -> Result<PingPong, Box<dyn Error>> {
        Ok(floor::ping_pong(self.cpus, self.round_trips)?)
    }

    /// The protocol written bare, without an executor: elapsed time by trips, in nanoseconds.
    pub(crate) fn bare_trip_ns(&self) -> Result<f64, Box<dyn Error>> {
        Ok(floor::bare_round_trip(self.cpus, self.round_trips)?.0)
    }

    /// A task through the executor: elapsed time by trips, in nanoseconds.
    pub(crate) fn task_ns(&self) -> Result<f64, Box<dyn Error>> {
        self.with_client(true, |client| Ok(time_trips(self.round_trips, |number| call(client, number))?))
    }

    /// Single round trips.
    pub(crate) fn trip_times(&self, side: Side) -> Result<TripTimes, Box<dyn Error>> {
        match side {
            Side::Floor => Ok(*floor::ping_pong_times(self.cpus, self.round_trips)?.floor()),
            Side::Ours => {
                self.with_client(true, |client| Ok(sample_trips(self.round_trips, |number| call(client, number))?))
            }
        }
    }

    /// Tasks through one lane.
    pub(crate) fn tasks_per_second(&self, side: Side, timing: bool) -> Result<f64, Box<dyn Error>> {
        match side {
            Side::Floor => Ok(floor::throughput(self.cpus, self.tasks, self.batch, timing)?.tasks_per_second),
            Side::Ours => self.with_client(timing, |client| {
                pump(client, WARM_UP, self.batch)?;
                let start = Instant::now();
                pump(client, self.tasks, self.batch)?;
                Ok(self.tasks as f64 / start.elapsed().as_secs_f64())
            }),
        }
    }
}

/// Both sides, the first one changing from round to round, so that a drift of the machine favours neither.
pub(crate) fn sides_in_turn(round: usize) -> [Side; 2] {
    if round.is_multiple_of(2) { [Side::Floor, Side::Ours] } else { [Side::Ours, Side::Floor] }
}

/// Sends `tasks` tasks through the lane, as many at a time as it holds, in turns of `batch`; each answer is checked
/// against its place in the order.
fn pump(client: &mut Client, tasks: u64, batch: u64) -> Result<(), Box<dyn Error>> {
    let task = TaskDescriptor::new(Sum::ID);
    let (mut submitted, mut collected) = (0, 0);
    while collected < tasks {
        let room = (collected + CAPACITY).min(submitted + batch).min(tasks);
        while submitted < room {
            let payload: [u64; 4] = [submitted, 1, 2, 3];
            client.try_submit(&task, bytes_of(&payload))?;
            submitted += 1;
        }
        let before = collected;
        while collected < submitted && collected - before < batch {
            let Some(completion) = client.try_collect()? else { break };
            if completion.response().read::<u64>() != Some(collected + 6) {
                return Err(Wrong::Sum { number: collected }.into());
            }
            collected += 1;
        }
    }
    Ok(())
}
