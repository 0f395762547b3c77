//! What the flight recorder holds, over time.

use std::collections::{BTreeMap, BTreeSet};

use executor_core::recorder::{Event, EventKind};
use maud::{Markup, html};

use super::axis::{Decades, Span, power};
use super::moments;
use super::sheet::{Sheet, across, counted, date, figure, time_of_day};
use super::table::table;
use crate::units::{self, nanoseconds};

/// Events in the table below the pictures; `shm-dump events` has all.
const TOLD: usize = 40;
/// Height of the plot of slow tasks, of a row of marks, and of the axis.
const PLOT: f64 = 130.0;
const ROW: f64 = 44.0;
const AXIS: f64 = 34.0;
/// Where the plots begin and end across the picture.
const LEFT: f64 = 0.01;
const RIGHT: f64 = 0.98;

/// A task that was slow.
#[derive(Clone, Debug)]
struct Point {
    at_ns: u64,
    total_ns: u64,
    words: String,
}

/// Something that happened at a moment, or lasted.
#[derive(Clone, Debug)]
struct Mark {
    from_ns: u64,
    to_ns: u64,
    words: String,
}

/// All that is drawn.
#[derive(Clone, Debug, Default)]
struct Timeline {
    slow: Vec<Point>,
    rows: BTreeMap<String, Vec<Mark>>,
    /// Moments of all that is drawn, in order.
    moments: Vec<u64>,
    /// Events at times that cannot be.
    impossible: usize,
}

impl Timeline {
    fn new(sheet: &Sheet<'_>) -> Option<Self> {
        let (clock, mut this) = (sheet.view.clock?, Self::default());
        // Damaged rows would make a picture of thousands of years.
        let latest = sheet.taken.at_ns.unwrap_or(u64::MAX).saturating_add(60_000_000_000);
        let earliest = sheet.view.created_at_ns.saturating_sub(60_000_000_000);
        let mut known = BTreeSet::new();
        for task in &sheet.recorded.slow {
            known.insert((task.lane, task.position, task.completed_at));
            let words = format!(
                "{}: {}, lane {}, position {}",
                sheet.handler(task.handler_id),
                sheet.length(task.total()),
                task.lane,
                units::count(task.position)
            );
            let at_ns = clock.realtime_ns_at(task.completed_at);
            this.slow.push(Point { at_ns, total_ns: clock.ticks_to_ns(task.total()), words });
        }
        for event in &sheet.recorded.events {
            let (at_ns, words) = (clock.realtime_ns_at(event.at), moments::words(sheet, event));
            // Positions of a lane begin again with each owner.
            let is_known = || known.contains(&(event.lane.unwrap_or(u32::MAX), event.values[0], event.at));
            match event.kind {
                EventKind::SlowTask if is_known() => {}
                EventKind::SlowTask => {
                    this.slow.push(Point { at_ns, total_ns: clock.ticks_to_ns(event.values[1]), words });
                }
                kind => {
                    let lasted = matches!(kind, EventKind::Slept | EventKind::Gap);
                    let from_ns = at_ns.saturating_sub(if lasted { clock.ticks_to_ns(event.values[0]) } else { 0 });
                    let row = moments::row(kind).map_or_else(|| sleeper(event), str::to_owned);
                    this.rows.entry(row).or_default().push(Mark { from_ns, to_ns: at_ns, words });
                }
            }
        }
        let is_possible = |ns: u64| (earliest..=latest).contains(&ns);
        let all = this.slow.len() + this.rows.values().map(Vec::len).sum::<usize>();
        this.slow.retain(|point| is_possible(point.at_ns));
        this.rows.values_mut().for_each(|row| row.retain(|mark| is_possible(mark.to_ns)));
        this.rows.retain(|_, row| !row.is_empty());
        let marks = this.rows.values().flatten().map(|mark| mark.to_ns);
        this.moments = this.slow.iter().map(|point| point.at_ns).chain(marks).collect();
        this.moments.sort_unstable();
        this.impossible = all - this.moments.len();
        Some(this)
    }

    /// From the first of all moments to the last.
    fn whole(&self) -> Option<Span> {
        Some(Span { from: *self.moments.first()?, to: *self.moments.last()? })
    }

    /// The newer half of them, if they are so close together that the whole shows nothing of them.
    fn newest(&self) -> Option<Span> {
        let (whole, middle) = (self.whole()?, *self.moments.get(self.moments.len() / 2)?);
        let is_close = whole.to - middle < (whole.to - whole.from) / 4;
        (self.moments.len() >= 8 && is_close && middle < whole.to).then_some(Span { from: middle, to: whole.to })
    }
}

fn sleeper(event: &Event) -> String {
    event.worker.map_or_else(|| "asleep".to_owned(), |worker| format!("worker {worker} asleep"))
}

pub(crate) fn section(sheet: &Sheet<'_>) -> Markup {
    let recorded = sheet.recorded;
    let timeline = Timeline::new(sheet);
    html! {
        section id="time" {
            h2 { "Over time" }
            @match timeline.as_ref().and_then(|timeline| Some((timeline, timeline.whole()?))) {
                None => { p.none { "No events are recorded." } }
                Some((timeline, whole)) => {
                    p {
                        (counted(recorded.events.len() as u64)) " of " (counted(recorded.events_ever)) " events that were ever recorded are still there. \
                         Times across are before the last of them, which was at "
                        (figure(whole.to, &date(whole.to))) "."
                    }
                    @if whole.from == whole.to {
                        p { "All that could be drawn was at that one moment, so there is no picture of it." }
                    } @else {
                        (picture(timeline, whole, "all events"))
                    }
                    @if let Some(newest) = timeline.newest() {
                        (picture(timeline, newest, "the newer half of them"))
                    }
                    @if timeline.impossible > 0 {
                        p.note { (timeline.impossible) " events are left out of the picture: their times cannot be." }
                    }
                }
            }
            (list(sheet))
        }
    }
}

/// The last events in words, without those that come by the hundred: they would hide all others.
fn list(sheet: &Sheet<'_>) -> Markup {
    let last_at = sheet.recorded.events.last().map_or(0, |event| event.at);
    let rare = sheet.recorded.events.iter().rev().filter(|event| is_rare(event.kind));
    let rows: Vec<Vec<Markup>> = rare
        .take(TOLD)
        .map(|event| {
            let when = sheet.realtime_ns(event.at);
            vec![
                html! { (when.map_or_else(|| units::count(event.at), date)) },
                html! { (sheet.length(last_at.saturating_sub(event.at))) },
                html! { (moments::words(sheet, event)) },
            ]
        })
        .collect();
    html! {
        @if !rows.is_empty() {
            (table("The last events but sleeps, gaps and slow tasks, the newest first", &[("when", false), ("before the last", true), ("what", false)], &rows))
        }
    }
}

fn is_rare(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Slept | EventKind::Gap | EventKind::SlowTask)
}

fn picture(timeline: &Timeline, span: Span, what: &str) -> Markup {
    let x = |ns: u64| across(LEFT + (RIGHT - LEFT) * span.place(ns));
    let slow: Vec<&Point> = timeline.slow.iter().filter(|point| span.holds(point.at_ns)).collect();
    let decades = Decades::around(slow.iter().map(|point| point.total_ns));
    let rows: Vec<(&String, Vec<&Mark>)> = timeline
        .rows
        .iter()
        .map(|(name, marks)| (name, marks.iter().filter(|mark| span.holds(mark.to_ns)).collect()))
        .filter(|(_, marks): &(_, Vec<&Mark>)| !marks.is_empty())
        .collect();
    let plot = if decades.is_some() { PLOT + 24.0 } else { 0.0 };
    let bottom = plot + ROW * rows.len() as f64;
    let top = if decades.is_some() { 20.0 } else { 0.0 };
    let length = span.to - span.from;
    html! {
        figure {
            figcaption { (what) ": " (nanoseconds(length)) }
            svg width="100%" height=(bottom + AXIS) role="img" aria-label=(format!("{what} over {}", nanoseconds(length))) {
                @if let Some(decades) = decades { (slow_plot(&slow, decades, &x)) }
                @for (place, (name, marks)) in rows.iter().enumerate() {
                    (marks_row(name, marks, plot + ROW * place as f64, span, &x))
                }
                @for (place, anchor) in [(0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")] {
                    @let at = across(LEFT + (RIGHT - LEFT) * place);
                    line.grid x1=(at) x2=(at) y1=(top) y2=(bottom + 4.0) {}
                    text x=(at) y=(bottom + 17.0) text-anchor=(anchor) { (before((length as f64 * (1.0 - place)) as u64)) }
                }
                text x=(across(LEFT)) y=(bottom + 31.0) { (time_of_day(span.from)) }
                text x=(across(RIGHT)) y=(bottom + 31.0) text-anchor="end" { (time_of_day(span.to)) }
            }
        }
    }
}

fn before(ns: u64) -> String {
    if ns == 0 { "0".to_owned() } else { format!("-{}", nanoseconds(ns)) }
}

fn slow_plot(slow: &[&Point], decades: Decades, x: &impl Fn(u64) -> String) -> Markup {
    let y = |ns: u64| 34.0 + (PLOT - 20.0) * (1.0 - decades.place(ns));
    html! {
        text.row x="0" y="12" { (units::counted(slow.len() as u64, "slow task")) ", by how long from submit to end" }
        @for ns in decades.powers() {
            line.grid x1="0" x2="100%" y1=(format!("{:.1}", y(ns))) y2=(format!("{:.1}", y(ns))) {}
            text.faint x="0" y=(format!("{:.1}", y(ns) - 2.0)) { (power(ns)) }
        }
        @for point in slow {
            circle.point cx=(x(point.at_ns)) cy=(format!("{:.1}", y(point.total_ns))) r="3.5" { title { (point.words) } }
        }
    }
}

fn marks_row(name: &str, marks: &[&Mark], top: f64, span: Span, x: &impl Fn(u64) -> String) -> Markup {
    let width = |mark: &Mark| span.place(mark.to_ns) - span.place(mark.from_ns);
    html! {
        text.row x="0" y=(top + 14.0) { (name) " (" (marks.len()) ")" }
        line.grid x1="0" x2="100%" y1=(top + 30.0) y2=(top + 30.0) {}
        @for mark in marks {
            @if mark.to_ns > mark.from_ns {
                rect.lasted x=(x(mark.from_ns)) y=(top + 22.0) width=(across((RIGHT - LEFT) * width(mark))) height="16" { title { (mark.words) } }
            }
            line.mark x1=(x(mark.to_ns)) x2=(x(mark.to_ns)) y1=(top + 20.0) y2=(top + 40.0) { title { (mark.words) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use executor_core::recorder::SlowTask;
    use executor_shm::inspect::Recorded;

    use super::super::sheet::Taken;
    use super::*;
    use crate::sample::real;

    /// The section of what was recorded of an instance, and how many slow tasks stand in its picture.
    fn drawn(what: &str, record: impl FnOnce(u64) -> Recorded) -> (String, usize) {
        let view = real(what);
        let now = view.clock.unwrap().now();
        let (recorded, taken) = (record(now), Taken { at_ns: None, folder: None });
        let sheet = Sheet { view: &view, recorded: &recorded, taken: &taken };
        (section(&sheet).into_string(), Timeline::new(&sheet).unwrap().slow.len())
    }

    /// An event of a slow task at a position of lane 3.
    fn slow(position: u64, at: u64) -> Event {
        Event { lane: Some(3), values: [position, 10, 5, 5], ..Event::new(EventKind::SlowTask, at) }
    }

    #[test]
    fn slow_tasks_of_two_owners_of_a_lane_are_two_though_their_positions_are_one() {
        let (_, points) = drawn("owners", |now| Recorded {
            slow: vec![SlowTask { lane: 3, position: 7, completed_at: now, ..SlowTask::default() }],
            events: vec![slow(7, now - 1_000), slow(7, now)],
            ..Recorded::default()
        });
        assert_eq!(points, 2, "one that is known as an event alone, one that is known in both ways");
    }

    #[test]
    fn a_single_moment_has_a_sentence_and_no_picture() {
        let started = |now| Event::new(EventKind::Started, now);
        let (page, _) =
            drawn("one", |now| Recorded { events: vec![started(now)], events_ever: 1, ..Recorded::default() });
        assert!(page.contains("at that one moment") && !page.contains("<svg"), "{page}");
        let two = |now| Recorded { events: vec![started(now - 1_000_000), started(now)], ..Recorded::default() };
        let (page, _) = drawn("two", two);
        assert!(!page.contains("at that one moment") && page.contains("<svg"), "{page}");
    }
}
