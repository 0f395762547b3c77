//! Deadlines and stamps.

use std::time::Duration;

use executor_client::{Ran, Status, TaskDescriptor};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{COUNT, ECHO, SLOW};

use super::{next, submit};
use crate::stage::{CAPACITY, Stage};

pub(crate) fn a_task_past_its_deadline_does_not_run_and_one_in_time_does<S: Stage>(mut stage: S) {
    let latch = stage.latch("held");
    let mut client = stage.connect();
    let mut slow = submit(&mut client, SLOW, b"held");
    assert_eq!(stage.line(), "entered held 1");
    // Over before the slow task has ended, however soon that is.
    let late = TaskDescriptor::new(COUNT).deadline(Duration::ZERO);
    let patient = TaskDescriptor::new(COUNT).deadline(Duration::from_secs(3600));
    let forever = TaskDescriptor::new(COUNT).deadline(Duration::MAX);
    let ids = [late, patient, forever, late].map(|task| client.try_submit(&task, b"").unwrap());
    latch.open();
    assert_eq!(client.wait_timeout(&mut slow, FAIL_SAFE).unwrap().status(), Status::Done);
    for (task, status) in [Status::Expired, Status::Done, Status::Done, Status::Expired].into_iter().enumerate() {
        next(&mut client, |end| {
            assert_eq!((end.task_id(), end.status()), (ids[task], status));
            assert_eq!(end.attempt(), u16::from(status == Status::Done));
            let [submitted, started, completed] = end.stamps();
            assert!(submitted <= started && started <= completed);
            if status == Status::Expired {
                assert_eq!((status.ran(), status.is_retryable()), (Ran::No, true));
                assert_eq!(started, completed, "what never ran starts and ends at once");
            }
        });
    }
    for id in &ids[1..3] {
        assert_eq!(stage.line(), format!("ran {}", id.as_u64()));
    }
    drop(client);
    assert_eq!(stage.end(), (5, Vec::new()), "an expired task must not have run");
}

pub(crate) fn stamps_of_a_lane_follow_each_other<S: Stage>(stage: S) {
    let mut client = stage.connect();
    assert!(client.is_timed());
    let mut last = [0; 3];
    for _ in 0..20 {
        let before = client.clock().now();
        for _ in 0..CAPACITY {
            client.try_submit(&TaskDescriptor::new(ECHO), b"").unwrap();
        }
        let submitted_all = client.clock().now();
        for _ in 0..CAPACITY {
            let (stamps, times) = next(&mut client, |end| (end.stamps(), end.times().unwrap()));
            let after = client.clock().now();
            let [submitted, started, completed] = stamps;
            assert!(before <= submitted && submitted <= submitted_all, "{before} {stamps:?} {submitted_all}");
            assert!(submitted <= started && started <= completed && completed <= after, "{stamps:?} {after}");
            assert!(last[0] <= submitted && last[2] <= started, "{last:?} {stamps:?}");
            let clock = client.clock();
            assert_eq!(times.queue_ns, clock.ticks_to_ns(started - submitted));
            assert_eq!(times.run_ns, clock.ticks_to_ns(completed - started));
            assert_eq!(times.total_ns(), times.queue_ns + times.run_ns + times.return_ns);
            last = stamps;
        }
    }
    drop(client);
    assert_eq!(stage.end().0, 20 * CAPACITY as u64);
}
