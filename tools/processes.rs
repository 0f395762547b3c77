//! The demo's child processes and Ctrl-C, as one stream of events.
//!
//! Children are put into a process group of their own, so that a Ctrl-C reaches the parent alone, which then stops them
//! in order. Only the thread that holds a [`Children`] waits for them, so a pid it signals is always still theirs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A child wrote a line to its standard output.
    Line(usize, String),
    /// A child closed its standard output: it has ended or is about to.
    Closed(usize),
    /// Somebody wants this process to stop.
    Interrupted,
}

/// What a child reads from its standard input.
#[derive(Debug)]
pub(crate) enum Input {
    /// This, and then its end.
    Ended(Vec<u8>),
    /// This, and no end until [`Children::end_input`], until the child was waited for, or until this process has ended:
    /// so the child can tell.
    Held(Vec<u8>),
}

/// Child processes by number, and their events.
#[derive(Debug)]
pub(crate) struct Children {
    children: Vec<Option<Child>>,
    /// While one of these is there, the child's input has no end.
    held: HashMap<usize, Sender<()>>,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl Children {
    /// None yet. From now on SIGINT, SIGTERM and SIGHUP come as [`Event::Interrupted`].
    pub(crate) fn new() -> std::io::Result<Self> {
        let (sender, events) = channel();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let interrupted = sender.clone();
        std::thread::spawn(move || {
            for _ in signals.forever() {
                if interrupted.send(Event::Interrupted).is_err() {
                    return;
                }
            }
        });
        Ok(Self { children: Vec::new(), held: HashMap::new(), events, sender })
    }

    /// Starts `command` and returns its number.
    pub(crate) fn spawn(&mut self, mut command: Command, input: Input) -> std::io::Result<usize> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let number = self.children.len();
        if let Some(stdout) = child.stdout.take() {
            let sender = self.sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    if line.is_err() || line.is_ok_and(|line| sender.send(Event::Line(number, line)).is_err()) {
                        break;
                    }
                }
                // Nobody listens any more: then nobody waits for it either.
                let _ = sender.send(Event::Closed(number));
            });
        }
        if let Some(mut stdin) = child.stdin.take() {
            let (input, ended) = match input {
                Input::Ended(input) => (input, None),
                Input::Held(input) => {
                    let (sender, ended) = channel();
                    self.held.insert(number, sender);
                    (input, Some(ended))
                }
            };
            // In a thread: a child that writes before it has read everything must not meet a parent that does so too.
            std::thread::spawn(move || {
                // A child that died takes no input; its end is told by its standard output.
                let _ = stdin.write_all(&input);
                // Nothing is ever sent: it ends when the sender goes.
                ended.map(|ended| ended.recv())
            });
        }
        self.children.push(Some(child));
        Ok(number)
    }

    /// The next event, or `None` after `timeout`.
    pub(crate) fn next(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// Ends the input of a child that was started with [`Input::Held`].
    pub(crate) fn end_input(&mut self, number: usize) {
        self.held.remove(&number);
    }

    /// Asks a child to stop.
    pub(crate) fn terminate(&mut self, number: usize) {
        self.signal(number, Signal::SIGTERM);
        self.signal(number, Signal::SIGCONT); // it may be paused
    }

    /// Sends a signal to a child that was not waited for yet.
    pub(crate) fn signal(&mut self, number: usize, signal: Signal) {
        if let Some(Some(child)) = self.children.get(number) {
            // It fails only for a child that has ended already.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
    }

    /// Stops all children but one, and waits for them.
    pub(crate) fn stop_all_but(&mut self, spared: Option<usize>, patience: Duration) {
        let numbers: Vec<usize> = (0..self.children.len()).filter(|&number| Some(number) != spared).collect();
        numbers.iter().for_each(|&number| self.terminate(number));
        for number in numbers {
            self.wait(number, patience);
        }
    }

    /// Waits for a child that has closed its output or was asked to stop; kills it if it takes longer than `patience`.
    pub(crate) fn wait(&mut self, number: usize, patience: Duration) -> Option<ExitStatus> {
        let mut child = self.children.get_mut(number)?.take()?;
        let deadline = Instant::now() + patience;
        let ended = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Ok(None) => {
                    let _ = child.kill();
                    break child.wait().ok();
                }
                Err(_) => break None,
            }
        };
        self.held.remove(&number);
        ended
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.stop_all_but(None, Duration::from_secs(10));
    }
}

/// Has this process sent SIGTERM, perhaps more than once, when the parent that started it dies, however it dies; says
/// whether it lives still. For a child that may die at any moment.
pub(crate) fn end_with_parent(parent: u32) -> bool {
    let asked = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).is_ok();
    // It may have died before the line above.
    asked && nix::unistd::getppid().as_raw() as u32 == parent
}
