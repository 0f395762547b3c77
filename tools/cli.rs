//! The command line of `executord`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use executor_core::idle::IdleStrategy;
use executor_core::record::LENGTH_MAX;
use executor_shm::InstanceName;

use crate::exit::CODES;
use crate::units::{parse_bytes, parse_time};

/// A shared-memory task executor: serve handlers to other processes, or see it at work.
#[derive(Debug, Parser)]
#[command(name = "executord", version, arg_required_else_help = true, after_help = after_help(
    "  executord demo                 the whole of it in one command, on the files below this folder\n  \
       executord run                  serve the built-in handlers as instance `default`\n  \
       executord run orders --cpu 3   serve instance `orders` on CPU 3",
))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the built-in handlers until Ctrl-C or SIGTERM: echo, sum, crc32c, sha256, sha256-block, spin.
    #[command(after_help = after_help(&run_examples()))]
    Run(RunArgs),
    /// Start a sidecar and producers, measure a round trip, hash files through the rings, check every digest.
    #[command(after_help = after_help(
        "  executord demo                           hash what is below this folder\n  \
           executord demo /usr/share --limit 1GB    more of it\n  \
           executord demo --digests > SUMS          and then: sha256sum -c SUMS\n  \
           executord demo --json | jq .round_trip_ns",
    ) + "\n  130  interrupted, everything cleaned up")]
    Demo(DemoArgs),
    /// Remove what a crashed or forgotten sidecar left in /dev/shm. Nothing that is served, attached or unanswered goes.
    #[command(after_help = after_help(
        "  executord clean orders             what is left of instance `orders`\n  \
           executord clean --all --dry-run    what would go of all instances that nobody serves\n  \
           executord clean orders --discard   accepted tasks are given up, producers are told",
    ))]
    Clean(CleanArgs),
    /// One producer of the demo.
    #[command(hide = true)]
    Produce(ProduceArgs),
}

/// The same for a program with handlers of its own.
#[derive(Debug, Parser)]
#[command(version, about = "A sidecar of the executor with handlers of its own", arg_required_else_help = true)]
pub(crate) struct OwnCli {
    #[command(subcommand)]
    pub(crate) command: OwnCommand,
}

/// What a program with handlers of its own can do.
#[derive(Debug, Subcommand)]
pub(crate) enum OwnCommand {
    /// Serve the handlers until Ctrl-C or SIGTERM.
    #[command(after_help = after_help(&run_examples()))]
    Run(RunArgs),
}

/// Under the name of the program that runs: it may be one with handlers of its own.
fn run_examples() -> String {
    let path = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let program = path.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "  {program} run                                    instance `default`, a worker on the last free CPU\n  \
           {program} run orders --cpu 2 --cpu 3             two workers\n  \
           {program} run --request-bytes 64KiB --lanes 64   longer requests, more producers\n  \
           shm-dump show orders                   look inside, from another terminal"
    )
}

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The name that producers connect to.
    #[arg(default_value = "default")]
    pub(crate) instance: InstanceName,
    /// The most lanes, that is producers at a time: 1 to 1024 [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) lanes: Option<u32>,
    /// Slots of a lane: a power of two from 2 to 65536 [default: 1024].
    #[arg(long, value_name = "SLOTS", value_parser = parse_capacity)]
    pub(crate) capacity: Option<u32>,
    /// The longest request, a multiple of 64 bytes [default: 256].
    #[arg(long, value_name = "SIZE", value_parser = parse_buffer)]
    pub(crate) request_bytes: Option<u32>,
    /// The longest response, a multiple of 64 bytes [default: 256].
    #[arg(long, value_name = "SIZE", value_parser = parse_buffer)]
    pub(crate) response_bytes: Option<u32>,
    /// Pin a worker to this CPU; repeat it for more workers [default: the last allowed CPU that no instance uses].
    #[arg(long = "cpu", value_name = "N")]
    pub(crate) cpus: Vec<u32>,
    /// What a worker does without work: spin, spin-then-yield or yield [default: spin-then-yield, with one CPU yield].
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) idle: Option<IdleStrategy>,
    /// Read no clock: nothing is stamped and no latency is counted.
    #[arg(long)]
    pub(crate) no_timing: bool,
    /// Tasks a lane is served in one turn while others wait.
    #[arg(long, value_name = "TASKS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) quantum: Option<u32>,
    /// Pin nothing: workers run wherever the kernel puts them.
    #[arg(long)]
    pub(crate) unpinned: bool,
    /// How long a stop may take to serve what was accepted before it [default: 5s].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) drain: Option<Duration>,
    /// Print the line at the start and the totals at the end as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Stop when standard input ends, and leave no file then: for a parent that holds its other end.
    #[arg(long, hide = true)]
    pub(crate) tied: bool,
}

/// What to remove.
#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// The instance.
    #[arg(value_name = "INSTANCE|--all", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) instance: Option<InstanceName>,
    /// All instances that nobody serves.
    #[arg(long)]
    pub(crate) all: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Give up accepted tasks and attached producers too.
    #[arg(long)]
    pub(crate) discard: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the demo does.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Files and folders to hash; hidden and git-ignored files are passed over, links are not followed.
    #[arg(default_value = ".")]
    pub(crate) paths: Vec<PathBuf>,
    /// Producer processes [default: one less than there are CPUs, at least 1].
    #[arg(long, value_name = "N")]
    pub(crate) producers: Option<NonZeroUsize>,
    /// Take files up to this many bytes in all.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_bytes)]
    pub(crate) limit: u64,
    /// Bytes of a file in one task, a multiple of 64.
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = parse_buffer)]
    pub(crate) chunk: u32,
    /// Hash hidden and git-ignored files too.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print the digests as `sha256sum` does, and the report to standard error; with --json as key `digests`.
    #[arg(long)]
    pub(crate) digests: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a producer of the demo is told. Its files come over standard input, each path ended by a zero byte.
#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) work: Work,
    /// The demo's process.
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) parent: u32,
}

/// What a producer of the demo does.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Work {
    /// Measure a bare round trip of a cache line.
    PingPong {
        /// This side's CPU.
        here: u32,
        /// The other side's CPU.
        there: u32,
    },
    /// Measure a round trip over a Unix socket.
    UnixSocket {
        /// This side's CPU.
        here: u32,
        /// The other side's CPU.
        there: u32,
    },
    /// Echo at window 1 for a second.
    Echo {
        /// The demo's instance.
        instance: InstanceName,
        /// This side's CPU.
        cpu: u32,
    },
    /// Hash files.
    Hash {
        /// The demo's instance.
        instance: InstanceName,
        /// This side's CPU.
        cpu: u32,
        /// Bytes of a file in one task.
        #[arg(long)]
        chunk: usize,
        /// Files in flight.
        #[arg(long)]
        window: usize,
        /// Send every digest to the parent.
        #[arg(long)]
        digests: bool,
    },
}

fn after_help(examples: &str) -> String {
    format!("Examples:\n{examples}\n\n{CODES}")
}

fn parse_capacity(text: &str) -> Result<u32, String> {
    let fits = |slots: &u32| slots.is_power_of_two() && (2..=65_536).contains(slots);
    text.parse()
        .ok()
        .filter(fits)
        .ok_or_else(|| "not a power of two from 2 to 65536; write for example 1024".to_owned())
}

fn parse_buffer(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    if bytes.is_multiple_of(64) && (64..=LENGTH_MAX as u64).contains(&bytes) {
        return Ok(bytes as u32);
    }
    Err(format!("not a multiple of 64 from 64 to {LENGTH_MAX}; write for example 256 or 4KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_lines_are_consistent() {
        Cli::command().debug_assert();
        OwnCli::command().debug_assert();
    }

    #[test]
    fn sizes_that_no_lane_can_have_are_refused() {
        assert_eq!((parse_capacity("1024"), parse_buffer("4KiB")), (Ok(1024), Ok(4096)));
        for capacity in ["0", "1", "1000", "131072", "many"] {
            assert!(parse_capacity(capacity).is_err(), "{capacity}");
        }
        for bytes in ["0", "100", "16MiB"] {
            assert!(parse_buffer(bytes).is_err(), "{bytes}");
        }
    }
}
