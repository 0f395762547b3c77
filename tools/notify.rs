//! What a service manager such as systemd is told over `NOTIFY_SOCKET`: ready, stopping, and that every worker moves.
//!
//! The watchdog is fed by the loops that serve: a worker that neither ended a task nor looked for one since the last
//! feeding, because a handler holds it, stops the feeding. Without `NOTIFY_SOCKET` nothing is said at all.
//!
//! A service manager listens to the process it started. A sidecar that a supervisor started tells the supervisor the same
//! words, and the supervisor passes them on.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use executor_shm::WorkerProgress;
use sd_notify::NotifyState;

/// Looks at the workers in the time between two feedings. More than one, so that a handler that held a worker at one look
/// does not cost a whole feeding.
const LOOKS: u32 = 4;

/// The service manager this process has, if any.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    is_broken: bool,
}

impl Manager {
    /// Serving is worth more than telling: a manager that cannot be reached is complained about once.
    pub(crate) fn tell(&mut self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !std::mem::replace(&mut self.is_broken, true)
        {
            eprintln!("executord: cannot tell the service manager at NOTIFY_SOCKET: {error}");
        }
    }

    /// Passes on what has come over a supervisor's `line`; says whether the sidecar told that it is ready.
    pub(crate) fn pass_on(&mut self, line: &UnixDatagram) -> bool {
        let mut is_ready = false;
        let mut message = [0; 4096];
        while let Ok(length) = line.recv(&mut message) {
            let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
            is_ready |= text.lines().any(|state| state == NotifyState::Ready.to_string());
            self.tell(&[NotifyState::Custom(text.trim_end())]);
        }
        is_ready
    }
}

/// Whom a sidecar tells.
#[derive(Debug)]
enum Listener {
    Manager(Manager),
    Supervisor(UnixDatagram),
}

/// The line to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    listener: Listener,
    watchdog: Option<Watchdog>,
}

impl Notifier {
    /// To the service manager of this process, if it has one.
    pub(crate) fn of_this_process() -> Option<Self> {
        let listener = Listener::Manager(Manager::default());
        has_manager().then(|| Self { listener, watchdog: Watchdog::of_this_process() })
    }

    /// To a supervisor, which listens whether there is a service manager or not.
    pub(crate) fn of_supervisor(line: UnixDatagram) -> Self {
        let watchdog = if has_manager() { Watchdog::of_this_process() } else { None };
        Self { listener: Listener::Supervisor(line), watchdog }
    }

    /// How often to call [`look`](Self::look); `None` if nobody wants it.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.watchdog.as_ref().map(|watchdog| watchdog.period / LOOKS)
    }

    /// Says that tasks are served, and begins to watch.
    pub(crate) fn ready(&mut self, status: &str, progress: Vec<WorkerProgress>) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.begin(Instant::now(), progress);
        }
    }

    /// Feeds the watchdog if it is time and every worker has moved since the last time.
    pub(crate) fn look(&mut self, progress: Vec<WorkerProgress>) {
        if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.is_to_be_fed(Instant::now(), progress)) {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Says that a stop has begun. The watchdog has no say any more: the manager has a time limit of its own for a stop.
    pub(crate) fn stopping(&mut self, status: &str) {
        self.watchdog = None;
        self.tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        match &mut self.listener {
            Listener::Manager(manager) => manager.tell(states),
            Listener::Supervisor(line) => {
                let message: String = states.iter().map(|state| format!("{state}\n")).collect();
                // One that does not read is stopped or dead. Of its death comes a signal; this process serves.
                let _ = line.send(message.as_bytes());
            }
        }
    }
}

fn has_manager() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// When to feed.
#[derive(Debug)]
struct Watchdog {
    /// The least time between two feedings: a third of what the manager waits for one.
    period: Duration,
    fed: Option<(Instant, Vec<WorkerProgress>)>,
}

impl Watchdog {
    fn of_this_process() -> Option<Self> {
        sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()).map(Self::new)
    }

    fn new(interval: Duration) -> Self {
        Self { period: interval / 3, fed: None }
    }

    fn begin(&mut self, now: Instant, progress: Vec<WorkerProgress>) {
        self.fed = Some((now, progress));
    }

    fn is_to_be_fed(&mut self, now: Instant, progress: Vec<WorkerProgress>) -> bool {
        let Some((at, before)) = &self.fed else { return false };
        let is_time = now.saturating_duration_since(*at) >= self.period;
        let have_moved = progress.len() == before.len() && before.iter().zip(&progress).all(|(then, now)| then != now);
        let feeds = is_time && have_moved;
        if feeds {
            self.fed = Some((now, progress));
        }
        feeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(counts: [(u64, u64); 2]) -> Vec<WorkerProgress> {
        counts.map(|(tasks, sweeps)| WorkerProgress { tasks, sweeps }).to_vec()
    }

    #[test]
    fn a_watchdog_is_fed_when_a_third_has_passed_and_every_worker_has_moved() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut watchdog = Watchdog::new(Duration::from_millis(300));
        assert!(!watchdog.is_to_be_fed(at(1000), workers([(1, 0), (0, 16)])), "nothing is served yet");
        watchdog.begin(at(0), workers([(0, 0), (0, 0)]));
        assert!(!watchdog.is_to_be_fed(at(99), workers([(1, 0), (0, 16)])), "too early");
        assert!(watchdog.is_to_be_fed(at(100), workers([(1, 0), (0, 16)])), "one works, one waits");
        assert!(!watchdog.is_to_be_fed(at(199), workers([(2, 0), (0, 32)])), "too early again");
        assert!(!watchdog.is_to_be_fed(at(200), workers([(2, 0), (0, 16)])), "the second hangs");
        assert!(!watchdog.is_to_be_fed(at(900), workers([(9, 0), (0, 16)])), "and the first does not make up for it");
        assert!(watchdog.is_to_be_fed(at(925), workers([(9, 0), (1, 16)])), "at the first look after it came back");
        assert!(!watchdog.is_to_be_fed(at(950), workers([(10, 0), (1, 32)])));
    }
}
