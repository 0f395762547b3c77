//! What attackers do to files of their own lane, and to locks that everybody can reach.
//!
//! They attach through the library, as anybody may, and then stop being honest. Where their own mapping faults they die of
//! it, which is theirs to bear.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use executor_client::{Client, InstanceName, LaneStatus, TaskDescriptor};
use executor_shm::layout::lane::SLOTS;
use executor_tests::ownership::{self, Ownership};
use executor_tests::shared::SharedTable;
use fastrand::Rng;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::libc;
use nix::sys::signal::{SigSet, Signal, raise};

use crate::board::{Board, Count};
use crate::sidecar::{BUFFER_BYTES, CAPACITY, ECHO, PANICS, SUM};

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Stores anything anywhere in its own submissions.
    Scribbler,
    /// Cuts its own files off and lets them grow again.
    Truncator,
    /// Punches holes into its own submissions.
    HolePuncher,
    /// Two processes write the same submissions.
    DoubleWriter,
    /// Attaches, and detaches or dies, as fast as it can.
    AttachFlooder,
    /// Takes locks on everything and holds them.
    LockGrabber,
}

impl Attack {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// How long an attacker keeps a lane that is not poisoned.
const LANE_TIME: Duration = Duration::from_millis(30);

/// Attacks until it is killed, or dies of what it did.
pub(crate) fn attack(what: Attack, instance: &InstanceName, board: &Board, number: u64, seed: u64) -> i32 {
    if SigSet::empty().thread_set_mask().is_err() {
        return 1;
    }
    let mut dice = Rng::with_seed(seed);
    while !board.is_finishing() {
        let lived = match what {
            Attack::LockGrabber => grab(instance, board, number, &mut dice),
            Attack::DoubleWriter if number == 1 => join(instance, board, &mut dice),
            _ => on_a_lane(what, instance, board, &mut dice),
        };
        if lived.is_err() {
            board.add(Count::Refused, 1); // a file or lane that was gone; the next one
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    0
}

/// One lane of its own, maltreated until it is poisoned or the time is up.
fn on_a_lane(
    what: Attack,
    instance: &InstanceName,
    board: &Board,
    dice: &mut Rng,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut client = Client::connect_timeout(instance, Duration::from_secs(1))?;
    board.add(Count::Attached, 1);
    if what == Attack::AttachFlooder {
        board.add(Count::Acts, 1);
        match dice.u32(0..4) {
            0 => {
                let _ = client.try_submit(&TaskDescriptor::new(ECHO), b"and away");
            }
            1 => raise(Signal::SIGKILL)?,
            _ => {}
        }
        return Ok(());
    }
    let lane = Ownership::of(instance, client.lane_number())?;
    let sq = File::options().read(true).write(true).open(&lane.sq)?;
    let length = sq.metadata()?.len();
    if what == Attack::DoubleWriter {
        board.store(Count::Shared, lane.nonce);
    }
    let until = Instant::now() + LANE_TIME;
    while Instant::now() < until && !board.is_finishing() {
        if client.state() == LaneStatus::Poisoned {
            board.add(Count::Poisoned, 1);
            break;
        }
        match what {
            Attack::Scribbler => {
                submit(&mut client, dice);
                let words = SharedTable::map(&sq)?;
                for _ in 0..dice.u32(1..200) {
                    scribble(&words, dice);
                }
                board.add(Count::Acts, 1);
            }
            Attack::Truncator => {
                submit(&mut client, dice);
                // Now and then of the completions, which are the sidecar's to write.
                let is_sq = dice.u32(0..4) != 0;
                truncate(if is_sq { &lane.sq } else { &lane.cq }, length, dice)?;
                board.add(Count::Acts, 1);
                match dice.u32(0..4) {
                    0 => {}
                    1 => wait_for_poison(&client),
                    _ => break, // what it did is seen when it is gone; another lane
                }
            }
            Attack::HolePuncher => {
                submit(&mut client, dice);
                punch(&sq, length, dice)?;
                board.add(Count::Acts, 1);
            }
            _ => {
                submit(&mut client, dice);
                board.add(Count::Acts, 1);
            }
        }
        if dice.bool() {
            std::thread::sleep(Duration::from_micros(dice.u64(0..300)));
        }
    }
    match dice.u32(0..4) {
        0 => Ok(raise(Signal::SIGKILL)?),
        _ => Ok(()),
    }
}

/// Until the lane is poisoned, or nobody minds what was done to it.
fn wait_for_poison(client: &Client) {
    let until = Instant::now() + LANE_TIME;
    while client.state() != LaneStatus::Poisoned && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Some tasks as anybody would submit them, so that there is something to spoil.
fn submit(client: &mut Client, dice: &mut Rng) {
    let payload = vec![dice.u8(..); dice.usize(0..=BUFFER_BYTES as usize)];
    for _ in 0..dice.u32(0..16) {
        if client.try_submit(&TaskDescriptor::new(dice.u32(ECHO..=PANICS)), &payload).is_err() {
            break;
        }
    }
    for _ in 0..dice.u32(0..16) {
        if !matches!(client.try_collect(), Ok(Some(_))) {
            break;
        }
    }
}

/// One store: anything anywhere, or something that a worker will look at.
fn scribble(words: &SharedTable, dice: &mut Rng) {
    let slot = SLOTS + dice.usize(..CAPACITY as usize) * 8;
    let (at, value) = match dice.u32(0..4) {
        0 => (dice.usize(..words.len()), dice.u64(..)),
        1 => (slot, dice.u64(0..256)),
        // Handler, flags and length, mostly such as there are.
        2 => (slot + 1, u64::from(dice.u32(0..6)) | dice.u64(0..2) << 32 | dice.u64(0..400) << 40),
        _ => (slot + dice.usize(0..8), dice.u64(..)),
    };
    words.cell(at).store(value, Relaxed);
}

fn truncate(path: &Path, length: u64, dice: &mut Rng) -> std::io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let cut = if dice.bool() { 0 } else { dice.u64(0..length) };
    file.set_len(cut)?;
    if dice.bool() {
        std::thread::sleep(Duration::from_micros(dice.u64(0..500)));
    }
    if dice.u32(0..4) != 0 {
        file.set_len(length)?;
    }
    Ok(())
}

fn punch(sq: &File, length: u64, dice: &mut Rng) -> nix::Result<()> {
    let (from, most) = if dice.bool() { (0, length) } else { (dice.u64(0..length), length) };
    let bytes = dice.u64(1..=most - from.min(most - 1));
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(sq.as_fd(), mode, from as i64, bytes as i64)
}

/// Writes into the lane that the first writer has, as if it were its own.
fn join(instance: &InstanceName, board: &Board, dice: &mut Rng) -> Result<(), Box<dyn std::error::Error>> {
    // By its nonce: once the other one has let go, the lane of that number may be an honest producer's.
    let end = format!("-{:014x}.sq", board.load(Count::Shared));
    let Some(sq) = ownership::files(instance).into_iter().find(|path| path.to_string_lossy().ends_with(&end)) else {
        std::thread::sleep(Duration::from_micros(200));
        return Ok(());
    };
    let words = SharedTable::map(&File::options().read(true).write(true).open(&sq)?)?;
    let until = Instant::now() + LANE_TIME / 4;
    while Instant::now() < until && !board.is_finishing() {
        // The next position as the slots tell it: the other one may be writing there.
        let slots = (0..CAPACITY as usize).map(|slot| words.cell(SLOTS + slot * 8).load(Relaxed));
        let position = slots.max().unwrap_or(0);
        let slot = SLOTS + (position % u64::from(CAPACITY)) as usize * 8;
        for (word, value) in [u64::from(SUM) | dice.u64(0..300) << 40, 0, 0, 1, 2, 3, 4].into_iter().enumerate() {
            words.cell(slot + 1 + word).store(value, Relaxed);
        }
        words.cell(slot).store(position.wrapping_add(1), Release);
        board.add(Count::Acts, 1);
        if dice.u32(0..4) == 0 {
            std::thread::sleep(Duration::from_micros(dice.u64(0..100)));
        }
    }
    Ok(())
}

/// Takes locks of both kinds on every file it can open. The first attacker never lets go of what there was when it came, the
/// others take whatever there is for a while, again and again.
fn grab(instance: &InstanceName, board: &Board, number: u64, dice: &mut Rng) -> Result<(), Box<dyn std::error::Error>> {
    let mut held = Vec::new();
    for path in ownership::files(instance) {
        let is_sq = path.extension().is_some_and(|end| end == "sq");
        let write = is_sq && (number == 0 || dice.bool());
        let Ok(file) = File::options().read(true).write(write).open(&path) else { continue };
        let mut lock = libc::flock { l_type: 0, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
        lock.l_type = (if write { libc::F_WRLCK } else { libc::F_RDLCK }) as libc::c_short;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => {
                board.add(Count::Acts, 1);
                held.push(file);
            }
            Err(_) => board.add(Count::Refused, 1),
        }
    }
    while number == 0 && !board.is_finishing() {
        std::thread::sleep(LANE_TIME);
    }
    std::thread::sleep(Duration::from_micros(dice.u64(0..50_000)));
    Ok(())
}
