//! All instances there are, as far as this user may see.

use std::path::Path;

use super::{InspectError, Inspection, Inspector};
use crate::files::{self, InstanceName};

/// What a list of instances shows.
#[derive(Debug)]
pub struct Listed {
    /// The instance.
    pub instance: InstanceName,
    /// How it stands, or why it cannot be looked at.
    pub view: Result<Box<Inspection>, InspectError>,
}

/// All instances in `/dev/shm`.
///
/// # Errors
///
/// The folder cannot be read.
pub fn list() -> std::io::Result<Vec<Listed>> {
    Ok(listed(files::instances()?, Inspector::open))
}

/// All instances of which there are copies in another folder.
///
/// # Errors
///
/// The folder cannot be read.
pub fn list_copies(directory: &Path) -> std::io::Result<Vec<Listed>> {
    Ok(listed(files::instances_in(directory)?, |instance| Inspector::open_copy(instance, directory)))
}

fn listed(names: Vec<InstanceName>, open: impl Fn(&InstanceName) -> Result<Inspector, InspectError>) -> Vec<Listed> {
    let look = |instance| {
        let view = open(&instance).map(|inspector| Box::new(inspector.look()));
        Listed { instance, view }
    };
    names.into_iter().map(look).collect()
}

/// CPUs that workers of living instances are pinned to, as far as this user may see.
pub fn cpus_in_use() -> Vec<u32> {
    cpus_in_use_beside(None)
}

/// The same without those of one instance.
pub fn cpus_in_use_beside(except: Option<&InstanceName>) -> Vec<u32> {
    let names = files::instances().unwrap_or_default();
    let others = names.iter().filter(|name| Some(*name) != except);
    let living = others.filter_map(|name| Inspector::open(name).ok()).filter(|i| i.is_alive() == Some(true));
    living.flat_map(|inspector| inspector.cpus()).collect()
}
