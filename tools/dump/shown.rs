//! An instance as the views show it: as it stands, and of a copy whether it was one of the living.

use std::ops::Deref;

use executor_shm::inspect::Inspection;

use crate::dump_text::life;

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Shown {
    view: Inspection,
    was_alive: Option<bool>,
}

impl Shown {
    /// `was_alive`: what `save` noted of a copy; `None` where it is none, or was made by other means.
    pub(crate) fn new(view: Inspection, was_alive: Option<bool>) -> Self {
        Self { view, was_alive }
    }

    /// Whether nobody served it when it stood so.
    pub(crate) fn is_dead(&self) -> bool {
        self.view.alive.or(self.was_alive) == Some(false)
    }

    /// How it is, in words.
    pub(crate) fn life(&self) -> String {
        life_of(&self.view, self.was_alive)
    }
}

impl Deref for Shown {
    type Target = Inspection;

    fn deref(&self) -> &Inspection {
        &self.view
    }
}

/// How it is, in words; `was_alive` as for [`Shown::new`].
pub(crate) fn life_of(view: &Inspection, was_alive: Option<bool>) -> String {
    match life(view).strip_prefix("a copy") {
        Some(rest) if was_alive == Some(false) => {
            format!("a copy of a dead one{}", rest.strip_prefix(", running").unwrap_or(rest))
        }
        _ => life(view),
    }
}
