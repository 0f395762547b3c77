//! Rust text taken apart into code and comments, well enough for rules that look at lines.

/// A Rust source taken apart, line by line: code without its comments and the insides of its literals, and comments alone.
pub(crate) struct Source {
    pub(crate) code: Vec<String>,
    pub(crate) comments: Vec<String>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let (mut code, mut comments) = (String::new(), String::new());
        let mut at = 0;
        while at < chars.len() {
            let (end, is_comment) = token_end(&chars, at);
            let is_literal = !is_comment && end > at + 1;
            for &c in &chars[at..end] {
                let (to_code, to_comments) = match c {
                    '\n' => (c, c),
                    _ if is_comment => (' ', c),
                    _ if is_literal => ('_', ' '),
                    _ => (c, ' '),
                };
                code.push(to_code);
                comments.push(to_comments);
            }
            at = end;
        }
        let lines = |text: String| text.split('\n').map(str::to_owned).collect();
        Self { code: lines(code), comments: lines(comments) }
    }

    /// The code without any white space, for what rustfmt may spread over lines.
    pub(crate) fn squeezed(&self) -> String {
        self.code.iter().flat_map(|line| line.chars()).filter(|c| !c.is_whitespace()).collect()
    }

    pub(crate) fn lifts_unsafe(&self) -> bool {
        let code = self.squeezed();
        code.contains("allow(unsafe_code") || code.contains("expect(unsafe_code")
    }
}

/// Where the comment or literal that begins at `at` ends, and whether it is a comment; any other character is one long.
fn token_end(chars: &[char], at: usize) -> (usize, bool) {
    let is = |place: usize, c: char| chars.get(place) == Some(&c);
    let find = |from: usize, end: &dyn Fn(usize) -> bool| (from..chars.len()).find(|&place| end(place));
    match chars[at] {
        '/' if is(at + 1, '/') => (find(at, &|place| is(place, '\n')).unwrap_or(chars.len()), true),
        '/' if is(at + 1, '*') => {
            let (mut depth, mut place) = (1, at + 2);
            while depth > 0 && place < chars.len() {
                let (opens, closes) = (is(place, '/') && is(place + 1, '*'), is(place, '*') && is(place + 1, '/'));
                depth = depth + usize::from(opens) - usize::from(closes);
                place += if opens || closes { 2 } else { 1 };
            }
            (place.min(chars.len()), true)
        }
        'r' if at == 0 || !is_word(chars[at - 1]) || matches!(chars[at - 1], 'b' | 'c') => {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            if !is(at + 1 + hashes, '"') {
                return (at + 1, false);
            }
            let closes = |place: usize| is(place, '"') && (1..=hashes).all(|hash| is(place + hash, '#'));
            (find(at + hashes + 2, &closes).map_or(chars.len(), |place| place + 1 + hashes), false)
        }
        // A lifetime is no literal: `'a` has no closing quote right behind one character.
        '\'' if !is(at + 1, '\\') && !is(at + 2, '\'') => (at + 1, false),
        quote @ ('"' | '\'') => {
            let mut place = at + 1;
            while place < chars.len() && chars[place] != quote {
                place += if chars[place] == '\\' { 2 } else { 1 };
            }
            ((place + 1).min(chars.len()), false)
        }
        _ => (at + 1, false),
    }
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands in `line` and is not part of a longer one.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_word)
            && !line[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

#[test]
fn comments_and_literals_are_told_from_code() {
    let text = "a \"b // \\\" c\" // d\n/* e /* f */ g */ 'h' '\"' &'i r#\"j \" k\"# br\"l\" '\\'' m";
    let source = Source::new(text);
    let letters = |lines: &[String]| lines.concat().replace([' ', '_'], "");
    assert_eq!(letters(&source.code), "a&'ibm");
    assert_eq!(letters(&source.comments), "//d/*e/*f*/g*/");
    assert_eq!(source.code.len(), text.lines().count());
}
