//! The handlers of an instance, a line each, as text and as JSON.

use std::cmp::Reverse;

use clap::ValueEnum;
use comfy_table::Cell;
use executor_shm::inspect::{HandlerView, Inspection};
use serde_json::{Value, json};

use super::shown::Shown;
use crate::colour::Mood;
use crate::dump_json::handler_json;
use crate::dump_text::{self, headline, lines, statuses, table};
use crate::units::{bytes, count};

/// What handlers are sorted by: numbers the greatest first, what is unknown last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandlerKey {
    /// Their id.
    #[default]
    Id,
    /// Their name.
    Name,
    /// Tasks ended.
    Tasks,
    /// Tasks that did not end as done.
    NotDone,
    /// 99th percentile from submit to start.
    QueueP99,
    /// Median from start to end.
    RunP50,
    /// 99th percentile from start to end.
    RunP99,
    /// The longest from start to end.
    RunMax,
}

/// Tasks that a handler ended, and those of them that it did not end as done.
pub(crate) fn ended(handler: &HandlerView) -> (u64, u64) {
    let sum = |from| handler.by_status.iter().skip(from).fold(0, |sum: u64, count| sum.saturating_add(*count));
    (sum(0), sum(2))
}

/// The handlers in the order that was asked for; `only` the one of this name or id.
pub(crate) fn sorted<'a>(view: &'a Inspection, key: HandlerKey, only: Option<&str>) -> Vec<&'a HandlerView> {
    let is_meant = |handler: &&HandlerView| {
        only.is_none_or(|only| handler.row.name == only || only.parse().is_ok_and(|id: u32| id == handler.row.id))
    };
    let mut handlers: Vec<&HandlerView> = view.handlers.iter().filter(is_meant).collect();
    handlers.sort_by_key(|handler| handler.row.id);
    if key == HandlerKey::Name {
        handlers.sort_by(|one, two| one.row.name.cmp(&two.row.name));
        return handlers;
    }
    let of = |handler: &HandlerView| match key {
        HandlerKey::Id | HandlerKey::Name => None,
        HandlerKey::Tasks => Some(ended(handler).0),
        HandlerKey::NotDone => Some(ended(handler).1),
        HandlerKey::QueueP99 => handler.queue.quantile(0.99),
        HandlerKey::RunP50 => handler.run.quantile(0.5),
        HandlerKey::RunP99 => handler.run.quantile(0.99),
        HandlerKey::RunMax => handler.run.quantile(1.0),
    };
    handlers.sort_by_cached_key(|handler| Reverse(of(handler))); // stable: equals stay in the order of their ids
    handlers
}

const TITLES: [&str; 15] = [
    "id",
    "handler",
    "idempotent",
    "request",
    "since",
    "ended",
    "not done",
    "queue p50",
    "p99",
    "p99.9",
    "max",
    "run p50",
    "p99",
    "p99.9",
    "max",
];

/// A line each.
pub(crate) fn handlers_text(view: &Shown, handlers: &[&HandlerView]) -> String {
    let mut table = table(TITLES, 5);
    let mut details = String::new();
    for handler in handlers {
        table.add_row(row(view, handler));
        if let Some(statuses) = statuses(&handler.by_status, 2) {
            details.push_str(&format!("{}, not done: {}\n", handler.row.name, Mood::Bad.text(statuses)));
        }
    }
    let none = if handlers.is_empty() { "no handlers\n" } else { "" };
    let gap = if details.is_empty() { "" } else { "\n" };
    format!("{}\n{}{none}{gap}{details}", headline(view), lines(&table))
}

fn row(view: &Inspection, handler: &HandlerView) -> Vec<Cell> {
    let (row, (all, not_done)) = (&handler.row, ended(handler));
    let (least, most) = row.request_bytes;
    let request = match (least, most) {
        (0, u32::MAX) => "any size".to_owned(),
        (least, u32::MAX) => format!("{} or more", bytes(least.into())),
        (least, most) if least == most => bytes(least.into()),
        (least, most) => format!("{} to {}", bytes(least.into()), bytes(most.into())),
    };
    let mood = if row.gone { Mood::Faint } else { Mood::Plain };
    let mut cells = vec![
        Cell::new(row.id),
        mood.cell(if row.gone { format!("{} (gone)", row.name) } else { row.name.clone() }),
        Cell::new(if row.idempotent { "yes" } else { "no" }),
        Cell::new(request),
        Cell::new(format!("generation {}", row.since)),
        Cell::new(count(all)),
        if not_done == 0 { Mood::Plain } else { Mood::Bad }.cell(count(not_done)),
    ];
    let times = [&handler.queue, &handler.run].map(|times| dump_text::percentiles(view, times));
    cells.extend(times.into_iter().flatten().map(Cell::new));
    cells
}

/// An object each.
pub(crate) fn handlers_json(view: &Inspection, handlers: &[&HandlerView]) -> Value {
    let handlers: Vec<Value> = handlers.iter().map(|handler| handler_json(view, handler)).collect();
    json!({
        "instance": view.instance.as_str(),
        "alive": view.alive,
        "pid": view.pid,
        "generation": view.generation,
        "handlers": handlers,
    })
}
