//! What a producer of the demo tells its parent: JSON, one line each, over its standard output.

use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::times::Times;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub(crate) enum Line {
    /// What two CPUs do with nothing between them.
    Floor {
        /// A bare round trip of a cache line.
        ping_pong_ns: f64,
        /// A round trip over a Unix socket.
        unix_socket_ns: f64,
    },
    /// The echo is over.
    Echo {
        /// Elapsed time by round trips.
        echo_ns: f64,
        /// How many there were.
        round_trips: u64,
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
}

/// Says one line at once.
pub(crate) fn say(line: &Line) -> std::io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
