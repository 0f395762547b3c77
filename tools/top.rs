//! `shm-dump top`: an instance as it works, on a terminal.
//!
//! It looks once an interval, reads keys meanwhile, and leaves the terminal as it found it however it ends: by a key, an
//! error, a signal or a panic.

mod board;
mod grid;
mod keys;
mod picture;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anstream::AutoStream;
use clap::ColorChoice;
use executor_shm::InstanceName;
use executor_shm::inspect::InspectError;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::read;
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::{execute, style};

use crate::watch::sample;
use board::{Board, Wish};

/// When the second look is, at the latest: soon there is something to compare with.
const FIRST: Duration = Duration::from_millis(200);

/// Why there is nothing to show, or no place for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopError {
    #[error("top needs a terminal, and {0} is none; for lines in a pipe or a file: shm-dump watch")]
    NoTerminal(&'static str),
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("the terminal cannot be used")]
    Terminal(#[from] std::io::Error),
}

/// The terminal in our hands, given back when this goes. A panic gives it back before its message is printed.
struct Shown(DefaultTerminal);

impl Shown {
    fn new() -> std::io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = execute!(std::io::stdout(), Show); // a terminal that is gone is in nobody's way
        ratatui::restore();
    }
}

/// What a wait ended with.
enum Woken {
    /// There is something to read.
    Keys,
    /// Another size, or the time.
    Plain,
    /// The terminal is gone.
    HungUp,
    Signal(Signal),
}

/// The signals that end programs, and the one of a change of size, as something to wait for.
struct Endings {
    set: SigSet,
    fd: SignalFd,
}

impl Endings {
    fn block() -> std::io::Result<Self> {
        let set =
            SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGWINCH]);
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { set, fd })
    }

    /// Waits for one of them, for the terminal, or until `due`.
    fn wait(&self, due: Instant) -> std::io::Result<Woken> {
        let left = due.saturating_duration_since(Instant::now());
        // Rounded up: a wait of less than a millisecond is not to be a busy loop.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let stdin = std::io::stdin();
        let mut fds = [&stdin.as_fd(), &self.fd.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(told) = self.fd.read_signal()? {
            let signal = i32::try_from(told.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            match signal.unwrap_or(Signal::SIGTERM) {
                Signal::SIGWINCH => return Ok(Woken::Plain), // keys that came with it are there at the next wait
                signal => return Ok(Woken::Signal(signal)),
            }
        }
        let is_gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        let is_hung_up = fds[0].revents().is_some_and(|events| events.intersects(is_gone));
        let is_readable = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
        Ok(match (is_hung_up, is_readable) {
            (true, _) => Woken::HungUp,
            (false, true) => Woken::Keys,
            (false, false) => Woken::Plain,
        })
    }

    /// Does what the signal does to everybody; where it is ignored, says by the exit code what it was, as shells do.
    fn raise(&self, signal: Signal) -> std::io::Result<()> {
        self.set.thread_unblock()?;
        nix::sys::signal::raise(signal)?;
        std::process::exit(128 + signal as i32)
    }
}

/// Shows the instance until somebody has seen enough.
///
/// # Errors
///
/// There is no terminal, or no such instance at the beginning.
pub(crate) fn top(instance: &InstanceName, interval: Duration, colours: ColorChoice) -> Result<(), TopError> {
    for (is_terminal, name) in
        [(std::io::stdout().is_terminal(), "standard output"), (std::io::stdin().is_terminal(), "standard input")]
    {
        if !is_terminal {
            return Err(TopError::NoTerminal(name));
        }
    }
    let has_colours = match colours {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never,
    };
    style::force_color_output(has_colours);
    let mut board = Board::new(instance.clone(), has_colours);
    board.take(Ok(sample(instance)?), Instant::now());
    let endings = Endings::block()?;
    match run(&mut board, interval, &endings)? {
        None => Ok(()),
        Some(signal) => Ok(endings.raise(signal)?), // the terminal is as it was
    }
}

/// Every screen as it is after two looks that saw the same. For the fuzzer.
#[cfg(fuzzing)]
pub(crate) fn drawn(view: &executor_shm::inspect::Inspection) -> String {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    let mut board = Board::new(view.instance.clone(), true);
    for second in 1..3 {
        board.take(
            Ok(crate::sample::Sample { view: view.clone(), at_ns: Some(second * 1_000_000_000) }),
            Instant::now(),
        );
    }
    let screens = ['1', '2', '3', '?'].map(|key| {
        board.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
        let drawn = ratatui::Terminal::new(ratatui::backend::TestBackend::new(100, 30)).and_then(|mut terminal| {
            terminal.draw(|frame| picture::draw(&board, frame))?;
            Ok(terminal.backend().to_string())
        });
        drawn.unwrap_or_default()
    });
    screens.concat()
}

/// Draws and listens until a key or a signal ends it.
fn run(board: &mut Board, interval: Duration, endings: &Endings) -> std::io::Result<Option<Signal>> {
    let mut shown = Shown::new()?;
    let mut due = Instant::now() + interval.min(FIRST);
    loop {
        shown.0.draw(|frame| picture::draw(board, frame))?;
        match endings.wait(due)? {
            Woken::Plain => {}
            Woken::Keys => {
                let mut bytes = [0; 256];
                let length = match read(std::io::stdin(), &mut bytes) {
                    Ok(0) => return Ok(None), // the terminal is gone
                    Ok(length) => length,
                    Err(Errno::EINTR | Errno::EAGAIN) => 0,
                    Err(errno) => return Err(errno.into()),
                };
                let pressed = keys::keys(bytes.get(..length).unwrap_or_default());
                if pressed.into_iter().any(|key| board.press(key) == Wish::Quit) {
                    return Ok(None);
                }
            }
            Woken::HungUp => return Ok(None),
            Woken::Signal(signal) => return Ok(Some(signal)),
        }
        if Instant::now() >= due {
            due = Instant::now() + interval;
            if !board.is_paused() {
                board.take(sample(board.instance()), Instant::now());
            }
        }
    }
}

#[cfg(test)]
#[path = "pseudo_terminal.rs"]
mod pseudo_terminal;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use pseudo_terminal::PseudoTerminal;

    /// What the test below runs on a terminal.
    const PANICS: &str = "EXECUTOR_TEST_TOP_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        if std::env::var_os(PANICS).is_some() {
            let mut shown = Shown::new().unwrap();
            shown.0.draw(|frame| frame.render_widget("here it is", frame.area())).unwrap();
            panic!("a panic on purpose");
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = "top::tests::a_panic_gives_the_terminal_back_before_it_is_told";
        command.arg("--exact").arg(test).arg("--nocapture").env(PANICS, "1").env("RUST_BACKTRACE", "0");
        let mut terminal = PseudoTerminal::start(&command, 80, 24);
        assert_eq!(terminal.wait().code(), Some(101));
        terminal.assert_restored();
        terminal.wait_for("the panic", |text| text.contains("a panic on purpose"));
        let written = terminal.written();
        let at = |part: &str| written.find(part).unwrap_or_else(|| panic!("no {part:?} in {written:?}"));
        assert!(at("\u{1b}[?1049h") < at("here") && at("\u{1b}[?1049l") < at("a panic on purpose"), "{written:?}");
    }
}
