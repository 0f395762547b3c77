//! What every bench of this folder begins and ends with.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use executord::floor::two_cpus;
use serde_json::{Map, Value};

/// Ends a bench: an error is one line with its causes.
pub(crate) fn outcome(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprint!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

/// Where people look on, what is going on.
pub(crate) fn say(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{what:<40}\r");
    }
}

/// What every bench can be asked for.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print one JSON object as the last line instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// CPUs of the producers and of the sidecars [default: the first two that are allowed].
    #[arg(long, value_delimiter = ',', num_args = 1, value_name = "PRODUCER,SIDECAR")]
    cpus: Vec<u32>,
    /// What `cargo bench` adds; without meaning here.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Common {
    /// Prints what came of it, as asked, and where it was measured.
    pub(crate) fn print(
        &self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
        circumstances: Map<String, Value>,
    ) {
        if self.json {
            let mut object = json();
            for (name, value) in circumstances {
                object[name] = value;
            }
            println!("{object}");
            return;
        }
        println!("{}", text());
        for (name, value) in circumstances {
            println!("{name:<12} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }

    /// The producer's CPU and the sidecar's: as asked, else the first two that are allowed.
    pub(crate) fn cpus(&self) -> Result<(u32, u32), Box<dyn Error>> {
        match *self.cpus {
            [] => Ok(two_cpus()?),
            [producer, sidecar] => Ok((producer, sidecar)),
            _ => Err("--cpus takes two numbers, as in --cpus 0,1".into()),
        }
    }

    /// The same, for a bench that means nothing where both sides share a CPU.
    #[allow(dead_code, reason = "not every bench needs two")]
    pub(crate) fn two_cpus(&self) -> Result<(u32, u32), Box<dyn Error>> {
        let cpus = self.cpus()?;
        if cpus.0 == cpus.1 {
            return Err("this bench needs two CPUs: on one it would measure the scheduler".into());
        }
        Ok(cpus)
    }
}
