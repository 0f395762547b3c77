//! What must hold of a round once it is over: the ledger against the files of every lane.
//!
//! - R1: every task that was accepted, or that a killed producer had committed, ended exactly once.
//! - R2: one that says it ran had its effect once, an idempotent one as often as its attempts allow; one that says it may
//!   have run had it once at most; one that says it never ran had none and never began.
//! - R3: the effects of a lane came in the order of its positions.
//! - R4: what the producer saw, what the file holds and what the handler was told are the same task's, and the ending is one
//!   that such a task can have.
//! - R5: nothing ran and nothing ended that was not committed.
//! - R6: no two tasks of an instance have the same id.

use std::collections::BTreeMap;

use executor_client::TaskId;
use executor_shm::core::record::{COMMIT, CompletionRecord, WORDS};
use executor_shm::core::status::{Interrupted, Malformed, Status};
use executor_shm::core::{Ran, record};

use crate::ledger::{End, Entry, Life, Mark};
use crate::task::{Kind, Task};

/// Most times that an idempotent task is run.
const ATTEMPTS_MAX: u16 = 2;
/// Findings of each charge that are told in full.
pub(crate) const TOLD_MAX: u64 = 10;

/// Which promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// A task has no completion.
    Lost,
    /// A task took effect, or ended, more often than it may.
    Duplicated,
    /// Two facts do not go together.
    Contradicted,
}

/// Counts over all rounds, and what was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) accepted: u64,
    pub(crate) completed: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) contradicted: u64,
    pub(crate) by_status: BTreeMap<String, u64>,
    /// The first findings, with all facts.
    pub(crate) told: Vec<String>,
}

impl Tally {
    /// Counts a finding; the first of each charge are told.
    pub(crate) fn find(&mut self, charge: Charge, text: &str) {
        let (count, name) = match charge {
            Charge::Lost => (&mut self.lost, "lost"),
            Charge::Duplicated => (&mut self.duplicated, "duplicated"),
            Charge::Contradicted => (&mut self.contradicted, "contradicted"),
        };
        *count += 1;
        if *count <= TOLD_MAX {
            self.told.push(format!("{name}: {text}"));
        }
    }
}

/// The slots of a lane's files as they were in the end.
#[derive(Clone, Debug)]
pub(crate) struct LaneImage {
    pub(crate) sq: Vec<[u64; WORDS]>,
    pub(crate) cq: Vec<[u64; WORDS]>,
}

impl LaneImage {
    fn at<'a>(&self, ring: &'a [[u64; WORDS]], position: u64) -> &'a [u64; WORDS] {
        &ring[(position % ring.len() as u64) as usize]
    }

    fn descriptor(&self, position: u64) -> Option<&[u64; WORDS]> {
        Some(self.at(&self.sq, position)).filter(|words| words[COMMIT] == position + 1)
    }

    fn completion(&self, position: u64) -> Option<CompletionRecord> {
        let words = *self.at(&self.cq, position);
        (words[COMMIT] == position + 1).then_some(CompletionRecord { words })
    }
}

/// One life: all entries that name it, in any order, and its files if they were ever handed over.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) seed: u64,
    pub(crate) life: u64,
    pub(crate) facts: Life,
    pub(crate) image: Option<&'a LaneImage>,
}

impl Case<'_> {
    /// Judges the life; returns how many tasks it committed.
    pub(crate) fn reckon(&self, entries: &mut [Entry], tally: &mut Tally) -> u64 {
        entries.sort_by_key(|entry| entry.position);
        let committed = |entry: &Entry| match entry.mark {
            Mark::Accepted => true,
            Mark::About => self.image.is_some_and(|image| image.descriptor(entry.position).is_some()),
            Mark::Unused | Mark::Refused => false,
        };
        let (mut next, mut last_stamp) = (0, 0);
        let begun = entries.last().map_or(0, |entry| entry.position);
        for entry in entries.iter() {
            if !committed(entry) {
                if ran(entry) || entry.end.is_some() {
                    tally.find(Charge::Contradicted, &self.tell(entry, "ran or ended without being committed")); // R5
                }
                continue;
            }
            if entry.position != next {
                tally.find(Charge::Contradicted, &self.tell(entry, &format!("came where position {next} was due")));
            }
            next = entry.position + 1;
            tally.accepted += 1;
            self.ended(entry, begun, tally);
            if entry.stamps[0] != 0 {
                if entry.stamps[0] <= last_stamp {
                    tally.find(Charge::Contradicted, &self.tell(entry, &format!("came after effect {last_stamp}"))); // R3
                }
                last_stamp = entry.stamps[1].max(entry.stamps[0]);
            }
        }
        let beyond = self.image.into_iter().flat_map(|image| &image.cq).filter(|words| words[COMMIT] > next);
        for words in beyond {
            let text = format!("{self}: {next} tasks were committed, and there is the completion {words:x?}");
            tally.find(Charge::Contradicted, &text); // R5
        }
        next
    }

    /// R1, R2 and R4 of one committed task, where the submit of position `begun` was the last that began.
    fn ended(&self, entry: &Entry, begun: u64, tally: &mut Tally) {
        let Some(task) = Task::from_spec(entry.spec) else {
            return tally.find(Charge::Contradicted, &self.tell(entry, "has no spec"));
        };
        let record = self.image.and_then(|image| image.completion(entry.position));
        let of_record = record.map(|record| End {
            code: record.status_code(),
            detail: (record.words[1] >> 8) as u8,
            attempt: record.attempt(),
        });
        let Some(end) = entry.end.or(of_record) else {
            // A slot whose ticket was dropped may hold a later task's completion by now.
            let later = self.image.map_or(0, |image| image.at(&image.cq, entry.position)[COMMIT]);
            if entry.dropped && later > entry.position + 1 {
                tally.completed += 1;
                *tally.by_status.entry("unread".to_owned()).or_default() += 1;
                return;
            }
            let what = format!("has no completion; its slot says {later}");
            return tally.find(Charge::Lost, &self.tell(entry, &what)); // R1
        };
        tally.completed += 1;
        *tally.by_status.entry(Status::name_of(end.code).to_owned()).or_default() += 1;
        if of_record.is_some_and(|found| found != end) {
            tally.find(Charge::Contradicted, &self.tell(entry, "ended otherwise than its file says"));
        }
        if let Some(found) = record.and_then(|record| self.misfit(entry, begun, &task, &record)) {
            tally.find(Charge::Contradicted, &self.tell(entry, &found));
        }
        let expected = TaskId::new(self.facts.lane, self.facts.base.wrapping_add(entry.position)).as_u64();
        if ran(entry) && entry.told != expected {
            tally.find(
                Charge::Contradicted,
                &self.tell(entry, &format!("was told to its handler as {:#x}", entry.told)),
            );
        }
        for (charge, what) in self.outcome(entry, &task, end) {
            tally.find(charge, &self.tell(entry, &format!("ended as {end}: {what}")));
        }
    }

    /// What of a completion is not this task's.
    fn misfit(&self, entry: &Entry, begun: u64, task: &Task, record: &CompletionRecord) -> Option<String> {
        if let Some(image) = self.image
            // A submit that a kill cut off leaves words of its own before the commit word of this one.
            && begun < entry.position + image.sq.len() as u64
            && let Some(words) = image.descriptor(entry.position)
            && words[2] != record.submitted_at()
        {
            return Some(format!("echoes {:#x}, not the stamp {:#x}", record.submitted_at(), words[2]));
        }
        let expected = task.response(self.seed, entry.number);
        if record.status() != Some(Status::Done) || expected.len() > record::INLINE_RESPONSE {
            return None;
        }
        let found = record.inline_response().get(..record.length() as usize).unwrap_or_default();
        (found != expected).then(|| format!("answered {found:02x?}, not {expected:02x?}"))
    }

    /// What is wrong with how a task ended, and with what it did.
    fn outcome(&self, entry: &Entry, task: &Task, end: End) -> Vec<(Charge, String)> {
        let mut wrong = Vec::new();
        let mut contradicted = |text: &str| wrong.push((Charge::Contradicted, text.to_owned()));
        let Some(status) = end.status() else {
            contradicted("no such status");
            return wrong;
        };
        let attempts_max = if task.kind == Kind::Again { ATTEMPTS_MAX } else { 1 };
        let attempts = end.attempt.min(attempts_max);
        let (least, most) = match status.ran() {
            Ran::No => (0, 0),
            Ran::Yes => (1, u32::from(attempts)),
            Ran::Maybe => (0, u32::from(attempts)),
        };
        if !may_end(task.kind, status) {
            contradicted("such a task cannot end so");
        }
        if (status.ran() == Ran::No) != (end.attempt == 0) || end.attempt > attempts_max {
            contradicted("such an ending has no such attempt");
        }
        let builds = match task.kind {
            Kind::Marked => Some(self.facts.build),
            Kind::Retired => Some(1),
            _ => None,
        };
        if builds.is_some_and(|build| (1..).zip(entry.starts).any(|(other, starts)| other != build && starts > 0)) {
            contradicted("it ran in another build than its own");
        }
        let (starts, effects) = (entry.starts.iter().sum::<u32>(), entry.effects.iter().sum::<u32>());
        if starts < least || effects < least {
            contradicted(&format!("it ran {starts} times with {effects} effects, at least {least} must be"));
        }
        if starts > most || effects > most {
            let charge = if most == 0 { Charge::Contradicted } else { Charge::Duplicated };
            wrong.push((charge, format!("it ran {starts} times with {effects} effects, at most {most} may be")));
        }
        wrong
    }

    fn tell(&self, entry: &Entry, what: &str) -> String {
        let slots = self.image.map(|image| (image.at(&image.sq, entry.position), image.at(&image.cq, entry.position)));
        let kind = Task::from_spec(entry.spec).map(|task| task.kind);
        let end = entry.end.map_or_else(|| "unseen".to_owned(), |end| end.to_string());
        let files = slots.map_or_else(|| "no files".to_owned(), |(sq, cq)| format!("sq {sq:x?}, cq {cq:x?}"));
        format!(
            "{self}, position {}, entry {} {kind:?} {:?}, {end}, starts {:?}, effects {:?}, stamps {:?}, {files}: {what}",
            entry.position, entry.number, entry.mark, entry.starts, entry.effects, entry.stamps
        )
    }
}

impl std::fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Life { producer, lane, nonce, base, .. } = self.facts;
        write!(f, "lane {lane} nonce {nonce:014x} base {base}, life {} of producer {producer}", self.life)
    }
}

/// R6: the ids of a lane's owners, each with the number of tasks it committed.
pub(crate) fn reckon_ids(mut lives: Vec<(Life, u64)>, tally: &mut Tally) {
    lives.retain(|(_, count)| *count > 0);
    lives.sort_by_key(|(life, _)| (life.instance, life.lane, life.base));
    for pair in lives.windows(2) {
        let [(one, count), (other, _)] = pair else { continue };
        let end = one.base.wrapping_add(*count);
        if (one.instance, one.lane) == (other.instance, other.lane) && other.base < end {
            let text = format!("the ids of {one:?} end before {end}, those of {other:?} begin at {}", other.base);
            tally.find(Charge::Contradicted, &text);
        }
    }
}

/// R5 of an entry that names no life: nobody submitted it.
pub(crate) fn reckon_unused(entry: &Entry, tally: &mut Tally) {
    if ran(entry) || entry.end.is_some() {
        tally.find(Charge::Contradicted, &format!("an entry that nobody submitted ran or ended: {entry:?}"));
    }
}

fn ran(entry: &Entry) -> bool {
    entry.starts != [0; 2] || entry.effects != [0; 2]
}

/// Whether a task of this kind can end so, whatever is killed when.
fn may_end(kind: Kind, status: Status) -> bool {
    let is_changed = matches!(status, Status::HandlerChanged(_) | Status::Interrupted(Interrupted::HandlerChanged));
    let is_killed = status == Status::Interrupted(Interrupted::Killed);
    match kind {
        Kind::Once | Kind::InPlace => status == Status::Done || is_killed,
        Kind::Again => status == Status::Done || status == Status::Interrupted(Interrupted::Attempts),
        Kind::Fails => status == Status::Failed { code: 7 } || is_killed,
        Kind::Panics => status == Status::Panicked || is_killed,
        Kind::TooLong => matches!(status, Status::ResponseTooLong { .. }) || is_killed,
        // A deadline of a nanosecond may be met by a worker that took its look at the clock before.
        Kind::Expires => matches!(status, Status::Expired | Status::Done) || is_killed,
        Kind::Unknown => status == Status::Malformed(Malformed::UnknownHandler),
        Kind::Marked => status == Status::Done || is_changed || is_killed,
        // A first start of build 2 knows nothing of it yet.
        Kind::Retired => {
            status == Status::Done || is_changed || is_killed || status == Status::Malformed(Malformed::UnknownHandler)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 11;
    const CAPACITY: u64 = 4;
    const FACTS: Life = Life { producer: 1, lane: 2, nonce: 0xabc, base: 100, build: 1, instance: 9 };

    fn task(kind: Kind) -> Task {
        Task { kind, effect_at: 0, length: 0, response_bytes: 24, payload_bytes: 32 }
    }

    fn end(status: Status, attempt: u16) -> End {
        End { code: status.code(), detail: status.detail(), attempt }
    }

    /// A life whose every task ended as it should: entry `n` is the task at position `n`.
    struct Ledger {
        entries: Vec<Entry>,
        image: LaneImage,
    }

    impl Ledger {
        fn of(tasks: &[(Kind, Status)]) -> Self {
            let image = LaneImage { sq: vec![[0; WORDS]; 4], cq: vec![[0; WORDS]; 4] };
            let mut this = Self { entries: Vec::new(), image };
            for (position, &(kind, status)) in (0..).zip(tasks) {
                let ran = u32::from(status.ran() == Ran::Yes);
                let stamp = u64::from(ran) * (position * 10 + 5);
                let end = end(status, ran as u16);
                this.entries.push(Entry {
                    number: position,
                    mark: Mark::Accepted,
                    life: 7,
                    position,
                    spec: task(kind).spec(),
                    end: Some(end),
                    dropped: false,
                    starts: [ran, 0],
                    effects: [ran, 0],
                    stamps: [stamp; 2],
                    told: u64::from(ran) * TaskId::new(FACTS.lane, FACTS.base + position).as_u64(),
                });
                this.submit(position);
                this.complete(position, end);
            }
            this
        }

        fn submit(&mut self, position: u64) {
            let slot = &mut self.image.sq[(position % CAPACITY) as usize];
            (slot[0], slot[2]) = (position + 1, 1000 + position);
        }

        fn complete(&mut self, position: u64, end: End) {
            let entry = &self.entries[position as usize];
            let status = end.status().unwrap();
            let answer = task(Task::from_spec(entry.spec).unwrap().kind).response(SEED, entry.number);
            let word = |at: usize| u64::from_le_bytes(answer[at * 8..at * 8 + 8].try_into().unwrap());
            let (length, inline) = if status == Status::Done { (24, [word(0), word(1), word(2)]) } else { (0, [0; 3]) };
            let mut record = CompletionRecord::new(status, end.attempt, length, 1000 + position, 0, 0, inline);
            record.words[1] = CompletionRecord::pack(end.code, end.detail, end.attempt, length);
            record.words[COMMIT] = position + 1;
            self.image.cq[(position % CAPACITY) as usize] = record.words;
        }

        fn reckon(&self) -> Tally {
            let mut tally = Tally::default();
            let case = Case { seed: SEED, life: 7, facts: FACTS, image: Some(&self.image) };
            case.reckon(&mut self.entries.clone(), &mut tally);
            tally
        }

        /// Charges: lost, duplicated, contradicted.
        fn charges(&self) -> [u64; 3] {
            let tally = self.reckon();
            [tally.lost, tally.duplicated, tally.contradicted]
        }
    }

    const KILLED: Status = Status::Interrupted(Interrupted::Killed);
    const ATTEMPTS: Status = Status::Interrupted(Interrupted::Attempts);
    const SOUND: [u64; 3] = [0, 0, 0];
    const LOST: [u64; 3] = [1, 0, 0];
    const DUPLICATED: [u64; 3] = [0, 1, 0];
    const CONTRADICTED: [u64; 3] = [0, 0, 1];

    #[test]
    fn a_ledger_in_which_all_is_well_is_passed() {
        let mut ledger = Ledger::of(&[
            (Kind::Once, Status::Done),
            (Kind::Again, Status::Done),
            (Kind::Fails, Status::Failed { code: 7 }),
            (Kind::Panics, Status::Panicked),
            (Kind::TooLong, Status::ResponseTooLong { wanted: 0 }),
            (Kind::Expires, Status::Expired),
            (Kind::Unknown, Status::Malformed(Malformed::UnknownHandler)),
            (Kind::Once, Status::Done),
        ]);
        ledger.entries.reverse();
        let tally = ledger.reckon();
        assert_eq!((tally.accepted, tally.completed, ledger.charges()), (8, 8, SOUND), "{:#?}", tally.told);
    }

    #[test]
    fn a_task_that_was_interrupted_may_have_begun_and_may_have_had_its_effect() {
        for (starts, effects) in [(0, 0), (1, 0), (1, 1)] {
            let mut ledger = Ledger::of(&[(Kind::Once, KILLED)]);
            let entry = &mut ledger.entries[0];
            (entry.starts[0], entry.effects[0], entry.end) = (starts, effects, Some(end(KILLED, 1)));
            entry.told = TaskId::new(FACTS.lane, FACTS.base).as_u64();
            ledger.complete(0, end(KILLED, 1));
            assert_eq!(ledger.charges(), SOUND);
        }
    }

    #[test]
    fn a_task_without_a_completion_is_lost() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done), (Kind::Once, Status::Done)]);
        ledger.entries[1].end = None;
        assert_eq!(ledger.charges(), SOUND, "its producer was killed, its file holds the completion");
        ledger.image.cq[1] = [0; WORDS];
        assert_eq!(ledger.charges(), LOST);
        ledger.entries[1].end = Some(end(Status::Done, 1));
        assert_eq!(ledger.charges(), SOUND, "its producer saw it");
    }

    #[test]
    fn a_task_that_a_killed_producer_had_committed_counts_and_one_that_it_had_not_does_not() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done), (Kind::Once, Status::Done)]);
        ledger.entries[1] = Entry { mark: Mark::About, end: None, ..ledger.entries[1] };
        assert_eq!((ledger.reckon().accepted, ledger.charges()), (2, SOUND));
        ledger.image.cq[1] = [0; WORDS];
        assert_eq!(ledger.charges(), LOST, "committed and not completed");
        ledger.image.sq[1] = [0; WORDS];
        assert_eq!(ledger.charges(), CONTRADICTED, "not committed, and it ran");
        let entry = &mut ledger.entries[1];
        (entry.starts, entry.effects, entry.stamps) = ([0; 2], [0; 2], [0; 2]);
        assert_eq!((ledger.reckon().accepted, ledger.charges()), (1, SOUND));
    }

    #[test]
    fn a_completion_echoes_the_stamp_of_its_slot_unless_a_later_submit_into_it_was_cut_off() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done)]);
        ledger.image.sq[0][2] += 1;
        assert_eq!(ledger.charges(), CONTRADICTED);
        let mut entry = Entry { mark: Mark::About, end: None, ..ledger.entries[0] };
        (entry.starts, entry.effects, entry.stamps, entry.told) = ([0; 2], [0; 2], [0; 2], 0);
        entry.position = CAPACITY - 1;
        ledger.entries.push(entry);
        assert_eq!(ledger.charges(), CONTRADICTED, "that one goes into another slot");
        ledger.entries[1].position = CAPACITY;
        assert_eq!(ledger.charges(), SOUND);
    }

    #[test]
    fn a_second_effect_is_a_duplicate_unless_the_task_is_idempotent_and_was_run_twice() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done)]);
        ledger.entries[0].effects = [2, 0];
        assert_eq!(ledger.charges(), DUPLICATED);
        for status in [Status::Done, ATTEMPTS] {
            let mut ledger = Ledger::of(&[(Kind::Again, status)]);
            let entry = &mut ledger.entries[0];
            (entry.starts, entry.effects, entry.end) = ([2, 0], [2, 0], Some(end(status, 2)));
            entry.told = TaskId::new(FACTS.lane, FACTS.base).as_u64();
            ledger.complete(0, end(status, 2));
            assert_eq!(ledger.charges(), SOUND);
            ledger.entries[0].effects = [3, 0];
            assert_eq!(ledger.charges(), DUPLICATED);
        }
        let mut ledger = Ledger::of(&[(Kind::Again, Status::Done)]);
        (ledger.entries[0].starts, ledger.entries[0].effects) = ([2, 0], [2, 0]);
        assert_eq!(ledger.charges(), DUPLICATED, "it says that one attempt was enough");
    }

    #[test]
    fn an_interrupted_task_with_two_effects_is_a_duplicate() {
        let mut ledger = Ledger::of(&[(Kind::Once, KILLED)]);
        let entry = &mut ledger.entries[0];
        (entry.starts, entry.effects, entry.end) = ([2, 0], [2, 0], Some(end(KILLED, 1)));
        entry.told = TaskId::new(FACTS.lane, FACTS.base).as_u64();
        ledger.complete(0, end(KILLED, 1));
        assert_eq!(ledger.charges(), DUPLICATED);
    }

    #[test]
    fn done_without_an_effect_and_never_run_with_one_are_contradictions() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done)]);
        ledger.entries[0].effects = [0, 0];
        assert_eq!(ledger.charges(), CONTRADICTED);
        let mut ledger = Ledger::of(&[(Kind::Expires, Status::Expired)]);
        ledger.entries[0].starts = [1, 0];
        ledger.entries[0].told = TaskId::new(FACTS.lane, FACTS.base).as_u64();
        assert_eq!(ledger.charges(), CONTRADICTED);
    }

    #[test]
    fn effects_out_of_order_are_a_contradiction() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done), (Kind::Once, Status::Done)]);
        ledger.entries[1].stamps = [3, 3];
        assert_eq!(ledger.charges(), CONTRADICTED);
        ledger.entries[1].stamps = [8, 8];
        ledger.entries[0].stamps = [5, 9];
        assert_eq!(ledger.charges(), CONTRADICTED, "the first one had a later effect as well");
    }

    #[test]
    fn an_ending_that_such_a_task_cannot_have_is_a_contradiction() {
        for (kind, status) in [
            (Kind::Once, Status::Panicked),
            (Kind::Once, ATTEMPTS),
            (Kind::Again, KILLED),
            (Kind::Fails, Status::Failed { code: 8 }),
            (Kind::Fails, Status::Done),
            (Kind::Unknown, Status::Expired),
        ] {
            let mut ledger = Ledger::of(&[(kind, status)]);
            let end = end(status, u16::from(status.ran() != Ran::No));
            ledger.entries[0].end = Some(end);
            ledger.complete(0, end);
            assert_eq!(ledger.charges(), CONTRADICTED, "{kind:?} ended as {status}");
        }
    }

    #[test]
    fn what_the_producer_saw_must_be_what_the_file_holds() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done)]);
        ledger.complete(0, end(KILLED, 1));
        assert_eq!(ledger.charges(), CONTRADICTED);
    }

    #[test]
    fn an_answer_or_a_stamp_of_another_task_is_a_contradiction() {
        let tasks = [(Kind::Once, Status::Done), (Kind::Once, Status::Done)];
        let mut ledger = Ledger::of(&tasks);
        let other = ledger.image.cq[0];
        ledger.image.cq[1][5..].copy_from_slice(&other[5..]);
        assert_eq!(ledger.charges(), CONTRADICTED);
        let mut ledger = Ledger::of(&tasks);
        ledger.image.cq[1][2] = ledger.image.cq[0][2];
        assert_eq!(ledger.charges(), CONTRADICTED);
        let mut ledger = Ledger::of(&tasks);
        ledger.entries[1].told = ledger.entries[0].told;
        assert_eq!(ledger.charges(), CONTRADICTED);
    }

    #[test]
    fn a_hole_in_the_positions_and_a_completion_of_nothing_are_contradictions() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done); 3]);
        ledger.entries.remove(1);
        assert_eq!(ledger.charges(), CONTRADICTED);
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done); 2]);
        ledger.image.cq[2] = ledger.image.cq[1];
        ledger.image.cq[2][COMMIT] = 3;
        assert_eq!(ledger.charges(), CONTRADICTED);
    }

    #[test]
    fn a_task_of_one_build_that_the_other_ran_is_a_contradiction() {
        let mut ledger = Ledger::of(&[(Kind::Marked, Status::Done), (Kind::Retired, Status::Done)]);
        assert_eq!(ledger.charges(), SOUND);
        (ledger.entries[0].starts, ledger.entries[0].effects) = ([0, 1], [0, 1]);
        assert_eq!(ledger.charges(), CONTRADICTED);
    }

    #[test]
    fn a_dropped_ticket_whose_slot_was_used_again_is_completed() {
        let mut ledger = Ledger::of(&[(Kind::Once, Status::Done); 5]);
        ledger.entries[0].end = None;
        assert_eq!(ledger.charges(), LOST, "slot 0 holds position 4 by now");
        ledger.entries[0].dropped = true;
        assert_eq!((ledger.reckon().completed, ledger.charges()), (5, SOUND));
    }

    #[test]
    fn an_entry_that_nobody_submitted_must_not_have_run() {
        let mut tally = Tally::default();
        let idle = Entry { mark: Mark::Unused, end: None, starts: [0; 2], effects: [0; 2], ..sound_entry() };
        reckon_unused(&idle, &mut tally);
        assert_eq!(tally.contradicted, 0);
        reckon_unused(&Entry { starts: [1, 0], ..idle }, &mut tally);
        assert_eq!(tally.contradicted, 1);
    }

    #[test]
    fn ids_that_two_owners_of_a_lane_share_are_a_contradiction() {
        let contradicted = |other: Life, count| {
            let mut tally = Tally::default();
            reckon_ids(vec![(other, 1), (FACTS, count)], &mut tally);
            tally.contradicted
        };
        assert_eq!(contradicted(Life { base: 105, ..FACTS }, 5), 0);
        assert_eq!(contradicted(Life { base: 104, ..FACTS }, 5), 1);
        assert_eq!(contradicted(Life { base: 104, lane: 3, ..FACTS }, 5), 0, "another lane");
        assert_eq!(contradicted(Life { base: 104, instance: 8, ..FACTS }, 5), 0, "another instance");
        assert_eq!(contradicted(FACTS, 0), 0, "the first owner had no task");
    }

    fn sound_entry() -> Entry {
        Ledger::of(&[(Kind::Once, Status::Done)]).entries[0]
    }
}
