//! Breaks the product on purpose, one fault at a time, and sees whether the suite notices.
//!
//! The faults are the table of `executor-shm/src/mutant.rs`. The test programs are built once more with `--cfg
//! executor_mutants`, into a target folder of their own; in that build, which is never shipped, a process has the one fault
//! that its environment names. Each mutant is shown to its suspects (`suspects.rs`), the programs that are there to see such
//! a thing, until one fails.
//!
//! # What counts
//! - Before all, every suspect passes without a mutant, which also says how long it takes.
//! - A mutant is caught by a test that fails, a program that ends with another code than 0, or one that still runs after
//!   [`PATIENCE`](trial::PATIENCE) and [`RATIO`](trial::RATIO) times as long as it took without.
//! - The same program must then pass again without the mutant. If not, that run says nothing.
//! - Some faults show in a race alone, and a busy machine loses races: a mutant that nobody caught is shown to its suspects
//!   [`LOOKS`] times in all, and what it took is told.
//! - A mutant that no suspect sees lives: a hole in the suite.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an evidence program stops at the first surprise")]

mod island;
mod programs;
mod report;
mod suspects;
mod trial;

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use executor_shm::mutant::Mutant;

use programs::Programs;
use report::{Fate, Row};
use suspects::{Suspect, suspects};

const EXAMPLES: &str = "Examples:
  cargo run -p executor-tests --bin mutants                            all of them
  cargo run -p executor-tests --bin mutants -- --only BaseNotGrown     one
  cargo run -p executor-tests --bin mutants -- --list                  what each breaks, and who should see it
  cargo run -p executor-tests --bin mutants -- --only NonceKept --all  everybody who sees it

Exit codes:
  0  every mutant was caught
  1  one lives, or a program fails without a mutant
  2  a mistake in the arguments
  3  the programs cannot be built";

/// Times that a mutant is shown to its suspects before it is said to live.
const LOOKS: u32 = 3;

/// Breaks the product on purpose, one fault at a time, and sees whether the suite notices.
#[derive(Debug, Parser)]
#[command(name = "mutants", after_help = EXAMPLES)]
struct Arguments {
    /// This mutant and no other; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Name the mutants with what each breaks and its suspects, and end.
    #[arg(long)]
    list: bool,
    /// Show each mutant to the suspects of all, and name every one that sees it.
    #[arg(long)]
    all: bool,
    /// Programs at a time; as many as there are CPUs if not given.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let known = |name: &&String| Mutant::ALL.iter().any(|(_, known, _)| known == name);
    if let Some(name) = arguments.only.iter().find(|name| !known(name)) {
        eprintln!("mutants: there is no mutant {name:?}; --list names them");
        return ExitCode::from(2);
    }
    let chosen: Vec<_> = Mutant::ALL
        .iter()
        .filter(|(_, name, _)| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name))
        .collect();
    if arguments.list {
        report::list(&chosen, arguments.json);
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    let everybody = if arguments.all { Mutant::ALL.iter().collect() } else { chosen.clone() };
    let mut asked: Vec<Suspect> = everybody.iter().flat_map(|(mutant, ..)| suspects(*mutant)).copied().collect();
    asked.sort_unstable();
    asked.dedup();
    island::settle();
    let programs = match Programs::build(&asked) {
        Ok(programs) => programs,
        Err(error) => {
            eprintln!("mutants: {error}");
            return ExitCode::from(3);
        }
    };
    let built = begun.elapsed();
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);

    let own = in_parallel(jobs, asked.clone(), |suspect| (suspect, programs.run(suspect, None, None)));
    let broken: Vec<_> = own.iter().filter(|(_, trial)| !trial.has_passed()).collect();
    for (suspect, trial) in &broken {
        eprintln!("mutants: {suspect} fails without a mutant: {}\n{}", trial.what(), trial.log());
    }
    if !broken.is_empty() {
        return ExitCode::FAILURE;
    }
    let own: BTreeMap<Suspect, Duration> = own.into_iter().map(|(suspect, trial)| (suspect, trial.time)).collect();
    if programs.run(asked[0], Some("NoSuchMutant"), None).has_passed() {
        eprintln!("mutants: the programs were built without mutants");
        return ExitCode::from(3);
    }

    let rows = in_parallel(jobs, chosen, |&(mutant, name, what)| {
        let suspects = if arguments.all { &asked } else { suspects(mutant) };
        let mut row = Row { name, what: what.trim(), fates: Vec::new(), looks: 0, seconds: 0.0 };
        let begun = Instant::now();
        while row.looks < LOOKS && !row.is_caught() {
            row.looks += 1;
            for &suspect in suspects {
                let found = programs.run(suspect, Some(name), Some(own[&suspect]));
                if found.has_passed() {
                    continue;
                }
                let again = programs.run(suspect, None, Some(own[&suspect]));
                row.fates.push(Fate::of(suspect, &found, &again, own[&suspect]));
                if !arguments.all && again.has_passed() {
                    break;
                }
            }
        }
        row.seconds = begun.elapsed().as_secs_f64();
        if !arguments.json {
            println!("{row}");
        }
        row
    });
    report::print(&rows, built, begun.elapsed(), arguments.json);
    if rows.iter().all(Row::is_caught) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The work done on each piece, in the order of the pieces, by so many threads.
fn in_parallel<T: Send, R: Send>(jobs: usize, pieces: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let queue: Mutex<VecDeque<(usize, T)>> = Mutex::new(pieces.into_iter().enumerate().collect());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((place, piece)) = { queue.lock().unwrap().pop_front() } {
                    let result = work(piece);
                    done.lock().unwrap().push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}
