//! `shm-dump`: looks into the shared memory of instances, alive or dead, and changes nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use executor_shm::InstanceName;
use executor_shm::files::DIRECTORY;
use executor_shm::inspect::{InspectError, Inspector, Listed, list, list_copies};
#[cfg(fuzzing)]
use executor_shm::inspect::{Inspection, LaneRecords};
use serde_json::Value;

use crate::arguments::parse;
use crate::diff::{change_json, change_text};
use crate::dump_json::{listed_json, shown_json};
use crate::dump_records::{records_json, records_text};
use crate::dump_text::{listed_text, shown_text};
use crate::exit::{CODES, FAILED, USAGE, failed, print};
use crate::metrics::{TextfileError, families_text, write_textfile};
use crate::page::{PageError, Taken, page, write_page};
use crate::sample::{Change, Sample, SampleError};
use crate::save::{SaveError, save, saved_at};
use crate::units::parse_time;
use crate::watch::{sample, watch};

/// Look into the shared memory of executor instances, alive or dead. It only reads: nothing is locked or changed.
#[derive(Debug, Parser)]
#[command(name = "shm-dump", version, disable_help_subcommand = true, after_help = format!(
    "Examples:\n  \
       shm-dump                       the only living instance, or `default`\n  \
       shm-dump list                  all instances, alive or dead\n  \
       shm-dump show orders           handlers, lanes and latencies of instance `orders`\n  \
       shm-dump show orders --json | jq '.lanes[].in_flight'\n  \
       shm-dump records orders --last 5 --lane 0\n  \
       shm-dump watch orders          what happens in each second\n  \
       shm-dump save saved orders; shm-dump records --from saved\n\n{CODES}\n\n\
     Times are from submit to start (queue), from start to end of the handler (run), and from submit to end (total).\n\
     They are counted in buckets 3 % wide; a percentile is the upper edge of its bucket.\n\
     A record is `torn` if its slot was written while it was copied. What a copy is of is told by: shm-dump save --help"
))]
pub(crate) struct Cli {
    #[command(subcommand)]
    view: Option<View>,
    /// Look at copies of the files in this folder instead of /dev/shm.
    #[arg(long, value_name = "DIR", global = true)]
    from: Option<PathBuf>,
    /// Print JSON; times in nanoseconds.
    #[arg(long, global = true)]
    json: bool,
}

/// Tasks of a lane unless told otherwise.
const LAST: u32 = 20;

/// What is shown; without one it is `show`.
#[derive(Debug, Subcommand)]
enum View {
    /// One line for each instance.
    #[command(after_help = examples("  shm-dump list\n  shm-dump list --json | jq '.[] | select(.alive)'"))]
    List {
        /// This instance alone.
        instance: Option<InstanceName>,
    },
    /// Everything about one instance: workers, handlers, lanes, latencies, tasks in flight.
    #[command(after_help = examples("  shm-dump show orders\n  shm-dump show orders --json | jq '.lanes[].in_flight'"))]
    Show {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
    },
    /// The last tasks of its lanes.
    #[command(after_help = examples("  shm-dump records orders\n  shm-dump records orders --last 5 --lane 0"))]
    Records {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// So many tasks of each lane, the newest last.
        #[arg(long, value_name = "N", default_value_t = LAST, value_parser = clap::value_parser!(u32).range(1..))]
        last: u32,
        /// This lane only.
        #[arg(long, value_name = "N")]
        lane: Option<u32>,
    },
    /// What happened between two moments: rates, and latencies of the tasks in between.
    #[command(after_help = format!("{}\n\n{}", crate::diff::KEYS, examples(
        "  shm-dump diff orders                        a second from now\n  \
           shm-dump diff orders --interval 10s --json | jq .tasks_per_second\n  \
           shm-dump diff orders --from saved           from a copy to now\n  \
           shm-dump diff --from saved --to later       from a copy to a later one"
    )))]
    Diff {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// The later copy, with the earlier one as --from [default: now].
        #[arg(long, value_name = "DIR", requires = "from")]
        to: Option<PathBuf>,
        /// How long to wait between two looks [default: 1s].
        #[arg(long, value_name = "TIME", value_parser = parse_interval, conflicts_with = "from")]
        interval: Option<Duration>,
    },
    /// A line a second with what happened in it, for as long as somebody reads.
    #[command(after_help = format!(
        "A line of --json is an object of its own, as `diff` prints it; `error` tells of an instance that is gone for now.\n\n{}",
        examples(
            "  shm-dump watch orders\n  \
               shm-dump watch orders --interval 100ms --count 50 --json | jq -c '[.seconds, .tasks_per_second, .total_ns.p99]'"
        )
    ))]
    Watch {
        /// The instance [default: the only living one, or `default`].
        instance: Option<InstanceName>,
        /// Time between two lines, 10ms or more.
        #[arg(long, value_name = "TIME", value_parser = parse_interval, default_value = "1s", conflicts_with = "from")]
        interval: Duration,
        /// End after so many lines.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Copy the files of an instance, while it lives too, to look at them elsewhere.
    #[command(after_help = format!("{}\n\n{}", crate::save::CONSISTENT, examples(
        "  shm-dump save saved orders\n  \
           shm-dump records --from saved"
    )))]
    Save {
        /// The folder; it is made if it is not there, and nothing in it is replaced.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The instance [default: the only living one, or `default`].
        instance: Option<InstanceName>,
    },
    /// Everything for Prometheus, by way of the node exporter's textfile collector.
    #[command(after_help = format!("{}\n{}", families_text(), examples(
        "  shm-dump metrics orders\n  \
           shm-dump metrics orders --out /var/lib/prometheus/node-exporter/orders.prom   every 15 s, by a timer"
    )))]
    Metrics {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// Write to this file, in one step, and print nothing.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// One page for a browser: latencies, what happened over time, lanes, slow tasks with what they waited for, errors.
    #[command(after_help = examples(
        "  shm-dump report orders --out orders.html\n  \
           shm-dump report --from saved --out - > saved.html"
    ))]
    Report {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// Write to this file, in one step; `-` is standard output.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

fn examples(lines: &str) -> String {
    format!("Examples:\n{lines}\n\n{CODES}")
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
    #[error("there is no instance in {folder}; copy one with: shm-dump save {folder} NAME")]
    NoCopy { folder: String },
    #[error("{folder} has copies of several instances; name one of {names}")]
    WhichCopy { folder: String, names: String },
    #[error("instance {instance} has no lane {lane}; shm-dump show {instance} lists its lanes")]
    NoLane { instance: InstanceName, lane: u32 },
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Metrics(#[from] TextfileError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("{view} looks at what is in /dev/shm, not at a copy; leave out --from{cure}")]
    NotOfCopies { view: &'static str, cure: &'static str },
    #[error("the views are {views}; for an instance of that name write: shm-dump show {found}")]
    NoView { views: String, found: String },
}

impl DumpError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoView { .. } | Self::NotOfCopies { .. } | Self::Metrics(TextfileError::Json { .. }) => USAGE,
            Self::Page(PageError::Json { .. } | PageError::NoFile { .. }) => USAGE,
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
    let from = cli.from.as_deref();
    match &cli.view {
        None => show(cli, None),
        Some(View::List { instance }) => show_list(cli, instance.as_ref()),
        Some(View::Show { instance }) => show(cli, instance.as_ref()),
        Some(View::Records { instance, last, lane }) => {
            let inspector = open(from, instance.as_ref())?;
            let shown = inspector.look();
            let records = inspector.records(*lane, *last as usize);
            let no_lane = || DumpError::NoLane { instance: shown.instance.clone(), lane: lane.unwrap_or_default() };
            let records = records.ok_or_else(no_lane)?;
            Ok(if cli.json { line(&records_json(&shown, &records)) } else { records_text(&shown, &records) })
        }
        Some(View::Diff { instance, to, interval }) => {
            let (before, after) = samples(cli, instance.as_ref(), to.as_deref(), *interval)?;
            let change = Change::new(&before, &after)?;
            Ok(if cli.json { line(&change_json(&change, after.at_ns)) } else { change_text(&change) })
        }
        Some(View::Watch { .. }) if from.is_some() => Err(DumpError::NotOfCopies {
            view: "watch",
            cure: ", or compare copies: shm-dump diff --from DIR --to DIR",
        }),
        Some(View::Watch { instance, interval, count }) => {
            watch(&instance.clone().unwrap_or_else(obvious), *interval, *count, cli.json)?;
            Ok(String::new())
        }
        Some(View::Save { .. }) if from.is_some() => {
            Err(DumpError::NotOfCopies { view: "save", cure: "; a copy is copied with cp" })
        }
        Some(View::Save { folder, instance }) => {
            let instance = instance.clone().unwrap_or_else(obvious);
            let (text, json) = save(&Inspector::open(&instance)?, &instance, folder)?;
            Ok(if cli.json { line(&json) } else { text })
        }
        Some(View::Metrics { instance, out }) => {
            Ok(write_textfile(open(from, instance.as_ref())?.look(), out.as_deref(), cli.json)?)
        }
        Some(View::Report { instance, out }) => report(cli, instance.as_ref(), out),
        Some(View::Other(words)) => Err(no_view(words)),
    }
}

fn show(cli: &Cli, instance: Option<&InstanceName>) -> Result<String, DumpError> {
    let shown = open(cli.from.as_deref(), instance)?.look();
    Ok(if cli.json { line(&shown_json(&shown)) } else { shown_text(&shown, realtime_ns()) })
}

fn report(cli: &Cli, instance: Option<&InstanceName>, out: &Path) -> Result<String, DumpError> {
    let inspector = open(cli.from.as_deref(), instance)?;
    let view = inspector.look();
    if cli.json {
        return Err(PageError::Json { instance: view.instance.to_string() }.into());
    }
    let taken = match &cli.from {
        Some(from) => Taken { at_ns: saved_at(&view.instance, from), folder: Some(from.display().to_string()) },
        None => Taken { at_ns: Some(realtime_ns()), folder: None },
    };
    Ok(write_page(page(&view, &inspector.recorded(), &taken), out)?)
}

fn show_list(cli: &Cli, only: Option<&InstanceName>) -> Result<String, DumpError> {
    let mut listed = listed(cli.from.as_deref())?;
    listed.retain(|one| only.is_none_or(|only| one.instance == *only));
    Ok(match (cli.json, &cli.from) {
        (true, _) => line(&listed_json(&listed)),
        (false, None) if listed.is_empty() => "no instance in /dev/shm; start one with: executord run\n".to_owned(),
        (false, Some(from)) if listed.is_empty() => {
            format!("no instance in {0}; copy one with: shm-dump save {0} NAME\n", from.display())
        }
        (false, _) => listed_text(&listed, realtime_ns()),
    })
}

/// Two looks at an instance, or two copies of it, or a copy and a look.
fn samples(
    cli: &Cli,
    instance: Option<&InstanceName>,
    to: Option<&Path>,
    interval: Option<Duration>,
) -> Result<(Sample, Sample), DumpError> {
    let copied = |folder: &Path, instance: Option<&InstanceName>| -> Result<Sample, DumpError> {
        let view = open(Some(folder), instance)?.look();
        let at_ns = saved_at(&view.instance, folder);
        Ok(Sample { view, at_ns })
    };
    let Some(from) = &cli.from else {
        let instance = instance.cloned().unwrap_or_else(obvious);
        let before = sample(&instance)?;
        std::thread::sleep(interval.unwrap_or(Duration::from_secs(1)));
        return Ok((before, sample(&instance)?));
    };
    let before = copied(from, instance)?;
    let after = match to {
        Some(to) => copied(to, Some(&before.view.instance))?,
        None => sample(&before.view.instance)?,
    };
    Ok((before, after))
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let is_long_enough = |interval: &Duration| *interval >= Duration::from_millis(10);
    let interval = Some(parse_time(text)?).filter(is_long_enough);
    interval.ok_or_else(|| "too short; write 10ms or more".to_owned())
}

/// What to say to a word that is no view.
fn no_view(words: &[OsString]) -> DumpError {
    let found = words.first().map_or(String::new(), |word| word.to_string_lossy().into_owned());
    let command = Cli::command();
    let views: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let views = match views.as_slice() {
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
        [] => String::new(),
    };
    DumpError::NoView { views, found }
}

/// Nanoseconds since 1970.
fn realtime_ns() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64)
}

fn open(from: Option<&Path>, instance: Option<&InstanceName>) -> Result<Inspector, DumpError> {
    match (from, instance) {
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
