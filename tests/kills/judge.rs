//! The next start on what a kill left, and everything that must be true after it.
//!
//! The judge is a process of its own with a real sidecar and real clients. Surviving producers are played by their locks
//! and by stores to their `sq` alone, which is all that a producer is to a sidecar.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_client::{Client, TaskDescriptor};
use executor_shm::attach::{Instance, Wish};
use executor_shm::core::idle::IdleStrategy;
use executor_shm::core::record::{COMMIT, CompletionRecord, DescriptorRecord, INLINE_RESPONSE, WORDS};
use executor_shm::core::recorder::Recording;
use executor_shm::core::status::Interrupted;
use executor_shm::core::{Ran, Status};
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::layout::lane as lane_words;
use executor_shm::state::{InstanceState, LaneState};
use executor_shm::{Ending, InstanceName, Sidecar, SidecarBuilder};

use crate::child::Child;
use crate::effects::{self, Effects};
use crate::image::{Content, GEOMETRY, Image, path, slot, suffixes};
use crate::plan::{Fate, Lane, Plan};
use crate::stand_in::hold;
use crate::tally::{Finding, Key};
use crate::tasks::{Build, Kind, TORN, Task, hush_planned_panics, registry};

/// How long something that must happen is waited for before the lane is called stuck.
const PATIENCE: Duration = Duration::from_secs(if cfg!(executor_mutants) { 3 } else { 20 });
/// The judge's own tags begin here.
const TAGS: u64 = 1 << 40;

/// A sidecar of the harness.
pub(crate) fn sidecar(instance: &InstanceName, build: Build, effects: &Arc<Effects>) -> SidecarBuilder {
    Sidecar::builder()
        .instance(instance.clone())
        .registry(registry(build, effects))
        .pinned(false)
        .idle(IdleStrategy::Yield)
        // Each instruction costs the subject its CPU, and a worker that records would ask the kernel for how long.
        .recording(Recording::Off)
        .lanes(GEOMETRY.lanes)
        .capacity(GEOMETRY.capacity)
        .request_bytes(GEOMETRY.request_bytes)
        .response_bytes(GEOMETRY.response_bytes)
}

/// A client that claims a lane around the kill and submits a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Attacher {
    /// None does.
    Nobody,
    /// One that comes just before the kill, as far as the locks of then let it.
    Late,
    /// One that has opened a FREE lane before and takes its lock after the kill: nobody is there to stop it, and all it
    /// goes by is its second look at the mirror.
    Straddling,
}

impl Attacher {
    pub(crate) const ALL: [Self; 3] = [Self::Nobody, Self::Late, Self::Straddling];

    /// As it is told of a failure.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "",
            Self::Late => ", a client came just before",
            Self::Straddling => ", a client claimed its lane just after",
        }
    }
}

/// The lane that a straddling attacher of an image would claim, if any.
fn straddled(image: &Image) -> Option<Lane> {
    if [0, InstanceState::New as u64].contains(&image.instance_state()) {
        return None; // nobody could open an instance that never ran
    }
    let lanes = (0..GEOMETRY.lanes).map(|number| Lane {
        number,
        nonce: image.mirror(number).nonce(),
        tasks: vec![Task { kind: Kind::Plain, tag: TAGS }],
        survivor: true,
        tagged: true,
    });
    let mut free = lanes.filter(|lane| {
        let sq = lane.sq();
        let is_free = image.mirror(lane.number).state() == Some(LaneState::Free);
        let is_there = [&sq, &lane.cq()].iter().all(|name| image.files.contains_key(*name));
        is_free && is_there && image.commit(&sq, 0) == 0 && image.word(&sq, lane_words::WISH) == 0
    });
    free.next()
}

/// Whether `attacher` could do anything on `image`.
pub(crate) fn can_attach(attacher: Attacher, image: &Image) -> bool {
    match attacher {
        Attacher::Nobody => true,
        Attacher::Late => {
            let is_served = image.files.get("status").is_some_and(|content| content.locked);
            is_served && image.instance_state() == InstanceState::Running as u64
        }
        Attacher::Straddling => straddled(image).is_some(),
    }
}

/// Judges the files of `instance` as they lie there, which are those of `image`, and removes what is left of them.
pub(crate) fn judge(
    instance: &InstanceName,
    image: &Image,
    plan: &Plan,
    effects: &Arc<Effects>,
    attacher: Attacher,
) -> Vec<Finding> {
    let (mut image, mut plan) = (image.clone(), plan.clone());
    if let (Attacher::Straddling, Some(lane)) = (attacher, straddled(&image)) {
        let sq = OpenOptions::new().read(true).write(true).open(path(instance, &lane.sq())).unwrap();
        sq.write_all_at(&1u64.to_le_bytes(), lane_words::WISH as u64 * 8).unwrap();
        submit(&sq, 0, &lane.tasks[0].record(lane.tasks[0].tag));
        let content = image.files.get_mut(&lane.sq()).unwrap();
        *content = Content::read(&sq, Some(content));
        plan.lanes.push(lane);
    }
    let (image, plan) = (&image, &plan);
    let mut child = Child::fork(|line| {
        hush_planned_panics();
        for finding in Judge::new(instance, image, plan, effects).run(attacher == Attacher::Late) {
            line.say(&finding.to_line());
        }
        line.say("judged");
    });
    let mut findings = Vec::new();
    loop {
        match child.hear(PATIENCE * 4) {
            Some(line) if line == "judged" => break,
            Some(line) => findings.push(Finding::from_line(&line)),
            None => {
                let why = "the judge's process died or hangs: a start, a call or a stop does not end";
                findings.push(Finding::new(Key::Stuck, why));
                child.kill();
                break;
            }
        }
    }
    child.reap();
    let left = suffixes(instance);
    if findings.is_empty() && !left.is_empty() {
        findings.push(Finding::new(Key::Leaked, format!("{left:?} are left")));
    }
    crate::image::remove(instance);
    findings
}

struct Judge<'a> {
    instance: &'a InstanceName,
    image: &'a Image,
    plan: &'a Plan,
    effects: &'a Arc<Effects>,
    findings: Vec<Finding>,
    next_tag: u64,
}

/// The files of a lane that was attached before, open from before the start.
struct Open<'a> {
    lane: &'a Lane,
    sq: Option<File>,
    cq: Option<File>,
}

/// A producer that attached just before the kill.
struct Late {
    instance: Instance,
    half: ProducerHalf<executor_shm::mapped::WriteWords, executor_shm::mapped::ReadWords>,
    _lock: executor_shm::lock::LockFile,
    lane: u32,
}

impl<'a> Judge<'a> {
    fn new(instance: &'a InstanceName, image: &'a Image, plan: &'a Plan, effects: &'a Arc<Effects>) -> Self {
        Self { instance, image, plan, effects, findings: Vec::new(), next_tag: TAGS }
    }

    fn find(&mut self, key: Key, text: impl Into<String>) {
        self.findings.push(Finding::new(key, text));
    }

    fn task(&mut self, kind: Kind) -> Task {
        self.next_tag += 1;
        Task { kind, tag: self.next_tag }
    }

    fn run(mut self, attacher: bool) -> Vec<Finding> {
        let plan = self.plan;
        let opened: Vec<Open<'_>> = plan.lanes.iter().map(|lane| self.open(lane)).collect();
        let late = if attacher { self.attach() } else { None };
        let handle = match sidecar(self.instance, plan.build, self.effects).start() {
            Ok(handle) => handle,
            Err(error) => {
                self.find(Key::Stuck, format!("the next start is refused: {error:?}"));
                return self.findings;
            }
        };
        assert_eq!(*handle.geometry(), GEOMETRY, "the harness reckons with other sizes");
        let waker = Instance::open(self.instance, None).ok();
        for open in &opened {
            self.settle(open, waker.as_ref());
        }
        drop(waker);
        if let Some(late) = late {
            self.serve_late(late);
        }
        self.serve_fresh();
        self.weigh_effects(&opened);
        drop(opened);
        handle.stop();
        match handle.join() {
            Ok(report) if report.ending == Ending::Removed => {}
            Ok(report) => self.find(Key::Leaked, format!("nobody is attached and the stop says {:?}", report.ending)),
            Err(error) => self.find(Key::Stuck, format!("the stop failed: {error}")),
        }
        self.findings
    }

    /// Opens a lane's files; a survivor holds its lock.
    fn open(&mut self, lane: &'a Lane) -> Open<'a> {
        let sq = path(self.instance, &lane.sq());
        let sq = if lane.survivor { hold(&sq).ok() } else { File::open(sq).ok() };
        let cq = File::open(path(self.instance, &lane.cq())).ok();
        if lane.survivor && (sq.is_none() || cq.is_none()) {
            self.find(Key::Lost, format!("lane {} of a living producer has no files any more", lane.number));
        }
        Open { lane, sq, cq }
    }

    /// A client that comes while the process that is about to be killed still holds its locks.
    fn attach(&mut self) -> Option<Late> {
        if !can_attach(Attacher::Late, self.image) {
            return None;
        }
        let locked = self.image.files.iter().filter(|(_, content)| content.locked);
        let mut stand_ins = Vec::new();
        for (suffix, _) in locked {
            // The surviving producers' locks are held already.
            stand_ins.extend(hold(&path(self.instance, suffix)).ok());
        }
        let instance = match Instance::open(self.instance, None) {
            Ok(instance) => instance,
            Err(error) => {
                self.find(Key::Stuck, format!("a client that comes before the kill is refused: {error:?}"));
                return None;
            }
        };
        let claim = match instance.claim(Wish::default()) {
            Ok(claim) => claim?,
            Err(error) => {
                self.find(Key::Stuck, format!("a client that comes before the kill gets no lane: {error:?}"));
                return None;
            }
        };
        let half = ProducerHalf::new(claim.sq, claim.cq, LaneShape::new(&GEOMETRY));
        let mut late = Late { instance, half, _lock: claim.lock, lane: claim.lane };
        let task = Task { kind: Kind::Plain, tag: TAGS };
        late.half.submit(&task.record(task.tag));
        Some(late)
    }

    fn serve_late(&mut self, mut late: Late) {
        for position in 0..2 {
            let task = if position == 0 { Task { kind: Kind::Plain, tag: TAGS } } else { self.task(Kind::Plain) };
            if position > 0 {
                late.half.submit(&task.record(task.tag));
            }
            let begun = Instant::now();
            let record = loop {
                match late.half.look(position) {
                    Look::Ended(record) => break record,
                    _ if begun.elapsed() > PATIENCE => {
                        let text =
                            format!("task {position} of a client that came before the kill, on lane {}", late.lane);
                        self.find(Key::Lost, format!("{text}, has no completion"));
                        return;
                    }
                    _ => std::thread::yield_now(),
                }
            };
            let whole = record.status() == Some(Status::Done) && record.inline_response()[..16] == task.response()[..];
            if !whole {
                self.find(Key::Torn, format!("a client that came before the kill is answered {record:?}"));
            }
            self.count(task, 1..=1, &format!("task {position} of a late client"));
        }
        drop(late.half);
        drop(late.instance);
    }

    /// Waits for the completions of a lane that was attached before, and goes on with it if its producer lives.
    fn settle(&mut self, open: &Open<'_>, waker: Option<&Instance>) {
        let Open { lane, sq, cq } = open;
        let accepted = lane.accepted(self.image);
        let Some(cq) = cq else { return };
        // Slots of earlier tasks were given back, and take the completions of those that wait.
        for position in (accepted + 1).saturating_sub(GEOMETRY.capacity as usize)..accepted {
            let fate = lane.fate(self.image, position, self.plan.build);
            let before = (fate == Fate::Answered).then(|| completion_of(self.image, &lane.cq(), position as u64));
            let text = format!("task {position} of lane {}, {:?}", lane.number, lane.tasks[position].kind);
            let Some(record) = wait_for(cq, position as u64, waker) else {
                self.find(Key::Lost, format!("{text}, has no completion"));
                return;
            };
            let Some(record) = record else { continue };
            if let Some(before) = before
                && before != record
            {
                self.find(Key::Doubled, format!("{text}, was answered {before:?} and now {record:?}"));
            }
            let task = lane.tasks[position];
            let stamp = if lane.tagged { task.tag } else { self.image.word(&lane.sq(), slot(position as u64) + 2) };
            self.weigh(&text, (task, stamp), &record, &fate, cq, position as u64);
        }
        if let (true, Some(sq)) = (lane.survivor, sq) {
            let (position, task) = (accepted as u64, self.task(Kind::Plain));
            submit(sq, position, &task.record(task.tag));
            let text = format!("a further task of lane {}", lane.number);
            match wait_for(cq, position, waker) {
                Some(Some(record)) => {
                    // A FREE lane attaches under the build that notices it.
                    let is_free = self.image.lane_word(lane.number).state() == Some(LaneState::Free);
                    let build = if is_free { Build::First } else { self.plan.build };
                    let fate = match task.kind.verdict(build) {
                        Some(status) => Fate::Ends { status, effects: 0..=0 },
                        None => Fate::Ends { status: Status::Done, effects: 1..=1 },
                    };
                    self.weigh(&text, (task, task.tag), &record, &fate, cq, position);
                    if let Fate::Ends { effects, .. } = fate {
                        self.count(task, effects, &text);
                    }
                }
                _ => self.find(Key::Stuck, format!("{text} has no completion")),
            }
        }
    }

    /// Compares a completion with what it must be.
    fn weigh(
        &mut self,
        text: &str,
        (task, stamp): (Task, u64),
        record: &CompletionRecord,
        fate: &Fate,
        cq: &File,
        position: u64,
    ) {
        let Some(status) = record.status() else {
            return self.find(Key::Torn, format!("{text}, is answered {record:?}"));
        };
        if record.submitted_at() != stamp {
            self.find(Key::Torn, format!("{text}, is answered with another task's stamp: {record:?}"));
        }
        let planned = status == task.kind.end() && task.kind.runs();
        match fate {
            Fate::Ends { status: due, .. } if *due != status => {
                self.find(Key::Lost, format!("{text}, ends as {status:?} and not as {due:?}"));
            }
            Fate::Answered if !planned && !matches!(status, Status::Interrupted(_)) && status.ran() != Ran::No => {
                self.find(Key::Torn, format!("{text}, was answered {status:?}"));
            }
            _ => {}
        }
        let due = if planned { task.response() } else { Vec::new() };
        let length = if status == task.kind.end() && task.kind == Kind::Wide { 0 } else { record.length() as usize };
        let response = response_of(cq, record, position, length.min(64));
        if response != due {
            self.find(Key::Torn, format!("{text}, ends as {status:?} with the answer {response:?}, not {due:?}"));
        }
    }

    /// A fresh client is served as if nothing had been.
    fn serve_fresh(&mut self) {
        let mut client = match Client::connect_timeout(self.instance, PATIENCE) {
            Ok(client) => client,
            Err(error) => return self.find(Key::Stuck, format!("a fresh client gets no lane: {error}")),
        };
        for kind in [Kind::Plain, Kind::Long] {
            let task = self.task(kind);
            let mut ticket = client.submit_ticket(&TaskDescriptor::new(kind.id()), &task.payload()).unwrap();
            let text = format!("a fresh client's {kind:?} task");
            match client.wait_timeout(&mut ticket, PATIENCE) {
                Ok(completion) => {
                    let answer = completion.response().to_vec();
                    if (completion.status(), &answer) != (Status::Done, &task.response()) {
                        let text = format!("{text} ends as {:?} with {answer:?}", completion.status());
                        self.find(Key::Torn, text);
                    }
                }
                Err(error) => self.find(Key::Stuck, format!("{text} has no completion: {error}")),
            }
            self.count(task, 1..=1, &text);
        }
    }

    /// Compares how often a task's handler was entered with what its end allows.
    fn count(&mut self, task: Task, due: std::ops::RangeInclusive<usize>, text: &str) {
        let count = effects::read(&self.effects.copy()).iter().filter(|effect| effect.tag == task.tag).count();
        if count < *due.start() {
            self.find(Key::Lost, format!("{text}, took effect {count} times, not {due:?}"));
        } else if count > *due.end() {
            self.find(Key::Doubled, format!("{text}, took effect {count} times, not {due:?}"));
        }
    }

    /// Effects of all tasks there ever were: no handler got half a task, no id was used twice, nothing ran too often.
    fn weigh_effects(&mut self, opened: &[Open<'_>]) {
        let all = effects::read(&self.effects.copy());
        if all.iter().any(|effect| effect.tag == TORN) {
            self.find(Key::Torn, "a handler got half a payload");
        }
        let mut ids = BTreeMap::new();
        for effect in &all {
            if ids.insert(effect.key, effect.tag).is_some_and(|tag| tag != effect.tag) {
                self.find(Key::Doubled, format!("task id {:#x} was given to two tasks", effect.key.1));
            }
        }
        for Open { lane, cq, .. } in opened {
            let accepted = lane.accepted(self.image);
            for (position, &task) in lane.tasks.iter().enumerate() {
                let text = format!("task {position} of lane {}, {:?}", lane.number, task.kind);
                let status = cq.as_ref().and_then(|cq| completion(cq, position as u64)).and_then(|end| end.status());
                let most = if task.kind.is_idempotent() { 2 } else { 1 };
                let due = match (lane.fate(self.image, position, self.plan.build), status) {
                    (Fate::Unknown, _) if accepted > 0 || lane.sq_is_in(self.image) => 0..=0,
                    (Fate::Ends { effects, .. }, _) => effects,
                    (_, Some(Status::Interrupted(Interrupted::Killed))) => 0..=1,
                    (_, Some(Status::Interrupted(_))) => 0..=most,
                    (_, Some(status)) if status.ran() == Ran::No => 0..=0,
                    // The files are gone, or the slot went to a later task: it had been answered.
                    _ if task.kind.verdict(Build::First).is_none() => 1..=most,
                    _ => 0..=0,
                };
                self.count(task, due, &text);
            }
        }
    }
}

impl Lane {
    fn sq_is_in(&self, image: &Image) -> bool {
        image.files.contains_key(&self.sq())
    }
}

/// The completion of `position` in an image.
fn completion_of(image: &Image, cq: &str, position: u64) -> CompletionRecord {
    let word = |i| image.word(cq, slot(position) + i);
    CompletionRecord { words: std::array::from_fn(|i| if i == COMMIT { 0 } else { word(i) }) }
}

fn word_of(file: &File, at: usize) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at as u64 * 8).unwrap();
    u64::from_le_bytes(bytes)
}

/// The completion of `position`, if its slot holds it now.
fn completion(cq: &File, position: u64) -> Option<CompletionRecord> {
    (word_of(cq, slot(position) + COMMIT) == position + 1).then(|| {
        let word = |i| word_of(cq, slot(position) + i);
        CompletionRecord { words: std::array::from_fn(|i| if i == COMMIT { 0 } else { word(i) }) }
    })
}

/// Waits for the completion of `position`; `Some(None)` if its slot holds a later one.
fn wait_for(cq: &File, position: u64, waker: Option<&Instance>) -> Option<Option<CompletionRecord>> {
    let begun = Instant::now();
    loop {
        match word_of(cq, slot(position) + COMMIT) {
            commit if commit == position + 1 => return Some(completion(cq, position)),
            commit if commit > position + 1 => return Some(None),
            _ if begun.elapsed() > PATIENCE => return None,
            _ => {
                waker.inspect(|instance| instance.wake_housekeeping());
                std::thread::yield_now();
            }
        }
    }
}

fn response_of(cq: &File, record: &CompletionRecord, position: u64, length: usize) -> Vec<u8> {
    if length <= INLINE_RESPONSE {
        return record.inline_response()[..length].to_vec();
    }
    let words = GEOMETRY.response_bytes as usize / 8;
    let at = (GEOMETRY.buffers() + (position & GEOMETRY.mask()) as usize * words) * 8;
    let mut bytes = vec![0; length];
    cq.read_exact_at(&mut bytes, at as u64).unwrap();
    bytes
}

/// Submits as a producer does: the words, then the commit word.
fn submit(sq: &File, position: u64, record: &DescriptorRecord) {
    let at = slot(position) as u64 * 8;
    let bytes: Vec<u8> = record.words[1..WORDS].iter().flat_map(|word| word.to_le_bytes()).collect();
    sq.write_all_at(&bytes, at + 8).unwrap();
    sq.write_all_at(&(position + 1).to_le_bytes(), at).unwrap();
}
