//! The demo: a sidecar and its producers as separate processes, a round trip, a tree of files hashed through the rings.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use executor_core::cpu::CpuError;
use executor_shm::InstanceName;
use executor_shm::clean::{CleanOptions, clean};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cli::DemoArgs;
use crate::exit::{FAILED, INTERRUPTED, PrintError, USAGE, print};
use crate::files::{Candidate, check_root, select, share};
use crate::lines::{Counts, Line};
use crate::plan::Plan;
use crate::processes::{Children, Event, Input};
use crate::report::Report;
use crate::units::{bytes, counted};

/// Files that one producer has in flight: its lane is always full, so the sidecar never waits for it.
const WINDOW: usize = 64;
/// How often a dead sidecar is started again.
const RESTARTS: u64 = 3;
/// How long a child may take to say its first word, or its last one once it was asked to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the sidecar is killed at least, if it is to be.
const KILLS_LEAST: u64 = 10;
/// What `--help` says of them.
pub(crate) const KILL_KEYS: &str = "With --kill no round trip is measured. Keys of --json: `kills`, times the sidecar was killed; \
    `reruns`, tasks that were in flight then and were run again by the next sidecar; `interrupted`, tasks that were in \
    flight at two kills in a row and were submitted again; `passes`, times all files were gone through. `files`, `bytes` \
    and `tasks` count each pass; `lost` is 0.";
/// Turns of the executor and its floors.
const ROUNDS: usize = 5;
/// How long a floor may take, which spins on two CPUs without ever yielding: done in 100 ms if they are its own.
const FLOOR_PATIENCE: Duration = Duration::from_secs(5);

/// Why the demo came to no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// Name what exists.
    #[error("cannot hash {path}: {why}; name files or folders that exist")]
    Path { path: String, why: String },
    /// Read the reason; it names the cure.
    #[error("the sidecar did not start: {0}")]
    Sidecar(String),
    /// Read the reason; it names the cure.
    #[error("a producer gave up: {0}")]
    Producer(String),
    /// The machine is out of processes, memory or CPUs.
    #[error("cannot {act}")]
    System {
        act: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The machine does not say which CPUs there are.
    #[error(transparent)]
    Cpus(#[from] CpuError),
    /// Nobody was told.
    #[error(transparent)]
    Print(#[from] PrintError),
    /// Somebody pressed Ctrl-C.
    #[error("interrupted; all processes are stopped and nothing is left in /dev/shm")]
    Interrupted,
}

impl DemoError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Path { .. } => USAGE,
            Self::Interrupted => INTERRUPTED,
            _ => FAILED,
        }
    }
}

fn system(act: &'static str) -> impl Fn(std::io::Error) -> DemoError {
    move |source| DemoError::System { act, source }
}

/// Runs it and prints the report; says whether everything was right.
pub(crate) fn demo(arguments: &DemoArgs) -> Result<bool, DemoError> {
    for path in &arguments.paths {
        check_root(path).map_err(|why| DemoError::Path { path: path.display().to_string(), why })?;
    }
    let plan = Plan::of_this_machine(arguments.producers)?;
    let selection = select(&arguments.paths, arguments.limit, arguments.all);
    let mut report = Report {
        producer_cpus: plan.producers.clone(),
        chunk_bytes: u64::from(arguments.chunk),
        limit: arguments.limit,
        left_out: selection.left_out,
        skipped: selection.skipped.into_iter().map(|skipped| (skipped.path, skipped.why)).collect(),
        kills: arguments.kill.map(|_| 0),
        ..Report::default()
    };
    // With --digests, standard output is for the sums.
    let say = |text: &str| match (arguments.json, arguments.digests) {
        (true, _) => Ok(()),
        (false, true) => {
            eprint!("{text}");
            Ok(())
        }
        (false, false) => print(text.as_bytes()),
    };
    let mut demo = Demo { children: Children::new().map_err(system("listen for Ctrl-C"))?, sidecar: None, plan };
    demo.spawn_sidecar(arguments)?;
    say(&demo.wait_for_sidecar(&mut report)?)?;
    if arguments.kill.is_none() {
        demo.measure_round_trips(&mut report)?;
        say(&report.echo_text())?;
    }
    demo.hash(arguments, selection.files, &mut report)?;
    demo.stop();
    say(&report.result_text())?;
    if arguments.json {
        print(format!("{}\n", report.to_json()).as_bytes())?;
    } else if arguments.digests {
        print(&report.to_sums())?;
    }
    Ok(report.is_good())
}

struct Demo {
    children: Children,
    /// Its number.
    sidecar: Option<usize>,
    plan: Plan,
}

impl Demo {
    fn command(&self, arguments: impl IntoIterator<Item = String>) -> Result<Command, DemoError> {
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(command)
    }

    fn produce(&mut self, work: &[String], input: Input) -> Result<usize, DemoError> {
        let mut command = self.command(["produce".to_owned()].into_iter().chain(work.iter().cloned()))?;
        command.arg("--parent").arg(std::process::id().to_string());
        self.children.spawn(command, input).map_err(system("start a producer"))
    }

    fn spawn_sidecar(&mut self, arguments: &DemoArgs) -> Result<(), DemoError> {
        let lanes = self.plan.producers.len() + 1;
        let mut command =
            self.command(["run".to_owned(), self.plan.instance.clone(), "--json".to_owned(), "--tied".to_owned()])?;
        let numbers = [
            ("--lanes", lanes.to_string()),
            ("--capacity", WINDOW.next_power_of_two().to_string()),
            ("--request-bytes", (arguments.chunk + 64).to_string()),
            ("--response-bytes", "64".to_owned()),
            ("--cpu", self.plan.sidecar.to_string()),
        ];
        for (flag, number) in numbers {
            command.arg(flag).arg(number);
        }
        command.stderr(std::process::Stdio::inherit());
        let held = Input::Held(Vec::new());
        self.sidecar = Some(self.children.spawn(command, held).map_err(system("start the sidecar"))?);
        Ok(())
    }

    /// Waits until it serves, returns what it says about itself.
    fn wait_for_sidecar(&mut self, report: &mut Report) -> Result<String, DemoError> {
        loop {
            match self.children.next(PATIENCE) {
                Some(Event::Interrupted) => return Err(DemoError::Interrupted),
                Some(Event::Line(child, line)) if Some(child) == self.sidecar => {
                    let started: Value = serde_json::from_str(&line).unwrap_or_default();
                    report.clock = started["clock"].as_str().unwrap_or("unknown").to_owned();
                    report.sidecar_cpus = vec![self.plan.sidecar];
                    return Ok(format!(
                        "sidecar on CPU {} with {} in /dev/shm, {} on CPU {}, clock {}\n",
                        self.plan.sidecar,
                        bytes(started["shm_bytes"].as_u64().unwrap_or(0)),
                        counted(self.plan.producers.len() as u64, "producer"),
                        self.plan.producers.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
                        report.clock,
                    ));
                }
                Some(Event::Closed(child)) if Some(child) == self.sidecar => {
                    self.children.wait(child, PATIENCE);
                    return Err(DemoError::Sidecar("its own message is above".to_owned()));
                }
                Some(_) => {}
                None => return Err(DemoError::Sidecar(format!("it was silent for {PATIENCE:?}"))),
            }
        }
    }

    /// Has a producer measure a round trip, in nanoseconds; `None` if that takes longer than `patience`.
    fn measure(&mut self, work: &[String], patience: Duration) -> Result<Option<f64>, DemoError> {
        let child = self.produce(work, Input::Ended(Vec::new()))?;
        let deadline = Instant::now() + patience;
        let mut found = None;
        loop {
            match self.children.next(deadline.saturating_duration_since(Instant::now())) {
                Some(Event::Interrupted) => return Err(DemoError::Interrupted),
                Some(Event::Line(from, line)) if from == child => found = Some(read_line(&line)?),
                Some(Event::Closed(from)) if from == child => break,
                Some(_) => {}
                None => {
                    self.children.terminate(child);
                    self.children.wait(child, PATIENCE);
                    return Ok(None);
                }
            }
        }
        self.children.wait(child, PATIENCE);
        match found {
            Some(Line::RoundTrip { ns }) => Ok(Some(ns)),
            Some(Line::Failed { why, .. }) => Err(DemoError::Producer(why)),
            _ => Err(DemoError::Producer("it died without a word".to_owned())),
        }
    }

    /// Measures the executor and its floors in turns, since a machine's speed drifts from second to second, and keeps
    /// the medians. The sidecar is paused while a floor is measured: it would take one of the two CPUs.
    fn measure_round_trips(&mut self, report: &mut Report) -> Result<(), DemoError> {
        let cpus = [self.plan.first_producer().to_string(), self.plan.sidecar.to_string()];
        let floor = |kind: &str| [kind.to_owned(), cpus[0].clone(), cpus[1].clone()];
        let echo = ["echo".to_owned(), self.plan.instance.clone(), cpus[0].clone()];
        let mut found: [Vec<f64>; 3] = Default::default();
        for round in 0..ROUNDS {
            self.signal_sidecar(Signal::SIGSTOP);
            let ping_pong = self.measure(&floor("ping-pong"), FLOOR_PATIENCE)?;
            let unix_socket = self.measure(&floor("unix-socket"), FLOOR_PATIENCE)?;
            self.signal_sidecar(Signal::SIGCONT);
            let echo = self.measure(&echo, PATIENCE)?;
            for (all, one) in found.iter_mut().zip([ping_pong, unix_socket, echo]) {
                all.extend(one);
            }
            if ping_pong.is_none() && round == 0 {
                break; // the CPUs are busy: more rounds would only take long
            }
        }
        [report.ping_pong_ns, report.unix_socket_ns, report.echo_ns] = found.map(median);
        Ok(())
    }

    fn signal_sidecar(&mut self, signal: Signal) {
        if let Some(sidecar) = self.sidecar {
            self.children.signal(sidecar, signal);
        }
    }

    /// Hashes all files; on the way back `report` is complete.
    fn hash(&mut self, arguments: &DemoArgs, files: Vec<Candidate>, report: &mut Report) -> Result<(), DemoError> {
        let total = files.iter().map(|file| file.bytes).sum();
        let bar = bar(total);
        let mut killer = arguments.kill.map(Killer::new);
        let mut producers = HashMap::new();
        for (files, cpu) in share(files, self.plan.producers.len()).into_iter().zip(self.plan.producers.clone()) {
            let mut work = vec!["hash".to_owned(), self.plan.instance.clone(), cpu.to_string()];
            work.extend(["--chunk".to_owned(), arguments.chunk.to_string()]);
            work.extend(["--window".to_owned(), WINDOW.to_string()]);
            work.extend(arguments.digests.then(|| "--digests".to_owned()));
            let files: Vec<PathBuf> = files.into_iter().map(|file| file.path).collect();
            work.extend(killer.is_some().then(|| "--over".to_owned()));
            let mut input = as_input(&files);
            let input = match killer {
                None => Input::Ended(input),
                Some(_) => {
                    input.push(0); // the end of the list
                    Input::Held(input)
                }
            };
            let child = self.produce(&work, input)?;
            producers.insert(child, Share { files, ..Share::default() });
        }
        let mut span = (u64::MAX, 0);
        while producers.values().any(|share| !share.closed) {
            let due = killer.as_ref().map(Killer::due_in);
            if due == Some(Duration::ZERO) {
                self.signal_sidecar(Signal::SIGKILL);
                killer.iter_mut().for_each(Killer::has_killed);
            }
            match self.children.next(due.unwrap_or(PATIENCE)) {
                None => {}
                Some(Event::Interrupted) => return Err(DemoError::Interrupted),
                Some(Event::Closed(child)) if Some(child) == self.sidecar => {
                    self.children.wait(child, PATIENCE);
                    if killer.as_mut().is_some_and(Killer::takes_the_blame) {
                        let kills = report.kills.insert(report.kills.unwrap_or(0) + 1);
                        if *kills >= KILLS_LEAST {
                            producers.keys().for_each(|&producer| self.children.end_input(producer));
                        }
                    } else {
                        report.restarts += 1;
                    }
                    if report.restarts > RESTARTS {
                        return Err(DemoError::Sidecar(format!("it died {RESTARTS} times before")));
                    }
                    self.spawn_sidecar(arguments)?;
                }
                Some(Event::Line(child, line)) if Some(child) == self.sidecar => {
                    let started: Value = serde_json::from_str(&line).unwrap_or_default();
                    report.reruns += started["recovered"]["reruns"].as_u64().unwrap_or(0);
                    killer.iter_mut().for_each(Killer::is_served);
                }
                Some(Event::Closed(child)) => {
                    let Some(share) = producers.get_mut(&child) else { continue };
                    share.closed = true;
                    self.children.wait(child, PATIENCE);
                    if !share.done {
                        report.lost += WINDOW as u64; // as many as it can have had in flight
                        report.failures.push("it died without a word".to_owned());
                    }
                }
                Some(Event::Line(child, line)) => {
                    let Some(share) = producers.get_mut(&child) else { continue };
                    share.take(read_line(&line)?, report, &mut span);
                    bar.set_position(producers.values().map(|share| share.counts.bytes).sum::<u64>().min(total));
                }
            }
        }
        bar.finish_and_clear();
        report.elapsed_ns = span.1.saturating_sub(span.0);
        report.mismatched.sort();
        report.skipped.sort();
        report.digests.sort();
        Ok(())
    }

    /// Ends the producers first: with nobody attached the sidecar removes its files.
    fn stop(&mut self) {
        self.children.stop_all_but(self.sidecar, PATIENCE);
        if let Some(sidecar) = self.sidecar.take() {
            self.children.terminate(sidecar);
            self.children.wait(sidecar, PATIENCE);
            // One that was killed, or that had not begun to serve, has left its files.
            if let Ok(instance) = InstanceName::new(&self.plan.instance) {
                let _ = clean(&instance, CleanOptions { discard: true, dry_run: false });
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Kills the sidecar a fixed time after it began to serve.
#[derive(Debug)]
struct Killer {
    every: Duration,
    /// When; `None` while it is dead or starts.
    due: Option<Instant>,
    has_killed: bool,
}

impl Killer {
    /// Of a sidecar that serves.
    fn new(every: Duration) -> Self {
        Self { every, due: Some(Instant::now() + every), has_killed: false }
    }

    fn due_in(&self) -> Duration {
        self.due.map_or(PATIENCE, |due| due.saturating_duration_since(Instant::now()))
    }

    fn has_killed(&mut self) {
        (self.due, self.has_killed) = (None, true);
    }

    /// Whether the death that was just seen is its doing.
    fn takes_the_blame(&mut self) -> bool {
        self.due = None;
        std::mem::take(&mut self.has_killed)
    }

    fn is_served(&mut self) {
        self.due = Some(Instant::now() + self.every);
    }
}

/// What one producer has to do and has done.
#[derive(Debug, Default)]
struct Share {
    files: Vec<PathBuf>,
    counts: Counts,
    done: bool,
    closed: bool,
}

impl Share {
    fn take(&mut self, line: Line, report: &mut Report, span: &mut (u64, u64)) {
        let path = |file: usize| self.files.get(file).cloned().unwrap_or_default();
        match line {
            Line::Progress(counts) => self.counts = counts,
            Line::Digest { file, sha256 } => report.digests.push((path(file), sha256)),
            Line::Skipped { file, why } => report.skipped.push((path(file), why)),
            Line::Mismatched { file, why } => report.mismatched.push((path(file), why)),
            Line::Done { counts, passes, times, began_at_ns, ended_at_ns } => {
                (self.counts, self.done) = (counts, true);
                report.counts.files += counts.files;
                report.counts.bytes += counts.bytes;
                report.counts.tasks += counts.tasks;
                report.counts.interrupted += counts.interrupted;
                report.passes = report.passes.max(passes);
                report.times.merge(&times);
                *span = (span.0.min(began_at_ns), span.1.max(ended_at_ns));
            }
            Line::Failed { why, lost } => {
                self.done = true;
                report.lost += lost;
                report.failures.push(why);
            }
            Line::RoundTrip { .. } => {}
        }
    }
}

fn read_line(line: &str) -> Result<Line, DemoError> {
    serde_json::from_str(line).map_err(|_| DemoError::Producer(format!("it said {line:?}")))
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

/// Paths as a producer reads them: each ended by a zero byte, which no path can hold.
fn as_input(paths: &[PathBuf]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    paths.iter().flat_map(|path| path.as_os_str().as_bytes().iter().copied().chain([0])).collect()
}

/// A bar on a terminal, nothing elsewhere.
fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("  {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(total);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
