//! What each worker spent its time on.

use executor_core::idle::IdleStrategy;
use executor_shm::inspect::{TimeView, WorkerView};
use maud::{Markup, html};

use super::sheet::{NONE, Sheet, across, counted, figure, percent, share};
use super::table::table;
use crate::units::nanoseconds;

pub(crate) fn section(sheet: &Sheet<'_>) -> Markup {
    let workers = &sheet.view.workers;
    html! {
        section id="workers" {
            h2 { "Workers" }
            @if workers.is_empty() {
                p.none { "No worker has served these files." }
            } @else {
                p {
                    "Busy is time inside handlers, idle is time in which it looked for tasks and found none, asleep is what it sounds like. Only busy is work."
                }
                @for worker in workers { (bar(sheet, worker)) }
                (table("Workers", &[("worker", false), ("CPU", true), ("idle strategy", false), ("lanes", true), ("tasks", true),
                    ("slow tasks", true), ("woken", true), ("overslept", true), ("longest gap", true), ("preempted", true), ("for", true)],
                    &workers.iter().map(|worker| row(sheet, worker)).collect::<Vec<_>>()))
                p.note {
                    "The longest gap is the longest time in which a worker looked at nothing though it had no task and did not sleep. \
                     Overslept are sleeps that ended by themselves with a task waiting."
                }
            }
        }
    }
}

/// Until when a worker's time counts, in ticks: now, or when it last did anything that was told.
fn until(sheet: &Sheet<'_>, time: &TimeView) -> u64 {
    let view = sheet.view;
    let last_event = sheet.recorded.events.last().map_or(0, |event| event.at);
    match view.clock.filter(|_| view.alive == Some(true) && !view.other_boot) {
        Some(clock) => clock.now(),
        None => time.looked_at.max(last_event),
    }
}

fn bar(sheet: &Sheet<'_>, worker: &WorkerView) -> Markup {
    let Some((time, clock)) = worker.time.zip(sheet.view.clock) else { return html! {} };
    let shares = time.shares_ns(&clock, until(sheet, &time));
    let all = shares.iter().fold(0u64, |sum, share| sum.saturating_add(*share));
    let names = ["busy", "idle", "asleep"];
    let [busy, asleep, idle] = shares;
    let parts: Vec<(&str, u64, f64)> =
        names.into_iter().zip([busy, idle, asleep]).map(|(name, ns)| (name, ns, share(ns, all))).collect();
    let mut at = 0.0;
    let placed: Vec<(&str, f64, f64)> = parts
        .iter()
        .map(|(name, _, share)| {
            let from = at;
            at += share;
            (*name, from, *share)
        })
        .collect();
    html! {
        figure {
            figcaption {
                "worker " (worker.worker) ": "
                @for (place, (name, ns, share)) in parts.iter().enumerate() {
                    @if place > 0 { ", " }
                    (name) " " (percent(*share)) " (" (nanoseconds(*ns)) ")"
                }
            }
            svg.bar width="100%" height="22" role="img" aria-label=(format!("time of worker {}", worker.worker)) {
                @for (name, from, share) in placed.into_iter().filter(|(_, _, share)| *share > 0.0) {
                    rect.{ (format!("time-{name}")) } x=(across(from)) y="0" width=(across(share)) height="22" {
                        title { (name) " " (percent(share)) }
                    }
                    @if share > 0.15 {
                        text.on x=(across(from + share / 2.0)) y="15" text-anchor="middle" { (name) }
                    }
                }
            }
        }
    }
}

fn row(sheet: &Sheet<'_>, worker: &WorkerView) -> Vec<Markup> {
    let time = worker.time.as_ref();
    let gap = time.and_then(|time| time.longest_gap);
    vec![
        html! { (worker.worker) },
        worker.cpu.map_or(html! { "unpinned" }, |cpu| html! { (cpu) }),
        html! { (worker.idle.map_or("unknown", IdleStrategy::name)) },
        counted(worker.lanes),
        counted(worker.tasks),
        counted(worker.slow_tasks),
        counted(worker.sleep.wakes),
        counted(worker.sleep.overslept),
        gap.map_or(html! { (NONE) }, |gap| sheet.time(gap.ticks)),
        time.map_or(html! { (NONE) }, |time| counted(time.preemptions)),
        time.map_or(html! { (NONE) }, |time| figure(time.preempted_ns, &nanoseconds(time.preempted_ns))),
    ]
}
