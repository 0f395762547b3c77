#![allow(unsafe_code, reason = "a mapping is made to see whether one may be")]
//! What a sidecar may hold while it lives so that nothing of the machine comes between a task and its worker: CPUs kept out
//! of deep sleep, workers scheduled before everybody else, memory that is never paged out.
//!
//! None of them is needed to serve. What the system refuses is told, with the reason and the cure, by the handle of the
//! sidecar and in `status`; the sidecar serves without it.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use executor_core::real_time::RealTime;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MlockAllFlags, ProtFlags, mlockall, mmap_anonymous, munlockall, munmap};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// The longest latency that can be asked for, in microseconds: what the kernel takes for "any".
pub const CPU_LATENCY_MAX_US: u32 = 2_000_000_000;
const CPU_LATENCY_FILE: &str = "/dev/cpu_dma_latency";
const THROTTLE_FILE: &str = "/proc/sys/kernel/sched_rt_runtime_us";

/// Has the calling thread scheduled so.
pub(crate) fn take_real_time(real_time: RealTime) -> HoldWord {
    HoldWord::new(real_time.value(), real_time.take())
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    pub(crate) cpu_latency_us: Option<u32>,
    pub(crate) real_time: Option<RealTime>,
    pub(crate) memory: bool,
}

/// What of the process was asked for, and what came of it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) cpu_latency: HoldWord,
    pub(crate) memory: HoldWord,
    /// The hold lasts as long as it is open.
    pub(crate) _cpu_latency_file: Option<File>,
}

impl Holds {
    /// Takes what is of the whole process.
    pub(crate) fn take(&self) -> Held {
        let (cpu_latency, cpu_latency_file) = match self.cpu_latency_us {
            None => (HoldWord::NOT_ASKED, None),
            Some(us) => match hold_cpu_latency(Path::new(CPU_LATENCY_FILE), us) {
                Ok(file) => (HoldWord::new(us, Ok(())), Some(file)),
                Err(errno) => (HoldWord::new(us, Err(errno)), None),
            },
        };
        let memory = if self.memory { HoldWord::new(0, lock_memory()) } else { HoldWord::NOT_ASKED };
        Held { cpu_latency, memory, _cpu_latency_file: cpu_latency_file }
    }
}

/// Whether the kernel stops real-time threads that never sleep for a share of each second.
pub(crate) fn throttles() -> bool {
    std::fs::read_to_string(THROTTLE_FILE).is_ok_and(|text| text.trim() != "-1")
}

fn hold_cpu_latency(path: &Path, us: u32) -> Result<File, Errno> {
    let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let mut file = File::options().write(true).open(path).map_err(errno)?;
    let us = i32::try_from(us.min(CPU_LATENCY_MAX_US)).unwrap_or(i32::MAX);
    file.write_all(&us.to_ne_bytes()).map_err(errno)?;
    Ok(file)
}

/// Brings in and locks everything that is mapped, and has what will be mapped locked as it is touched: a handler that maps
/// much and uses little is charged for the little. Lanes are brought in when they are mapped.
fn lock_memory() -> Result<(), Errno> {
    mlockall(MlockAllFlags::MCL_CURRENT)?;
    let future = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT) | MlockAllFlags::MCL_FUTURE;
    let locked = mlockall(future).and_then(|()| may_map_more());
    if locked.is_err() {
        let _ = munlockall(); // or the next lane could not be mapped
    }
    locked
}

/// Under a limit on locked memory every later mapping counts, used or not. Then there is no saying which lane is the first
/// that cannot be mapped, so it is as good as refused.
fn may_map_more() -> Result<(), Errno> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let past = usize::try_from(limit).ok().and_then(|limit| limit.checked_add(1 << 16)).and_then(NonZeroUsize::new);
    let Some(past) = past.filter(|_| limit != RLIM_INFINITY) else { return Ok(()) };
    let (protection, flags) = (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
    // SAFETY: a new mapping where the kernel likes; nothing is replaced, for `MAP_FIXED` is not set, and it is never touched.
    let mapped = unsafe { mmap_anonymous(None, past, protection, flags) }.map_err(|_| Errno::ENOMEM)?;
    // SAFETY: the very range that was just mapped; nobody else knows of it.
    unsafe { munmap(mapped, past.get()) }
}

/// A hold as `status` tells it: bit 0 asked, bit 1 held, bit 2 throttled; errno << 8; value << 32. 0 is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HoldWord(pub(crate) u64);

impl HoldWord {
    pub(crate) const NOT_ASKED: Self = Self(0);

    fn new(value: u32, outcome: Result<(), Errno>) -> Self {
        let outcome = match outcome {
            Ok(()) => 2,
            Err(errno) => u64::from(errno as u16) << 8,
        };
        Self(1 | outcome | u64::from(value) << 32)
    }

    pub(crate) fn throttled(self, is_throttled: bool) -> Self {
        Self(self.0 | if is_throttled && self.0 & 2 != 0 { 4 } else { 0 })
    }
}

/// Which hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// All CPUs are back from their sleep within so many microseconds.
    CpuLatency(u32),
    /// A worker, by its number, is scheduled so.
    RealTime(u32, RealTime),
    /// Nothing of the process is paged out.
    Memory,
}

/// A hold that was asked for, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldView {
    /// Which, and how much of it.
    pub hold: Hold,
    /// The error of the system that refused it, by its number; `None` if it is held.
    pub errno: Option<i32>,
    /// It is held, but the kernel stops real-time threads for a share of each second, and this one never sleeps.
    pub throttled: bool,
}

impl HoldView {
    fn from_word(word: u64, hold: impl FnOnce(u32) -> Hold) -> Option<Self> {
        let hold = hold((word >> 32) as u32);
        let errno = (word & 2 == 0).then_some((word >> 8) as i32 & 0xffff);
        (word & 1 != 0).then_some(Self { hold, errno, throttled: word & 4 != 0 })
    }

    pub(crate) fn cpu_latency(word: u64) -> Option<Self> {
        Self::from_word(word, Hold::CpuLatency)
    }

    pub(crate) fn memory(word: u64) -> Option<Self> {
        Self::from_word(word, |_| Hold::Memory)
    }

    pub(crate) fn real_time(word: u64, worker: u32) -> Option<Self> {
        Self::from_word(word, |value| Hold::RealTime(worker, RealTime::from_value(value)))
    }

    /// What was asked for, as the setting has it.
    pub fn asked(&self) -> String {
        match self.hold {
            Hold::CpuLatency(us) => us.to_string(),
            Hold::RealTime(_, real_time) => real_time.to_string(),
            Hold::Memory => "true".to_owned(),
        }
    }

    /// Why it is not held, or not whole: one clause.
    pub fn reason(&self) -> Option<String> {
        let what = match self.hold {
            Hold::CpuLatency(us) => format!("cannot hold the CPUs' latency at {us} us: {CPU_LATENCY_FILE}"),
            Hold::RealTime(worker, real_time) if self.throttled => {
                return Some(format!(
                    "worker {worker} spins at {real_time}, so the kernel stops it for a share of each second \
                     (kernel.sched_rt_runtime_us)"
                ));
            }
            Hold::RealTime(worker, real_time) => format!("cannot schedule worker {worker} at {real_time}"),
            Hold::Memory => "cannot lock memory".to_owned(),
        };
        self.errno.map(|errno| format!("{what}: {}", Errno::from_raw(errno).desc()))
    }

    /// What to do about it; `None` if it is held whole.
    pub fn cure(&self) -> Option<String> {
        let errno = self.errno.map(Errno::from_raw);
        let cure = match (self.hold, errno) {
            (_, None) if !self.throttled => return None,
            (_, None) => "let workers sleep (--idle adaptive), or set kernel.sched_rt_runtime_us to -1".to_owned(),
            (Hold::CpuLatency(_), Some(Errno::ENOENT)) => {
                "run it where that file is: this kernel has none, or the container was not given it".to_owned()
            }
            (Hold::CpuLatency(_), Some(_)) => "let the sidecar's user write that file, by a udev rule".to_owned(),
            (Hold::RealTime(_, real_time), Some(_)) => format!(
                "give it LimitRTPRIO={} (ulimit -r), or CAP_SYS_NICE, and a control group that may use real time",
                real_time.priority()
            ),
            (Hold::Memory, Some(_)) => "give it LimitMEMLOCK=infinity (ulimit -l), or CAP_IPC_LOCK".to_owned(),
        };
        Some(cure)
    }

    /// Reason and cure in one line; `None` if it is held whole.
    pub fn complaint(&self) -> Option<String> {
        Some(format!("{}; {}", self.reason()?, self.cure()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn a_word_tells_what_was_asked_and_what_came_of_it() {
        let view = |word: HoldWord| HoldView::cpu_latency(word.0);
        assert_eq!(view(HoldWord::NOT_ASKED), None);
        let held = view(HoldWord::new(7, Ok(()))).unwrap();
        assert_eq!((held.hold, held.errno, held.complaint()), (Hold::CpuLatency(7), None, None));
        let refused = view(HoldWord::new(7, Err(Errno::EACCES))).unwrap();
        assert_eq!((refused.errno, refused.asked()), (Some(libc::EACCES), "7".to_owned()));
        let complaint = refused.complaint().unwrap();
        assert!(complaint.contains("at 7 us: /dev/cpu_dma_latency: Permission denied; let"), "{complaint}");
        let throttled =
            HoldWord::new(RealTime::new(executor_core::real_time::RealTimePolicy::Fifo, 9).unwrap().value(), Ok(()))
                .throttled(true);
        let view = HoldView::real_time(throttled.0, 2).unwrap();
        assert!(view.errno.is_none() && view.complaint().unwrap().contains("worker 2 spins at fifo:9"));
        assert_eq!(HoldWord::new(1, Err(Errno::EPERM)).throttled(true), HoldWord::new(1, Err(Errno::EPERM)));
    }

    /// As one without privilege, in a process of its own: what is locked there stays there.
    #[test]
    fn a_limit_on_locked_memory_is_found_before_a_lane_does() {
        const CHILD: &str = "EXECUTOR_TEST_HOLD_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let future = MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
            assert_eq!(may_map_more(), Ok(()), "nothing is locked yet");
            mlockall(future).unwrap();
            let refused = may_map_more();
            munlockall().unwrap();
            assert_eq!(refused, Err(Errno::ENOMEM));
            return;
        }
        let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        if limit == 0 || limit == RLIM_INFINITY {
            return println!("skipped: a limit of {limit} locks nothing or all");
        }
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "hold::tests::a_limit_on_locked_memory_is_found_before_a_lane_does", "--nocapture"]);
        if nix::unistd::geteuid().is_root() {
            child.uid(61_008).gid(61_008);
        }
        assert!(child.env(CHILD, "1").status().unwrap().success());
    }

    #[test]
    fn a_machine_without_the_file_is_told_apart_from_one_that_refuses_it() {
        let missing = hold_cpu_latency(Path::new("/dev/no-such-file"), 0).unwrap_err();
        assert_eq!(missing, Errno::ENOENT);
        let view = |errno| HoldView { hold: Hold::CpuLatency(0), errno: Some(errno as i32), throttled: false };
        assert_ne!(view(missing).cure(), view(Errno::EACCES).cure());
        assert!(view(missing).complaint().unwrap().contains("No such file or directory; run it where that file is"));
    }
}
