//! Kills a test sidecar before one of its file operations: `killer SIDECAR PHASE POINT INSTANCE FOLDER [OPTION VALUE]…`.
//! PHASE is `start`, until it serves, or `stop`, from its SIGTERM on. It says `killed NAME` with the operation before which
//! it killed, or `through` if there were not so many; `skipped: …` where nobody may be traced.
//!
//! Counted is what changes the files of an instance for other processes: made, given a mode, allocated, locked, named,
//! removed. The threads of the sidecar are followed by the kernel's ptrace, so each is stopped before it enters the kernel.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's process fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use executor_tests::handlers::tell;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() {
    set_pdeathsig(Signal::SIGKILL).unwrap(); // a test that is killed leaves no process
    let arguments: Vec<String> = std::env::args().collect();
    let (phase, point) = (arguments[2].as_str(), arguments[3].parse::<usize>().unwrap());
    let mut command = Command::new(&arguments[1]);
    command.args(&arguments[4..6]).args(["--held", "1"]).args(&arguments[6..]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(&mut child);
    assert_eq!(lines.recv().unwrap(), "held");
    let pid = Pid::from_raw(child.id() as i32);
    if let Err(errno) = ptrace::attach(pid) {
        child.kill().unwrap();
        tell(format_args!("skipped: cannot trace a child: {errno}"));
        return;
    }
    waitpid(pid, None).unwrap();
    let options = ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(pid, options).unwrap();
    ptrace::syscall(pid, None).unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "go").unwrap();

    let (mut counts, mut passed) = (phase == "start", 0);
    loop {
        let status = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)).unwrap();
        match lines.try_recv().as_deref() {
            Ok("ready") if phase == "stop" => {
                kill(pid, Signal::SIGTERM).unwrap();
                counts = true;
            }
            Ok("ready") => break,
            Ok(line) if line.starts_with("refused") => panic!("{line}"),
            _ => {}
        }
        let signal = match status {
            WaitStatus::PtraceSyscall(thread) => {
                if let Some(operation) = operation(thread).filter(|_| counts) {
                    if passed == point {
                        kill(pid, Signal::SIGKILL).unwrap();
                        while !is_end(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)).unwrap(), pid) {}
                        tell(format_args!("killed {operation}"));
                        return;
                    }
                    passed += 1;
                }
                None
            }
            status if is_end(status, pid) => {
                tell(format_args!("through"));
                return;
            }
            WaitStatus::Stopped(_, signal) if signal != Signal::SIGSTOP => Some(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => continue, // another thread
            _ => None,
        };
        if let Some(thread) = status.pid() {
            let _ = ptrace::syscall(thread, signal); // it may have been killed meanwhile
        }
    }
    kill(pid, Signal::SIGKILL).unwrap();
    while !is_end(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL)).unwrap(), pid) {}
    tell(format_args!("through"));
}

fn is_end(status: WaitStatus, process: Pid) -> bool {
    matches!(status, WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) if pid == process)
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let out = child.stdout.take().unwrap();
    let (tell, lines) = channel();
    std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    lines
}

/// What a thread that entered the kernel is about to do to a file, if it is anything that counts.
#[cfg(target_arch = "x86_64")]
fn operation(thread: Pid) -> Option<&'static str> {
    let info = ptrace::syscall_info(thread).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    let registers = ptrace::getregs(thread).ok()?;
    match registers.orig_rax as i64 {
        libc::SYS_openat if registers.rdx as i32 & libc::O_CREAT != 0 => Some("create"),
        libc::SYS_fchmod => Some("fchmod"),
        libc::SYS_fchown => Some("fchown"),
        libc::SYS_fallocate => Some("fallocate"),
        libc::SYS_fcntl if registers.rsi as i32 == libc::F_OFD_SETLK => Some("lock"),
        libc::SYS_renameat2 => Some("rename"),
        libc::SYS_unlink | libc::SYS_unlinkat => Some("unlink"),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn operation(_: Pid) -> Option<&'static str> {
    tell(format_args!("skipped: it reads the registers of x86-64"));
    std::process::exit(0);
}
