//! Which files the lane of a connected client is, as its owner can read it: by the instance's `status`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use executor_shm::InstanceName;
use executor_shm::layout::{Geometry, status};
use executor_shm::state::LaneWord;
use executor_shm::words::Words;

use crate::shared::KeptFile;

/// Where the files of instances are.
pub const DIRECTORY: &str = "/dev/shm";

/// A lane in the hands of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Its number.
    pub lane: u32,
    /// Its nonce.
    pub nonce: u64,
    /// The sequence of its first task id.
    pub base: u64,
    /// Its submissions.
    pub sq: PathBuf,
    /// Its completions.
    pub cq: PathBuf,
}

impl Ownership {
    /// What lane `lane` is, which this process owns: while it does, neither nonce nor base change.
    ///
    /// # Errors
    ///
    /// The instance's `status` is gone or cannot be mapped.
    pub fn of(instance: &InstanceName, lane: u32) -> io::Result<Self> {
        let status = KeptFile::map(&File::open(file(instance, "status"))?)?;
        let gate = Geometry::load(&status).gate(lane);
        let nonce = LaneWord::from_word(status.load_commit(gate + status::GATE_STATE)).nonce();
        let base = status.load(gate + status::LANE_BASE);
        let named = |kind| file(instance, &format!("lane-{lane}-{nonce:014x}.{kind}"));
        Ok(Self { lane, nonce, base, sq: named("sq"), cq: named("cq") })
    }
}

/// Where a file of an instance is; `part` is what comes after the instance's name.
pub fn file(instance: &InstanceName, part: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("executor.{instance}.{part}"))
}

/// Every file of an instance.
pub fn files(instance: &InstanceName) -> Vec<PathBuf> {
    let prefix = format!("executor.{instance}.");
    let entries = std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    ours.map(|entry| entry.path()).collect()
}
