//! `executord run --respawn`: a parent that serves nothing and starts the sidecar again after a crash.
//!
//! It starts its own program with its own arguments and waits for signals, its child's end, and what the child tells over
//! the socket that is its standard input: that it serves, and the rest of what a service manager wants to hear. That is
//! passed on, since a service manager listens to the process it started and to no child of it.
//!
//! It starts no thread: the kernel sends a parent-death signal when the thread that started the child ends.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup2_stdin};
use sd_notify::NotifyState;
use serde_json::{Value, json};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::exit::{FAILED, INTERRUPTED, failed, print};
use crate::notify::Manager;
use crate::processes::end_with_parent;
use crate::units::nanoseconds;

/// After this time a crash is a new one, and not the last one again.
const STEADY: Duration = Duration::from_secs(10);
/// The second wait in a row; the first is none.
const WAIT_LEAST: Duration = Duration::from_millis(10);
const WAIT_MOST: Duration = Duration::from_secs(5);

/// Why nothing is supervised: the machine is out of processes, memory or descriptors.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}")]
struct RespawnError {
    act: &'static str,
    source: std::io::Error,
}

fn system(act: &'static str) -> impl Fn(std::io::Error) -> RespawnError {
    move |source| RespawnError { act, source }
}

/// Has this program serve in a child until a child ends well or cannot start; the exit code is the last child's.
pub(crate) fn respawn(as_json: bool) -> ExitCode {
    match Supervisor::new(as_json).and_then(|mut supervisor| supervisor.run()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed("executord", &error, FAILED),
    }
}

/// In the child: has it stop with manners when `supervisor` dies, and takes its line to the supervisor from standard input,
/// which is empty from then on. `None`: the supervisor is dead already. Signals are to be blocked before.
pub(crate) fn line_to(supervisor: u32) -> std::io::Result<Option<UnixDatagram>> {
    if !end_with_parent(supervisor) {
        return Ok(None);
    }
    let line = UnixDatagram::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    line.set_nonblocking(true)?; // a supervisor that was stopped holds up nobody
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(Some(line))
}

struct Supervisor {
    program: PathBuf,
    arguments: Vec<OsString>,
    signals: SignalDelivery<UnixStream, SignalOnly>,
    manager: Manager,
    as_json: bool,
    /// A child has served.
    has_served: bool,
    /// Somebody wants it to stop.
    is_stopping: bool,
}

/// A child's life once it is over.
#[derive(Clone, Copy, Debug)]
struct Life {
    pid: u32,
    status: ExitStatus,
    served: bool,
    uptime: Duration,
}

/// What follows a child's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another child.
    Again,
    /// The same end, with this exit code.
    End(u8),
}

impl Supervisor {
    fn new(as_json: bool) -> Result<Self, RespawnError> {
        let (read, write) = UnixStream::pair().map_err(system("listen for signals"))?;
        // A handler for SIGCHLD, since a parent may have had it ignored: then the kernel would keep no child's end.
        let signals = SignalDelivery::with_pipe(read, write, SignalOnly, [SIGTERM, SIGINT, SIGCHLD])
            .map_err(system("listen for signals"))?;
        Ok(Self {
            program: std::env::current_exe().map_err(system("find this program"))?,
            arguments: child_arguments(std::env::args_os().skip(1), std::process::id()),
            signals,
            manager: Manager::default(),
            as_json,
            has_served: false,
            is_stopping: false,
        })
    }

    fn run(&mut self) -> Result<u8, RespawnError> {
        let mut backoff = Backoff::default();
        loop {
            let life = match self.start() {
                Ok((child, line)) => self.watch(child, &line).map_err(system("wait for the sidecar"))?,
                // Of a machine that is out of something, once a sidecar has served: that passes.
                Err(error) if self.has_served => {
                    eprintln!("executord: {}; trying again", crate::exit::one_line(&error));
                    if self.pause(backoff.after(Duration::ZERO)) {
                        return Ok(FAILED);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.has_served |= life.served;
            match next(&life, self.has_served, self.is_stopping) {
                Next::End(code) => {
                    // What ended with an exit code before anybody was served has said why.
                    if life.status.code().is_none() || (self.has_served && !life.served && code != 0) {
                        self.tell(&life, None);
                    }
                    return Ok(code);
                }
                Next::Again => {
                    let wait = backoff.after(life.uptime);
                    self.tell(&life, Some(wait));
                    if self.pause(wait) {
                        return Ok(FAILED); // what was accepted is in the files, and nobody answers it
                    }
                }
            }
        }
    }

    /// Starts a child, in a process group of its own: a Ctrl-C then comes to it once, from here.
    fn start(&self) -> Result<(Child, UnixDatagram), RespawnError> {
        let (line, end) = UnixDatagram::pair().map_err(system("make a socket"))?;
        line.set_nonblocking(true).map_err(system("make a socket"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).process_group(0).stdin(std::os::fd::OwnedFd::from(end));
        if let Some(arg0) = std::env::args_os().next() {
            command.arg0(arg0);
        }
        // The watchdog is for this process, and the child feeds it through this process.
        if std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
            command.env_remove("WATCHDOG_PID");
        }
        let child = command.spawn().map_err(system("start the sidecar"))?;
        Ok((child, line))
    }

    /// Waits for the child's end, passes signals on to it and what it tells to the service manager.
    fn watch(&mut self, mut child: Child, line: &UnixDatagram) -> std::io::Result<Life> {
        let begun = Instant::now();
        let mut served = false;
        loop {
            for signal in self.signals.pending().filter_map(stop_signal) {
                self.is_stopping = true;
                // It is not waited for yet, so the pid is its own.
                let _ = kill(Pid::from_raw(child.id() as i32), signal);
            }
            let ended = child.try_wait()?;
            served |= self.manager.pass_on(line);
            if let Some(status) = ended {
                return Ok(Life { pid: child.id(), status, served, uptime: begun.elapsed() });
            }
            let mut fds = [
                PollFd::new(self.signals.get_read().as_fd(), PollFlags::POLLIN),
                PollFd::new(line.as_fd(), PollFlags::POLLIN),
            ];
            wait_for(&mut fds, PollTimeout::NONE)?;
        }
    }

    /// Waits for the time to pass; says whether a signal wants it all to stop.
    fn pause(&mut self, wait: Duration) -> bool {
        let begun = Instant::now();
        loop {
            self.is_stopping |= self.signals.pending().filter_map(stop_signal).next().is_some();
            let left = wait.saturating_sub(begun.elapsed());
            if self.is_stopping || left.is_zero() {
                return self.is_stopping;
            }
            // Rounded up: what is left of a millisecond is not to be a busy loop.
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.signals.get_read().as_fd(), PollFlags::POLLIN)];
            let _ = wait_for(&mut fds, timeout); // the time is looked at above
        }
    }

    fn tell(&mut self, life: &Life, again_in: Option<Duration>) {
        let text = life.text(again_in);
        self.manager.tell(&[NotifyState::Status(&text)]);
        if self.as_json {
            let _ = print(format!("{}\n", life.to_json(again_in)).as_bytes()); // it goes on all the same
        } else {
            eprintln!("executord: {text}");
        }
    }
}

fn wait_for(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> std::io::Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn stop_signal(signal: i32) -> Option<Signal> {
    Signal::try_from(signal).ok().filter(|signal| *signal != Signal::SIGCHLD)
}

/// The subcommand comes first; behind it, so that nothing that stands behind `--` is taken for it, what makes it a child.
fn child_arguments(mut own: impl Iterator<Item = OsString>, pid: u32) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = own.next().into_iter().collect();
    arguments.extend(["--supervisor".into(), pid.to_string().into()]);
    arguments.extend(own);
    arguments
}

/// A sidecar that says no ends it all: whoever starts it again hears the same. One that dies is started again, unless none
/// ever served: then it would die of the same for ever.
fn next(life: &Life, has_served: bool, is_stopping: bool) -> Next {
    match life.status.code() {
        Some(code @ (0 | 130)) => Next::End(code as u8),
        Some(_) if life.served && !is_stopping => Next::Again,
        Some(code) => Next::End(u8::try_from(code).unwrap_or(FAILED)),
        None if has_served && !is_stopping => Next::Again,
        // As shells have it: 130 is 128 and SIGINT.
        None => Next::End(INTERRUPTED - SIGINT as u8 + life.status.signal().unwrap_or(0) as u8),
    }
}

impl Life {
    fn signal(&self) -> Option<String> {
        let number = self.status.signal()?;
        Some(Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned()))
    }

    fn text(&self, again_in: Option<Duration>) -> String {
        let how = match (self.signal(), self.status.code()) {
            (Some(signal), _) if self.status.core_dumped() => format!("was killed by {signal}, core dumped,"),
            (Some(signal), _) => format!("was killed by {signal}"),
            (None, code) => format!("ended with exit code {}", code.unwrap_or(0)),
        };
        let next = match again_in {
            Some(Duration::ZERO) => "it is started again at once".to_owned(),
            Some(wait) => format!("it is started again in {}", nanoseconds(wait.as_nanos() as u64)),
            None if self.served => "it is not started again, since it was to stop".to_owned(),
            None => "it is not started again, since it never served".to_owned(),
        };
        format!("the sidecar, pid {}, {how} after {}; {next}", self.pid, nanoseconds(self.uptime.as_nanos() as u64))
    }

    fn to_json(self, again_in: Option<Duration>) -> Value {
        json!({
            "event": "crashed",
            "pid": self.pid,
            "signal": self.signal(),
            "core_dumped": self.status.core_dumped(),
            "exit_code": self.status.code(),
            "served": self.served,
            "uptime_ns": self.uptime.as_nanos() as u64,
            "again_in_ns": again_in.map(|wait| wait.as_nanos() as u64),
        })
    }
}

/// How long to wait before the next start.
#[derive(Debug, Default)]
struct Backoff {
    /// What was waited last in a row.
    last: Option<Duration>,
}

impl Backoff {
    /// After a child that ran so long: nothing the first time, then 10 ms, and twice as long each time up to 5 s.
    fn after(&mut self, uptime: Duration) -> Duration {
        if uptime >= STEADY {
            self.last = None;
        }
        let wait = self.last.map_or(Duration::ZERO, |last| (last * 2).clamp(WAIT_LEAST, WAIT_MOST));
        self.last = Some(wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: i32 = 9;
    const SEGMENTATION_FAULT_WITH_CORE: i32 = 11 | 0x80;

    fn exit(code: i32) -> i32 {
        code << 8
    }

    fn life(raw: i32, served: bool) -> Life {
        Life { pid: 7, status: ExitStatus::from_raw(raw), served, uptime: Duration::from_millis(1500) }
    }

    #[test]
    fn what_died_is_started_again_and_what_said_no_is_not() {
        let cases = [
            ((exit(0), true), true, Next::End(0), "a clean end"),
            ((exit(130), true), true, Next::End(130), "a second signal"),
            ((exit(2), false), false, Next::End(2), "wrong arguments"),
            ((exit(1), false), false, Next::End(1), "a refusal to start"),
            ((exit(1), false), true, Next::End(1), "a refusal at a restart"),
            ((exit(1), true), true, Next::Again, "a thread that died"),
            ((exit(101), true), true, Next::Again, "a panic"),
            ((KILLED, true), true, Next::Again, "a kill"),
            ((KILLED, false), true, Next::Again, "a kill during a restart"),
            ((KILLED, false), false, Next::End(137), "a kill during the first start"),
        ];
        for ((raw, served), has_served, expected, what) in cases {
            assert_eq!(next(&life(raw, served), has_served, false), expected, "{what}");
        }
        assert_eq!(next(&life(KILLED, true), true, true), Next::End(137), "a kill while it was to stop");
        assert_eq!(next(&life(exit(1), true), true, true), Next::End(1));
    }

    #[test]
    fn the_first_start_again_is_at_once_and_waits_double_until_it_ran_long() {
        let mut backoff = Backoff::default();
        let mut waits = |uptime_ms| backoff.after(Duration::from_millis(uptime_ms)).as_millis();
        let expected = [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000];
        assert_eq!(expected.map(|_| waits(9_999)), expected);
        assert_eq!([waits(10_000), waits(0), waits(60_000), waits(0)], [0, 10, 0, 10]);
    }

    #[test]
    fn a_child_is_told_its_supervisor_behind_the_subcommand() {
        let own = ["run", "--respawn", "--", "orders"].map(OsString::from);
        let expected = ["run", "--supervisor", "42", "--respawn", "--", "orders"].map(OsString::from);
        assert_eq!(child_arguments(own.into_iter(), 42), expected);
    }

    #[test]
    fn a_crash_is_told_with_its_signal_its_core_and_the_next_start() {
        let text = life(SEGMENTATION_FAULT_WITH_CORE, true).text(Some(Duration::from_millis(20)));
        assert_eq!(
            text,
            "the sidecar, pid 7, was killed by SIGSEGV, core dumped, after 1.50 s; it is started again in 20.0 ms"
        );
        let text = life(exit(101), true).text(Some(Duration::ZERO));
        assert_eq!(text, "the sidecar, pid 7, ended with exit code 101 after 1.50 s; it is started again at once");
        let json = life(SEGMENTATION_FAULT_WITH_CORE, true).to_json(None);
        assert_eq!((&json["signal"], &json["core_dumped"]), (&json!("SIGSEGV"), &json!(true)));
        assert_eq!((&json["exit_code"], &json["again_in_ns"]), (&Value::Null, &Value::Null));
        let unnamed = life(40, false).text(None);
        assert!(unnamed.contains("killed by signal 40 ") && unnamed.ends_with("since it never served"), "{unnamed}");
    }
}
