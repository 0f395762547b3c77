//! Checks of the kernel: its clock, the calls that sleeping and waking use, the namespace of pids.

use executor_core::clock::ClockSource;
use rustix::io::Errno;
use rustix::thread::futex::{WaitvFlags, waitv};
use rustix::thread::membarrier_query;
use rustix::time::ClockId;

use super::{Case, Finding};

const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0";
/// What `/proc/self/ns/pid` is in the namespace that the kernel itself starts with.
const FIRST_PIDS: &str = "pid:[4026531836]";
/// The entry of the auxiliary vector that tells the size of the `rseq` area, from Linux 6.3 on.
const RSEQ_FEATURE_SIZE: u64 = 27;
/// From `linux/membarrier.h`.
const GLOBAL_EXPEDITED: u32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;

/// What the kernel answered when it was asked for its calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    /// The error of `futex_waitv` with nothing to wait for.
    pub(crate) waitv: Errno,
    /// The commands of `membarrier`; none where it is refused.
    pub(crate) membarrier: u32,
}

impl Calls {
    /// Asks this kernel. Neither call does anything.
    pub(crate) fn ask() -> Self {
        let waitv = waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic).err().unwrap_or(Errno::INVAL);
        Self { waitv, membarrier: membarrier_query().bits() }
    }
}

/// What tasks are stamped with.
pub(crate) fn clock(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    let Some(current) = machine.text(&format!("{CLOCK}/current_clocksource")) else {
        return Finding::unknown("the kernel does not say which clock it uses");
    };
    let available = machine.text(&format!("{CLOCK}/available_clocksource")).unwrap_or_default();
    let cpu = machine.text("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let is_invariant = has("constant_tsc") && has("nonstop_tsc");
    let source = if current == "tsc" && is_invariant { ClockSource::Tsc } else { ClockSource::Monotonic };
    let of_files = case.view.as_ref().ok().and_then(|view| view.clock).map(|clock| clock.source());
    let finding = match of_files {
        Some(found) if found != source => Finding::error(
            format!("the files are stamped with {}, and this machine now stamps with {}", found.name(), source.name()),
            format!("boot with the clock it had, or: executord clean --discard {}", case.instance),
        ),
        _ if source == ClockSource::Tsc => {
            Finding::ok("tasks are stamped with the time stamp counter, some 10 ns a reading")
        }
        _ if !["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"].contains(&current.as_str()) => {
            Finding::warning(
                format!("the kernel's clock is {current}: each of three stamps a task is a system call"),
                "dmesg says why it left tsc; boot with clocksource=tsc tsc=reliable where that is known to be wrong, or stamp nothing (--no-timing)",
            )
        }
        _ if available.split_whitespace().any(|name| name == "tsc") && current != "tsc" => Finding::note(
            format!("the kernel's clock is {current} though it has tsc: some 25 ns a stamp instead of 10"),
            "echo tsc to current_clocksource, or boot with clocksource=tsc, where the machine never moves to another host",
        ),
        _ => Finding::fact(format!(
            "the kernel's clock is {current} and no invariant tsc: some 25 ns a stamp instead of 10"
        )),
    };
    finding
        .with("current", current)
        .with("available", available)
        .with("invariant_tsc", is_invariant)
        .with("stamps", source.name())
}

/// What the kernel said no with, and what to do.
fn refused(errno: Errno, since: &str) -> (String, String) {
    if errno == Errno::NOSYS {
        ("the kernel does not have".to_owned(), format!("a kernel from Linux {since} on"))
    } else {
        ("a filter of system calls refuses".to_owned(), "let the sandbox (seccomp) allow it".to_owned())
    }
}

/// Whether a worker can sleep on several lanes at once.
pub(crate) fn futex_waitv(case: &Case<'_>) -> Finding {
    match case.calls.waitv {
        Errno::INVAL => Finding::ok("workers can sleep on all their lanes at once"),
        errno => {
            let (who, cure) = refused(errno, "5.16");
            Finding::note(format!("{who} futex_waitv: a worker that sleeps looks at its lanes every millisecond"), cure)
        }
    }
}

/// Whether whoever falls asleep can spare the others a fence.
pub(crate) fn membarrier(case: &Case<'_>) -> Finding {
    let commands = case.calls.membarrier;
    let needed = GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED;
    let finding = if commands & needed == needed {
        Finding::ok("membarrier has the commands that sleep and wake use")
    } else {
        let cure = "a kernel from Linux 4.16 on, and a sandbox (seccomp) that allows it";
        Finding::note(
            "membarrier does not have the commands that sleep and wake use: each submit takes a fence, some 10 ns",
            cure,
        )
    };
    finding.with("commands", commands)
}

/// Whether threads can be told that they were preempted.
pub(crate) fn rseq(case: &Case<'_>) -> Finding {
    match (case.machine.auxiliary(RSEQ_FEATURE_SIZE), case.machine.kernel()) {
        (Some(size), _) if size > 0 => {
            Finding::ok(format!("the kernel has restartable sequences, {size} bytes of them")).with("bytes", size)
        }
        (_, Some(kernel)) if kernel < (4, 18) => Finding::fact(format!(
            "Linux {}.{} has no restartable sequences; nothing that serves needs them",
            kernel.0, kernel.1
        )),
        (_, Some(kernel)) if kernel < (6, 3) => Finding::unknown(format!(
            "Linux {}.{} does not say whether it has restartable sequences; nothing that serves needs them",
            kernel.0, kernel.1
        )),
        (_, Some(_)) => {
            Finding::fact("this kernel was built without restartable sequences; nothing that serves needs them")
        }
        (_, None) => Finding::unknown("/proc does not tell the kernel's release"),
    }
}

/// Whether pids mean the same to everybody.
pub(crate) fn pid_namespace(case: &Case<'_>) -> Finding {
    match case.machine.link("/proc/self/ns/pid") {
        None => Finding::unknown("/proc/self/ns/pid cannot be read"),
        Some(space) if space == FIRST_PIDS => Finding::ok("pids are the host's").with("namespace", space),
        Some(space) => Finding::fact("pids are a container's own: those in shm-dump may mean nothing outside. Whether a process lives is told by locks, not by pids")
            .with("namespace", space),
    }
}
