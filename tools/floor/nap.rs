//! Round trips between two processes that sleep: what a wake-up costs on this machine, there and back.
//!
//! Each side stores a word, has the kernel wake who sleeps on it, and sleeps on the other side's words. Neither looks
//! twice, raises a barrier or asks whether anybody sleeps: nothing is left out that two system calls a trip allow.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::futex::{self, Wait, WaitFlags, WaitPtr, WaitvFlags};

use super::peer::{FloorError, NAP_WORDS, Peer, Shared, with_peer};

/// Trips that begin some time after the last one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spell {
    /// That time. The caller is busy meanwhile, so its own CPU does not cool down.
    pub gap: Duration,
    /// Trips that are made and not told, before the others.
    pub warm_up: u64,
    /// Trips that are told.
    pub trips: u64,
}

/// Makes the trips of a spell and returns what each took, in nanoseconds, in order. `trip` gets the trip's number.
///
/// # Errors
///
/// The first error of `trip`.
pub fn time_after_gaps<E>(spell: &Spell, mut trip: impl FnMut(u64) -> Result<(), E>) -> Result<Vec<u64>, E> {
    let mut samples = Vec::with_capacity(spell.trips as usize);
    for number in 0..spell.warm_up + spell.trips {
        let ended = Instant::now();
        while ended.elapsed() < spell.gap {
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        trip(number)?;
        let took = begun.elapsed().as_nanos() as u64;
        if number >= spell.warm_up {
            samples.push(took);
        }
    }
    Ok(samples)
}

/// Round trips between two processes of which each sleeps while the other has the turn: the peer on so many words at a
/// time, this side on one. A peer with one word sleeps by `FUTEX_WAIT`, one with more by `futex_waitv`. Returns for each
/// spell what its trips took, in nanoseconds.
///
/// # Errors
///
/// As [`ping_pong`](super::ping_pong); no words, or more than 128; a kernel without `futex_waitv`.
///
/// # Examples
///
/// ```
/// use executord::floor::{self, Spell};
/// use std::time::Duration;
///
/// let spell = Spell { gap: Duration::from_micros(100), warm_up: 1, trips: 10 };
/// let trips = floor::sleeping_trips(floor::two_cpus()?, 1, &[spell])?;
/// println!("{} ns there and back", trips[0].iter().min().unwrap());
/// # Ok::<(), floor::FloorError>(())
/// ```
pub fn sleeping_trips(cpus: (u32, u32), words: usize, spells: &[Spell]) -> Result<Vec<Vec<u64>>, FloorError> {
    if !(1..=NAP_WORDS).contains(&words) {
        return Err(refused("sleep on so many words", Errno::INVAL));
    }
    if words > 1 {
        let word = AtomicU32::new(0);
        match futex::waitv(&[wait_for(&word, 1)], WaitvFlags::empty(), None, rustix::time::ClockId::Monotonic) {
            Err(Errno::AGAIN) => {} // the word is another, so the call is there
            Err(errno) => return Err(refused("sleep on several words", errno)),
            Ok(_) => return Err(refused("sleep on several words", Errno::INVAL)),
        }
    }
    with_peer(
        cpus,
        |shared| answer(shared, words),
        |shared, peer| {
            let mut turn = 0;
            spells.iter().map(|spell| time_after_gaps(spell, |_| ask(shared, peer, words, &mut turn))).collect()
        },
    )
}

fn refused(act: &'static str, errno: Errno) -> FloorError {
    FloorError::System { act, source: nix::errno::Errno::from_raw(errno.raw_os_error()) }
}

fn wait_for(word: &AtomicU32, seen: u32) -> Wait {
    let mut wait = Wait::new();
    wait.val = seen.into();
    wait.uaddr = WaitPtr::new(word.as_ptr().cast());
    wait.flags = WaitFlags::SIZE_U32;
    wait
}

fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}

/// One trip of this side.
fn ask(shared: &Shared, peer: &Peer, words: usize, turn: &mut u32) -> Result<(), FloorError> {
    let (task, reply, last) = (shared.nap(words), shared.nap(0), *turn);
    *turn = turn.wrapping_add(1);
    task.store(*turn, Release); // P1
    wake(task);
    while reply.load(Acquire) != *turn {
        let second = futex::Timespec { tv_sec: 1, tv_nsec: 0 };
        if futex::wait(reply, futex::Flags::empty(), last, Some(&second)) == Err(Errno::TIMEDOUT) {
            peer.check()?;
        }
    }
    Ok(())
}

/// The peer's side, until it is killed. It allocates nothing (F2).
fn answer(shared: &Shared, words: usize) {
    let (task, reply) = (shared.nap(words), shared.nap(0));
    let mut waits = [Wait::new(); NAP_WORDS];
    for (wait, place) in waits.iter_mut().zip(1..=words) {
        *wait = wait_for(shared.nap(place), 0);
    }
    let mut last = 0;
    loop {
        let turn = task.load(Acquire);
        if turn != last {
            last = turn;
            reply.store(turn, Release); // P2
            wake(reply);
        } else if words == 1 {
            let _ = futex::wait(task, futex::Flags::empty(), last, None);
        } else {
            waits[words - 1].val = last.into();
            let _ = futex::waitv(&waits[..words], WaitvFlags::empty(), None, rustix::time::ClockId::Monotonic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::two_cpus;

    #[test]
    fn every_trip_of_two_sleepers_is_told_whatever_they_sleep_on() {
        let spells =
            [(0, 3), (200, 2)].map(|(gap, trips)| Spell { gap: Duration::from_micros(gap), warm_up: 1, trips });
        for words in [1, 2, 17, NAP_WORDS] {
            let told = match sleeping_trips(two_cpus().unwrap(), words, &spells) {
                Err(FloorError::System { act: "sleep on several words", source }) => {
                    println!("skipped: no futex_waitv: {source}");
                    continue;
                }
                told => told.unwrap(),
            };
            assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2], "{words} words");
            // No more than that: whoever finds the other still awake has slept for nothing.
            assert!(told.iter().flatten().all(|&ns| ns > 0), "a trip that took no time: {told:?}");
        }
    }

    #[test]
    fn a_nap_on_no_word_or_on_too_many_is_refused() {
        for words in [0, NAP_WORDS + 1] {
            let refused = sleeping_trips(two_cpus().unwrap(), words, &[]);
            assert!(matches!(refused, Err(FloorError::System { .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_trip_begins_after_its_gap_and_the_gap_is_no_part_of_it() {
        let (mut begun, gap) = (Vec::new(), Duration::from_millis(2));
        let spell = Spell { gap, warm_up: 1, trips: 3 };
        let told = time_after_gaps(&spell, |number| {
            begun.push((number, Instant::now()));
            Ok::<(), ()>(())
        });
        assert_eq!(told.unwrap().len(), 3);
        assert_eq!(begun.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(begun.windows(2).all(|pair| pair[1].1 - pair[0].1 >= gap));
    }
}
