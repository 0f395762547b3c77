//! The errors of a worker's tasks, told apart: how often each came, when first and when last.
//!
//! Two errors are the same if handler, status, detail and text are, where a number in a text is as good as any other:
//! "order 17 is unknown" and "order 18 is unknown" are one. Of more than there is room for, the one seen longest ago goes.

use std::sync::atomic::AtomicU64;

use super::{ERROR_WORDS, ERRORS, ERRORS_AT, HeadWord, count, next, write};

/// Bytes of a text that are kept.
pub const ERROR_TEXT: usize = (ERROR_WORDS - 8) * 8;

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorEntry {
    /// What of handler, status, detail and text tells it from others.
    pub key: u64,
    /// How often it came.
    pub count: u64,
    /// When it came first, in ticks.
    pub first_at: u64,
    /// When it came last, in ticks.
    pub last_at: u64,
    /// The handler that the task asked for.
    pub handler_id: u32,
    /// Status byte of the task.
    pub status: u8,
    /// Its detail byte.
    pub detail: u8,
    /// The lane of the last one.
    pub lane: u32,
    /// Its position there.
    pub position: u64,
    /// The text of the last one, cut to [`ERROR_TEXT`] bytes.
    pub text: String,
    /// Whether it was longer.
    pub is_cut: bool,
}

impl ErrorEntry {
    pub(super) fn from_words(words: [u64; ERROR_WORDS]) -> Self {
        let [_, key, count, first_at, last_at, what, place, position, text @ ..] = words;
        let bytes: Vec<u8> = text.iter().flat_map(|word| word.to_le_bytes()).collect();
        let length = (place >> 32) as usize;
        let text = bytes.get(..length.min(ERROR_TEXT)).unwrap_or_default();
        Self {
            key,
            count,
            first_at,
            last_at,
            handler_id: what as u32,
            status: (what >> 32) as u8,
            detail: (what >> 40) as u8,
            lane: place as u32,
            position,
            text: String::from_utf8_lossy(text).into_owned(),
            is_cut: length > ERROR_TEXT,
        }
    }
}

/// An error that comes now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure<'a> {
    pub(crate) handler_id: u32,
    pub(crate) status: u8,
    pub(crate) detail: u8,
    pub(crate) lane: u32,
    pub(crate) position: u64,
    pub(crate) text: &'a str,
}

/// What the worker knows of the rows it has written.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    key: u64,
    count: u64,
    first_at: u64,
    last_at: u64,
}

/// The errors of one worker, in private; the rows are for others.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    known: [Known; ERRORS],
}

impl ErrorLog {
    /// Goes on with what an earlier life left in the recorder at `recorder`.
    pub(crate) fn resume(meter: &[AtomicU64], recorder: usize) -> Self {
        let word = |row: usize, word: usize| crate::meter::read(meter, recorder + ERRORS_AT + row * ERROR_WORDS + word);
        let known = std::array::from_fn(|row| {
            if word(row, 0) == 0 {
                return Known::default();
            }
            Known { key: word(row, 1), count: word(row, 2), first_at: word(row, 3), last_at: word(row, 4) }
        });
        Self { known }
    }

    #[cold]
    pub(crate) fn note(&mut self, meter: &[AtomicU64], recorder: usize, now: u64, failure: &Failure<'_>) {
        let text = failure.text.as_bytes();
        let kept = text.get(..ERROR_TEXT).unwrap_or(text);
        let key = key(failure, kept);
        let row = self.known.iter().position(|known| known.key == key).unwrap_or_else(|| self.oldest());
        let Some(known) = self.known.get_mut(row) else { return };
        if known.key != key {
            if known.count != 0 {
                let forgotten = next(meter, recorder, HeadWord::ErrorsForgotten);
                count(meter, recorder, HeadWord::ErrorsForgotten, forgotten);
            }
            *known = Known { key, count: 0, first_at: now, last_at: now };
        }
        known.count = known.count.saturating_add(1);
        known.last_at = now;
        let mut words = [0; ERROR_WORDS];
        let what = u64::from(failure.handler_id) | u64::from(failure.status) << 32 | u64::from(failure.detail) << 40;
        let place = u64::from(failure.lane) | (text.len().min(u32::MAX as usize) as u64) << 32;
        let head = [0, key, known.count, known.first_at, now, what, place, failure.position];
        let (first, rest) = words.split_at_mut(8);
        first.copy_from_slice(&head);
        for (into, chunk) in rest.iter_mut().zip(kept.chunks(8)) {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(chunk).for_each(|(into, byte)| *into = *byte);
            *into = u64::from_le_bytes(bytes);
        }
        let number = next(meter, recorder, HeadWord::Errors);
        write(meter, recorder + ERRORS_AT + row * ERROR_WORDS, number, &words);
        count(meter, recorder, HeadWord::Errors, number);
    }

    /// A row that is free, or the one that was seen longest ago.
    fn oldest(&self) -> usize {
        let by_age = self.known.iter().enumerate().min_by_key(|(_, known)| (known.count != 0, known.last_at));
        by_age.map_or(0, |(row, _)| row)
    }
}

/// FNV-1a over what tells an error from others, never 0.
fn key(failure: &Failure<'_>, text: &[u8]) -> u64 {
    let mut hash = 14_695_981_039_346_656_037u64;
    let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211);
    failure.handler_id.to_le_bytes().into_iter().for_each(&mut take);
    [failure.status, failure.detail].into_iter().for_each(&mut take);
    let mut in_number = false;
    for &byte in text {
        let is_digit = byte.is_ascii_digit();
        if !(is_digit && in_number) {
            take(if is_digit { b'0' } else { byte });
        }
        in_number = is_digit;
    }
    hash | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{self, MeterLayout};
    use crate::recorder::reader;

    const LAYOUT: MeterLayout = MeterLayout { workers: 1, handlers: 1, lanes: 1 };

    fn failure(text: &str) -> Failure<'_> {
        Failure { handler_id: 7, status: 2, detail: 3, lane: 5, position: 9, text }
    }

    #[test]
    fn errors_that_differ_in_numbers_alone_are_counted_together() {
        let meter = meter::heap(&LAYOUT);
        let at = LAYOUT.recorder(0);
        let mut log = ErrorLog::resume(&meter, at);
        log.note(&meter, at, 10, &failure("order 17 is unknown"));
        log.note(&meter, at, 20, &failure("order 4 is unknown"));
        log.note(&meter, at, 30, &failure("order is unknown"));
        log.note(&meter, at, 40, &Failure { detail: 4, ..failure("order is unknown") });
        let mut rows = reader(&LAYOUT, &meter).errors(0).whole;
        rows.sort_by_key(|row| row.first_at);
        let told: Vec<_> = rows.iter().map(|row| (row.text.as_str(), row.count, row.first_at, row.last_at)).collect();
        assert_eq!(
            told,
            [("order 4 is unknown", 2, 10, 20), ("order is unknown", 1, 30, 30), ("order is unknown", 1, 40, 40)]
        );
        assert_eq!(
            (rows[0].handler_id, rows[0].status, rows[0].detail, rows[0].lane, rows[0].position),
            (7, 2, 3, 5, 9)
        );
    }

    #[test]
    fn of_more_errors_than_there_is_room_for_the_one_seen_longest_ago_goes_and_is_counted() {
        let meter = meter::heap(&LAYOUT);
        let at = LAYOUT.recorder(0);
        let mut log = ErrorLog::resume(&meter, at);
        let texts: Vec<String> = (0..=ERRORS).map(|i| "x".repeat(i + 1)).collect();
        for (i, text) in texts.iter().enumerate().take(ERRORS) {
            log.note(&meter, at, 100 + i as u64, &failure(text));
        }
        log.note(&meter, at, 200, &failure(&texts[0]));
        log.note(&meter, at, 201, &failure(&texts[ERRORS]));
        let reader = reader(&LAYOUT, &meter);
        let rows = reader.errors(0).whole;
        assert_eq!(rows.len(), ERRORS);
        assert!(rows.iter().all(|row| row.text != texts[1]), "the second was seen longest ago");
        assert_eq!(reader.head(0, HeadWord::ErrorsForgotten), 1);
    }

    #[test]
    fn a_worker_that_starts_again_goes_on_counting() {
        let meter = meter::heap(&LAYOUT);
        let at = LAYOUT.recorder(0);
        ErrorLog::resume(&meter, at).note(&meter, at, 10, &failure("gone"));
        ErrorLog::resume(&meter, at).note(&meter, at, 20, &failure("gone"));
        let rows = reader(&LAYOUT, &meter).errors(0).whole;
        assert_eq!(rows.iter().map(|row| (row.count, row.first_at, row.last_at)).collect::<Vec<_>>(), [(2, 10, 20)]);
    }

    #[test]
    fn a_text_is_cut_where_there_is_no_more_room_and_says_so() {
        let meter = meter::heap(&LAYOUT);
        let at = LAYOUT.recorder(0);
        let mut log = ErrorLog::resume(&meter, at);
        for text in ["é".repeat(ERROR_TEXT), "y".repeat(ERROR_TEXT), String::new()] {
            log.note(&meter, at, 1, &failure(&text));
            let rows = reader(&LAYOUT, &meter).errors(0).whole;
            let row = rows.iter().find(|row| text.starts_with(row.text.trim_end_matches('\u{fffd}'))).unwrap();
            assert_eq!(row.is_cut, text.len() > ERROR_TEXT);
        }
    }
}
