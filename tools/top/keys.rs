//! Keys as a terminal sends them, in raw mode: bytes, and sequences that begin with an escape.
//!
//! Of those only what `top` knows is looked for; all others are passed over whole. It is not crossterm's reading, which waits
//! for edges of readiness: of a key that comes together with a change of size it loses the edge, and the key with it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

const ESCAPE: u8 = 0x1b;

/// The keys of what was read in one go. A sequence that is cut off at its end is taken for the escape key.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<KeyEvent> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (code, rest) = match (first, rest) {
            (&ESCAPE, [b'[', rest @ ..]) => sequence(rest),
            (&ESCAPE, [b'O', last, rest @ ..]) => (letter(*last), rest),
            (&ESCAPE, _) => (Some(KeyCode::Esc), rest),
            (b'\t', _) => (Some(KeyCode::Tab), rest),
            (byte @ b' '..=b'~', _) => (Some(KeyCode::Char(char::from(*byte))), rest),
            (byte @ 1..=26, _) => {
                let letter = char::from(b'a' + *byte - 1);
                keys.push(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL));
                (None, rest)
            }
            _ => (None, rest),
        };
        keys.extend(code.map(|code| KeyEvent::new(code, KeyModifiers::NONE)));
        bytes = rest;
    }
    keys
}

/// What follows `ESC [`: numbers and semicolons, then one letter or tilde.
fn sequence(bytes: &[u8]) -> (Option<KeyCode>, &[u8]) {
    let Some(end) = bytes.iter().position(|byte| (0x40..=0x7e).contains(byte)) else {
        return (Some(KeyCode::Esc), &[]);
    };
    let (numbers, rest) = bytes.split_at(end);
    let (last, rest) = rest.split_first().map_or((0, rest), |(last, rest)| (*last, rest));
    let code = match (numbers, last) {
        (b"5", b'~') => Some(KeyCode::PageUp),
        (b"6", b'~') => Some(KeyCode::PageDown),
        (b"1" | b"7", b'~') => Some(KeyCode::Home),
        (b"", last) => letter(last),
        _ => None,
    };
    (code, rest)
}

fn letter(last: u8) -> Option<KeyCode> {
    Some(match last {
        b'A' => KeyCode::Up,
        b'B' => KeyCode::Down,
        b'C' => KeyCode::Right,
        b'D' => KeyCode::Left,
        b'H' => KeyCode::Home,
        b'Z' => KeyCode::BackTab,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_sequences_and_unknown_ones_are_passed_over() {
        let codes = |bytes: &[u8]| keys(bytes).into_iter().map(|key| key.code).collect::<Vec<_>>();
        assert_eq!(codes(b"q?"), [KeyCode::Char('q'), KeyCode::Char('?')]);
        assert_eq!(codes(b"\x1b[A\x1bOB\x1b[C\x1b[D"), [KeyCode::Up, KeyCode::Down, KeyCode::Right, KeyCode::Left]);
        assert_eq!(
            codes(b"\t\x1b[Z\x1b[5~\x1b[6~\x1b[H"),
            [KeyCode::Tab, KeyCode::BackTab, KeyCode::PageUp, KeyCode::PageDown, KeyCode::Home]
        );
        assert_eq!(codes(b"\x1b"), [KeyCode::Esc]);
        assert_eq!(codes(b"\x1b[15;2~1\x1b[1;5Aq"), [KeyCode::Char('1'), KeyCode::Char('q')]);
        assert_eq!(codes("é\u{7f}\0".as_bytes()), []);
        let control_c = keys(b"\x03");
        assert_eq!(control_c, [KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)]);
        for cut in 1..6 {
            let _ = keys(&b"\x1b[1;5A"[..cut]);
        }
    }
}
