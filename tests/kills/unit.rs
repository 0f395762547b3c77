//! The list of everything that is tried: a path is an operation, a unit one scene of it.

use clap::ValueEnum;

use crate::pass::Workshop;
use crate::{client, keeper, start, worker};

/// An operation that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Path {
    /// A producer submits.
    Submit,
    /// A worker takes, judges and runs tasks.
    Step,
    /// A worker answers.
    Publish,
    /// A start judges what was in flight.
    Recover,
    /// A start makes the files of an instance, or some of them.
    Create,
    /// A producer gets a lane and gives it back; housekeeping takes note.
    Attach,
    /// Housekeeping replaces a lane's files.
    Reset,
    /// A sidecar stops with manners.
    Stop,
}

/// One scene of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub(crate) path: Path,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Workshop),
}

const fn unit(path: Path, name: &'static str, run: fn(&mut Workshop)) -> Unit {
    Unit { path, name, run }
}

/// All of them, those that take longest first.
pub(crate) const UNITS: [Unit; 29] = [
    unit(Path::Step, "inline", worker::inline),
    unit(Path::Step, "buffers", worker::buffers),
    unit(Path::Step, "verdicts", worker::verdicts),
    unit(Path::Publish, "failed", worker::failed),
    unit(Path::Publish, "panicked", worker::panicked),
    unit(Path::Step, "again", worker::again),
    unit(Path::Step, "changed", worker::changed),
    unit(Path::Step, "deserted", worker::deserted),
    unit(Path::Submit, "buffers", client::buffers),
    unit(Path::Submit, "inline", client::inline),
    unit(Path::Submit, "tickets", client::tickets),
    unit(Path::Create, "fresh", start::fresh),
    unit(Path::Create, "without-journal", start::without_journal),
    unit(Path::Create, "without-status", start::without_status),
    unit(Path::Create, "without-lanes", start::without_lanes),
    unit(Path::Reset, "detached", keeper::detached),
    unit(Path::Reset, "poisoned", keeper::poisoned),
    unit(Path::Reset, "touched", keeper::touched),
    unit(Path::Stop, "left", keeper::left),
    unit(Path::Stop, "attended", keeper::attended),
    unit(Path::Stop, "alone", keeper::alone),
    unit(Path::Attach, "taken", keeper::taken),
    unit(Path::Attach, "attach", client::attach),
    unit(Path::Attach, "detach", client::detach),
    unit(Path::Recover, "killed", start::killed),
    unit(Path::Recover, "verdict", start::verdict),
    unit(Path::Recover, "rerun", start::rerun),
    unit(Path::Recover, "attempts", start::attempts),
    unit(Path::Recover, "replaced", start::replaced),
];

impl Path {
    /// As it is named on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().unwrap().get_name().to_owned()
    }
}

impl Unit {
    /// `path/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.path.name(), self.name)
    }
}
