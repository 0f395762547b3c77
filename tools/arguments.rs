//! Arguments of the programs: help as clap prints it, a mistake as one line with its cure.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::exit::{FAILED, USAGE, failed, is_read};

/// Reads the arguments of the process. Where there is nothing to go on with, help or the mistake is printed already
/// and the exit code comes back.
pub(crate) fn parse<P: Parser>() -> Result<P, ExitCode> {
    P::try_parse().map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return match is_read(error.print()) {
                Ok(_) => ExitCode::SUCCESS,
                Err(unprinted) => failed(P::command().get_name(), &unprinted, FAILED),
            };
        }
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
        } else {
            eprintln!("{}: {}", P::command().get_name(), one_line(&error.to_string()));
        }
        ExitCode::from(USAGE)
    })
}

/// clap's paragraphs as one line: the mistake, its tips, where to read on.
fn one_line(rendered: &str) -> String {
    let mut line = String::new();
    for part in rendered.lines().map(str::trim).take_while(|part| !part.starts_with("Usage:")) {
        let part = part.strip_prefix("error: ").unwrap_or(part);
        if part.is_empty() || part.starts_with("For more information") {
            continue;
        }
        if !line.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { "; " });
        }
        line.push_str(part);
    }
    line + "; try --help"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "tool")]
    struct Tool {
        #[arg(long, value_parser = crate::units::parse_bytes)]
        limit: u64,
        #[arg(long)]
        json: bool,
    }

    fn mistake(arguments: &[&str]) -> String {
        one_line(&Tool::try_parse_from(arguments).unwrap_err().to_string())
    }

    #[test]
    fn a_mistake_is_one_line_that_ends_with_where_to_read_on() {
        assert_eq!(
            mistake(&["tool", "--limit", "many"]),
            "invalid value 'many' for '--limit <LIMIT>': not a size; write for example 65536, 64KiB, 256MiB or 1GB; \
             try --help"
        );
        assert_eq!(
            mistake(&["tool"]),
            "the following required arguments were not provided: --limit <LIMIT>; try --help"
        );
        assert_eq!(
            mistake(&["tool", "--limit", "1", "--jsno"]),
            "unexpected argument '--jsno' found; tip: a similar argument exists: '--json'; try --help"
        );
    }
}
