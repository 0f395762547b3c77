//! A process of another user that tries what its standard input says, a line each: `visitor USER`. It says `ready` once it
//! is that user's, or `skipped: …`. Every answer is one of these, a refusal with its reason:
//! `may`, `held` (permitted, but somebody else has it), `partly`, `refused …`.
//!
//! | line | tries to |
//! |---|---|
//! | `read NAME`, `write NAME` | open the file |
//! | `truncate NAME` | cut it to the length it has |
//! | `read-lock NAME`, `write-lock NAME` | take the lock and let it go |
//! | `unlink NAME` | remove the name |
//! | `replace NAME` | rename a file of its own over it |
//! | `create NAME` | make a new name and remove it again |
//! | `connect INSTANCE [OWNER]` | get a lane, have a task answered and give the lane back |
//! | `attach INSTANCE OWNER`, `call` | the same in two steps; the lane is kept |
//! | `inspect INSTANCE` | look at everything |
//! | `clean INSTANCE`, `start INSTANCE` | remove its files, serve it |

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's process fails by panicking")]

use std::error::Error;
use std::path::{Path, PathBuf};

use executor_client::{Client, ConnectError, ConnectOptions, InstanceName};
use executor_shm::clean::{CleanOptions, clean};
use executor_shm::core::Registry;
use executor_shm::core::idle::IdleStrategy;
use executor_shm::inspect::Inspector;
use executor_shm::{MasterError, Sidecar, StartError};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::{Sum, tell};
use executor_tests::user::User;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::sys::stat::Mode;

fn main() {
    let user: User = std::env::args().nth(1).unwrap().parse().unwrap();
    if let Err(errno) = user.become_it() {
        tell(format_args!("skipped: cannot become user {user}: {errno}"));
        return;
    }
    tell(format_args!("ready"));
    let mut client = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match attempt(&words, &mut client) {
            Ok(answer) => tell(format_args!("{answer}")),
            Err(error) => {
                let mut text = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    text += &format!(": {cause}");
                    source = cause.source();
                }
                tell(format_args!("refused {text}"));
            }
        }
    }
}

fn attempt(words: &[&str], client: &mut Option<Client>) -> Result<&'static str, Box<dyn Error>> {
    let name = words.get(1).copied().unwrap_or_default();
    let path = Path::new("/dev/shm").join(name);
    let instance = || InstanceName::new(name).unwrap();
    let owner = || words.get(2).map(|owner| owner.parse().unwrap());
    match words[0] {
        "read" => drop(open(&path, OFlag::O_RDONLY, Mode::empty())?),
        "write" => drop(open(&path, OFlag::O_WRONLY, Mode::empty())?),
        "truncate" => nix::unistd::truncate(&path, nix::sys::stat::stat(&path)?.st_size)?,
        "read-lock" => return lock(&path, OFlag::O_RDONLY, libc::F_RDLCK),
        "write-lock" => return lock(&path, OFlag::O_RDWR, libc::F_WRLCK),
        "unlink" => nix::unistd::unlink(&path)?,
        "replace" => {
            let own = create(&format!("{name}.own-{}", std::process::id()))?;
            if let Err(error) = std::fs::rename(&own, &path) {
                nix::unistd::unlink(&own)?;
                return Err(error.into());
            }
        }
        "create" => nix::unistd::unlink(&create(name)?)?,
        "connect" => {
            let mut client = connect(&instance(), owner())?;
            assert_eq!(client.call_timeout::<Sum>(&[1, 2], FAIL_SAFE)?, 3);
        }
        "attach" => *client = Some(connect(&instance(), owner())?),
        "call" => assert_eq!(client.as_mut().unwrap().call_timeout::<Sum>(&[1, 2], FAIL_SAFE)?, 3),
        "inspect" => {
            let view = Inspector::open(&instance())?.look();
            assert!(!view.lanes.is_empty());
            return Ok(if view.lanes.iter().all(|lane| lane.unreadable.is_none()) { "may" } else { "partly" });
        }
        "clean" => match clean(&instance(), CleanOptions::default()) {
            Err(MasterError::AlreadyRunning { .. }) => return Ok("held"),
            cleaned => assert!(cleaned?.removed),
        },
        "start" => {
            let registry = Registry::builder().build()?;
            let builder = Sidecar::builder().instance(instance()).registry(registry);
            match builder.pinned(false).idle(IdleStrategy::Yield).start() {
                Err(StartError::Master(MasterError::AlreadyRunning { .. })) => return Ok("held"),
                started => drop(started?),
            }
        }
        _ => panic!("nothing is called {}", words[0]),
    }
    Ok("may")
}

fn connect(instance: &InstanceName, owner: Option<u32>) -> Result<Client, ConnectError> {
    let options = ConnectOptions::new();
    let options = owner.map_or(options, |owner| options.owner(owner));
    match options.connect(instance) {
        // A lane takes a moment to be made anew.
        Err(ConnectError::NoFreeLane { .. }) => options.timeout(FAIL_SAFE).connect(instance),
        other => other,
    }
}

fn lock(path: &Path, access: OFlag, kind: i32) -> Result<&'static str, Box<dyn Error>> {
    let file = open(path, access, Mode::empty())?;
    let lock = libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
        Err(Errno::EAGAIN) => Ok("held"),
        taken => Ok(taken.map(|_| "may")?),
    }
}

/// Makes a name that there is not.
fn create(name: &str) -> Result<PathBuf, Errno> {
    let path = Path::new("/dev/shm").join(name);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(|_| path)
}
