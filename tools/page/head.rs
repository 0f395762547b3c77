//! The head of the page: which instance, in what state, read when; and its foot.

use executor_core::Status;
use maud::{Markup, html};

use super::sheet::{NONE, Sheet, counted, date, figure, plain};
use crate::dump_json::unanswered;
use crate::dump_text::{life, statuses};
use crate::units::{bytes, nanoseconds};

pub(crate) fn section(sheet: &Sheet<'_>) -> Markup {
    let (view, recorded) = (sheet.view, sheet.recorded);
    let fact = |name: &str, what: Markup| html! { div { dt { (name) } dd { (what) } } };
    let when = |ns: u64| {
        if ns == 0 {
            html! { (NONE) }
        } else {
            figure(ns, &date(ns))
        }
    };
    let ended = statuses(&view.stats.by_status, 1).unwrap_or_else(|| "none".to_owned());
    html! {
        header {
            h1 { "Instance " (view.instance) }
            @if let Some(warning) = warning(sheet) {
                p.warning role="note" { (warning) }
            }
            dl.facts {
                (fact("is", html! { (life(view)) }))
                (fact("read", match sheet.taken.at_ns {
                    Some(ns) => when(ns),
                    None => html! { "from a copy whose time is not known" },
                }))
                @if let Some(folder) = &sheet.taken.folder {
                    (fact("copy in", html! { bdi { (plain(folder)) } }))
                }
                (fact("started", when(view.started_at_ns)))
                (fact("starts on these files", counted(view.epoch)))
                (fact("pid", html! { (view.pid) }))
                (fact("clock", match view.clock {
                    Some(clock) => html! { (clock.source().name()) @if !view.timed { ", timing off" } },
                    None => html! { "unreadable: no times can be told" },
                }))
                (fact("tasks ended", html! { (counted(view.stats.tasks)) " (" (ended) ")" }))
                (fact("unanswered", unanswered(view).map_or(html! { (NONE) }, counted)))
                (fact("memory", figure(view.footprint, &bytes(view.footprint))))
                (fact("slow is", match recorded.slow_after_ns {
                    Some(ns) => html! { "over " (figure(ns, &nanoseconds(ns))) ", unless its handler says otherwise" },
                    None => html! { "nothing: recording is off" },
                }))
                @if recorded.torn > 0 {
                    (fact("torn rows", html! { (counted(recorded.torn.into())) ", left out" }))
                }
            }
            details {
                summary { "How to read this page" }
                p {
                    "Wait is from submit to start of a task, run from there to the end of its handler. Both are counted in buckets 3 % wide; a \
                     percentile is the upper edge of its bucket, so p99 says that 99 of 100 tasks took at most so long. Figures were copied while \
                     the instance may have been at work: each is whole, and two of them may be from slightly different moments. Times of day are UTC, \
                     by the wall clock as it stood when the sidecar started."
                }
            }
        }
    }
}

/// What makes the figures less than they could be.
fn warning(sheet: &Sheet<'_>) -> Option<String> {
    let view = sheet.view;
    if view.other_boot {
        return Some(
            "These files are from another boot of the machine: times since the start mean nothing.".to_owned(),
        );
    }
    match (view.alive, view.clock, sheet.recorded.slow_after_ns) {
        (_, None, _) => Some(
            "The clock of this instance cannot be read: its files are damaged. No times can be told, only counts."
                .to_owned(),
        ),
        (_, _, None) => Some(
            "Recording is off: there are counts of tasks, and no bytes, times, slow tasks, events or errors."
                .to_owned(),
        ),
        (Some(false), ..) => {
            let tasks = unanswered(view);
            let left = match tasks {
                Some(0) => String::new(),
                Some(tasks) => format!(" {tasks} tasks wait for the next start."),
                None => " What waits cannot be told.".to_owned(),
            };
            Some(format!("No sidecar serves this instance; this is what the last one left.{left}"))
        }
        _ if !view.timed => {
            Some("Timing is off: there are counts, bytes, events and errors, and no times or slow tasks.".to_owned())
        }
        _ => None,
    }
}

pub(crate) fn footer(sheet: &Sheet<'_>) -> Markup {
    html! {
        footer {
            p {
                "Made by shm-dump " (env!("CARGO_PKG_VERSION")) " from ABI " (sheet.view.abi) ", nonce "
                (format!("{:016x}", sheet.view.nonce)) ". The same in a terminal: " code { "shm-dump show " (sheet.place()) } "."
            }
        }
    }
}

/// Counts by status in words, from status byte `first` on.
pub(crate) fn by_status(counts: &[u64], first: u8) -> Markup {
    let named = || (0u8..).zip(counts).skip(first.into()).filter(|(_, count)| **count > 0);
    html! {
        @if named().next().is_none() { (counted(0)) }
        @for (place, (code, count)) in named().enumerate() {
            @if place > 0 { ", " }
            (counted(*count)) " " (Status::name_of(code).replace('_', " "))
        }
    }
}
