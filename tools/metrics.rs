//! What an instance did, as Prometheus reads it: a page over HTTP, a file for the node exporter.
//!
//! Nothing is counted for it: each scrape is a look at the shared memory by somebody who only reads, so the workers never
//! know. What cannot be read is left out, since 0 would be a lie.
//!
//! # Names
//!
//! A family is a row in a table, [`FAMILIES`], with its name, unit, labels and where its values come from. Units are
//! seconds and bytes. Every sample has the label `executor`, the name of the instance: a label called `instance` is
//! Prometheus's own, which would rename ours.
//!
//! # How many
//!
//! A handler has 68 samples, two histograms of 28 included, a worker 17. A lane has 14, and one for each way of not being done
//! that a task of it met: its histogram would be 28 more for each of up to 1,024 lanes, so there is one for all lanes
//! together.

mod family;
mod fold;
mod handler;
mod instance;
mod lane;
mod page;
mod place;
mod textfile;
mod worker;

use executor_shm::inspect::Inspection;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use family::Family;

pub(crate) use page::{Page, PageError, listen, probe};
pub(crate) use textfile::{TextfileError, families_text, write_textfile};

/// All there are. A new figure of an [`Inspection`] is a row in one of these tables, and a line in `docs/operations.md`.
const FAMILIES: [&[Family]; 4] = [instance::FAMILIES, worker::FAMILIES, handler::FAMILIES, lane::FAMILIES];

/// The two ways to write the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4: what the node exporter reads, which knows no other.
    Prometheus,
}

impl Dialect {
    /// The media type.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }

    /// What somebody gets who sent this header `Accept`: OpenMetrics if it names that, and not with the weight 0, and the text
    /// format otherwise, as from Prometheus's own libraries. Whoever takes anything need not know OpenMetrics.
    pub(crate) fn accepted(accept: &str) -> Self {
        let accept = accept.to_ascii_lowercase();
        let is_wanted = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map(|weight| weight.trim().parse::<f64>());
            kind == Some("application/openmetrics-text") && weight.is_none_or(|weight| weight.is_ok_and(|q| q > 0.0))
        };
        if accept.split(',').any(is_wanted) { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// All families of an instance as it stood.
#[derive(Debug)]
struct Look(Inspection);

impl Collector for Look {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        FAMILIES.into_iter().flatten().try_for_each(|family| family.encode(&self.0, &mut encoder))
    }
}

/// Everything that is known of an instance, as a scrape.
pub(crate) fn exposition(view: Inspection, dialect: Dialect) -> String {
    let name = view.instance.as_str().to_owned();
    let mut registry = Registry::with_labels([("executor".into(), name.into())].into_iter());
    registry.register_collector(Box::new(Look(view)));
    let mut scrape = String::new();
    let written = match dialect {
        Dialect::OpenMetrics => text::encode(&mut scrape, &registry),
        Dialect::Prometheus => prometheus_text::encode(&mut scrape, &registry),
    };
    debug_assert!(written.is_ok(), "a string takes everything");
    scrape
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor_core::Registry;
    use executor_shm::inspect::Inspector;
    use executor_shm::{InstanceName, Sidecar};

    /// How an instance stands that has one worker, one lane or more and one handler, called so.
    fn view(what: &str, handler: &str) -> Inspection {
        let name = InstanceName::new(&format!("test-metrics-{what}-{}", std::process::id())).unwrap();
        let mut registry = Registry::builder();
        registry.handler(7, handler, |_, _, _| Ok(()));
        let sidecar = Sidecar::builder().instance(name.clone()).registry(registry.build().unwrap()).pinned(false);
        let sidecar = sidecar.lanes(1).start().unwrap();
        let view = Inspector::open(&name).unwrap().look();
        drop(sidecar);
        view
    }

    fn samples(view: &Inspection) -> usize {
        exposition(view.clone(), Dialect::OpenMetrics).lines().filter(|line| !line.starts_with('#')).count()
    }

    #[test]
    fn a_name_with_quotes_and_braces_is_escaped() {
        let scrape = exposition(view("escape", "a\"b\\c{d},e=f"), Dialect::OpenMetrics);
        let labels = "handler=\"a\\\"b\\\\c{d},e=f\",handler_id=\"7\",status=\"done\"} 0\n";
        assert!(scrape.contains(labels), "no {labels} in {scrape}");
    }

    #[test]
    fn a_lane_that_nobody_has_is_served_by_nobody_and_has_no_priority() {
        use executor_shm::state::LaneState;

        let mut view = view("free", "echo");
        let mut info = |state| {
            view.lanes[0].state = Some(state);
            let scrape = exposition(view.clone(), Dialect::OpenMetrics);
            scrape.lines().find(|line| line.starts_with("executor_lane_info{")).unwrap().to_owned()
        };
        let free = info(LaneState::Free);
        assert!(free.contains("state=\"free\",priority=\"\",worker=\"\""), "{free}");
        let active = info(LaneState::Active);
        assert!(active.contains("state=\"active\",priority=\"low\",worker=\"0\""), "{active}");
    }

    #[test]
    fn rows_of_a_damaged_file_that_are_alike_are_told_once() {
        let mut view = view("twice", "echo");
        let before = samples(&view);
        view.handlers.push(view.handlers[0].clone());
        view.lanes.push(view.lanes[0].clone());
        view.workers.push(view.workers[0].clone());
        let after = samples(&view);
        assert_eq!(after, before, "a scrape with two samples alike is refused whole");
    }

    #[test]
    fn what_each_handler_worker_and_lane_adds_is_what_the_documentation_says() {
        let mut view = view("each", "echo");
        let mut added = |change: fn(&mut Inspection)| {
            let before = samples(&view);
            change(&mut view);
            samples(&view) - before
        };
        let handler = added(|view| {
            view.handlers.push(view.handlers[0].clone());
            view.handlers[1].row.id += 1;
        });
        let worker = added(|view| {
            view.workers.push(view.workers[0].clone());
            view.workers[1].worker += 1;
        });
        let lane = added(|view| {
            view.lanes.push(view.lanes[0].clone());
            view.lanes[1].lane += 1;
        });
        // And one for a task in flight.
        let words = format!(
            "{handler} samples for each handler, {worker} for each worker, and up to {} for each lane",
            lane + 1
        );
        assert!(include_str!("../docs/operations.md").contains(&words), "{words}");
        assert!(
            include_str!("metrics.rs")
                .contains(&format!("has {handler} samples, two histograms of 28 included, a worker {worker}"))
        );
    }

    #[test]
    fn whoever_names_openmetrics_gets_it_and_everybody_else_gets_text() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for accept in
            [prometheus, "Application/OpenMetrics-Text, TEXT/plain", "text/plain, application/openmetrics-text; q=0.1"]
        {
            assert_eq!(Dialect::accepted(accept), Dialect::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "application/*",
            "text/plain",
            "TEXT/PLAIN;version=0.0.4",
            "text/html,application/xml;q=0.9,*/*;q=0.8",
            "text/plain,application/openmetrics-text;version=1.0.0;q=0",
            "application/openmetrics-text;q=0.000, */*",
            "application/openmetrics-text;q=many",
            "application/openmetrics-textual",
        ] {
            assert_eq!(Dialect::accepted(accept), Dialect::Prometheus, "{accept}");
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = std::collections::BTreeSet::new();
        for family in FAMILIES.into_iter().flatten() {
            let name = family.full_name();
            assert!(seen.insert(name.clone()), "{name} is there twice");
            let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(name.starts_with("executor") && letters(&name), "{name}");
            let ends = ["_total", "_sum", "_count", "_bucket", "_info", "_created", "_ns", "_ms"];
            assert!(!ends.iter().any(|end| family.name.ends_with(end)), "{name}: its end is for its kind to say");
            assert!(family.labels.iter().all(|label| letters(label) && !["le", "instance", "job"].contains(label)));
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\', '"']), "{name}: {}", family.help);
        }
    }
}
