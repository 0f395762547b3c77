//! Makes the seeds of all targets from the files of real instances: `seeds FOLDER` fills `FOLDER/<target>/`.
//!
//! An instance is served in this process, with tasks of every kind; its files are copied while it waits, while a task is in
//! its handler, and after a stop that leaves them for the next start.

mod archive;
mod input;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use executor_client::{Client, ConnectOptions, TaskDescriptor};
use executor_core::task::Priority;
use executor_core::{Handler, Registry, TaskError};
use executor_shm::files::DIRECTORY;
use executor_shm::inspect::Inspector;
use executor_shm::layout::journal::{self, crash};
use executor_shm::{InstanceName, Sidecar};

const PAGE_BYTES: usize = 4096;
const HELD: u32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: seeds FOLDER")?;
    let folder = Path::new(&folder);
    for target in ["submissions", "recovery", "dump"] {
        fs::create_dir_all(folder.join(target))?;
    }
    for (number, (capacity, request_bytes, response_bytes)) in
        [(2, 64, 64), (4, 128, 64), (8, 192, 128), (16, 64, 192)].into_iter().enumerate()
    {
        instance(folder, number, capacity, request_bytes, response_bytes)?;
    }
    Ok(())
}

fn registry(held: &Arc<Barrier>) -> Result<Registry, Box<dyn Error>> {
    let held = Arc::clone(held);
    let mut registry = Registry::builder();
    registry
        .add(Handler::new(1, "echo", |_, request, response| {
            response.write(request);
            Ok(())
        }))
        .add(Handler::new(4, "fails", |_, _, _| Err(TaskError::new("a text of more than one word"))))
        .add(
            Handler::new(HELD, "held", move |_, _, _| {
                held.wait();
                held.wait();
                Ok(())
            })
            .idempotent(),
        );
    Ok(registry.build()?)
}

/// One instance's life, and seeds of its moments.
fn instance(
    folder: &Path,
    number: usize,
    capacity: u32,
    request_bytes: u32,
    response_bytes: u32,
) -> Result<(), Box<dyn Error>> {
    let name = InstanceName::new(&format!("fuzz-seeds-{}-{number}", std::process::id()))?;
    let held = Arc::new(Barrier::new(2));
    let sidecar = Sidecar::builder()
        .instance(name.clone())
        .registry(registry(&held)?)
        .lanes(3)
        .capacity(capacity)
        .request_bytes(request_bytes)
        .response_bytes(response_bytes)
        .pinned(false)
        .start()?;
    let mut seeds = Seeds { folder, name: &name, number, capacity, request_bytes, response_bytes, moment: 0 };
    let mut low = ConnectOptions::new().priority(Priority::Low).timeout(Duration::from_secs(10)).connect(&name)?;
    let mut client = Client::connect_timeout(&name, Duration::from_secs(10))?;
    seeds.take()?;
    let mut lengths = [0usize, 3, 8, 24, 25, 32, 33, 64, 100, 192, 40].into_iter().cycle();
    for round in 0..3 {
        // The last ones stay in the ring: others each time.
        let mut handlers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4095];
        handlers.rotate_left(4 * round);
        for handler in handlers {
            let length = lengths.next().unwrap_or(0).min((request_bytes as usize).max(32));
            let payload: Vec<u8> = (0..length).map(|at| (at * 7 + handler as usize) as u8).collect();
            let descriptor = TaskDescriptor::new(handler);
            while client.try_submit(&descriptor, &payload).is_err() {
                client.try_collect()?;
            }
        }
        seeds.take()?;
    }
    client.close(Duration::from_secs(10), |_| {})?;
    low.try_submit(&TaskDescriptor::new(HELD), b"held")?;
    low.try_submit(&TaskDescriptor::new(1), b"behind it")?;
    held.wait();
    seeds.take()?;
    held.wait();
    while low.try_collect()?.is_none() {
        std::thread::yield_now();
    }
    sidecar.stop();
    sidecar.join()?; // a producer is attached: the files stay
    seeds.take()?;
    drop(low);
    let discard = executor_shm::clean::CleanOptions { discard: true, dry_run: false };
    executor_shm::clean::clean(&name, discard)?;
    Ok(())
}

struct Seeds<'a> {
    folder: &'a Path,
    name: &'a InstanceName,
    number: usize,
    capacity: u32,
    request_bytes: u32,
    response_bytes: u32,
    moment: usize,
}

impl Seeds<'_> {
    fn read(&self, rest: &str) -> std::io::Result<Vec<u8>> {
        fs::read(Path::new(DIRECTORY).join(format!("executor.{}.{rest}", self.name)))
    }

    fn write(&self, target: &str, what: &str, seed: &[u8]) -> std::io::Result<()> {
        let file = format!("{}-{}-{what}", self.number, self.moment);
        fs::write(self.folder.join(target).join(file), seed)
    }

    /// Seeds of this moment.
    fn take(&mut self) -> Result<(), Box<dyn Error>> {
        let lanes: Vec<(u32, u64)> =
            Inspector::open(self.name)?.look().lanes.iter().map(|lane| (lane.lane, lane.nonce)).collect();
        let (status, journal) = (self.read("status")?, self.read("journal")?);
        let mut archive = Vec::new();
        archive::pack(0, 0, 0, &status, &mut archive);
        archive::pack(1, 0, 0, &journal, &mut archive);
        for &(lane, nonce) in lanes.iter().take(2) {
            let sq = self.read(&format!("lane-{lane}-{nonce:014x}.sq"))?;
            let cq = self.read(&format!("lane-{lane}-{nonce:014x}.cq"))?;
            archive::pack(2, lane as u8, nonce, &sq, &mut archive);
            archive::pack(3, lane as u8, nonce, &cq, &mut archive);
            self.submissions(lane, &sq[PAGE_BYTES..])?;
            self.recovery(lane, &status, &journal, &cq[PAGE_BYTES..])?;
        }
        self.write("dump", "files", &archive)?;
        self.moment += 1;
        Ok(())
    }

    /// The bits of the targets' first byte for the capacity.
    fn capacity_bits(&self) -> u8 {
        self.capacity.ilog2() as u8 - 1
    }

    fn submissions(&self, lane: u32, image: &[u8]) -> std::io::Result<()> {
        let buffers = (self.request_bytes / 64) << 2 | (self.response_bytes / 64) << 4;
        let sizes = self.capacity_bits() | buffers as u8;
        let rerun = u8::from(self.moment == 4);
        let mut seed = vec![sizes, rerun | 4 | 2 * (self.moment as u8 & 1)];
        seed.extend(0u64.to_le_bytes());
        // As if the producer went on: the next two slots are committed again, a word is changed, the lane is poisoned.
        let writes: &[(u8, u8, u16, u64)] = match self.moment {
            0 | 1 => &[],
            2 | 3 => &[(9, 1, 0, 0), (9, 1, 0, 0), (2, 3, 0, 0x0000_2000_0000_0005)],
            4 => &[(20, 1, 0, 0), (1, 2, 0, 1), (9, 1, 0, 0)],
            _ => &[(3, 0, 9, 1), (9, 3, 0, 0x0000_4000_0000_0002), (0, 1, 0, 0), (4, 1, 0, 0)],
        };
        seed.push(writes.len() as u8);
        for &(wait, kind, place, value) in writes {
            seed.extend([wait, kind]);
            seed.extend(place.to_le_bytes());
            seed.extend(value.to_le_bytes());
        }
        let end = image.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        seed.extend(&image[..end]);
        self.write("submissions", &format!("lane-{lane}"), &seed)
    }

    fn recovery(&self, lane: u32, status: &[u8], journal: &[u8], cq: &[u8]) -> std::io::Result<()> {
        let lines = (journal::LANES + lane as usize * journal::LANE_WORDS) * 8;
        let lines = &journal[lines..lines + journal::LANE_WORDS * 8];
        let status = &status[..PAGE_BYTES];
        let end = status.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        let status = &status[..end];
        let end = cq.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        let cq = &cq[..end.min(2048)];
        let head = [self.capacity_bits(), 0x88 >> (self.moment & 1), 255 - 250 * (lane as u8 & 1), lane as u8];
        let seed = |lines: &[u8]| {
            let lengths = [status.len() as u16, lines.len() as u16].map(u16::to_le_bytes).concat();
            [&head, &lengths[..], status, lines, cq].concat()
        };
        self.write("recovery", &format!("lane-{lane}"), &seed(lines))?;
        if self.moment != 4 {
            return Ok(());
        }
        // As if the worker had noted a signal of the last task.
        let mut noted = lines.to_vec();
        for (word, value) in [(crash::AT, 1u64 << 40), (crash::CAUSE, 6)] {
            noted[word * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        noted.copy_within(..8, crash::POSITION * 8);
        self.write("recovery", &format!("lane-{lane}-noted"), &seed(&noted))
    }
}
