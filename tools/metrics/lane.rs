//! What a scrape says of each lane, and of all together.

use executor_core::Status;
use executor_core::histogram::HistogramSnapshot;
use executor_shm::inspect::{Inspection, LaneView};
use prometheus_client::registry::Unit;

use super::family::{Family, Kind, Samples};
use crate::dump_text::is_placed;

const LABELS: &[&str] = &["lane"];

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "executor_lane",
        kind: Kind::Info,
        unit: None,
        labels: &["lane", "state", "priority", "worker"],
        help: "What it is now, how urgent, and who serves it; the latter two empty while nobody has it.",
        read: |view, samples| {
            for lane in &view.lanes {
                let state = lane.state.map_or("damaged", |state| state.name());
                let (priority, worker) = match is_placed(lane) {
                    true => (lane.placement.priority.name(), lane.placement.worker.to_string()),
                    false => ("", String::new()),
                };
                samples.info(&[&lane.lane, &state, &priority, &worker]);
            }
        },
    },
    Family {
        name: "executor_lane_attached",
        kind: Kind::Gauge,
        unit: None,
        labels: LABELS,
        help: "Whether a producer holds it.",
        read: |view, samples| {
            for lane in &view.lanes {
                samples.flag(&[&lane.lane], lane.attached);
            }
        },
    },
    Family {
        name: "executor_lane_depth",
        kind: Kind::Gauge,
        unit: None,
        labels: LABELS,
        help: "Tasks submitted and not started.",
        read: |view, samples| whole(view, samples, |lane| lane.depth),
    },
    Family {
        name: "executor_lane_started",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Tasks started for the producer that has it; the next one begins at 0.",
        read: |view, samples| whole(view, samples, |lane| lane.started),
    },
    Family {
        name: "executor_lane_completed",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Tasks completed for the producer that has it; the next one begins at 0.",
        read: |view, samples| whole(view, samples, |lane| lane.completed),
    },
    Family {
        name: "executor_lane_submitted",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Tasks that the producer that has it says it submitted; the next one begins at 0.",
        read: |view, samples| whole(view, samples, |lane| lane.producer.map(|producer| producer.submitted)),
    },
    Family {
        name: "executor_lane_collected",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Completions that its program took; the next one begins at 0.",
        read: |view, samples| whole(view, samples, |lane| lane.producer.map(|producer| producer.collected)),
    },
    Family {
        name: "executor_lane_rejected",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Submits that found it full; the next producer begins at 0.",
        read: |view, samples| whole(view, samples, |lane| lane.producer.map(|producer| producer.rejected)),
    },
    Family {
        name: "executor_lane_request",
        kind: Kind::Counter,
        unit: Some(Unit::Bytes),
        labels: LABELS,
        help: "Bytes of requests that were run, of all its producers.",
        read: |view, samples| {
            whole(view, samples, |lane| Some(lane.request_bytes).filter(|_| view.is_recorded));
        },
    },
    Family {
        name: "executor_lane_response",
        kind: Kind::Counter,
        unit: Some(Unit::Bytes),
        labels: LABELS,
        help: "Bytes of responses that were given, to all its producers.",
        read: |view, samples| {
            whole(view, samples, |lane| Some(lane.response_bytes).filter(|_| view.is_recorded));
        },
    },
    Family {
        name: "executor_lane_running",
        kind: Kind::Gauge,
        unit: Some(Unit::Seconds),
        labels: LABELS,
        help: "How long the handler of its task in flight has run by now; absent without one.",
        read: |view, samples| {
            let clock = view.clock.as_ref().filter(|_| view.alive == Some(true) && !view.other_boot);
            for lane in &view.lanes {
                let began = lane.in_flight.map(|task| task.started_at).filter(|&began| began > 0);
                let ran = clock.zip(began).map(|(clock, began)| clock.ticks_to_ns(clock.now().saturating_sub(began)));
                samples.seconds(&[&lane.lane], ran);
            }
        },
    },
    Family {
        name: "executor_lane_not_done",
        kind: Kind::Counter,
        unit: None,
        labels: &["lane", "status"],
        help: "Tasks that ended otherwise than done, by how, of all its producers; absent for what never happened.",
        read: |view, samples| {
            for lane in &view.lanes {
                for (code, tasks) in (1..Status::CODES as u8).zip(lane.by_status.iter().skip(1)) {
                    samples.whole(&[&lane.lane, &Status::name_of(code)], Some(*tasks).filter(|&tasks| tasks > 0));
                }
            }
        },
    },
    Family {
        name: "executor_lane_resets",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "How often it was made anew for the next producer.",
        read: |view, samples| whole(view, samples, |lane| Some(lane.resets)),
    },
    Family {
        name: "executor_lane_useless_wakes",
        kind: Kind::Counter,
        unit: None,
        labels: LABELS,
        help: "Wake-ups of its producers that found nobody asleep.",
        read: |view, samples| whole(view, samples, |lane| Some(lane.useless_wakes)),
    },
    Family {
        name: "executor_lane_sleeping",
        kind: Kind::Gauge,
        unit: None,
        labels: LABELS,
        help: "Whether its worker sleeps, so that whoever submits wakes it.",
        read: |view, samples| {
            for lane in &view.lanes {
                samples.flag(&[&lane.lane], lane.sleeping);
            }
        },
    },
    Family {
        name: "executor_task",
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: &[],
        help: "From submit to end, of all lanes. Counted in buckets 3 % wide: one that reaches past a bound counts above \
               it, and the sum is an estimate from their middles, 1.6 % off at most.",
        read: |view, samples| {
            let mut all = HistogramSnapshot::default();
            view.lanes.iter().for_each(|lane| all.merge(&lane.total));
            samples.times(&[], &all, view.clock.as_ref().filter(|_| view.timed));
        },
    },
];

fn whole(view: &Inspection, samples: &mut Samples, of: impl Fn(&LaneView) -> Option<u64>) {
    for lane in &view.lanes {
        samples.whole(&[&lane.lane], of(lane));
    }
}
