//! Another process that a test talks with in lines, and that does not outlive the test.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::FAIL_SAFE;
use crate::instance::TestInstance;

/// A child of this process. Dropped, also by a panic, it is killed and reaped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Lines that were read before their turn.
    early: VecDeque<String>,
}

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let Ok(line) = line else { return };
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { input: child.stdin.take(), child, lines, early: VecDeque::new() }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line.
    ///
    /// # Panics
    ///
    /// It ended, or says nothing.
    #[track_caller]
    pub fn line(&mut self) -> String {
        self.early.pop_front().unwrap_or_else(|| self.read())
    }

    #[track_caller]
    fn read(&mut self) -> String {
        match self.lines.recv_timeout(FAIL_SAFE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("process {} says nothing", self.pid()),
            Err(RecvTimeoutError::Disconnected) => panic!("process {} ended: {:?}", self.pid(), self.child.wait()),
        }
    }

    /// A line that it has said already.
    pub fn try_line(&mut self) -> Option<String> {
        self.early.pop_front().or_else(|| self.lines.try_recv().ok())
    }

    /// Its next line that begins with `word`, without that; lines before it are passed over.
    ///
    /// # Panics
    ///
    /// As [`line`](Self::line).
    #[track_caller]
    pub fn expect(&mut self, word: &str) -> String {
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim_start().to_owned();
            }
        }
    }

    /// All lines until it ends, and how it ended.
    ///
    /// # Panics
    ///
    /// It says nothing and does not end.
    #[track_caller]
    pub fn rest(mut self) -> (Vec<String>, ExitStatus) {
        let mut lines = Vec::from(std::mem::take(&mut self.early));
        loop {
            match self.lines.recv_timeout(FAIL_SAFE) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return (lines, self.child.wait().unwrap()),
                Err(RecvTimeoutError::Timeout) => panic!("process {} does not end", self.pid()),
            }
        }
    }

    /// Tells it a line.
    ///
    /// # Panics
    ///
    /// It does not listen.
    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// Tells it a line and returns its answer, without the word it must begin with.
    ///
    /// # Panics
    ///
    /// The answer begins otherwise.
    #[track_caller]
    pub fn ask(&mut self, line: &str, word: &str) -> String {
        self.tell(line);
        let answer = self.line();
        match answer.strip_prefix(word) {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("{line:?} is answered {answer:?}, not {word:?}"),
        }
    }

    /// Ends it as nothing can be caught, and reaps it.
    ///
    /// # Panics
    ///
    /// It is none of ours.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As [`kill`](Self::kill); what it read from stays open, for children it may have.
    ///
    /// # Panics
    ///
    /// It is none of ours.
    pub fn kill_keeping_input(mut self) -> Option<ChildStdin> {
        let input = self.input.take();
        self.kill();
        input
    }

    /// Lets it see the end of its input.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// Asks it to end.
    ///
    /// # Panics
    ///
    /// It is gone.
    pub fn terminate(&self) {
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line of a test sidecar that is not ready until it says `ready`.
pub fn sidecar_command(program: &str, instance: &TestInstance, options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg(instance.name().as_str()).arg(instance.folder()).args(options);
    command
}

/// Starts a test sidecar and waits until it serves. What it tells of tasks it found waiting is kept for later.
///
/// # Panics
///
/// It refuses.
#[track_caller]
pub fn sidecar(program: &str, instance: &TestInstance, options: &[&str]) -> Process {
    let mut process = Process::start(&mut sidecar_command(program, instance, options));
    loop {
        let line = process.read();
        if line == "ready" {
            return process;
        }
        assert!(!line.starts_with("refused"), "{line}");
        process.early.push_back(line);
    }
}

/// Starts a test producer that connects when it is told to.
///
/// # Panics
///
/// It cannot be started.
pub fn producer(program: &str, instance: &TestInstance) -> Process {
    Process::start(Command::new(program).arg(instance.name().as_str()))
}
