//! An instance name of a test's own, and nothing left of it in the end.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use executor_client::InstanceName;
use executor_shm::inspect::Inspector;
use nix::sys::stat::Mode;

use crate::FAIL_SAFE;

/// A name nobody else uses, and a folder for latches. Dropped, also by a panic, its files and the folder are removed;
/// so it must be made before the processes that use it.
#[derive(Debug)]
pub struct TestInstance {
    name: InstanceName,
    folder: PathBuf,
}

impl TestInstance {
    /// A fresh name that begins with `of`.
    ///
    /// # Panics
    ///
    /// `of` is no name, or no folder can be made.
    pub fn new(of: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let text = format!("{of}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
            let folder = std::env::temp_dir().join(format!("executor-{text}"));
            match fs::create_dir(&folder) {
                Ok(()) => return Self { name: InstanceName::new(&text).unwrap(), folder },
                // Left by a test that was killed, whose number has come round again.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", folder.display()),
            }
        }
    }

    /// The name.
    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Where its latches are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a latch that holds a slow task.
    ///
    /// # Panics
    ///
    /// It cannot be made.
    pub fn latch(&self, name: &str) -> Latch {
        let path = self.folder.join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        Latch(path)
    }

    /// The names of its files, sorted.
    ///
    /// # Panics
    ///
    /// `/dev/shm` cannot be read.
    pub fn files(&self) -> Vec<String> {
        files_of(&self.name)
    }

    /// Waits until nobody holds a lane.
    ///
    /// A dropped client has let go of its lane, but a process that another test of this program is starting right now
    /// may still have a copy of its descriptor, until its `exec` closes it. A stop ordered in that moment would rightly
    /// keep the files.
    ///
    /// # Panics
    ///
    /// Somebody holds one for good.
    pub fn wait_until_deserted(&self) {
        let begun = Instant::now();
        let inspector = Inspector::open(&self.name).unwrap();
        while inspector.look().lanes.iter().any(|lane| lane.attached == Some(true)) {
            assert!(begun.elapsed() < FAIL_SAFE, "a lane of {} stays attached", self.name);
            std::thread::yield_now();
        }
    }

    /// The path of one of its two named files: `status` or `journal`.
    pub fn path(&self, kind: &str) -> PathBuf {
        Path::new("/dev/shm").join(format!("executor.{}.{kind}", self.name))
    }
}

/// The names of an instance's files, sorted.
///
/// # Panics
///
/// `/dev/shm` cannot be read.
pub fn files_of(instance: &InstanceName) -> Vec<String> {
    let prefix = format!("executor.{instance}.");
    let entries = fs::read_dir("/dev/shm").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.filter_map(|name| OsStr::to_str(&name).map(str::to_owned)).collect();
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    names
}

impl Drop for TestInstance {
    fn drop(&mut self) {
        for name in self.files() {
            let _ = fs::remove_file(Path::new("/dev/shm").join(name));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Holds one slow task until it is opened.
#[derive(Debug)]
pub struct Latch(PathBuf);

impl Latch {
    /// Lets the task go on that waits here, or waits for it to come.
    ///
    /// # Panics
    ///
    /// The pipe is gone.
    pub fn open(&self) {
        drop(fs::File::options().write(true).open(&self.0).unwrap());
    }
}
