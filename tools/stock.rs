//! The program `executord` itself, and the same for a program with handlers of its own.

use std::process::ExitCode;

use executor_core::RegistryBuilder;

use crate::arguments::parse;
use crate::clean::run_clean;
use crate::cli::{Cli, Command, ConfigArgs, OwnCli, OwnCommand, RunArgs};
use crate::config::Config;
use crate::config_view::view;
use crate::demo::demo;
use crate::doctor::diagnose;
use crate::exit::{FAILED, USAGE, failed, printed};
use crate::handlers::builtin;
use crate::hash::hash;
use crate::load::load;
use crate::manual::{completions, write_pages};
use crate::metrics::listen;
use crate::producer::produce;
use crate::respawn::respawn;
use crate::run::{Parent, RunError, run};
use crate::settings::Settings;

/// What `executord` does with the arguments of the process.
pub fn stock() -> ExitCode {
    match parse::<Cli>() {
        Err(code) => code,
        Ok(Cli { command: Command::Run(arguments) }) => serve(&arguments, builtin),
        Ok(Cli { command: Command::Config(arguments) }) => show(&arguments),
        Ok(Cli { command: Command::Doctor(arguments) }) => examine(&arguments, builtin),
        Ok(Cli { command: Command::Clean(arguments) }) => match run_clean(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(FAILED),
            Err(error) => failed("executord", &error, FAILED),
        },
        Ok(Cli { command: Command::Hash(arguments) }) => match hash(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(FAILED),
            Err(error) => failed("executord", &error, error.exit_code()),
        },
        Ok(Cli { command: Command::Load(arguments) }) => match load(&arguments) {
            Ok(code) => ExitCode::from(code),
            Err(error) => failed("executord", &error, error.exit_code()),
        },
        Ok(Cli { command: Command::Completions(arguments) }) => {
            printed("executord", &completions(arguments.shell, arguments.program), 0)
        }
        Ok(Cli { command: Command::Man(arguments) }) => match write_pages(&arguments.folder) {
            Ok(told) => printed("executord", told.as_bytes(), 0),
            Err(error) => failed("executord", &error, FAILED),
        },
        Ok(Cli { command: Command::Produce(arguments) }) => produce(&arguments),
        Ok(Cli { command: Command::Demo(arguments) }) => match demo(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(FAILED),
            Err(error) => failed("executord", &error, error.exit_code()),
        },
    }
}

/// A whole sidecar program with every flag of `executord run`, for handlers of your own.
///
/// # Examples
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     executord::main(|registry| {
///         registry.handler(1, "greet", |_, name, response| {
///             response.write(b"hello ");
///             response.write(name);
///             Ok(())
///         });
///     })
/// }
/// ```
pub fn main(register: impl FnOnce(&mut RegistryBuilder)) -> ExitCode {
    match parse::<OwnCli>() {
        Err(code) => code,
        Ok(OwnCli { command: OwnCommand::Run(arguments) }) => serve(&arguments, register),
        Ok(OwnCli { command: OwnCommand::Config(arguments) }) => show(&arguments),
        Ok(OwnCli { command: OwnCommand::Doctor(arguments) }) => examine(&arguments, register),
    }
}

fn serve(arguments: &RunArgs, register: impl FnOnce(&mut RegistryBuilder)) -> ExitCode {
    let config = match arguments.tied {
        true => Ok(Config::of_flags(&arguments.settings)),
        false => Config::load(&arguments.settings, arguments.config.as_deref(), |name| std::env::var_os(name)),
    };
    let parent = match arguments.supervisor {
        Some(pid) => Parent::Supervisor(pid),
        None if arguments.tied => Parent::Holder,
        None => Parent::Anybody,
    };
    let served = config.map_err(RunError::from).and_then(|config| match config.settings.respawn {
        Some(true) if parent == Parent::Anybody => {
            // What could never be is refused here: a child would go on without.
            config.settings.metrics.filter(|_| config.settings.standby != Some(true)).map(listen).transpose()?;
            Ok(respawn(config.settings.json.unwrap_or(false)))
        }
        _ => run(&config.settings, parent, register).map(|()| ExitCode::SUCCESS),
    });
    match served {
        Ok(code) => code,
        Err(error) => failed("executord", &error, error.exit_code()),
    }
}

fn examine(arguments: &ConfigArgs, register: impl FnOnce(&mut RegistryBuilder)) -> ExitCode {
    // As for `show`.
    let flags = Settings { json: None, ..arguments.settings.clone() };
    let config = Config::load(&flags, arguments.config.as_deref(), |name| std::env::var_os(name));
    match config.map_err(RunError::from).and_then(|config| diagnose(&config.settings, register)) {
        Ok(diagnosis) => {
            let text = if arguments.settings.json.is_some() { diagnosis.json() } else { diagnosis.text() };
            printed("executord", text.as_bytes(), if diagnosis.is_sound() { 0 } else { FAILED })
        }
        Err(error) => failed("executord", &error, error.exit_code()),
    }
}

fn show(arguments: &ConfigArgs) -> ExitCode {
    // Here the flag says how to show, which says nothing of a run.
    let flags = Settings { json: None, ..arguments.settings.clone() };
    match Config::load(&flags, arguments.config.as_deref(), |name| std::env::var_os(name)) {
        Ok(config) => {
            let variables = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
            printed("executord", view(&config, variables, arguments.settings.json.is_some()).as_bytes(), 0)
        }
        Err(error) => failed("executord", &error, USAGE),
    }
}
