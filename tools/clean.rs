//! `executord clean`: removes what a crashed or forgotten sidecar left behind.

use executor_shm::clean::{CleanOptions, Cleaned, clean};
use executor_shm::files::instances;
use executor_shm::{InstanceName, MasterError};
use serde_json::{Value, json};

use crate::cli::CleanArgs;
use crate::exit::{PrintError, print};
use crate::units::{bytes, counted};

/// Why an instance was not cleaned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanError {
    #[error(transparent)]
    Master(#[from] MasterError),
    #[error("cannot list /dev/shm")]
    List(#[source] std::io::Error),
    #[error(transparent)]
    Print(#[from] PrintError),
    #[error("nothing of an instance {0} is in /dev/shm; shm-dump list shows which there are")]
    Missing(InstanceName),
}

/// Cleans what it is told; says whether everything is gone that could be.
pub(crate) fn run_clean(arguments: &CleanArgs) -> Result<bool, CleanError> {
    let options = CleanOptions { dry_run: arguments.dry_run, discard: arguments.discard };
    let mut all_gone = true;
    let mut said = Vec::new();
    let mut tell = |cleaned: &Cleaned| {
        all_gone &= cleaned.removed;
        match arguments.json {
            true => {
                said.push(cleaned_json(cleaned));
                Ok(())
            }
            false => print(format!("{}\n", cleaned_text(cleaned, arguments.dry_run)).as_bytes()),
        }
    };
    match &arguments.instance {
        Some(instance) => {
            let cleaned = clean(instance, options)?;
            if cleaned.files == 0 {
                return Err(CleanError::Missing(instance.clone()));
            }
            tell(&cleaned)?;
        }
        None => {
            for instance in instances().map_err(CleanError::List)? {
                match clean(&instance, options) {
                    Ok(cleaned) => tell(&cleaned)?,
                    Err(MasterError::AlreadyRunning { .. }) => {} // what is served is not meant
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    if arguments.json {
        print(format!("{}\n", Value::from(said)).as_bytes())?;
    }
    Ok(all_gone)
}

fn cleaned_json(cleaned: &Cleaned) -> Value {
    json!({
        "instance": cleaned.instance.as_str(),
        "removed": cleaned.removed,
        "files": cleaned.files,
        "bytes": cleaned.bytes,
        "attached": cleaned.attached,
        "unanswered": cleaned.unanswered,
    })
}

fn cleaned_text(cleaned: &Cleaned, dry_run: bool) -> String {
    let Cleaned { instance, files, bytes: size, attached, unanswered, removed } = cleaned;
    let files = format!("{}, {}", counted(*files as u64, "file"), bytes(*size));
    match (removed, dry_run) {
        (true, true) => format!("instance {instance}: {files} would be removed"),
        (true, false) => format!("instance {instance}: {files} removed"),
        (false, _) => format!(
            "instance {instance}: {files} kept, {} attached, {} with unanswered tasks; \
             serve them with: executord run {instance}, or give them up with --discard",
            counted((*attached).into(), "producer"),
            counted((*unanswered).into(), "lane"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_told_with_both_ways_out() {
        let cleaned = Cleaned {
            instance: InstanceName::default(),
            files: 6,
            bytes: 4096,
            attached: 0,
            unanswered: 1,
            removed: false,
        };
        let text = cleaned_text(&cleaned, false);
        assert!(text.starts_with("instance default: 6 files, 4 KiB kept, 0 producers attached, 1 lane with"), "{text}");
        assert!(text.contains("executord run default") && text.contains("--discard"), "{text}");
        let removed = Cleaned { removed: true, ..cleaned };
        assert_eq!(cleaned_text(&removed, false), "instance default: 6 files, 4 KiB removed");
        assert_eq!(cleaned_text(&removed, true), "instance default: 6 files, 4 KiB would be removed");
    }
}
