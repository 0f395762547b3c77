//! The test programs with mutants in them: how they are built, and where they lie then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::suspects::{Kind, Suspect};
use crate::trial::Trial;

/// Whose programs are built.
const PACKAGES: [&str; 3] = ["executor-shm", "executor-client", "executor-tests"];

/// Programs by kind and name.
pub(crate) struct Programs {
    files: BTreeMap<(Kind, String), PathBuf>,
    /// Where they run and write: what a failing test keeps for the next time belongs in no source tree.
    folder: PathBuf,
}

impl Programs {
    /// Builds what the suspects need, below the target folder of this very program.
    pub(crate) fn build(suspects: &[Suspect]) -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        // target/debug/mutants, this program.
        let target = own.ancestors().nth(2).ok_or("this program lies in no target folder")?.join("mutants");
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root).args(["test", "--no-run", "--message-format=json-render-diagnostics", "--lib"]);
        cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        let mut wanted: Vec<(Kind, &str)> =
            suspects.iter().map(|suspect| (suspect.kind(), suspect.program())).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for (kind, name) in &wanted {
            match kind {
                Kind::Library => {}
                Kind::Test => drop(cargo.args(["--test", name])),
                Kind::Program => drop(cargo.args(["--bin", name])),
            }
        }
        cargo.env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", format!("{flags} --cfg executor_mutants").trim_start());
        let output = cargo.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo: {error}"))?;
        if !output.status.success() {
            return Err("the programs cannot be built".to_owned());
        }
        let artifacts = output.stdout.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let files = artifacts.filter_map(|artifact: Value| artifact_of(&artifact)).collect();
        let folder = target.join("work");
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let this = Self { files, folder };
        match wanted.iter().find(|(kind, name)| !this.files.contains_key(&(*kind, (*name).to_owned()))) {
            Some((kind, name)) => Err(format!("no package has the {kind:?} {name}")),
            None => Ok(this),
        }
    }

    /// Runs a suspect, with a mutant or without; `own` is how long it takes without.
    pub(crate) fn run(&self, suspect: Suspect, mutant: Option<&str>, own: Option<Duration>) -> Trial {
        let file = &self.files[&(suspect.kind(), suspect.program().to_owned())];
        let mut command = Command::new(file);
        command.args(suspect.arguments()).current_dir(&self.folder).env("EXECUTOR_MUTANT", mutant.unwrap_or_default());
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1"); // a fault on purpose leaves nothing in the sources
        Trial::run(command, own)
    }
}

/// A program that cargo tells of.
fn artifact_of(artifact: &Value) -> Option<((Kind, String), PathBuf)> {
    let file = PathBuf::from(artifact["executable"].as_str()?);
    let kind = match (artifact["target"]["kind"][0].as_str()?, artifact["profile"]["test"].as_bool()?) {
        ("lib", true) => Kind::Library,
        ("test", true) => Kind::Test,
        ("bin", false) => Kind::Program,
        _ => return None,
    };
    Some(((kind, artifact["target"]["name"].as_str()?.to_owned()), file))
}
