//! What the tests of the programs share: names that nobody else has, sidecars that end with their test, output as JSON.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_client::{Client, InstanceName};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The program under test, without what the environment of the tests says to it.
pub fn executord() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_executord"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("EXECUTOR_") || text.starts_with("WATCHDOG_") || text == "NOTIFY_SOCKET" {
            command.env_remove(name);
        }
    }
    command
}

/// The inspector under test.
pub fn shm_dump() -> Command {
    Command::new(env!("CARGO_BIN_EXE_shm-dump"))
}

/// An instance name that no other test and no other run has.
pub fn instance(what: &str) -> InstanceName {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    InstanceName::new(&name).unwrap()
}

/// A folder that goes with its test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("executord-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: impl AsRef<Path>, bytes: usize) {
        let data: Vec<u8> = (0..bytes).map(|i| (i * 131 + i / 251 + bytes) as u8).collect();
        fs::write(self.0.join(name), data).unwrap();
    }

    /// Files of zeros that cost no disk.
    pub fn fill(&self, files: u32, bytes: u64) {
        for number in 0..files {
            File::create(self.0.join(format!("zeros-{number}"))).unwrap().set_len(bytes).unwrap();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Files in `/dev/shm` whose name has `part` in it.
pub fn files_with(part: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").unwrap();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.contains(part)).collect()
}

/// Waits for something that will come, and for ever long only if it does not.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what} never came");
        std::thread::sleep(Duration::from_millis(2)); // between two looks at the condition
    }
}

/// Asks a child that was not waited for yet to stop.
pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Asserts a refusal: this exit code, nothing on standard output, one line on standard error that holds `part`.
#[track_caller]
pub fn assert_refused(output: &Output, code: i32, part: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    assert!(stderr.contains(part), "{stderr:?} does not say {part:?}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Standard output as JSON.
#[track_caller]
pub fn json_of(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&stdout).unwrap_or_else(|error| {
        panic!("{error} in {stdout:?}, standard error {:?}", String::from_utf8_lossy(&output.stderr))
    })
}

/// A sidecar that is stopped when its test ends.
pub struct Sidecar {
    pub child: Child,
    pub instance: InstanceName,
    pub first_line: String,
    stdout: BufReader<ChildStdout>,
}

impl Sidecar {
    /// Starts `executord run INSTANCE --unpinned` with more arguments and waits until it serves.
    pub fn start(instance: &InstanceName, arguments: &[&str]) -> Self {
        let mut command = executord();
        command.args(["run", instance.as_str(), "--unpinned"]).args(arguments);
        Self::spawn(instance, command)
    }

    /// Starts what is to serve the instance and waits until it does.
    pub fn spawn(instance: &InstanceName, mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first_line = String::new();
        stdout.read_line(&mut first_line).unwrap();
        assert!(!first_line.is_empty(), "the sidecar ended at once: {:?}", child.wait());
        Self { child, instance: instance.clone(), first_line, stdout }
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    pub fn connect(&self) -> Client {
        Client::connect_timeout(&self.instance, Duration::from_secs(60)).unwrap()
    }

    /// Kills it as the kernel would: no chance to clean up.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it with manners; what it said since the first line comes back.
    pub fn stop(&mut self, by: Signal) -> (ExitStatus, String) {
        signal(&self.child, by);
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let discard = ["clean", self.instance.as_str(), "--discard"];
        let _ = executord().args(discard).output();
        // It may have run as another user, whose files `clean` leaves alone; the name is this test's.
        let prefix = format!("executor.{}.", self.instance);
        let me = nix::unistd::geteuid().as_raw();
        for file in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let is_foreign = file.metadata().is_ok_and(|stat| std::os::unix::fs::MetadataExt::uid(&stat) != me);
            if is_foreign && file.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}
