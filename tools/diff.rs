//! What happened between two samples of an instance, as text and as JSON.

use std::fmt::Write;

use executor_shm::inspect::WorkerView;
use serde_json::{Value, json};

use crate::colour::Mood;
use crate::dump_json::{attached, by_status, percentiles, quantile_ns, unanswered};
use crate::dump_text::{self, life, life_mood, lines, longest, statuses, table};
use crate::sample::{Change, LaneChange};
use crate::units::{count, counted, nanoseconds};

const NONE: &str = "-";

/// Keys of the JSON, for the help.
pub(crate) const KEYS: &str = "\
Keys of --json: `instance`, `alive`, `at_ns` (the later moment), `seconds` and all rates null where a copy was made by other means \
than save; `starts` of a sidecar in between; `tasks` ended, `tasks_per_second`, `by_status`; `lanes_attached` and `unanswered` as they \
are now; `total_ns`, from submit to end, of the tasks in between; `workers`, `handlers` and `lanes`, each with its own. Counts are those \
in between, null for a worker that was not there before, `depth` is now, `depth_change` since. Percentiles are those of the tasks in between, null where they are past the table.";

fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// The share of the time that a worker slept, 0 to 1.
fn asleep(change: &Change<'_>, worker: &WorkerView, before: Option<&WorkerView>) -> Option<f64> {
    let slept = worker.sleep.asleep_ns.saturating_sub(before?.sleep.asleep_ns);
    change.ns.filter(|ns| *ns > 0).map(|ns| (slept as f64 / ns as f64).min(1.0)) // a sleep is counted at its end
}

/// Everything.
pub(crate) fn change_json(change: &Change<'_>, at_ns: Option<u64>) -> Value {
    let counts = change.by_status();
    let workers: Vec<Value> = change
        .workers()
        .map(|(worker, before)| {
            let since = |of: fn(&WorkerView) -> u64| Some(of(worker).saturating_sub(of(before?)));
            let tasks = since(|worker| worker.tasks);
            json!({
                "worker": worker.worker,
                "tasks": tasks,
                "tasks_per_second": tasks.and_then(|tasks| change.rate(tasks)),
                "sweeps": since(|worker| worker.sweeps),
                "asleep_share": asleep(change, worker, before),
                "wakes": since(|worker| worker.sleep.wakes),
                "naps": since(|worker| worker.sleep.naps),
                "overslept": since(|worker| worker.sleep.overslept),
            })
        })
        .collect();
    let handlers: Vec<Value> = change
        .handlers()
        .map(|handler| {
            let tasks = sum(&handler.by_status);
            json!({
                "id": handler.row.id,
                "name": handler.row.name,
                "tasks": tasks,
                "tasks_per_second": change.rate(tasks),
                "by_status": by_status(&handler.by_status),
                "queue_ns": percentiles(change.after, &handler.queue),
                "run_ns": percentiles(change.after, &handler.run),
            })
        })
        .collect();
    let lanes: Vec<Value> = change.lanes().map(|lane| lane_json(change, &lane)).collect();
    json!({
        "instance": change.after.instance.as_str(),
        "alive": change.after.alive,
        "at_ns": at_ns,
        "seconds": change.ns.map(|ns| ns as f64 / 1e9),
        "starts": change.starts(),
        "tasks": sum(&counts),
        "tasks_per_second": change.rate(sum(&counts)),
        "by_status": by_status(&counts),
        "lanes_attached": change.after.alive.map(|_| attached(change.after)),
        "unanswered": unanswered(change.after),
        "total_ns": percentiles(change.after, &change.total()),
        "workers": workers,
        "handlers": handlers,
        "lanes": lanes,
    })
}

fn depth_change(lane: &LaneChange<'_>) -> Option<i64> {
    let before = lane.before.map_or(Some(0), |before| before.depth)?;
    Some(lane.after.depth? as i64 - before as i64)
}

fn lane_json(change: &Change<'_>, lane: &LaneChange<'_>) -> Value {
    json!({
        "lane": lane.after.lane,
        "state": lane.after.state.map(|state| state.name()),
        "owner_pid": lane.after.owner,
        "resets": lane.resets,
        "started": lane.started,
        "started_per_second": lane.started.and_then(|started| change.rate(started)),
        "depth": lane.after.depth,
        "depth_change": depth_change(lane),
        "total_ns": percentiles(change.after, &lane.total),
    })
}

/// A count for people.
fn number(number: Option<u64>) -> String {
    number.map_or(NONE.to_owned(), count)
}

/// A rate for people.
fn rate(rate: Option<f64>) -> String {
    match rate {
        None => NONE.to_owned(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => count(rate.round() as u64),
    }
}

/// A head and a table each for workers, handlers and lanes; what did nothing is left out.
pub(crate) fn change_text(change: &Change<'_>) -> String {
    let counts = change.by_status();
    let mut text =
        format!("instance {}: {}, ", change.after.instance, life_mood(change.after).text(life(change.after)));
    let tasks = counted(sum(&counts), "task");
    let _ = match change.ns {
        Some(ns) => writeln!(text, "{tasks} in {}, {} a second", nanoseconds(ns), rate(change.rate(sum(&counts)))),
        None => writeln!(
            text,
            "{tasks} in between; no rates, for a copy does not say when it was made (shm-dump save does)"
        ),
    };
    if let Some(counts) = statuses(&counts, 2) {
        let _ = writeln!(text, "  not done: {}", Mood::Bad.text(counts));
    }
    if change.starts() > 0 {
        let _ = writeln!(text, "  its sidecar was started {} in between", counted(change.starts(), "time"));
    }
    let mut workers = table(["worker", "tasks", "tasks/s", "asleep", "wakes", "naps", "overslept"], 1);
    for (worker, before) in change.workers() {
        let since = |of: fn(&WorkerView) -> u64| Some(of(worker).saturating_sub(of(before?)));
        let tasks = since(|worker| worker.tasks);
        workers.add_row([
            worker.worker.to_string(),
            number(tasks),
            rate(tasks.and_then(|tasks| change.rate(tasks))),
            asleep(change, worker, before).map_or(NONE.to_owned(), |share| format!("{:.0} %", share * 100.0)),
            number(since(|worker| worker.sleep.wakes)),
            number(since(|worker| worker.sleep.naps)),
            number(since(|worker| worker.sleep.overslept)),
        ]);
    }
    let titles = ["handler", "tasks", "tasks/s", "queue p50", "p99", "p99.9", "max", "run p50", "p99", "p99.9", "max"];
    let mut handlers = table(titles, 1);
    for handler in change.handlers().filter(|handler| sum(&handler.by_status) > 0) {
        let tasks = sum(&handler.by_status);
        let mut cells = vec![handler.row.name.clone(), count(tasks), rate(change.rate(tasks))];
        cells.extend(dump_text::percentiles(change.after, &handler.queue));
        cells.extend(dump_text::percentiles(change.after, &handler.run));
        handlers.add_row(cells);
    }
    let titles =
        ["lane", "state", "started", "started/s", "waiting", "change", "resets", "total p50", "p99", "p99.9", "max"];
    let mut lanes = table(titles, 2);
    for lane in change.lanes() {
        if lane.started == Some(0) && lane.resets == 0 && lane.total.count() == 0 && lane.after.depth == Some(0) {
            continue;
        }
        let mut cells = vec![
            lane.after.lane.to_string(),
            lane.after.state.map_or("damaged", |state| state.name()).to_owned(),
            number(lane.started),
            rate(lane.started.and_then(|started| change.rate(started))),
            number(lane.after.depth),
            depth_change(&lane).map_or(NONE.to_owned(), |change| format!("{change:+}")),
            count(lane.resets),
        ];
        cells.extend(dump_text::percentiles(change.after, &lane.total));
        lanes.add_row(cells);
    }
    for table in [&workers, &handlers, &lanes] {
        if !table.is_empty() {
            let _ = write!(text, "\n{}", lines(table));
        }
    }
    text
}

/// The titles above [`change_line`].
pub(crate) const TITLES: &str =
    "    seconds        tasks/s   not done/s  attached   unanswered    total p50        p99       p99.9         max";

/// One line, `elapsed_ns` after the first sample.
pub(crate) fn change_line(change: &Change<'_>, elapsed_ns: u64) -> String {
    let counts = change.by_status();
    let not_done = sum(&counts).saturating_sub(counts.get(1).copied().unwrap_or(0));
    let total = change.total();
    let at = |q| quantile_ns(change.after, &total, q).map_or(NONE.to_owned(), longest);
    format!(
        "{:>11.1} {:>14} {:>12} {:>9} {:>12} {:>12} {:>10} {:>11} {:>11}{}",
        elapsed_ns as f64 / 1e9,
        rate(change.rate(sum(&counts))),
        rate(change.rate(not_done)),
        attached(change.after),
        unanswered(change.after).map_or(NONE.to_owned(), count),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        if change.after.alive == Some(true) { "" } else { "  dead" },
    )
}

#[cfg(test)]
mod tests {
    use executor_core::histogram::{BUCKETS, HistogramSnapshot};
    use executor_shm::inspect::Inspection;

    use super::*;
    use crate::sample::{Sample, real};

    /// What a second did to it.
    fn told(view: &Inspection, before: fn(&mut Inspection), after: fn(&mut Inspection)) -> (Value, String, String) {
        let sample = |second: u64, change: fn(&mut Inspection)| {
            let mut view = view.clone();
            change(&mut view);
            Sample { view, at_ns: Some(second * 1_000_000_000) }
        };
        let (before, after) = (sample(1, before), sample(2, after));
        let change = Change::new(&before, &after).unwrap();
        (change_json(&change, None), change_text(&change), change_line(&change, 1_000_000_000))
    }

    #[test]
    fn a_time_past_the_table_is_told_as_one_and_no_time_for_programs() {
        let past = |view: &mut Inspection| {
            let times = HistogramSnapshot::from_buckets((0..BUCKETS).map(|bucket| u64::from(bucket == BUCKETS - 1)));
            (view.lanes[0].total, view.handlers[0].run, view.handlers[0].queue) = (times.clone(), times.clone(), times);
            view.handlers[0].by_status[1] = 1;
        };
        let (json, text, line) = told(&real("past"), |_| {}, past);
        for times in [&json["total_ns"], &json["lanes"][0]["total_ns"], &json["handlers"][0]["run_ns"]] {
            assert_eq!((&times["count"], &times["p50"], &times["max"]), (&1.into(), &Value::Null, &Value::Null));
        }
        assert_eq!((line.matches("> 20 s").count(), line.contains('m')), (4, false), "{line}");
        assert_eq!(text.matches("> 20 s").count(), 12, "{text}");
    }

    #[test]
    fn a_worker_that_was_not_there_before_has_no_rate_and_what_was_made_since_began_at_nothing() {
        let before = |view: &mut Inspection| {
            view.workers.clear();
            view.handlers.clear();
            view.lanes.clear();
        };
        let after = |view: &mut Inspection| {
            // What it did in all its starts.
            (view.workers[0].tasks, view.workers[0].sleep.asleep_ns) = (123_456, 123_456);
            view.handlers[0].by_status[1] = 3;
            view.lanes[0].started = Some(4);
        };
        let (json, text, _) = told(&real("absent"), before, after);
        let worker = &json["workers"][0];
        for key in ["tasks", "tasks_per_second", "sweeps", "asleep_share", "wakes", "naps", "overslept"] {
            assert_eq!(worker[key], Value::Null, "{key}");
        }
        assert!(!text.contains("123,456"), "{text}");
        assert_eq!((&json["handlers"][0]["tasks"], &json["lanes"][0]["started"]), (&3.into(), &4.into()));
    }
}
