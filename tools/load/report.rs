//! What a load measured, for people and for programs. Pure: numbers in, text out.

use std::fmt::Write;
use std::time::Duration;

use executor_core::{Clock, Status};
use serde_json::{Map, Value, json};

use crate::load::stream::{Seen, Spin};
use crate::times::Samples;
use crate::units::{bytes, count, counted, nanoseconds, per_second};

/// The keys of the report as JSON.
pub(crate) const KEYS: &str = "JSON keys, times in nanoseconds:
  instance, handler, handler_id, request_bytes, producers, clock
  cpus, sidecar_cpus       the producers' CPUs (null: not pinned) and the workers'
  window, rate             what was asked; null is the other kind of loop
  spin_ns, every           how long a task in between takes, and how many tasks there are to one; null without --spin
  collect_after_ns         how long answers were left where they are; null without --collect-after
  warm_up_ns, elapsed_ns   before the measurement, not counted; from its begin to the last answer
  tasks, tasks_per_second  tasks of the measurement that were answered
  by_status                the same by how they ended
  not_done, first_failure  tasks that did not end as done, the warm-up's too; how the first of them ended
  latency_ns               p50, p90, p99, p999, p9999, max: from due (closed loop: from submit) until read
  late_ns                  of that: due until submitted; null in a closed loop
  queue_ns, run_ns, return_ns
                           of that: waited in the lane, ran, way back till read; null without timestamps
  rate_kept                whether everything due was sent; null in a closed loop
  unsent, behind_ns        tasks due and never sent, how long the oldest was due; they are in no percentile
  rejected_full            tasks that found the lane full when they were due
  interrupted, down        whether Ctrl-C or the sidecar's end cut it short
  restarts                 starts of the sidecar meanwhile
  unanswered               tasks accepted and not answered
  failures                 why producers could not go on
  note                     what makes these numbers worse than they could be, or null";

/// How far behind its schedule an open loop may be at its end.
const KEPT_NS: u64 = 1_000_000;

/// Everything a load found out.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) instance: String,
    pub(crate) handler: String,
    pub(crate) handler_id: u32,
    pub(crate) request_bytes: usize,
    pub(crate) producers: usize,
    /// The producers', if they are pinned.
    pub(crate) cpus: Option<Vec<u32>>,
    /// The workers' that are pinned.
    pub(crate) sidecar_cpus: Vec<u32>,
    pub(crate) window: Option<u64>,
    pub(crate) rate: Option<u64>,
    pub(crate) spin: Option<Spin>,
    pub(crate) collect_after: Option<Duration>,
    /// Whether tasks carry stamps.
    pub(crate) timed: bool,
    pub(crate) clock: Clock,
    pub(crate) warm_up_ns: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) seen: Seen,
    pub(crate) interrupted: bool,
    pub(crate) down: bool,
    pub(crate) restarts: u64,
    /// Why streams could not go on.
    pub(crate) failures: Vec<String>,
    pub(crate) note: Option<String>,
}

impl Report {
    /// What went wrong, in one clause; `None` if nothing did.
    pub(crate) fn trouble(&self) -> Option<String> {
        let instance = &self.instance;
        if self.down {
            let when = match self.elapsed_ns {
                0 => "during the warm-up".to_owned(),
                ns => format!("after {}", nanoseconds(ns)),
            };
            return Some(format!(
                "the sidecar of instance {instance} went down {when}; {} accepted and unanswered, the next start has \
                 them: executord run {instance}",
                counted(self.seen.unanswered, "task"),
            ));
        }
        if let Some(why) = self.failures.first() {
            return Some(format!("a producer could not go on: {why}; {} unanswered", count(self.seen.unanswered)));
        }
        if self.seen.not_done > 0 {
            let first = self.seen.first_failure.as_deref().unwrap_or("unknown");
            let tasks = counted(self.seen.not_done, "task");
            return Some(format!("{tasks} did not end as done; the first: {}", first.replace('\n', "; ")));
        }
        (self.restarts > 0).then(|| format!("the sidecar of instance {instance} was restarted meanwhile"))
    }

    fn rate_kept(&self) -> Option<bool> {
        self.rate.map(|_| self.seen.unsent == 0 || self.ns(self.seen.behind) < KEPT_NS)
    }

    fn ns(&self, ticks: u64) -> u64 {
        self.clock.ticks_to_ns(ticks)
    }

    /// p50, p90, p99, p99.9, p99.99 and the longest, in nanoseconds.
    fn percentiles(&self, samples: &Samples) -> [u64; 6] {
        [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(|share| self.ns(samples.quantile(share)))
    }

    /// One object.
    pub(crate) fn to_json(&self) -> Value {
        let seen = &self.seen;
        let times = |samples: &Samples| {
            let [p50, p90, p99, p999, p9999, max] = self.percentiles(samples);
            json!({"p50": p50, "p90": p90, "p99": p99, "p999": p999, "p9999": p9999, "max": max})
        };
        let part = |samples: &Samples, is_known: bool| if is_known { times(samples) } else { Value::Null };
        let by_status: Map<String, Value> = (1..Status::CODES as u8)
            .zip(seen.by_status.iter().skip(1))
            .filter(|(_, tasks)| **tasks > 0)
            .map(|(code, &tasks)| (Status::name_of(code).to_owned(), tasks.into()))
            .collect();
        json!({
            "instance": self.instance,
            "handler": self.handler,
            "handler_id": self.handler_id,
            "request_bytes": self.request_bytes,
            "producers": self.producers,
            "cpus": self.cpus,
            "sidecar_cpus": self.sidecar_cpus,
            "clock": self.clock.source().name(),
            "window": self.window,
            "rate": self.rate,
            "spin_ns": self.spin.map(|spin| spin.time.as_nanos() as u64),
            "every": self.spin.map(|spin| spin.every),
            "collect_after_ns": self.collect_after.map(|time| time.as_nanos() as u64),
            "warm_up_ns": self.warm_up_ns,
            "elapsed_ns": self.elapsed_ns,
            "tasks": seen.tasks(),
            "tasks_per_second": per_second(seen.tasks(), self.elapsed_ns),
            "by_status": by_status,
            "not_done": seen.not_done,
            "first_failure": seen.first_failure,
            "latency_ns": times(&seen.total),
            "late_ns": part(&seen.late, self.rate.is_some()),
            "queue_ns": part(&seen.queue, self.timed),
            "run_ns": part(&seen.run, self.timed),
            "return_ns": part(&seen.back, self.timed),
            "rate_kept": self.rate_kept(),
            "unsent": seen.unsent,
            "behind_ns": self.ns(seen.behind),
            "rejected_full": seen.rejected,
            "interrupted": self.interrupted,
            "down": self.down,
            "restarts": self.restarts,
            "unanswered": seen.unanswered,
            "failures": self.failures,
            "note": self.note,
        })
    }

    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let on = match self.cpus.as_deref() {
            None => "not pinned".to_owned(),
            Some([cpu]) => format!("on CPU {cpu}"),
            Some(cpus) => format!("on CPUs {}", executor_core::cpu::cpu_list(cpus)),
        };
        let pace = match (self.window, self.rate) {
            (_, Some(rate)) => format!("{} tasks/s whatever comes back", count(rate)),
            (window, None) => format!("{} in flight each", count(window.unwrap_or(1))),
        };
        let producers = counted(self.producers as u64, "producer");
        let _ = writeln!(
            text,
            "instance {}, handler {} ({}), requests of {}; {producers} {on}, {pace}",
            self.instance,
            self.handler,
            self.handler_id,
            bytes(self.request_bytes as u64),
        );
        let tasks = self.seen.tasks();
        let _ = writeln!(
            text,
            "{} in {}, {} tasks/s{}; the {} before were warm-up",
            counted(tasks, "task"),
            nanoseconds(self.elapsed_ns),
            count(per_second(tasks, self.elapsed_ns).round() as u64),
            self.statuses(),
            nanoseconds(self.warm_up_ns),
        );
        if let Some(Spin { every, time, .. }) = self.spin {
            let _ =
                writeln!(text, "one task in {} was a spin of {}", count(every), nanoseconds(time.as_nanos() as u64));
        }
        if let Some(time) = self.collect_after {
            let _ = writeln!(
                text,
                "answers were collected from {} after the start on",
                nanoseconds(time.as_nanos() as u64)
            );
        }
        if let Some(note) = &self.note {
            let _ = writeln!(text, "note: {note}");
        }
        self.rate_text(&mut text);
        self.times_text(&mut text);
        if self.interrupted {
            let _ = writeln!(text, "interrupted; {} unanswered", counted(self.seen.unanswered, "task"));
        }
        text
    }

    /// `, all done`, or how many ended how.
    fn statuses(&self) -> String {
        let tasks = self.seen.tasks();
        if tasks == 0 {
            return String::new();
        }
        let named = (1..Status::CODES as u8).zip(self.seen.by_status.iter().skip(1)).filter(|(_, tasks)| **tasks > 0);
        let named: Vec<String> = named
            .map(|(code, &tasks)| format!("{} {}", count(tasks), Status::name_of(code).replace('_', " ")))
            .collect();
        match self.seen.by_status {
            [_, done, ..] if done == tasks => ", all done".to_owned(),
            _ => format!(", {}", named.join(", ")),
        }
    }

    fn rate_text(&self, text: &mut String) {
        let Some(kept) = self.rate_kept() else { return };
        let achieved = count(per_second(self.seen.tasks(), self.elapsed_ns).round() as u64);
        let asked = count(self.rate.unwrap_or(0));
        let _ = match kept {
            true => writeln!(
                text,
                "the rate was kept, at worst {} behind; {} found the lane full when due",
                nanoseconds(self.ns(self.seen.late.quantile(1.0))),
                counted(self.seen.rejected, "task"),
            ),
            false => writeln!(
                text,
                "THE RATE WAS NOT KEPT: {asked}/s asked, {achieved}/s achieved; {} due and never sent, the oldest for {}: \
                 they are missing below",
                counted(self.seen.unsent, "task"),
                nanoseconds(self.ns(self.seen.behind)),
            ),
        };
    }

    fn times_text(&self, text: &mut String) {
        let is_open = self.rate.is_some();
        let _ = write!(text, "  {:<22}", if is_open { "due to completion" } else { "submit to completion" });
        for title in ["p50", "p90", "p99", "p99.9", "p99.99", "max"] {
            let _ = write!(text, "{title:>10}");
        }
        text.push('\n');
        let seen = &self.seen;
        let rows = [
            ("sent late", &seen.late, is_open),
            ("waited in the lane", &seen.queue, self.timed),
            ("ran", &seen.run, self.timed),
            ("way back, till read", &seen.back, self.timed),
            ("all", &seen.total, true),
        ];
        for (name, samples, _) in rows.into_iter().filter(|(.., is_known)| *is_known) {
            let _ = write!(text, "    {name:<20}");
            for ns in self.percentiles(samples) {
                let _ = write!(text, "{:>10}", if samples.is_empty() { "-".to_owned() } else { nanoseconds(ns) });
            }
            text.push('\n');
        }
        if !self.timed {
            text.push_str("    the instance stamps no tasks, so the parts are unknown\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_core::clock::{Calibration, ClockSource};

    fn report(rate: Option<u64>) -> Report {
        let calibration = Calibration { ticks: 0, monotonic_ns: 0, realtime_ns: 0, ticks_per_second: 2_000_000_000 };
        let mut seen = Seen::default();
        seen.by_status[1] = 100;
        (0..100u64).for_each(|_| seen.total.record(2_000));
        seen.total.record(4_000_000);
        Report {
            instance: "x".to_owned(),
            handler: "echo".to_owned(),
            handler_id: 1,
            request_bytes: 32,
            producers: 1,
            cpus: Some(vec![0]),
            sidecar_cpus: vec![1],
            window: rate.is_none().then_some(1),
            rate,
            spin: None,
            collect_after: None,
            timed: false,
            clock: Clock::new(ClockSource::Monotonic, calibration),
            warm_up_ns: 500_000_000,
            elapsed_ns: 1_000_000_000,
            seen,
            interrupted: false,
            down: false,
            restarts: 0,
            failures: Vec::new(),
            note: None,
        }
    }

    #[test]
    fn ticks_are_told_as_nanoseconds() {
        let json = report(None).to_json();
        let p50 = json["latency_ns"]["p50"].as_u64().unwrap();
        assert!((1_000..=1_031).contains(&p50), "{json:#}");
        assert_eq!((&json["latency_ns"]["max"], &json["tasks_per_second"]), (&2_000_000.into(), &100.0.into()));
        assert_eq!(
            (&json["late_ns"], &json["queue_ns"], &json["rate_kept"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        let text = report(None).to_text();
        assert!(text.contains("100 tasks in 1.00 s, 100 tasks/s, all done; the 500 ms before were warm-up"), "{text}");
    }

    #[test]
    fn every_key_of_the_json_is_in_the_help() {
        for (key, _) in report(Some(1)).to_json().as_object().unwrap() {
            let is_told = KEYS.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == key);
            assert!(is_told, "{key}");
        }
    }

    #[test]
    fn a_rate_that_was_not_kept_is_shouted() {
        let mut report = report(Some(1_000));
        assert!(report.to_text().contains("the rate was kept"));
        (report.seen.unsent, report.seen.behind) = (900, 1_800_000_000);
        let text = report.to_text();
        assert!(
            text.contains(
                "NOT KEPT: 1,000/s asked, 100/s achieved; 900 tasks due and never sent, the oldest for 900 ms"
            ),
            "{text}"
        );
        assert_eq!(report.to_json()["rate_kept"], false);
    }

    #[test]
    fn trouble_is_one_clause_with_what_stays_accepted() {
        let mut report = report(None);
        assert_eq!(report.trouble(), None);
        report.seen.not_done = 2;
        report.seen.first_failure = Some("the handler failed: no\nreason".to_owned());
        assert_eq!(report.trouble().unwrap(), "2 tasks did not end as done; the first: the handler failed: no; reason");
        (report.down, report.seen.unanswered) = (true, 3);
        assert_eq!(
            report.trouble().unwrap(),
            "the sidecar of instance x went down after 1.00 s; 3 tasks accepted and unanswered, the next start has them: \
             executord run x"
        );
    }
}
