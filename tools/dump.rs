//! `shm-dump`: looks into the shared memory of instances, alive or dead, and changes nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use executor_shm::InstanceName;
use executor_shm::files::DIRECTORY;
use executor_shm::inspect::{InspectError, Inspector, Listed, list, list_copies};
#[cfg(fuzzing)]
use executor_shm::inspect::{Inspection, LaneRecords};
use serde_json::Value;

use crate::arguments::parse;
use crate::dump_json::{listed_json, shown_json};
use crate::dump_records::{records_json, records_text};
use crate::dump_text::{listed_text, shown_text};
use crate::exit::{CODES, FAILED, USAGE, failed, print};

/// Look into the shared memory of executor instances, alive or dead. It only reads: nothing is locked or changed.
#[derive(Debug, Parser)]
#[command(name = "shm-dump", version, after_help = format!(
    "Examples:\n  \
       shm-dump                       the only living instance, or `default`\n  \
       shm-dump list                  all instances, alive or dead\n  \
       shm-dump show orders           handlers, lanes and latencies of instance `orders`\n  \
       shm-dump show orders --json | jq '.lanes[].in_flight'\n  \
       shm-dump records orders --last 5 --lane 0\n  \
       cp /dev/shm/executor.orders.* saved; shm-dump records orders --from saved\n\n{CODES}\n\n\
     Times are from submit to start (queue), from start to end of the handler (run), and from submit to end (total).\n\
     They are counted in buckets 3 % wide; a percentile is the upper edge of its bucket.\n\
     A record is `torn` if its slot was written while it was copied. A copy is of one moment only if nobody wrote then:\n\
     copy the files of a dead or stopped instance."
))]
struct Cli {
    /// `list` for one line an instance, `show` for everything about one, `records` for the last tasks of its lanes.
    #[arg(default_value = "show", value_parser = parse_view)]
    view: View,
    /// The instance [default: the only living one, with --from the only one, or `default`].
    instance: Option<InstanceName>,
    /// Look at copies of the files in this folder instead of /dev/shm.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// With `records`: so many tasks of each lane, the newest last [default: 20].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// With `records`: this lane only.
    #[arg(long, value_name = "N")]
    lane: Option<u32>,
    /// Print JSON; times in nanoseconds.
    #[arg(long)]
    json: bool,
}

/// Tasks of a lane unless told otherwise.
const LAST: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    List,
    Show,
    Records,
}

fn parse_view(text: &str) -> Result<View, String> {
    match text {
        "list" => Ok(View::List),
        "show" => Ok(View::Show),
        "records" => Ok(View::Records),
        other => Err(format!(
            "the views are list, show and records; for an instance of that name write: shm-dump show {other}"
        )),
    }
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
enum DumpError {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("cannot list {folder}")]
    List {
        folder: String,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no instance in {folder}; copy one with: cp /dev/shm/executor.NAME.* {folder}")]
    NoCopy { folder: String },
    #[error("{folder} has copies of several instances; name one of {names}")]
    WhichCopy { folder: String, names: String },
    #[error("instance {instance} has no lane {lane}; shm-dump show {instance} lists its lanes")]
    NoLane { instance: InstanceName, lane: u32 },
    #[error("{0} belongs to view records; write: shm-dump records INSTANCE {0} N")]
    NotThisView(&'static str),
}

impl DumpError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NotThisView(_) => USAGE,
            _ => FAILED,
        }
    }
}

/// What `shm-dump` does with the arguments of the process.
pub fn shm_dump() -> ExitCode {
    let cli = match parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match dump(&cli) {
        Ok(text) => {
            print(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => failed("shm-dump", &error, error.exit_code()),
    }
}

/// Shows it all in every way there is, and says how long that is. For the fuzzer.
#[cfg(fuzzing)]
pub fn every_view(listed: &[Listed], shown: &Inspection, records: &[LaneRecords], now: u64) -> usize {
    let texts = [listed_text(listed, now), shown_text(shown, now), records_text(shown, records)];
    let values = [listed_json(listed), shown_json(shown), records_json(shown, records)];
    texts.into_iter().chain(values.iter().map(line)).map(|text| text.len()).sum()
}

fn dump(cli: &Cli) -> Result<String, DumpError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    if cli.view != View::Records {
        for (flag, is_given) in [("--last", cli.last.is_some()), ("--lane", cli.lane.is_some())] {
            if is_given {
                return Err(DumpError::NotThisView(flag));
            }
        }
    }
    if cli.view == View::List {
        let listed = listed(cli.from.as_deref())?;
        return Ok(match (cli.json, &cli.from) {
            (true, _) => line(&listed_json(&listed)),
            (false, None) if listed.is_empty() => "no instance in /dev/shm; start one with: executord run\n".to_owned(),
            (false, Some(from)) if listed.is_empty() => {
                format!("no instance in {0}; copy one with: cp /dev/shm/executor.NAME.* {0}\n", from.display())
            }
            (false, _) => listed_text(&listed, now),
        });
    }
    let inspector = open(cli)?;
    let shown = inspector.look();
    if cli.view == View::Show {
        return Ok(if cli.json { line(&shown_json(&shown)) } else { shown_text(&shown, now) });
    }
    let records = inspector.records(cli.lane, cli.last.unwrap_or(LAST) as usize);
    let records = records
        .ok_or_else(|| DumpError::NoLane { instance: shown.instance.clone(), lane: cli.lane.unwrap_or_default() })?;
    Ok(if cli.json { line(&records_json(&shown, &records)) } else { records_text(&shown, &records) })
}

fn open(cli: &Cli) -> Result<Inspector, DumpError> {
    match (&cli.from, &cli.instance) {
        (None, Some(instance)) => Ok(Inspector::open(instance)?),
        (None, None) => Ok(Inspector::open(&obvious())?),
        (Some(from), instance) => {
            let listed = listed(Some(from))?; // so that a folder that is not there is told as such
            let instance = match instance {
                Some(instance) => instance.clone(),
                None => only_copy(from, &listed)?,
            };
            Ok(Inspector::open_copy(&instance, from)?)
        }
    }
}

fn listed(from: Option<&Path>) -> Result<Vec<Listed>, DumpError> {
    let listed = from.map_or_else(list, list_copies);
    let folder = || from.map_or_else(|| DIRECTORY.to_owned(), |from| from.display().to_string());
    listed.map_err(|source| DumpError::List { folder: folder(), source })
}

fn only_copy(from: &Path, listed: &[Listed]) -> Result<InstanceName, DumpError> {
    let folder = from.display().to_string();
    match listed {
        [] => Err(DumpError::NoCopy { folder }),
        [only] => Ok(only.instance.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|one| one.instance.as_str()).collect();
            Err(DumpError::WhichCopy { folder, names: names.join(", ") })
        }
    }
}

/// The instance that is meant where none is named.
fn obvious() -> InstanceName {
    let listed = list().unwrap_or_default();
    let mut living = listed.into_iter().filter(|one| one.view.as_ref().is_ok_and(|view| view.alive == Some(true)));
    match (living.next(), living.next()) {
        (Some(only), None) => only.instance,
        _ => InstanceName::default(),
    }
}

fn line(value: &Value) -> String {
    format!("{value:#}\n")
}
