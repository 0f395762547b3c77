//! What every bench of this folder begins and ends with.

use std::error::Error;
use std::process::ExitCode;

use executord::floor::two_cpus;

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

/// The producer's CPU and the sidecar's: as asked, else the first two that are allowed.
pub(crate) fn cpus(asked: &[u32]) -> Result<(u32, u32), Box<dyn Error>> {
    match *asked {
        [] => Ok(two_cpus()?),
        [producer, sidecar] => Ok((producer, sidecar)),
        _ => Err("--cpus takes two numbers, as in --cpus 0,1".into()),
    }
}
