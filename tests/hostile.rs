//! Attackers beside an honest producer: whatever they do to their own lanes and to locks, the sidecar lives and the honest
//! one gets every answer.
//!
//! All processes are of one user, who alone can reach the files. Each attack has an instance of its own.

#![deny(unsafe_code)]

#[path = "hostile/arena.rs"]
mod arena;
#[path = "hostile/attack.rs"]
mod attack;
#[path = "hostile/board.rs"]
mod board;
#[path = "hostile/report.rs"]
mod report;
#[path = "hostile/sidecar.rs"]
mod sidecar;
#[path = "hostile/victim.rs"]
mod victim;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::arena::Arena;
use crate::attack::Attack;
use crate::report::Outcome;

/// Attacks a sidecar in every role for some seconds each, beside a victim that checks every completion.
///
/// The exit code is 0 if no sidecar died, the victim got every answer and nothing was left; 1 if not, 2 for a mistake in
/// the arguments, 130 after SIGINT or SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "hostile", after_help = EXAMPLES)]
struct Options {
    /// How long each role attacks.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Repeats the choices of an earlier run [default: a random one, which is printed].
    #[arg(long)]
    seed: Option<u64>,
    /// Only these roles.
    #[arg(long, value_enum, value_delimiter = ',')]
    role: Vec<Attack>,
    /// Print one JSON object in place of the text.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p executor-tests --bin hostile -- --seconds 10
  cargo run --release -p executor-tests --bin hostile -- --seconds 60 --role truncator,hole-puncher --json

Everything is in /dev/shm/executor.hostile-PID-ROLE.*, and is removed in the end, also after SIGINT and SIGTERM.";

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let roles = if options.role.is_empty() { Attack::value_variants() } else { &options.role };
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut is_interrupted = false;
    for &role in roles {
        match Arena::new(role, seed, &signals)?.run(Duration::from_secs(options.seconds))? {
            Some(outcome) => outcomes.push(outcome),
            None => {
                is_interrupted = true;
                break;
            }
        }
    }
    if options.json {
        println!("{}", report::json(options.seconds, seed, &outcomes));
    } else {
        println!("seed {seed}, {} s each", options.seconds);
        print!("{}", report::text(&outcomes));
    }
    Ok(match is_interrupted {
        true => ExitCode::from(130),
        false if outcomes.iter().all(Outcome::is_clean) => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
