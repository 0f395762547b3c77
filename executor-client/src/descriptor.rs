//! What a task asks for, apart from its payload.

use std::time::Duration;

/// A task without its payload: which handler, until when, and a word of the producer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskDescriptor {
    pub(crate) handler_id: u32,
    pub(crate) deadline: Option<Duration>,
    pub(crate) user_data: u64,
}

impl TaskDescriptor {
    /// A task for the handler with this id. An id that no handler has comes back as
    /// [`Malformed`](crate::Status::Malformed).
    #[inline]
    pub const fn new(handler_id: u32) -> Self {
        Self { handler_id, deadline: None, user_data: 0 }
    }

    /// The task must have started within this time of its submit; otherwise it comes back as
    /// [`Expired`](crate::Status::Expired), unrun.
    #[inline]
    #[must_use]
    pub const fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// A word that stays in the client and comes back with the completion.
    #[inline]
    #[must_use]
    pub const fn user_data(mut self, word: u64) -> Self {
        self.user_data = word;
        self
    }

    /// The handler's id.
    pub const fn handler_id(&self) -> u32 {
        self.handler_id
    }
}
