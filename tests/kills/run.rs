//! The command line: which units to run, in processes of their own, and what they found.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::personality::{self, Persona};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::child::Child;
use crate::names::sweep;
use crate::pass::{Options, Workshop};
use crate::tally::{HEAD, Tally};
use crate::unit::{Path, UNITS, Unit};

const EXAMPLES: &str = "Examples:
  kills                              every path, images and kills
  kills --path step --path publish   two of them
  kills --unit recover/attempts      one scene
  kills --second --one-in 1          everything twice: hours
  kills --second --json              what a machine reads

Exit codes:
  0  every promise was kept, or the kernel lets nobody trace (`skipped: ` says so)
  1  a promise was broken, or the harness failed";

/// Kills a release build of sidecars and producers before every instruction and judges what the next start makes of it.
#[derive(Debug, Parser)]
#[command(name = "kills", after_help = EXAMPLES)]
struct Arguments {
    /// Operations to kill; all of them if none is named.
    #[arg(long)]
    path: Vec<Path>,
    /// One scene, as `--list` names it.
    #[arg(long)]
    unit: Option<String>,
    /// Name the scenes and end.
    #[arg(long)]
    list: bool,
    /// Kill again inside the next start after each image.
    #[arg(long)]
    second: bool,
    /// Of the long paths, kill again after one image in so many.
    #[arg(long, default_value_t = 16)]
    one_in: u64,
    /// Chooses what is sampled.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Scenes at a time; as many as there are CPUs if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Seconds after which a scene hangs: it is ended, and where its threads stood is told. No limit with `--second`.
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Run one scene in this process and print its counts; what the others are run with.
    #[arg(long, hide = true, value_name = "CPU")]
    inside: Option<usize>,
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen = |unit: &&Unit| match &arguments.unit {
        Some(name) => unit.full_name() == *name,
        None => arguments.path.is_empty() || arguments.path.contains(&unit.path),
    };
    let units: Vec<&Unit> = UNITS.iter().filter(chosen).collect();
    if arguments.list {
        units.iter().for_each(|unit| println!("{}", unit.full_name()));
        return ExitCode::SUCCESS;
    }
    if units.is_empty() {
        eprintln!("no scene is called {:?}; --list names them", arguments.unit.unwrap_or_default());
        return ExitCode::FAILURE;
    }
    if let Some(cpu) = arguments.inside {
        return run_here(units[0], cpu, &arguments);
    }
    if let Some(reason) = is_forbidden() {
        println!(
            "{}",
            if arguments.json { json!({ "skipped": reason }).to_string() } else { format!("skipped: {reason}") }
        );
        return ExitCode::SUCCESS;
    }
    sweep();
    let begun = Instant::now();
    let by_path = run_all(&units, &arguments);
    report(&by_path, begun.elapsed().as_secs_f64(), &arguments)
}

/// Why the kernel lets this process trace nobody.
fn is_forbidden() -> Option<String> {
    let child = Child::fork(|line| line.wait());
    ptrace::seize(child.pid(), ptrace::Options::empty()).err().map(|errno| {
        format!(
            "this process may not trace its children ({errno}); allow ptrace, in a container with --cap-add SYS_PTRACE"
        )
    })
}

/// Runs one scene and prints its counts.
fn run_here(unit: &Unit, cpu: usize, arguments: &Arguments) -> ExitCode {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert_eq!(threads, 1, "a tracer forks, so it has one thread");
    set_pdeathsig(Signal::SIGKILL).unwrap(); // whoever waits for the counts is gone
    // Subject and tracer take turns; on one CPU a turn costs no call from one to another.
    let mut cpus = CpuSet::new();
    if cpus.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    }
    let Arguments { second, one_in, seed, .. } = *arguments;
    let mut workshop = Workshop::new(Options { second, one_in, seed });
    (unit.run)(&mut workshop);
    let mut counts = workshop.tally.to_json();
    counts["failures"] = workshop.tally.failures().into();
    println!("{counts}");
    ExitCode::SUCCESS
}

fn run_all(units: &[&Unit], arguments: &Arguments) -> BTreeMap<Path, Tally> {
    // Every scene finds the same addresses, in this run and in the next.
    let _ = personality::get().and_then(|persona| personality::set(persona | Persona::ADDR_NO_RANDOMIZE));
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    let jobs = arguments.jobs.unwrap_or(cpus.len()).max(1);
    let waiting = Mutex::new(units.iter());
    let by_path = Mutex::new(BTreeMap::<Path, Tally>::new());
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (waiting, by_path, cpu) = (&waiting, &by_path, cpus[job % cpus.len()]);
            scope.spawn(move || {
                loop {
                    let Some(unit) = waiting.lock().unwrap().next() else { return };
                    let begun = Instant::now();
                    let told = run_apart(unit, cpu, arguments);
                    let mut by_path = by_path.lock().unwrap();
                    let tally = by_path.entry(unit.path).or_default();
                    let name = unit.full_name();
                    let counts: Option<Value> = told.as_ref().ok().and_then(|told| serde_json::from_str(told).ok());
                    if counts.and_then(|counts| tally.add_json(&name, &counts)).is_none() {
                        tally.break_down(format!("{name}: the harness failed: {told:?}"));
                    }
                    if !arguments.json {
                        let _ = writeln!(std::io::stderr(), "{name} took {:.1} s", begun.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    by_path.into_inner().unwrap()
}

/// Runs one scene in a process of its own; what it printed.
fn run_apart(unit: &Unit, cpu: usize, arguments: &Arguments) -> Result<String, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--unit", &unit.full_name(), "--inside", &cpu.to_string()]);
    command.args(["--one-in", &arguments.one_in.to_string(), "--seed", &arguments.seed.to_string()]);
    command.args(arguments.second.then_some("--second"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut told = String::new();
        stdout.read_to_string(&mut told).map(|_| told)
    });
    let begun = Instant::now();
    while !reader.is_finished() {
        if !arguments.second && begun.elapsed() > Duration::from_secs(arguments.limit) {
            let places = places(child.id());
            child.kill().map_err(|error| error.to_string())?;
            child.wait().map_err(|error| error.to_string())?;
            return Err(format!("it did not end within {} s:\n{}", arguments.limit, places.join("\n")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = reader.join().map_err(|_| "what it printed was not read")?.map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(told) } else { Err(format!("it ended with {status}")) }
}

/// Where the threads of a process and of its children are: name, state, and the system call with its arguments.
fn places(process: u32) -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().filter_map(Result::ok);
    tasks
        .flat_map(|task| {
            let path = task.path().display().to_string();
            let state = read(&format!("{path}/status"));
            let state = state.lines().find(|line| line.starts_with("State")).unwrap_or_default().to_owned();
            let [name, wait, call] = ["comm", "wchan", "syscall"].map(|file| read(&format!("{path}/{file}")));
            let line = format!("    {path} {} {state} {wait} {}", name.trim_end(), call.trim_end());
            let children = read(&format!("{path}/children"));
            let children = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(places);
            std::iter::once(line).chain(children).collect::<Vec<_>>()
        })
        .collect()
}

fn report(by_path: &BTreeMap<Path, Tally>, seconds: f64, arguments: &Arguments) -> ExitCode {
    let mut all = Tally::default();
    by_path.values().for_each(|tally| all.add_tally(tally));
    if arguments.json {
        let mut object = all.to_json();
        object["seed"] = arguments.seed.into();
        object["one_in"] = arguments.one_in.into();
        object["seconds"] = ((seconds * 10.0).round() / 10.0).into();
        object["by_path"] = by_path.iter().map(|(path, tally)| (path.name(), tally.to_json())).collect();
        object["failures"] = all.failures().into();
        println!("{object}");
    } else {
        println!("{HEAD}");
        by_path.iter().for_each(|(path, tally)| println!("{}", tally.to_row(&path.name())));
        println!("{}", all.to_row("all"));
        println!("{seconds:.1} s, seed {}", arguments.seed);
        all.failures().iter().for_each(|text| println!("\n{text}"));
    }
    if all.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
