//! The lanes of an instance, a line each, as text and as JSON.

use std::cmp::Reverse;

use clap::ValueEnum;
use comfy_table::Cell;
use executor_shm::inspect::{Inspection, LaneView};
use executor_shm::state::LaneState;
use serde_json::{Value, json};

use super::shown::Shown;
use crate::colour::Mood;
use crate::dump_json::{lane_json, quantile_ns, running_ns};
use crate::dump_text::{
    NONE, headline, in_flight, is_placed, lane_mood, lines, longest, statuses, table, unreadable_text,
};
use crate::units::count;

/// What lanes are sorted by: numbers the greatest first, what is unknown last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LaneKey {
    /// Their number.
    #[default]
    Lane,
    /// Tasks that wait.
    Depth,
    /// Tasks started for their owner.
    Started,
    /// How long their task in flight has been running.
    InFlight,
    /// Tasks that did not end as done.
    NotDone,
    /// Median from submit to end.
    P50,
    /// 99th percentile from submit to end.
    P99,
    /// The longest from submit to end.
    Max,
    /// How often they were reset.
    Resets,
}

/// Characters of a bar.
const BAR: u64 = 8;

/// `###.....`: how full it is. What is not empty has a mark, and only what is full has all.
pub(crate) fn bar(used: u64, room: u64) -> String {
    let marks = match used {
        0 => 0,
        _ if used >= room => BAR,
        _ => (u128::from(used) * u128::from(BAR) / u128::from(room)).max(1) as u64,
    };
    (0..BAR).map(|at| if at < marks { '#' } else { '.' }).collect()
}

/// Tasks of a lane that did not end as done.
pub(crate) fn not_done(lane: &LaneView) -> u64 {
    lane.by_status.iter().skip(2).fold(0, |sum, count| sum.saturating_add(*count))
}

/// Tasks of a lane that wait or run; `None` where positions cannot be read. Its slots are full at the capacity, or before
/// that where its producer has not collected what was answered.
pub(crate) fn unanswered(lane: &LaneView) -> Option<u64> {
    Some(lane.depth?.saturating_add(u64::from(lane.in_flight.is_some())))
}

/// The lanes in the order that was asked for; `only` this one if there is a number.
pub(crate) fn sorted(view: &Inspection, key: LaneKey, only: Option<u32>) -> Vec<&LaneView> {
    let mut lanes: Vec<&LaneView> =
        view.lanes.iter().filter(|lane| only.is_none_or(|only| lane.lane == only)).collect();
    let ticks = |lane: &LaneView, q| lane.total.quantile(q);
    let of = |lane: &LaneView| match key {
        LaneKey::Lane => None,
        LaneKey::Depth => lane.depth,
        LaneKey::Started => lane.started,
        LaneKey::InFlight => lane.in_flight.map(|task| running_ns(view, task.started_at).unwrap_or(0)),
        LaneKey::NotDone => Some(not_done(lane)),
        LaneKey::P50 => ticks(lane, 0.5),
        LaneKey::P99 => ticks(lane, 0.99),
        LaneKey::Max => ticks(lane, 1.0),
        LaneKey::Resets => Some(lane.resets),
    };
    lanes.sort_by_cached_key(|lane| Reverse(of(lane))); // stable: equals stay in the order of their numbers
    lanes
}

const TITLES: [&str; 15] = [
    "lane",
    "state",
    "owner",
    "priority",
    "worker",
    "waiting",
    "unanswered",
    "",
    "started",
    "completed",
    "resets",
    "total p50",
    "p99",
    "max",
    "in flight",
];

/// A line each.
pub(crate) fn lanes_text(view: &Shown, lanes: &[&LaneView]) -> String {
    let mut table = table(TITLES, 5);
    for column in [7, 14] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
    }
    let mut ended = String::new();
    for lane in lanes {
        table.add_row(row(view, lane));
        if let Some(statuses) = statuses(&lane.by_status, 2) {
            ended.push_str(&format!("lane {}, not done: {}\n", lane.lane, Mood::Bad.text(statuses)));
        }
    }
    let none = if lanes.is_empty() { "no lanes\n" } else { "" };
    let unreadable = unreadable_text(lanes.iter().copied());
    let gap = if ended.is_empty() && unreadable.is_empty() { "" } else { "\n" };
    format!("{}\n{}{none}{gap}{ended}{unreadable}", headline(view), lines(&table))
}

fn row(view: &Inspection, lane: &LaneView) -> Vec<Cell> {
    let capacity = u64::from(view.geometry.capacity);
    let position = |position: Option<u64>| Cell::new(position.map_or(NONE.to_owned(), count));
    let placed = |text: String| Cell::new(if is_placed(lane) { text } else { NONE.to_owned() });
    let state = lane.state.map_or("damaged", LaneState::name);
    let depth = |of: &dyn Fn(u64, u64) -> String| match (lane.depth, unanswered(lane)) {
        (Some(depth), Some(unanswered)) => Mood::of_fill(unanswered, capacity).cell(of(depth, unanswered)),
        _ => Cell::new(NONE),
    };
    let quantile = |q| Cell::new(quantile_ns(view, &lane.total, q).map_or(NONE.to_owned(), longest));
    vec![
        Cell::new(lane.lane),
        lane_mood(lane).cell(if lane.attached == Some(true) { format!("{state}, held") } else { state.to_owned() }),
        Cell::new(if lane.owner == 0 { NONE.to_owned() } else { format!("pid {}", lane.owner) }),
        placed(lane.placement.priority.name().to_owned()),
        placed(format!("{}{}", lane.placement.worker, if lane.sleeping { ", asleep" } else { "" })),
        depth(&|depth, _| count(depth)),
        depth(&|_, unanswered| format!("{} of {}", count(unanswered), count(capacity))),
        depth(&|_, unanswered| bar(unanswered, capacity)),
        position(lane.started),
        position(lane.completed),
        Cell::new(count(lane.resets)),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        Cell::new(lane.in_flight.map_or(NONE.to_owned(), |task| in_flight(view, task))),
    ]
}

/// An object each.
pub(crate) fn lanes_json(view: &Inspection, lanes: &[&LaneView]) -> Value {
    let lanes: Vec<Value> = lanes.iter().map(|lane| lane_json(view, lane)).collect();
    json!({
        "instance": view.instance.as_str(),
        "alive": view.alive,
        "pid": view.pid,
        "capacity": view.geometry.capacity,
        "lanes": lanes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_empty_only_at_nothing_and_full_only_at_everything() {
        let cases = [
            (0, 64, "........"),
            (1, 64, "#......."),
            (32, 64, "####...."),
            (63, 64, "#######."),
            (64, 64, "########"),
        ];
        for (used, room, expected) in cases {
            assert_eq!(bar(used, room), expected, "{used} of {room}");
        }
        assert_eq!((bar(0, 0).as_str(), bar(u64::MAX, 1).as_str()), ("........", "########"));
        assert_eq!(bar(u64::MAX / 2, u64::MAX), "###.....");
    }
}
