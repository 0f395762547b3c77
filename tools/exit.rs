//! How a program says its last word: exit codes, one line for an error.

use std::error::Error;
use std::io::Write;
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

/// Writes to standard output. A reader that has gone is no mistake of ours, so nothing comes back.
pub(crate) fn print(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text).and_then(|()| out.flush());
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
