#![allow(unsafe_code, reason = "sched_setscheduler has no safe wrapper")]
//! Real-time scheduling of the calling thread.

use std::str::FromStr;

use nix::errno::Errno;

/// How the kernel chooses between real-time threads of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RealTimePolicy {
    /// `SCHED_FIFO`: a thread runs until it waits.
    Fifo = 0,
    /// `SCHED_RR`: threads of one priority take turns.
    RoundRobin = 1,
}

/// Real-time scheduling of workers: before every thread without, and before those of a lower priority. As text `fifo:10`
/// or `rr:10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealTime {
    policy: RealTimePolicy,
    priority: u8,
}

impl RealTime {
    /// With a priority from 1, the lowest, to 99; `None` for another.
    pub const fn new(policy: RealTimePolicy, priority: u8) -> Option<Self> {
        if priority >= 1 && priority <= 99 { Some(Self { policy, priority }) } else { None }
    }

    /// The two as one number.
    pub const fn value(self) -> u32 {
        self.priority as u32 | (self.policy as u32) << 8
    }

    /// The two of a [`value`](Self::value).
    pub const fn from_value(value: u32) -> Self {
        let policy = if value >> 8 == 0 { RealTimePolicy::Fifo } else { RealTimePolicy::RoundRobin };
        Self { policy, priority: value as u8 }
    }

    /// The priority.
    pub const fn priority(self) -> u8 {
        self.priority
    }

    /// Has the calling thread scheduled so. Threads and processes that it starts are not: they are not workers.
    ///
    /// # Errors
    ///
    /// `EPERM` without the right to it: `LimitRTPRIO` (`ulimit -r`) or `CAP_SYS_NICE` gives it.
    pub fn take(self) -> Result<(), Errno> {
        let policy = match self.policy {
            RealTimePolicy::Fifo => libc::SCHED_FIFO,
            RealTimePolicy::RoundRobin => libc::SCHED_RR,
        } | libc::SCHED_RESET_ON_FORK;
        let parameters = libc::sched_param { sched_priority: self.priority.into() };
        // SAFETY: the kernel reads `parameters`, which outlives the call; 0 is the calling thread. The raw call, because
        // some C libraries refuse theirs.
        let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) };
        Errno::result(result).map(drop)
    }
}

impl std::fmt::Display for RealTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let policy = match self.policy {
            RealTimePolicy::Fifo => "fifo",
            RealTimePolicy::RoundRobin => "rr",
        };
        write!(f, "{policy}:{}", self.priority)
    }
}

impl FromStr for RealTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (policy, priority) = text.split_once(':')?;
            let policy = match policy {
                "fifo" => RealTimePolicy::Fifo,
                "rr" => RealTimePolicy::RoundRobin,
                _ => return None,
            };
            Self::new(policy, priority.parse().ok()?)
        };
        read().ok_or_else(|| format!("{text:?} is no policy and priority; write fifo:10 or rr:10, with 1 to 99"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_back_and_a_priority_that_the_kernel_has_not_is_refused() {
        for text in ["fifo:1", "fifo:99", "rr:50"] {
            let real_time: RealTime = text.parse().unwrap();
            assert_eq!(real_time.to_string(), text);
            assert_eq!(RealTime::from_value(real_time.value()), real_time);
        }
        for text in ["fifo:0", "fifo:100", "rr:-1", "rr", "other:3", "fifo:", "fifo:256"] {
            assert!(text.parse::<RealTime>().unwrap_err().contains("with 1 to 99"), "{text}");
        }
    }
}
