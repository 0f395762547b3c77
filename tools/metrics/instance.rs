//! What a scrape says of an instance as a whole.

use std::collections::BTreeMap;

use executor_core::Status;
use executor_shm::Hold;
use executor_shm::layout::ABI_VERSION;
use executor_shm::state::{InstanceState, LaneState};
use prometheus_client::registry::Unit;

use super::family::{Family, Kind};

const INSTANCE_STATES: [InstanceState; 5] = [
    InstanceState::New,
    InstanceState::Running,
    InstanceState::Closing,
    InstanceState::Stopped,
    InstanceState::Discarded,
];
/// Those of a lane that was made.
const LANE_STATES: [LaneState; 5] =
    [LaneState::Resetting, LaneState::Free, LaneState::Active, LaneState::Draining, LaneState::Poisoned];

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "executor",
        kind: Kind::Info,
        unit: None,
        labels: &["version", "abi", "clock", "timing"],
        help: "What made its files and how it tells the time.",
        read: |view, samples| {
            let clock = view.clock.as_ref().map_or("unknown", |clock| clock.source().name());
            samples.info(&[&env!("CARGO_PKG_VERSION"), &ABI_VERSION, &clock, &view.timed]);
        },
    },
    Family {
        name: "executor_up",
        kind: Kind::Gauge,
        unit: None,
        labels: &[],
        help: "Whether a sidecar serves it; absent for a copy of its files.",
        read: |view, samples| samples.flag(&[], view.alive),
    },
    Family {
        name: "executor_state",
        kind: Kind::Gauge,
        unit: None,
        labels: &["state"],
        help: "1 for the state it says it is in, 0 for all others.",
        read: |view, samples| {
            for state in INSTANCE_STATES {
                samples.flag(&[&state.name()], view.state.map(|now| now == state));
            }
        },
    },
    Family {
        name: "executor_start_time",
        kind: Kind::Gauge,
        unit: Some(Unit::Seconds),
        labels: &[],
        help: "When its sidecar started, since 1970.",
        read: |view, samples| samples.seconds(&[], known(view.started_at_ns)),
    },
    Family {
        name: "executor_files_time",
        kind: Kind::Gauge,
        unit: Some(Unit::Seconds),
        labels: &[],
        help: "When its files were made, since 1970.",
        read: |view, samples| samples.seconds(&[], known(view.created_at_ns)),
    },
    Family {
        name: "executor_starts",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        help: "Starts of a sidecar on these files.",
        read: |view, samples| samples.whole(&[], view.epoch),
    },
    Family {
        name: "executor_registry_generation",
        kind: Kind::Gauge,
        unit: None,
        labels: &[],
        help: "How often its handlers changed.",
        read: |view, samples| samples.whole(&[], view.generation),
    },
    Family {
        name: "executor_other_boot",
        kind: Kind::Gauge,
        unit: None,
        labels: &[],
        help: "Whether its files are from another boot of the machine, so that no start will have them.",
        read: |view, samples| samples.flag(&[], view.other_boot),
    },
    Family {
        name: "executor_shm",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        help: "Bytes of its files in /dev/shm.",
        read: |view, samples| samples.whole(&[], view.footprint),
    },
    Family {
        name: "executor_held_back",
        kind: Kind::Counter,
        unit: None,
        labels: &[],
        help: "Waits of housekeeping because more was wanted of it than its share of a core.",
        read: |view, samples| samples.whole(&[], view.held_back),
    },
    Family {
        name: "executor_hold",
        kind: Kind::Gauge,
        unit: None,
        labels: &["hold"],
        help: "Whether the sidecar holds what it was told to hold of the machine; absent if it was not told.",
        read: |view, samples| {
            let mut held = BTreeMap::new();
            for hold in view.holds.iter().chain(view.workers.iter().filter_map(|worker| worker.real_time.as_ref())) {
                let name = match hold.hold {
                    Hold::CpuLatency(_) => "cpu_latency",
                    Hold::RealTime(..) => "real_time",
                    Hold::Memory => "memory",
                    _ => continue,
                };
                *held.entry(name).or_insert(true) &= hold.errno.is_none();
            }
            for (name, held) in held {
                samples.flag(&[&name], held);
            }
        },
    },
    Family {
        name: "executor_tasks",
        kind: Kind::Counter,
        unit: None,
        labels: &["status"],
        help: "Tasks ended, by how.",
        read: |view, samples| {
            for (code, tasks) in (1..Status::CODES as u8).zip(view.stats.by_status.iter().skip(1)) {
                samples.whole(&[&Status::name_of(code)], *tasks);
            }
        },
    },
    Family {
        name: "executor_lanes",
        kind: Kind::Gauge,
        unit: None,
        labels: &["state"],
        help: "Lanes that were made, by what they are now.",
        read: |view, samples| {
            for state in LANE_STATES {
                let lanes = view.lanes.iter().filter(|lane| lane.state == Some(state));
                samples.whole(&[&state.name()], lanes.count() as u64);
            }
            samples.whole(&[&"damaged"], view.lanes.iter().filter(|lane| lane.state.is_none()).count() as u64);
        },
    },
    Family {
        name: "executor_lanes_unreadable",
        kind: Kind::Gauge,
        unit: None,
        labels: &[],
        help: "Lanes whose files whoever made this scrape may not read, so that their tasks and depth are absent.",
        read: |view, samples| {
            samples.whole(&[], view.lanes.iter().filter(|lane| lane.unreadable.is_some()).count() as u64);
        },
    },
    Family {
        name: "executor_lanes_limit",
        kind: Kind::Gauge,
        unit: None,
        labels: &[],
        help: "The most lanes, that is producers at a time.",
        read: |view, samples| samples.whole(&[], u64::from(view.geometry.lanes)),
    },
    Family {
        name: "executor_lane_slots",
        kind: Kind::Gauge,
        unit: None,
        labels: &[],
        help: "Slots of each lane: the most tasks of a producer that are not collected.",
        read: |view, samples| samples.whole(&[], u64::from(view.geometry.capacity)),
    },
    Family {
        name: "executor_request_limit",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        help: "The longest request.",
        read: |view, samples| samples.whole(&[], u64::from(view.geometry.request_bytes)),
    },
    Family {
        name: "executor_response_limit",
        kind: Kind::Gauge,
        unit: Some(Unit::Bytes),
        labels: &[],
        help: "The longest response.",
        read: |view, samples| samples.whole(&[], u64::from(view.geometry.response_bytes)),
    },
];

/// A moment, unless nobody noted it.
fn known(ns: u64) -> Option<u64> {
    Some(ns).filter(|&ns| ns > 0)
}
