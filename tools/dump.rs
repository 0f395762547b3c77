//! `shm-dump`: looks into the shared memory of instances, alive or dead, and changes nothing.

use std::process::ExitCode;

use clap::Parser;
use executor_shm::InstanceName;
use executor_shm::inspect::{InspectError, Inspector, list};
use serde_json::Value;

use crate::arguments::parse;
use crate::dump_json::{listed_json, shown_json};
use crate::dump_text::{listed_text, shown_text};
use crate::exit::{CODES, FAILED, failed, print};

/// Look into the shared memory of executor instances, alive or dead. It only reads: nothing is locked or changed.
#[derive(Debug, Parser)]
#[command(name = "shm-dump", version, after_help = format!(
    "Examples:\n  \
       shm-dump                       the only living instance, or `default`\n  \
       shm-dump list                  all instances, alive or dead\n  \
       shm-dump show orders           handlers, lanes and latencies of instance `orders`\n  \
       shm-dump show orders --json | jq '.lanes[].in_flight'\n\n{CODES}\n\n\
     Times are from submit to start (queue), from start to end of the handler (run), and from submit to end (total).\n\
     They are counted in buckets 3 % wide; a percentile is the upper edge of its bucket."
))]
struct Cli {
    /// `list` for one line an instance, `show` for everything about one.
    #[arg(default_value = "show", value_parser = parse_view)]
    view: View,
    /// The instance [default: the only living one, or `default`].
    instance: Option<InstanceName>,
    /// Print JSON; times in nanoseconds.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    List,
    Show,
}

fn parse_view(text: &str) -> Result<View, String> {
    match text {
        "list" => Ok(View::List),
        "show" => Ok(View::Show),
        other => Err(format!("the views are list and show; for an instance of that name write: shm-dump show {other}")),
    }
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
enum DumpError {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("cannot list /dev/shm")]
    List(#[source] std::io::Error),
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
        Err(error) => failed("shm-dump", &error, FAILED),
    }
}

fn dump(cli: &Cli) -> Result<String, DumpError> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    if cli.view == View::List {
        let listed = list().map_err(DumpError::List)?;
        return Ok(if cli.json { line(&listed_json(&listed)) } else { listed_text(&listed, now) });
    }
    let instance = cli.instance.clone().unwrap_or_else(obvious);
    let shown = Inspector::open(&instance)?.look();
    Ok(if cli.json { line(&shown_json(&shown)) } else { shown_text(&shown, now) })
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
