//! The program `executord` itself, and the same for a program with handlers of its own.

use std::process::ExitCode;

use executor_core::RegistryBuilder;

use crate::arguments::parse;
use crate::clean::run_clean;
use crate::cli::{Cli, Command, OwnCli, OwnCommand, RunArgs};
use crate::demo::demo;
use crate::exit::{FAILED, failed};
use crate::handlers::builtin;
use crate::producer::produce;
use crate::run::run;

/// What `executord` does with the arguments of the process.
pub fn stock() -> ExitCode {
    match parse::<Cli>() {
        Err(code) => code,
        Ok(Cli { command: Command::Run(arguments) }) => serve(&arguments, builtin),
        Ok(Cli { command: Command::Clean(arguments) }) => match run_clean(&arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(FAILED),
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
    }
}

fn serve(arguments: &RunArgs, register: impl FnOnce(&mut RegistryBuilder)) -> ExitCode {
    match run(arguments, register) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("executord", &error, error.exit_code()),
    }
}
