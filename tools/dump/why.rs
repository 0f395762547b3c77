//! One task in full: what its time went to, or what stands before it, as text and as JSON.

use std::cmp::Reverse;
use std::fmt::Write;

use executor_core::recorder::SlowTask;
use executor_core::{Status, TaskId};
use executor_shm::inspect::{InFlightView, Inspection, LaneRecords, LaneView, Phase, Recorded, TaskRow};
use serde_json::{Value, json};

use super::shown::Shown;
use super::slow::{task_json, time, unnoted};
use crate::exit::one_line_of;
use crate::moments::Moments;
use crate::units::{bytes, count, counted, nanoseconds};
use crate::verdict::{Part, doubts, is_uncollected, largest, named, run_parts, wait_parts};

/// What is known of one task.
#[derive(Debug)]
pub(crate) enum Known<'a> {
    /// It was noted as slow.
    Slow(&'a SlowTask),
    /// It was not, but the rings of its lane still hold it.
    Ring(&'a TaskRow),
}

impl Known<'_> {
    fn id(&self) -> TaskId {
        match self {
            Known::Slow(task) => task.id(),
            Known::Ring(row) => row.task_id,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A lane and a position there: the present owner's task, or else the last one of an earlier owner.
    Position(u32, u64),
    /// This task, whoever submitted it.
    Id(TaskId),
}

impl Asked {
    pub(super) fn lane(self) -> u32 {
        match self {
            Asked::Position(lane, _) => lane,
            Asked::Id(id) => id.lane(),
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Asked::Position(lane, position) => write!(f, "task {position} of lane {lane}"),
            Asked::Id(id) => write!(f, "task {id}"),
        }
    }
}

/// A task that something is known of.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(super) lane: u32,
    pub(super) position: u64,
    pub(super) known: Known<'a>,
    /// Slow tasks of earlier owners of the lane at this position, the last one first, if a position was asked for.
    pub(super) earlier: Vec<TaskId>,
}

/// What is known of a task; `rings` are those of its lane.
pub(super) fn find<'a>(
    view: &Inspection,
    recorded: &'a Recorded,
    rings: &'a [LaneRecords],
    asked: Asked,
) -> Option<Found<'a>> {
    let rows = || rings.iter().filter_map(|lane| lane.tasks.as_ref().ok()).flatten().rev();
    let (slow, ring, earlier) = match asked {
        Asked::Id(id) => {
            let slow = recorded.slow.iter().filter(|task| task.id() == id).max_by_key(|task| task.completed_at);
            (slow, rows().find(|row| row.task_id == id), Vec::new())
        }
        Asked::Position(lane, position) => {
            let base = view.lanes.iter().find(|it| it.lane == lane)?.base;
            let present = TaskId::new(lane, base.wrapping_add(position));
            let mut slow: Vec<&SlowTask> =
                recorded.slow.iter().filter(|task| (task.lane, task.position) == (lane, position)).collect();
            slow.sort_by_key(|task| Reverse((task.id() == present, task.completed_at)));
            let ring = rows().find(|row| row.position == position);
            let chosen = slow.first().copied().filter(|task| task.id() == present || ring.is_none());
            let mut earlier: Vec<TaskId> = slow.iter().map(|task| task.id()).collect();
            earlier.dedup(); // attempts of one task stand together
            earlier.retain(|id| *id != present && chosen.is_none_or(|chosen| chosen.id() != *id));
            (chosen, ring, earlier)
        }
    };
    let (position, known) = match (slow, ring) {
        (Some(task), _) => (task.position, Known::Slow(task)),
        (None, Some(row)) => (row.position, Known::Ring(row)),
        (None, None) => return None,
    };
    Some(Found { lane: asked.lane(), position, known, earlier })
}

/// One task in full; `from` is how to look there again.
pub(super) fn why_text(view: &Shown, recorded: &Recorded, found: &Found<'_>, from: &str) -> String {
    let Found { lane, position, ref known, ref earlier } = *found;
    let mut text = format!("instance {}: {}\n", view.instance, view.life());
    match known {
        Known::Slow(task) => {
            let _ = writeln!(
                text,
                "task {position} of lane {lane} ({}), handler {}, worker {}",
                task.id(),
                named(view, task.handler_id),
                task.worker
            );
            let moments = Moments::of(view, [task.completed_at]);
            let _ = writeln!(
                text,
                "{}, {} in and {} out, ended {}\n",
                Status::name_of(task.status),
                bytes(task.request_bytes.into()),
                bytes(task.response_bytes.into()),
                moments.age(task.completed_at),
            );
            let is_owners = |it: &LaneView| task.id() == TaskId::new(lane, it.base.wrapping_add(position));
            if view.lanes.iter().any(|it| it.lane == lane && !is_owners(it)) {
                text.push_str("an earlier owner of the lane submitted it\n\n");
            }
            let _ = writeln!(text, "{:>10}  from submit to end", time(view, task.total()));
            text += &parts_text(view, "waited", task.wait(), &wait_parts(view, task));
            text += &parts_text(view, "ran", task.run(), &run_parts(view, task));
            for doubt in doubts(task) {
                let _ = writeln!(text, "note: {doubt}");
            }
            let (part, _) = largest(view, task);
            let _ = writeln!(text, "\nwhat would help: {}", part.cure);
        }
        Known::Ring(row) => text += &ring_text(view, recorded, lane, row),
    }
    if is_uncollected(view, known.id(), position) {
        text.push_str(&uncollected_text(view, known));
    }
    if let Some(last) = earlier.first() {
        let tasks = counted(earlier.len() as u64, "slow task");
        let _ = writeln!(
            text,
            "\n{tasks} of earlier owners of the lane had this position too, the last: shm-dump why {} {last}{from}",
            view.instance
        );
    }
    text
}

fn parts_text(view: &Inspection, verb: &str, whole: u64, parts: &[Part]) -> String {
    let mut text = format!("{:>10}  {verb}\n", time(view, whole));
    let mut parts: Vec<&Part> = parts.iter().filter(|part| part.ticks != 0).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.ticks));
    for part in parts {
        let _ = writeln!(text, "{:>10}    {}", time(view, part.ticks), part.text);
    }
    text
}

/// Why nothing is known of a task.
pub(super) fn unknown(view: &Inspection, recorded: &Recorded, rings: &[LaneRecords]) -> String {
    let unreadable = rings.iter().find_map(|lane| Some((lane.lane, lane.tasks.as_ref().err()?)));
    if let Some((lane, why)) = unreadable {
        return format!("lane {lane} cannot be read: {}", one_line_of(why));
    }
    let slow = unnoted(view, recorded).unwrap_or("it is not among the slow tasks");
    format!("{slow}, and its slot has a later task or none yet")
}

/// A task that was not noted: its stamps, and what stands before it if it still waits.
fn ring_text(view: &Shown, recorded: &Recorded, lane: u32, row: &TaskRow) -> String {
    let mut text = format!("task {} of lane {lane} ({})", row.position, row.task_id);
    let Some(task) = &row.task else { return text + ": torn, its slot is being written\n" };
    let _ = writeln!(text, ", handler {}", named(view, task.descriptor.handler_id()));
    let length =
        |from: u64, to: u64| if from == 0 || to == 0 { "-".to_owned() } else { time(view, to.saturating_sub(from)) };
    let submitted = task.descriptor.submitted_at();
    match &task.phase {
        Phase::Ended(end) => {
            let _ = writeln!(
                text,
                "{:>10}  waited\n{:>10}  ran\n",
                length(submitted, end.started_at()),
                length(end.started_at(), end.completed_at())
            );
            let why = unnoted(view, recorded)
                .unwrap_or("it was not slow enough to be noted (note more with: executord run --slow-after TIME)");
            let _ = writeln!(text, "{why}, so what it waited for is not known");
        }
        phase => {
            let now = view.clock.filter(|_| view.alive == Some(true)).map(|clock| clock.now());
            let since = |from: u64| now.map_or_else(|| "-".to_owned(), |now| length(from, now));
            let it = view.lanes.iter().find(|it| it.lane == lane);
            match phase {
                Phase::InFlight { started_at } => {
                    let verb = if view.is_dead() { "it ran when the sidecar died" } else { "runs" };
                    let _ = writeln!(
                        text,
                        "{:>10}  waited\n{:>10}  {verb}",
                        length(submitted, *started_at),
                        since(*started_at)
                    );
                }
                _ => {
                    let verb = if matches!(phase, Phase::Unanswered) { "waits or runs" } else { "waits" };
                    let _ = writeln!(text, "{:>10}  {verb}", since(submitted));
                    if let Some(started) = it.and_then(|it| it.started) {
                        let ahead = counted(row.position.saturating_sub(started), "task");
                        let _ = writeln!(text, "{ahead} before it in its lane wait as well");
                    }
                    if view.is_dead() {
                        text.push_str("no sidecar serves it\n");
                    } else if let Some((other, flight)) = in_flight_of_worker(view, lane) {
                        let running = since(flight.started_at);
                        let _ = writeln!(
                            text,
                            "its worker runs task {} of lane {other}, handler {}, for {running}",
                            count(flight.position),
                            named(view, flight.handler_id)
                        );
                    } else if it.is_some_and(|it| it.sleeping) {
                        text.push_str("its worker sleeps: was the lane woken?\n");
                    }
                }
            }
        }
    }
    text
}

/// The task in flight of the worker that serves `lane`, and the lane it is of.
fn in_flight_of_worker(view: &Inspection, lane: u32) -> Option<(u32, InFlightView)> {
    let worker = view.lanes.iter().find(|it| it.lane == lane)?.placement.worker;
    view.lanes.iter().filter(|it| it.placement.worker == worker).find_map(|it| Some((it.lane, it.in_flight?)))
}

fn uncollected_text(view: &Inspection, known: &Known<'_>) -> String {
    let ended = match known {
        Known::Slow(task) => task.completed_at,
        Known::Ring(TaskRow { task: Some(task), .. }) => match &task.phase {
            Phase::Ended(end) => end.completed_at(),
            _ => 0,
        },
        Known::Ring(_) => 0,
    };
    let since = match view.clock.filter(|_| view.alive.is_some() && !view.other_boot && ended != 0) {
        Some(clock) => format!(" for {}", nanoseconds(clock.ticks_to_ns(clock.now().saturating_sub(ended)))),
        None => String::new(),
    };
    format!("its response was not collected yet{since}: its producer has to take it, or its lane fills up\n")
}

/// One task in full.
pub(super) fn why_json(view: &Inspection, found: &Found<'_>) -> Value {
    let Found { lane, position, ref known, ref earlier } = *found;
    let (slow, ring) = match known {
        Known::Slow(task) => (Some(task_json(view, task)), None),
        Known::Ring(row) => (None, Some(crate::dump_records::row_json(view, row))),
    };
    json!({
        "instance": view.instance.as_str(),
        "alive": view.alive,
        "lane": lane,
        "position": position,
        "task_id": known.id().to_string(),
        "slow": slow,
        "ring": ring,
        "earlier": earlier.iter().map(TaskId::to_string).collect::<Vec<String>>(),
        "uncollected": is_uncollected(view, known.id(), position),
    })
}
