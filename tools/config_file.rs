//! A config file: TOML whose keys are the names of the settings.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::ConfigError;
use crate::settings::{Form, SETTINGS, Setting, Settings};

/// How alike two keys must be for one to be taken for a slip of the other, from 0 to 1.
const ALIKE: f64 = 0.8;
/// Characters of a wrong value that are shown.
const SHOWN: usize = 40;

/// What a file says of one setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The setting's name.
    pub(crate) name: &'static str,
    /// Its value as a flag would have it.
    pub(crate) text: String,
    /// Where it stands, from 1.
    pub(crate) line: usize,
}

/// Reads a file.
///
/// # Errors
///
/// It cannot be read, is no TOML, or has an unknown key or a wrong value: the first of them.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let input =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &input)
}

fn parse(path: &Path, input: &str) -> Result<Vec<Entry>, ConfigError> {
    let line = |span: Range<usize>| 1 + input.bytes().take(span.start).filter(|&byte| byte == b'\n').count();
    let wrong = |span: Range<usize>, why: String| ConfigError::File { path: path.to_owned(), line: line(span), why };
    let table = DeTable::parse(input).map_err(|error| {
        // At the end of the text, where something is missing, there is no line any more.
        let end = input.trim_end().len();
        wrong(error.span().unwrap_or(end..end), error.message().to_owned())
    })?;
    let mut pairs: Vec<(&Spanned<_>, &Spanned<DeValue<'_>>)> = table.get_ref().iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
        let name = key.get_ref();
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
            return Err(wrong(key.span(), format!("unknown key {name:?}; {}", cure(name))));
        };
        let raw = input.get(value.span()).unwrap_or_default();
        let checked = text_of(setting, value.get_ref())
            .and_then(|text| (setting.read)(&mut Settings::default(), &text).map(|()| text));
        match checked {
            Ok(text) => Ok(Entry { name: setting.name, text, line: line(key.span()) }),
            Err(why) => Err(wrong(key.span(), format!("{name} = {}: {why}", shown(raw)))),
        }
    };
    pairs.into_iter().map(entry).collect()
}

/// A value of the right type as a flag would have it.
fn text_of(setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    let integer = |value: &DeValue<'_>| {
        let number = value.as_integer()?;
        i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
    };
    let string = || value.as_str().map(str::to_owned);
    let text = match setting.form {
        Form::Text => string(),
        Form::Count => integer(value),
        Form::Size | Form::Time => string().or_else(|| integer(value)),
        Form::Flag => value.as_bool().map(|flag| flag.to_string()),
        Form::Cpus => match value.as_array() {
            Some(cpus) => {
                cpus.iter().map(|cpu| integer(cpu.get_ref())).collect::<Option<Vec<_>>>().map(|c| c.join(","))
            }
            None => integer(value),
        },
    };
    text.ok_or_else(|| format!("not {}", setting.form.name()))
}

/// The key that was meant, or all there are.
fn cure(found: &str) -> String {
    let alike = |setting: &&Setting| strsim::jaro_winkler(found, setting.name);
    let nearest = SETTINGS.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match nearest.filter(|setting| alike(setting) >= ALIKE) {
        Some(setting) => format!("the nearest is {:?}", setting.name),
        None => format!("known are {}", SETTINGS.map(|setting| setting.name).join(", ")),
    }
}

/// The first line of a value, cut where it is long.
fn shown(raw: &str) -> String {
    let line = raw.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(SHOWN).collect();
    if cut == raw { cut } else { cut + "…" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::one_line;

    fn mistake(input: &str) -> String {
        one_line(&parse(Path::new("a.toml"), input).unwrap_err())
    }

    #[test]
    fn every_form_of_a_value_reads_as_its_flag_would() {
        let input = "# sizes\nrequest-bytes = \"64KiB\"\nresponse-bytes = 0x1_00\n\nlanes = 1_000 # many\ncpu = [2, 3]\n\
                     timing = false\ndrain = 7\n\"idle\" = 'spin'\ninstance = \"\"\"\norders\"\"\"\n";
        let entries = parse(Path::new("a.toml"), input).unwrap();
        let read: Vec<_> = entries.iter().map(|entry| (entry.name, entry.text.as_str(), entry.line)).collect();
        let expected = [
            ("request-bytes", "64KiB", 2),
            ("response-bytes", "256", 3),
            ("lanes", "1000", 5),
            ("cpu", "2,3", 6),
            ("timing", "false", 7),
            ("drain", "7", 8),
            ("idle", "spin", 9),
            ("instance", "orders", 10),
        ];
        assert_eq!(read, expected);
        assert_eq!(parse(Path::new("a.toml"), "").unwrap(), []);
        assert_eq!(parse(Path::new("a.toml"), "cpu = 1").unwrap()[0].text, "1");
    }

    #[test]
    fn a_mistake_names_the_file_the_line_the_key_the_value_and_what_would_do() {
        for (input, says) in [
            ("\n\nlanes = 0", "a.toml:3: lanes = 0: not a number from 1 to 1024"),
            ("lanes = \"many\"", "a.toml:1: lanes = \"many\": not an integer"),
            ("lanes = 16.0", "a.toml:1: lanes = 16.0: not an integer"),
            ("lanes = 99999999999999999999", "a.toml:1: lanes = 99999999999999999999: not an integer"),
            ("pinned = \"false\"", "a.toml:1: pinned = \"false\": not true or false"),
            ("instance = 5", "a.toml:1: instance = 5: not a string"),
            ("cpu = []", "a.toml:1: cpu = []: not a number from 0 to 1023; write a CPU, or several such as 2,3"),
            ("cpu = [\n  1,\n  \"2\"]", "a.toml:1: cpu = […: not an integer or a list of integers"),
            ("lane = 16", "a.toml:1: unknown key \"lane\"; the nearest is \"lanes\""),
            ("request_bytes = 64", "a.toml:1: unknown key \"request_bytes\"; the nearest is \"request-bytes\""),
            ("[executor]\nlanes = 16", "a.toml:1: unknown key \"executor\"; known are instance, lanes, capacity, "),
            (
                "idle = \"doze\"",
                "no idle strategy is called \"doze\"; choose adaptive, spin, spin-then-yield, yield or sleep",
            ),
            ("json = true\n\nlanes = 1\nlanes = 2", "a.toml:4: duplicate key"),
            ("lanes = 1\ncapacity = \n", "a.toml:2: "),
            ("lanes", "a.toml:1: "),
        ] {
            let line = mistake(input);
            assert!(line.contains(says), "{input:?}: {line:?} does not say {says:?}");
        }
    }

    #[test]
    fn the_readme_shows_a_file_that_can_be_read() {
        let readme = include_str!("../README.md");
        let shown = readme.split("```toml\n").find(|block| block.starts_with("# orders.toml")).unwrap();
        let entries = parse(Path::new("README.md"), shown.split("```").next().unwrap()).unwrap();
        assert_eq!(entries.len(), 7);
    }

    #[test]
    fn of_several_mistakes_the_first_of_the_file_is_told() {
        assert!(mistake("pinned = 1\ncapacity = 3\nbadly = 1").starts_with("a.toml:1: pinned"));
    }
}
