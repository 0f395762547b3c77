//! The bytes that processes of different builds share, written out as numbers.
//!
//! Nothing here is computed from the code under test: every offset, code and byte is a literal, and two tests compare
//! whole files of a running instance. When one of them fails, a byte has moved or changed its meaning: raise
//! `ABI_VERSION` in `layout.rs`, say in CHANGELOG.md under `ABI N` what users must restart, and only then mend the table.
#![cfg(not(loom))]
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use executor_core::clock::ClockSource;
use executor_core::contract::fingerprint;
use executor_core::idle::IdleStrategy;
use executor_core::meter::{self, MeterLayout, WorkerWord};
use executor_core::record::{self, CompletionRecord, DescriptorRecord};
use executor_core::recorder::{self, EventKind, HeadWord};
use executor_core::status::{HandlerChange, Interrupted, Malformed, Poison};
use executor_core::task::TaskId;
use executor_core::{Handler, Priority, Registry, Status, histogram};
use executor_shm::attach::{Instance, Wish};
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::layout::{self, Geometry, Kind, geometry, header, journal, lane, status};
use executor_shm::state::{InstanceState, LaneState, LaneWord};
use executor_shm::status::Placement;
use executor_shm::words::{HeapWords, Words, WordsMut};
use executor_shm::{Group, InstanceName, Sidecar};

/// The version that all numbers of this file belong to.
const ABI: u32 = 1;
/// FNV-1a 64 over the offsets and sizes that `layout.rs` lists, one word each.
const LAYOUT_HASH: u64 = 0x966d_e691_bea6_c623;
/// FNV-1a 64 over `echo`, a zero byte and five zeros of 32 bits.
const ECHO: u64 = 0xbd25_b140_e585_3cac;
/// The same over `sized-and-again`, a zero byte, 7 and four zeros.
const SIZED: u64 = 0xe8ee_8be5_9157_4ec0;

const MOVED: &str =
    "a shared byte has moved: raise ABI_VERSION, say so in CHANGELOG.md under `ABI N`, then mend this table";

/// Compares named numbers with what they must be, all of them, and tells every difference.
#[track_caller]
fn same<N: PartialEq + std::fmt::Debug>(rows: &[(&str, N, N)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(name, found, expected)| format!("{name} is {found:?}, was {expected:?}"))
        .collect();
    assert!(wrong.is_empty(), "{MOVED}\n{}", wrong.join("\n"));
}

#[test]
fn every_offset_is_where_this_version_has_it() {
    same(&[
        ("header::MAGIC", header::MAGIC, 0),
        ("header::ABI_KIND", header::ABI_KIND, 1),
        ("header::NONCE", header::NONCE, 2),
        ("header::STATE", header::STATE, 3),
        ("header::COUNTS", header::COUNTS, 4),
        ("header::LAYOUT", header::LAYOUT, 5),
        ("header::BYTES", header::BYTES, 6),
        ("header::CREATED_AT", header::CREATED_AT, 7),
        ("geometry::CAPACITY", geometry::CAPACITY, 8),
        ("geometry::REQUEST_BYTES", geometry::REQUEST_BYTES, 9),
        ("geometry::RESPONSE_BYTES", geometry::RESPONSE_BYTES, 10),
        ("geometry::LANES", geometry::LANES, 11),
        ("geometry::HANDLERS", geometry::HANDLERS, 12),
        ("geometry::WORKERS", geometry::WORKERS, 13),
        ("geometry::CLOCK", geometry::CLOCK, 14),
        ("geometry::FLAGS", geometry::FLAGS, 15),
        ("journal::GENERATION", journal::GENERATION, 16),
        ("journal::GROUP", journal::GROUP, 17),
        ("journal::BOOT", journal::BOOT, 18),
        ("journal::LANES", journal::LANES, 512),
        ("journal::LANE_WORDS", journal::LANE_WORDS, 24),
        ("journal::k::ATTEMPTS", journal::k::ATTEMPTS, 8),
        ("journal::k::VERDICT", journal::k::VERDICT, 9),
        ("journal::k::STARTED_AT", journal::k::STARTED_AT, 10),
        ("journal::k::STATE", journal::k::STATE, 11),
        ("journal::k::BASE", journal::k::BASE, 12),
        ("journal::k::GENERATION", journal::k::GENERATION, 13),
        ("journal::k::RESETS", journal::k::RESETS, 14),
        ("journal::k::PLACEMENT", journal::k::PLACEMENT, 15),
        ("journal::crash::POSITION", journal::crash::POSITION, 16),
        ("journal::crash::AT", journal::crash::AT, 17),
        ("journal::crash::CAUSE", journal::crash::CAUSE, 18),
        ("journal::crash::CHARGED[0]", journal::crash::CHARGED[0], 20),
        ("journal::crash::CHARGED[2]", journal::crash::CHARGED[2], 22),
        ("status::EPOCH", status::EPOCH, 16),
        ("status::GENERATION", status::GENERATION, 17),
        ("status::HANDLERS_USED", status::HANDLERS_USED, 18),
        ("status::WORKERS_USED", status::WORKERS_USED, 19),
        ("status::PID", status::PID, 20),
        ("status::STARTED_AT", status::STARTED_AT, 21),
        ("status::NAP", status::NAP, 22),
        ("status::FOOTPRINT", status::FOOTPRINT, 23),
        ("status::CLOCK_SEQUENCE", status::CLOCK_SEQUENCE, 24),
        ("status::CLOCK_TICKS", status::CLOCK_TICKS, 25),
        ("status::CLOCK_MONOTONIC", status::CLOCK_MONOTONIC, 26),
        ("status::CLOCK_REALTIME", status::CLOCK_REALTIME, 27),
        ("status::CLOCK_RATE", status::CLOCK_RATE, 28),
        ("status::GROUP", status::GROUP, 29),
        ("status::BOOT", status::BOOT, 30),
        ("status::HELD_BACK", status::HELD_BACK, 32),
        ("status::SLOW_AFTER", status::SLOW_AFTER, 35),
        ("status::WORKERS", status::WORKERS, 40),
        ("status::WORKER_CPU", status::WORKER_CPU, 0),
        ("status::WORKER_IDLE", status::WORKER_IDLE, 1),
        ("status::LANE_WORDS", status::LANE_WORDS, 16),
        ("status::GATE_STATE", status::GATE_STATE, 0),
        ("status::GATE_SLEEPING", status::GATE_SLEEPING, 1),
        ("status::GATE_BARRIER", status::GATE_BARRIER, 2),
        ("status::LANE_USELESS_WAKES", status::LANE_USELESS_WAKES, 14),
        ("status::WORKER_LACKS", status::WORKER_LACKS, 2),
        ("lane::BARRIER", lane::BARRIER, 17),
        ("status::LANE_BASE", status::LANE_BASE, 8),
        ("status::LANE_PLACEMENT", status::LANE_PLACEMENT, 9),
        ("status::LANE_ATTACHED_AT", status::LANE_ATTACHED_AT, 10),
        ("status::LANE_RESETS", status::LANE_RESETS, 11),
        ("status::LANE_OWNER", status::LANE_OWNER, 12),
        ("status::LANE_DAMAGED_AT", status::LANE_DAMAGED_AT, 13),
        ("status::ROW_WORDS", status::ROW_WORDS, 16),
        ("status::ROW_ID", status::ROW_ID, 0),
        ("status::ROW_FINGERPRINT", status::ROW_FINGERPRINT, 1),
        ("status::ROW_SINCE", status::ROW_SINCE, 2),
        ("status::ROW_SIZES", status::ROW_SIZES, 3),
        ("status::ROW_NAME_BYTES", status::ROW_NAME_BYTES, 4),
        ("status::ROW_NAME", status::ROW_NAME, 8),
        ("lane::WAITING", lane::WAITING, 16),
        ("lane::WISH", lane::WISH, 24),
        ("lane::OWNER", lane::OWNER, 25),
        ("lane::SUBMITTED", lane::SUBMITTED, 32),
        ("lane::COLLECTED", lane::COLLECTED, 33),
        ("lane::CREDITED", lane::CREDITED, 34),
        ("lane::REJECTED", lane::REJECTED, 35),
        ("lane::SLOTS", lane::SLOTS, 512),
        ("PAGE", layout::PAGE, 512),
        ("LINE", layout::LINE, 8),
        ("record::WORDS", record::WORDS, 8),
        ("record::COMMIT", record::COMMIT, 0),
        ("record::INLINE_PAYLOAD", record::INLINE_PAYLOAD, 32),
        ("record::INLINE_RESPONSE", record::INLINE_RESPONSE, 24),
        ("record::LENGTH_MAX", record::LENGTH_MAX, 16_777_152),
        ("size of DescriptorRecord", size_of::<DescriptorRecord>(), 64),
        ("size of CompletionRecord", size_of::<CompletionRecord>(), 64),
        ("align of DescriptorRecord", align_of::<DescriptorRecord>(), 64),
        ("align of CompletionRecord", align_of::<CompletionRecord>(), 64),
    ]);
}

#[test]
fn every_size_follows_from_the_geometry_as_this_version_has_it() {
    let default =
        Geometry { capacity: 1024, request_bytes: 256, response_bytes: 256, lanes: 16, handlers: 16, workers: 2 };
    let odd = Geometry { capacity: 8, request_bytes: 64, response_bytes: 128, lanes: 3, handlers: 8, workers: 2 };
    same(&[
        ("buffers", default.buffers(), 8704),
        ("sq_bytes", default.sq_bytes(), 331_776),
        ("cq_bytes", default.cq_bytes(), 331_776),
        ("journal_bytes", default.journal_bytes(), 8192),
        ("status_bytes", default.status_bytes(), 794_624),
        ("journal_lane(15)", default.journal_lane(15), 872),
        ("lane_table", default.lane_table(), 56),
        ("gate(15)", default.gate(15), 296),
        ("row(0)", default.row(0), 312),
        ("row(15)", default.row(15), 552),
        ("meter", default.meter(), 1024),
        ("buffers, odd", odd.buffers(), 576),
        ("sq_bytes, odd", odd.sq_bytes(), 5120),
        ("cq_bytes, odd", odd.cq_bytes(), 5632),
        ("journal_bytes, odd", odd.journal_bytes(), 8192),
        ("status_bytes, odd", odd.status_bytes(), 393_216),
        ("gate(2), odd", odd.gate(2), 88),
        ("row(0), odd", odd.row(0), 104),
        ("meter, odd", odd.meter(), 512),
    ]);
    let counts = MeterLayout { workers: 2, handlers: 8, lanes: 3 };
    same(&[
        ("COUNTS", meter::COUNTS, 16),
        ("WORKER_WORDS", meter::WORKER_WORDS, 64),
        ("HANDLER_WORDS", meter::HANDLER_WORDS, 2256),
        ("LANE_WORDS", meter::LANE_WORDS, 1040),
        ("BUCKETS", histogram::BUCKETS, 1024),
        ("worker(1)", counts.worker(1), 18_112),
        ("handler(1, 7)", counts.handler(1, 7), 33_968),
        ("lane(2)", counts.lane(2), 38_304),
        ("words", counts.words(), 48_584),
        ("WorkerWord::Tasks", WorkerWord::Tasks as usize, 0),
        ("WorkerWord::Sweeps", WorkerWord::Sweeps as usize, 1),
        ("WorkerWord::Lanes", WorkerWord::Lanes as usize, 2),
        ("WorkerWord::BusyTicks", WorkerWord::BusyTicks as usize, 7),
        ("WorkerWord::SlowTasks", WorkerWord::SlowTasks as usize, 16),
        ("REQUEST_BYTES", meter::REQUEST_BYTES, 14),
        ("RESPONSE_BYTES", meter::RESPONSE_BYTES, 15),
        ("slowest(1, 7)", counts.slowest(1, 7), 36_032),
        ("recorder(2)", counts.recorder(2), 45_504),
        ("HEAD_WORDS", recorder::HEAD_WORDS, 8),
        ("EVENTS", recorder::EVENTS, 128),
        ("SLEEPS", recorder::SLEEPS, 64),
        ("SLOW_TASKS", recorder::SLOW_TASKS, 32),
        ("ERRORS", recorder::ERRORS, 32),
        ("SLOWEST", recorder::SLOWEST, 8),
        ("RECORDER_WORDS", recorder::RECORDER_WORDS, 3080),
        ("HeadWord::ErrorsForgotten", HeadWord::ErrorsForgotten as usize, 4),
    ]);
    same(&[
        ("bucket_of(63)", histogram::bucket_of(63), 63),
        ("bucket_of(64)", histogram::bucket_of(64), 64),
        ("bucket_of(67)", histogram::bucket_of(67), 65),
        ("bucket_of(1000000)", histogram::bucket_of(1_000_000), 509),
        ("bucket_of(u64::MAX)", histogram::bucket_of(u64::MAX), 1023),
    ]);
}

#[test]
fn every_code_means_what_this_version_means_by_it() {
    same(&[
        ("EventKind::SlowTask", EventKind::SlowTask.code().into(), 1),
        ("EventKind::LaneTaken", EventKind::LaneTaken.code().into(), 3),
        ("EventKind::ClockBack", EventKind::ClockBack.code().into(), 12),
        ("Kind::Status", Kind::Status as u64, 1),
        ("Kind::Journal", Kind::Journal as u64, 2),
        ("Kind::Sq", Kind::Sq as u64, 3),
        ("Kind::Cq", Kind::Cq as u64, 4),
        ("InstanceState::New", InstanceState::New as u64, 1),
        ("InstanceState::Running", InstanceState::Running as u64, 2),
        ("InstanceState::Closing", InstanceState::Closing as u64, 3),
        ("InstanceState::Stopped", InstanceState::Stopped as u64, 4),
        ("InstanceState::Discarded", InstanceState::Discarded as u64, 5),
        ("LaneState::Absent", LaneState::Absent as u64, 0),
        ("LaneState::Resetting", LaneState::Resetting as u64, 1),
        ("LaneState::Free", LaneState::Free as u64, 2),
        ("LaneState::Active", LaneState::Active as u64, 3),
        ("LaneState::Draining", LaneState::Draining as u64, 4),
        ("LaneState::Poisoned", LaneState::Poisoned as u64, 5),
        ("Priority::Low", Priority::Low as u64, 0),
        ("Priority::Normal", Priority::Normal as u64, 1),
        ("Priority::High", Priority::High as u64, 2),
        ("Priority::Critical", Priority::Critical as u64, 3),
        ("ClockSource::Tsc", ClockSource::Tsc.code(), 1),
        ("ClockSource::Monotonic", ClockSource::Monotonic.code(), 2),
        ("IdleStrategy::Spin", IdleStrategy::Spin as u64, 0),
        ("IdleStrategy::SpinThenYield", IdleStrategy::SpinThenYield as u64, 1),
        ("IdleStrategy::Yield", IdleStrategy::Yield as u64, 2),
    ]);
    let codes = |status: Status| (status.code(), status.detail());
    same(&[
        ("Done", codes(Status::Done), (1, 0)),
        ("Failed", codes(Status::Failed { code: 200 }), (2, 200)),
        ("Panicked", codes(Status::Panicked), (3, 0)),
        ("UnknownHandler", codes(Status::Malformed(Malformed::UnknownHandler)), (4, 1)),
        ("BadFlags", codes(Status::Malformed(Malformed::BadFlags)), (4, 2)),
        ("TooLong", codes(Status::Malformed(Malformed::TooLong)), (4, 3)),
        ("WrongSize", codes(Status::Malformed(Malformed::WrongSize)), (4, 4)),
        ("BadValue", codes(Status::Malformed(Malformed::BadValue)), (4, 5)),
        ("ResponseTooLong", codes(Status::ResponseTooLong { wanted: 9 }), (5, 0)),
        ("Expired", codes(Status::Expired), (6, 0)),
        ("Killed", codes(Status::Interrupted(Interrupted::Killed)), (7, 1)),
        ("Signal", codes(Status::Interrupted(Interrupted::Signal)), (7, 2)),
        ("Attempts", codes(Status::Interrupted(Interrupted::Attempts)), (7, 3)),
        ("HandlerChanged", codes(Status::Interrupted(Interrupted::HandlerChanged)), (7, 4)),
        ("PayloadLost", codes(Status::Interrupted(Interrupted::PayloadLost)), (7, 5)),
        ("Changed", codes(Status::HandlerChanged(HandlerChange::Changed)), (8, 1)),
        ("Missing", codes(Status::HandlerChanged(HandlerChange::Missing)), (8, 2)),
        ("CrashBudget", codes(Status::Poisoned(Poison::CrashBudget)), (9, 1)),
        ("Damaged", codes(Status::Poisoned(Poison::Damaged)), (9, 2)),
    ]);
    same(&[
        ("ABI_VERSION", u64::from(layout::ABI_VERSION), u64::from(ABI)),
        ("MAGIC", layout::MAGIC, 0x726f_7475_6365_7865),
        ("LAYOUT_HASH", layout::LAYOUT_HASH, LAYOUT_HASH),
        ("TaskId", TaskId::new(5, 7).as_u64(), 0x0140_0000_0000_0007),
        ("fingerprint", fingerprint("echo", 0, 0, 0, 0, 0), ECHO),
        ("LaneWord", LaneWord::new(LaneState::Poisoned, 2, 0x0012_3456_789a_bcde).word(), 0x1234_5678_9abc_de15),
        ("Placement", Placement { priority: Priority::High, worker: 3 }.word(), 0x302),
    ]);
}

#[test]
fn records_lie_in_words_byte_by_byte_as_this_version_has_them() {
    let words = HeapWords::new(24);
    let mut descriptor = DescriptorRecord::new(0x0123, 0x00ab_cdef, 0x1112_1314_1516_1718, 0x2122_2324_2526_2728);
    *descriptor.inline_payload_mut() = std::array::from_fn(|i| 0x40 + i as u8);
    words.store_record(0, &descriptor.words);
    words.commit(0, 0x0102_0304_0506_0708);
    let completion = CompletionRecord::new(
        Status::Failed { code: 0x42 },
        0x0304,
        0x0506_0708,
        0x1112_1314_1516_1718,
        0x2122_2324_2526_2728,
        0x3132_3334_3536_3738,
        [u64::from_le_bytes(*b"ABCDEFGH"), u64::from_le_bytes(*b"IJKLMNOP"), u64::from_le_bytes(*b"QRSTUVWX")],
    );
    words.store_record(8, &completion.words);
    words.commit(8, 9);
    words.store(16, LaneWord::new(LaneState::Free, 0, 0x00fe_dcba_9876_5432).word());

    let mut bytes = [0; 136];
    words.copy_out(0, &mut bytes);
    #[rustfmt::skip]
    let expected: [u8; 136] = [
        // descriptor: commit
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
        // handler u32, flags u8, length u24
        0x23, 0x01, 0x00, 0x00, 0x00, 0xef, 0xcd, 0xab,
        // submitted_at, deadline
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
        0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
        // inline payload
        0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47,
        0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
        0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57,
        0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f,
        // completion: commit
        0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        // status u8, detail u8, attempt u16, length u32
        0x02, 0x42, 0x04, 0x03, 0x08, 0x07, 0x06, 0x05,
        // submitted_at, started_at, completed_at
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
        0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
        0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,
        // inline response
        b'A', b'B', b'C', b'D', b'E', b'F', b'G', b'H',
        b'I', b'J', b'K', b'L', b'M', b'N', b'O', b'P',
        b'Q', b'R', b'S', b'T', b'U', b'V', b'W', b'X',
        // lane word: state and reason, nonce
        0x02, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe,
    ];
    assert_eq!(bytes, expected, "{MOVED}");
}

/// A file of an instance, read as everybody may read it.
struct Bytes {
    name: String,
    bytes: Vec<u8>,
}

impl Bytes {
    fn read(name: &str) -> Self {
        Self { name: name.to_owned(), bytes: fs::read(Path::new("/dev/shm").join(name)).unwrap() }
    }

    fn at(&self, word: usize) -> u64 {
        u64::from_le_bytes(self.bytes[word * 8..word * 8 + 8].try_into().unwrap())
    }

    /// Words `from` and on must be these; `None` may be anything but 0.
    #[track_caller]
    fn are(&self, from: usize, expected: &[Option<u64>]) {
        for (word, expected) in (from..).zip(expected) {
            let found = self.at(word);
            let fits = expected.map_or(found != 0, |expected| expected == found);
            assert!(fits, "{MOVED}\n{}: word {word} is {found:#x}, not {expected:x?}", self.name);
        }
    }

    /// The line every file begins with.
    #[track_caller]
    fn begins(&self, kind: u64, nonce: u64, state: u64, counts: u64, bytes: u64) {
        let magic = 0x726f_7475_6365_7865;
        let header = [magic, u64::from(ABI) | kind << 32, nonce, state, counts, LAYOUT_HASH, bytes].map(Some);
        self.are(0, &header);
        self.are(7, &[None]);
        assert_eq!(self.bytes.len() as u64, bytes, "{}", self.name);
    }
}

#[test]
fn the_files_of_an_instance_are_named_and_filled_as_this_version_does_it() {
    let name = format!("abi-{}", std::process::id());
    let instance = InstanceName::new(&name).unwrap();
    let mut registry = Registry::builder();
    registry.add(Handler::new(1, "echo", |_, request, response| {
        response.write(request);
        Ok(())
    }));
    registry
        .add(Handler::new(0x0abc, "sized-and-again", |_, _, _| Ok(())).request_bytes(8..=16).idempotent().schema(7));
    let builder = Sidecar::builder().instance(instance.clone()).registry(registry.build().unwrap());
    let gid = u64::from(nix::unistd::getegid().as_raw());
    let builder = builder.group(Group::from_gid(gid as u32).unwrap());
    let builder = builder.capacity(8).request_bytes(64).response_bytes(128).lanes(3).pinned(false);
    let sidecar = builder.idle(IdleStrategy::Yield).start().unwrap();

    let opened = Instance::open(&instance, None).unwrap();
    let claim = opened.claim(Wish { priority: Priority::High, worker: None }).unwrap().unwrap();
    let (number, nonce) = (claim.lane, claim.nonce);
    assert_eq!(number, 0, "lanes are claimed in order");
    assert!(nonce != 0 && nonce >> 56 == 0);
    let mut producer = ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(opened.geometry()));
    let mut descriptor = DescriptorRecord::new(1, 5, 77, 0);
    descriptor.inline_payload_mut()[..5].copy_from_slice(b"hello");
    producer.submit(&descriptor);
    let long = DescriptorRecord::new(1, 40, 78, 0);
    producer.request_buffer(40).copy_from_slice(&[0x5a; 40]);
    producer.submit(&long);
    let begun = Instant::now();
    while producer.look(1) == Look::Pending {
        assert!(begun.elapsed() < Duration::from_secs(60), "the tasks do not end");
        std::thread::yield_now();
    }

    let status = Bytes::read(&format!("executor.{name}.status"));
    let journal = Bytes::read(&format!("executor.{name}.journal"));
    let sq = Bytes::read(&format!("executor.{name}.lane-0-{nonce:014x}.sq"));
    let cq = Bytes::read(&format!("executor.{name}.lane-0-{nonce:014x}.cq"));
    let (own, pid) = (opened.nonce(), u64::from(std::process::id()));
    let active = nonce << 8 | 3;

    status.begins(1, own, 2, 3, 393_216);
    journal.begins(2, own, 2, 3, 8192);
    sq.begins(3, own, nonce, 3, 5120);
    cq.begins(4, own, nonce, 3, 5632);
    for file in [&status, &journal, &sq, &cq] {
        file.are(8, &[8, 64, 128, 3, 8, 2].map(Some));
    }
    for file in [&status, &journal] {
        file.are(14, &[None, Some(1)]); // clock source, stamped
    }
    // epoch, generation, handlers, workers, pid, started at; nap; footprint
    status.are(16, &[Some(1), Some(1), Some(2), Some(1), Some(pid), None]);
    status.are(23, &[None]);
    // calibration: sequence even, ticks, monotonic, realtime, rate
    status.are(24, &[Some(2), None, None, None, None]);
    // the group that may attach: the process's own, + 1; the boot
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().replace('-', "");
    let boot = u128::from_str_radix(&text, 16).unwrap();
    let boot = [gid + 1, boot as u64, (boot >> 64) as u64].map(Some);
    status.are(29, &boot);
    journal.are(17, &boot);
    // housekeeping was never held back; the worker: not pinned, yields
    status.are(32, &[Some(0)]);
    status.are(40, &[Some(0), Some(2)]);
    // lane 0: gate, facts (base, placement, attached at, resets, owner)
    status.are(56, &[active, 0].map(Some));
    status.are(64, &[Some(0), Some(2), None, Some(0), Some(pid)]);
    // lane 1 and perhaps lane 2: free, never reset
    assert_eq!(status.at(72) & 0xff, 2);
    // registry rows: id and flags, fingerprint, since, sizes, name
    status.are(104, &[1, ECHO, 1, 0xffff_ffff_0000_0000, 4].map(Some));
    status.are(112, &[u64::from_le_bytes(*b"echo\0\0\0\0"), 0].map(Some));
    status.are(120, &[0x0000_0001_0000_0abc, SIZED, 1, 0x0000_0010_0000_0008, 15].map(Some));
    status.are(128, &[u64::from_le_bytes(*b"sized-an"), u64::from_le_bytes(*b"d-again\0"), 0].map(Some));

    // journal of lane 0: J holds the second task, K says attempts, verdict, started at, lane word, base, generation
    journal.are(16, &[Some(1)]);
    journal.are(512, &[Some(2), Some(40 << 40 | 1), Some(78), Some(0)]);
    journal.are(520, &[Some(0), Some(0), None, Some(active), Some(0), Some(1), Some(0), Some(2)]);

    // waiting, wish (1 | priority << 8), owner
    sq.are(16, &[Some(0)]);
    sq.are(24, &[0x201, pid].map(Some));
    sq.are(512, &[1, 5 << 40 | 1, 77, 0, u64::from_le_bytes(*b"hello\0\0\0")].map(Some));
    sq.are(520, &[2, 40 << 40 | 1, 78, 0].map(Some));
    assert_eq!(sq.bytes[4608 + 64..4608 + 104], [0x5a; 40], "{MOVED}: the request buffer of slot 1");

    cq.are(512, &[Some(1), Some(5 << 32 | 1 << 16 | 1), Some(77), None, None]);
    cq.are(517, &[u64::from_le_bytes(*b"hello\0\0\0")].map(Some));
    cq.are(520, &[Some(2), Some(40 << 32 | 1 << 16 | 1), Some(78), None, None]);
    assert_eq!(cq.bytes[4608 + 128..4608 + 168], [0x5a; 40], "{MOVED}: the response buffer of slot 1");

    drop((producer, claim.lock, opened));
    drop(sidecar);
}
