//! Instance names of this run's own.

use std::cell::Cell;

use executor_shm::InstanceName;

use crate::image::remove;

/// Makes names. Dropped, whatever is left under them is removed.
#[derive(Debug, Default)]
pub(crate) struct Names {
    count: Cell<u64>,
}

impl Names {
    /// Of one length: to copy a longer name takes other instructions.
    fn name(number: u64) -> InstanceName {
        InstanceName::new(&format!("stepped-{:08}-{number:06}", std::process::id())).unwrap()
    }

    /// A name that was never used.
    pub(crate) fn fresh(&self) -> InstanceName {
        self.count.set(self.count.get() + 1);
        Self::name(self.count.get())
    }
}

/// Removes what runs that were killed have left: nobody else uses such names.
pub(crate) fn sweep() {
    for entry in std::fs::read_dir("/dev/shm").unwrap().filter_map(Result::ok) {
        let pid = entry.file_name().to_str().and_then(|name| {
            let (pid, _) = name.strip_prefix("executor.stepped-")?.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        (1..=self.count.get()).map(Self::name).for_each(|name| remove(&name));
    }
}
