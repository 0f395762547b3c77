//! Kills sidecars and producers at random moments, starts them anew, and proves afterwards that nothing was lost.
//!
//! Real processes are forked from this one, which has one thread and uses none of the library's locks. What producers
//! accepted and what handlers did stands in shared memory that outlives them; every lane's files are kept mapped. Once a
//! round is over, the ledger is held against the files: see `reckoning`.

#![deny(unsafe_code)]

#[path = "chaos/auditor.rs"]
mod auditor;
#[path = "chaos/company.rs"]
mod company;
#[path = "chaos/dice.rs"]
mod dice;
#[path = "chaos/ledger.rs"]
mod ledger;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/producer.rs"]
mod producer;
#[path = "chaos/reckoning.rs"]
mod reckoning;
#[path = "chaos/report.rs"]
mod report;
#[path = "chaos/round.rs"]
mod round;
#[path = "chaos/setting.rs"]
mod setting;
#[path = "chaos/sidecar.rs"]
mod sidecar;
#[path = "chaos/task.rs"]
mod task;
#[path = "chaos/window.rs"]
mod window;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::plan::{Mode, Plan};
use crate::report::{Asked, Totals};
use crate::round::{Ending, Round};

/// Kills sidecars and producers at random moments and proves that every accepted task ended exactly once.
///
/// The exit code is 0 if nothing was lost, duplicated, contradicted or leaked, 1 if anything was, 2 for a mistake in the
/// arguments, 130 after SIGINT or SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "chaos", after_help = EXAMPLES)]
struct Options {
    /// How long to kill; the last round is then brought to its end and judged.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Repeats the choices of an earlier run [default: a random one, which is printed].
    #[arg(long)]
    seed: Option<u64>,
    /// Who is killed.
    #[arg(long, value_enum, default_value_t = Mode::Mixed)]
    mode: Mode,
    /// Print one JSON object in place of the text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p executor-tests --bin chaos -- --seconds 60
  cargo run --release -p executor-tests --bin chaos -- --seconds 600 --mode executor --json
  cargo run --release -p executor-tests --bin chaos -- --seconds 60 --mode stop --seed 42

A seed fixes every choice: the rounds, their sizes and habits, who is killed after what delay, what each producer does and
how long each handler runs. It does not fix how the kernel schedules the processes: the same seed strikes with the same
delays, not at the same instructions.

Everything is in /dev/shm/executor.chaos-PID-ROUND.*, and is removed in the end, also after SIGINT and SIGTERM.";

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let asked = Asked { seed, mode: options.mode.name(), seconds: options.seconds };
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let (begun, time) = (Instant::now(), Duration::from_secs(options.seconds));
    let mut totals = Totals::default();
    let mut ending = Ending::Whole;
    for round in 0.. {
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() || ending == Ending::Interrupted {
            break;
        }
        if std::io::stderr().is_terminal() {
            eprint!("\rround {round}, {} kills, {} s left ", totals.kills, left.as_secs());
        }
        let plan = Plan::draw(seed, round, options.mode);
        ending = Round::new(plan, &signals, &mut totals)?.run(left)?;
    }
    let elapsed = begun.elapsed();
    if std::io::stderr().is_terminal() {
        eprint!("\r{:60}\r", "");
    }
    if options.json {
        println!("{}", totals.json(&asked, elapsed));
    } else {
        print!("{}", totals.text(&asked, elapsed));
    }
    Ok(match ending {
        Ending::Interrupted => ExitCode::from(130),
        Ending::Whole if totals.is_clean() => ExitCode::SUCCESS,
        Ending::Whole => ExitCode::FAILURE,
    })
}
