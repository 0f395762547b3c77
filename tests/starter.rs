//! One of many that want to serve an instance: `starter INSTANCE LEDGER ENDING RIVALS`. It tries until it is master, and
//! then for a while nobody else may be. LEDGER is a file that all of them append to, a line each:
//!
//! | line | says |
//! |---|---|
//! | `refused` | somebody else is master |
//! | `enter PID`, `leave PID` | this process is master from here, and to here at most |
//! | `ended PID …` | how it ended, if it was not killed |
//!
//! ENDING: `stop` with manners, `kept` with a client attached so that its files stay, `kill` as nothing can be caught,
//! `remove` its files under itself. RIVALS is how many starters there are in all.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's process fails by panicking")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use executor_client::{Client, InstanceName};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::{Ending, MasterError, Sidecar, SidecarHandle, StartError};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{self, Others, Sum};
use executor_tests::instance::files_of;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Refusals of others that a master waits for, so that whoever could wrongly be master beside it has the time.
const REFUSALS: usize = 8;
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(10);

struct Ledger(File);

impl Ledger {
    /// One write to a file opened for appending: lines of several processes stay whole and in the order they were said.
    fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn main() {
    set_pdeathsig(Signal::SIGKILL).unwrap(); // a test that is killed leaves no process
    let arguments: Vec<String> = std::env::args().collect();
    let instance = InstanceName::new(&arguments[1]).unwrap();
    let path = Path::new(&arguments[2]);
    let (ending, rivals) = (arguments[3].as_str(), arguments[4].parse::<usize>().unwrap());
    let mut ledger = Ledger(File::options().append(true).open(path).unwrap());
    let handle = start(&instance, &mut ledger);

    let id = std::process::id();
    ledger.say(&format!("enter {id}"));
    let mut client = Client::connect_timeout(&instance, FAIL_SAFE).unwrap();
    assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE), Ok(3));
    let begun = Instant::now();
    while !is_long_enough(path, id, rivals) {
        assert!(begun.elapsed() < FAIL_SAFE, "nobody else tries");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    if ending != "kept" {
        drop(client);
    }
    ledger.say(&format!("leave {id}"));
    match ending {
        "kill" => kill(Pid::this(), Signal::SIGKILL).unwrap(),
        "remove" => files_of(&instance).iter().for_each(|name| drop(fs::remove_file(Path::new("/dev/shm").join(name)))),
        _ => handle.stop(),
    }
    let ended = handle.join().unwrap().ending;
    let expected = match ending {
        "remove" => ended == Ending::NamesLost,
        "kept" => matches!(ended, Ending::Kept { .. }),
        // A rival that looks at a lock may be taken for a producer for a moment.
        _ => matches!(ended, Ending::Removed | Ending::Kept { .. }),
    };
    assert!(expected, "{ending}: {ended:?}");
    ledger.say(&format!("ended {id} {ended:?}"));
}

fn start(instance: &InstanceName, ledger: &mut Ledger) -> SidecarHandle {
    let begun = Instant::now();
    loop {
        let registry = handlers::registry(std::env::temp_dir(), |_| {}, Others::default()).unwrap();
        let builder = Sidecar::builder().instance(instance.clone()).registry(registry).capacity(8).lanes(3);
        match builder.pinned(false).idle(IdleStrategy::Yield).start() {
            Ok(handle) => return handle,
            Err(StartError::Master(
                MasterError::AlreadyRunning { .. } | MasterError::InUse { .. } | MasterError::NamesLost { .. },
            )) => ledger.say("refused"),
            Err(error) => panic!("{error:?}: {error}"),
        }
        assert!(begun.elapsed() < 4 * FAIL_SAFE, "it never is master");
        std::thread::park_timeout(TRY_AGAIN);
    }
}

/// Whether enough others were refused since this process is master, or all that are left.
fn is_long_enough(ledger: &Path, id: u32, rivals: usize) -> bool {
    let ledger = fs::read_to_string(ledger).unwrap();
    let left = ledger.lines().filter(|line| line.starts_with("leave")).count();
    let since = ledger.lines().skip_while(|line| *line != format!("enter {id}"));
    since.filter(|line| *line == "refused").count() >= REFUSALS.min(rivals - left - 1)
}
