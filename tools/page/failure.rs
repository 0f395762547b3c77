//! Errors, told apart and counted.

use executor_core::Status;
use executor_core::recorder::ErrorEntry;
use maud::{Markup, html};

use super::sheet::{NONE, Sheet, counted, date, plain};
use super::table::table;

pub(crate) fn section(sheet: &Sheet<'_>) -> Markup {
    let recorded = sheet.recorded;
    html! {
        section id="errors" {
            h2 { "Errors" }
            @if recorded.errors.is_empty() {
                p.none { "No errors are recorded." }
            } @else {
                (table("Errors", &[("text", false), ("handler", false), ("ended as", false), ("count", true), ("first", false), ("last", false),
                    ("last one", false)], &recorded.errors.iter().map(|error| row(sheet, error)).collect::<Vec<_>>()))
            }
            @if recorded.errors_forgotten > 0 {
                p.note { (counted(recorded.errors_forgotten)) " older errors had to make room for others." }
            }
        }
    }
}

fn row(sheet: &Sheet<'_>, error: &ErrorEntry) -> Vec<Markup> {
    let when = |ticks: u64| html! { (sheet.realtime_ns(ticks).map_or(NONE.to_owned(), date)) };
    let text = plain(&error.text);
    vec![
        html! {
            @if text.is_empty() { "(no text)" } @else { bdi { (text) } }
            @if error.is_cut { " (cut)" }
        },
        html! { (sheet.handler(error.handler_id)) },
        html! { (Status::name_of(error.status).replace('_', " ")) @if error.detail != 0 { " " (error.detail) } },
        counted(error.count),
        when(error.first_at),
        when(error.last_at),
        html! { "lane " (error.lane) ", position " (counted(error.position)) },
    ]
}
