//! The command line of `executord`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use executor_shm::InstanceName;

use crate::exit::CODES;
use crate::hash::HashArgs;
use crate::load::LoadArgs;
use crate::manual::Program;
use crate::settings::{SETTINGS, Settings, parse_buffer};
use crate::units::parse_bytes;

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
    /// Print what `run` with the same flags would do, and which flag, variable or line of a file says so.
    #[command(after_help = config_help())]
    Config(ConfigArgs),
    /// Check what `run` with the same flags needs of this machine, and say what to do where something is missing.
    #[command(after_help = doctor_help())]
    Doctor(ConfigArgs),
    /// Start a sidecar and producers, measure a round trip, hash files through the rings, check every digest.
    #[command(after_help = after_help(
        "  executord demo                           hash what is below this folder\n  \
           executord demo /usr/share --limit 1GB    more of it\n  \
           executord demo --digests > SUMS          and then: sha256sum -c SUMS\n  \
           executord demo --kill                    the same while the sidecar is killed every 100 ms\n  \
           executord demo --json | jq .round_trip_ns",
    ) + "\n  130  interrupted, everything cleaned up\n\n" + crate::demo::KILL_KEYS)]
    Demo(DemoArgs),
    /// Remove what a crashed or forgotten sidecar left in /dev/shm. Nothing that is served, attached or unanswered goes.
    #[command(after_help = after_help(
        "  executord clean orders             what is left of instance `orders`\n  \
           executord clean --all --dry-run    what would go of all instances that nobody serves\n  \
           executord clean orders --discard   accepted tasks are given up, producers are told",
    ))]
    Clean(CleanArgs),
    /// Measure latency and throughput of a running instance.
    #[command(after_help = after_help(crate::load::EXAMPLES) + "\n  130  interrupted, what was measured is printed")]
    #[command(after_long_help = format!(
        "{}\n  130  interrupted, what was measured is printed\n\n{}",
        after_help(crate::load::EXAMPLES), crate::load::KEYS,
    ))]
    Load(LoadArgs),
    /// Hash files by a running instance and print the lines that `sha256sum -c` reads.
    #[command(after_help = after_help(crate::hash::EXAMPLES))]
    Hash(HashArgs),
    /// Print what makes a shell complete the command line.
    #[command(after_help = after_help(
        "  source <(executord completions bash)                                this shell\n  \
           executord completions bash > ~/.local/share/bash-completion/completions/executord\n  \
           executord completions zsh shm-dump > /usr/local/share/zsh/site-functions/_shm-dump\n  \
           executord completions fish > ~/.config/fish/completions/executord.fish",
    ))]
    Completions(CompletionsArgs),
    /// Write the manual pages of both programs.
    #[command(after_help = after_help(
        "  executord man ~/.local/share/man/man1    and then: man executord-doctor\n  \
           executord man /usr/local/share/man/man1",
    ))]
    Man(ManArgs),
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
    /// Print what `run` with the same flags would do, and which flag, variable or line of a file says so.
    #[command(after_help = config_help())]
    Config(ConfigArgs),
    /// Check what `run` with the same flags needs of this machine, and say what to do where something is missing.
    #[command(after_help = doctor_help())]
    Doctor(ConfigArgs),
}

/// Under the name of the program that runs: it may be one with handlers of its own.
fn program() -> String {
    let path = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn run_examples() -> String {
    let program = program();
    format!(
        "  {program} run                                    instance `default`, a worker on the last free CPU\n  \
           {program} run orders --cpu 2 --cpu 3             two workers\n  \
           {program} run --request-bytes 64KiB --lanes 64   longer requests, more producers\n  \
           {program} run orders --group traders             producers of other users, members of this group\n  \
           {program} run --config orders.toml               settings from a file\n  \
           {program} run orders --respawn                   started again after a crash, where no systemd is\n  \
           {program} run orders --standby                   ready to follow the one that serves\n  \
           shm-dump show orders                   look inside, from another terminal"
    )
}

fn config_help() -> String {
    let program = program();
    let keys: String = SETTINGS
        .iter()
        .map(|setting| format!("  {:15} {:24} {}\n", setting.name, setting.variable(), setting.form.name()))
        .collect();
    let examples = format!(
        "  {program} config                                   what `{program} run` would do\n  \
           {program} config --config orders.toml --lanes 64   with a file and a flag\n  \
           {program} config --json | jq .settings.lanes.source"
    );
    format!(
        "A flag wins over a variable, a variable over the file, the file over the default. A variable that is empty is \
         not set; EXECUTOR_CONFIG names the file, EXECUTOR_CPU takes CPUs with commas between them. Other variables that \
         begin with EXECUTOR_ may be somebody else's; they are shown and not read.\n\n\
         Keys of the file, their variables and values:\n{keys}\n\
         Keys of --json: `config`, the file or null; `settings`, for each key an object of `value` as the file takes it, \
         `source` (flag, environment, file, default, or instance where files in /dev/shm have the value), `at` (which \
         flag, variable, or line) or null, `reason` of a default or null, `flag`, `variable`; `ignored_variables`.\n\n{}",
        after_help(&examples)
    )
}

fn doctor_help() -> String {
    let program = program();
    let examples = format!(
        "  {program} doctor                                   this machine, and instance `default`\n  \
           {program} doctor orders --config orders.toml       what a start of `orders` will meet\n  \
           {program} doctor --lanes 64 --real-time fifo:10    is there room, and the right to it?\n  \
           {program} doctor --json | jq '.checks[] | select(.state == \"error\")'"
    );
    format!(
        "A line for each check: how bad it is, its key, the fact, the cure. It only reads, so it may run beside anything.\n\n  \
         error    a start, or a producer, is refused\n  \
         warning  it serves, and this is likely to hurt\n  \
         note     it serves, and could do better or more\n  \
         unknown  nobody can say\n  \
         ok       as it should be\n\n\
         Keys:\n{}\n\
         Keys of --json: `instance`; `counts`, for each state a number; `checks`, a list of objects of `key`, `state`, \
         `fact`, `figures` (an object with the raw figures of the fact) and `cure` or null.\n\n\
         Examples:\n{examples}\n\n\
         Exit codes:\n  0  no error was found\n  1  an error was found\n  2  wrong arguments",
        crate::doctor::keys(),
    )
}

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Take what no flag and no EXECUTOR_ variable says from this TOML file; see `config --help`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Stop when standard input ends, and leave no file then: for a parent that holds its other end. Only flags count.
    #[arg(long, hide = true, conflicts_with_all = ["config", "respawn", "standby"])]
    pub(crate) tied: bool,
    /// The process that starts this one again after a crash: its parent.
    #[arg(long, hide = true, value_name = "PID", conflicts_with = "tied")]
    pub(crate) supervisor: Option<u32>,
}

/// What would be served, and is asked for.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Take what no flag and no EXECUTOR_ variable says from this TOML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
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

/// What is to be completed.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: Shell,
    /// The program.
    #[arg(default_value = "executord")]
    pub(crate) program: Program,
}

/// Where pages go.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder; it is made if it is not there, and pages of the same name are replaced.
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
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
    /// Kill the sidecar (SIGKILL) so many milliseconds after each of its starts, start it again at once, and hash all files
    /// over and over until it was killed 10 times.
    #[arg(long, value_name = "MS", num_args = 0..=1, default_missing_value = "100", value_parser = parse_kill)]
    pub(crate) kill: Option<Duration>,
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
        /// Go through all files again and again until standard input ends.
        #[arg(long)]
        over: bool,
    },
}

fn parse_kill(text: &str) -> Result<Duration, String> {
    let ms = text.parse().ok().filter(|ms| (1..=3_600_000).contains(ms));
    ms.map(Duration::from_millis)
        .ok_or_else(|| "not a number of milliseconds from 1 to 3600000; paths go before --kill".to_owned())
}

fn after_help(examples: &str) -> String {
    format!("Examples:\n{examples}\n\n{CODES}")
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
}
