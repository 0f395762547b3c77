//! What all roles of a round share: they are forked with it in their hands.

use std::path::PathBuf;

use executor_shm::InstanceName;
use executor_tests::mail::Mailbox;
use executor_tests::ownership;

use crate::ledger::Ledger;
use crate::plan::Plan;

/// A round's plan, its instance's name, and the ways to write things down.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) plan: Plan,
    pub(crate) instance: InstanceName,
    pub(crate) ledger: Ledger,
    pub(crate) mailbox: Mailbox,
}

/// First byte of a letter: what is wrong, in words.
pub(crate) const COMPLAINT: u8 = b'C';
/// First byte of a letter: the number of a life, with the open files of its lane.
pub(crate) const LANE: u8 = b'L';

impl Setting {
    /// Tells the killer of something that must not happen.
    pub(crate) fn complain(&self, text: &str) {
        let letter: Vec<u8> = [COMPLAINT].into_iter().chain(text.bytes()).collect();
        let _ = self.mailbox.send(&letter, &[]); // a killer that is gone ends this process as well
    }

    /// Where a file of the instance is; `part` is what comes after its name.
    pub(crate) fn path(&self, part: &str) -> PathBuf {
        ownership::file(&self.instance, part)
    }

    /// Every file of the instance.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        ownership::files(&self.instance)
    }
}
