//! What `shm-dump --json` says: everything of a view, raw. Times are nanoseconds, `null` where there is no clock.

use executor_core::Status;
use executor_core::histogram::HistogramSnapshot;
use executor_core::idle::IdleStrategy;
use executor_shm::Group;
use executor_shm::inspect::{HandlerView, Inspection, LaneView, Listed};
use executor_shm::state::LaneState;
use serde_json::{Map, Value, json};

use crate::dump::lanes;
use crate::dump_text::is_placed;
use crate::exit::one_line;
use crate::holds::{hold_json, holds_json};

/// All instances.
pub(crate) fn listed_json(listed: &[Listed]) -> Value {
    let one = |one: &Listed| match &one.view {
        Ok(view) => {
            let mut row = head_json(view);
            row["lanes_attached"] = attached(view).into();
            row["unanswered"] = unanswered(view).into();
            row
        }
        Err(error) => json!({"instance": one.instance.as_str(), "error": one_line(error)}),
    };
    listed.iter().map(one).collect()
}

/// Everything of one instance.
pub(crate) fn shown_json(view: &Inspection) -> Value {
    let mut shown = head_json(view);
    let workers: Vec<Value> = view
        .workers
        .iter()
        .map(|worker| {
            json!({
                "worker": worker.worker,
                "cpu": worker.cpu,
                "tasks": worker.tasks,
                "lanes": worker.lanes,
                "idle": worker.idle.map(IdleStrategy::name),
                "real_time": worker.real_time.as_ref().map(hold_json),
                "sleep": {
                    "wakes": worker.sleep.wakes,
                    "naps": worker.sleep.naps,
                    "overslept": worker.sleep.overslept,
                    "asleep_ns": worker.sleep.asleep_ns,
                    "without_barrier": worker.sleep.without_barrier,
                    "without_watch": worker.sleep.without_watch,
                },
            })
        })
        .collect();
    let handlers: Vec<Value> = view.handlers.iter().map(|handler| handler_json(view, handler)).collect();
    shown["geometry"] = json!({
        "lanes": view.geometry.lanes,
        "capacity": view.geometry.capacity,
        "request_bytes": view.geometry.request_bytes,
        "response_bytes": view.geometry.response_bytes,
        "handlers": view.geometry.handlers,
        "workers": view.geometry.workers,
    });
    shown["by_status"] = by_status(&view.stats.by_status);
    shown["workers"] = workers.into();
    shown["handlers"] = handlers.into();
    shown["lanes"] = view.lanes.iter().map(|lane| lane_json(view, lane)).collect();
    shown
}

fn head_json(view: &Inspection) -> Value {
    json!({
        "instance": view.instance.as_str(),
        "abi": view.abi,
        "alive": view.alive,
        "state": view.state.map(|state| state.name()),
        "pid": view.pid,
        "nonce": format!("{:016x}", view.nonce),
        "starts": view.epoch,
        "generation": view.generation,
        "created_at_ns": view.created_at_ns,
        "started_at_ns": view.started_at_ns,
        "shm_bytes": view.footprint,
        "clock": view.clock.map(|clock| clock.source().name()),
        "timing": view.timed,
        "group": view.group.map(Group::gid),
        "other_boot": view.other_boot,
        "held_back": view.held_back,
        "holds": holds_json(&view.holds),
        "tasks": view.stats.tasks,
    })
}

/// Everything of one handler.
pub(crate) fn handler_json(view: &Inspection, handler: &HandlerView) -> Value {
    json!({
        "id": handler.row.id,
        "name": handler.row.name,
        "idempotent": handler.row.idempotent,
        "fingerprint": format!("{:016x}", handler.row.fingerprint),
        "since_generation": handler.row.since,
        "gone": handler.row.gone,
        "request_bytes_min": handler.row.request_bytes.0,
        "request_bytes_max": handler.row.request_bytes.1,
        "tasks": handler.by_status.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)),
        "by_status": by_status(&handler.by_status),
        "queue_ns": percentiles(view, &handler.queue),
        "run_ns": percentiles(view, &handler.run),
    })
}

/// Everything of one lane.
pub(crate) fn lane_json(view: &Inspection, lane: &LaneView) -> Value {
    let in_flight = lane.in_flight.map(|task| {
        json!({
            "position": task.position,
            "handler_id": task.handler_id,
            "handler": handler_name(view, task.handler_id),
            "request_bytes": task.length,
            "attempt": task.attempt,
            "running_ns": running_ns(view, task.started_at),
        })
    });
    json!({
        "lane": lane.lane,
        "state": lane.state.map(|state| state.name()),
        "reason": lane.reason,
        "attached": lane.attached,
        "owner_pid": lane.owner,
        "priority": is_placed(lane).then(|| lane.placement.priority.name()),
        "worker": is_placed(lane).then_some(lane.placement.worker),
        "nonce": format!("{:014x}", lane.nonce),
        "base": lane.base,
        "resets": lane.resets,
        "sleeping": lane.sleeping,
        "useless_wakes": lane.useless_wakes,
        "started": lane.started,
        "completed": lane.completed,
        "depth": lane.depth,
        "in_flight": in_flight,
        "unreadable": lane.unreadable,
        "not_done": by_status(&lane.by_status),
        "total_ns": percentiles(view, &lane.total),
    })
}

/// Lanes that somebody owns now.
pub(crate) fn attached(view: &Inspection) -> u64 {
    view.lanes.iter().filter(|lane| lane.attached == Some(true)).count() as u64
}

/// Tasks that wait or run; `None` where a lane that may have some cannot be read.
pub(crate) fn unanswered(view: &Inspection) -> Option<u64> {
    // What nobody holds is free once all of it is answered.
    let is_empty = |lane: &LaneView| {
        lane.attached != Some(true) && matches!(lane.state, Some(LaneState::Free | LaneState::Resetting))
    };
    let of = |lane: &LaneView| lanes::unanswered(lane).or(is_empty(lane).then_some(0));
    view.lanes.iter().try_fold(0, |sum: u64, lane| Some(sum.saturating_add(of(lane)?)))
}

/// The name a handler id has in this instance.
pub(crate) fn handler_name(view: &Inspection, id: u32) -> Option<&str> {
    view.handlers.iter().find(|handler| handler.row.id == id).map(|handler| handler.row.name.as_str())
}

/// How long a task runs that began at this tick; nothing for a dead instance, whose tasks do not run.
pub(crate) fn running_ns(view: &Inspection, started_at: u64) -> Option<u64> {
    let clock = view.clock.filter(|_| view.alive == Some(true) && started_at != 0)?;
    Some(clock.ticks_to_ns(clock.now().saturating_sub(started_at)))
}

/// A quantile of ticks in nanoseconds, for 1.0 the longest.
pub(crate) fn quantile_ns(view: &Inspection, histogram: &HistogramSnapshot, q: f64) -> Option<u64> {
    Some(view.clock?.ticks_to_ns(histogram.quantile(q)?))
}

/// Percentiles of a histogram; null for what lies past its table, of which only that is known.
pub(crate) fn percentiles(view: &Inspection, histogram: &HistogramSnapshot) -> Value {
    let at = |q| quantile_ns(view, histogram, q).filter(|_| histogram.quantile(q) != Some(u64::MAX));
    json!({
        "count": histogram.count(),
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p999": at(0.999),
        "max": at(1.0),
    })
}

/// Counts by the name of the status; only those that are not 0, so that nobody has to look for them.
pub(crate) fn by_status(counts: &[u64]) -> Value {
    let named: Map<String, Value> = (0..Status::CODES as u8)
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(code, &count)| (Status::name_of(code).to_owned(), count.into()))
        .collect();
    Value::Object(named)
}
