//! `executord config`: what would be in force, and who says so. It starts nothing and writes nothing.

use std::collections::BTreeSet;

use comfy_table::{Table, presets};
use executor_shm::inspect::{Inspection, Inspector};
use serde_json::{Map, Value, json};

use crate::config::{CONFIG_VARIABLE, Config, Source};
use crate::settings::{SETTINGS, Setting};

const PREFIX: &str = "EXECUTOR_";

/// A setting as it is shown.
struct Row<'a> {
    setting: &'a Setting,
    value: Value,
    /// One word: flag, environment, file, default or instance.
    source: &'static str,
    /// Which flag, variable or line.
    at: Option<String>,
    /// Why the default is what it is.
    reason: &'static str,
}

/// The settings as a table for people or as JSON. `variables` are the names of all environment variables.
pub(crate) fn view(config: &Config, variables: impl Iterator<Item = String>, as_json: bool) -> String {
    let instance = config.settings.instance.clone().unwrap_or_default();
    // Sizes of files that are there stay as they are. Files that cannot be read are for `run` to complain about.
    let files = Inspector::open(&instance).ok().map(|inspector| inspector.look());
    let rows: Vec<Row<'_>> = SETTINGS
        .iter()
        .zip(&config.sources)
        .map(|(setting, source)| row(config, setting, source, files.as_ref()))
        .collect();
    let read: BTreeSet<String> = SETTINGS.iter().map(Setting::variable).chain([CONFIG_VARIABLE.to_owned()]).collect();
    let ignored: BTreeSet<String> = variables.filter(|name| name.starts_with(PREFIX) && !read.contains(name)).collect();
    match as_json {
        true => format!("{}\n", json_of(config, &rows, &ignored)),
        false => text_of(config, &rows, &ignored),
    }
}

fn row<'a>(config: &Config, setting: &'a Setting, source: &Source, files: Option<&Inspection>) -> Row<'a> {
    let chosen = (setting.value)(&config.settings);
    let (source, at) = match source {
        Source::Flag(flag) => ("flag", Some((*flag).to_owned())),
        Source::Environment(variable) => ("environment", Some(variable.clone())),
        Source::File { path, line } => ("file", Some(format!("{}:{line}", path.display()))),
        Source::Default => ("default", None),
    };
    if let Some(value) = chosen {
        return Row { setting, value, source, at, reason: "" };
    }
    let standard = (setting.standard)(&config.settings, files);
    let source = if standard.of_files { "instance" } else { source };
    Row { setting, value: standard.value, source, at, reason: standard.reason }
}

fn json_of(config: &Config, rows: &[Row<'_>], ignored: &BTreeSet<String>) -> Value {
    let settings: Map<String, Value> = rows
        .iter()
        .map(|row| {
            let reason = Some(row.reason).filter(|reason| !reason.is_empty());
            let shown = json!({
                "value": row.value,
                "source": row.source,
                "at": row.at,
                "reason": reason,
                "flag": row.setting.flag,
                "variable": row.setting.variable(),
            });
            (row.setting.name.to_owned(), shown)
        })
        .collect();
    let file = config.file.as_ref().map(|path| path.display().to_string());
    json!({ "config": file, "settings": settings, "ignored_variables": ignored })
}

fn text_of(config: &Config, rows: &[Row<'_>], ignored: &BTreeSet<String>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["setting", "value", "from"]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for row in rows {
        let from = match (row.source, &row.at) {
            ("instance", _) => "the files of the instance that are there".to_owned(),
            (_, Some(at)) if row.source == "flag" && !at.starts_with('-') => format!("argument {at}"),
            (source, Some(at)) => format!("{source} {at}"),
            (source, None) if row.reason.is_empty() => source.to_owned(),
            (source, None) => format!("{source}: {}", row.reason),
        };
        table.add_row([row.setting.name.to_owned(), row.setting.text(&row.value), from]);
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    text += &match &config.file {
        Some(path) => format!("config file: {}\n", path.display()),
        None => format!("config file: none; name one with --config FILE or {CONFIG_VARIABLE}\n"),
    };
    let variables: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    text += &format!("variables that are read: {CONFIG_VARIABLE}, {}\n", variables.join(", "));
    if !ignored.is_empty() {
        let ignored: Vec<&str> = ignored.iter().map(String::as_str).collect();
        text += &format!("set and not read: {}\n", ignored.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use executor_shm::InstanceName;

    fn config() -> Config {
        let instance = InstanceName::new("no-such-instance-config-view").unwrap();
        let settings = Settings { instance: Some(instance), request_bytes: Some(65_536), ..Settings::default() };
        let mut config = Config::of_flags(&settings);
        config.file = Some("x/a.toml".into());
        for (setting, source) in SETTINGS.iter().zip(&mut config.sources) {
            if setting.name == "request-bytes" {
                *source = Source::File { path: "x/a.toml".into(), line: 3 };
            }
        }
        config
    }

    #[test]
    fn a_table_says_of_each_setting_its_value_and_who_says_so() {
        let variables = ["EXECUTOR_NUMBER", "EXECUTOR_LANES", "EXECUTOR_CONFIG", "PATH"].map(str::to_owned);
        let text = view(&config(), variables.into_iter(), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + SETTINGS.len() + 3, "{text}");
        let words = |at: usize| lines[at].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(0), "setting value from");
        assert_eq!(words(1), "instance no-such-instance-config-view argument INSTANCE");
        assert_eq!(words(2), "lanes 16 default");
        assert_eq!(words(4), "request-bytes 64 KiB file x/a.toml:3");
        assert!(words(7).ends_with("default: the last allowed CPU that no live instance uses"), "{text}");
        let below = &lines[1 + SETTINGS.len()..];
        assert_eq!(below[0], "config file: x/a.toml");
        assert!(below[1].contains("EXECUTOR_CONFIG, EXECUTOR_INSTANCE, EXECUTOR_LANES"), "{text}");
        assert_eq!(below[2], "set and not read: EXECUTOR_NUMBER");
    }

    #[test]
    fn without_pinning_no_cpu_is_foretold() {
        let config = Config::of_flags(&Settings { pinned: Some(false), ..config().settings });
        let json: Value = serde_json::from_str(&view(&config, std::iter::empty(), true)).unwrap();
        let cpu = &json["settings"]["cpu"];
        assert_eq!((&cpu["value"], &cpu["reason"]), (&json!([]), &json!("one worker wherever the kernel puts it")));
        assert_eq!((&json["config"], &json["ignored_variables"]), (&Value::Null, &json!([])));
    }
}
