//! Colours for people: few, each with one meaning, and always a second sign of what a word or a number says already.
//!
//! Text is made with them; [`print`] strips them where nobody would see them.

use std::fmt::Display;
use std::io::Write;

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use comfy_table::{Attribute, Cell, Color};

use crate::exit::{PrintError, is_read};

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should be.
    Good,
    /// Worth a look: nearly full, or on its way to another state.
    Warning,
    /// Lost, damaged, failed, full.
    Bad,
    /// Nothing goes on there.
    Faint,
    /// Nothing to say.
    Plain,
}

impl Mood {
    /// How full something is: a warning from three quarters on, bad where there is no room.
    pub(crate) fn of_fill(used: u64, room: u64) -> Self {
        match used {
            _ if used >= room => Self::Bad,
            _ if used.saturating_mul(4) >= room.saturating_mul(3) => Self::Warning,
            _ => Self::Plain,
        }
    }

    /// Text in it.
    pub(crate) fn text(self, text: impl Display) -> String {
        let style = match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Plain => Style::new(),
        };
        format!("{style}{text}{style:#}")
    }

    /// A cell of a table in it.
    pub(crate) fn cell(self, text: impl ToString) -> Cell {
        let cell = Cell::new(text);
        match self {
            Self::Good => cell.fg(Color::Green),
            Self::Warning => cell.fg(Color::Yellow),
            Self::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            Self::Faint => cell.add_attribute(Attribute::Dim),
            Self::Plain => cell,
        }
    }
}

/// Writes to standard output, with colours as they were asked for: `auto` is on a terminal, and never with `NO_COLOR`.
///
/// # Errors
///
/// See [`is_read`].
pub(crate) fn print(text: &str, colours: ColorChoice) -> Result<(), PrintError> {
    let choice = match colours {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    let mut out = AutoStream::new(std::io::stdout().lock(), choice);
    is_read(out.write_all(text.as_bytes()).and_then(|()| out.flush())).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_is_bad_and_what_is_nearly_full_is_a_warning() {
        for (used, mood) in [(0, Mood::Plain), (5, Mood::Plain), (6, Mood::Warning), (7, Mood::Warning), (8, Mood::Bad)]
        {
            assert_eq!(Mood::of_fill(used, 8), mood, "{used} of 8");
        }
        assert_eq!(Mood::of_fill(u64::MAX, u64::MAX), Mood::Bad);
    }

    #[test]
    fn a_mood_ends_where_its_text_ends_and_plain_text_has_none() {
        assert_eq!(Mood::Plain.text("8 tasks"), "8 tasks");
        let bad = Mood::Bad.text("dead");
        assert!(bad.starts_with('\u{1b}') && bad.contains("dead") && bad.ends_with("\u{1b}[0m"), "{bad:?}");
    }
}
