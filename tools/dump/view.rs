//! The arguments of `shm-dump`: what can be shown.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ColorChoice, Parser, Subcommand};
use executor_core::TaskId;
use executor_shm::InstanceName;

use super::handlers::HandlerKey;
use super::lanes::LaneKey;
use crate::exit::CODES;
use crate::metrics::families_text;
use crate::units::parse_time;

/// Look into the shared memory of executor instances, alive or dead. It only reads: nothing is locked or changed.
#[derive(Debug, Parser)]
#[command(name = "shm-dump", version, disable_help_subcommand = true, after_help = format!(
    "Examples:\n  \
       shm-dump                       the only living instance, or `default`\n  \
       shm-dump list                  all instances, alive or dead\n  \
       shm-dump show orders           handlers, lanes and latencies of instance `orders`\n  \
       shm-dump show orders --json | jq '.lanes[].in_flight'\n  \
       shm-dump lanes orders --sort depth\n  \
       shm-dump slow orders           slow tasks, and what they waited for\n  \
       shm-dump records orders --last 5 --lane 0\n  \
       shm-dump watch orders          what happens in each second\n  \
       shm-dump save saved orders; shm-dump records --from saved\n\n{CODES}\n\n\
     Times are from submit to start (queue), from start to end of the handler (run), and from submit to end (total).\n\
     They are counted in buckets 3 % wide; a percentile is the upper edge of its bucket.\n\
     A record is `torn` if its slot was written while it was copied. What a copy is of is told by: shm-dump save --help"
))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(super) view: Option<View>,
    /// Look at copies of the files in this folder instead of /dev/shm.
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) from: Option<PathBuf>,
    /// Print JSON; times in nanoseconds, keys as `shm-dump schema` tells.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Colours: on a terminal that NO_COLOR does not rule out, or always, or never. JSON has none.
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto")]
    pub(super) color: ColorChoice,
}

/// Tasks of a lane unless told otherwise.
const LAST: u32 = 20;

/// What is shown; without one it is `show`.
#[derive(Debug, Subcommand)]
pub(super) enum View {
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
    /// Its lanes: who owns them, how full they are, what is in flight, latencies.
    #[command(after_help = examples(
        "  shm-dump lanes orders --sort depth\n  \
           shm-dump lanes orders --lane 3 --json | jq '.lanes[0].in_flight'"
    ))]
    Lanes {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// This lane only.
        #[arg(long, value_name = "N")]
        lane: Option<u32>,
        /// Numbers sort the greatest first.
        #[arg(long, value_name = "KEY", default_value = "lane")]
        sort: LaneKey,
    },
    /// Its handlers: what they take, how their tasks ended, latencies.
    #[command(after_help = examples(
        "  shm-dump handlers orders --sort run-p99\n  \
           shm-dump handlers orders --handler echo --json | jq '.handlers[0].run_ns'"
    ))]
    Handlers {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// This handler only.
        #[arg(long, value_name = "NAME|ID")]
        handler: Option<String>,
        /// Numbers sort the greatest first.
        #[arg(long, value_name = "KEY", default_value = "id")]
        sort: HandlerKey,
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
    /// The slowest tasks of each handler and the last ones over their threshold, with what most of their time went to.
    #[command(after_help = examples(
        "  shm-dump slow orders\n  \
           shm-dump slow orders --handler echo --json | jq '.tasks[] | [.total_ns, .most]'"
    ))]
    Slow {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// Tasks of this handler only.
        #[arg(long, value_name = "NAME|ID")]
        handler: Option<String>,
        /// So many tasks, the slowest first.
        #[arg(long, value_name = "N", default_value_t = LAST, value_parser = clap::value_parser!(u32).range(1..))]
        last: u32,
    },
    /// Why one task was slow: everything that its time went to, and what would help.
    #[command(after_help = format!(
        "The parts of its wait add up to the wait, those of its run to the run; what nothing tells is shown as such.\n\
         How many tasks it was behind is an estimate where they followed each other without a pause; for how long is not.\n\
         Positions begin at 0 with each owner of a lane; an id is one task's, whoever submitted it.\n\
         A task that is neither among the slow ones nor in the rings of its lane any more is not known.\n\n{}",
        examples(
            "  shm-dump slow orders\n  \
               shm-dump why orders 0/4711\n  \
               shm-dump why orders 0 4711\n  \
               shm-dump why orders 0 4711 --json | jq .slow.wait"
        )
    ))]
    Why {
        /// The instance.
        instance: InstanceName,
        /// The task's lane, or its id as it is printed: 0/4711.
        #[arg(value_name = "LANE|TASK", value_parser = parse_place)]
        place: Place,
        /// Its position in that lane, of the present owner; an id has it already.
        position: Option<u64>,
    },
    /// What happened: slow tasks, sleeps, lanes taken and left, starts, gaps, a clock that cannot be trusted.
    #[command(after_help = examples(
        "  shm-dump events orders --last 100\n  \
           shm-dump events orders --json | jq '.events[] | select(.event == \"gap\")'"
    ))]
    Events {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
        /// So many, the newest last.
        #[arg(long, value_name = "N", default_value_t = LAST, value_parser = clap::value_parser!(u32).range(1..))]
        last: u32,
        /// Those of this lane only.
        #[arg(long, value_name = "N")]
        lane: Option<u32>,
    },
    /// The errors of its tasks, told apart and counted, when each came first and last.
    #[command(after_help = examples("  shm-dump errors orders\n  shm-dump errors orders --json | jq '.errors[].text'"))]
    Errors {
        /// The instance [default: the only living one, with --from the only one, or `default`].
        instance: Option<InstanceName>,
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
    /// What goes on, on a terminal: workers, handlers and lanes, live and sorted.
    #[command(after_help = format!(
        "Keys: q quits, Tab or 1 2 3 show workers, handlers or lanes, s sorts by the next column, r reverses, space pauses, ? helps.\n\
         Rates and latencies are those since the last look. The bar of a worker is full where it is busy, shaded where it looks for tasks, dotted where it sleeps.\n\n{}",
        examples("  shm-dump top orders\n  shm-dump top orders --interval 2s --color never")
    ))]
    Top {
        /// The instance [default: the only living one, or `default`].
        instance: Option<InstanceName>,
        /// Time between two looks, 10ms or more.
        #[arg(long, value_name = "TIME", value_parser = parse_interval, default_value = "500ms")]
        interval: Duration,
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
        /// Write to this file, in one step, and print nothing; `-` is standard output.
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
    /// Print the JSON Schema of what every view prints with --json: each key, its unit, when it is null.
    #[command(after_help = examples("  shm-dump schema | jq '.[\"$defs\"].lane.properties'"))]
    Schema,
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

fn examples(lines: &str) -> String {
    format!("Examples:\n{lines}\n\n{CODES}")
}

/// A lane, or a task by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// By its number.
    Lane(u32),
    /// By its lane and its number there.
    Task(TaskId),
}

fn parse_place(text: &str) -> Result<Place, String> {
    let no_place = |_| "neither a lane nor a task id; write for example 0 4711, or 0/4711".to_owned();
    let Some((lane, sequence)) = text.split_once('/') else {
        return text.parse().map(Place::Lane).map_err(no_place);
    };
    let (lane, sequence) = (lane.parse().map_err(no_place)?, sequence.parse().map_err(no_place)?);
    let task = TaskId::new(lane, sequence);
    let is_whole = (task.lane(), task.sequence()) == (lane, sequence);
    is_whole.then_some(Place::Task(task)).ok_or_else(|| "no task has such a number".to_owned())
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let is_long_enough = |interval: &Duration| *interval >= Duration::from_millis(10);
    let interval = Some(parse_time(text)?).filter(is_long_enough);
    interval.ok_or_else(|| "too short; write 10ms or more".to_owned())
}
