//! Words of shared memory that no correct process writes: whatever they are, the reader goes on or says what is wrong.
//! It never panics, never hangs and never reaches outside its block.
//!
//! Values are random and, as often, those at which something turns over: 0, 1, a lap more or less, the greatest ones.
#![cfg(not(loom))]
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use executor_core::clock::{Calibration, Clock, ClockSource};
use executor_core::dispatch::{Lane, Scratch, Served};
use executor_core::idle::IdleStrategy;
use executor_core::meter::{self, MeterLayout};
use executor_core::record::{CompletionRecord, DescriptorRecord, WORDS};
use executor_core::recorder::Recording;
use executor_core::task::LaneFacts;
use executor_core::worker::{QUANTUM, Worker, WorkerOptions};
use executor_core::{Handler, Priority, Ran, Registry, Status, TaskSpec};
use executor_shm::attach::{Instance, OpenError, Wish};
use executor_shm::inspect::Inspector;
use executor_shm::lane::{LaneShape, Look, ProducerHalf, WorkerHalf};
use executor_shm::layout::{self, Geometry, journal};
use executor_shm::recovery::{self, Circumstances, recover};
use executor_shm::state::LaneWord;
use executor_shm::status;
use executor_shm::words::{HeapWords, Words, WordsMut};
use executor_shm::{Ending, InstanceName, Sidecar};
use proptest::prelude::*;

const GEOMETRY: Geometry =
    Geometry { capacity: 4, request_bytes: 64, response_bytes: 64, lanes: 3, handlers: 8, workers: 2 };

fn name(of: &str) -> InstanceName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    InstanceName::new(&format!("{of}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed))).unwrap()
}

/// A word that is likely to hurt.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..10u64,
        (0..10u64).prop_map(|below| u64::MAX - below),
        (0..64u32).prop_map(|bit| 1 << bit),
        any::<u8>().prop_map(u64::from),
        (any::<u32>(), any::<u32>()).prop_map(|(low, high)| u64::from(low) | u64::from(high) << 32),
    ]
}

fn block(words: &[u64]) -> HeapWords {
    let block = HeapWords::new(words.len());
    fill(&block, 0, words);
    block
}

fn fill(block: &HeapWords, from: usize, words: &[u64]) {
    for (at, &word) in (from..).zip(words) {
        block.store(at, word);
    }
}

struct Pair;

impl TaskSpec for Pair {
    const ID: u32 = 2;
    const NAME: &'static str = "pair";
    const SCHEMA: u32 = 1;
    type Args = [u64; 2];
    type Output = u64;
}

fn registry() -> Registry {
    let mut registry = Registry::builder();
    registry.add(Handler::new(1, "echo", |_, request, response| {
        response.write(request);
        Ok(())
    }));
    registry.typed::<Pair>(|_, [a, b]| Ok(a ^ b));
    registry.add(Handler::new(3, "again", |_, _, _| Ok(())).idempotent());
    registry.build().unwrap()
}

/// Runs a worker over one lane until it has served what is there, at most a capacity.
fn serve<L: Lane>(lane: L) -> L {
    let layout = MeterLayout { workers: 1, handlers: 8, lanes: 1 };
    let calibration = Calibration { ticks: 0, monotonic_ns: 0, realtime_ns: 0, ticks_per_second: 1_000_000_000 };
    let (worker, mut control) = Worker::new(WorkerOptions {
        recording: Recording::default(),
        worker: 0,
        clock: Clock::new(ClockSource::Monotonic, calibration),
        timed: true,
        idle: IdleStrategy::Yield,
        quantum: QUANTUM,
        request_bytes: 64,
        meter: meter::heap(&layout),
        layout,
    });
    let facts = LaneFacts {
        lane: 0,
        base: u64::MAX,
        instance_nonce: 1,
        generation: 1,
        priority: Priority::Normal,
        attached_at: u64::MAX,
        meter: layout.lane(0),
    };
    assert!(control.adopt(Box::new(Served::new(lane, facts))).is_ok());
    assert!(control.close().is_ok());
    worker.serve(&registry(), &[], |ready| assert!(ready.is_ok())).unwrap();
    control.take_returned().unwrap().lane
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_producer_survives_any_completion_ring(
        words in prop::collection::vec(word(), (GEOMETRY.cq_bytes() - 4096) / 8),
        laps in 0..3u64,
    ) {
        let cq = HeapWords::new(GEOMETRY.cq_bytes() / 8);
        fill(&cq, layout::lane::SLOTS, &words);
        let sq = HeapWords::new(GEOMETRY.sq_bytes() / 8);
        let mut producer = ProducerHalf::new(sq, cq.clone(), LaneShape::new(&GEOMETRY));
        for position in 0..=laps * 4 {
            producer.submit(&DescriptorRecord::new(1, 0, 0, 0));
            let commit = cq.load(512 + (position % 4) as usize * 8);
            match producer.look(position) {
                Look::Ended(record) => {
                    prop_assert_eq!(commit, position + 1);
                    let mut bytes = vec![0; (record.response_length() as usize).min(1 << 16)];
                    producer.copy_response(position, 0, &mut bytes);
                    producer.copy_response(position, usize::MAX / 8, &mut bytes);
                }
                Look::Pending => prop_assert!(commit == 0 || commit + 4 == position + 1, "{}", commit),
                Look::Corrupt(found) => prop_assert_eq!(found, commit),
            }
            producer.credit();
        }
    }

    #[test]
    fn a_worker_answers_whatever_a_submission_ring_holds(
        mut words in prop::collection::vec(word(), (GEOMETRY.sq_bytes() - 4096) / 8),
        committed in 0..=4usize,
        handlers in prop::collection::vec(prop_oneof![word(), 0..6u64], 4),
        lengths in prop::collection::vec(prop_oneof![0..80u64, 0..(1u64 << 24)], 4),
    ) {
        for slot in 0..4 {
            words[slot * 8] = if slot < committed { slot as u64 + 1 } else { words[slot * 8] };
            // Half of them name a handler that there is, or nearly a length that fits.
            if words[slot * 8 + 1] % 2 == 0 {
                let flags = words[slot * 8 + 2] & words[slot * 8 + 3] & 0x81; // mostly none
                words[slot * 8 + 1] = u64::from(handlers[slot] as u32) | (flags << 32) | (lengths[slot] << 40);
            }
        }
        let sq = HeapWords::new(GEOMETRY.sq_bytes() / 8);
        fill(&sq, layout::lane::SLOTS, &words);
        let cq = HeapWords::new(GEOMETRY.cq_bytes() / 8);
        let journal = HeapWords::new(journal::LANE_WORDS);
        let poison = Arc::new(AtomicU32::new(0));
        let shape = LaneShape::new(&GEOMETRY);
        let lane = serve(WorkerHalf::new(sq, cq.clone(), journal, 0, shape, (0, None), poison));
        prop_assert!(lane.position() >= committed as u64, "a committed task was left");
        for slot in 0..lane.position() as usize {
            let at = 512 + slot * WORDS;
            prop_assert_eq!(cq.load(at), slot as u64 + 1);
            let completion = CompletionRecord { words: cq.load_record(at) };
            let (status, asked) = (completion.status(), words[slot * 8 + 1]);
            prop_assert_eq!(completion.submitted_at(), words[slot * 8 + 2]);
            let (handler, flags, length) = (asked as u32, (asked >> 32) as u8, (asked >> 40) as u32);
            if !(1..=3).contains(&handler) || flags != 0 || length > 64 {
                let refused = matches!(status, Some(Status::Malformed(_)));
                prop_assert!(refused, "handler {handler}, flags {flags}, length {length}: {status:?}");
                prop_assert_eq!(completion.attempt(), 0);
            } else {
                prop_assert!(status.is_some_and(|status| status.ran() != Ran::Maybe), "{status:?}");
            }
        }
    }

    #[test]
    fn a_recovery_survives_any_journal_and_any_ring(
        lines in prop::collection::vec(word(), journal::LANE_WORDS),
        words in prop::collection::vec(word(), 4 * WORDS),
        near in prop::option::of(0..12u64),
        idempotent in any::<bool>(),
    ) {
        let (journal, cq) = (block(&lines), HeapWords::new(GEOMETRY.cq_bytes() / 8));
        fill(&cq, layout::lane::SLOTS, &words);
        if let Some(near) = near {
            journal.store(0, near);
            journal.store(journal::k::ATTEMPTS, (near << 8) | (lines[1] % 4));
            journal.store(journal::k::VERDICT, lines[2] % 3 * 6);
        }
        let started = journal.load(0);
        let seen = Circumstances {
            poisoned: false,
            payload_lost: false,
            handler_changed: false,
            idempotent,
            signal: false,
        };
        let sq = HeapWords::new(GEOMETRY.sq_bytes() / 8);
        fill(&sq, layout::lane::SLOTS, &words);
        let _ = recovery::is_unanswered(&journal, 0, &sq, Some(&cq), &GEOMETRY);
        let found = recover(&journal, 0, &cq, &GEOMETRY, |_| seen);
        // Again from the same files: a recovery that was killed after its last store is repeated.
        let again = recover(&journal, 0, &cq, &GEOMETRY, |_| seen);
        prop_assert_eq!((again.position, again.rerun), (found.position, found.rerun));
        prop_assert!(found.position == started || found.rerun.is_some());
        let poison = Arc::new(AtomicU32::new(0));
        let shape = LaneShape::new(&GEOMETRY);
        let start = (found.position, found.rerun);
        let mut lane = WorkerHalf::new(sq, cq, journal, 0, shape, start, poison);
        prop_assert!(lane.is_ready() || found.rerun.is_none());
        let mut record = DescriptorRecord::default();
        let attempt = lane.take(&mut record);
        if attempt != 0 {
            let _ = lane.payload(record.length() as usize, &mut Scratch::new(64));
            lane.start(attempt, None, 0);
            lane.publish(&CompletionRecord::new(Status::Done, attempt, 0, 0, 0, 0, [0; 3]));
        }
    }

    #[test]
    fn every_table_of_a_status_can_be_read_whatever_it_holds(
        words in prop::collection::vec(word(), GEOMETRY.meter()),
        lane in 0..GEOMETRY.lanes,
    ) {
        let words = block(&words);
        let rows = status::load_registry(&words, &GEOMETRY);
        prop_assert!(rows.len() <= GEOMETRY.handlers as usize);
        prop_assert!(rows.iter().all(|row| row.name.len() <= 63 && row.name.bytes().all(|b| b.is_ascii_graphic())));
        let row = status::load_lane(&words, &GEOMETRY, lane);
        prop_assert_eq!(LaneWord::from_word(row.word.word()), row.word);
        prop_assert!(row.word.nonce() >> 56 == 0 && row.placement.worker <= 255);
        let _ = (status::load_state(&words), status::is_timed(&words));
        if let Ok(clock) = status::load_clock(&words) {
            let sequence = words.load(layout::status::CLOCK_SEQUENCE);
            prop_assert!(sequence != 0 && sequence.is_multiple_of(2));
            for ticks in [0, 1, u64::MAX] {
                let _ = (clock.ticks_to_ns(ticks), clock.ns_to_ticks(ticks));
                let _ = (clock.monotonic_ns_at(ticks), clock.realtime_ns_at(ticks));
            }
        }
        let found = Geometry::load(&words);
        if found.check().is_ok() {
            prop_assert!(found.capacity <= 65_536 && found.lanes <= 1024 && found.status_bytes() > 0);
        }
    }
}

/// An instance of these tests' own files; they are removed whatever happens.
struct Files(InstanceName);

impl Files {
    fn names(&self) -> Vec<PathBuf> {
        let prefix = format!("executor.{}.", self.0);
        let entries = fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix)).collect()
    }

    fn path(&self, kind: &str) -> PathBuf {
        Path::new("/dev/shm").join(format!("executor.{}.{kind}", self.0))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in self.names() {
            let _ = fs::remove_file(path);
        }
    }
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The first words of a `status` that everybody would believe, but for what `page` puts elsewhere.
fn header(page: &mut [u64], trust: u32, length: usize) {
    let right = [layout::MAGIC, u64::from(layout::ABI_VERSION) | 1 << 32];
    for (at, word) in right.into_iter().enumerate().take(trust as usize) {
        page[at] = word;
    }
    if trust > 2 {
        page[layout::header::LAYOUT] = layout::LAYOUT_HASH;
        page[layout::header::BYTES] = length as u64;
    }
    if trust > 3 {
        let sizes = [4, 64, 64, 3, 8, 2];
        page[8..14].copy_from_slice(&sizes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_first_page_makes_an_attacher_or_an_inspector_panic(
        mut page in prop::collection::vec(word(), 512),
        trust in 0..6u32,
        rest in word(),
        length in prop_oneof![Just(0usize), 1..64usize, Just(511), Just(512), 512..2000usize, Just(GEOMETRY.status_bytes() / 8)],
    ) {
        let files = Files(name("page"));
        let mut words = page.split_off(0);
        header(&mut words, trust, length * 8);
        words.resize(length.max(512), rest);
        words.truncate(length);
        fs::write(files.path("status"), bytes(&words)).unwrap();
        // Nobody holds its lock, so nobody may take it for a living instance.
        prop_assert!(Instance::open(&files.0, None).is_err());
        if let Ok(inspector) = Inspector::open(&files.0) {
            prop_assert!(trust > 2);
            let seen = inspector.look();
            prop_assert_eq!(seen.alive, Some(false));
            prop_assert!(inspector.records(None, 100).is_some());
            prop_assert!(seen.lanes.len() <= 1024 && seen.handlers.len() <= 4096 && seen.workers.len() <= 64);
        }
    }
}

/// One word of one file of an instance, and what to put there.
type Scribble = (prop::sample::Index, prop::sample::Index, u64);

/// Writes over words of the instance's files, but for their headers if `spare_headers`.
fn scribble(files: &[PathBuf], scribbles: &[Scribble], spare_headers: bool) {
    for (which, at, word) in scribbles {
        let path = which.get(files);
        let file = File::options().write(true).open(path).unwrap();
        let words = file.metadata().unwrap().len() / 8;
        // Most of a file is buffers and counters; what matters lies in its first words and on its second page.
        let places = [16..words.min(300), 512..words.min(700), 16..words];
        let place = &places[at.index(3)];
        let first = if spare_headers { place.start } else { 0 };
        let at = first + at.index((place.end - first) as usize) as u64;
        file.write_all_at(&word.to_le_bytes(), at * 8).unwrap();
    }
}

fn start(name: &InstanceName) -> Result<executor_shm::SidecarHandle, executor_shm::StartError> {
    let builder = Sidecar::builder().instance(name.clone()).registry(registry()).pinned(false);
    builder.idle(IdleStrategy::Yield).drain_time(Duration::from_secs(1)).start()
}

fn first_start(name: &InstanceName) -> executor_shm::SidecarHandle {
    let builder = Sidecar::builder().instance(name.clone()).registry(registry()).pinned(false);
    builder.capacity(4).request_bytes(64).response_bytes(64).lanes(3).idle(IdleStrategy::Yield).start().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_start_on_damaged_files_serves_or_refuses_and_ends_well(
        scribbles in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), word()), 1..12),
        spare_headers in prop::bool::weighted(0.8),
    ) {
        serve_damaged(|files| {
            let mut names = files.names();
            names.sort();
            scribble(&names, &scribbles, spare_headers);
        });
    }
}

/// Leaves the files of an instance with an attached owner and three waiting tasks, damages them, and has them served.
fn serve_damaged(damage: impl FnOnce(&Files)) {
    let files = Files(name("damaged"));
    let sidecar = first_start(&files.0);
    let instance = Instance::open(&files.0, None).unwrap();
    let claim = instance.claim(Wish::default()).unwrap().unwrap();
    let mut producer = ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(instance.geometry()));
    for task in 0..3 {
        producer.submit(&DescriptorRecord::new(1 + task, 0, 5, 0));
    }
    sidecar.stop();
    assert!(matches!(sidecar.join().unwrap().ending, Ending::Kept { attached: 1, .. }));

    damage(&files);
    // Whoever only looks must get through as well.
    if let Ok(inspector) = Inspector::open(&files.0) {
        let _ = inspector.look();
        let _ = inspector.records(None, 100);
    }
    for position in 0..3 {
        let _ = producer.look(position);
    }
    match start(&files.0) {
        Ok(sidecar) => {
            match Instance::open(&files.0, None) {
                Ok(instance) => drop(instance.claim(Wish::default())),
                Err(OpenError::NotRunning { .. }) => panic!("it runs and says it does not"),
                Err(_) => {}
            }
            let _ = Inspector::open(&files.0).map(|inspector| inspector.look());
            sidecar.stop();
            assert!(sidecar.join().is_ok(), "a thread of the sidecar died");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    drop((producer, claim.lock));
}

#[test]
fn a_start_survives_each_word_of_its_own_files_at_its_extremes() {
    // Geometry, the sidecar's line and the clock, the first worker and the first lane; the journal's first lane.
    let of_status = (8..41).chain(56..74).chain(104..114).map(|at| ("status", at));
    let of_journal = (8..20).chain(512..536).map(|at| ("journal", at));
    let mut failed = Vec::new();
    for (kind, at) in of_status.chain(of_journal) {
        for word in [0, 1, 1 << 55, u64::MAX] {
            let survived = std::panic::catch_unwind(|| {
                serve_damaged(|files| {
                    let file = File::options().write(true).open(files.path(kind)).unwrap();
                    file.write_all_at(&word.to_le_bytes(), at * 8).unwrap();
                });
            });
            if survived.is_err() {
                failed.push(format!("{kind}: word {at} as {word:#x}"));
            }
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}
