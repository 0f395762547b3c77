//! What a scrape says of each handler.

use executor_core::Status;
use executor_core::histogram::HistogramSnapshot;
use executor_shm::inspect::{HandlerView, Inspection};
use prometheus_client::registry::Unit;

use super::family::{Family, Kind, Samples};

/// Two handlers may have had one name, and never one id.
const LABELS: &[&str] = &["handler", "handler_id"];

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "executor_handler",
        kind: Kind::Info,
        unit: None,
        labels: &["handler", "handler_id", "idempotent", "gone"],
        help: "Whether its tasks may be run twice, and whether it is no longer served.",
        read: |view, samples| {
            for HandlerView { row, .. } in &view.handlers {
                samples.info(&[&row.name, &row.id, &row.idempotent, &row.gone]);
            }
        },
    },
    Family {
        name: "executor_handler_tasks",
        kind: Kind::Counter,
        unit: None,
        labels: &["handler", "handler_id", "status"],
        help: "Tasks ended, by how.",
        read: |view, samples| {
            for HandlerView { row, by_status, .. } in &view.handlers {
                for (code, tasks) in (1..Status::CODES as u8).zip(by_status.iter().skip(1)) {
                    samples.whole(&[&row.name, &row.id, &Status::name_of(code)], *tasks);
                }
            }
        },
    },
    Family {
        name: "executor_handler_request",
        kind: Kind::Counter,
        unit: Some(Unit::Bytes),
        labels: LABELS,
        help: "Bytes of requests that were run.",
        read: |view, samples| bytes(view, samples, |handler| handler.request_bytes),
    },
    Family {
        name: "executor_handler_response",
        kind: Kind::Counter,
        unit: Some(Unit::Bytes),
        labels: LABELS,
        help: "Bytes of responses that were given.",
        read: |view, samples| bytes(view, samples, |handler| handler.response_bytes),
    },
    Family {
        name: "executor_handler_queue",
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: LABELS,
        help: "From submit to start. Counted in buckets 3 % wide: one that reaches past a bound counts above it, and the \
               sum is an estimate from their middles, 1.6 % off at most.",
        read: |view, samples| times(view, samples, |handler| &handler.queue),
    },
    Family {
        name: "executor_handler_run",
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: LABELS,
        help: "From start to end of the handler. Counted in buckets 3 % wide: one that reaches past a bound counts above \
               it, and the sum is an estimate from their middles, 1.6 % off at most.",
        read: |view, samples| times(view, samples, |handler| &handler.run),
    },
];

fn bytes(view: &Inspection, samples: &mut Samples, of: fn(&HandlerView) -> u64) {
    for handler in view.handlers.iter().filter(|_| view.is_recorded) {
        samples.whole(&[&handler.row.name, &handler.row.id], of(handler));
    }
}

fn times(view: &Inspection, samples: &mut Samples, of: fn(&HandlerView) -> &HistogramSnapshot) {
    let clock = view.clock.as_ref().filter(|_| view.timed);
    for handler in &view.handlers {
        samples.times(&[&handler.row.name, &handler.row.id], of(handler), clock);
    }
}
