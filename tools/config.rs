//! What is in force, setting by setting: a flag, or else a variable, or else the config file, or else the default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config_file;
use crate::settings::{SETTINGS, Settings};

/// The variable that names the config file.
pub(crate) const CONFIG_VARIABLE: &str = "EXECUTOR_CONFIG";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This flag or argument.
    Flag(&'static str),
    /// This variable.
    Environment(String),
    /// A line of the config file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Nobody said anything.
    Default,
}

/// Why the settings cannot be told. Each names the place of the mistake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the config file {path}", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {why}", path = path.display())]
    File { path: PathBuf, line: usize, why: String },
    #[error("{variable}={value}: {why}")]
    Variable { variable: String, value: String, why: String },
}

/// Settings with their sources.
#[derive(Debug)]
pub(crate) struct Config {
    /// What was chosen, by whomever.
    pub(crate) settings: Settings,
    /// By whom, one for each row of [`SETTINGS`].
    pub(crate) sources: Vec<Source>,
    /// The config file.
    pub(crate) file: Option<PathBuf>,
}

impl Config {
    /// Only flags count.
    pub(crate) fn of_flags(flags: &Settings) -> Self {
        let source = |setting: &crate::settings::Setting| match (setting.value)(flags) {
            Some(_) => Source::Flag(setting.flag),
            None => Source::Default,
        };
        Self { settings: flags.clone(), sources: SETTINGS.iter().map(source).collect(), file: None }
    }

    /// Flags over the environment over the file. What a flag overrides is checked all the same: a mistake is told where
    /// it is made, and not first on the day the flag is dropped. An empty variable is none.
    ///
    /// # Errors
    ///
    /// A variable or the file is wrong.
    pub(crate) fn load(
        flags: &Settings,
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let file = file.map(Path::to_owned).or_else(|| variable(CONFIG_VARIABLE).map(PathBuf::from));
        let entries = match &file {
            Some(path) => config_file::read(path)?,
            None => Vec::new(),
        };
        let mut config = Self { file, ..Self::of_flags(flags) };
        for (setting, source) in SETTINGS.iter().zip(&mut config.sources) {
            let name = setting.variable();
            let of_variable = match variable(&name) {
                None => None,
                Some(value) => {
                    let text = value.to_string_lossy().into_owned();
                    if let Err(why) = (setting.read)(&mut Settings::default(), &text) {
                        return Err(ConfigError::Variable { variable: name, value: text, why });
                    }
                    Some((text, Source::Environment(name)))
                }
            };
            let entry = || {
                let entry = entries.iter().find(|entry| entry.name == setting.name)?;
                Some((entry.text.clone(), Source::File { path: config.file.clone()?, line: entry.line }))
            };
            if *source == Source::Default
                && let Some((text, from)) = of_variable.or_else(entry)
                && (setting.read)(&mut config.settings, &text).is_ok()
            {
                *source = from;
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::one_line;

    fn load(flags: &Settings, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let value =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Config::load(flags, None, value)
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_an_empty_variable_is_none() {
        let flags = Settings { lanes: Some(3), ..Settings::default() };
        let environment = [
            ("EXECUTOR_LANES", "5"),
            ("EXECUTOR_CAPACITY", "64"),
            ("EXECUTOR_IDLE", ""),
            ("EXECUTOR_CPU", "2, 3"),
            ("EXECUTOR_NUMBER", "many"),
        ];
        let config = load(&flags, &environment).unwrap();
        assert_eq!((config.settings.lanes, config.settings.capacity, config.settings.idle), (Some(3), Some(64), None));
        assert_eq!(config.settings.cpus, [2, 3]);
        let source = |name| {
            let mut rows = SETTINGS.iter().zip(&config.sources);
            rows.find(|(setting, _)| setting.name == name).unwrap().1.clone()
        };
        assert_eq!(source("lanes"), Source::Flag("--lanes"));
        assert_eq!(source("cpu"), Source::Environment("EXECUTOR_CPU".into()));
        assert_eq!(source("idle"), Source::Default);
    }

    #[test]
    fn a_wrong_variable_is_told_by_name_even_where_a_flag_overrides_it() {
        let flags = Settings { lanes: Some(3), ..Settings::default() };
        for settings in [Settings::default(), flags] {
            let error = load(&settings, &[("EXECUTOR_LANES", "0")]).unwrap_err();
            assert_eq!(one_line(&error), "EXECUTOR_LANES=0: not a number from 1 to 1024");
        }
    }

    #[test]
    fn every_setting_is_read_from_the_variable_of_its_name() {
        for setting in &SETTINGS {
            let text = if setting.name == "instance" { "a.b" } else { "wrong" };
            let error = load(&Settings::default(), &[(&setting.variable(), text)]).unwrap_err();
            assert!(one_line(&error).starts_with(&format!("{}={text}: ", setting.variable())), "{error}");
        }
    }
}
