//! What the time of a slow task was spent on: the words, the letters and the colours of its parts.

use executor_core::recorder::{Behind, SlowTask};

use super::sheet::Sheet;
use crate::units;

/// A kind of part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Stands in the bar.
    pub(crate) letter: &'static str,
    /// Its class in the style sheet, and its name for programs.
    pub(crate) class: &'static str,
    /// As the text under a bar calls it.
    pub(crate) name: &'static str,
    /// What it means.
    pub(crate) means: &'static str,
    /// Whether it is of the wait; of the run otherwise.
    pub(crate) is_wait: bool,
}

const fn kind(
    letter: &'static str,
    class: &'static str,
    name: &'static str,
    means: &'static str,
    is_wait: bool,
) -> Kind {
    Kind { letter, class, name, means, is_wait }
}

/// All parts, in the order in which they stand in a bar: first the wait, then the run.
pub(crate) const KINDS: [Kind; 11] = [
    kind("L", "behind-lane", "behind its lane", "tasks before it in its own lane were served", true),
    kind("O", "behind-others", "behind other lanes", "tasks of other lanes of its worker were served", true),
    kind("A", "asleep", "asleep", "the worker slept, and was woken or woke by itself", true),
    kind("P", "preempted", "preempted", "the kernel ran something else on the worker's CPU", true),
    kind(
        "S",
        "stalled",
        "stalled",
        "the worker stood still without the kernel: hypervisor, firmware or an interrupt",
        true,
    ),
    kind("C", "late", "committed late", "its producer stamped it and was late to commit it", true),
    kind("N", "unserved", "not yet served", "no worker had the lane, after an attach or a restart", true),
    kind("?", "unexplained", "unexplained", "nothing is known of this time", true),
    kind("P", "preempted", "preempted", "the kernel ran something else on the worker's CPU", false),
    kind(
        "F",
        "faults",
        "page faults",
        "memory that had to be fetched, at the price of minor faults: an estimate",
        false,
    ),
    kind("H", "handler", "handler", "the handler itself", false),
];

/// A part of one task: how long it was, and what else is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    pub(crate) ticks: u64,
    pub(crate) detail: Option<String>,
}

impl Part {
    /// `behind its lane 5.2 ms, 1 task, longest spin`.
    pub(crate) fn text(&self, sheet: &Sheet<'_>) -> String {
        let detail = self.detail.as_ref().map_or(String::new(), |detail| format!(", {detail}"));
        format!("{} {}{detail}", self.kind.name, sheet.length(self.ticks))
    }
}

/// All parts of a task, those of no length included: they add up to its total.
pub(crate) fn parts(sheet: &Sheet<'_>, task: &SlowTask) -> [Part; 11] {
    // Of tasks that followed each other without a pause from before the wait on it is a share.
    let behind = |of: &Behind, where_: String| {
        (of.ticks != 0).then(|| {
            let tasks = units::counted(of.tasks.into(), "task");
            format!(
                "{}{tasks}{where_}, longest {}",
                if of.tasks == 1 { "" } else { "about " },
                sheet.handler(of.handler_id)
            )
        })
    };
    let faults = (task.minor_faults != 0 || task.major_faults != 0).then(|| {
        let bound = if task.known.faults { "" } else { "at most " };
        format!(
            "{bound}{} minor, {} major",
            units::count(task.minor_faults.into()),
            units::count(task.major_faults.into())
        )
    });
    let others = behind(&task.behind_others, format!(" of lane {}", task.behind_others.lane));
    let ticks = [
        (task.behind_lane.ticks, behind(&task.behind_lane, String::new())),
        (task.behind_others.ticks, others),
        (task.asleep, None),
        (task.wait_preempted, None),
        (task.wait_stalled, None),
        (task.late, None),
        (task.unserved, None),
        (task.wait_unexplained(), None),
        (task.run_preempted, None),
        (task.faulting, faults),
        (task.run_itself(), Some(sheet.handler(task.handler_id))),
    ];
    let mut kinds = KINDS.into_iter();
    ticks.map(|(ticks, detail)| Part { kind: kinds.next().unwrap_or(KINDS[0]), ticks, detail })
}

/// What of a task could not be told, in words; `None` if all could.
pub(crate) fn doubts(task: &SlowTask) -> Option<String> {
    let known = &task.known;
    let doubts: Vec<&str> = [
        (known.preemption, "whether it was preempted (threads have no rseq area here)"),
        (known.preempted_time, "for how long it was preempted (no schedstat, or the worker slept shortly before)"),
        (known.faults, "which page faults were its own"),
        (known.history, "the beginning of its wait, which is too long ago"),
    ]
    .into_iter()
    .filter_map(|(is_known, what)| (!is_known).then_some(what))
    .collect();
    (!doubts.is_empty()).then(|| format!("not known: {}", doubts.join("; ")))
}
