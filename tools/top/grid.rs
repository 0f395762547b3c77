//! A table as rows that can be sorted: what stands in it, without where it stands on the screen.

use std::cmp::Ordering;
use std::collections::VecDeque;

use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};

use crate::colour::Mood;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Characters it needs; the last column takes what is left.
    pub(super) width: u16,
    /// Terminals narrower than that do without it.
    pub(super) from: u16,
}

/// What a row is sorted by in a column.
#[derive(Clone, Debug)]
pub(super) enum Key {
    /// By the alphabet.
    Word(String),
    /// The greatest first, what is unknown last.
    Number(Option<f64>),
}

/// What stands in a cell, before it is known how wide that is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Text(String, Mood),
    /// A number, which stands to the right.
    Number(String, Mood),
    /// Shares of 1 by mood, each with its own mark, so that it reads the same without colours.
    Bar(Vec<(f64, char, Mood)>),
    /// Values over time, the newest last.
    Spark(VecDeque<Option<u64>>),
}

/// A row: a content and a key for each column.
pub(super) type Row = Vec<(Content, Key)>;

/// What a screen shows.
#[derive(Debug, Default)]
pub(super) struct Grid {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
}

impl Key {
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Word(one), Self::Word(two)) => one.cmp(two),
            (Self::Number(one), Self::Number(two)) => {
                let rank = |number: &Option<f64>| number.unwrap_or(f64::NEG_INFINITY);
                rank(two).total_cmp(&rank(one))
            }
            (Self::Word(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Word(_)) => Ordering::Greater,
        }
    }
}

impl Grid {
    /// Sorts by a column; equals stay as they were.
    pub(super) fn sort(&mut self, column: usize, is_reversed: bool) {
        self.rows.sort_by(|one, two| {
            let order = match (one.get(column), two.get(column)) {
                (Some((_, one)), Some((_, two))) => one.order(two),
                _ => Ordering::Equal,
            };
            if is_reversed { order.reverse() } else { order }
        });
    }
}

/// How a mood looks, without colours too.
pub(super) fn style(mood: Mood, has_colours: bool) -> Style {
    let style = match mood {
        Mood::Bad => Style::new().add_modifier(Modifier::BOLD),
        Mood::Faint => Style::new().add_modifier(Modifier::DIM),
        Mood::Good | Mood::Warning | Mood::Plain => Style::new(),
    };
    match mood {
        Mood::Good if has_colours => style.fg(Color::Green),
        Mood::Warning if has_colours => style.fg(Color::Yellow),
        Mood::Bad if has_colours => style.fg(Color::Red),
        _ => style,
    }
}

impl Content {
    /// The cell as it stands in `width` characters.
    pub(super) fn line(&self, width: u16, has_colours: bool) -> Line<'static> {
        let span = |text: String, mood: &Mood| Span::styled(text, style(*mood, has_colours));
        match self {
            Self::Text(text, mood) => Line::from(span(text.clone(), mood)),
            Self::Number(text, mood) => Line::from(span(text.clone(), mood)).right_aligned(),
            Self::Bar(parts) => {
                let (mut spans, mut share, mut drawn) = (Vec::new(), 0.0, 0);
                for (part, mark, mood) in parts {
                    share += part.clamp(0.0, 1.0);
                    let until = ((share * f64::from(width)).round() as u16).min(width);
                    let marks = usize::from(until.saturating_sub(drawn));
                    spans.push(span(mark.to_string().repeat(marks), mood));
                    drawn = drawn.max(until);
                }
                Line::from(spans)
            }
            Self::Spark(values) => Line::from(spark(values, width.into())),
        }
    }
}

/// The newest values that have room, as bars; the highest is the greatest of them all.
fn spark(values: &VecDeque<Option<u64>>, width: usize) -> String {
    let set = bar::NINE_LEVELS;
    let levels = [
        set.one_eighth,
        set.one_quarter,
        set.three_eighths,
        set.half,
        set.five_eighths,
        set.three_quarters,
        set.seven_eighths,
        set.full,
    ];
    let most = values.iter().flatten().max().copied().unwrap_or(0);
    let skipped = values.len().saturating_sub(width);
    let mark = |value: &Option<u64>| match value {
        None => set.empty,
        Some(value) => {
            let level = (u128::from(*value) * 8).div_ceil(u128::from(most.max(1))).clamp(1, 8);
            levels.get(level as usize - 1).copied().unwrap_or(set.full)
        }
    };
    values.iter().skip(skipped).map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spark_shows_the_newest_that_have_room_against_the_greatest_of_all() {
        let values = VecDeque::from([Some(800), None, Some(0), Some(100), Some(400), Some(800)]);
        assert_eq!(spark(&values, 60), "█ ▁▁▄█");
        assert_eq!(spark(&values, 3), "▁▄█");
        assert_eq!(spark(&VecDeque::from([None, Some(u64::MAX), Some(1)]), 8), " █▁");
        assert_eq!((spark(&VecDeque::new(), 8).as_str(), spark(&values, 0).as_str()), ("", ""));
    }

    #[test]
    fn the_parts_of_a_bar_fill_its_width_whatever_they_are() {
        let parts = |parts: &[f64]| {
            let bar = Content::Bar(
                parts.iter().zip("#=.".chars()).map(|(share, mark)| (*share, mark, Mood::Plain)).collect(),
            );
            bar.line(10, false).to_string()
        };
        assert_eq!(parts(&[0.5, 0.25, 0.25]), "#####===..");
        assert_eq!(parts(&[0.0, 0.0, 1.0]), "..........");
        assert_eq!(parts(&[1.0, 1.0, 1.0]), "##########");
        assert_eq!(parts(&[f64::NAN, -1.0, 7.0]), "");
    }

    #[test]
    fn rows_are_sorted_by_a_column_and_what_is_unknown_stands_last() {
        let row = |name: &str, number: Option<f64>| -> Row {
            let text = |text: &str| Content::Text(text.to_owned(), Mood::Plain);
            vec![(text(name), Key::Word(name.to_owned())), (text(""), Key::Number(number))]
        };
        let mut grid =
            Grid { columns: Vec::new(), rows: vec![row("b", None), row("c", Some(1.0)), row("a", Some(2.0))] };
        let names =
            |grid: &Grid| -> String { grid.rows.iter().map(|row| row[0].0.line(9, false).to_string()).collect() };
        for (column, is_reversed, expected) in
            [(0, false, "abc"), (1, false, "acb"), (1, true, "bca"), (7, false, "bca")]
        {
            grid.sort(column, is_reversed);
            assert_eq!(names(&grid), expected, "column {column}, {is_reversed}");
        }
    }
}
