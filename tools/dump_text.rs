//! What `shm-dump` shows people: a head, then a table each for workers, handlers and lanes. No borders, so that it reads
//! the same in a pipe, where colours are stripped.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
use executor_core::Status;
use executor_core::cpu::cpu_list;
use executor_core::histogram::HistogramSnapshot;
use executor_core::idle::IdleStrategy;
use executor_shm::InstanceName;
use executor_shm::inspect::{HandlerView, InFlightView, Inspection, LaneView, Listed, SLEEP_LANES, WorkerView};
use executor_shm::state::{InstanceState, LaneState};

use crate::colour::Mood;
use crate::dump::{Shown, life_of};
use crate::dump_json::{attached, handler_name, quantile_ns, running_ns, unanswered};
use crate::exit::one_line;
use crate::holds::held;
use crate::units::{bytes, count, counted, nanoseconds};

/// What stands where nothing is known.
pub(crate) const NONE: &str = "-";

/// One line for each instance; `now` in nanoseconds since 1970, `was_alive` what `save` noted of copies.
pub(crate) fn listed_text(listed: &[Listed], now: u64, was_alive: impl Fn(&InstanceName) -> Option<bool>) -> String {
    let mut table = table(["instance", "is", "pid", "started", "lanes", "in use", "unanswered", "tasks", "size"], 2);
    let mut unreadable = String::new();
    for one in listed {
        match &one.view {
            Ok(view) => {
                table.add_row([
                    Cell::new(&one.instance),
                    life_mood(view).cell(life_of(view, was_alive(&one.instance))),
                    Cell::new(view.pid),
                    Cell::new(ago(now, view.started_at_ns)),
                    Cell::new(view.geometry.lanes),
                    Cell::new(count(attached(view))),
                    Cell::new(unanswered(view).map_or(NONE.to_owned(), count)),
                    Cell::new(count(view.stats.tasks)),
                    Cell::new(bytes(view.footprint)),
                ]);
            }
            Err(error) => {
                let _ = writeln!(unreadable, "{}: {}", one.instance, Mood::Bad.text(one_line(error)));
            }
        }
    }
    let table = if table.is_empty() { String::new() } else { lines(&table) };
    table + &unreadable
}

/// Everything of one instance; `now` in nanoseconds since 1970.
pub(crate) fn shown_text(view: &Shown, now: u64) -> String {
    let mut text = head(view, now);
    let mut handlers = table(
        [
            "id",
            "handler",
            "idempotent",
            "fingerprint",
            "ended",
            "queue p50",
            "p99",
            "p99.9",
            "max",
            "run p50",
            "p99",
            "p99.9",
            "max",
        ],
        4,
    );
    for handler in &view.handlers {
        handlers.add_row(handler_row(view, handler));
    }
    let _ = write!(text, "\n{}", lines(&handlers));
    if view.handlers.is_empty() {
        text.push_str("no handlers\n");
    }
    let mut lanes = table(
        [
            "lane",
            "state",
            "owner",
            "priority",
            "worker",
            "started",
            "waiting",
            "in flight",
            "not done",
            "total p50",
            "p99",
            "p99.9",
            "max",
        ],
        4,
    );
    for lane in &view.lanes {
        lanes.add_row(lane_row(view, lane));
    }
    let _ = write!(text, "\n{}", lines(&lanes));
    text.push_str(&unreadable_text(view.lanes.iter()));
    if view.alive.is_none() {
        let of = if view.is_dead() { "a copy of a dead instance" } else { "a copy" };
        let _ = match unanswered(view) {
            Some(tasks) => writeln!(text, "\n{of}: {} unanswered when it was made", counted(tasks, "task")),
            None => writeln!(text, "\n{of}: what was unanswered when it was made cannot be told"),
        };
    }
    if view.alive == Some(false) {
        let _ = writeln!(
            text,
            "\nno sidecar serves it: {}",
            match unanswered(view) {
                _ if view.other_boot => format!(
                    "its files are from another boot of the machine; give them up with: executord clean --discard {}",
                    view.instance
                ),
                None => format!("what waits cannot be told; start one with: executord run {}", view.instance),
                Some(0) => format!("nothing is unanswered; start one with: executord run {}", view.instance),
                Some(tasks) => format!(
                    "{} wait for the next one; start one with: executord run {}",
                    counted(tasks, "task"),
                    view.instance
                ),
            },
        );
    }
    text
}

/// Why positions are unknown, and of which lanes: a line for each reason.
pub(crate) fn unreadable_text<'a>(lanes: impl Iterator<Item = &'a LaneView>) -> String {
    let mut reasons: Vec<(&str, Vec<u32>)> = Vec::new();
    for lane in lanes {
        let Some(why) = lane.unreadable.as_deref() else { continue };
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, lanes)) => lanes.push(lane.lane),
            None => reasons.push((why, vec![lane.lane])),
        }
    }
    let lines = reasons.into_iter().map(|(why, mut lanes)| {
        lanes.sort_unstable();
        format!("'-' for positions of lane {}: {}\n", cpu_list(&lanes), Mood::Warning.text(why))
    });
    lines.collect()
}

/// What every view of one instance begins with.
pub(crate) fn headline(view: &Shown) -> String {
    format!("instance {}: {}, pid {}\n", view.instance, life_mood(view).text(view.life()), view.pid)
}

fn head(view: &Shown, now: u64) -> String {
    let geometry = &view.geometry;
    let mut text = headline(view);
    let _ = writeln!(
        text,
        "  started {}, start {} on these files, made {}; nonce {:016x}, abi {}, registry generation {}",
        ago(now, view.started_at_ns),
        count(view.epoch),
        ago(now, view.created_at_ns),
        view.nonce,
        view.abi,
        view.generation,
    );
    let _ = writeln!(
        text,
        "  up to {} of {} slots, requests to {}, responses to {}; {} in /dev/shm{}",
        counted(geometry.lanes.into(), "lane"),
        count(geometry.capacity.into()),
        bytes(geometry.request_bytes.into()),
        bytes(geometry.response_bytes.into()),
        bytes(view.footprint),
        view.group.map_or(String::new(), |group| format!("; open to group {group}")),
    );
    let _ = writeln!(
        text,
        "  clock {}{}; tasks ended: {}",
        view.clock.map_or("unreadable", |clock| clock.source().name()),
        if view.timed { "" } else { ", timing off" },
        statuses(&view.stats.by_status, 1).unwrap_or_else(|| "none".to_owned()),
    );
    if view.held_back > 0 {
        let times = counted(view.held_back, "time");
        let _ = writeln!(
            text,
            "  housekeeping held back {times}: producers attached or woke it faster than it may serve them"
        );
    }
    for hold in &view.holds {
        let _ = writeln!(text, "  {}", held(hold));
    }
    for worker in &view.workers {
        let cpu = worker.cpu.map_or("unpinned".to_owned(), |cpu| format!("on CPU {cpu}"));
        let _ = writeln!(
            text,
            "  worker {} {cpu}, {}: serves {}, {} ended{}",
            worker.worker,
            worker.idle.map_or("unknown idle strategy", IdleStrategy::name),
            counted(worker.lanes, "lane"),
            counted(worker.tasks, "task"),
            slept(worker),
        );
        if let Some(hold) = &worker.real_time {
            let _ = writeln!(text, "    {}", held(hold));
        }
    }
    for lane in view.lanes.iter().filter(|lane| lane.useless_wakes > 0) {
        let wakes = counted(lane.useless_wakes, "wake-up");
        let _ = writeln!(text, "  lane {}: {wakes} for its producers found nobody asleep", lane.lane);
    }
    text
}

/// What a worker's sleeps came to, and what they lack here.
fn slept(worker: &WorkerView) -> String {
    let (sleep, mut text) = (&worker.sleep, String::new());
    let sleeps = sleep.wakes.saturating_add(sleep.naps).saturating_add(sleep.overslept);
    if sleeps > 0 {
        let _ = write!(text, ", slept {} in {}", nanoseconds(sleep.asleep_ns), counted(sleeps, "sleep"));
    }
    if sleep.overslept > 0 {
        let _ = write!(text, ", {} of them over a waiting task", sleep.overslept);
    }
    if worker.idle.is_some_and(IdleStrategy::may_sleep) {
        if sleep.without_barrier {
            text.push_str("; the kernel refuses membarrier, so producers use fences");
        }
        if sleep.without_watch {
            text.push_str("; the kernel refuses futex_waitv, so it looks every millisecond");
        } else if worker.lanes > SLEEP_LANES {
            text.push_str("; it has more lanes than it can sleep on, so it looks every millisecond");
        }
    }
    text
}

fn handler_row(view: &Inspection, handler: &HandlerView) -> Vec<Cell> {
    let row = &handler.row;
    let mood = if row.gone { Mood::Faint } else { Mood::Plain };
    let ended = statuses(&handler.by_status, 1).unwrap_or_else(|| "0".to_owned());
    let mut cells = vec![
        Cell::new(row.id),
        mood.cell(if row.gone { format!("{} (gone)", row.name) } else { row.name.clone() }),
        Cell::new(if row.idempotent { "yes" } else { "no" }),
        Cell::new(format!("{:016x}", row.fingerprint)),
        failures_mood(&handler.by_status).cell(ended),
    ];
    cells.extend(percentiles(view, &handler.queue).map(Cell::new));
    cells.extend(percentiles(view, &handler.run).map(Cell::new));
    cells
}

fn lane_row(view: &Inspection, lane: &LaneView) -> Vec<Cell> {
    let position = |position: Option<u64>| position.map_or(NONE.to_owned(), count);
    let state = lane.state.map_or("damaged", |state| state.name());
    let placed = |text: String| Cell::new(if is_placed(lane) { text } else { NONE.to_owned() });
    let unanswered = lane.depth.unwrap_or(0).saturating_add(lane.in_flight.is_some().into());
    let fill = Mood::of_fill(unanswered, view.geometry.capacity.into());
    let mut cells = vec![
        Cell::new(lane.lane),
        lane_mood(lane).cell(if lane.attached == Some(true) { format!("{state}, held") } else { state.to_owned() }),
        Cell::new(if lane.owner == 0 { NONE.to_owned() } else { format!("pid {}", lane.owner) }),
        placed(lane.placement.priority.name().to_owned()),
        placed(lane.placement.worker.to_string()),
        Cell::new(position(lane.started)),
        fill.cell(position(lane.depth)),
        Cell::new(lane.in_flight.map_or(NONE.to_owned(), |task| in_flight(view, task))),
        failures_mood(&lane.by_status).cell(statuses(&lane.by_status, 2).unwrap_or_else(|| "0".to_owned())),
    ];
    cells.extend(percentiles(view, &lane.total).map(Cell::new));
    cells
}

/// Whether it has a priority and a worker. Without an owner it is placed nowhere, and what stands there means nothing.
pub(crate) fn is_placed(lane: &LaneView) -> bool {
    matches!(lane.state, Some(LaneState::Active | LaneState::Draining | LaneState::Poisoned))
}

/// How its state looks.
pub(crate) fn lane_mood(lane: &LaneView) -> Mood {
    match lane.state {
        None | Some(LaneState::Poisoned) => Mood::Bad,
        Some(LaneState::Draining | LaneState::Resetting) => Mood::Warning,
        Some(LaneState::Active) => Mood::Good,
        Some(LaneState::Free | LaneState::Absent) => Mood::Faint,
    }
}

/// Bad as soon as one task did not end as done.
fn failures_mood(by_status: &[u64]) -> Mood {
    if by_status.iter().skip(2).any(|tasks| *tasks > 0) { Mood::Bad } else { Mood::Plain }
}

/// How the life of an instance looks.
pub(crate) fn life_mood(view: &Inspection) -> Mood {
    match (view.alive, view.state) {
        (_, None) | (Some(false), _) => Mood::Bad,
        (Some(true), Some(InstanceState::Running)) => Mood::Good,
        (Some(true), _) => Mood::Warning,
        (None, _) => Mood::Plain,
    }
}

/// `12: spin for 3.4 s`, or of a dead sidecar `12: spin`.
pub(crate) fn in_flight(view: &Inspection, task: InFlightView) -> String {
    let handler = match handler_name(view, task.handler_id) {
        Some(name) => name.to_owned(),
        None => format!("unknown handler {}", task.handler_id),
    };
    let since = running_ns(view, task.started_at).map_or(String::new(), |ns| format!(" for {}", nanoseconds(ns)));
    format!("{}: {handler}{since}", count(task.position))
}

pub(crate) fn life(view: &Inspection) -> String {
    let state = view.state.map_or("damaged", |state| state.name());
    let life = match view.alive {
        Some(true) if state == "running" => "alive".to_owned(),
        Some(true) => format!("alive, {state}"),
        Some(false) if state == "running" => "dead".to_owned(),
        Some(false) => format!("dead, {state}"),
        None => format!("a copy, {state}"),
    };
    if view.other_boot { format!("{life}, of another boot") } else { life }
}

/// `1,200 done, 1 failed`, from status byte `first` on; `None` if all are 0.
pub(crate) fn statuses(counts: &[u64], first: usize) -> Option<String> {
    let named: Vec<String> = (0u8..)
        .zip(counts)
        .skip(first)
        .filter(|(_, tasks)| **tasks > 0)
        .map(|(code, &tasks)| format!("{} {}", count(tasks), Status::name_of(code).replace('_', " ")))
        .collect();
    if named.is_empty() { None } else { Some(named.join(", ")) }
}

pub(crate) fn percentiles(view: &Inspection, histogram: &HistogramSnapshot) -> [String; 4] {
    [0.5, 0.99, 0.999, 1.0].map(|q| quantile_ns(view, histogram, q).map_or(NONE.to_owned(), longest))
}

/// A time, or what the last bucket says of times longer than the histogram reaches.
pub(crate) fn longest(ns: u64) -> String {
    if ns > 1_000_000_000_000 { "> 20 s".to_owned() } else { nanoseconds(ns) }
}

fn ago(now: u64, then: u64) -> String {
    match now.saturating_sub(then) / 1_000_000_000 {
        _ if then == 0 => "never".to_owned(),
        0 => "just now".to_owned(),
        seconds @ ..120 => format!("{seconds} s ago"),
        seconds @ ..7_200 => format!("{} min ago", seconds / 60),
        seconds @ ..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// A table without borders; columns from `numbers` on stand to the right.
pub(crate) fn table<const N: usize>(titles: [&str; N], numbers: usize) -> Table {
    let mut table = Table::new();
    // Coloured in any case: what nobody sees is stripped where it is printed.
    table.load_style(presets::NOTHING).enforce_styling().set_header(titles);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if column.index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_named_and_zeros_left_out() {
        let mut counts = [0; 16];
        assert_eq!(statuses(&counts, 1), None);
        (counts[1], counts[5]) = (1_200, 1);
        assert_eq!(statuses(&counts, 1).as_deref(), Some("1,200 done, 1 response too long"));
        assert_eq!(statuses(&counts, 2).as_deref(), Some("1 response too long"));
    }

    #[test]
    fn an_age_is_told_in_the_unit_that_fits() {
        let second = 1_000_000_000;
        for (seconds, text) in
            [(0, "just now"), (119, "119 s ago"), (600, "10 min ago"), (7_200, "2 h ago"), (172_800, "2 days ago")]
        {
            assert_eq!(ago(1_000_000 * second, (1_000_000 - seconds) * second), text);
        }
        assert_eq!((ago(5, 0), ago(0, 5)), ("never".to_owned(), "just now".to_owned()));
    }
}
