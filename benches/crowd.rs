//! One worker with many lanes: what idle ones cost a task, and what busy ones carry together.

use std::error::Error;
use std::sync::Barrier;
use std::time::Instant;

use executor_client::bytemuck::bytes_of;
use executor_client::{Client, TaskDescriptor};
use executor_core::TaskSpec;
use executor_core::idle::{Idle, IdleStrategy};
use executord::floor::{CAPACITY, Pinned, WARM_UP, time_trips};

use crate::sidecar::{Setup, SidecarProcess};
use crate::sum::{Sum, Wrong, call};

/// Attached lanes that do nothing, beside the one that is measured.
pub(crate) const IDLE_LANES: [usize; 4] = [1, 16, 64, 256];
/// Producers that share a worker.
pub(crate) const PRODUCERS: [usize; 4] = [1, 2, 4, 8];

/// A round trip with each count of [`IDLE_LANES`]: elapsed time by trips, in nanoseconds. All on one sidecar, lanes
/// attached one after another.
pub(crate) fn trips_among_idle_lanes(cpus: (u32, u32), round_trips: u64) -> Result<[f64; 4], Box<dyn Error>> {
    let most = IDLE_LANES.into_iter().max().unwrap_or_default() as u32;
    // Short lanes: nothing is kept in the idle ones, and a default lane each would fill a small /dev/shm.
    let setup = Setup { lanes: most + 1, capacity: 64, request_bytes: 64, ..Setup::one_lane(cpus.1) };
    let sidecar = SidecarProcess::start(&setup)?;
    let mut client = sidecar.connect()?;
    let _pinned = Pinned::to(cpus.0)?;
    let mut idle = Vec::new();
    let mut trips = [0.0; 4];
    for (count, trip) in IDLE_LANES.into_iter().zip(&mut trips) {
        while idle.len() < count {
            let mut client = sidecar.connect()?;
            call(&mut client, 1)?; // its first call waits until a worker serves it
            idle.push(client);
        }
        time_trips(WARM_UP.min(round_trips), |number| call(&mut client, number))?;
        *trip = time_trips(round_trips, |number| call(&mut client, number))?;
    }
    Ok(trips)
}

/// Tasks a second of `producers` threads with a lane each, all on the first CPU, the worker on the second: about `tasks`
/// in all, timed from the first submit to the last collected answer.
pub(crate) fn tasks_per_second(cpus: (u32, u32), producers: usize, tasks: u64) -> Result<f64, Box<dyn Error>> {
    let sidecar = SidecarProcess::start(&Setup { lanes: producers as u32, ..Setup::one_lane(cpus.1) })?;
    let mut clients: Vec<Client> = (0..producers).map(|_| sidecar.connect()).collect::<Result<_, _>>()?;
    let share = tasks / producers as u64;
    let (ready, done) = (Barrier::new(producers + 1), Barrier::new(producers + 1));
    let mut elapsed = 0.0;
    let outcomes: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let producers: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let (ready, done) = (&ready, &done);
                scope.spawn(move || {
                    let warm = warm(client, cpus.0);
                    ready.wait();
                    let outcome = warm.and_then(|()| pump(client, share).map_err(|error| error.to_string()));
                    done.wait();
                    outcome
                })
            })
            .collect();
        ready.wait();
        let begun = Instant::now();
        done.wait();
        elapsed = begun.elapsed().as_secs_f64();
        producers
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a producer panicked".into())))
            .collect()
    });
    outcomes.into_iter().collect::<Result<Vec<()>, String>>()?;
    Ok((share * producers as u64) as f64 / elapsed)
}

fn warm(client: &mut Client, cpu: u32) -> Result<(), String> {
    // The thread ends with its measurement, so nothing has to be restored.
    std::mem::forget(Pinned::to(cpu).map_err(|error| error.to_string())?);
    call(client, 1).and_then(|()| pump(client, WARM_UP)).map_err(|error| error.to_string())
}

/// Keeps the lane full until `tasks` tasks have gone round. A producer that finds nothing to do spins and then yields:
/// on a CPU that several share, the answers it waits for come while another runs.
fn pump(client: &mut Client, tasks: u64) -> Result<(), Wrong> {
    let task = TaskDescriptor::new(Sum::ID);
    let mut idle = Idle::new(IdleStrategy::SpinThenYield);
    let (mut submitted, mut collected) = (0, 0);
    while collected < tasks {
        let before = submitted + collected;
        while submitted < tasks.min(collected + CAPACITY) {
            let payload: [u64; 4] = [submitted, 1, 2, 3];
            client.try_submit(&task, bytes_of(&payload)).map_err(|error| Wrong::Call(error.into()))?;
            submitted += 1;
        }
        while let Some(completion) = client.try_collect().map_err(|_| Wrong::Sum { number: collected })? {
            if completion.response().read::<u64>() != Some(collected + 6) {
                return Err(Wrong::Sum { number: collected });
            }
            collected += 1;
        }
        if submitted + collected == before {
            let _ = idle.miss(); // it never sleeps
        } else {
            idle.hit();
        }
    }
    Ok(())
}
