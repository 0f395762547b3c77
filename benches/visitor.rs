//! A process that wakes a thousand times a second and reads: an instance with all that it recorded, or a copy of its files that
//! nobody writes. The bench started once more, with other arguments.

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use executor_client::InstanceName;
use executor_shm::files::DIRECTORY;
use executor_shm::inspect::Inspector;
use executord::floor::Pinned;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// First argument of a bench that is to be a visitor.
const VISITOR: &str = "visit";
/// Time between two visits.
const INTERVAL: Duration = Duration::from_millis(1);

/// What a visitor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// The instance.
    Instance,
    /// A copy of its files.
    Copy,
}

/// A running visitor.
#[derive(Debug)]
pub(crate) struct Visitor(Child);

impl Visitor {
    /// Starts it on a CPU and waits until it visits.
    pub(crate) fn start(instance: &InstanceName, reads: Reads, cpu: u32) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([VISITOR, instance.as_str(), &cpu.to_string(), &(reads == Reads::Instance).to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().ok_or("a visitor without output")?;
        BufReader::new(said).read_line(&mut line)?;
        if line != "visits\n" {
            return Err(format!("the visitor said {line:?}").into());
        }
        Ok(Self(child))
    }

    /// Ends it.
    pub(crate) fn end(mut self) -> Result<(), Box<dyn Error>> {
        drop(self.0.stdin.take());
        if !self.0.wait()?.success() {
            return Err("the visitor failed".into());
        }
        Ok(())
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Visits until stdin ends if the arguments say so; `None` for a bench.
pub(crate) fn visit_if_asked() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, instance, cpu, is_instance] = &arguments[..] else { return None };
    if first != VISITOR {
        return None;
    }
    Some(match visit(instance, cpu, is_instance) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the visitor of the bench: {error}");
            ExitCode::FAILURE
        }
    })
}

/// A folder that goes with its visitor.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn visit(instance: &str, cpu: &str, is_instance: &str) -> Result<(), Box<dyn Error>> {
    set_pdeathsig(Signal::SIGKILL)?;
    let instance: InstanceName = instance.parse()?;
    let folder = Folder(std::env::temp_dir().join(format!("executor-bench-{}", std::process::id())));
    let inspector = if is_instance.parse()? {
        Inspector::open(&instance)?
    } else {
        std::fs::create_dir(&folder.0)?;
        for file in std::fs::read_dir(DIRECTORY)? {
            let name = file?.file_name();
            if name.to_string_lossy().starts_with(&format!("executor.{instance}.")) {
                std::fs::copy(Path::new(DIRECTORY).join(&name), folder.0.join(&name))?;
            }
        }
        Inspector::open_copy(&instance, &folder.0)?
    };
    // Both do the same work; one of them on lines that somebody writes.
    let read = || inspector.recorded().events.len() + inspector.look().lanes.len();
    let _pinned = Pinned::to(cpu.parse()?)?;
    std::hint::black_box(read());
    println!("visits");
    let ends = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()).is_ok());
    let mut next = Instant::now();
    while !ends.is_finished() {
        next += INTERVAL;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        std::hint::black_box(read());
    }
    Ok(())
}
