//! Slow tasks, as text and as JSON.

use std::fmt::Write;
use std::ops::Range;

use executor_core::Status;
use executor_core::recorder::SlowTask;
use executor_shm::inspect::{Inspection, Recorded};
use serde_json::{Value, json};

use super::shown::Shown;
use crate::dump_json::handler_name;
use crate::dump_text::{lines, table};
use crate::moments::Moments;
use crate::units::{count, counted, nanoseconds};
use crate::verdict::{Part, is_uncollected, largest, run_parts, wait_parts};

/// A table, the slowest task first; `from` is how to look there again.
pub(crate) fn slow_text(view: &Shown, recorded: &Recorded, tasks: &[SlowTask], from: &str) -> String {
    let mut text = format!("instance {}: {}\n", view.instance, view.life());
    let _ = writeln!(text, "{}", threshold(view, recorded));
    if tasks.is_empty() {
        text.push_str(if unnoted(view, recorded).is_none() { "no slow tasks\n" } else { "" });
        return text;
    }
    let moments = Moments::of(view, tasks.iter().map(|task| task.completed_at));
    let mut table = table(["total", "wait", "run", "handler", "task", "position", "ended", "status", "most of it"], 0);
    for task in tasks {
        let (part, is_wait) = largest(view, task);
        let verb = if is_wait { "waited" } else { "ran" };
        table.add_row([
            time(view, task.total()),
            time(view, task.wait()),
            time(view, task.run()),
            handler_name(view, task.handler_id).map_or_else(|| format!("unknown {}", task.handler_id), str::to_owned),
            task.id().to_string(),
            count(task.position),
            moments.age(task.completed_at),
            Status::name_of(task.status).to_owned(),
            format!("{} {verb} {}", time(view, part.ticks), part.text),
        ]);
    }
    text.push_str(&lines(&table));
    text += &torn(recorded);
    if let Some(task) = tasks.first() {
        let _ = writeln!(text, "\none of them in full: shm-dump why {} {}{from}", view.instance, task.id());
    }
    text
}

/// Why no task is noted as slow; `None` where those are that are.
pub(super) fn unnoted(view: &Inspection, recorded: &Recorded) -> Option<&'static str> {
    match recorded.slow_after_ns {
        None => Some("nothing is recorded, since it was started with --no-recording"),
        Some(_) if !view.timed => Some("tasks are not timed, since it was started with --no-timing"),
        Some(_) => None,
    }
}

/// What is slow here.
fn threshold(view: &Inspection, recorded: &Recorded) -> String {
    match (unnoted(view, recorded), recorded.slow_after_ns) {
        (None, Some(ns)) => format!(
            "slow is what takes longer than {}, unless its handler says otherwise, and the slowest tasks of each handler",
            nanoseconds(ns)
        ),
        (why, _) => format!("no task is noted as slow: {}", why.unwrap_or_default()),
    }
}

fn torn(recorded: &Recorded) -> String {
    match recorded.torn {
        0 => String::new(),
        torn => {
            format!("{} torn: being written at every look, or when the sidecar died\n", counted(torn.into(), "row"))
        }
    }
}

pub(super) fn time(view: &Inspection, ticks: u64) -> String {
    view.clock.map_or_else(|| format!("{} ticks", count(ticks)), |clock| nanoseconds(clock.ticks_to_ns(ticks)))
}

/// All of them.
pub(crate) fn slow_json(view: &Inspection, recorded: &Recorded, tasks: &[SlowTask]) -> Value {
    json!({
        "instance": view.instance.as_str(),
        "alive": view.alive,
        "slow_after_ns": recorded.slow_after_ns,
        "torn": recorded.torn,
        "tasks": tasks.iter().map(|task| task_json(view, task)).collect::<Vec<Value>>(),
    })
}

/// A time in nanoseconds, such that neighbours add up: the ends are converted, not the length.
fn between_ns(view: &Inspection, ticks: Range<u64>) -> Option<u64> {
    view.clock.map(|clock| clock.ticks_to_ns(ticks.end).saturating_sub(clock.ticks_to_ns(ticks.start)))
}

/// Each part by its key; together they are the whole.
fn parts_json(view: &Inspection, whole: Range<u64>, parts: Vec<Part>) -> Value {
    let mut from = whole.start;
    let one = |part: Part| {
        let to = from.saturating_add(part.ticks).min(whole.end);
        (part.key.to_owned(), json!(between_ns(view, std::mem::replace(&mut from, to)..to)))
    };
    parts.into_iter().map(one).collect()
}

pub(super) fn task_json(view: &Inspection, task: &SlowTask) -> Value {
    let ns = |ticks: u64| view.clock.map(|clock| clock.ticks_to_ns(ticks));
    let moment = |ticks: u64| view.clock.filter(|_| ticks != 0).map(|clock| clock.realtime_ns_at(ticks));
    let begun = task.wait();
    let ended = begun.saturating_add(task.run());
    let wait = parts_json(view, 0..begun, wait_parts(view, task));
    let run = parts_json(view, begun..ended, run_parts(view, task));
    let behind = |behind: &executor_core::recorder::Behind| {
        (behind.ticks != 0).then(|| {
            json!({
                "tasks": behind.tasks,
                "handler_id": behind.handler_id,
                "handler": handler_name(view, behind.handler_id),
                "lane": behind.lane,
            })
        })
    };
    json!({
        "task_id": task.id().to_string(),
        "lane": task.lane,
        "position": task.position,
        "worker": task.worker,
        "handler_id": task.handler_id,
        "handler": handler_name(view, task.handler_id),
        "status": Status::name_of(task.status),
        "attempt": task.attempt,
        "request_bytes": task.request_bytes,
        "response_bytes": task.response_bytes,
        "submitted_at_ns": moment(task.submitted_at),
        "started_at_ns": moment(task.started_at),
        "completed_at_ns": moment(task.completed_at),
        "total_ns": ns(task.total()),
        "wait_ns": ns(task.wait()),
        "run_ns": between_ns(view, begun..ended),
        "wait": wait,
        "run": run,
        "behind_lane": behind(&task.behind_lane),
        "behind_others": behind(&task.behind_others),
        "minor_faults": task.minor_faults,
        "major_faults": task.major_faults,
        "most": largest(view, task).0.key,
        "known": {
            "preemption": task.known.preemption,
            "preempted_time": task.known.preempted_time,
            "faults": task.known.faults,
            "history": task.known.history,
        },
        "uncollected": is_uncollected(view, task.id(), task.position),
    })
}
