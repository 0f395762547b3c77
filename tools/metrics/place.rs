//! Where a thread runs that workers are to know nothing of.

use executor_core::cpu;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread off these CPUs. It stays where it is if no other is allowed, or if the kernel says no.
pub(super) fn keep_off(cpus: &[u32]) {
    let allowed = cpu::allowed_cpus().unwrap_or_default();
    let others: Vec<u32> = allowed.iter().copied().filter(|cpu| !cpus.contains(cpu)).collect();
    if others.is_empty() || others == allowed {
        return;
    }
    let mut set = CpuSet::new();
    if others.iter().all(|&cpu| set.set(cpu as usize).is_ok()) {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}
