//! `executord load`: latency and throughput of a running instance, by producers of this process.

mod report;
mod stream;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use clap::Args;
use executor_client::ConnectError;
use executor_core::cpu::{self, CpuError, allowed_cpus, cpu_list};
use executor_core::idle::IdleStrategy;
use executor_shm::InstanceName;
use executor_shm::inspect::cpus_in_use;
use executor_shm::status::HandlerRow;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::{FAILED, INTERRUPTED, PrintError, USAGE, print};
use crate::handlers::SPIN_NS_MAX;
use crate::load::report::Report;
use crate::load::stream::{Pace, Seen, Span, Spin, Stream, StreamEnd};
use crate::producer::idle;
use crate::served::{Served, ServedError, connect, parse_owner};
use crate::units::{counted, parse_bytes, parse_time};

pub(crate) use report::KEYS;

/// Payload bytes unless told otherwise: as many as travel in the descriptor itself.
const BYTES: u32 = 32;
/// The longest warm-up; shorter runs have a tenth of theirs.
const WARM_UP_NS_MAX: u64 = 500_000_000;
/// After the end, how long until somebody is told what is waited for.
const SILENCE: Duration = Duration::from_secs(5);
/// The longest run: a month.
const SECONDS_MAX: f64 = 31.0 * 86_400.0;

/// Examples of the command.
pub(crate) const EXAMPLES: &str = "  executord load                                  a round trip at a time with instance `default`\n  \
       executord load orders --window 64 --producers 2 throughput\n  \
       executord load orders --rate 100000             latency at a load that does not wait for the answers\n  \
       executord load orders --window 4 --spin 20ms     every hundredth task holds up those behind it\n  \
       executord load --handler sha256 --bytes 256 --json | jq .latency_ns";

/// What to send.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The running instance.
    #[arg(default_value = "default")]
    instance: InstanceName,
    /// Believe an instance of this user, by name or uid, besides root's and this user's own.
    #[arg(long, value_name = "USER", value_parser = parse_owner)]
    owner: Option<u32>,
    /// The handler, by name or id.
    #[arg(long, default_value = "echo", value_name = "NAME|ID")]
    handler: String,
    /// Bytes of a request, all zero [default: what the handler takes if that is one size, else 32].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    bytes: Option<u64>,
    /// How long to measure; a warm-up of a tenth of it, at most 500 ms, comes before and does not count.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    seconds: f64,
    /// Tasks in flight of each producer, at most the slots of a lane.
    #[arg(long, value_name = "TASKS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: u32,
    /// Send so many tasks a second, by all producers together, whether or not answers come; latency then counts from
    /// when a task was due.
    #[arg(long, value_name = "TASKS", conflicts_with = "window", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Send every so many tasks one that keeps the worker busy for so long (handler `spin`, whatever --handler says).
    #[arg(long, value_name = "TIME", value_parser = parse_spin)]
    spin: Option<Duration>,
    /// How many tasks of a producer there are to one of --spin, itself included.
    #[arg(long, value_name = "N", default_value_t = 100, requires = "spin", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Leave the answers where they are for so long after the start, like a producer that is busy with other things.
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "rate")]
    collect_after: Option<Duration>,
    /// Threads that send, each through a lane of its own.
    #[arg(long, value_name = "N", default_value = "1")]
    producers: NonZeroU32,
    /// Pin a producer to this CPU; repeat it for more, they are dealt in turn [default: CPUs without a worker, if there
    /// are enough].
    #[arg(long = "cpu", value_name = "N")]
    cpus: Vec<u32>,
    /// Print the report as one JSON object; --help tells its keys.
    #[arg(long)]
    json: bool,
}

fn parse_spin(text: &str) -> Result<Duration, String> {
    let most = Duration::from_nanos(SPIN_NS_MAX);
    Some(parse_time(text)?)
        .filter(|time| *time <= most)
        .ok_or_else(|| format!("too long; a spin takes {} s at most", most.as_secs()))
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| (0.001..=SECONDS_MAX).contains(seconds))
        .ok_or_else(|| "not a number of seconds from 0.001 to a month; write for example 5 or 0.5".to_owned())
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// See the reason.
    #[error(transparent)]
    Served(#[from] ServedError),
    /// See the reason.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// See the reason.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The kernel gave no handler.
    #[error("cannot listen for Ctrl-C")]
    Signals(#[source] std::io::Error),
    /// Nobody was told.
    #[error(transparent)]
    Print(#[from] PrintError),
    /// Send what it takes.
    #[error("handler {handler} takes {takes}, not {asked}; {cure}")]
    Bytes { handler: String, takes: String, asked: u64, cure: String },
    /// Send less, or start the instance with larger request buffers.
    #[error(
        "a request of {asked} bytes is longer than the {limit} bytes that fit; lower --bytes, or start the instance with \
         larger --request-bytes"
    )]
    TooLong { asked: u64, limit: u64 },
    /// Lower it.
    #[error("a window of {window} tasks is more than the {capacity} slots of a lane; lower --window")]
    Window { window: u32, capacity: u32 },
}

impl LoadError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Served(ServedError::NoHandler { .. }) | Self::Bytes { .. } | Self::TooLong { .. } => USAGE,
            Self::Window { .. } | Self::Cpu(_) => USAGE,
            _ => FAILED,
        }
    }
}

/// Measures and prints; returns the exit code.
pub(crate) fn load(arguments: &LoadArgs) -> Result<u8, LoadError> {
    let served = Served::open(&arguments.instance)?;
    let geometry = served.view.geometry;
    let handler = served.handler(&arguments.handler)?;
    let limit = geometry.request_bytes.max(BYTES);
    let payload = vec![0; payload_bytes(handler, arguments.bytes, limit)?];
    if arguments.rate.is_none() && arguments.window > geometry.capacity {
        return Err(LoadError::Window { window: arguments.window, capacity: geometry.capacity });
    }
    let spin = arguments
        .spin
        .map(|time| served.handler("spin").map(|row| Spin { handler: row.id, every: arguments.every, time }))
        .transpose()?;
    let producers = arguments.producers.get() as usize;
    let places = Places::new(&arguments.cpus, producers, &served)?;
    let stop = listen().map_err(LoadError::Signals)?;
    let mut clients = Vec::with_capacity(producers);
    for _ in 0..producers {
        clients.push(connect(&arguments.instance, arguments.owner)?);
    }
    let (timed, clock) = clients.first().map(|client| (client.is_timed(), *client.clock())).unzip();
    let (Some(timed), Some(clock)) = (timed, clock) else { return Ok(FAILED) }; // there is at least one

    let measured_ns = (arguments.seconds * 1e9) as u64;
    let warm_up_ns = (measured_ns / 10).min(WARM_UP_NS_MAX);
    let span = OnceLock::new();
    let span_of = || {
        let start = clock.now();
        let from = start + clock.ns_to_ticks(warm_up_ns);
        Span { start, from, end: from + clock.ns_to_ticks(measured_ns) }
    };
    let gate = Barrier::new(producers);
    let (sender, ends) = channel();
    let mut seen = Seen::default();
    let mut stream_ends = Vec::new();
    std::thread::scope(|scope| {
        for (number, client) in clients.into_iter().enumerate() {
            let (sender, stop, payload) = (sender.clone(), &*stop, &payload[..]);
            let (span, gate, places) = (&span, &gate, &places);
            let pace = match arguments.rate {
                Some(rate) => Pace::Open { rate, streams: producers as u64, stream: number as u64 },
                None => Pace::Closed { window: arguments.window.into() },
            };
            let id = handler.id;
            scope.spawn(move || {
                let pinned = places.pin(number);
                gate.wait();
                let span = *span.get_or_init(span_of);
                let end = match pinned {
                    Ok(()) => {
                        let stream = Stream::new(client, id, payload, places.idle, span, stop);
                        stream.spinning(spin).collecting_after(arguments.collect_after).run(pace)
                    }
                    Err(error) => (Seen::default(), StreamEnd::Failed(error.to_string())),
                };
                let _ = sender.send(end);
            });
        }
        drop(sender);
        let mut patience = Duration::from_nanos(warm_up_ns + measured_ns) + SILENCE;
        loop {
            match ends.recv_timeout(patience) {
                Ok((one, end)) => {
                    seen.merge(one);
                    stream_ends.push(end);
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("executord: the time is up; accepted tasks are waited for, Ctrl-C ends the wait");
                    patience = Duration::MAX;
                }
            }
        }
    });
    let from = span.get().map_or(0, |span: &Span| span.from);
    let down = stream_ends.contains(&StreamEnd::Down);
    let failure = |end: StreamEnd| if let StreamEnd::Failed(why) = end { Some(why) } else { None };
    let report = Report {
        instance: arguments.instance.to_string(),
        handler: handler.name.clone(),
        handler_id: handler.id,
        request_bytes: payload.len(),
        producers,
        note: places.note(),
        cpus: places.producers,
        sidecar_cpus: places.workers,
        window: arguments.rate.is_none().then_some(arguments.window.into()),
        rate: arguments.rate,
        spin,
        collect_after: arguments.collect_after,
        timed,
        clock,
        warm_up_ns,
        elapsed_ns: clock.ticks_to_ns(seen.ended_at.saturating_sub(from)),
        seen,
        interrupted: stop.load(Relaxed),
        down,
        restarts: served.starts().saturating_sub(served.view.epoch),
        failures: stream_ends.into_iter().filter_map(failure).collect(),
    };
    let text = if arguments.json { format!("{}\n", report.to_json()) } else { report.to_text() };
    print(text.as_bytes())?;
    let trouble = report.trouble();
    if let Some(trouble) = &trouble {
        eprintln!("executord: {trouble}");
    }
    Ok(match (report.interrupted, trouble) {
        (true, _) => INTERRUPTED,
        (false, Some(_)) => FAILED,
        (false, None) => 0,
    })
}

/// A flag that Ctrl-C and its like raise; the second one ends the process.
fn listen() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn payload_bytes(handler: &HandlerRow, asked: Option<u64>, limit: u32) -> Result<usize, LoadError> {
    let (least, most) = handler.request_bytes;
    let bytes = asked.unwrap_or_else(|| BYTES.clamp(least, most.max(least)).into());
    if !(u64::from(least)..=u64::from(most)).contains(&bytes) {
        let (takes, cure) = match (least, most) {
            (least, most) if least == most => (counted(least.into(), "byte"), "leave --bytes out".to_owned()),
            (least, u32::MAX) => (format!("{least} bytes or more"), format!("write for example --bytes {least}")),
            (least, most) => (format!("{least} to {most} bytes"), format!("write for example --bytes {most}")),
        };
        return Err(LoadError::Bytes { handler: handler.name.clone(), takes, asked: bytes, cure });
    }
    if bytes > limit.into() {
        return Err(LoadError::TooLong { asked: bytes, limit: limit.into() });
    }
    Ok(bytes as usize)
}

/// Who runs where.
#[derive(Debug)]
struct Places {
    /// A CPU for each producer, unless they are left to the kernel.
    producers: Option<Vec<u32>>,
    /// Those of this instance's workers that are pinned.
    workers: Vec<u32>,
    /// Those of the workers of all living instances.
    busy: Vec<u32>,
    /// Threads that spin: producers and this instance's workers.
    threads: usize,
    /// CPUs there are for them.
    cpus: usize,
    idle: IdleStrategy,
}

impl Places {
    fn new(asked: &[u32], producers: usize, served: &Served) -> Result<Self, CpuError> {
        for &cpu in asked {
            cpu::check(cpu)?;
        }
        let allowed = allowed_cpus()?;
        let quota = std::thread::available_parallelism().map_or(allowed.len(), |cpus| cpus.get());
        let workers: Vec<u32> = served.view.workers.iter().filter_map(|worker| worker.cpu).collect();
        let mut all = allowed.clone();
        all.extend(workers.iter().filter(|cpu| !allowed.contains(cpu)));
        let mut places = Self {
            producers: None,
            busy: cpus_in_use(),
            threads: producers + served.view.workers.len(),
            cpus: if quota < allowed.len() { quota } else { all.len() },
            workers,
            idle: idle(),
        };
        places.producers = places.choose(asked, producers, &allowed);
        if places.shared().is_some() {
            places.idle = IdleStrategy::Yield; // the other side runs only while this one lets it
        }
        Ok(places)
    }

    fn choose(&self, asked: &[u32], producers: usize, allowed: &[u32]) -> Option<Vec<u32>> {
        let free: Vec<u32> = allowed.iter().copied().filter(|cpu| !self.busy.contains(cpu)).collect();
        match asked {
            [] if free.len() < producers => None,
            [] => Some(free.into_iter().take(producers).collect()),
            asked => Some(asked.iter().copied().cycle().take(producers).collect()),
        }
    }

    fn pin(&self, number: usize) -> Result<(), CpuError> {
        self.producers.as_ref().and_then(|cpus| cpus.get(number)).map_or(Ok(()), |&cpu| cpu::pin_current_thread(cpu))
    }

    /// CPUs that a producer shares with another thread that spins.
    fn shared(&self) -> Option<String> {
        let cpus = self.producers.as_ref()?;
        let is_shared =
            |at: usize, cpu: &u32| self.busy.contains(cpu) || cpus.iter().take(at).any(|other| other == cpu);
        let shared: Vec<u32> =
            cpus.iter().enumerate().filter(|(at, cpu)| is_shared(*at, cpu)).map(|(_, &cpu)| cpu).collect();
        (!shared.is_empty()).then(|| cpu_list(&shared))
    }

    /// What makes the numbers worse than they could be.
    fn note(&self) -> Option<String> {
        if let Some(shared) = self.shared() {
            return Some(format!(
                "producers share CPU {shared} with a worker or with each other: latencies include waiting for the CPU"
            ));
        }
        (self.threads > self.cpus).then(|| {
            format!(
                "{} that spin have {}: latencies include waiting for a CPU",
                counted(self.threads as u64, "thread"),
                counted(self.cpus as u64, "CPU"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(least: u32, most: u32) -> HandlerRow {
        HandlerRow {
            id: 1,
            name: "h".to_owned(),
            fingerprint: 0,
            since: 0,
            idempotent: false,
            gone: false,
            request_bytes: (least, most),
        }
    }

    #[test]
    fn a_payload_has_the_size_the_handler_takes() {
        let bytes = |row: HandlerRow, asked| payload_bytes(&row, asked, 256);
        assert_eq!(bytes(row(0, u32::MAX), None).unwrap(), 32);
        assert_eq!(bytes(row(8, 8), None).unwrap(), 8);
        assert_eq!(bytes(row(64, u32::MAX), None).unwrap(), 64);
        assert_eq!(bytes(row(0, u32::MAX), Some(256)).unwrap(), 256);
        let said = |row, asked| bytes(row, asked).unwrap_err().to_string();
        assert_eq!(said(row(8, 8), Some(9)), "handler h takes 8 bytes, not 9; leave --bytes out");
        assert_eq!(
            said(row(64, u32::MAX), Some(1)),
            "handler h takes 64 bytes or more, not 1; write for example --bytes 64"
        );
        assert!(said(row(0, u32::MAX), Some(257)).contains("--request-bytes"));
        assert!(said(row(512, 512), None).contains("--request-bytes"), "no payload fits");
        assert!(bytes(row(9, 3), None).is_err(), "a damaged row is no panic");
    }

    fn places(producers: Option<Vec<u32>>, workers: &[u32], threads: usize, cpus: usize) -> Places {
        Places { producers, workers: workers.to_vec(), busy: workers.to_vec(), threads, cpus, idle: IdleStrategy::Spin }
    }

    #[test]
    fn a_shared_cpu_is_told_and_so_are_too_few() {
        assert_eq!(places(Some(vec![0]), &[1], 2, 2).note(), None);
        assert!(places(Some(vec![0, 1]), &[1], 3, 2).note().unwrap().contains("share CPU 1 "));
        assert!(places(Some(vec![0, 0]), &[1], 3, 4).note().unwrap().contains("share CPU 0 "));
        assert!(places(None, &[1], 3, 2).note().unwrap().starts_with("3 threads that spin have 2 CPUs"));
        assert_eq!(places(None, &[], 2, 2).note(), None);
    }

    #[test]
    fn producers_get_cpus_without_a_worker_or_what_was_asked_for() {
        let places = places(None, &[3], 2, 4);
        assert_eq!(places.choose(&[], 2, &[0, 1, 2, 3]), Some(vec![0, 1]));
        assert_eq!(places.choose(&[], 2, &[2, 3]), None, "left to the kernel");
        assert_eq!(places.choose(&[3, 1], 3, &[0, 1, 2, 3]), Some(vec![3, 1, 3]));
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!([parse_seconds("5"), parse_seconds("0.25")], [Ok(5.0), Ok(0.25)]);
        for text in ["0", "-1", "inf", "nan", "soon", "1e30", ""] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }
}
