//! The two ways through an operation: one that keeps its images, and one that kills it before each instruction.

use std::collections::HashSet;
use std::sync::Arc;

use executor_shm::InstanceName;
use executor_shm::state::LaneState;

use crate::effects::Effects;
use crate::image::{GEOMETRY, Image, remove};
use crate::instruction::Instructions;
use crate::judge::{Attacher, can_attach, judge};
use crate::names::Names;
use crate::plan::{Plan, lane_file};
use crate::subject::{Company, Stepped, Subject, step_through};
use crate::tally::{Finding, Key, Tally};
use crate::watch::Watch;

/// Instructions before the first and after the last change of an operation that are killed as well.
pub(crate) const MARGIN: usize = 64;

/// What everything here needs.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) names: Names,
    pub(crate) effects: Arc<Effects>,
    pub(crate) instructions: Instructions,
    pub(crate) tally: Tally,
    pub(crate) options: Options,
    /// The images that were judged, by their hash, and who came around the kill.
    judged: HashSet<(u64, Attacher)>,
}

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Kill again inside the next start.
    pub(crate) second: bool,
    /// One in so many images of the long paths is killed into again.
    pub(crate) one_in: u64,
    /// What is sampled is sampled by this.
    pub(crate) seed: u64,
}

/// An image, and where it came up.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) image: Image,
    /// The instruction that stored last, and what it changed.
    pub(crate) story: String,
    /// Instructions of the operation that had run.
    pub(crate) steps: usize,
}

/// An operation that was stepped through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Course {
    /// Its images in order, the first one from before it.
    pub(crate) moments: Vec<Moment>,
    /// Where its instructions lie.
    addresses: Vec<u64>,
    /// How many of them had run after each system call.
    calls: Vec<usize>,
}

/// Whose thread is stepped, and who may run beside it.
pub(crate) type Focus = (usize, Company);

impl Workshop {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            names: Names::default(),
            effects: Arc::new(Effects::new()),
            instructions: Instructions::new(),
            tally: Tally::default(),
            options,
            judged: HashSet::new(),
        }
    }

    /// Puts a scene's files under a fresh name, and its effects on the page.
    pub(crate) fn put(&self, image: &Image) -> InstanceName {
        let instance = self.names.fresh();
        image.restore(&instance);
        self.effects.restore(&image.effects);
        instance
    }

    /// Steps through an operation until `until`, the thread's next marker or its end, and keeps its images.
    pub(crate) fn watch(
        &mut self,
        instance: &InstanceName,
        subject: &mut Subject,
        (thread, company): Focus,
        mut until: impl FnMut(&Image, &Stepped) -> bool,
    ) -> Course {
        let mut watch = Watch::new(instance, &self.effects);
        let mut course = Course::default();
        let before = Moment { image: watch.image().clone(), story: "before it".to_owned(), steps: 0 };
        course.moments.push(before);
        let mut stored_at = Vec::new();
        step_through(subject, &mut self.instructions, thread, company, |stepped| {
            course.addresses.push(stepped.address);
            if stepped.call.is_some() {
                course.calls.push(stepped.count);
            }
            if let Some(change) = watch.look(&stepped) {
                stored_at.push(stepped.address);
                course.moments.push(Moment { image: watch.image().clone(), story: change, steps: stepped.count });
            }
            !until(watch.image(), &stepped)
        });
        assert_eq!(watch.look_at_everything(), None, "the harness missed a store");
        for (moment, address) in course.moments[1..].iter_mut().zip(stored_at) {
            let place = self.instructions.describe(address);
            moment.story = format!("after {} instructions, {place}: {}", moment.steps, moment.story);
        }
        self.tally.steps += course.addresses.len() as u64;
        course
    }

    /// As [`Self::watch`], stepping only between system calls between which something changes: `begin` makes the same
    /// subject again and again. What is there at both ends of such a stretch is taken for what was there all along.
    pub(crate) fn watch_changes(
        &mut self,
        (thread, company): Focus,
        image: &Image,
        mut begin: impl FnMut(&Self, &InstanceName) -> Subject,
    ) -> Vec<Moment> {
        let instance = self.put(image);
        let mut subject = begin(self, &instance);
        let mut watch = Watch::new(&instance, &self.effects);
        let mut stretches = Vec::new();
        let mut count = 0;
        while subject.run_through_call(thread, company) {
            if watch.look_at_everything().is_some() {
                stretches.push(count);
            }
            count += 1;
        }
        if watch.look_at_everything().is_some() {
            stretches.push(count); // after its last system call
        }
        subject.kill();
        remove(&instance);

        let instance = self.put(image);
        let mut subject = begin(self, &instance);
        let (mut moments, mut done) = (Vec::new(), 0);
        for stretch in stretches {
            (done..stretch).for_each(|_| {
                subject.run_through_call(thread, company);
            });
            done = stretch + 1;
            let course = self.watch(&instance, &mut subject, (thread, company), |_, stepped| stepped.call.is_some());
            moments.extend(course.moments.into_iter().skip(1));
        }
        subject.kill();
        remove(&instance);
        moments
    }

    /// Judges an image that was not judged yet, with each of `attachers`. Says whether it was new.
    fn judge_image(&mut self, moment: &Moment, plan: &Plan, first: Option<&Moment>, attachers: &[Attacher]) -> bool {
        let mut is_new = false;
        for &attacher in attachers {
            if !can_attach(attacher, &moment.image) || !self.judged.insert((moment.image.hash(), attacher)) {
                continue;
            }
            let instance = self.put(&moment.image);
            let findings = judge(&instance, &moment.image, plan, &self.effects, attacher);
            self.tally.add(findings, || {
                let first = first.map(|first| format!("\n    after a kill {}", first.story)).unwrap_or_default();
                format!("killed {}{}{first}", moment.story, attacher.name())
            });
            if attacher == Attacher::Nobody {
                is_new = true;
                *(if first.is_some() { &mut self.tally.second_level_images } else { &mut self.tally.images }) += 1;
            }
        }
        is_new
    }

    /// Judges the images of an operation. `again` is called with each that is new, or with one in `one_in` of them, if
    /// there is to be a second level.
    pub(crate) fn judge_course(
        &mut self,
        moments: &[Moment],
        plan: &Plan,
        attachers: &[Attacher],
        one_in: u64,
        mut again: impl FnMut(&mut Self, &Moment),
    ) {
        self.look_for_orphans(moments, None);
        let mut random = Random(self.options.seed);
        for moment in moments {
            let is_chosen = random.one_in(one_in);
            if self.judge_image(moment, plan, None, attachers) && self.options.second && is_chosen {
                again(self, moment);
            }
        }
    }

    /// Judges the images of a second level.
    pub(crate) fn judge_second(&mut self, moments: &[Moment], plan: &Plan, first: &Moment, attachers: &[Attacher]) {
        self.look_for_orphans(moments, Some(first));
        for moment in moments {
            self.judge_image(moment, plan, Some(first), attachers);
        }
    }

    /// Looks for lanes that are FREE in the mirror while files of theirs that were there are gone: an attacher that has
    /// opened them would take them for its own, and nobody would ever find its tasks.
    fn look_for_orphans(&mut self, moments: &[Moment], first: Option<&Moment>) {
        let mut seen: HashSet<&str> = HashSet::new();
        for moment in first.into_iter().chain(moments) {
            seen.extend(moment.image.files.keys().map(String::as_str));
            for number in 0..GEOMETRY.lanes {
                let word = moment.image.mirror(number);
                let names = ["sq", "cq"].map(|kind| lane_file(number, word.nonce(), kind));
                let is_gone = |name: &String| seen.contains(name.as_str()) && !moment.image.files.contains_key(name);
                if word.state() == Some(LaneState::Free) && names.iter().any(is_gone) {
                    let text =
                        format!("an attacher that has opened lane {number} takes files that are gone for its own");
                    self.tally.add(vec![Finding::new(Key::Lost, text)], || format!("killed {}", moment.story));
                }
            }
        }
    }

    /// Kills an operation before each of the instructions `range` of its course, or one in `one_in` of those that are far
    /// from any change; `begin` makes a subject that stands where the course began.
    pub(crate) fn kill_each(
        &mut self,
        course: &Course,
        plan: &Plan,
        (thread, company): Focus,
        one_in: u64,
        mut begin: impl FnMut(&Self) -> (InstanceName, Subject, Option<std::fs::File>),
    ) {
        for step in course.instructions_to_kill(one_in, self.options.seed) {
            let (instance, mut subject, stand_in) = begin(self);
            let came = course.run_to(&mut subject, (thread, company), step);
            subject.kill();
            drop(stand_in);
            let address = course.address(step);
            if !came {
                self.tally.miss(address, || self.instructions.describe(address));
                remove(&instance);
                continue;
            }
            self.tally.kills += 1;
            let image = Image::capture(&instance, self.effects.copy());
            let findings = judge(&instance, &image, plan, &self.effects, Attacher::Nobody);
            let place = || format!("killed after {step} instructions, before {}", self.instructions.describe(address));
            self.tally.add(findings, place);
        }
    }
}

impl Course {
    /// The instructions from before the first change to after the last; of those that are far from any, one in `one_in`.
    pub(crate) fn instructions_to_kill(&self, one_in: u64, seed: u64) -> Vec<usize> {
        let changes: Vec<usize> = self.moments[1..].iter().map(|moment| moment.steps).collect();
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return Vec::new() };
        let range = first.saturating_sub(MARGIN)..(last + MARGIN).min(self.addresses.len());
        let mut random = Random(seed);
        range
            .filter(|&step| {
                let next = changes.partition_point(|&change| change + MARGIN < step);
                let near = changes.get(next).is_some_and(|change| change.abs_diff(step) <= MARGIN);
                random.one_in(one_in) || near
            })
            .collect()
    }

    /// Where the instruction after `step` others lies.
    pub(crate) fn address(&self, step: usize) -> u64 {
        self.addresses[step]
    }

    /// Lets a subject that stands where the course began run until `step` instructions of it have run. `false` where that
    /// cannot be: the kernel's clock page is read again and again while the kernel writes to it, which a process that is
    /// stepped sees more often than one that runs.
    pub(crate) fn run_to(&self, subject: &mut Subject, (thread, company): Focus, step: usize) -> bool {
        let calls = self.calls.partition_point(|&after| after <= step);
        let base = if calls == 0 { 0 } else { self.calls[calls - 1] };
        let address = self.addresses[step];
        let nth = 1 + self.addresses[base..step].iter().filter(|&&other| other == address).count() as u64;
        subject.run_through_calls(thread, calls as u64, company);
        subject.run_to(thread, address, nth)
    }

    /// The course without the changes before `first` and after `last`.
    pub(crate) fn between(&self, first: usize, last: usize) -> Self {
        let mut course = self.clone();
        let mut number = 0;
        course.moments.retain(|moment| {
            number += 1;
            number == 1 || (first..=last).contains(&moment.steps)
        });
        course
    }
}

/// Numbers that a seed determines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True once in `n` times on average.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n.max(1))
    }
}
