//! Which CPU each worker has, and whether the others are left any.

use executor_core::cpu;

use crate::name::InstanceName;
use crate::sidecar::StartError;

/// Whether workers that nothing else runs beside leave a CPU for housekeeping, and for producers.
pub(crate) fn leaves_a_cpu(cpus: &[Option<u32>], allowed: &[u32]) -> bool {
    match cpus.iter().all(Option::is_some) {
        true => allowed.iter().any(|cpu| !cpus.contains(&Some(*cpu))),
        false => allowed.len() > cpus.len(),
    }
}

/// One worker a CPU; `None` leaves a worker where the kernel puts it.
pub(crate) fn choose_cpus(
    instance: &InstanceName,
    asked: &[u32],
    pin: bool,
    allowed: &[u32],
) -> Result<Vec<Option<u32>>, StartError> {
    if !pin {
        return Ok(vec![None; asked.len().max(1)]);
    }
    for (at, &cpu) in asked.iter().enumerate() {
        cpu::check(cpu)?;
        if asked.iter().take(at).any(|&earlier| earlier == cpu) {
            return Err(StartError::CpuTwice { cpu });
        }
    }
    if !asked.is_empty() {
        return Ok(asked.iter().copied().map(Some).collect());
    }
    // Not counting the CPU of the sidecar that this one is to follow.
    let taken = crate::inspect::cpus_in_use_beside(Some(instance));
    let free = allowed.iter().rev().find(|cpu| !taken.contains(cpu));
    Ok(vec![free.or(allowed.last()).copied()])
}
