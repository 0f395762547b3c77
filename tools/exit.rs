//! How a program says its last word: exit codes, one line for an error.

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// What was asked failed.
pub(crate) const FAILED: u8 = 1;
/// The arguments are wrong.
pub(crate) const USAGE: u8 = 2;
/// Somebody pressed Ctrl-C: 128 and the signal's number, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// What every `--help` ends with.
pub(crate) const CODES: &str = "Exit codes:\n  0  ok\n  1  what was asked failed\n  2  wrong arguments";

/// Prints an error with its causes as one line and makes the exit code of it.
pub(crate) fn failed(program: &str, error: &dyn Error, code: u8) -> ExitCode {
    eprintln!("{program}: {}", one_line(error));
    ExitCode::from(code)
}

/// An error with its causes. The number of a system error is left out: its words stand before it.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        if !line.ends_with(text) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(text);
        }
        next = error.source();
    }
    one_line_of(&line)
}

/// Text without line breaks.
pub(crate) fn one_line_of(text: &str) -> String {
    text.replace('\n', "; ")
}

/// What was asked is done, and nobody was told.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct PrintError(#[source] std::io::Error);

/// What came of a write to standard output: whether anybody reads. A reader that has gone is no mistake of ours.
///
/// # Errors
///
/// It could not be written otherwise: no room, say.
pub(crate) fn is_read(written: std::io::Result<()>) -> Result<bool, PrintError> {
    match written {
        Ok(()) => Ok(true),
        Err(gone) if gone.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(PrintError(error)),
    }
}

/// Writes to standard output.
///
/// # Errors
///
/// See [`is_read`].
pub(crate) fn print(text: &[u8]) -> Result<(), PrintError> {
    let mut out = std::io::stdout().lock();
    is_read(out.write_all(text).and_then(|()| out.flush())).map(|_| ())
}

/// Prints a program's last word and makes the exit code of it: `code`, unless nobody could be told.
pub(crate) fn printed(program: &str, text: &[u8], code: u8) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::from(code),
        Err(error) => failed(program, &error, FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the door")]
    struct Door(#[source] std::io::Error);

    #[test]
    fn an_error_is_one_line_with_its_causes_and_without_numbers() {
        let error = Door(std::fs::read("/nowhere/at/all").unwrap_err());
        assert_eq!(one_line(&error), "cannot open the door: No such file or directory");
        assert_eq!(one_line(&std::io::Error::other("two\nlines")), "two; lines");
    }
}
