//! What the processes of an attack count and tell.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use executor_tests::mail::Mailbox;
use executor_tests::shared::SharedTable;

/// A word of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Count {
    /// Not 0 once the victim is to come to its end.
    Finish,
    /// Not 0 once the victim is served.
    VictimReady,
    /// Times that the victim got a lane.
    Sessions,
    /// Tasks of the victim that were accepted.
    Accepted,
    /// Tasks of the victim that ended as they must.
    Completed,
    /// Acts of attackers: stores, truncations, holes, locks, attaches.
    Acts,
    /// Times that an attacker got a lane.
    Attached,
    /// Times that an attacker got none.
    Refused,
    /// Times that an attacker found its lane poisoned.
    Poisoned,
    /// The nonce of the lane that the second of two writers joins.
    Shared,
}

impl Count {
    /// Words of a board.
    pub(crate) const WORDS: usize = 10;
}

/// Counters and a mailbox that all processes of an attack share.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) table: SharedTable,
    pub(crate) mailbox: Mailbox,
}

impl Board {
    pub(crate) fn load(&self, count: Count) -> u64 {
        self.table.cell(count as usize).load(Acquire)
    }

    pub(crate) fn store(&self, count: Count, value: u64) {
        self.table.cell(count as usize).store(value, Release);
    }

    pub(crate) fn add(&self, count: Count, more: u64) {
        self.table.cell(count as usize).fetch_add(more, AcqRel);
    }

    /// Tells of something that must not happen.
    pub(crate) fn complain(&self, text: &str) {
        let _ = self.mailbox.send(text.as_bytes(), &[]); // who reads it ends this process when it is gone
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.load(Count::Finish) != 0
    }
}
