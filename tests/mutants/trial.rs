//! One run of one program.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A program hangs if it still runs after this and [`RATIO`] times as long as it takes without a mutant.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// See [`PATIENCE`].
pub(crate) const RATIO: u32 = 10;
/// How long a program may take without a mutant.
const OWN_LIMIT: Duration = Duration::from_secs(120);
/// What is shown of the words of a program that fails without a mutant.
const LOG_BYTES: i64 = 4000;

/// How a program ended.
#[derive(Debug)]
pub(crate) enum End {
    /// This test of it failed; the others were not waited for.
    Test(String),
    Exit(ExitStatus),
    /// It did not, in this time.
    Hang(Duration),
}

/// One run.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) end: End,
    pub(crate) time: Duration,
    log: String,
}

enum Event {
    Failed(String),
    Silent,
    Ended(ExitStatus),
}

impl Trial {
    /// Runs a program in a group of its own, of which nobody is left afterwards.
    pub(crate) fn run(mut command: Command, own: Option<Duration>) -> Self {
        let limit = own.map_or(OWN_LIMIT, |own| PATIENCE + own * RATIO);
        let mut words = tempfile();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(words.try_clone().unwrap()).process_group(0);
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        let group = Pid::from_raw(child.id() as i32);
        let out = child.stdout.take().unwrap();
        let (tell, told) = channel();
        let (reader, waiter) = (tell.clone(), tell);
        // `test NAME ... FAILED`, as the standard harness says it.
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let failed = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
                if let Some(name) = failed {
                    let _ = reader.send(Event::Failed(name.to_owned()));
                }
                text.push_str(&line);
                text.push('\n');
            }
            let _ = reader.send(Event::Silent);
            text
        });
        let waiter = std::thread::spawn(move || {
            let status = child.wait().unwrap();
            let _ = waiter.send(Event::Ended(status));
        });
        let mut ended = None;
        let end = loop {
            // What it said before it ended may still be on its way.
            let left = if ended.is_some() { Duration::from_secs(1) } else { limit.saturating_sub(begun.elapsed()) };
            match (told.recv_timeout(left), ended) {
                (Ok(Event::Failed(name)), _) => break End::Test(name),
                (Ok(Event::Ended(status)), _) => {
                    ended = Some(status);
                    let _ = killpg(group, Signal::SIGKILL); // who still holds its output
                }
                (Ok(Event::Silent), None) => {}
                (Ok(Event::Silent) | Err(_), Some(status)) => break End::Exit(status),
                (Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected), None) => break End::Hang(limit),
            }
        };
        let time = begun.elapsed();
        let _ = killpg(group, Signal::SIGKILL);
        waiter.join().unwrap();
        let mut log = if reader.is_finished() { reader.join().unwrap() } else { String::new() };
        let bytes = words.seek(SeekFrom::End(0)).unwrap() as i64;
        words.seek(SeekFrom::End(-bytes.min(LOG_BYTES))).unwrap();
        let mut tail = Vec::new();
        words.read_to_end(&mut tail).unwrap();
        log.push_str(&String::from_utf8_lossy(&tail));
        Self { end, time, log }
    }

    pub(crate) fn has_passed(&self) -> bool {
        matches!(self.end, End::Exit(status) if status.success())
    }

    /// How it ended, in a few words.
    pub(crate) fn what(&self) -> String {
        match &self.end {
            End::Test(name) => name.clone(),
            End::Hang(limit) => format!("hangs: ended after {:.1} s", limit.as_secs_f64()),
            End::Exit(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ends with {code}"),
                (None, signal) => format!("ends by signal {}", signal.unwrap_or_default()),
            },
        }
    }

    /// What it said.
    pub(crate) fn log(&self) -> &str {
        let from = self.log.len().saturating_sub(LOG_BYTES as usize);
        let from = (from..=self.log.len()).find(|&at| self.log.is_char_boundary(at)).unwrap_or_default();
        &self.log[from..]
    }
}

/// A file without a name.
fn tempfile() -> std::fs::File {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    let file =
        open(&std::env::temp_dir(), OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IWUSR);
    file.unwrap().into()
}
