//! Lanes: how full they are, and with what.

use executor_shm::inspect::LaneView;
use executor_shm::state::LaneState;
use maud::{Markup, html};

use super::head::by_status;
use super::sheet::{NONE, Sheet, across, counted, plain, share};
use super::table::table;
use crate::dump_text::is_placed;
use crate::units::{self, count};

/// Lanes that are shown; `shm-dump lanes` has all.
const SHOWN: usize = 128;

/// What the slots of a lane hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slots {
    waiting: u64,
    in_flight: u64,
    not_collected: u64,
    free: u64,
}

impl Slots {
    /// `None` where that may not be read. What the producer says is held to what can be.
    fn of(lane: &LaneView, capacity: u64) -> Option<Self> {
        let (depth, completed) = lane.depth.zip(lane.completed)?;
        let waiting = depth.min(capacity);
        let in_flight = u64::from(lane.in_flight.is_some()).min(capacity - waiting);
        // Credit is given late, and what is taken out of order has none yet; what nobody wants has credit and is not collected.
        let taken = lane.producer.map_or(completed, |producer| producer.credited.max(producer.collected));
        let not_collected = completed.saturating_sub(taken).min(capacity - waiting - in_flight);
        Some(Self { waiting, in_flight, not_collected, free: capacity - waiting - in_flight - not_collected })
    }
}

/// Whether nobody ever used it. Times are not always recorded; an owner that left is told by a reset in any case.
fn is_idle(lane: &LaneView) -> bool {
    let did_nothing = lane.resets == 0 && lane.total.count() == 0 && lane.by_status.iter().all(|tasks| *tasks == 0);
    lane.state == Some(LaneState::Free) && lane.owner == 0 && lane.depth == Some(0) && did_nothing
}

pub(crate) fn section(sheet: &Sheet<'_>) -> Markup {
    let view = sheet.view;
    let capacity = u64::from(view.geometry.capacity);
    let used: Vec<&LaneView> = view.lanes.iter().filter(|lane| !is_idle(lane)).collect();
    let shown = used.get(..SHOWN).unwrap_or(&used);
    html! {
        section id="lanes" {
            h2 { "Lanes" }
            p {
                "Up to " (units::counted(view.geometry.lanes.into(), "lane")) " of " (count(capacity)) " slots. A slot is held from the submit of \
                 a task until its producer collects the completion: a producer that does not collect fills its lane though nothing waits."
            }
            @if used.is_empty() {
                p.none { "No lane has been used." }
            } @else {
                @if used.len() > shown.len() {
                    p.note { "The first " (shown.len()) " of " (used.len()) " lanes; all are in: " code { "shm-dump show " (sheet.place()) } }
                }
                @if shown.iter().all(|lane| Slots::of(lane, capacity).is_some_and(|slots| slots.free == capacity)) {
                    p { "All slots of all lanes are free." }
                }
                div.bars { @for lane in shown { (bar(lane, capacity)) } }
                (table("Lanes", &[("lane", false), ("state", false), ("owner", false), ("priority", false), ("worker", true), ("waiting", true),
                    ("in flight", false), ("not collected", true), ("submits refused", true), ("resets", true), ("not done", false),
                    ("total p50", true), ("p99", true), ("max", true)],
                    &shown.iter().map(|lane| row(sheet, lane, capacity)).collect::<Vec<_>>()))
                @for lane in shown {
                    @if let Some(why) = &lane.unreadable {
                        p.note { "Lane " (lane.lane) " is unreadable in part: " bdi { (plain(why)) } }
                    }
                }
            }
        }
    }
}

fn bar(lane: &LaneView, capacity: u64) -> Markup {
    let Some(slots) = Slots::of(lane, capacity).filter(|slots| slots.free < capacity) else { return html! {} };
    let Slots { waiting, in_flight, not_collected, free } = slots;
    let parts = [
        ("not collected", "collect", not_collected),
        ("in flight", "flight", in_flight),
        ("waiting", "waiting", waiting),
        ("free", "free", free),
    ];
    let mut at = 0u64;
    let placed = parts.map(|(name, class, slots)| {
        let from = at;
        at += slots;
        (name, class, share(from, capacity), share(slots, capacity))
    });
    html! {
        figure {
            figcaption {
                "lane " (lane.lane) ": "
                @for (place, (name, _, slots)) in parts.iter().enumerate() {
                    @if place > 0 { ", " }
                    (count(*slots)) " " (name)
                }
            }
            svg.bar width="100%" height="18" role="img" aria-label=(format!("slots of lane {}", lane.lane)) {
                @for (name, class, from, share) in placed.into_iter().filter(|(.., share)| *share > 0.0) {
                    rect.{ (format!("slot-{class}")) } x=(across(from)) y="0" width=(across(share)) height="18" {
                        title { (name) }
                    }
                    @if share > 0.25 {
                        text.on x=(across(from + share / 2.0)) y="13" text-anchor="middle" { (name) }
                    }
                }
            }
        }
    }
}

fn row(sheet: &Sheet<'_>, lane: &LaneView, capacity: u64) -> Vec<Markup> {
    let slots = Slots::of(lane, capacity);
    let number = |number: Option<u64>| number.map_or(html! { (NONE) }, counted);
    let in_flight = match &lane.in_flight {
        Some(task) => html! { (sheet.handler(task.handler_id)) ", position " (counted(task.position)) },
        None => html! { (NONE) },
    };
    let owner = match lane.owner {
        0 => html! { (NONE) },
        owner => html! { "pid " (owner) },
    };
    // A lane that nobody has is nobody's to serve.
    let placed = |what: Markup| {
        if is_placed(lane) {
            what
        } else {
            html! { (NONE) }
        }
    };
    let quantile = |q| sheet.quantile(&lane.total, q);
    vec![
        html! { (lane.lane) },
        html! { (lane.state.map_or("damaged", |state| state.name())) @if lane.sleeping { ", worker asleep" } },
        owner,
        placed(html! { (lane.placement.priority.name()) }),
        placed(html! { (lane.placement.worker) }),
        number(lane.depth),
        in_flight,
        number(slots.map(|slots| slots.not_collected)),
        number(lane.producer.map(|producer| producer.rejected)),
        counted(lane.resets),
        by_status(&lane.by_status, 2),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
    ]
}

#[cfg(test)]
mod tests {
    use executor_shm::inspect::ProducerView;

    use super::*;
    use crate::sample::real;

    #[test]
    fn answers_that_were_taken_are_collected_before_they_have_credit() {
        let mut lane = real("slots").lanes.remove(0);
        (lane.depth, lane.completed) = (Some(0), Some(10));
        let mut not_collected = |credited, collected| {
            lane.producer = Some(ProducerView { submitted: 10, credited, collected, rejected: 0 });
            Slots::of(&lane, 8).unwrap().not_collected
        };
        assert_eq!(not_collected(4, 9), 1, "credit is given late");
        assert_eq!(not_collected(8, 3), 2, "nobody wants the answers of what was dropped");
        assert_eq!(not_collected(10, 10), 0);
    }
}
