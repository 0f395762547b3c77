//! What the flight recorder and the error logs hold, as text and as JSON.

use std::fmt::Write;

use executor_core::recorder::{ErrorEntry, Event, EventKind};
use executor_core::status::Poison;
use executor_core::{Priority, Status};
use executor_shm::inspect::{Inspection, Recorded};
use serde_json::{Value, json};

use super::shown::Shown;
use crate::dump_json::handler_name;
use crate::dump_text::{lines, table};
use crate::moments::Moments;
use crate::units::{count, counted, nanoseconds};
use crate::verdict::named;

/// The events, the oldest first.
pub(crate) fn events_text(view: &Shown, recorded: &Recorded, events: &[Event]) -> String {
    let mut text = format!("instance {}: {}\n", view.instance, view.life());
    if recorded.slow_after_ns.is_none() {
        text.push_str("workers record nothing: it was started with --no-recording\n");
    }
    if events.is_empty() {
        text.push_str("no events\n");
        return text;
    }
    let _ = writeln!(
        text,
        "{} of {} that there ever were",
        counted(events.len() as u64, "event"),
        count(recorded.events_ever)
    );
    let moments = Moments::of(view, events.iter().map(|event| event.at));
    let mut table = table(["when", "event", "worker", "lane", "what"], 0);
    let number = |of: Option<u32>| of.map_or_else(|| "-".to_owned(), |of| of.to_string());
    for event in events {
        table.add_row([
            moments.age(event.at),
            event.kind.name().replace('_', " "),
            number(event.worker),
            number(event.lane),
            what(view, event),
        ]);
    }
    text.push_str(&lines(&table));
    if recorded.torn != 0 {
        let _ = writeln!(text, "{} torn", counted(recorded.torn.into(), "row"));
    }
    text
}

/// What an event is about, one clause.
fn what(view: &Inspection, event: &Event) -> String {
    let [a, b, c, d] = event.values;
    let time = |ticks: u64| {
        view.clock.map_or_else(|| format!("{} ticks", count(ticks)), |clock| nanoseconds(clock.ticks_to_ns(ticks)))
    };
    match event.kind {
        EventKind::SlowTask => {
            let name = named(view, event.handler_id);
            format!("task {}, handler {name}: {}, of that waited {} and ran {}", count(a), time(b), time(c), time(d))
        }
        EventKind::Slept => {
            let ended = match b {
                1 => "woken",
                2 => "its time was up",
                _ => "its time was up, and a task had been waiting: a wake-up was lost",
            };
            format!("{}, {ended}", time(a))
        }
        EventKind::LaneTaken => format!("by pid {b}, priority {}", Priority::from_bits(c).name()),
        EventKind::LaneLeft => "its producer is gone; what it submitted is served".to_owned(),
        EventKind::LaneReset => "made anew for the next producer".to_owned(),
        EventKind::LanePoisoned => Poison::from_code(a as u8).text().to_owned(),
        EventKind::Started => format!("start {a}, pid {b}, {} found in use", counted(c, "lane")),
        EventKind::Stopping => "a stop was ordered".to_owned(),
        EventKind::RunAgain => format!("task {}, attempt {b}", count(a)),
        EventKind::Gap if c == 0 => format!("{} without a look, and the kernel had not taken the CPU", time(a)),
        EventKind::Gap => format!("{} without a look, {} of that waiting for the CPU", time(a), time(b)),
        EventKind::ClockApart => {
            format!("{} by the stamps were {} by CLOCK_MONOTONIC", nanoseconds(a), nanoseconds(b))
        }
        EventKind::Answered => {
            let status = Status::from_wire(b as u8, c as u8, 0);
            let status = status.map_or_else(|| Status::name_of(b as u8).to_owned(), |status| status.to_string());
            format!("task {}: {status}", count(a))
        }
        EventKind::ClockBack => format!("by {} in task {}", time(b), count(a)),
        _ => format!("{a} {b} {c} {d}"),
    }
}

/// The same as JSON.
pub(crate) fn events_json(view: &Inspection, recorded: &Recorded, events: &[Event]) -> Value {
    let ns = |ticks: u64| view.clock.map(|clock| clock.ticks_to_ns(ticks));
    let one = |event: &Event| {
        let [a, b, c, d] = event.values;
        let values = match event.kind {
            EventKind::SlowTask => json!({"position": a, "total_ns": ns(b), "wait_ns": ns(c), "run_ns": ns(d)}),
            EventKind::Slept => json!({"asleep_ns": ns(a), "woken": b == 1, "overslept": b == 3}),
            EventKind::LaneTaken => {
                json!({"nonce": format!("{a:014x}"), "owner_pid": b, "priority": Priority::from_bits(c).name()})
            }
            EventKind::LaneReset => json!({"nonce": format!("{a:014x}")}),
            EventKind::LanePoisoned => json!({"reason": a}),
            EventKind::Started => json!({"start": a, "pid": b, "lanes": c}),
            EventKind::RunAgain => json!({"position": a, "attempt": b}),
            EventKind::Gap => json!({"gap_ns": ns(a), "preempted_ns": ns(b), "disturbed": c != 0}),
            EventKind::ClockApart => json!({"stamps_ns": a, "monotonic_ns": b}),
            EventKind::Answered => json!({"position": a, "status": Status::name_of(b as u8), "detail": c}),
            EventKind::ClockBack => json!({"position": a, "back_ns": ns(b)}),
            EventKind::LaneLeft | EventKind::Stopping => json!({}),
            _ => json!({"raw": [a, b, c, d]}),
        };
        json!({
            "at_ns": view.clock.map(|clock| clock.realtime_ns_at(event.at)),
            "event": event.kind.name(),
            "number": event.number,
            "worker": event.worker,
            "lane": event.lane,
            "handler_id": (event.handler_id != 0).then_some(event.handler_id),
            "handler": handler_name(view, event.handler_id),
            "values": values,
            "text": what(view, event),
        })
    };
    json!({
        "instance": view.instance.as_str(),
        "alive": view.alive,
        "slow_after_ns": recorded.slow_after_ns,
        "ever": recorded.events_ever,
        "torn": recorded.torn,
        "events": events.iter().map(one).collect::<Vec<Value>>(),
    })
}

/// The errors, those seen last first.
pub(crate) fn errors_text(view: &Shown, recorded: &Recorded) -> String {
    let mut text = format!("instance {}: {}\n", view.instance, view.life());
    if recorded.errors.is_empty() {
        text.push_str(if recorded.slow_after_ns.is_some() {
            "no errors\n"
        } else {
            "errors are not recorded: it was started with --no-recording\n"
        });
        return text;
    }
    let moments = Moments::of(view, recorded.errors.iter().map(|error| error.last_at));
    let mut table = table(["count", "first", "last", "handler", "status", "lane", "position", "text of the last"], 0);
    for error in &recorded.errors {
        table.add_row([
            count(error.count),
            moments.age(error.first_at),
            moments.age(error.last_at),
            handler_name(view, error.handler_id).map_or_else(|| format!("unknown {}", error.handler_id), str::to_owned),
            status(error),
            error.lane.to_string(),
            count(error.position),
            shown(error),
        ]);
    }
    text.push_str(&lines(&table));
    if recorded.errors_forgotten != 0 {
        let _ = writeln!(text, "{} made room for others", counted(recorded.errors_forgotten, "error"));
    }
    text.push_str("\nerrors that differ in numbers alone are one\n");
    text
}

fn status(error: &ErrorEntry) -> String {
    let name = Status::name_of(error.status).replace('_', " ");
    if error.detail == 0 { name } else { format!("{name} ({})", error.detail) }
}

/// The text without what a terminal could take for a command.
fn shown(error: &ErrorEntry) -> String {
    let plain: String = error.text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if error.is_cut { plain + "…" } else { plain }
}

/// The same as JSON.
pub(crate) fn errors_json(view: &Inspection, recorded: &Recorded) -> Value {
    let moment = |ticks: u64| view.clock.filter(|_| ticks != 0).map(|clock| clock.realtime_ns_at(ticks));
    let one = |error: &ErrorEntry| {
        json!({
            "count": error.count,
            "first_at_ns": moment(error.first_at),
            "last_at_ns": moment(error.last_at),
            "handler_id": error.handler_id,
            "handler": handler_name(view, error.handler_id),
            "status": Status::name_of(error.status),
            "detail": error.detail,
            "lane": error.lane,
            "position": error.position,
            "text": error.text,
            "text_is_cut": error.is_cut,
        })
    };
    json!({
        "instance": view.instance.as_str(),
        "alive": view.alive,
        "forgotten": recorded.errors_forgotten,
        "errors": recorded.errors.iter().map(one).collect::<Vec<Value>>(),
    })
}
