//! What a producer of the demo tells its parent: JSON, one line each, over its standard output.

use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::times::Times;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub(crate) enum Line {
    /// A round trip was measured.
    RoundTrip {
        /// Elapsed time by round trips.
        ns: f64,
    },
    /// Counts so far.
    Progress(Counts),
    /// A file's digest, which the check agrees with.
    Digest {
        /// Its place in the list the producer got.
        file: usize,
        /// Hexadecimal.
        sha256: String,
    },
    /// A file that could not be hashed to its end.
    Skipped {
        /// Its place in the list the producer got.
        file: usize,
        /// One clause.
        why: String,
    },
    /// A file whose chain ended otherwise than the check.
    Mismatched {
        /// Its place in the list the producer got.
        file: usize,
        /// One clause.
        why: String,
    },
    /// All files are through.
    Done {
        /// Final counts.
        counts: Counts,
        /// How often all files were gone through.
        passes: u64,
        /// How long tasks took.
        times: Times,
        /// When the first task was submitted, on the monotonic clock.
        began_at_ns: u64,
        /// When the last completion was collected.
        ended_at_ns: u64,
    },
    /// Nothing more will come.
    Failed {
        /// One clause with the cure.
        why: String,
        /// Tasks submitted and never answered.
        lost: u64,
    },
}

/// How far a producer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Files with the right digest.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Tasks answered.
    pub(crate) tasks: u64,
    /// Those of them that were answered as interrupted and submitted again.
    pub(crate) interrupted: u64,
}

/// Says one line at once.
pub(crate) fn say(line: &Line) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_it_was_said() {
        let mut times = Times::default();
        times.record(1, 2, 3, 6);
        times.record(1_000_000, 2_000, 300, 1_002_300);
        let counts = Counts { files: 3, bytes: 1 << 40, tasks: 7, interrupted: 1 };
        let lines = [
            Line::RoundTrip { ns: 117.25 },
            Line::Progress(counts),
            Line::Digest { file: 1, sha256: "00".to_owned() },
            Line::Skipped { file: 2, why: "gone".to_owned() },
            Line::Mismatched { file: 0, why: "\"two\"\nlines".to_owned() },
            Line::Done { counts, passes: 2, times, began_at_ns: 5, ended_at_ns: u64::MAX },
            Line::Failed { why: "no lane".to_owned(), lost: 3 },
        ];
        for line in lines {
            let said = serde_json::to_string(&line).unwrap();
            assert!(!said.contains('\n'), "{said}");
            assert_eq!(serde_json::from_str::<Line>(&said).unwrap(), line, "{said}");
        }
    }
}
