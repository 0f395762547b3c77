//! Handlers: what they did, and how long tasks waited for them and ran in them.

use executor_core::histogram::HistogramSnapshot;
use executor_shm::inspect::HandlerView;
use maud::{Markup, html};

use super::axis::{Decades, power};
use super::head::by_status;
use super::sheet::{NONE, Sheet, across, figure, longest, plain};
use super::table::table;
use crate::dump_json::quantile_ns;
use crate::units::{bytes, count};

/// Handlers that have a picture; a page of thousands helps nobody.
const PICTURES: usize = 24;
/// What is plotted.
const QUANTILES: [(f64, &str); 5] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")];
/// Height of a picture, and where its axis begins and ends.
const HEIGHT: f64 = 190.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 164.0;

pub(crate) fn section(sheet: &Sheet<'_>) -> Markup {
    let handlers = &sheet.view.handlers;
    let mut busiest: Vec<&HandlerView> = handlers.iter().filter(|handler| handler.run.count() > 0).collect();
    busiest.sort_by_key(|handler| std::cmp::Reverse(handler.run.count()));
    let all = busiest.len();
    busiest.truncate(PICTURES);
    let times = |handler: &HandlerView| [times(sheet, &handler.queue), times(sheet, &handler.run)].concat();
    let decades = Decades::around(busiest.iter().flat_map(|handler| times(handler)));
    html! {
        section id="handlers" {
            h2 { "Handlers" }
            @if handlers.is_empty() {
                p.none { "No handlers." }
            } @else {
                (table("Handlers", &[("handler", false), ("id", true), ("ended", false), ("requests", true), ("responses", true),
                    ("wait p50", true), ("p99", true), ("p99.9", true), ("max", true),
                    ("run p50", true), ("run p99", true), ("run p99.9", true), ("run max", true)],
                    &handlers.iter().map(|handler| row(sheet, handler)).collect::<Vec<_>>()))
            }
            @if let Some(decades) = decades {
                p {
                    "Time against percentile, on a logarithmic axis that all handlers share: "
                    span.key { "● wait (dashed), from submit to start" } "; "
                    span.key { "■ run (solid), from start to end" } "."
                }
                @if all > busiest.len() {
                    p.note { "The " (busiest.len()) " busiest of " (count(all as u64)) " handlers; the table above has all." }
                }
                div.pictures {
                    @for handler in &busiest { (picture(sheet, handler, &decades)) }
                }
            } @else {
                p.none { "No times of tasks are recorded." }
            }
        }
    }
}

fn row(sheet: &Sheet<'_>, handler: &HandlerView) -> Vec<Markup> {
    let quantiles = |of: &HistogramSnapshot| [0.5, 0.99, 0.999, 1.0].map(|q| sheet.quantile(of, q));
    let size = |size: u64| {
        if sheet.view.is_recorded {
            figure(size, &bytes(size))
        } else {
            html! { (NONE) }
        }
    };
    let row = &handler.row;
    let mut cells = vec![
        html! { bdi { (plain(&row.name)) } @if row.gone { " (gone)" } },
        html! { (row.id) },
        by_status(&handler.by_status, 1),
        size(handler.request_bytes),
        size(handler.response_bytes),
    ];
    cells.extend(quantiles(&handler.queue));
    cells.extend(quantiles(&handler.run));
    cells
}

fn times(sheet: &Sheet<'_>, histogram: &HistogramSnapshot) -> Vec<u64> {
    QUANTILES.iter().filter_map(|(q, _)| quantile_ns(sheet.view, histogram, *q)).collect()
}

fn picture(sheet: &Sheet<'_>, handler: &HandlerView, decades: &Decades) -> Markup {
    let name = plain(&handler.row.name);
    let across_of = |place: usize| across(0.17 + 0.76 * place as f64 / (QUANTILES.len() - 1) as f64);
    let up = |ns: u64| format!("{:.1}", BOTTOM - (BOTTOM - TOP) * decades.place(ns));
    let curves = [("wait", times(sheet, &handler.queue)), ("run", times(sheet, &handler.run))];
    let label = curves.iter().map(|(curve, times)| {
        let times: Vec<String> =
            QUANTILES.iter().zip(times).map(|((_, q), ns)| format!("{q} {}", longest(*ns))).collect();
        format!("{curve}: {}", if times.is_empty() { "unknown".to_owned() } else { times.join(", ") })
    });
    let label = label.collect::<Vec<String>>().join("; ");
    // A label for each power of ten would not fit if there are many.
    let step = decades.powers().count().div_ceil(7);
    html! {
        figure {
            figcaption { bdi { (name) } " (" (count(handler.run.count())) " tasks)" }
            svg width="100%" height=(HEIGHT) role="img" aria-label=(format!("{name}: {label}")) {
                @for (place, ns) in decades.powers().enumerate() {
                    line.grid x1="15%" x2="98%" y1=(up(ns)) y2=(up(ns)) {}
                    @if place % step == 0 {
                        text x="14%" y=(format!("{:.1}", BOTTOM - (BOTTOM - TOP) * decades.place(ns) + 4.0)) text-anchor="end" { (power(ns)) }
                    }
                }
                @for (place, (_, name)) in QUANTILES.iter().enumerate() {
                    text x=(across_of(place)) y=(BOTTOM + 18.0) text-anchor="middle" { (name) }
                }
                @for (curve, times) in &curves {
                    @for (place, pair) in times.windows(2).enumerate() {
                        @if let [from, to] = pair {
                            line.{ (format!("curve-{curve}")) } x1=(across_of(place)) x2=(across_of(place + 1)) y1=(up(*from)) y2=(up(*to)) {}
                        }
                    }
                    @for (place, ns) in times.iter().enumerate() {
                        // A mark of text is as large as it is, however wide the picture is.
                        text.mark.{ (format!("mark-{curve}")) } x=(across_of(place)) y=(up(*ns)) dy="0.35em" text-anchor="middle" {
                            (if *curve == "wait" { "●" } else { "■" })
                            title { (curve) " " (QUANTILES[place].1) ": " (longest(*ns)) }
                        }
                    }
                }
            }
        }
    }
}
