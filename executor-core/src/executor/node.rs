//! Which CPUs share memory, as the kernel tells it.
//!
//! On a machine with several nodes, workers that are pinned to no CPU are kept to one node each, in turns, and a submitter
//! wakes a sleeper of its own node first. Rings need no placing: the thread that submits makes them, so their pages are its
//! node's. Never run on a machine of two nodes: what is tested is what it makes of the files such a machine would have.

use std::path::Path;

use crate::cpu::parse_cpu_list;

/// The nodes that have CPUs this process may use, each with those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes(Vec<Vec<u32>>);

impl Nodes {
    /// Reads `devices/system/node` under `sysfs`, as far as it is there, and leaves out what is not `allowed`.
    pub(crate) fn read(sysfs: &Path, allowed: &[u32]) -> Self {
        let entries = std::fs::read_dir(sysfs.join("devices/system/node")).into_iter().flatten().flatten();
        let mut nodes: Vec<(u32, Vec<u32>)> = entries
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
                let text = std::fs::read_to_string(entry.path().join("cpulist")).ok()?;
                let mut cpus = parse_cpu_list(&text).ok()?;
                cpus.retain(|cpu| allowed.contains(cpu));
                (!cpus.is_empty()).then_some((number, cpus))
            })
            .collect();
        nodes.sort_unstable();
        Self(nodes.into_iter().map(|(_, cpus)| cpus).collect())
    }

    /// The CPUs to keep worker `worker` to; `None` where all are as near.
    pub(crate) fn of_worker(&self, worker: usize) -> Option<&[u32]> {
        if self.0.len() < 2 { None } else { self.0.get(worker % self.0.len()).map(Vec::as_slice) }
    }

    /// Whether worker `worker`, placed by [`of_worker`](Self::of_worker) or pinned to `core`, is as near to `cpu` as any.
    pub(crate) fn is_near(&self, worker: usize, core: Option<u32>, cpu: u32) -> bool {
        match (self.0.iter().find(|node| node.contains(&cpu)), core) {
            (None, _) => true,
            (Some(node), Some(core)) => node.contains(&core),
            (Some(node), None) => self.of_worker(worker).is_none_or(|own| own == node),
        }
    }

    /// Whether there is a choice.
    pub(crate) fn are_several(&self) -> bool {
        self.0.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/sys` of its own with these nodes; removed when dropped.
    struct Sysfs(std::path::PathBuf);

    impl Sysfs {
        fn new(name: &str, nodes: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("executor-sysfs-{name}-{}", std::process::id()));
            for (node, cpus) in nodes {
                let folder = root.join("devices/system/node").join(node);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("cpulist"), cpus).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn workers_of_a_machine_with_two_nodes_take_turns_and_wake_their_own() {
        let sysfs = Sysfs::new("two", &[("node0", "0-1\n"), ("node1", "2-3,8\n"), ("node2", "\n"), ("power", "5")]);
        let nodes = Nodes::read(&sysfs.0, &[0, 1, 2, 8]);
        assert!(nodes.are_several());
        assert_eq!([0, 1, 2].map(|worker| nodes.of_worker(worker)), [Some(&[0, 1][..]), Some(&[2, 8]), Some(&[0, 1])]);
        assert!(nodes.is_near(0, None, 1) && !nodes.is_near(0, None, 8));
        assert!(nodes.is_near(0, Some(8), 2), "pinned to the other node");
        assert!(nodes.is_near(1, None, 77), "a cpu of no node is near to all");
    }

    #[test]
    fn a_machine_with_one_node_or_none_has_no_choice() {
        let one = Sysfs::new("one", &[("node0", "0-3\n"), ("node1", "4-7\n")]);
        let nodes = Nodes::read(&one.0, &[0, 2]);
        assert_eq!((nodes.are_several(), nodes.of_worker(1)), (false, None), "no cpu of the other may be used");
        let none = Nodes::read(Path::new("/nonexistent"), &[0]);
        assert!(!none.are_several() && none.is_near(3, None, 0));
        let broken = Sysfs::new("broken", &[("node0", "zero"), ("nodex", "1")]);
        assert_eq!(Nodes::read(&broken.0, &[0, 1]), Nodes::default());
    }
}
