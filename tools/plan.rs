//! Which process of the demo runs where.

use std::num::NonZeroUsize;

use executor_core::cpu::{CpuError, allowed_cpus};

/// CPUs for a sidecar and its producers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// A name that no other demo has.
    pub(crate) instance: String,
    /// The sidecar's.
    pub(crate) sidecar: u32,
    /// One for each producer.
    pub(crate) producers: Vec<u32>,
}

impl Plan {
    /// A plan for the CPUs this process may run on, without those of living instances where two others are left.
    pub(crate) fn of_this_machine(producers: Option<NonZeroUsize>) -> Result<Self, CpuError> {
        let unique = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        let taken = executor_shm::inspect::cpus_in_use();
        Ok(Self::of(&free(allowed_cpus()?, &taken), producers, format!("demo-{}-{unique:x}", std::process::id())))
    }

    /// The last CPU is the sidecar's, the others are dealt to the producers; with one CPU all share it.
    fn of(cpus: &[u32], producers: Option<NonZeroUsize>, instance: String) -> Self {
        let (sidecar, others) = match cpus {
            [others @ .., last] if !others.is_empty() => (*last, others),
            [only] => (*only, cpus),
            _ => (0, [0].as_slice()),
        };
        let count = producers.map_or(others.len(), NonZeroUsize::get);
        Self { instance, sidecar, producers: others.iter().copied().cycle().take(count).collect() }
    }

    /// The CPU of the first producer, which also measures the round trips.
    pub(crate) fn first_producer(&self) -> u32 {
        self.producers.first().copied().unwrap_or(self.sidecar)
    }
}

fn free(allowed: Vec<u32>, taken: &[u32]) -> Vec<u32> {
    let free: Vec<u32> = allowed.iter().copied().filter(|cpu| !taken.contains(cpu)).collect();
    if free.len() < 2 { allowed } else { free }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cpus: &[u32], producers: usize) -> (u32, Vec<u32>) {
        let Plan { sidecar, producers, .. } = Plan::of(cpus, NonZeroUsize::new(producers), String::new());
        (sidecar, producers)
    }

    #[test]
    fn the_sidecar_has_a_cpu_of_its_own_where_there_are_two() {
        assert_eq!(plan(&[0, 1], 0), (1, vec![0]));
        assert_eq!(plan(&[2, 5, 7], 0), (7, vec![2, 5]));
        assert_eq!(plan(&[0, 1], 3), (1, vec![0, 0, 0]));
        assert_eq!(plan(&[4], 0), (4, vec![4]));
        assert_eq!(plan(&[4], 2), (4, vec![4, 4]));
    }
    #[test]
    fn cpus_of_living_instances_are_left_alone_where_two_others_are_left() {
        assert_eq!(free(vec![0, 1, 2, 3], &[3, 7]), [0, 1, 2]);
        assert_eq!(free(vec![0, 1, 2], &[1, 2]), [0, 1, 2]);
        assert_eq!(free(vec![0, 1], &[]), [0, 1]);
    }
}
