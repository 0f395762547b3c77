//! What stands before an operation: files that real processes made, and who is attached to them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use executor_shm::attach::{Claim, Instance, Wish};
use executor_shm::lane::{LaneShape, Look, ProducerHalf};
use executor_shm::state::LaneState;
use executor_shm::status::load_lane;

use crate::child::Child;
use crate::effects::Effects;
use crate::image::{GEOMETRY, Image, remove};
use crate::judge::sidecar;
use crate::names::Names;
use crate::plan::{Lane, Plan};
use crate::tasks::{Build, Kind, Task, hush_planned_panics};

const PATIENCE: Duration = Duration::from_secs(30);

/// Files that a kill left, and what was submitted.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) image: Image,
    pub(crate) plan: Plan,
}

/// What a producer does before the scene.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producer {
    /// Tasks that are answered and collected.
    pub(crate) answered: Vec<Kind>,
    /// Tasks that nobody has looked at.
    pub(crate) waiting: Vec<Kind>,
    /// It outlives the kills.
    pub(crate) survivor: bool,
}

impl Producer {
    fn tasks(&self, lane: usize) -> Vec<Task> {
        let kinds = self.answered.iter().chain(&self.waiting);
        kinds.zip(1..).map(|(&kind, n)| Task { kind, tag: (lane as u64 + 1) << 20 | n }).collect()
    }
}

/// A producer with its lane.
struct Attached {
    lane: u32,
    nonce: u64,
    half: ProducerHalf<executor_shm::mapped::WriteWords, executor_shm::mapped::ReadWords>,
    _lock: executor_shm::lock::LockFile,
}

impl Attached {
    fn claim(instance: &Instance) -> Self {
        let begun = Instant::now();
        loop {
            if let Some(Claim { lane, nonce, sq, cq, lock, .. }) = instance.claim(Wish::default()).unwrap() {
                let half = ProducerHalf::new(sq, cq, LaneShape::new(&GEOMETRY));
                return Self { lane, nonce, half, _lock: lock };
            }
            assert!(begun.elapsed() < PATIENCE, "a scene's producer gets no lane");
            std::thread::yield_now();
        }
    }

    fn submit(&mut self, task: &Task) -> u64 {
        let payload = task.payload();
        if payload.len() > executor_shm::core::record::INLINE_PAYLOAD {
            self.half.request_buffer(payload.len()).copy_from_slice(&payload);
        }
        self.half.submit(&task.record(task.tag))
    }

    fn collect(&mut self, position: u64) {
        let begun = Instant::now();
        while self.half.look(position) == Look::Pending {
            assert!(begun.elapsed() < PATIENCE, "a scene's task is not answered");
            std::thread::yield_now();
        }
        self.half.credit();
    }
}

/// Makes a scene: a sidecar serves `producers`, is killed while idle, and they submit what is left to wait. Producers
/// that do not survive are gone in the end; those that do are played by whoever uses the scene.
pub(crate) fn make(names: &Names, effects: &Arc<Effects>, producers: &[Producer]) -> Scene {
    let instance = names.fresh();
    effects.restore(&vec![0; effects.copy().len()]);
    let mut serving = Child::fork(|line| {
        hush_planned_panics();
        let _handle = sidecar(&instance, Build::First, effects).start().unwrap();
        line.say("ready");
        line.wait();
    });
    assert_eq!(serving.hear(PATIENCE).as_deref(), Some("ready"));
    let mut producing = Child::fork(|line| {
        let found = Instance::open(&instance, None).unwrap();
        let mut attached: Vec<Attached> = Vec::new();
        for (number, producer) in producers.iter().enumerate() {
            let mut lane = Attached::claim(&found);
            for task in &producer.tasks(number)[..producer.answered.len()] {
                let position = lane.submit(task);
                lane.collect(position);
            }
            attached.push(lane);
        }
        settle(&found, producers.len());
        let lanes: Vec<String> = attached.iter().map(|lane| format!("{} {}", lane.lane, lane.nonce)).collect();
        line.say(&lanes.join(","));
        line.wait();
        for (number, (producer, lane)) in producers.iter().zip(&mut attached).enumerate() {
            let tasks = producer.tasks(number);
            tasks[producer.answered.len()..][..producer.waiting.len()].iter().for_each(|task| {
                lane.submit(task);
            });
        }
        line.say("submitted");
        line.wait();
    });
    let lanes = producing.hear(PATIENCE).expect("a scene's producers get their lanes");
    serving.kill();
    producing.tell();
    assert_eq!(producing.hear(PATIENCE).as_deref(), Some("submitted"));
    producing.kill();
    let image = Image::capture(&instance, effects.copy());
    remove(&instance);
    let lanes = lanes.split_terminator(',').zip(producers).enumerate().map(|(number, (text, producer))| {
        let (lane, nonce) = text.split_once(' ').unwrap();
        let (lane, nonce) = (lane.parse().unwrap(), nonce.parse().unwrap());
        Lane { number: lane, nonce, tasks: producer.tasks(number), survivor: producer.survivor, tagged: true }
    });
    Scene { image, plan: Plan { lanes: lanes.collect(), build: Build::First } }
}

/// Waits until housekeeping has nothing more to do: `taken` lanes are served and the spare ones are made.
fn settle(instance: &Instance, taken: usize) {
    let begun = Instant::now();
    let spare = 2.min(GEOMETRY.lanes as usize - taken);
    loop {
        let states = (0..GEOMETRY.lanes).map(|lane| load_lane(instance.status(), &GEOMETRY, lane).word.state());
        let states: Vec<_> = states.collect();
        let count = |state| states.iter().filter(|&&found| found == Some(state)).count();
        if count(LaneState::Active) == taken && count(LaneState::Free) == spare {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "a scene's lanes do not settle: {states:?}");
        instance.wake_housekeeping();
        std::thread::yield_now();
    }
}

impl Scene {
    /// A scene of files alone: nobody is attached.
    pub(crate) fn deserted(image: Image, build: Build) -> Self {
        Self { image, plan: Plan { lanes: Vec::new(), build } }
    }

    /// The same scene after a kill that left `image`.
    pub(crate) fn after(&self, image: &Image) -> Self {
        Self { image: image.clone(), plan: self.plan.clone() }
    }

    /// The same scene, with another build to start next.
    pub(crate) fn with_build(mut self, build: Build) -> Self {
        self.plan.build = build;
        self
    }
}
