//! Where everything lies in the four files of an instance, in words of 8 bytes, and the version of that.
//!
//! ```text
//! executor.<instance>.status     | header | geometry | sidecar | clock | counts | workers | lanes | registry | … page | meter |
//! executor.<instance>.journal    | header | geometry | generation, group, boot | … page | 3 lines a lane |
//! executor.<instance>.lane-….sq  | header | limits | producer | … page | slots, 64 B each | request buffers |
//! executor.<instance>.lane-….cq  | header | limits | … page | slots, 64 B each | response buffers |
//!
//! header, one 64-byte line:
//!   w0 magic   w1 abi u32 | kind u32   w2 instance nonce   w3 state (status, journal) or lane nonce (sq, cq)
//!   w4 lanes u32 | lane number u32     w5 layout hash      w6 file bytes      w7 creation, realtime ns
//! ```
//!
//! The header of `status` and `journal` never moves in any ABI. Everything else is free to, with [`ABI_VERSION`].

use executor_core::meter::MeterLayout;
use executor_core::record::{LENGTH_MAX, WORDS};

/// The version of every byte that two processes share. Raised whenever one changes its place or meaning.
pub const ABI_VERSION: u32 = 1;

/// The first word of every file: `executor` in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"executor");

/// Words of a page.
pub const PAGE: usize = 4096 / 8;
/// Words of a cache line.
pub const LINE: usize = 8;

/// Words of the header line.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// ABI version in the low half, [`super::Kind`] in the high half.
    pub const ABI_KIND: usize = 1;
    /// The instance's random number.
    pub const NONCE: usize = 2;
    /// An [`InstanceState`](crate::state::InstanceState), or a lane's nonce.
    pub const STATE: usize = 3;
    /// Most lanes in the low half; the lane's number, in lane files, in the high half.
    pub const COUNTS: usize = 4;
    /// [`super::LAYOUT_HASH`].
    pub const LAYOUT: usize = 5;
    /// Bytes of the file.
    pub const BYTES: usize = 6;
    /// When the file was made, CLOCK_REALTIME nanoseconds.
    pub const CREATED_AT: usize = 7;
}

/// Words of the geometry line of `status` and `journal`, and of the limits line of lane files.
pub mod geometry {
    /// Slots of a lane.
    pub const CAPACITY: usize = super::LINE;
    /// Bytes of a request buffer.
    pub const REQUEST_BYTES: usize = super::LINE + 1;
    /// Bytes of a response buffer.
    pub const RESPONSE_BYTES: usize = super::LINE + 2;
    /// Most lanes.
    pub const LANES: usize = super::LINE + 3;
    /// Registry rows there is room for.
    pub const HANDLERS: usize = super::LINE + 4;
    /// Workers there is room for.
    pub const WORKERS: usize = super::LINE + 5;
    /// Clock source of all stamps: 1 TSC, 2 CLOCK_MONOTONIC.
    pub const CLOCK: usize = super::LINE + 6;
    /// Bit 0: tasks are stamped.
    pub const FLAGS: usize = super::LINE + 7;
}

/// Words of the journal's line after the geometry.
pub mod journal {
    /// The registry generation of the last complete start.
    pub const GENERATION: usize = 2 * super::LINE;
    /// The number of the group that may attach + 1; 0 none.
    pub const GROUP: usize = 2 * super::LINE + 1;
    /// Two words: the boot in which the file was made, the kernel's random number for it, the low half first; 0 unknown.
    pub const BOOT: usize = 2 * super::LINE + 2;
    /// Where the lanes begin.
    pub const LANES: usize = super::PAGE;
    /// Words of a lane: the lines J, K and crash.
    pub const LANE_WORDS: usize = 3 * super::LINE;

    /// Words of the K line, counted from the lane's start. The worker writes the first three, housekeeping the rest.
    pub mod k {
        use super::super::LINE;
        /// Position << 8 | attempts; void for any other position.
        pub const ATTEMPTS: usize = LINE;
        /// Status code | detail << 8 of a task that must not run; 0 run it.
        pub const VERDICT: usize = LINE + 1;
        /// When the task in J was started, in ticks.
        pub const STARTED_AT: usize = LINE + 2;
        /// [`LaneWord`](crate::state::LaneWord): state, reason and nonce in one word.
        pub const STATE: usize = LINE + 3;
        /// Added to positions to make task ids unique over the lane's owners.
        pub const BASE: usize = LINE + 4;
        /// The registry generation the lane attached under.
        pub const GENERATION: usize = LINE + 5;
        /// How often the lane was reset.
        pub const RESETS: usize = LINE + 6;
        /// Priority | worker << 8, and when the producer attached in the lane table of `status`.
        pub const PLACEMENT: usize = LINE + 7;
    }

    /// Words of the crash line, counted from the lane's start. A worker that crashes writes the first three, recovery the
    /// rest; nobody touches the line otherwise.
    pub mod crash {
        use super::super::LINE;
        /// Position + 1 of the task that raised a fatal signal, stored last; 0 none.
        pub const POSITION: usize = 2 * LINE;
        /// When, CLOCK_BOOTTIME nanoseconds.
        pub const AT: usize = 2 * LINE + 1;
        /// The signal | worker << 8.
        pub const CAUSE: usize = 2 * LINE + 2;
        /// When the last crashes were that the lane was charged for, in no order; 0 none.
        pub const CHARGED: [usize; 3] = [2 * LINE + 4, 2 * LINE + 5, 2 * LINE + 6];
    }
}

/// Words of `status` between geometry and tables.
pub mod status {
    use super::LINE;
    /// How often the instance was started.
    pub const EPOCH: usize = 2 * LINE;
    /// Registry generation, stored after the rows.
    pub const GENERATION: usize = 2 * LINE + 1;
    /// Registry rows in use.
    pub const HANDLERS_USED: usize = 2 * LINE + 2;
    /// Workers of this start.
    pub const WORKERS_USED: usize = 2 * LINE + 3;
    /// The sidecar's pid in its own namespace: for people, never for a decision.
    pub const PID: usize = 2 * LINE + 4;
    /// When this start began, CLOCK_REALTIME nanoseconds.
    pub const STARTED_AT: usize = 2 * LINE + 5;
    /// Housekeeping naps on the low half of this word, bit 1 of a futex; whoever attaches or detaches wakes it. Producers
    /// that wait for a lane nap there too, as bit 2.
    pub const NAP: usize = 2 * LINE + 6;
    /// Bytes of the instance in `/dev/shm`.
    pub const FOOTPRINT: usize = 2 * LINE + 7;

    /// Odd while the calibration is being written.
    pub const CLOCK_SEQUENCE: usize = 3 * LINE;
    /// Ticks of the first point.
    pub const CLOCK_TICKS: usize = 3 * LINE + 1;
    /// CLOCK_MONOTONIC of the first point.
    pub const CLOCK_MONOTONIC: usize = 3 * LINE + 2;
    /// CLOCK_REALTIME of the first point.
    pub const CLOCK_REALTIME: usize = 3 * LINE + 3;
    /// Ticks a second.
    pub const CLOCK_RATE: usize = 3 * LINE + 4;
    /// As [`journal::GROUP`](super::journal::GROUP).
    pub const GROUP: usize = 3 * LINE + 5;
    /// Two words, as [`journal::BOOT`](super::journal::BOOT).
    pub const BOOT: usize = 3 * LINE + 6;

    /// How often housekeeping waited although somebody wanted something of it, because that took more than its share.
    pub const HELD_BACK: usize = 4 * LINE;
    /// The hold on the CPUs' latency: bit 0 asked, bit 1 held; errno << 8; microseconds << 32. 0 is not asked.
    pub const HOLD_CPU_LATENCY: usize = 4 * LINE + 1;
    /// The hold on the sidecar's memory, likewise, without a value.
    pub const HOLD_MEMORY: usize = 4 * LINE + 2;
    /// Nanoseconds from submit to end after which a task is slow, where its handler says nothing else, + 1; 0 if nothing is
    /// recorded.
    pub const SLOW_AFTER: usize = 4 * LINE + 3;

    /// Where the worker table begins: one line a worker.
    pub const WORKERS: usize = 5 * LINE;
    /// A worker's CPU + 1; 0 not pinned.
    pub const WORKER_CPU: usize = 0;
    /// Its idle strategy.
    pub const WORKER_IDLE: usize = 1;
    /// What it sleeps without: bit 0 the kernel's barrier, so that producers use fences; bit 1 the call to sleep on several
    /// words, so that it naps for a millisecond at a time.
    pub const WORKER_LACKS: usize = 2;
    /// Its real-time scheduling, as [`HOLD_CPU_LATENCY`]; bit 2 the kernel stops it for a share of each second; the value is
    /// priority | policy << 8 (0 FIFO, 1 RR).
    pub const WORKER_REAL_TIME: usize = 3;

    /// Words of a lane in the lane table: a gate line and a line of facts.
    pub const LANE_WORDS: usize = 2 * LINE;
    /// Gate: [`LaneWord`](crate::state::LaneWord), the mirror of the journal's. Read by every submit; nothing written
    /// per task or per sweep is on this line.
    pub const GATE_STATE: usize = 0;
    /// Gate: 0 while the lane's worker is awake, else position + 1 of the task it sleeps on.
    pub const GATE_SLEEPING: usize = 1;
    /// Gate: 1 if the lane's worker, before it sleeps and before it looks who else does, has the kernel put a barrier into
    /// every process that registered for it; 0 if whoever is asleep or awake must use a fence of its own.
    pub const GATE_BARRIER: usize = 2;
    /// Facts: the base of task ids.
    pub const LANE_BASE: usize = LINE;
    /// Facts: priority | worker << 8.
    pub const LANE_PLACEMENT: usize = LINE + 1;
    /// Facts: when housekeeping last saw the lane without its producer, in ticks: that submitted nothing before.
    pub const LANE_ATTACHED_AT: usize = LINE + 2;
    /// Facts: how often the lane was reset.
    pub const LANE_RESETS: usize = LINE + 3;
    /// Facts: the owner's pid as the owner told it: for people, never for a decision.
    pub const LANE_OWNER: usize = LINE + 4;
    /// Facts: of a lane that is poisoned because its `sq` was damaged, position + 1 of the first task that cannot be read;
    /// 0 else. Stored before the state.
    pub const LANE_DAMAGED_AT: usize = LINE + 5;
    /// Facts: wake-ups of the lane's producers that found nobody asleep, over all owners. The lane's worker stores it.
    pub const LANE_USELESS_WAKES: usize = LINE + 6;

    /// Words of a registry row.
    pub const ROW_WORDS: usize = 2 * LINE;
    /// Row: handler id | flags << 32 (bit 0 idempotent, bit 1 gone).
    pub const ROW_ID: usize = 0;
    /// Row: the contract's fingerprint.
    pub const ROW_FINGERPRINT: usize = 1;
    /// Row: the generation in which it last changed or vanished.
    pub const ROW_SINCE: usize = 2;
    /// Row: least and greatest payload, u32 each.
    pub const ROW_SIZES: usize = 3;
    /// Row: length of the name in bytes.
    pub const ROW_NAME_BYTES: usize = 4;
    /// Row: the name, padded with zeros.
    pub const ROW_NAME: usize = LINE;
}

/// Words of `sq` and `cq` after header and limits.
pub mod lane {
    use super::{LINE, PAGE};
    /// `sq`: position + 1 the producer sleeps on; 0 none.
    pub const WAITING: usize = 2 * LINE;
    /// `sq`: 1 if the producer is registered for the kernel's barrier, as in [`super::status::GATE_BARRIER`].
    pub const BARRIER: usize = 2 * LINE + 1;
    /// `sq`: the owner's wish: 1 | priority << 8 | (worker + 1) << 16; 0 until it is written.
    pub const WISH: usize = 3 * LINE;
    /// `sq`: the owner's pid in its own namespace: for people, never for a decision.
    pub const OWNER: usize = 3 * LINE + 1;
    /// `sq`: what its owner counts, on a line of its own, for people and never for a decision: tasks submitted.
    pub const SUBMITTED: usize = 4 * LINE;
    /// `sq`: completions that its program took.
    pub const COLLECTED: usize = 4 * LINE + 1;
    /// `sq`: positions below this have given their slots back: they are taken, or nobody wants them.
    pub const CREDITED: usize = 4 * LINE + 2;
    /// `sq`: submits that found the lane full.
    pub const REJECTED: usize = 4 * LINE + 3;
    /// Where the slots begin.
    pub const SLOTS: usize = PAGE;
}

/// Which of the four files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// What the sidecar tells everybody.
    Status = 1,
    /// What the next sidecar needs.
    Journal = 2,
    /// Submissions of one lane.
    Sq = 3,
    /// Completions of one lane.
    Cq = 4,
}

/// The sizes of an instance; they are fixed for the life of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Slots of a lane, a power of two, 2 to 65,536.
    pub capacity: u32,
    /// Bytes of a request buffer, a multiple of 64.
    pub request_bytes: u32,
    /// Bytes of a response buffer, a multiple of 64.
    pub response_bytes: u32,
    /// Most lanes, 1 to 1,024.
    pub lanes: u32,
    /// Registry rows there is room for.
    pub handlers: u32,
    /// Workers there is room for.
    pub workers: u32,
}

/// The sizes of new files that nobody chose any for, and the least room for handlers and workers.
impl Default for Geometry {
    fn default() -> Self {
        Self { capacity: 1024, request_bytes: 256, response_bytes: 256, lanes: 16, handlers: 8, workers: 2 }
    }
}

/// Why sizes cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found}; it must be {rule}")]
pub struct GeometryError {
    /// Which size.
    pub name: &'static str,
    /// What it is.
    pub found: u64,
    /// What it must be.
    pub rule: &'static str,
}

impl Geometry {
    /// Checks every bound; nothing is derived from sizes that did not pass.
    ///
    /// # Errors
    ///
    /// The first size that is out of bounds, with the rule.
    pub fn check(&self) -> Result<(), GeometryError> {
        let fail = |name, found: u32, rule| Err(GeometryError { name, found: u64::from(found), rule });
        if !self.capacity.is_power_of_two() || !(2..=65_536).contains(&self.capacity) {
            return fail("capacity", self.capacity, "a power of two from 2 to 65536");
        }
        for (name, bytes) in [("request_bytes", self.request_bytes), ("response_bytes", self.response_bytes)] {
            if bytes % 64 != 0 || bytes as usize > LENGTH_MAX {
                return fail(name, bytes, "a multiple of 64 from 0 to 16777152");
            }
        }
        if !(1..=1024).contains(&self.lanes) {
            return fail("lanes", self.lanes, "1 to 1024");
        }
        if !(1..=4096).contains(&self.handlers) {
            return fail("handlers", self.handlers, "1 to 4096 rows");
        }
        if !(1..=64).contains(&self.workers) {
            return fail("workers", self.workers, "1 to 64");
        }
        Ok(())
    }

    /// Where slot or buffer `index` and its kin are, as word offsets from [`lane::SLOTS`]: the mask for positions.
    pub const fn mask(&self) -> u64 {
        self.capacity as u64 - 1
    }

    /// Word offset of the request or response buffers in a lane file.
    pub const fn buffers(&self) -> usize {
        lane::SLOTS + self.capacity as usize * WORDS
    }

    /// Bytes of an `sq` file.
    pub const fn sq_bytes(&self) -> usize {
        self.buffers() * 8 + self.capacity as usize * self.request_bytes as usize
    }

    /// Bytes of a `cq` file.
    pub const fn cq_bytes(&self) -> usize {
        self.buffers() * 8 + self.capacity as usize * self.response_bytes as usize
    }

    /// Bytes of the `journal` file, whole pages.
    pub const fn journal_bytes(&self) -> usize {
        round_to_page((journal::LANES + self.lanes as usize * journal::LANE_WORDS) * 8)
    }

    /// Where lane `lane` begins in the journal.
    pub const fn journal_lane(&self, lane: u32) -> usize {
        journal::LANES + lane as usize * journal::LANE_WORDS
    }

    /// Where the lane table of `status` begins.
    pub const fn lane_table(&self) -> usize {
        status::WORKERS + self.workers as usize * LINE
    }

    /// Where lane `lane` begins in the lane table of `status`: its gate line.
    pub const fn gate(&self, lane: u32) -> usize {
        self.lane_table() + lane as usize * status::LANE_WORDS
    }

    /// Where registry row `row` begins in `status`.
    pub const fn row(&self, row: u32) -> usize {
        self.gate(self.lanes) + row as usize * status::ROW_WORDS
    }

    /// Where the meter begins in `status`.
    pub const fn meter(&self) -> usize {
        round_to_page(self.row(self.handlers) * 8) / 8
    }

    /// Offsets inside the meter.
    pub const fn meter_layout(&self) -> MeterLayout {
        MeterLayout { workers: self.workers as usize, handlers: self.handlers as usize, lanes: self.lanes as usize }
    }

    /// Bytes of the `status` file, whole pages.
    pub const fn status_bytes(&self) -> usize {
        round_to_page((self.meter() + self.meter_layout().words()) * 8)
    }

    /// Bytes of one lane in `/dev/shm`.
    pub const fn lane_bytes(&self) -> usize {
        round_to_page(self.sq_bytes()) + round_to_page(self.cq_bytes())
    }

    /// Reads the sizes back from a geometry line; the caller must [`check`](Self::check) them.
    pub fn load(words: &impl crate::words::Words) -> Self {
        let word = |at| u32::try_from(words.load(at)).unwrap_or(u32::MAX);
        Self {
            capacity: word(geometry::CAPACITY),
            request_bytes: word(geometry::REQUEST_BYTES),
            response_bytes: word(geometry::RESPONSE_BYTES),
            lanes: word(geometry::LANES),
            handlers: word(geometry::HANDLERS),
            workers: word(geometry::WORKERS),
        }
    }

    /// Writes the sizes to a geometry line.
    pub fn store(&self, words: &impl crate::words::WordsMut) {
        words.store(geometry::CAPACITY, u64::from(self.capacity));
        words.store(geometry::REQUEST_BYTES, u64::from(self.request_bytes));
        words.store(geometry::RESPONSE_BYTES, u64::from(self.response_bytes));
        words.store(geometry::LANES, u64::from(self.lanes));
        words.store(geometry::HANDLERS, u64::from(self.handlers));
        words.store(geometry::WORKERS, u64::from(self.workers));
    }
}

const fn round_to_page(bytes: usize) -> usize {
    bytes.div_ceil(4096) * 4096
}

/// A hash over the offsets above: two builds of one ABI version that disagree about them notice. FNV-1a 64.
pub const LAYOUT_HASH: u64 = {
    let probe = Geometry { capacity: 8, request_bytes: 64, response_bytes: 128, lanes: 3, handlers: 5, workers: 2 };
    let facts = [
        WORDS,
        PAGE,
        journal::LANES,
        journal::LANE_WORDS,
        journal::k::ATTEMPTS,
        journal::k::VERDICT,
        journal::k::STARTED_AT,
        journal::k::STATE,
        journal::k::BASE,
        journal::k::GENERATION,
        journal::k::RESETS,
        journal::k::PLACEMENT,
        journal::crash::POSITION,
        journal::crash::CHARGED[2],
        journal::GROUP,
        journal::BOOT,
        status::GROUP,
        status::BOOT,
        status::HELD_BACK,
        status::CLOCK_SEQUENCE,
        status::NAP,
        status::WORKERS,
        status::LANE_WORDS,
        status::GATE_BARRIER,
        status::LANE_USELESS_WAKES,
        status::WORKER_LACKS,
        status::WORKER_REAL_TIME,
        status::HOLD_MEMORY,
        status::SLOW_AFTER,
        status::ROW_WORDS,
        status::ROW_NAME,
        lane::WAITING,
        lane::BARRIER,
        lane::WISH,
        lane::REJECTED,
        lane::SLOTS,
        probe.lane_table(),
        probe.row(5),
        probe.meter(),
        probe.meter_layout().words(),
        probe.sq_bytes(),
        probe.cq_bytes(),
        probe.status_bytes(),
        probe.journal_bytes(),
    ];
    let mut hash = 14_695_981_039_346_656_037u64;
    let mut i = 0;
    while i < facts.len() {
        hash = (hash ^ facts[i] as u64).wrapping_mul(1_099_511_628_211);
        i += 1;
    }
    hash
};

// A submit reads the gate line; nothing else shares it, and it is a whole line.
const _: () = assert!(status::LANE_WORDS.is_multiple_of(LINE));
const _: () = assert!(status::GATE_SLEEPING < LINE && status::GATE_BARRIER < LINE);
const _: () = assert!(status::LANE_BASE >= LINE);
// Who sleeps, and whether it raises the barrier, is looked at together.
const _: () = assert!(status::GATE_BARRIER == status::GATE_SLEEPING + 1 && lane::BARRIER == lane::WAITING + 1);
// The words of K that the worker stores are others than housekeeping's.
const _: () = assert!(journal::k::STARTED_AT < journal::k::STATE);
const _: () = assert!(journal::k::PLACEMENT < 2 * LINE);
// The journal costs a task no line that anybody else has: a lane's J, K and crash lines are whole lines of its own, in a
// file that no producer maps, and all that its worker stores for a task lies in J and in K.
const _: () = assert!(journal::LANES.is_multiple_of(LINE));
const _: () = assert!(journal::LANE_WORDS == 3 * LINE);
const _: () = assert!(journal::LANES >= journal::GENERATION + LINE);
const _: () = assert!(WORDS == LINE);
const _: () = assert!(journal::k::ATTEMPTS == LINE && journal::k::STARTED_AT < 2 * LINE);
const _: () = assert!(journal::crash::POSITION / LINE == 2 && journal::crash::CHARGED[2] / LINE == 2);
// Both mappings begin on a page, so that lines of words are lines of the cache.
const _: () = assert!(LINE * 8 == 64 && PAGE.is_multiple_of(LINE));
// The producer's line of `sq` holds nothing the slots share a line with.
const _: () = assert!(lane::WISH < lane::SLOTS);
const _: () = assert!(lane::SLOTS.is_multiple_of(LINE));
const _: () = assert!(status::BOOT + 1 < status::HELD_BACK);
const _: () = assert!(status::SLOW_AFTER < status::WORKERS);
// What the producer counts shares a line with nothing that anybody else looks at.
const _: () = assert!(lane::SUBMITTED.is_multiple_of(LINE) && lane::REJECTED < lane::SUBMITTED + LINE);
const _: () = assert!(lane::REJECTED < lane::SLOTS && lane::OWNER < lane::SUBMITTED);
const _: () = assert!(journal::LANES > journal::BOOT + 1);

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Geometry =
        Geometry { capacity: 1024, request_bytes: 256, response_bytes: 256, lanes: 16, handlers: 16, workers: 2 };

    #[test]
    fn a_default_lane_takes_640_kib_and_two_pages() {
        assert_eq!(DEFAULT.lane_bytes(), 640 * 1024 + 2 * 4096);
    }

    #[test]
    fn every_size_out_of_bounds_is_refused_by_name() {
        let cases = [
            (Geometry { capacity: 0, ..DEFAULT }, "capacity"),
            (Geometry { capacity: 1, ..DEFAULT }, "capacity"),
            (Geometry { capacity: 1000, ..DEFAULT }, "capacity"),
            (Geometry { capacity: 131_072, ..DEFAULT }, "capacity"),
            (Geometry { request_bytes: 65, ..DEFAULT }, "request_bytes"),
            (Geometry { response_bytes: 1 << 24, ..DEFAULT }, "response_bytes"),
            (Geometry { lanes: 0, ..DEFAULT }, "lanes"),
            (Geometry { lanes: 1025, ..DEFAULT }, "lanes"),
            (Geometry { handlers: 0, ..DEFAULT }, "handlers"),
            (Geometry { workers: 65, ..DEFAULT }, "workers"),
        ];
        for (geometry, name) in cases {
            assert_eq!(geometry.check().unwrap_err().name, name);
        }
        assert_eq!(DEFAULT.check(), Ok(()));
        assert_eq!(Geometry { request_bytes: 0, response_bytes: 0, ..DEFAULT }.check(), Ok(()));
    }

    #[test]
    fn no_two_tables_of_status_overlap() {
        let last_worker = status::WORKERS + (DEFAULT.workers as usize - 1) * LINE;
        assert!(last_worker + LINE <= DEFAULT.gate(0));
        assert!(DEFAULT.gate(15) + status::LANE_WORDS <= DEFAULT.row(0));
        assert!(DEFAULT.row(15) + status::ROW_WORDS <= DEFAULT.meter());
        assert_eq!(DEFAULT.meter() % PAGE, 0);
        assert!((DEFAULT.meter() + DEFAULT.meter_layout().words()) * 8 <= DEFAULT.status_bytes());
        assert!((DEFAULT.journal_lane(15) + journal::LANE_WORDS) * 8 <= DEFAULT.journal_bytes());
    }
}
