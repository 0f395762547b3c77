//! A program on a real pseudo terminal, which is its controlling terminal too, with an emulator that reads what it writes.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

/// Longer than anything takes on the slowest machine.
const FAIL_SAFE: Duration = Duration::from_secs(120);

pub struct PseudoTerminal {
    child: Child,
    keys: File,
    slave: OwnedFd,
    before: Termios,
    emulator: Arc<Mutex<(vt100::Parser, Vec<u8>)>>,
}

fn size(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

impl PseudoTerminal {
    /// Starts `command` on a terminal of this size.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let shape = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&shape, None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        let slave = || pair.slave.try_clone().unwrap();
        // A session of its own with this as its terminal; the process stays the same.
        let mut on_it = Command::new("setsid");
        on_it.arg("--ctty").arg(command.get_program()).args(command.get_args()).env("TERM", "xterm-256color");
        on_it.env_remove("NO_COLOR");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_it.env(name, value),
                None => on_it.env_remove(name),
            };
        }
        let child = on_it.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        let master = File::from(pair.master);
        let emulator = Arc::new(Mutex::new((vt100::Parser::new(size(rows), size(columns), 0), Vec::new())));
        let (mut reader, written) = (master.try_clone().unwrap(), Arc::clone(&emulator));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                let mut written = written.lock().unwrap();
                written.0.process(&bytes[..length]);
                written.1.extend_from_slice(&bytes[..length]);
            }
        });
        Self { child, keys: master, slave: pair.slave, before, emulator }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Gives it another size, as a window manager would.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.emulator.lock().unwrap().0.set_size(size(rows), size(columns));
        let shape = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(self.keys.as_fd(), shape).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// What stands on the screen.
    pub fn text(&self) -> String {
        self.emulator.lock().unwrap().0.screen().contents()
    }

    /// All bytes that were ever written.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.emulator.lock().unwrap().1).into_owned()
    }

    /// Whether any character stands there in a colour.
    pub fn has_colours(&self) -> bool {
        let emulator = self.emulator.lock().unwrap();
        let screen = emulator.0.screen();
        let (rows, columns) = screen.size();
        let (rows, columns) = (rows.get(), columns.get());
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        cells.filter_map(|(row, column)| screen.cell(row, column)).any(|cell| cell.fgcolor() != vt100::Color::Default)
    }

    /// Whether the screen belongs to the program: another screen, keys unseen and one by one.
    pub fn is_taken(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        let is_raw = !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO);
        is_raw && self.emulator.lock().unwrap().0.screen().alternate_screen()
    }

    /// Waits until the screen shows what is asked for.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if is_so(&text) {
                return;
            }
            assert!(begun.elapsed() < FAIL_SAFE, "{what} never came:\n{text}");
            std::thread::sleep(Duration::from_millis(2)); // between two looks at the condition
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < FAIL_SAFE, "it never ended:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(2)); // between two looks at the condition
        }
    }

    /// Asserts that it left the terminal as it was: the same modes, the same screen, a cursor.
    #[track_caller]
    pub fn assert_restored(&self) {
        assert!(tcgetattr(&self.slave).unwrap() == self.before, "the modes of the terminal are not restored");
        self.wait_for("a restored screen", |_| {
            let emulator = self.emulator.lock().unwrap();
            let screen = emulator.0.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        });
    }
}

impl Drop for PseudoTerminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
