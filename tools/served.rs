//! A running instance as a program finds it that is to give it work: its sizes, its handlers, its CPUs.

use executor_shm::InstanceName;
use executor_shm::inspect::{InspectError, Inspection, Inspector};
use executor_shm::status::HandlerRow;

/// Why an instance can be given no work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServedError {
    /// Start it.
    #[error("no executor is running instance {0}; start one with: executord run {0}")]
    NotRunning(InstanceName),
    /// Name one that there is.
    #[error("instance {instance} has no handler {wanted}; it has {has}")]
    NoHandler {
        /// The instance.
        instance: InstanceName,
        /// The name or id that was asked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// See the reason.
    #[error(transparent)]
    Inspect(#[from] InspectError),
}

/// An instance that was served when it was looked at.
#[derive(Debug)]
pub(crate) struct Served {
    inspector: Inspector,
    /// How it stood then.
    pub(crate) view: Inspection,
}

impl Served {
    /// Looks at a running instance.
    pub(crate) fn open(instance: &InstanceName) -> Result<Self, ServedError> {
        let inspector = match Inspector::open(instance) {
            Err(InspectError::Missing { .. }) => return Err(ServedError::NotRunning(instance.clone())),
            other => other?,
        };
        let view = inspector.look();
        if view.alive != Some(true) {
            return Err(ServedError::NotRunning(instance.clone()));
        }
        Ok(Self { inspector, view })
    }

    /// The handler with this name or id.
    pub(crate) fn handler(&self, wanted: &str) -> Result<&HandlerRow, ServedError> {
        let rows = || self.view.handlers.iter().map(|handler| &handler.row).filter(|row| !row.gone);
        let id: Option<u32> = wanted.parse().ok();
        // A name may consist of digits, so names come first.
        rows().find(|row| row.name == wanted).or_else(|| rows().find(|row| Some(row.id) == id)).ok_or_else(|| {
            let has: Vec<String> = rows().map(|row| format!("{} ({})", row.name, row.id)).collect();
            ServedError::NoHandler {
                instance: self.view.instance.clone(),
                wanted: wanted.to_owned(),
                has: if has.is_empty() { "none".to_owned() } else { has.join(", ") },
            }
        })
    }

    /// How often its files were started until now.
    pub(crate) fn starts(&self) -> u64 {
        self.inspector.epoch()
    }
}
