//! What a scrape says of each worker.

use executor_shm::inspect::{Inspection, TimeView, WorkerView};
use prometheus_client::registry::Unit;

use super::family::{Family, Kind, Samples};

const LABELS: &[&str] = &["worker"];

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "executor_worker",
        kind: Kind::Info,
        unit: None,
        labels: &["worker", "cpu", "idle"],
        help: "The CPU it is pinned to, empty for none, and what it does without tasks.",
        read: |view, samples| {
            for worker in &view.workers {
                let cpu = worker.cpu.map_or(String::new(), |cpu| cpu.to_string());
                samples.info(&[&worker.worker, &cpu, &worker.idle.map_or("unknown", |idle| idle.name())]);
            }
        },
    },
    Family {
        name: "executor_worker_tasks",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Tasks ended.",
        read: |view, samples| count(view, samples, |worker| worker.tasks),
    },
    Family {
        name: "executor_worker_sweeps",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Looks at all its lanes, told in steps of 16 while it is idle.",
        read: |view, samples| count(view, samples, |worker| worker.sweeps),
    },
    Family {
        name: "executor_worker_lanes",
        kind: Kind::Gauge,
        unit: None,
        labels: LABELS,
        help: "Lanes it serves.",
        read: |view, samples| count(view, samples, |worker| worker.lanes),
    },
    Family {
        name: "executor_worker_wakes",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Sleeps that a task or a command ended.",
        read: |view, samples| count(view, samples, |worker| worker.sleep.wakes),
    },
    Family {
        name: "executor_worker_naps",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Sleeps that ended by themselves.",
        read: |view, samples| count(view, samples, |worker| worker.sleep.naps),
    },
    Family {
        name: "executor_worker_overslept",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Sleeps that ended by themselves and found a task waiting: lost wake-ups, none unless something is wrong.",
        read: |view, samples| count(view, samples, |worker| worker.sleep.overslept),
    },
    Family {
        name: "executor_worker_asleep",
        kind: Kind::Counter,
        unit: Some(Unit::Seconds),
        labels: LABELS,
        help: "Time asleep, told at the end of each sleep.",
        read: |view, samples| {
            for worker in &view.workers {
                samples.seconds(&[&worker.worker], worker.sleep.asleep_ns);
            }
        },
    },
    Family {
        name: "executor_worker_busy",
        kind: Kind::Counter,
        unit: Some(Unit::Seconds),
        labels: LABELS,
        help: "Time inside handlers since it began to serve, told at the end of each task.",
        read: |view, samples| {
            for (worker, time) in times(view) {
                samples.seconds(&[&worker.worker], view.clock.map(|clock| clock.ticks_to_ns(time.busy_ticks)));
            }
        },
    },
    Family {
        name: "executor_worker_preemptions",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Times at which the kernel was found to have run something else on its CPU.",
        read: |view, samples| {
            times(view).for_each(|(worker, time)| samples.whole(&[&worker.worker], time.preemptions));
        },
    },
    Family {
        name: "executor_worker_preempted",
        kind: Kind::Counter,
        unit: Some(Unit::Seconds),
        labels: LABELS,
        help: "Time for which the kernel did.",
        read: |view, samples| {
            times(view).for_each(|(worker, time)| samples.seconds(&[&worker.worker], time.preempted_ns));
        },
    },
    Family {
        name: "executor_worker_longest_gap",
        kind: Kind::Gauge,
        unit: Some(Unit::Seconds),
        labels: LABELS,
        help: "The longest time in which it looked at nothing although it had no task and did not sleep.",
        read: |view, samples| {
            for (worker, time) in times(view) {
                let gap = view.clock.map(|clock| clock.ticks_to_ns(time.longest_gap.map_or(0, |gap| gap.ticks)));
                samples.seconds(&[&worker.worker], gap);
            }
        },
    },
    Family {
        name: "executor_worker_slow_tasks",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Tasks over their threshold.",
        read: |view, samples| times(view).for_each(|(worker, _)| samples.whole(&[&worker.worker], worker.slow_tasks)),
    },
    Family {
        name: "executor_worker_errors",
        kind: Kind::Gauge,
        unit: None,
        labels: LABELS,
        help: "Errors that are told apart now.",
        read: |view, samples| {
            for worker in &view.workers {
                samples.whole(&[&worker.worker], worker.errors.map(|errors| errors.distinct));
            }
        },
    },
    Family {
        name: "executor_worker_errors_forgotten",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Errors that had to make room for others.",
        read: |view, samples| {
            for worker in &view.workers {
                samples.whole(&[&worker.worker], worker.errors.map(|errors| errors.forgotten));
            }
        },
    },
    Family {
        name: "executor_worker_refused",
        kind: Kind::Gauge,
        unit: None,
        labels: &["worker", "call"],
        help: "Whether the kernel refuses it a call that sleeping is cheaper with.",
        read: |view, samples| {
            for worker in &view.workers {
                samples.flag(&[&worker.worker, &"membarrier"], worker.sleep.without_barrier);
                samples.flag(&[&worker.worker, &"futex_waitv"], worker.sleep.without_watch);
            }
        },
    },
];

/// Workers whose time is recorded.
fn times(view: &Inspection) -> impl Iterator<Item = (&WorkerView, TimeView)> {
    view.workers.iter().filter_map(|worker| Some((worker, worker.time?)))
}

fn count(view: &Inspection, samples: &mut Samples, of: fn(&WorkerView) -> u64) {
    for worker in &view.workers {
        samples.whole(&[&worker.worker], of(worker));
    }
}
