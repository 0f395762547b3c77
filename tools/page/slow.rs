//! Slow tasks: a bar each, of what their time was spent on.

use executor_core::recorder::SlowTask;
use maud::{Markup, html};

use super::parts::{KINDS, Part, doubts, parts};
use super::sheet::{Sheet, across, counted, figure, share, time_of_day};
use super::table::table;
use crate::units::bytes;

/// Tasks that have a bar; `shm-dump slow` has all.
const SHOWN: usize = 30;
/// A part of less than this is not mentioned under the bar, if another one is.
const MENTIONED: f64 = 0.01;

pub(crate) fn section(sheet: &Sheet<'_>) -> Markup {
    let slow = &sheet.recorded.slow;
    let shown = slow.get(..SHOWN).unwrap_or(slow);
    html! {
        section id="slow" {
            h2 { "Slow tasks" }
            @if slow.is_empty() {
                p.none { "No slow tasks are recorded." }
            } @else {
                p {
                    "The slowest tasks of each handler and the last ones over their threshold, the slowest first: "
                    (shown.len()) " of " (counted(slow.len() as u64)) ". A bar is the whole time of its task, the same width for each: first its wait, \
                     hatched, then its run. Letters and words say what each part is."
                }
                div.bars { @for task in shown { (bar(sheet, task)) } }
                (table("Parts of a slow task", &[("letter", false), ("of", false), ("part", false), ("means", false)], &legend()))
            }
            // The hatching of all bars.
            svg width="0" height="0" aria-hidden="true" {
                defs {
                    pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                        line.hatch x1="0" y1="0" x2="0" y2="6" {}
                    }
                }
            }
        }
    }
}

fn legend() -> Vec<Vec<Markup>> {
    let row = |kind: &super::parts::Kind| {
        let of = if kind.is_wait { "wait" } else { "run" };
        vec![html! { (kind.letter) }, html! { (of) }, html! { (kind.name) }, html! { (kind.means) }]
    };
    KINDS.iter().map(row).collect()
}

fn bar(sheet: &Sheet<'_>, task: &SlowTask) -> Markup {
    let (total, parts) = (task.total(), parts(sheet, task));
    let mut largest: Vec<&Part> = parts.iter().filter(|part| part.ticks > 0).collect();
    largest.sort_by_key(|part| std::cmp::Reverse(part.ticks));
    let mentioned =
        largest.iter().enumerate().filter(|(place, part)| *place == 0 || share(part.ticks, total) >= MENTIONED);
    let told: Vec<String> = mentioned.map(|(_, part)| part.text(sheet)).collect();
    let mut at = 0u64;
    let placed: Vec<(&Part, f64, f64)> = parts
        .iter()
        .map(|part| {
            let from = at;
            at = at.saturating_add(part.ticks);
            (part, share(from, total), share(part.ticks, total))
        })
        .filter(|(.., share)| *share > 0.0)
        .collect();
    html! {
        figure.slow {
            figcaption {
                b { (sheet.handler(task.handler_id)) } " " (sheet.time(total)) ": lane " (task.lane) ", position " (counted(task.position))
                ", worker " (task.worker) ", " (executor_core::Status::name_of(task.status).replace('_', " "))
                @if task.attempt > 1 { ", attempt " (task.attempt) }
                ", " (figure(task.request_bytes.into(), &bytes(task.request_bytes.into()))) " in, "
                (figure(task.response_bytes.into(), &bytes(task.response_bytes.into()))) " out"
                @if let Some(ns) = sheet.realtime_ns(task.completed_at) { ", ended " (time_of_day(ns)) }
            }
            svg.bar width="100%" height="22" role="img" aria-label=(format!("parts of {}", sheet.length(total))) {
                @for (part, from, share) in placed {
                    rect.{ (format!("part-{}", part.kind.class)) } x=(across(from)) y="0" width=(across(share)) height="22" {
                        title { (part.text(sheet)) }
                    }
                    @if part.kind.is_wait {
                        rect x=(across(from)) y="0" width=(across(share)) height="22" fill="url(#hatch)" {}
                    }
                    @if share > 0.05 {
                        text.on x=(across(from + share / 2.0)) y="16" text-anchor="middle" { (part.kind.letter) }
                    }
                }
            }
            p.told {
                @for (place, text) in told.iter().enumerate() {
                    @if place == 0 { b { (text) } } @else { "; " (text) }
                }
                @if let Some(doubts) = doubts(task) { "; " (doubts) }
            }
        }
    }
}
