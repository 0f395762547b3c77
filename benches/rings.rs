//! The floor: a pair of `rtrb` rings between two pinned threads that spin.
//!
//! A trip is one number there and one back, a rate is that of boxed closures through one ring. Not done: ids, names,
//! priorities, limits, a result for anybody, panic guards, clock reads, counters.

use std::error::Error;
use std::thread::scope;

use executord::floor::{CAPACITY, FloorError, Pinned, WARM_UP, sample_trips, time_trips};
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::closures::Trips;
use crate::rates::{Job, Refused, boxed_count, insist, rate};

/// Misses in a row before a look whether the other side is still there.
const SPINS_PER_LOOK: u32 = 1 << 16;

/// Numbers there and back: elapsed time by trips, and fenced samples.
pub(crate) fn trips(cpus: (u32, u32), trips: u64) -> Result<Trips, Box<dyn Error>> {
    let (mut to, mut there) = RingBuffer::<u64>::new(CAPACITY as usize);
    let (mut back, mut from) = RingBuffer::<u64>::new(CAPACITY as usize);
    let _pinned = Pinned::to(cpus.0)?;
    scope(|scope| {
        scope.spawn(move || -> Result<(), FloorError> {
            let _pinned = Pinned::to(cpus.1)?;
            while let Some(number) = await_next(&mut there) {
                let _ = back.push(number); // never full: there is one number in all
            }
            Ok(())
        });
        // The ring is the closure's own, so however it ends, the other thread ends too.
        let mut trip = move |number| -> Result<(), Box<dyn Error>> {
            let _ = to.push(number);
            let back = await_next(&mut from).ok_or("the other thread of the floor ended")?;
            if back == number { Ok(()) } else { Err("the floor mixes up its numbers".into()) }
        };
        time_trips(WARM_UP, &mut trip)?;
        let mean = time_trips(trips, &mut trip)?;
        Ok(Trips::dense(mean, &sample_trips(trips, &mut trip)?))
    })
}

/// Closures a second of one submitter: boxed, into a ring of `depth` slots.
pub(crate) fn tasks_per_second(cpus: (u32, u32), tasks: u64, depth: usize) -> Result<f64, Box<dyn Error>> {
    let (to, mut there) = RingBuffer::<Job>::new(depth);
    scope(|scope| {
        scope.spawn(move || -> Result<(), FloorError> {
            let _pinned = Pinned::to(cpus.1)?;
            while let Some(job) = await_next(&mut there) {
                job();
            }
            Ok(())
        });
        let (per_second, _) = rate(cpus.0, tasks, vec![to], |to: &mut Producer<Job>| {
            insist(boxed_count(), |job: Job| to.push(job).map_err(|PushError::Full(job)| Refused::Full(job)))
        })?;
        Ok(per_second)
    })
}

/// Spins until there is something; `None` once the other side is gone.
#[inline(always)]
fn await_next<T>(ring: &mut Consumer<T>) -> Option<T> {
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if let Ok(next) = ring.pop() {
                return Some(next);
            }
        }
        if ring.is_abandoned() {
            return ring.pop().ok();
        }
    }
}
