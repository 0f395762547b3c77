//! One task through a registry, here and now: no sidecar, no lane in shared memory, no thread. For tests of handlers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytemuck::{CheckedBitPattern, bytes_of, checked};

use crate::clock::Clock;
use crate::contract::{SliceSpec, TaskSpec};
use crate::dispatch::{Desk, Scratch, Served};
use crate::local;
use crate::meter::{self, MeterLayout};
use crate::record::{DescriptorRecord, LENGTH_MAX};
use crate::recorder::{Notebook, Recording};
use crate::registry::{Registry, Table};
use crate::rota::Place;
use crate::status::Status;
use crate::task::{LaneFacts, Priority};

/// How a task ended that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    status: Status,
    response: Vec<u8>,
}

impl Trial {
    /// How it ended.
    pub fn status(&self) -> Status {
        self.status
    }

    /// What the handler answered, or the text of its error or panic.
    pub fn response(&self) -> &[u8] {
        &self.response
    }

    /// The response as text, for a task that failed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.response).into_owned()
    }

    /// The output of a task that ended as `Done`.
    ///
    /// # Errors
    ///
    /// The trial itself: the task ended otherwise, or its response is no value of `T`.
    pub fn output<T: CheckedBitPattern>(self) -> Result<T, Self> {
        if self.status != Status::Done {
            return Err(self);
        }
        checked::try_pod_read_unaligned(&self.response).map_err(|_| self)
    }
}

impl Registry {
    /// Runs one task on the calling thread, through the same judgement, panic guard and limits on its form as in a
    /// sidecar, and says how it ended. Requests and responses may be as long as any lane takes; per-worker handlers are
    /// made anew for it, as worker 0. Costs some tens of microseconds: it is meant for tests of handlers.
    ///
    /// # Panics
    ///
    /// A per-worker handler panicked while it was made; a sidecar would not start with it.
    ///
    /// # Examples
    ///
    /// ```
    /// use executor_core::{Registry, Status};
    ///
    /// let mut registry = Registry::builder();
    /// registry.handler(1, "upper", |_, request, response| {
    ///     response.write(&request.to_ascii_uppercase());
    ///     Ok(())
    /// });
    /// let registry = registry.build()?;
    /// let trial = registry.try_task(1, b"hello");
    /// assert_eq!((trial.status(), trial.response()), (Status::Done, &b"HELLO"[..]));
    /// # Ok::<(), executor_core::RegistryError>(())
    /// ```
    pub fn try_task(&self, handler_id: u32, request: &[u8]) -> Trial {
        let layout = MeterLayout { workers: 1, handlers: self.handlers().len(), lanes: 1 };
        let table = Table::new(self, 0).unwrap_or_else(|error| panic!("{error}"));
        let (clock, meter) = (Clock::detect(), meter::heap_of_counts(&layout));
        let mut desk = Desk {
            table,
            clock,
            timed: true,
            worker: 0,
            notes: Notebook::begin(Recording::Off, true, (&meter, &layout), 0, &clock, &[]),
            meter,
            layout,
            scratch: Scratch::new(request.len()),
            record: DescriptorRecord::default(),
            in_flight: None,
            last_completed_at: 0,
        };
        let (mut producer, lane) = local::lane(1, LENGTH_MAX, LENGTH_MAX);
        let facts = LaneFacts {
            lane: 0,
            base: 0,
            instance_nonce: 0,
            generation: 0,
            priority: Priority::Normal,
            attached_at: 0,
            meter: layout.lane(0),
        };
        let mut served = Served::new(lane, facts);
        // A lane of one slot that nothing else uses takes its first task and has its completion after one step.
        let _ = producer.try_submit(handler_id, request, desk.clock.now(), 0);
        let step = catch_unwind(AssertUnwindSafe(|| desk.step(&mut served, Place { class: 0, index: 0 })));
        if let (Err(panic), Some(flight)) = (step, desk.in_flight.take()) {
            desk.resolve_panic(flight, &mut served, &*panic);
        }
        match producer.try_collect() {
            Some(completion) => Trial {
                status: completion.record.status().unwrap_or(Status::Done),
                response: completion.response().to_vec(),
            },
            None => unreachable!("one step ends the one task of a lane"),
        }
    }

    /// Runs one task of a typed contract, as [`try_task`](Self::try_task).
    ///
    /// # Errors
    ///
    /// How the task ended, if not as `Done` with a legal output.
    ///
    /// # Panics
    ///
    /// As [`try_task`](Self::try_task).
    pub fn try_call<T: TaskSpec>(&self, args: &T::Args) -> Result<T::Output, Trial> {
        self.try_task(T::ID, bytes_of(args)).output()
    }

    /// Runs one task of a typed contract with items, as [`try_task`](Self::try_task).
    ///
    /// # Errors
    ///
    /// As [`try_call`](Self::try_call).
    ///
    /// # Panics
    ///
    /// As [`try_task`](Self::try_task).
    pub fn try_call_slice<T: SliceSpec>(&self, header: &T::Header, items: &[T::Item]) -> Result<T::Output, Trial> {
        let mut request = bytes_of(header).to_vec();
        request.resize(T::ITEMS_AT, 0);
        request.extend_from_slice(bytemuck::cast_slice(items));
        self.try_task(T::ID, &request).output()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::Handler;
    use crate::status::Malformed;
    use crate::task::TaskError;

    struct Half;
    impl TaskSpec for Half {
        const ID: u32 = 1;
        const NAME: &'static str = "half";
        const SCHEMA: u32 = 1;
        type Args = u64;
        type Output = u32;
    }

    struct Sum;
    impl SliceSpec for Sum {
        const ID: u32 = 2;
        const NAME: &'static str = "sum";
        const SCHEMA: u32 = 1;
        type Header = u8;
        type Item = u32;
        type Output = u64;
    }

    fn registry() -> Registry {
        let mut registry = Registry::builder();
        registry.typed::<Half>(|_, number| match number % 2 {
            0 => Ok((number / 2) as u32),
            _ => Err(TaskError::with_code(3, "an odd number")),
        });
        registry.slice::<Sum>(|_, start, items| {
            Ok(u64::from(*start) + items.iter().map(|&item| u64::from(item)).sum::<u64>())
        });
        registry.handler(3, "panics", |_, request, _| panic!("got {} bytes", request.len()));
        registry.add(Handler::per_worker(4, "counts", |_| {
            let mut count = 0u64;
            move |_, _, response| {
                count += 1;
                response.write_value(&count);
                Ok(())
            }
        }));
        registry.handler(5, "double", |_, request, response| {
            response.write(request);
            response.write(request);
            Ok(())
        });
        registry.build().unwrap()
    }

    #[test]
    fn a_trial_ends_as_the_task_would_in_a_sidecar() {
        let registry = registry();
        assert_eq!(registry.try_call::<Half>(&8), Ok(4));
        let odd = registry.try_call::<Half>(&9).unwrap_err();
        assert_eq!((odd.status(), odd.text().as_str()), (Status::Failed { code: 3 }, "an odd number"));
        assert_eq!(registry.try_call_slice::<Sum>(&1, &[2, 3]), Ok(6));
        assert_eq!(registry.try_task(1, &[0; 7]).status(), Status::Malformed(Malformed::WrongSize));
        assert_eq!(registry.try_task(9, &[]).status(), Status::Malformed(Malformed::UnknownHandler));
        let panicked = registry.try_task(3, &[0; 40]);
        assert_eq!((panicked.status(), panicked.text().as_str()), (Status::Panicked, "got 40 bytes"));
        assert_eq!(registry.try_task(4, &[]).output::<u64>(), Ok(1));
        assert_eq!(registry.try_task(4, &[]).output::<u64>(), Ok(1), "each trial has a worker of its own");
    }

    #[test]
    fn a_trial_takes_what_the_longest_lane_takes_and_no_more() {
        let registry = registry();
        assert_eq!(registry.try_task(5, &vec![7; LENGTH_MAX / 2]).response().len(), LENGTH_MAX);
        let wanted = LENGTH_MAX as u32 + 64;
        assert_eq!(registry.try_task(5, &vec![7; LENGTH_MAX / 2 + 32]).status(), Status::ResponseTooLong { wanted });
        assert_eq!(registry.try_task(5, &vec![7; LENGTH_MAX + 1]).status(), Status::Malformed(Malformed::TooLong));
        assert!(registry.try_task(1, &8u64.to_le_bytes()).output::<u64>().is_err(), "the output has four bytes");
    }
}
