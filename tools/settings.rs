//! What can be set of a sidecar: the flags, and one row for each in the table that everything else goes by.
//!
//! Flags are the fields of [`Settings`]. The config file, the environment and `executord config` know a setting only by
//! its row in [`SETTINGS`], so a new setting is a field and a row.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use executor_core::cpu;
use executor_core::idle::IdleStrategy;
use executor_core::record::LENGTH_MAX;
use executor_core::recorder::SLOW_AFTER;
use executor_core::worker::QUANTUM;
use executor_shm::hold::CPU_LATENCY_MAX_US;
use executor_shm::inspect::{Inspection, cpus_in_use};
use executor_shm::layout::Geometry;
use executor_shm::sidecar::DRAIN_TIME;
use executor_shm::{Group, InstanceName, RealTime};
use serde_json::{Value, json};

use crate::units::{bytes, parse_bytes, parse_time};

/// How to serve. `None`, and no CPU, where nobody chose.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Settings {
    /// The name that producers connect to [default: default].
    pub(crate) instance: Option<InstanceName>,
    /// The most lanes, that is producers at a time: 1 to 1024 [default: 16].
    #[arg(long, value_name = "N", value_parser = parse_lanes)]
    pub(crate) lanes: Option<u32>,
    /// Slots of a lane: a power of two from 2 to 65536 [default: 1024].
    #[arg(long, value_name = "SLOTS", value_parser = parse_capacity)]
    pub(crate) capacity: Option<u32>,
    /// The longest request, a multiple of 64 bytes [default: 256].
    #[arg(long, value_name = "SIZE", value_parser = parse_buffer)]
    pub(crate) request_bytes: Option<u32>,
    /// The longest response, a multiple of 64 bytes [default: 256].
    #[arg(long, value_name = "SIZE", value_parser = parse_buffer)]
    pub(crate) response_bytes: Option<u32>,
    /// Let in producers of other users that are members of this group, by its name or number [default: none].
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<Group>,
    /// Pin a worker to this CPU; repeat it for more workers [default: the last allowed CPU that no instance uses].
    #[arg(long = "cpu", value_name = "N", value_parser = parse_cpu)]
    pub(crate) cpus: Vec<u32>,
    /// What a worker does without work: adaptive, spin, spin-then-yield, yield or sleep [default: adaptive, with one CPU sleep].
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) idle: Option<IdleStrategy>,
    /// Read no clock: nothing is stamped and no latency is counted.
    #[arg(long = "no-timing", num_args = 0, default_missing_value = "false")]
    pub(crate) timing: Option<bool>,
    /// Record no histograms, bytes and times, no slow tasks, errors and events: some 10 ns less a task, and nobody can say later
    /// why a task was slow.
    #[arg(long = "no-recording", num_args = 0, default_missing_value = "false")]
    pub(crate) recording: Option<bool>,
    /// From submit to end, longer than this a task is slow: kept with what it waited for [default: 1ms].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) slow_after: Option<Duration>,
    /// Tasks a lane is served in one turn while others wait [default: 64].
    #[arg(long, value_name = "TASKS", value_parser = parse_quantum)]
    pub(crate) quantum: Option<u32>,
    /// Pin nothing: workers run wherever the kernel puts them.
    #[arg(long = "unpinned", num_args = 0, default_missing_value = "false")]
    pub(crate) pinned: Option<bool>,
    /// How long a stop may take to serve what was accepted before it [default: 5s].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) drain: Option<Duration>,
    /// Keep all CPUs out of any sleep that they are not back from within so many microseconds [default: none].
    #[arg(long, value_name = "US", value_parser = parse_cpu_latency, allow_negative_numbers = true)]
    pub(crate) cpu_latency: Option<u32>,
    /// Schedule workers before everything else, as fifo:PRIORITY or rr:PRIORITY, 1 to 99 [default: none].
    #[arg(long, value_name = "POLICY:PRIORITY")]
    pub(crate) real_time: Option<RealTime>,
    /// Lock all memory of the sidecar, so that nothing of it is paged out.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) lock_memory: Option<bool>,
    /// Serve metrics for Prometheus over HTTP at this address, such as 127.0.0.1:9464 [default: none].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Start the sidecar again after a crash: at once, then with waits that double from 10 ms to 5 s.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) respawn: Option<bool>,
    /// Wait, mapped and ready, for the end of the sidecar that serves the instance, then serve; at once if nobody does.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) standby: Option<bool>,
    /// Print JSON: of a run the line at its start and the totals at its end; of `config` all it shows.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(crate) json: Option<bool>,
}

/// What a value looks like in a config file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A string.
    Text,
    /// An integer.
    Count,
    /// A string with a unit, or an integer of bytes.
    Size,
    /// A string with a unit, or an integer of seconds.
    Time,
    /// An integer or a list of them.
    Cpus,
    /// A boolean.
    Flag,
}

impl Form {
    /// With its article.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Count => "an integer",
            Self::Size => "an integer of bytes or a string such as \"64KiB\"",
            Self::Time => "an integer of seconds or a string such as \"5s\"",
            Self::Cpus => "an integer or a list of integers",
            Self::Flag => "true or false",
        }
    }
}

/// What is in force where nobody chose, and why.
#[derive(Debug)]
pub(crate) struct Standard {
    pub(crate) value: Value,
    /// More than that it is the default; mostly nothing.
    pub(crate) reason: &'static str,
    /// Files of the instance are there already, and the value is theirs.
    pub(crate) of_files: bool,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its key in a config file.
    pub(crate) name: &'static str,
    /// Its flag or argument.
    pub(crate) flag: &'static str,
    /// How a config file writes it.
    pub(crate) form: Form,
    /// Sets it to what a text says.
    pub(crate) read: fn(&mut Settings, &str) -> Result<(), String>,
    /// What it is set to, as a config file takes it.
    pub(crate) value: fn(&Settings) -> Option<Value>,
    /// What it is where nobody set it, with the files of the instance if there are any.
    pub(crate) standard: fn(&Settings, Option<&Inspection>) -> Standard,
}

/// Every setting, in the order in which they are shown.
pub(crate) const SETTINGS: [Setting; 21] = [
    Setting {
        name: "instance",
        flag: "INSTANCE",
        form: Form::Text,
        read: |settings, text| set(&mut settings.instance, parse_instance(text)),
        value: |settings| settings.instance.as_ref().map(|instance| json!(instance.as_str())),
        standard: |_, _| default(InstanceName::default().as_str()),
    },
    Setting {
        name: "lanes",
        flag: "--lanes",
        form: Form::Count,
        read: |settings, text| set(&mut settings.lanes, parse_lanes(text)),
        value: |settings| settings.lanes.map(Value::from),
        standard: |_, files| size(files, |geometry| geometry.lanes),
    },
    Setting {
        name: "capacity",
        flag: "--capacity",
        form: Form::Count,
        read: |settings, text| set(&mut settings.capacity, parse_capacity(text)),
        value: |settings| settings.capacity.map(Value::from),
        standard: |_, files| size(files, |geometry| geometry.capacity),
    },
    Setting {
        name: "request-bytes",
        flag: "--request-bytes",
        form: Form::Size,
        read: |settings, text| set(&mut settings.request_bytes, parse_buffer(text)),
        value: |settings| settings.request_bytes.map(Value::from),
        standard: |_, files| size(files, |geometry| geometry.request_bytes),
    },
    Setting {
        name: "response-bytes",
        flag: "--response-bytes",
        form: Form::Size,
        read: |settings, text| set(&mut settings.response_bytes, parse_buffer(text)),
        value: |settings| settings.response_bytes.map(Value::from),
        standard: |_, files| size(files, |geometry| geometry.response_bytes),
    },
    Setting {
        name: "group",
        flag: "--group",
        form: Form::Text,
        read: |settings, text| set(&mut settings.group, text.parse::<Group>()),
        value: |settings| settings.group.map(|group| json!(group.to_string())),
        standard: |_, files| {
            let group = files.and_then(|files| files.group);
            let value = group.map_or_else(|| "none".to_owned(), |group| group.to_string());
            Standard { of_files: files.is_some(), ..default(value) }
        },
    },
    Setting {
        name: "cpu",
        flag: "--cpu",
        form: Form::Cpus,
        read: |settings, text| {
            settings.cpus = text.split(',').map(|cpu| parse_cpu(cpu.trim())).collect::<Result<_, _>>()?;
            Ok(())
        },
        value: |settings| (!settings.cpus.is_empty()).then(|| json!(settings.cpus)),
        standard: |settings, _| default_cpu(settings.pinned),
    },
    Setting {
        name: "idle",
        flag: "--idle",
        form: Form::Text,
        read: |settings, text| set(&mut settings.idle, IdleStrategy::from_str(text)),
        value: |settings| settings.idle.map(|idle| json!(idle.name())),
        standard: |_, _| default(IdleStrategy::default_on(cpu::allowed_cpus().map_or(0, |cpus| cpus.len())).name()),
    },
    Setting {
        name: "timing",
        flag: "--no-timing",
        form: Form::Flag,
        read: |settings, text| set(&mut settings.timing, parse_bool(text)),
        value: |settings| settings.timing.map(Value::from),
        standard: |_, files| Standard { of_files: files.is_some(), ..default(files.is_none_or(|files| files.timed)) },
    },
    Setting {
        name: "recording",
        flag: "--no-recording",
        form: Form::Flag,
        read: |settings, text| set(&mut settings.recording, parse_bool(text)),
        value: |settings| settings.recording.map(Value::from),
        standard: |_, _| default(true),
    },
    Setting {
        name: "slow-after",
        flag: "--slow-after",
        form: Form::Time,
        read: |settings, text| set(&mut settings.slow_after, parse_time(text)),
        value: |settings| settings.slow_after.map(|time| json!(time_text(time))),
        standard: |_, _| default(time_text(SLOW_AFTER)),
    },
    Setting {
        name: "quantum",
        flag: "--quantum",
        form: Form::Count,
        read: |settings, text| set(&mut settings.quantum, parse_quantum(text)),
        value: |settings| settings.quantum.map(Value::from),
        standard: |_, _| default(QUANTUM),
    },
    Setting {
        name: "pinned",
        flag: "--unpinned",
        form: Form::Flag,
        read: |settings, text| set(&mut settings.pinned, parse_bool(text)),
        value: |settings| settings.pinned.map(Value::from),
        standard: |_, _| default(true),
    },
    Setting {
        name: "drain",
        flag: "--drain",
        form: Form::Time,
        read: |settings, text| set(&mut settings.drain, parse_time(text)),
        value: |settings| settings.drain.map(|time| json!(time_text(time))),
        standard: |_, _| default(time_text(DRAIN_TIME)),
    },
    Setting {
        name: "cpu-latency",
        flag: "--cpu-latency",
        form: Form::Count,
        read: |settings, text| set(&mut settings.cpu_latency, parse_cpu_latency(text)),
        value: |settings| settings.cpu_latency.map(Value::from),
        standard: |_, _| default("none"),
    },
    Setting {
        name: "real-time",
        flag: "--real-time",
        form: Form::Text,
        read: |settings, text| set(&mut settings.real_time, text.parse::<RealTime>()),
        value: |settings| settings.real_time.map(|real_time| json!(real_time.to_string())),
        standard: |_, _| default("none"),
    },
    Setting {
        name: "lock-memory",
        flag: "--lock-memory",
        form: Form::Flag,
        read: |settings, text| set(&mut settings.lock_memory, parse_bool(text)),
        value: |settings| settings.lock_memory.map(Value::from),
        standard: |_, _| default(false),
    },
    Setting {
        name: "metrics",
        flag: "--metrics",
        form: Form::Text,
        read: |settings, text| set(&mut settings.metrics, parse_address(text)),
        value: |settings| settings.metrics.map(|address| json!(address.to_string())),
        standard: |_, _| default("none"),
    },
    Setting {
        name: "respawn",
        flag: "--respawn",
        form: Form::Flag,
        read: |settings, text| set(&mut settings.respawn, parse_bool(text)),
        value: |settings| settings.respawn.map(Value::from),
        standard: |_, _| default(false),
    },
    Setting {
        name: "standby",
        flag: "--standby",
        form: Form::Flag,
        read: |settings, text| set(&mut settings.standby, parse_bool(text)),
        value: |settings| settings.standby.map(Value::from),
        standard: |_, _| default(false),
    },
    Setting {
        name: "json",
        flag: "--json",
        form: Form::Flag,
        read: |settings, text| set(&mut settings.json, parse_bool(text)),
        value: |settings| settings.json.map(Value::from),
        standard: |_, _| default(false),
    },
];

impl Setting {
    /// Its environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("EXECUTOR_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// A value for people. What is longer than a number is written so that a flag takes it back.
    pub(crate) fn text(&self, value: &Value) -> String {
        match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(cpus) if cpus.is_empty() => "-".to_owned(),
            Value::Array(cpus) => cpus.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
            Value::Number(number) if self.form == Form::Size => {
                let exact = number.as_u64().map(|size| (size, bytes(size)));
                let exact = exact.filter(|(size, text)| parse_bytes(text) == Ok(*size));
                exact.map_or_else(|| number.to_string(), |(_, text)| text)
            }
            value => value.to_string(),
        }
    }
}

fn set<T, E: ToString>(setting: &mut Option<T>, parsed: Result<T, E>) -> Result<(), String> {
    *setting = Some(parsed.map_err(|error| error.to_string())?);
    Ok(())
}

fn default(value: impl Into<Value>) -> Standard {
    Standard { value: value.into(), reason: "", of_files: false }
}

/// A size of the files that are there, or of new ones.
fn size(files: Option<&Inspection>, of: fn(&Geometry) -> u32) -> Standard {
    let geometry = files.map_or_else(Geometry::default, |files| files.geometry);
    Standard { of_files: files.is_some(), ..default(of(&geometry)) }
}

fn default_cpu(pinned: Option<bool>) -> Standard {
    if pinned == Some(false) {
        return Standard { reason: "one worker wherever the kernel puts it", ..default(Vec::<u32>::new()) };
    }
    let cpu = cpu::default_cpu(&cpus_in_use());
    let value = cpu.map_or(Value::Null, |cpu| json!([cpu]));
    Standard { reason: "the last allowed CPU that no live instance uses", ..default(value) }
}

fn time_text(time: Duration) -> String {
    match time.subsec_micros() {
        0 => format!("{}s", time.as_secs()),
        us if us.is_multiple_of(1000) => format!("{}ms", time.as_millis()),
        _ => format!("{}us", time.as_micros()),
    }
}

fn parse_instance(text: &str) -> Result<InstanceName, String> {
    InstanceName::new(text)
        .map_err(|_| "not a name of 1 to 48 letters, digits, `_` and `-` that begins with a letter or digit".to_owned())
}

fn parse_number(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let fits = |number: &u32| (least..=most).contains(number);
    text.parse().ok().filter(fits).ok_or_else(|| format!("not a number from {least} to {most}"))
}

fn parse_lanes(text: &str) -> Result<u32, String> {
    parse_number(text, 1, 1024)
}

fn parse_cpu_latency(text: &str) -> Result<u32, String> {
    parse_number(text, 0, CPU_LATENCY_MAX_US)
}

fn parse_quantum(text: &str) -> Result<u32, String> {
    parse_number(text, 1, u32::MAX)
}

fn parse_cpu(text: &str) -> Result<u32, String> {
    parse_number(text, 0, cpu::CPU_LIMIT - 1).map_err(|error| format!("{error}; write a CPU, or several such as 2,3"))
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "not an address with a port; write for example 127.0.0.1:9464 or [::1]:9464, with port 0 for any free one"
            .to_owned()
    })
}

fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "neither true nor false".to_owned())
}

fn parse_capacity(text: &str) -> Result<u32, String> {
    let fits = |slots: &u32| slots.is_power_of_two() && (2..=65_536).contains(slots);
    text.parse()
        .ok()
        .filter(fits)
        .ok_or_else(|| "not a power of two from 2 to 65536; write for example 1024".to_owned())
}

/// Reads the size of a buffer.
pub(crate) fn parse_buffer(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    if bytes.is_multiple_of(64) && (64..=LENGTH_MAX as u64).contains(&bytes) {
        return Ok(bytes as u32);
    }
    Err(format!("not a multiple of 64 from 64 to {LENGTH_MAX}; write for example 256 or 4KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory, FromArgMatches};
    use std::collections::BTreeSet;

    use crate::cli::{Cli, OwnCli};

    fn command() -> Command {
        Settings::augment_args(Command::new("test"))
    }

    /// Settings as a command line makes them.
    fn of(arguments: &[&str]) -> Settings {
        let matches = command().no_binary_name(true).try_get_matches_from(arguments).unwrap();
        Settings::from_arg_matches(&matches).unwrap()
    }

    /// The flags of a subcommand, and its argument by its name in capitals.
    fn flags(program: &Command, subcommand: &str) -> BTreeSet<String> {
        let mut subcommand = program.find_subcommand(subcommand).unwrap().clone();
        subcommand.build();
        let name = |argument: &clap::Arg| match argument.get_long() {
            Some(long) => format!("--{long}"),
            None => argument.get_id().as_str().to_uppercase(),
        };
        subcommand.get_arguments().map(name).collect()
    }

    #[test]
    fn every_flag_that_is_a_setting_has_its_row_and_every_row_its_flag() {
        let rows: BTreeSet<String> = SETTINGS.iter().map(|setting| setting.flag.to_owned()).collect();
        assert_eq!(rows.len(), SETTINGS.len());
        for program in [Cli::command(), OwnCli::command()] {
            for (subcommand, others) in [
                ("run", &["--config", "--tied", "--supervisor", "--help"][..]),
                ("config", &["--config", "--help"]),
                ("doctor", &["--config", "--help"]),
            ] {
                let mut expected = rows.clone();
                expected.extend(others.iter().map(|&flag| flag.to_owned()));
                assert_eq!(flags(&program, subcommand), expected, "{subcommand}");
            }
        }
    }

    #[test]
    fn a_row_reads_writes_and_names_its_own_field_and_no_other() {
        let texts = [
            ("instance", "orders"),
            ("lanes", "3"),
            ("capacity", "64"),
            ("request-bytes", "64 KiB"),
            ("response-bytes", "192"),
            ("group", "990"),
            ("cpu", "0,1"),
            ("idle", "spin"),
            ("timing", "false"),
            ("recording", "false"),
            ("slow-after", "250us"),
            ("quantum", "7"),
            ("pinned", "false"),
            ("drain", "1500ms"),
            ("cpu-latency", "20"),
            ("real-time", "rr:7"),
            ("lock-memory", "true"),
            ("metrics", "[::1]:9464"),
            ("respawn", "true"),
            ("standby", "true"),
            ("json", "true"),
        ];
        assert_eq!(SETTINGS.map(|setting| setting.name), texts.map(|(name, _)| name));
        for (setting, (name, text)) in SETTINGS.iter().zip(texts) {
            let mut settings = Settings::default();
            (setting.read)(&mut settings, text).unwrap();
            let set: Vec<&str> =
                SETTINGS.iter().filter(|row| (row.value)(&settings).is_some()).map(|row| row.name).collect();
            assert_eq!(set, [name]);
            let value = (setting.value)(&settings).unwrap();
            assert_eq!(setting.text(&value).replace("192 B", "192"), text, "what is shown can be read again");
            let flags = match (setting.flag, setting.form) {
                ("INSTANCE", _) => vec![text],
                (flag, Form::Flag) => vec![flag],
                (flag, Form::Cpus) => text.split(',').flat_map(|cpu| [flag, cpu]).collect(),
                (flag, _) => vec![flag, text],
            };
            assert_eq!((setting.value)(&of(&flags)).unwrap(), value, "{flags:?}");
        }
    }

    #[test]
    fn the_help_tells_the_defaults_that_are_in_force() {
        let command = command();
        let help = |setting: &Setting| {
            let id = setting.flag.trim_start_matches("--").to_lowercase();
            let mut arguments = command.get_arguments();
            let argument =
                arguments.find(|argument| argument.get_long() == Some(&id) || argument.get_id() == id.as_str());
            argument.unwrap().get_help().unwrap().to_string()
        };
        for setting in SETTINGS.iter().filter(|setting| !matches!(setting.form, Form::Flag | Form::Cpus)) {
            let standard = setting.text(&(setting.standard)(&Settings::default(), None).value);
            let standard = standard.trim_end_matches(" B");
            let help = help(setting);
            let told = help.split("[default: ").nth(1).unwrap();
            assert!(setting.name == "idle" || told == format!("{standard}]"), "{}: {told} {standard}", setting.name);
            assert!(told.contains(standard), "{}: {told} {standard}", setting.name);
        }
    }

    #[test]
    fn a_switch_takes_no_value_and_leaves_the_next_word_alone() {
        let settings = of(&["--json", "orders", "--unpinned", "--no-timing"]);
        assert_eq!(settings.instance.unwrap().as_str(), "orders");
        assert_eq!((settings.json, settings.pinned, settings.timing), (Some(true), Some(false), Some(false)));
        assert!(command().no_binary_name(true).try_get_matches_from(["--json=false"]).is_err());
    }

    #[test]
    fn what_no_sidecar_can_have_is_refused() {
        assert_eq!((parse_capacity("1024"), parse_buffer("4KiB")), (Ok(1024), Ok(4096)));
        for capacity in ["0", "1", "1000", "131072", "many"] {
            assert!(parse_capacity(capacity).is_err(), "{capacity}");
        }
        for bytes in ["0", "100", "16MiB"] {
            assert!(parse_buffer(bytes).is_err(), "{bytes}");
        }
        assert_eq!([parse_lanes("0"), parse_lanes("1025")].map(|parsed| parsed.is_err()), [true; 2]);
        for address in ["9464", ":9464", "localhost:9464", "127.0.0.1", "127.0.0.1:65536", "::1:9464", "1.2.3:1", ""] {
            assert!(parse_address(address).unwrap_err().contains("127.0.0.1:9464"), "{address}");
        }
        for latency in ["-1", "2000000001", "0.5"] {
            assert!(parse_cpu_latency(latency).is_err(), "{latency}");
        }
        assert!(parse_quantum("0").is_err() && parse_cpu("1024").is_err() && parse_bool("yes").is_err());
    }

    #[test]
    fn a_size_that_no_unit_fits_is_shown_in_bytes() {
        let setting = SETTINGS.iter().find(|setting| setting.form == Form::Size).unwrap();
        assert_eq!(setting.text(&json!(65_536)), "64 KiB");
        assert_eq!(setting.text(&json!(1025 * 1024)), "1049600");
        assert_eq!(setting.text(&json!(1088)), "1088");
    }
}
