//! Slow tasks and why they were, as text and as JSON.

use std::fmt::Write;

use executor_core::Status;
use executor_core::recorder::SlowTask;
use executor_shm::inspect::{Inspection, Phase, Recorded, TaskRow};
use serde_json::{Value, json};

use crate::dump_json::handler_name;
use crate::dump_text::{life, lines, table};
use crate::moments::Moments;
use crate::units::{bytes, count, counted, nanoseconds};
use crate::verdict::{Part, doubts, is_uncollected, largest, named, run_parts, wait_parts};

/// A table, the slowest task first.
pub(crate) fn slow_text(view: &Inspection, recorded: &Recorded, tasks: &[SlowTask]) -> String {
    let mut text = format!("instance {}: {}\n", view.instance, life(view));
    let _ = writeln!(text, "{}", threshold(recorded));
    if tasks.is_empty() {
        text.push_str("no slow tasks\n");
        return text;
    }
    let moments = Moments::of(view, tasks.iter().map(|task| task.completed_at));
    let mut table = table(["total", "wait", "run", "handler", "lane", "position", "ended", "status", "most of it"], 0);
    for task in tasks {
        let (part, is_wait) = largest(view, task);
        let verb = if is_wait { "waited" } else { "ran" };
        table.add_row([
            time(view, task.total()),
            time(view, task.wait()),
            time(view, task.run()),
            handler_name(view, task.handler_id).map_or_else(|| format!("unknown {}", task.handler_id), str::to_owned),
            task.lane.to_string(),
            count(task.position),
            moments.age(task.completed_at),
            Status::name_of(task.status).to_owned(),
            format!("{} {verb} {}", time(view, part.ticks), part.text),
        ]);
    }
    text.push_str(&lines(&table));
    text += &torn(recorded);
    if let Some(task) = tasks.first() {
        let _ = writeln!(text, "\none of them in full: shm-dump why {} {} {}", view.instance, task.lane, task.position);
    }
    text
}

fn threshold(recorded: &Recorded) -> String {
    match recorded.slow_after_ns {
        None => "nothing is recorded: it was started with --no-recording".to_owned(),
        Some(ns) => format!(
            "slow is what takes longer than {}, unless its handler says otherwise, and the slowest tasks of each handler",
            nanoseconds(ns)
        ),
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

fn time(view: &Inspection, ticks: u64) -> String {
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

fn task_json(view: &Inspection, task: &SlowTask) -> Value {
    let ns = |ticks: u64| view.clock.map(|clock| clock.ticks_to_ns(ticks));
    let moment = |ticks: u64| view.clock.filter(|_| ticks != 0).map(|clock| clock.realtime_ns_at(ticks));
    let parts = |parts: Vec<Part>| parts.into_iter().map(|part| (part.key.to_owned(), json!(ns(part.ticks)))).collect();
    let (wait, run): (Value, Value) = (parts(wait_parts(view, task)), parts(run_parts(view, task)));
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
        "run_ns": ns(task.run()),
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
        "uncollected": is_uncollected(view, task.lane, task.position),
    })
}

/// What is known of one task.
#[derive(Debug)]
pub(crate) enum Known<'a> {
    /// It was noted as slow.
    Slow(&'a SlowTask),
    /// It was not, but the rings of its lane still hold it.
    Ring(&'a TaskRow),
}

/// One task in full.
pub(crate) fn why_text(view: &Inspection, lane: u32, position: u64, known: &Known<'_>) -> String {
    let mut text = format!("instance {}: {}\n", view.instance, life(view));
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
            let _ = writeln!(text, "{:>10}  from submit to end", time(view, task.total()));
            text += &parts_text(view, "waited", task.wait(), &wait_parts(view, task));
            text += &parts_text(view, "ran", task.run(), &run_parts(view, task));
            for doubt in doubts(task) {
                let _ = writeln!(text, "note: {doubt}");
            }
            let (part, _) = largest(view, task);
            let _ = writeln!(text, "\nwhat would help: {}", part.cure);
        }
        Known::Ring(row) => text += &ring_text(view, lane, row),
    }
    if is_uncollected(view, lane, position) {
        text.push_str(&uncollected_text(view, known));
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

/// A task that was not noted: its stamps, and what stands before it if it still waits.
fn ring_text(view: &Inspection, lane: u32, row: &TaskRow) -> String {
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
            text.push_str("it was not slow enough to be noted, so what it waited for is not known; note more with: executord run --slow-after TIME\n");
        }
        phase => {
            let now = view.clock.filter(|_| view.alive == Some(true)).map(|clock| clock.now());
            let since = |from: u64| now.map_or_else(|| "-".to_owned(), |now| length(from, now));
            let it = view.lanes.iter().find(|it| it.lane == lane);
            match phase {
                Phase::InFlight { started_at } => {
                    let verb = if view.alive == Some(false) { "it ran when the sidecar died" } else { "runs" };
                    let _ = writeln!(
                        text,
                        "{:>10}  waited\n{:>10}  {verb}",
                        length(submitted, *started_at),
                        since(*started_at)
                    );
                }
                _ => {
                    let _ = writeln!(text, "{:>10}  waits", since(submitted));
                    let ahead = it.and_then(|it| it.started).map_or(0, |started| row.position.saturating_sub(started));
                    let _ = writeln!(text, "{} before it in its lane wait as well", counted(ahead, "task"));
                    if view.alive == Some(false) {
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
fn in_flight_of_worker(view: &Inspection, lane: u32) -> Option<(u32, executor_shm::inspect::InFlightView)> {
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
    let since = match view.clock.filter(|_| view.alive.is_some() && ended != 0) {
        Some(clock) => format!(" for {}", nanoseconds(clock.ticks_to_ns(clock.now().saturating_sub(ended)))),
        None => String::new(),
    };
    format!("its response was not collected yet{since}: its producer has to take it, or its lane fills up\n")
}

/// One task in full.
pub(crate) fn why_json(view: &Inspection, lane: u32, position: u64, known: &Known<'_>) -> Value {
    let (slow, ring) = match known {
        Known::Slow(task) => (Some(task_json(view, task)), None),
        Known::Ring(row) => (None, Some(crate::dump_records::row_json(view, row))),
    };
    json!({
        "instance": view.instance.as_str(),
        "alive": view.alive,
        "lane": lane,
        "position": position,
        "slow": slow,
        "ring": ring,
        "uncollected": is_uncollected(view, lane, position),
    })
}
