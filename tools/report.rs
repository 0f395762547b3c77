//! The demo's result, for people and for programs. Pure: numbers in, text out.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::lines::Counts;
use crate::sums::{printable, sum_line};
use crate::times::{Percentiles, Times};
use crate::units::{bytes, count, counted, nanoseconds, per_second};

/// A file with what is to be said about it.
pub(crate) type Named = (PathBuf, String);

/// Everything the demo found out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// CPUs of the sidecar's workers.
    pub(crate) sidecar_cpus: Vec<u32>,
    /// One CPU for each producer.
    pub(crate) producer_cpus: Vec<u32>,
    /// The clock of all stamps.
    pub(crate) clock: String,
    /// A bare round trip of a cache line; `None` if the CPUs were too busy to measure it, as with the next two.
    pub(crate) ping_pong_ns: Option<f64>,
    /// A round trip over a Unix socket.
    pub(crate) unix_socket_ns: Option<f64>,
    /// A round trip through the executor.
    pub(crate) echo_ns: Option<f64>,
    /// Bytes of a file in one task.
    pub(crate) chunk_bytes: u64,
    /// What was hashed.
    pub(crate) counts: Counts,
    /// From the first submit to the last collect of all producers.
    pub(crate) elapsed_ns: u64,
    /// How long tasks took.
    pub(crate) times: Times,
    /// Tasks accepted and never answered.
    pub(crate) lost: u64,
    /// Files whose digest is wrong, with what happened.
    pub(crate) mismatched: Vec<Named>,
    /// Files that could not be hashed, with the reason.
    pub(crate) skipped: Vec<Named>,
    /// Files past the limit.
    pub(crate) left_out: u64,
    /// The limit.
    pub(crate) limit: u64,
    /// Why producers gave up, if any did.
    pub(crate) failures: Vec<String>,
    /// How often the sidecar died by itself and was started again.
    pub(crate) restarts: u64,
    /// How often it was killed and started again, if it was to be.
    pub(crate) kills: Option<u64>,
    /// Tasks that were in flight then and were run again.
    pub(crate) reruns: u64,
    /// How often all files were gone through.
    pub(crate) passes: u64,
    /// Digests by file, if they were asked for.
    pub(crate) digests: Vec<Named>,
}

impl Report {
    /// Whether every task was answered and every digest is right.
    pub(crate) fn is_good(&self) -> bool {
        self.lost == 0 && self.mismatched.is_empty() && self.failures.is_empty()
    }

    /// One object; times in nanoseconds.
    pub(crate) fn to_json(&self) -> Value {
        let Times { queue, run, back, total } = &self.times;
        let files = |named: &[Named], key: &str| -> Vec<Value> {
            named.iter().map(|(path, text)| json!({"path": path.to_string_lossy(), key: text})).collect()
        };
        let mut report = json!({
            "files": self.counts.files,
            "bytes": self.counts.bytes,
            "tasks": self.counts.tasks,
            "lost": self.lost,
            "mismatched": self.mismatched.len(),
            "mismatched_files": files(&self.mismatched, "why"),
            "skipped": self.skipped.len(),
            "skipped_files": files(&self.skipped, "why"),
            "left_out": self.left_out,
            "failures": self.failures,
            "restarts": self.restarts,
            "kills": self.kills.unwrap_or(0),
            "reruns": self.reruns,
            "interrupted": self.counts.interrupted,
            "passes": self.passes,
            "elapsed_ns": self.elapsed_ns,
            "tasks_per_second": per_second(self.counts.tasks, self.elapsed_ns),
            "bytes_per_second": per_second(self.counts.bytes, self.elapsed_ns),
            "chunk_bytes": self.chunk_bytes,
            "echo_ns": self.echo_ns,
            "ping_pong_ns": self.ping_pong_ns,
            "unix_socket_ns": self.unix_socket_ns,
            "round_trip_ns": total.percentiles(),
            "queue_ns": queue.percentiles(),
            "run_ns": run.percentiles(),
            "return_ns": back.percentiles(),
            "cpus": {"sidecar": self.sidecar_cpus, "producers": self.producer_cpus},
            "clock": self.clock,
        });
        if let (Value::Object(report), false) = (&mut report, self.digests.is_empty()) {
            report.insert("digests".to_owned(), files(&self.digests, "sha256").into());
        }
        report
    }

    /// The digests as `sha256sum` prints them: bytes of paths as they are, save those it escapes.
    pub(crate) fn to_sums(&self) -> Vec<u8> {
        self.digests.iter().flat_map(|(path, digest)| sum_line(path, digest)).collect()
    }

    /// All but the first paragraph, for people.
    pub(crate) fn result_text(&self) -> String {
        self.hash_text() + &self.times_text() + &self.verdict_text()
    }

    /// The first paragraph: what a round trip costs here.
    pub(crate) fn echo_text(&self) -> String {
        let per_trip = |ns: Option<f64>| ns.map_or("-".to_owned(), |ns| nanoseconds(ns.round() as u64));
        let times = |a: Option<f64>, b: Option<f64>| Some(a? / b.filter(|&b| b > 0.0)?);
        let beside = |ratio: Option<f64>, text: &dyn Fn(f64) -> String| {
            ratio.map_or("not measured: the CPUs are too busy".to_owned(), text)
        };
        let ping_pong = beside(times(self.echo_ns, self.ping_pong_ns), &|ratio| {
            format!("a cache line and nothing else: the executor takes {ratio:.2} times that")
        });
        let unix_socket =
            beside(times(self.unix_socket_ns, self.echo_ns), &|ratio| format!("{ratio:.0} times the executor"));
        format!(
            "one task at a time, there and back\n  \
               through the executor  {:>9}\n  \
               bare ping-pong        {:>9}   {ping_pong}\n  \
               Unix socket           {:>9}   {unix_socket}\n",
            per_trip(self.echo_ns),
            per_trip(self.ping_pong_ns),
            per_trip(self.unix_socket_ns),
        )
    }

    fn hash_text(&self) -> String {
        let Counts { files, bytes: hashed, tasks, interrupted: _ } = self.counts;
        let megabytes = per_second(hashed, self.elapsed_ns) / 1e6;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "hashed {}, {}, as {} of up to {} in {}",
            counted(files, "file"),
            bytes(hashed),
            counted(tasks, "task"),
            bytes(self.chunk_bytes),
            nanoseconds(self.elapsed_ns),
        );
        let _ = writeln!(
            text,
            "  {} tasks/s, {megabytes:.0} MB/s; this includes reading the files and hashing them again as the check",
            count(per_second(tasks, self.elapsed_ns).round() as u64),
        );
        if self.passes > 1 {
            let _ = writeln!(text, "  each file up to {}, one pass after the other", counted(self.passes, "time"));
        }
        text
    }

    fn times_text(&self) -> String {
        let Times { queue, run, back, total } = &self.times;
        let mut text = format!("  {:<22}", "submit to completion");
        for title in ["p50", "p90", "p99", "p99.9", "max"] {
            let _ = write!(text, "{title:>10}");
        }
        text.push('\n');
        let rows = [("waited in the lane", queue), ("ran", run), ("way back, till read", back), ("all", total)];
        for (name, samples) in rows {
            let Percentiles { p50, p90, p99, p999, max } = samples.percentiles();
            let _ = write!(text, "    {name:<20}");
            for ns in [p50, p90, p99, p999, max] {
                let _ = write!(text, "{:>10}", nanoseconds(ns));
            }
            text.push('\n');
        }
        text
    }

    fn verdict_text(&self) -> String {
        let mut text = String::new();
        let _ = match self.is_good() {
            true => writeln!(text, "every task was answered, every digest agrees with the sha2 crate"),
            false => writeln!(text, "WRONG: {} lost, {} mismatched", counted(self.lost, "task"), self.mismatched.len()),
        };
        if let Some(kills) = self.kills {
            let _ = writeln!(
                text,
                "the sidecar was killed {}: {} in flight run again, {} interrupted and submitted again, {} lost",
                counted(kills, "time"),
                counted(self.reruns, "task"),
                count(self.counts.interrupted),
                count(self.lost),
            );
        }
        for why in &self.failures {
            let _ = writeln!(text, "a producer gave up: {why}");
        }
        if self.restarts > 0 {
            let _ = writeln!(text, "the sidecar died and was started again: {}", counted(self.restarts, "time"));
        }
        list(&mut text, "mismatched", &self.mismatched);
        list(&mut text, "skipped", &self.skipped);
        if self.left_out > 0 {
            let _ = writeln!(
                text,
                "{} left out by --limit {}; raise it to hash more",
                counted(self.left_out, "file"),
                bytes(self.limit),
            );
        }
        text.push_str("to look inside: executord run in one terminal, shm-dump show in another\n");
        text
    }
}

/// The first few of `named`, then how many more there are.
fn list(text: &mut String, title: &str, named: &[Named]) {
    const SHOWN: usize = 5;
    if named.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}: {}", counted(named.len() as u64, "file"));
    for (path, why) in named.iter().take(SHOWN) {
        let _ = writeln!(text, "  {}: {why}", printable(path));
    }
    if named.len() > SHOWN {
        let _ = writeln!(text, "  and {} more; --json names all", named.len() - SHOWN);
    }
}
