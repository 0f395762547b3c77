//! The last tasks of lanes, as text and as JSON.

use std::fmt::Write;

use comfy_table::Cell;
use executor_core::Status;
use executor_core::record::CompletionRecord;
use executor_shm::inspect::{Inspection, LaneRecords, Phase, TaskRow, TaskView};
use serde_json::{Value, json};

use crate::colour::Mood;
use crate::dump::Shown;
use crate::dump_json::handler_name;
use crate::dump_text::{life_mood, lines, table};
use crate::exit::one_line_of;
use crate::units::{count, counted, nanoseconds};

const NONE: &str = "-";

/// The lanes with a table each.
pub(crate) fn records_text(view: &Shown, records: &[LaneRecords]) -> String {
    let mut text = format!("instance {}: {}\n", view.instance, life_mood(view).text(view.life()));
    let origin = Origin::of(view, records);
    for lane in records {
        let state = lane.state.map_or("damaged", |state| state.name());
        let owner = if lane.owner == 0 { String::new() } else { format!(", pid {}", lane.owner) };
        let _ = write!(text, "\nlane {}, {state}{owner}: ", lane.lane);
        match &lane.tasks {
            Err(why) => {
                let _ = writeln!(text, "unreadable: {}", one_line_of(why));
            }
            Ok(tasks) if tasks.is_empty() => text.push_str("no tasks\n"),
            Ok(tasks) => {
                let _ = writeln!(text, "the last {}", counted(tasks.len() as u64, "task"));
                text.push_str(&lane_text(view, tasks, &origin));
            }
        }
    }
    if records.is_empty() {
        text.push_str("no lanes\n");
    }
    text.push_str(origin.legend());
    text
}

fn lane_text(view: &Shown, tasks: &[TaskRow], origin: &Origin) -> String {
    let titles = ["position", "task", "handler", "status", "bytes", "submitted", "started", "completed", "attempt"];
    let mut table = table(titles, 4);
    for row in tasks {
        let head = [count(row.position), row.task_id.to_string()];
        let tail = match &row.task {
            None => [NONE, "torn", NONE, NONE, NONE, NONE, NONE].map(Cell::new),
            Some(task) => cells(view, task, origin),
        };
        table.add_row(head.map(Cell::new).into_iter().chain(tail));
    }
    lines(&table)
}

fn cells(view: &Shown, task: &TaskView, origin: &Origin) -> [Cell; 7] {
    let asked = &task.descriptor;
    let submitted = asked.submitted_at();
    let ns = |from: u64, to: u64| match view.clock {
        Some(clock) if from != 0 && to != 0 => format!("+{}", nanoseconds(clock.ticks_to_ns(to.saturating_sub(from)))),
        _ => NONE.to_owned(),
    };
    let (started, completed) = stamps(&task.phase);
    let handler = handler_name(view, asked.handler_id());
    let is_bad = matches!(&task.phase, Phase::Ended(end) if end.status() != Some(Status::Done));
    let mood = if is_bad { Mood::Bad } else { Mood::Plain };
    let status = mood.cell(status_text(view, &task.phase));
    let [handler, length, submitted, started, completed, attempt] = [
        handler.map_or_else(|| format!("unknown {}", asked.handler_id()), str::to_owned),
        asked.length().to_string(),
        if submitted == 0 { NONE.to_owned() } else { origin.age(submitted) },
        ns(submitted, started),
        ns(started, completed),
        match &task.phase {
            Phase::Ended(end) => end.attempt().to_string(),
            _ => NONE.to_owned(),
        },
    ]
    .map(Cell::new);
    [handler, status, length, submitted, started, completed, attempt]
}

/// When a task was started and ended, in ticks; 0 unknown or not yet.
fn stamps(phase: &Phase) -> (u64, u64) {
    match phase {
        Phase::Waiting | Phase::Unanswered => (0, 0),
        Phase::InFlight { started_at } => (*started_at, 0),
        Phase::Ended(end) => (end.started_at(), end.completed_at()),
    }
}

fn status_text(view: &Shown, phase: &Phase) -> String {
    match phase {
        Phase::Waiting => "waits".to_owned(),
        Phase::InFlight { .. } if view.is_dead() => "was in flight".to_owned(),
        Phase::InFlight { .. } => "in flight".to_owned(),
        Phase::Unanswered => "unanswered".to_owned(),
        Phase::Ended(end) => ended_text(end),
    }
}

fn ended_text(end: &CompletionRecord) -> String {
    match end.status() {
        Some(status) => status.to_string(),
        None => format!("invalid status {}", end.status_code()),
    }
}

/// What ages are counted from.
enum Origin {
    /// Now: the files are on the machine that stamps.
    Now(executor_core::Clock, u64),
    /// The newest stamp that is shown: a copy may be from any time and machine.
    Newest(executor_core::Clock, u64),
    /// There is no clock.
    Unknown,
}

impl Origin {
    fn of(view: &Inspection, records: &[LaneRecords]) -> Self {
        let Some(clock) = view.clock else { return Self::Unknown };
        if view.alive.is_some() {
            return Self::Now(clock, clock.now());
        }
        let tasks = records.iter().filter_map(|lane| lane.tasks.as_ref().ok()).flatten().filter_map(|row| row.task);
        let newest = tasks.map(|task| {
            let (started, completed) = stamps(&task.phase);
            task.descriptor.submitted_at().max(started).max(completed)
        });
        Self::Newest(clock, newest.max().unwrap_or(0))
    }

    fn age(&self, ticks: u64) -> String {
        let age = |clock: &executor_core::Clock, from: &u64| nanoseconds(clock.ticks_to_ns(from.saturating_sub(ticks)));
        match self {
            Self::Now(clock, from) => format!("{} ago", age(clock, from)),
            Self::Newest(clock, from) => format!("{} before", age(clock, from)),
            Self::Unknown => NONE.to_owned(),
        }
    }

    fn legend(&self) -> &'static str {
        match self {
            Self::Newest(..) => {
                "\nsubmitted: before the newest stamp above; started: after that; completed: after that\n"
            }
            _ => "\nstarted: after the submit; completed: after the start\n",
        }
    }
}

/// The lanes as JSON: moments in nanoseconds since 1970, lengths in nanoseconds.
pub(crate) fn records_json(view: &Inspection, records: &[LaneRecords]) -> Value {
    let lanes: Vec<Value> = records
        .iter()
        .map(|lane| {
            let rows = |tasks: &Vec<TaskRow>| tasks.iter().map(|row| row_json(view, row)).collect::<Vec<Value>>();
            json!({
                "lane": lane.lane,
                "state": lane.state.map(|state| state.name()),
                "owner_pid": lane.owner,
                "unreadable": lane.tasks.as_ref().err(),
                "tasks": lane.tasks.as_ref().ok().map(rows),
            })
        })
        .collect();
    json!({"instance": view.instance.as_str(), "alive": view.alive, "pid": view.pid, "lanes": lanes})
}

pub(crate) fn row_json(view: &Inspection, row: &TaskRow) -> Value {
    let Some(task) = &row.task else {
        return json!({"position": row.position, "task_id": row.task_id.to_string(), "phase": "torn"});
    };
    let asked = &task.descriptor;
    let (started, completed) = stamps(&task.phase);
    let moment = |ticks: u64| view.clock.filter(|_| ticks != 0).map(|clock| clock.realtime_ns_at(ticks));
    let length = |from: u64, to: u64| {
        view.clock.filter(|_| from != 0 && to != 0).map(|clock| clock.ticks_to_ns(to.saturating_sub(from)))
    };
    let end = if let Phase::Ended(end) = &task.phase { Some(end) } else { None };
    json!({
        "position": row.position,
        "task_id": row.task_id.to_string(),
        "phase": match task.phase {
            Phase::Waiting => "waiting",
            Phase::InFlight { .. } => "in_flight",
            Phase::Unanswered => "unanswered",
            Phase::Ended(_) => "ended",
        },
        "handler_id": asked.handler_id(),
        "handler": handler_name(view, asked.handler_id()),
        "request_bytes": asked.length(),
        "submitted_at_ns": moment(asked.submitted_at()),
        "started_at_ns": moment(started),
        "completed_at_ns": moment(completed),
        "queue_ns": length(asked.submitted_at(), started),
        "run_ns": length(started, completed),
        "status": end.map(|end| Status::name_of(end.status_code())),
        "status_text": end.map(ended_text),
        "response_bytes": end.map(CompletionRecord::response_length),
        "attempt": end.map(CompletionRecord::attempt),
    })
}
