//! Events in words.

use executor_core::recorder::{Event, EventKind};

use super::sheet::Sheet;
use crate::units::{count, counted, nanoseconds};

/// The row of the picture that an event stands in; slow tasks and sleeps have rows of their own.
pub(crate) fn row(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::SlowTask | EventKind::Slept => None,
        EventKind::LaneTaken | EventKind::LaneLeft | EventKind::LaneReset | EventKind::LanePoisoned => Some("lanes"),
        EventKind::Started | EventKind::Stopping => Some("starts and stops"),
        EventKind::RunAgain => Some("tasks run again"),
        EventKind::Gap => Some("gaps: a worker stood still"),
        EventKind::ClockApart | EventKind::ClockBack => Some("clock trouble"),
        _ => Some("other"),
    }
}

/// What happened, in words.
pub(crate) fn words(sheet: &Sheet<'_>, event: &Event) -> String {
    let [a, b, c, _] = event.values;
    let worker = event.worker.map_or_else(|| "a worker".to_owned(), |worker| format!("worker {worker}"));
    let lane = event.lane.map_or_else(|| "a lane".to_owned(), |lane| format!("lane {lane}"));
    match event.kind {
        EventKind::SlowTask => {
            let handler = sheet.handler(event.handler_id);
            let [total, wait, run] = [b, c, event.values[3]].map(|ticks| sheet.length(ticks));
            format!("slow task {handler}: {total}, {wait} of it wait and {run} run; {lane}, position {}", count(a))
        }
        EventKind::Slept => {
            let end = match b {
                1 => "until it was woken",
                2 => "until its time was up",
                3 => "until its time was up, over a waiting task",
                _ => "until something unknown",
            };
            format!("{worker} slept {} {end}", sheet.length(a))
        }
        EventKind::LaneTaken => format!("{lane} was taken by pid {b}, for {worker}"),
        EventKind::LaneLeft => format!("the producer of {lane} left"),
        EventKind::LaneReset => format!("{lane} was reset"),
        EventKind::LanePoisoned => format!("{lane} was poisoned, reason {a}"),
        EventKind::Started => {
            format!("start {} by pid {b}, with {} in use or unanswered", count(a), counted(c, "lane"))
        }
        EventKind::Stopping => "the sidecar was told to stop".to_owned(),
        EventKind::RunAgain => {
            format!("{} of {lane}, position {}, ran again: attempt {b}", sheet.handler(event.handler_id), count(a))
        }
        EventKind::Gap => {
            let kernel =
                if c == 0 { "not the kernel's doing".to_owned() } else { format!("{} without a CPU", sheet.length(b)) };
            format!("{worker} stood still for {}, {kernel}", sheet.length(a))
        }
        EventKind::ClockApart => {
            format!("the clocks went apart: {} by the stamps, {} by CLOCK_MONOTONIC", nanoseconds(a), nanoseconds(b))
        }
        EventKind::ClockBack => format!("the clock went back by {} ticks in position {} of {lane}", count(b), count(a)),
        _ => format!("an event of kind {}, which this build does not know", event.kind.code()),
    }
}
