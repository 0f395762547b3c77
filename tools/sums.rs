//! Digests with their paths as `sha256sum` prints and reads them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One line for `sha256sum -c`: bytes of the path as they are, save those it escapes.
pub(crate) fn sum_line(path: &Path, digest: &str) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let mut line = Vec::with_capacity(digest.len() + path.len() + 4);
    let escaped = path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    line.extend(escaped.then_some(b'\\'));
    line.extend(digest.as_bytes());
    line.extend(b"  ");
    for &byte in path {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            byte => line.push(byte),
        }
    }
    line.push(b'\n');
    line
}

/// A path that cannot play tricks on a terminal.
pub(crate) fn printable(path: &Path) -> String {
    path.to_string_lossy().chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_escaped_only_where_sha256sum_escapes_it() {
        assert_eq!(sum_line(Path::new("a b"), "00"), b"00  a b\n");
        assert_eq!(sum_line(Path::new("a\\b\nc\rd"), "00"), b"\\00  a\\\\b\\nc\\rd\n");
        assert_eq!(printable(Path::new("a\nb\u{1b}[0m")), "a?b?[0m");
    }
}
