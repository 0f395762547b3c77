//! An instance at a moment, and what happened from one moment to another.

use executor_core::histogram::HistogramSnapshot;
use executor_shm::inspect::{HandlerView, Inspection, LaneView, WorkerView};

/// An instance as it stood.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) view: Inspection,
    /// When, in nanoseconds since 1970; `None` for a copy that nobody dated. Live samples of one program are as far apart as they
    /// were, whatever was done to the wall clock; copies have the wall clock of whoever made them.
    pub(crate) at_ns: Option<u64>,
}

/// Why two samples cannot be compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    #[error("the samples are of {0} and {1}: name one instance")]
    OtherInstance(String, String),
    #[error(
        "instance {0} was made anew between the samples (nonce {1:016x}, then {2:016x}): nothing of it can be compared"
    )]
    OtherLife(String, u64, u64),
    #[error("the second sample of instance {0} is older than the first; name them the other way round")]
    Backwards(String),
}

/// What happened between two samples of an instance. Counts of a lane are over all its owners.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) before: &'a Inspection,
    pub(crate) after: &'a Inspection,
    /// How long it took; `None` where nobody can say.
    pub(crate) ns: Option<u64>,
}

impl<'a> Change<'a> {
    /// # Errors
    ///
    /// The samples are not of one life of one instance, or in the wrong order.
    pub(crate) fn new(before: &'a Sample, after: &'a Sample) -> Result<Self, SampleError> {
        let (one, two) = (&before.view, &after.view);
        let name = one.instance.to_string();
        if one.instance != two.instance {
            return Err(SampleError::OtherInstance(name, two.instance.to_string()));
        }
        if one.nonce != two.nonce {
            return Err(SampleError::OtherLife(name, one.nonce, two.nonce));
        }
        let ns = before.at_ns.zip(after.at_ns).map(|(from, to)| to.checked_sub(from));
        if ns == Some(None) || one.epoch > two.epoch || one.stats.tasks > two.stats.tasks {
            return Err(SampleError::Backwards(name));
        }
        Ok(Self { before: one, after: two, ns: ns.flatten() })
    }

    /// Events a second.
    pub(crate) fn rate(&self, events: u64) -> Option<f64> {
        self.ns.filter(|ns| *ns > 0).map(|ns| events as f64 * 1e9 / ns as f64)
    }

    /// Tasks ended, by status byte.
    pub(crate) fn by_status(&self) -> Vec<u64> {
        since(&self.after.stats.by_status, &self.before.stats.by_status).to_vec()
    }

    /// Starts of a sidecar in between.
    pub(crate) fn starts(&self) -> u64 {
        self.after.epoch.saturating_sub(self.before.epoch)
    }

    /// Each worker of the later sample, with what it was before; `None` if a start in between brought it: it counts over all starts,
    /// so what it did since is not known.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (&WorkerView, Option<&WorkerView>)> {
        let before = |number| self.before.workers.iter().find(move |worker| worker.worker == number);
        self.after.workers.iter().map(move |worker| (worker, before(worker.worker)))
    }

    /// What each handler did. Rows stay, so one that was not there before began at 0 in between.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = HandlerView> {
        self.after.handlers.iter().map(|after| {
            let before = self.before.handlers.iter().find(|before| before.row.id == after.row.id);
            let Some(before) = before else { return after.clone() };
            HandlerView {
                row: after.row.clone(),
                by_status: since(&after.by_status, &before.by_status),
                request_bytes: after.request_bytes.saturating_sub(before.request_bytes),
                response_bytes: after.response_bytes.saturating_sub(before.response_bytes),
                queue: after.queue.since(&before.queue),
                run: after.run.since(&before.run),
            }
        })
    }

    /// What went through each lane. Lanes stay, so one that was not there before was made in between.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = LaneChange<'_>> {
        self.after.lanes.iter().map(|after| {
            let before = self.before.lanes.iter().find(|before| before.lane == after.lane);
            let total = before.map_or_else(|| after.total.clone(), |before| after.total.since(&before.total));
            // A reset adds to the base what it takes from the positions, or somewhat more.
            let started = |lane: &LaneView| lane.started.map(|started| lane.base.saturating_add(started));
            let started = match before {
                Some(before) => started(after).zip(started(before)).map(|(now, then)| now.saturating_sub(then)),
                None => started(after),
            };
            let resets = after.resets.saturating_sub(before.map_or(0, |before| before.resets));
            LaneChange { after, before, started, total, resets }
        })
    }

    /// From submit to end, of all lanes.
    pub(crate) fn total(&self) -> HistogramSnapshot {
        let mut all = HistogramSnapshot::default();
        self.lanes().for_each(|lane| all.merge(&lane.total));
        all
    }
}

/// What went through a lane.
#[derive(Debug)]
pub(crate) struct LaneChange<'a> {
    pub(crate) after: &'a LaneView,
    pub(crate) before: Option<&'a LaneView>,
    /// Tasks started; `None` where positions cannot be read.
    pub(crate) started: Option<u64>,
    pub(crate) total: HistogramSnapshot,
    pub(crate) resets: u64,
}

fn since<const N: usize>(after: &[u64; N], before: &[u64; N]) -> [u64; N] {
    let mut counts = *after;
    for (count, before) in counts.iter_mut().zip(before) {
        *count = count.saturating_sub(*before);
    }
    counts
}

/// How a real instance stands that has a worker, a lane and a handler, and did nothing yet.
#[cfg(test)]
pub(crate) fn real(what: &str) -> Inspection {
    use executor_shm::inspect::Inspector;
    use executor_shm::{InstanceName, Sidecar};

    let name = InstanceName::new(&format!("test-sample-{what}-{}", std::process::id())).unwrap();
    let mut registry = executor_core::Registry::builder();
    registry.handler(7, "echo", |_, _, _| Ok(()));
    let sidecar = Sidecar::builder().instance(name.clone()).registry(registry.build().unwrap());
    let _sidecar = sidecar.lanes(1).capacity(8).pinned(false).start().unwrap();
    Inspector::open(&name).unwrap().look()
}
