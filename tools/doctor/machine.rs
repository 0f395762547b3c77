//! What the machine tells of itself in `/proc`, `/sys` and `/etc`, below a root that a test puts in place of `/`.

use std::path::{Path, PathBuf};

use executor_core::cpu::parse_cpu_list;

/// A machine's files. Nothing is written, and a file that cannot be read is as good as missing.
#[derive(Debug)]
pub(crate) struct Machine {
    root: PathBuf,
}

/// A limit of the process, as `/proc/self/limits` has it: `None` is unlimited.
pub(crate) type Limit = Option<u64>;

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        Self::at(Path::new("/"))
    }

    /// One whose files are below `root`.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether it is the one that this process runs on.
    pub(crate) fn is_this(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a file of an absolute path is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text without the space around it.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A file that holds one number.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A file that holds a list of CPUs.
    pub(crate) fn cpus(&self, path: &str) -> Option<Vec<u32>> {
        parse_cpu_list(&self.text(path)?).ok()
    }

    /// The names in a folder, sorted; none if it cannot be read.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Where a link leads.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        std::fs::read_link(self.path(path)).ok().map(|to| to.to_string_lossy().into_owned())
    }

    /// Whether there is such a name.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// A line of `/proc/self/status`.
    pub(crate) fn of_process(&self, key: &str) -> Option<String> {
        let text = self.text("/proc/self/status")?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }

    /// The CPUs this process may run on.
    pub(crate) fn allowed_cpus(&self) -> Option<Vec<u32>> {
        parse_cpu_list(&self.of_process("Cpus_allowed_list")?).ok()
    }

    /// Whether this process has a capability, by its number; `None` if nobody says.
    pub(crate) fn has_capability(&self, number: u32) -> Option<bool> {
        let set = u64::from_str_radix(&self.of_process("CapEff")?, 16).ok()?;
        Some(set >> number & 1 != 0)
    }

    /// The soft limit of this name; the outer `None` if nobody says.
    pub(crate) fn limit(&self, name: &str) -> Option<Limit> {
        let text = self.text("/proc/self/limits")?;
        let soft = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.to_owned();
        if soft == "unlimited" { Some(None) } else { Some(Some(soft.parse().ok()?)) }
    }

    /// What the kernel tells every process at its start, by the number of the entry.
    pub(crate) fn auxiliary(&self, entry: u64) -> Option<u64> {
        let bytes = std::fs::read(self.path("/proc/self/auxv")).ok()?;
        let words: Vec<u64> =
            bytes.chunks_exact(8).filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?))).collect();
        words.chunks_exact(2).find(|pair| pair.first() == Some(&entry)).and_then(|pair| pair.get(1).copied())
    }

    /// The release of the kernel as two numbers.
    pub(crate) fn kernel(&self) -> Option<(u32, u32)> {
        let text = self.text("/proc/sys/kernel/osrelease")?;
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }
}
