//! What the meter counts and what the stamps say agree with what was run.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod scripted;

use std::sync::Arc;

use executor_core::histogram::{BUCKETS, bucket_of};
use executor_core::meter::{self, COUNTS};
use executor_core::record::DescriptorRecord;
use executor_core::{Handler, Priority, Registry, Status, TaskError, recorder, worker};
use proptest::prelude::*;

use scripted::{Script, Setup, Task, monotonic};

fn setup(timed: bool) -> Setup {
    Setup { timed, clock: monotonic(), ..Setup::default() }
}

/// Handler 1 is done, 2 panics, 3 fails, 4 answers too much, 5 takes one byte and nothing else.
fn registry() -> Registry {
    let mut builder = Registry::builder();
    builder.handler(1, "done", |_, _, _| Ok(()));
    builder.handler(2, "panics", |_, _, _| std::panic::resume_unwind(Box::new("boom")));
    builder.handler(3, "fails", |_, _, _| Err(TaskError::new("no")));
    builder.handler(4, "babbles", |_, _, response| {
        response.write(&[0; 1000]);
        Ok(())
    });
    builder.add(Handler::new(5, "one", |_, _, _| Ok(())).request_bytes(1..=1));
    builder.build().unwrap()
}

fn stamped(handler_id: u32, submitted_at: u64) -> Task {
    let record = DescriptorRecord::new(handler_id, 0, submitted_at, 0);
    Task { record, payload: Vec::new(), attempt: 1 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn counts_and_histograms_agree_with_the_completions(
        tasks in prop::collection::vec((0..3u32, 1..8u32, any::<bool>()), 0..200),
        timed in any::<bool>(),
    ) {
        let script = Script::new(setup(timed));
        script.adopt(&[Priority::Normal, Priority::Normal, Priority::Low]);
        for &(lane, handler_id, stamp) in &tasks {
            script.world.push(lane, stamped(handler_id, if stamp { 1 } else { 0 }));
        }
        script.control.borrow_mut().close().unwrap();
        let (meter, layout) = (Arc::clone(&script.meter), script.layout);
        let (world, _) = script.serve(&registry(), &[]);
        let log = world.log.borrow();
        prop_assert_eq!(log.len(), tasks.len());
        prop_assert_eq!(worker::totals(&meter, &layout, 0).tasks, tasks.len() as u64);

        // Handlers in order of their ids are the rows; per lane the tasks are answered in their order.
        let mut handlers = [[0; Status::CODES]; 5];
        let mut lanes = [[0; Status::CODES]; 3];
        let (mut run, mut queue, mut total) = ([0; 5], [0; 5], [0; 3]);
        for lane in 0..3 {
            let submitted = tasks.iter().filter(|task| task.0 == lane);
            for (entry, &(_, handler_id, stamp)) in log.iter().filter(|entry| entry.lane == lane).zip(submitted) {
                let status = entry.status();
                if status != Status::Done {
                    lanes[lane as usize][status.code() as usize] += 1;
                }
                let Some(row) = handlers.get_mut(handler_id as usize - 1) else { continue };
                row[status.code() as usize] += 1;
                if timed && status.ran() == executor_core::Ran::Yes {
                    run[handler_id as usize - 1] += 1;
                    if stamp {
                        queue[handler_id as usize - 1] += 1;
                        total[lane as usize] += 1;
                    }
                }
            }
        }
        for row in 0..5 {
            let at = layout.handler(0, row);
            prop_assert_eq!(meter::counts(&meter, at), handlers[row], "handler row {}", row);
            prop_assert_eq!(meter::histogram(&meter, at + COUNTS).count(), queue[row]);
            prop_assert_eq!(meter::histogram(&meter, at + COUNTS + BUCKETS).count(), run[row]);
        }
        for lane in 0..3 {
            let at = layout.lane(lane);
            prop_assert_eq!(meter::counts(&meter, at), lanes[lane], "lane {}", lane);
            prop_assert_eq!(meter::histogram(&meter, at + COUNTS).count(), total[lane]);
        }
    }
}

#[test]
fn a_histogram_holds_the_times_that_the_completion_says() {
    let script = Script::new(setup(true));
    script.adopt(&[Priority::Normal]);
    let now = monotonic().now();
    script.world.push(0, stamped(1, now));
    let (meter, layout) = (Arc::clone(&script.meter), script.layout);
    let world = script.serve_total(1, &registry(), |_| {});
    let completion = world.log.borrow()[0].completion;
    let [queue, run, total] = [
        completion.started_at() - completion.submitted_at(),
        completion.completed_at() - completion.started_at(),
        completion.completed_at() - completion.submitted_at(),
    ];
    let only = |at: usize| {
        let histogram = meter::histogram(&meter, at);
        assert_eq!(histogram.count(), 1);
        [histogram.min().unwrap(), histogram.max().unwrap()]
    };
    for (at, ticks) in [
        (layout.handler(0, 0) + COUNTS, queue),
        (layout.handler(0, 0) + COUNTS + BUCKETS, run),
        (layout.lane(0) + COUNTS, total),
    ] {
        let [min, max] = only(at);
        assert!(min <= ticks && ticks <= max, "{min} {ticks} {max}");
    }
}

#[test]
fn a_stamp_from_before_the_attach_or_from_the_future_is_not_believed() {
    let script = Script::new(setup(true));
    let mut lane = script.lane(0, Priority::Normal, 8);
    lane.facts.attached_at = monotonic().now();
    let attached_at = lane.facts.attached_at;
    script.control.borrow_mut().adopt(lane).unwrap();
    script.world.push(0, stamped(1, 1));
    script.world.push(0, stamped(2, u64::MAX));
    let (meter, layout) = (Arc::clone(&script.meter), script.layout);
    let world = script.serve_total(2, &registry(), |_| {});
    let log = world.log.borrow();
    assert_eq!([0, 1].map(|at: usize| log[at].completion.submitted_at()), [1, u64::MAX], "echoed raw");
    let queue = |row| meter::histogram(&meter, layout.handler(0, row) + COUNTS);
    let waited = log[0].completion.started_at() - attached_at;
    assert_eq!(queue(0).buckets()[bucket_of(waited)], 1, "since the attach and not since the first tick");
    assert_eq!(queue(1).buckets()[0], 1, "no wait at all");
}

#[test]
fn tasks_back_to_back_share_a_stamp_only_if_the_second_waited_already() {
    let script = Script::new(setup(true));
    script.adopt(&[Priority::Normal]);
    // A stamp of 1 waited already, one from the future did not, and 0 says nothing. The fourth ends in a panic, which
    // takes its time. The last one comes after a miss: one look that ends the turn and one that is a sweep of its own.
    for (handler_id, submitted_at) in [(1, 1), (1, 1), (9, 1), (2, 1), (3, 1), (1, u64::MAX), (1, 0), (1, 1), (1, 1)] {
        script.world.push(0, stamped(handler_id, submitted_at));
    }
    let clock = monotonic();
    let world = script.serve_total(9, &registry(), move |world| {
        let completed_at = world.log.borrow().last().map_or(0, |entry| entry.completion.completed_at());
        while clock.now() <= completed_at {} // so that a stamp of its own is a later one
        if world.ended() == 8 {
            world.misses.set(2);
        }
    });
    let log = world.log.borrow();
    let shared: Vec<bool> =
        log.windows(2).map(|pair| pair[0].completion.completed_at() == pair[1].completion.started_at()).collect();
    assert_eq!(shared, [true, true, true, false, false, false, true, false]);
    for pair in log.windows(2) {
        assert!(pair[0].completion.started_at() <= pair[0].completion.completed_at());
        assert!(pair[0].completion.completed_at() <= pair[1].completion.started_at());
    }
}

#[test]
fn with_timing_off_every_stamp_is_zero_but_the_echo() {
    let script = Script::new(setup(false));
    script.adopt(&[Priority::Normal]);
    for handler_id in 1..=6 {
        script.world.push(0, stamped(handler_id, 9));
    }
    let world = script.serve_total(6, &registry(), |_| {});
    for entry in &*world.log.borrow() {
        let stamps = [entry.completion.submitted_at(), entry.completion.started_at(), entry.completion.completed_at()];
        assert_eq!(stamps, [9, 0, 0]);
    }
}

#[test]
fn workers_count_in_blocks_that_do_not_overlap() {
    let layout = meter::MeterLayout { workers: 3, handlers: 5, lanes: 4 };
    let mut ends = vec![0];
    for worker in 0..3 {
        assert_eq!(layout.worker(worker), *ends.last().unwrap());
        ends.push(layout.worker(worker) + meter::WORKER_WORDS);
        for row in 0..5 {
            assert_eq!(layout.handler(worker, row), *ends.last().unwrap());
            ends.push(layout.handler(worker, row) + meter::HANDLER_WORDS);
        }
    }
    for lane in 0..4 {
        assert_eq!(layout.lane(lane), *ends.last().unwrap());
        ends.push(layout.lane(lane) + meter::LANE_WORDS);
    }
    assert_eq!(layout.words_of_counts(), *ends.last().unwrap());
    for recorder in 0..=3 {
        assert_eq!(layout.recorder(recorder), *ends.last().unwrap());
        ends.push(layout.recorder(recorder) + recorder::RECORDER_WORDS);
    }
    assert_eq!(layout.words(), *ends.last().unwrap());
    assert!(ends.iter().all(|end| end.is_multiple_of(8)), "each block begins on a line of its own");
}
