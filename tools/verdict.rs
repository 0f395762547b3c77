//! Why a task was slow, in words: what its time went to, the largest first, and what to do about that.

use executor_core::TaskId;
use executor_core::recorder::{Behind, SlowTask};
use executor_shm::inspect::{Inspection, LaneView, ProducerView};

use crate::dump_json::handler_name;
use crate::units::counted;

/// Something that a task's time went to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its key in JSON.
    pub(crate) key: &'static str,
    /// For how long, in ticks.
    pub(crate) ticks: u64,
    /// What it was, as a clause after "waited" or "ran".
    pub(crate) text: String,
    /// What helps.
    pub(crate) cure: &'static str,
}

/// Everything a wait was spent on, in the order of [`SlowTask`]; the sum is the wait.
pub(crate) fn wait_parts(view: &Inspection, task: &SlowTask) -> Vec<Part> {
    let part = |key, ticks, text: &str, cure| Part { key, ticks, text: text.to_owned(), cure };
    let behind = |behind: &Behind| {
        let name = named(view, behind.handler_id);
        let tasks =
            if behind.tasks == u16::MAX { "many tasks".to_owned() } else { counted(behind.tasks.into(), "task") };
        let most = if behind.tasks > 1 { "longest" } else { "which was" };
        (name, tasks, most)
    };
    let (name, tasks, most) = behind(&task.behind_lane);
    let own = format!("behind {tasks} of its own lane, {most} {name}");
    let (name, tasks, most) = behind(&task.behind_others);
    let others =
        format!("behind {tasks} of other lanes of its worker, {most} {name} in lane {}", task.behind_others.lane);
    let unexplained =
        if task.known.history { "nothing that was noted tells why" } else { "more happened in its wait than is kept" };
    vec![
        part(
            "unserved",
            task.unserved,
            "for a worker to take up its lane, after an attach or a restart",
            "attach ahead of the first task; a hot standby shortens restarts",
        ),
        part("asleep", task.asleep, "for its worker to wake up", "--idle spin, or a core of its own"),
        part("behind_lane", task.behind_lane.ticks, &own, "another lane for what is short, or shorter tasks"),
        part(
            "behind_others",
            task.behind_others.ticks,
            &others,
            "another worker for one of the lanes, or a higher priority",
        ),
        part(
            "late",
            task.late,
            "for its producer, which stamped it and committed it later",
            "look at the producer's thread: it was held between the two",
        ),
        part(
            "wait_preempted",
            task.wait_preempted,
            "while the kernel ran something else on its worker's CPU",
            "an isolated CPU, or --real-time",
        ),
        part(
            "wait_stalled",
            task.wait_stalled,
            "while its worker stood still and the kernel had not taken its CPU: the hypervisor, the firmware or an interrupt did",
            "look at steal time, SMIs and interrupts of that CPU",
        ),
        part("wait_unexplained", task.wait_unexplained(), unexplained, "capture it again with less around it"),
    ]
}

/// Everything a run was spent on; the sum is the run.
pub(crate) fn run_parts(view: &Inspection, task: &SlowTask) -> Vec<Part> {
    let part = |key, ticks, text: String, cure| Part { key, ticks, text, cure };
    let faults = match (task.minor_faults, task.major_faults) {
        (minor, 0) => counted(minor.into(), "page fault"),
        (minor, major) => format!("{} and {major} that waited for a disk", counted(minor.into(), "page fault")),
    };
    vec![
        part(
            "run_preempted",
            task.run_preempted,
            "without its CPU, on which the kernel ran something else".to_owned(),
            "an isolated CPU, or --real-time",
        ),
        part(
            "faulting",
            task.faulting,
            format!("in {faults}, as long as they take here"),
            "touch memory before, keep it, or --lock-memory",
        ),
        part(
            "handler",
            task.run_itself(),
            format!("in handler {} itself", named(view, task.handler_id)),
            "a faster handler, or smaller tasks",
        ),
    ]
}

/// The largest part of a wait and a run, and whether it is one of the wait.
pub(crate) fn largest(view: &Inspection, task: &SlowTask) -> (Part, bool) {
    let waits = wait_parts(view, task).into_iter().map(|part| (part, true));
    let runs = run_parts(view, task).into_iter().map(|part| (part, false));
    let largest = waits.chain(runs).max_by_key(|(part, _)| part.ticks);
    largest.unwrap_or_else(|| (Part { key: "handler", ticks: 0, text: String::new(), cure: "" }, false))
}

/// The name of a handler in quotes, or its number.
pub(crate) fn named(view: &Inspection, id: u32) -> String {
    handler_name(view, id).map_or_else(|| format!("id {id}"), |name| format!("`{name}`"))
}

/// What is to be known about how far a verdict is to be believed: sentences.
pub(crate) fn doubts(task: &SlowTask) -> Vec<&'static str> {
    let mut doubts = Vec::new();
    if !task.known.preemption {
        doubts.push("whether the kernel took the CPU away is not known: threads have no rseq area here");
    } else if !task.known.preempted_time {
        doubts.push("for how long the kernel took the CPU away is known roughly: the worker had slept shortly before, or /proc does not tell");
    }
    if !task.known.faults && (task.minor_faults, task.major_faults) != (0, 0) {
        doubts.push("some of the page faults may be of tasks before it");
    }
    if !task.known.history {
        doubts.push("of the beginning of its wait too much is past to be told");
    }
    doubts
}

/// Whether the completion of the task at this position waits in `cq` for its producer to take it, as far as that says so. Of a
/// task of an earlier owner of the lane nothing does, and one that takes some before earlier ones does not say which.
pub(crate) fn is_uncollected(view: &Inspection, task: TaskId, position: u64) -> bool {
    let awaits = |lane: &LaneView| {
        let completed = lane.completed.is_some_and(|completed| position < completed);
        let is_owners = task == TaskId::new(lane.lane, lane.base.wrapping_add(position));
        let has = |producer: ProducerView| position >= producer.credited && producer.collected <= producer.credited;
        is_owners && completed && lane.producer.is_some_and(has)
    };
    view.lanes.iter().any(awaits)
}
