//! `executord hash`: digests of files by a running instance, as `sha256sum` prints them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use executor_client::ConnectError;
use executor_shm::InstanceName;
use executor_shm::layout::Geometry;
use executor_shm::status::HandlerRow;
use serde_json::{Value, json};

use crate::exit::{FAILED, PrintError, USAGE, print};
use crate::files::{Selection, select};
use crate::hashing::{Files, Hashing, HashingOptions, Patience};
use crate::lines::{Counts, Line};
use crate::producer::idle;
use crate::served::{Served, ServedError, connect, parse_owner};
use crate::sha256_block::{BLOCK_BYTES, Header, Midstate};
use crate::sums::{printable, sum_line};
use crate::units::per_second;

/// The handler that hashes.
const HANDLER: &str = "sha256-block";
/// Files in flight: enough that the sidecar does not wait for the disk.
const WINDOW: usize = 64;
/// How long a restart of the sidecar may take.
const DOWN: Duration = Duration::from_secs(10);

/// Examples of the command.
pub(crate) const EXAMPLES: &str = "  executord hash Cargo.toml src            by instance `default`\n  \
       executord hash --instance orders --all . > SUMS\n  \
       sha256sum -c SUMS                        the check, by another program\n  \
       executord hash --json . | jq .bytes_per_second";

/// What to hash, and who does.
#[derive(Debug, Args)]
pub(crate) struct HashArgs {
    /// Files and folders to hash; in folders hidden and git-ignored files are passed over, links are not followed.
    #[arg(required = true, value_parser = parse_path)]
    paths: Vec<PathBuf>,
    /// The running instance that hashes; it needs the handler `sha256-block`.
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: InstanceName,
    /// Believe an instance of this user, by name or uid, besides root's and this user's own.
    #[arg(long, value_name = "USER", value_parser = parse_owner)]
    owner: Option<u32>,
    /// Hash hidden and git-ignored files too.
    #[arg(long)]
    all: bool,
    /// Print one JSON object with keys `digests`, `failed`, `files`, `bytes`, `tasks`, `elapsed_ns` and rates.
    #[arg(long)]
    json: bool,
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err("standard input is not hashed; name a file or folder, ./- for a file of that name".to_owned()),
        "" => Err("an empty path; name a file or folder".to_owned()),
        path => Ok(path.into()),
    }
}

/// Why hashing did not begin, or not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashError {
    /// See the reason.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// See the reason.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nobody was told.
    #[error(transparent)]
    Print(#[from] PrintError),
    /// Start the instance with larger buffers.
    #[error(
        "a task of {HANDLER} needs {request} bytes of request and {response} of response, instance {instance} has \
         {request_bytes} and {response_bytes}; start it with larger --request-bytes and --response-bytes",
        request = size_of::<Header>() + BLOCK_BYTES, response = size_of::<Midstate>(),
    )]
    Buffers {
        /// The instance.
        instance: InstanceName,
        /// Bytes of its request buffers.
        request_bytes: u32,
        /// Bytes of its response buffers.
        response_bytes: u32,
    },
    /// Read the reason; it names the cure.
    #[error("{0}")]
    GaveUp(String),
}

impl HashError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Served(ServedError::NoHandler { .. }) | Self::Buffers { .. } => USAGE,
            _ => FAILED,
        }
    }
}

/// Hashes and prints; says whether every file has its digest.
pub(crate) fn hash(arguments: &HashArgs) -> Result<bool, HashError> {
    let served = Served::open(&arguments.instance)?;
    let handler = served.handler(HANDLER)?;
    let geometry = served.view.geometry;
    let chunk_bytes = chunk_bytes(&geometry, handler).ok_or_else(|| HashError::Buffers {
        instance: arguments.instance.clone(),
        request_bytes: geometry.request_bytes,
        response_bytes: geometry.response_bytes,
    })?;
    let client = connect(&arguments.instance, arguments.owner)?;
    let options = HashingOptions {
        handler: handler.id,
        chunk_bytes,
        window: WINDOW.min(client.capacity()),
        digests: true,
        check: false,
        idle: idle(),
        patience: Patience::Down(DOWN),
    };
    let Selection { files, skipped, .. } = select(&arguments.paths, u64::MAX, arguments.all);
    let mut sums = Sums::new(files.into_iter().map(|file| file.path).collect(), arguments.json);
    skipped.iter().for_each(|skipped| sums.fail(&skipped.path, &skipped.why));
    let began = Instant::now();
    let ended = Hashing::new(client, Files::once(sums.paths.clone()), options, |line| sums.take(line)).run();
    let elapsed_ns = began.elapsed().as_nanos() as u64;
    match ended {
        _ if sums.nobody_reads => Ok(true), // a reader that has gone is no mistake of ours
        Ok(Line::Done { counts, .. }) => {
            if arguments.json {
                print(format!("{}\n", sums.to_json(&arguments.instance, counts, elapsed_ns)).as_bytes())?;
            }
            Ok(sums.failed.is_empty())
        }
        Ok(_) => Ok(false),
        Err(gave_up) => Err(HashError::GaveUp(gave_up.why)),
    }
}

/// Bytes of a file in one task: as many whole blocks as a request takes.
fn chunk_bytes(geometry: &Geometry, handler: &HandlerRow) -> Option<usize> {
    let longest = geometry.request_bytes.min(handler.request_bytes.1) as usize;
    let blocks = longest.checked_sub(size_of::<Header>())? / BLOCK_BYTES;
    let is_answered = geometry.response_bytes as usize >= size_of::<Midstate>();
    (blocks > 0 && is_answered).then_some(blocks * BLOCK_BYTES)
}

/// The digests as they come, printed in the order of the files.
struct Sums {
    paths: Vec<PathBuf>,
    json: bool,
    /// What came before its turn; nothing for a file that failed.
    early: BTreeMap<usize, Option<String>>,
    /// Files that had their turn.
    told: usize,
    digests: Vec<Value>,
    failed: Vec<Value>,
    nobody_reads: bool,
}

impl Sums {
    fn new(paths: Vec<PathBuf>, json: bool) -> Self {
        let early = BTreeMap::new();
        Self { paths, json, early, told: 0, digests: Vec::new(), failed: Vec::new(), nobody_reads: false }
    }

    fn fail(&mut self, path: &Path, why: &str) {
        eprintln!("executord: {}: {why}", printable(path));
        self.failed.push(json!({"path": path.to_string_lossy(), "why": why}));
    }

    fn take(&mut self, line: Line) -> std::io::Result<()> {
        let (file, digest) = match line {
            Line::Digest { file, sha256 } => (file, Some(sha256)),
            Line::Skipped { file, why } | Line::Mismatched { file, why } => {
                let path = self.paths.get(file).cloned().unwrap_or_default();
                self.fail(&path, &why);
                (file, None)
            }
            _ => return Ok(()),
        };
        self.early.insert(file, digest);
        let mut lines = Vec::new();
        while let Some(next) = self.early.remove(&self.told) {
            if let (Some(path), Some(digest)) = (self.paths.get(self.told), next) {
                match self.json {
                    true => self.digests.push(json!({"path": path.to_string_lossy(), "sha256": digest})),
                    false => lines.extend(sum_line(path, &digest)),
                }
            }
            self.told += 1;
        }
        let written = std::io::Write::write_all(&mut std::io::stdout(), &lines);
        self.nobody_reads = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        written
    }

    fn to_json(&self, instance: &InstanceName, counts: Counts, elapsed_ns: u64) -> Value {
        json!({
            "instance": instance.as_str(),
            "files": counts.files,
            "bytes": counts.bytes,
            "tasks": counts.tasks,
            "elapsed_ns": elapsed_ns,
            "tasks_per_second": per_second(counts.tasks, elapsed_ns),
            "bytes_per_second": per_second(counts.bytes, elapsed_ns),
            "digests": self.digests,
            "failed": self.failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(request_bytes: u32, response_bytes: u32, limit: u32) -> Option<usize> {
        let geometry = Geometry { capacity: 2, request_bytes, response_bytes, lanes: 1, handlers: 1, workers: 1 };
        let handler = HandlerRow {
            id: 5,
            name: HANDLER.to_owned(),
            fingerprint: 0,
            since: 0,
            idempotent: true,
            gone: false,
            request_bytes: (64, limit),
        };
        chunk_bytes(&geometry, &handler)
    }

    #[test]
    fn a_chunk_is_what_a_request_leaves_beside_its_header_in_whole_blocks() {
        assert_eq!(chunk(256, 64, u32::MAX), Some(192));
        assert_eq!(chunk(4096, 64, u32::MAX), Some(4032));
        assert_eq!(chunk(128, 64, u32::MAX), Some(64));
        assert_eq!(chunk(4096, 64, 200), Some(128), "the handler takes less than the buffer");
        assert_eq!([chunk(64, 64, u32::MAX), chunk(0, 64, u32::MAX), chunk(256, 0, u32::MAX)], [None; 3]);
    }
}
