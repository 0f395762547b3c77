//! `shm-dump`: looks into the shared memory of instances, alive or dead, and changes nothing.

mod events;
pub(crate) mod handlers;
pub(crate) mod lanes;
mod shown;
mod slow;
mod view;
mod why;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ColorChoice, CommandFactory};
use executor_core::TaskId;
use executor_core::recorder::{Event, SlowTask};
use executor_shm::InstanceName;
use executor_shm::files::DIRECTORY;
use executor_shm::inspect::{InspectError, Inspector, Listed, list, list_copies, survive_truncation};
#[cfg(fuzzing)]
use executor_shm::inspect::{Inspection, LaneRecords, Recorded};
use serde_json::Value;

use crate::arguments::parse;
use crate::colour::print;
use crate::diff::{change_json, change_text};
use crate::dump_json::{listed_json, shown_json};
use crate::dump_records::{records_json, records_text};
use crate::dump_text::{listed_text, shown_text};
use crate::exit::{FAILED, USAGE, failed};
use crate::metrics::{TextfileError, write_textfile};
use crate::out_file::OutError;
use crate::page::{PageError, Taken, page, write_page};
use crate::sample::{Change, Sample, SampleError};
use crate::save::{SaveError, save, saved_at, was_alive};
use crate::top::{TopError, top};
use crate::watch::{WatchError, sample, watch};
use events::{errors_json, errors_text, events_json, events_text};
use handlers::{HandlerKey, handlers_json, handlers_text};
#[cfg(fuzzing)]
use lanes::LaneKey;
use lanes::{lanes_json, lanes_text};
pub(crate) use shown::{Shown, life_of};
use slow::{slow_json, slow_text};
pub(crate) use view::Cli;
use view::{Place, View};
use why::{Asked, find, unknown, why_json, why_text};
#[cfg(fuzzing)]
use why::{Found, Known};

/// What every view prints with --json.
const SCHEMA: &str = include_str!("schema/shm-dump.json");

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
    #[error("instance {instance} has no lane {lane}; shm-dump lanes {instance}{from} lists its lanes")]
    NoLane { instance: InstanceName, lane: u32, from: String },
    #[error("instance {instance} has no handler {handler:?}; shm-dump handlers {instance}{from} lists its handlers")]
    NoHandler { instance: InstanceName, handler: String, from: String },
    #[error(
        "nothing is known of {task} of instance {instance}: {why}; shm-dump slow {instance}{from} and \
         shm-dump records {instance}{from} list those that are known"
    )]
    NoTask { instance: InstanceName, task: String, why: String, from: String },
    #[error(
        "which task of lane {lane}? name its position, or its id: shm-dump why {instance} {lane} POSITION{from}; \
         shm-dump slow {instance}{from} and shm-dump records {instance}{from} list them"
    )]
    NoPosition { instance: InstanceName, lane: u32, from: String },
    #[error("a task id has no position beside it; write: shm-dump why {instance} {id}{from}")]
    TwoPositions { instance: InstanceName, id: TaskId, from: String },
    #[error(transparent)]
    Watch(#[from] WatchError),
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
    #[error("top is for people; a program reads: shm-dump watch --json")]
    NotForPrograms,
    #[error(transparent)]
    Top(#[from] TopError),
    #[error("the views are {views}; for an instance of that name write: shm-dump show {found}; try --help")]
    NoView { views: String, found: String },
}

impl DumpError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoView { .. }
            | Self::NoPosition { .. }
            | Self::TwoPositions { .. }
            | Self::NotOfCopies { .. }
            | Self::NotForPrograms
            | Self::Page(PageError::Json { .. } | PageError::Out(OutError::NoFile { .. }))
            | Self::Metrics(
                TextfileError::Json { .. } | TextfileError::Name { .. } | TextfileError::Out(OutError::NoFile { .. }),
            )
            | Self::Top(TopError::NoTerminal(_)) => USAGE,
            _ => FAILED,
        }
    }
}

/// What `shm-dump` does with the arguments of the process.
pub fn shm_dump() -> ExitCode {
    survive_truncation();
    let cli = match parse::<Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match dump(&cli) {
        Ok(text) => match print(&text, if cli.json { ColorChoice::Never } else { cli.color }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed("shm-dump", &error, FAILED),
        },
        Err(error) => failed("shm-dump", &error, error.exit_code()),
    }
}

/// Shows it all in every way there is, and says how long that is. For the fuzzer.
#[cfg(fuzzing)]
pub fn every_view(
    listed: &[Listed],
    shown: &Inspection,
    records: &[LaneRecords],
    recorded: &Recorded,
    now: u64,
) -> usize {
    let shown = &Shown::new(shown.clone(), Some(false));
    let lanes = lanes::sorted(shown, LaneKey::InFlight, None);
    let handlers = handlers::sorted(shown, HandlerKey::RunP99, None);
    let texts = [
        listed_text(listed, now, |_| None),
        shown_text(shown, now),
        lanes_text(shown, &lanes),
        handlers_text(shown, &handlers),
        records_text(shown, records),
        slow_text(shown, recorded, &recorded.slow, ""),
        events_text(shown, recorded, &recorded.events),
        errors_text(shown, recorded),
    ];
    let rows = records.iter().filter_map(|lane| lane.tasks.as_ref().ok()).flatten();
    let known = recorded.slow.iter().map(Known::Slow).chain(rows.map(Known::Ring));
    let whys = known.map(|known| {
        let found = Found { lane: 0, position: 0, known, earlier: Vec::new() };
        why_text(shown, recorded, &found, "") + &line(&why_json(shown, &found))
    });
    let values = [
        listed_json(listed),
        shown_json(shown),
        lanes_json(shown, &lanes),
        handlers_json(shown, &handlers),
        records_json(shown, records),
        slow_json(shown, recorded, &recorded.slow),
        events_json(shown, recorded, &recorded.events),
        errors_json(shown, recorded),
    ];
    let sample = || Sample { view: Inspection::clone(shown), at_ns: Some(now) };
    let change = (sample(), sample());
    let changed =
        Change::new(&change.0, &change.1).map(|change| change_text(&change) + &line(&change_json(&change, None)));
    let lengths = texts.into_iter().chain(whys).chain(changed).chain(values.iter().map(line)).map(|text| text.len());
    lengths.sum::<usize>() + crate::top::drawn(shown).len()
}

fn dump(cli: &Cli) -> Result<String, DumpError> {
    let from = cli.from.as_deref();
    match &cli.view {
        None => show(cli, None),
        Some(View::List { instance }) => show_list(cli, instance.as_ref()),
        Some(View::Show { instance }) => show(cli, instance.as_ref()),
        Some(View::Lanes { instance, lane, sort }) => {
            let shown = shown(&open(from, instance.as_ref())?, from);
            let lanes = lanes::sorted(&shown, *sort, *lane);
            if let (Some(lane), []) = (*lane, lanes.as_slice()) {
                return Err(DumpError::NoLane { instance: shown.instance.clone(), lane, from: told(from) });
            }
            Ok(if cli.json { line(&lanes_json(&shown, &lanes)) } else { lanes_text(&shown, &lanes) })
        }
        Some(View::Handlers { instance, handler, sort }) => {
            let shown = shown(&open(from, instance.as_ref())?, from);
            let handlers = handlers::sorted(&shown, *sort, handler.as_deref());
            if let (Some(handler), []) = (handler, handlers.as_slice()) {
                let (instance, handler) = (shown.instance.clone(), handler.clone());
                return Err(DumpError::NoHandler { instance, handler, from: told(from) });
            }
            Ok(if cli.json { line(&handlers_json(&shown, &handlers)) } else { handlers_text(&shown, &handlers) })
        }
        Some(View::Records { instance, last, lane }) => {
            let inspector = open(from, instance.as_ref())?;
            let shown = shown(&inspector, from);
            let records = inspector.records(*lane, *last as usize);
            let (instance, lane) = (shown.instance.clone(), lane.unwrap_or_default());
            let records = records.ok_or_else(|| DumpError::NoLane { instance, lane, from: told(from) })?;
            Ok(if cli.json { line(&records_json(&shown, &records)) } else { records_text(&shown, &records) })
        }
        Some(View::Slow { instance, handler, last }) => {
            let inspector = open(from, instance.as_ref())?;
            let (shown, recorded) = (shown(&inspector, from), inspector.recorded());
            let of_it = handlers::sorted(&shown, HandlerKey::Id, handler.as_deref());
            if let (Some(handler), []) = (handler, of_it.as_slice()) {
                let (instance, handler) = (shown.instance.clone(), handler.clone());
                return Err(DumpError::NoHandler { instance, handler, from: told(from) });
            }
            let is_asked = |id: u32| handler.is_none() || of_it.iter().any(|handler| handler.row.id == id);
            let tasks = recorded.slow.iter().filter(|task| is_asked(task.handler_id)).take(*last as usize);
            let tasks: Vec<SlowTask> = tasks.copied().collect();
            Ok(if cli.json {
                line(&slow_json(&shown, &recorded, &tasks))
            } else {
                slow_text(&shown, &recorded, &tasks, &told(from))
            })
        }
        Some(View::Why { instance, place, position }) => why(cli, instance, *place, *position),
        Some(View::Events { instance, last, lane }) => {
            let inspector = open(from, instance.as_ref())?;
            let (shown, recorded) = (shown(&inspector, from), inspector.recorded());
            if let Some(lane) = lane.filter(|lane| !shown.lanes.iter().any(|it| it.lane == *lane)) {
                return Err(DumpError::NoLane { instance: shown.instance.clone(), lane, from: told(from) });
            }
            let is_asked = |event: &&Event| lane.is_none() || event.lane == *lane;
            let events: Vec<Event> = recorded.events.iter().filter(is_asked).copied().collect();
            let events = &events[events.len().saturating_sub(*last as usize)..];
            Ok(if cli.json {
                line(&events_json(&shown, &recorded, events))
            } else {
                events_text(&shown, &recorded, events)
            })
        }
        Some(View::Errors { instance }) => {
            let inspector = open(from, instance.as_ref())?;
            let (shown, recorded) = (shown(&inspector, from), inspector.recorded());
            Ok(if cli.json { line(&errors_json(&shown, &recorded)) } else { errors_text(&shown, &recorded) })
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
        Some(View::Top { .. }) if from.is_some() => {
            Err(DumpError::NotOfCopies { view: "top", cure: ", or look at a copy: shm-dump show --from DIR" })
        }
        Some(View::Top { .. }) if cli.json => Err(DumpError::NotForPrograms),
        Some(View::Top { instance, interval }) => {
            top(&instance.clone().unwrap_or_else(obvious), *interval, cli.color)?;
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
        Some(View::Schema) => Ok(SCHEMA.to_owned()),
        Some(View::Report { instance, out }) => report(cli, instance.as_ref(), out),
        Some(View::Other(words)) => Err(no_view(words)),
    }
}

fn show(cli: &Cli, instance: Option<&InstanceName>) -> Result<String, DumpError> {
    let shown = shown(&open(cli.from.as_deref(), instance)?, cli.from.as_deref());
    Ok(if cli.json { line(&shown_json(&shown)) } else { shown_text(&shown, realtime_ns()) })
}

fn why(cli: &Cli, instance: &InstanceName, place: Place, position: Option<u64>) -> Result<String, DumpError> {
    let from = told(cli.from.as_deref());
    let asked = match (place, position) {
        (Place::Task(id), None) => Asked::Id(id),
        (Place::Lane(lane), Some(position)) => Asked::Position(lane, position),
        (Place::Lane(lane), None) => return Err(DumpError::NoPosition { instance: instance.clone(), lane, from }),
        (Place::Task(id), Some(_)) => return Err(DumpError::TwoPositions { instance: instance.clone(), id, from }),
    };
    let inspector = open(cli.from.as_deref(), Some(instance))?;
    let (shown, recorded) = (shown(&inspector, cli.from.as_deref()), inspector.recorded());
    let lane = asked.lane();
    if !shown.lanes.iter().any(|it| it.lane == lane) {
        return Err(DumpError::NoLane { instance: instance.clone(), lane, from });
    }
    let rings = inspector.records(Some(lane), shown.geometry.capacity as usize).unwrap_or_default();
    let found = find(&shown, &recorded, &rings, asked);
    let Some(found) = found else {
        let (instance, task, why) = (instance.clone(), asked.to_string(), unknown(&shown, &recorded, &rings));
        return Err(DumpError::NoTask { instance, task, why, from });
    };
    Ok(if cli.json { line(&why_json(&shown, &found)) } else { why_text(&shown, &recorded, &found, &from) })
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
    if let (Some(only), []) = (only, listed.as_slice()) {
        let directory = cli.from.as_deref().map_or_else(|| DIRECTORY.to_owned(), |from| from.display().to_string());
        return Err(InspectError::Missing { instance: only.clone(), directory }.into());
    }
    Ok(match (cli.json, &cli.from) {
        (true, _) => line(&listed_json(&listed)),
        (false, None) if listed.is_empty() => "no instance in /dev/shm; start one with: executord run\n".to_owned(),
        (false, Some(from)) if listed.is_empty() => {
            format!("no instance in {0}; copy one with: shm-dump save {0} NAME\n", from.display())
        }
        (false, from) => {
            let was_alive = |instance: &InstanceName| was_alive(instance, from.as_deref()?);
            listed_text(&listed, realtime_ns(), was_alive)
        }
    })
}

/// An instance as it stands, or as it was copied.
fn shown(inspector: &Inspector, from: Option<&Path>) -> Shown {
    let view = inspector.look();
    let was_alive = from.and_then(|from| was_alive(&view.instance, from));
    Shown::new(view, was_alive)
}

/// How to look there again.
fn told(from: Option<&Path>) -> String {
    from.map_or_else(String::new, |from| format!(" --from {}", from.display()))
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
