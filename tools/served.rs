//! A running instance as a program finds it that is to give it work: its sizes, its handlers, its CPUs.

use executor_client::{Client, ConnectError, ConnectOptions};
use executor_shm::InstanceName;
use executor_shm::inspect::{InspectError, Inspection, Inspector};
use executor_shm::status::HandlerRow;
use nix::unistd::User;

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

/// Connects to an instance of root, of this user, or of the one with this uid.
pub(crate) fn connect(instance: &InstanceName, owner: Option<u32>) -> Result<Client, ConnectError> {
    let options = ConnectOptions::new();
    owner.map_or(options, |owner| options.owner(owner)).connect(instance)
}

/// Reads whose instance is to be believed.
pub(crate) fn parse_owner(text: &str) -> Result<u32, String> {
    // A name may consist of digits, so names come first.
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => text.parse().map_err(|_| "no user has this name, and it is no uid".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_by_name_and_by_number() {
        let own = nix::unistd::geteuid();
        assert_eq!(parse_owner(&own.to_string()), Ok(own.as_raw()));
        if let Ok(Some(user)) = User::from_uid(own) {
            assert_eq!(parse_owner(&user.name), Ok(own.as_raw()));
        }
        assert_eq!(parse_owner("4294967294"), Ok(u32::MAX - 1), "a number needs no entry");
        for text in ["", "no such user", "-1", "4294967296"] {
            assert!(parse_owner(text).is_err(), "{text:?}");
        }
    }
}
