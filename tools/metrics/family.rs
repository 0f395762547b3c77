//! A family of samples: what it is called, and where its values come from.

use std::collections::BTreeSet;
use std::fmt::{Display, Error};

use executor_core::Clock;
use executor_core::histogram::HistogramSnapshot;
use executor_shm::inspect::Inspection;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::fold::{Folded, fold};

/// What a family counts or measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, save that it begins again: its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Times, by length.
    Histogram,
    /// 1, with what there is to say in its labels: its sample ends in `_info`.
    Info,
}

/// One family.
#[derive(Debug)]
pub(super) struct Family {
    /// Without its unit and without what its kind adds.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<Unit>,
    /// Besides `executor`.
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// Adds what is known.
    pub(super) read: fn(&Inspection, &mut Samples),
}

/// Samples of a family.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<(Vec<String>, Value)>);

#[derive(Debug)]
enum Value {
    Whole(u64),
    Real(f64),
    Times(Box<Folded>),
}

impl Samples {
    /// A whole number; nothing where it is not known.
    pub(super) fn whole(&mut self, labels: &[&dyn Display], value: impl Into<Option<u64>>) {
        self.add(labels, value.into().map(Value::Whole));
    }

    /// 1 or 0; nothing where it is not known.
    pub(super) fn flag(&mut self, labels: &[&dyn Display], value: impl Into<Option<bool>>) {
        self.add(labels, value.into().map(|value| Value::Whole(value.into())));
    }

    /// Nanoseconds, which become seconds.
    pub(super) fn seconds(&mut self, labels: &[&dyn Display], ns: impl Into<Option<u64>>) {
        self.add(labels, ns.into().map(|ns| Value::Real(ns as f64 / 1e9)));
    }

    /// A histogram; nothing where the clock is not known.
    pub(super) fn times(&mut self, labels: &[&dyn Display], times: &HistogramSnapshot, clock: Option<&Clock>) {
        self.add(labels, clock.map(|clock| Value::Times(Box::new(fold(times, clock)))));
    }

    /// What labels say.
    pub(super) fn info(&mut self, labels: &[&dyn Display]) {
        self.add(labels, Some(Value::Whole(1)));
    }

    fn add(&mut self, labels: &[&dyn Display], value: Option<Value>) {
        self.0.extend(value.map(|value| (labels.iter().map(ToString::to_string).collect(), value)));
    }
}

impl Family {
    /// As its samples are called; those of a histogram have an end each.
    pub(super) fn sample_name(&self) -> String {
        let end = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.full_name() + end
    }

    /// As it stands behind `# TYPE` in OpenMetrics.
    pub(super) fn full_name(&self) -> String {
        self.unit.as_ref().map_or_else(|| self.name.to_owned(), |unit| format!("{}_{}", self.name, unit.as_str()))
    }

    /// Writes it, unless nothing of it is known.
    pub(super) fn encode(&self, view: &Inspection, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut samples = Samples::default();
        (self.read)(view, &mut samples);
        // Two alike would spoil the whole scrape; only damaged files have them.
        let mut seen = BTreeSet::new();
        samples.0.retain(|(labels, _)| seen.insert(labels.clone()));
        if samples.0.is_empty() {
            return Ok(());
        }
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let mut family = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        for (values, value) in &samples.0 {
            let labels: Vec<(&str, &str)> =
                self.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            if self.kind == Kind::Info {
                family.encode_info(&labels)?;
                continue;
            }
            let mut sample = family.encode_family(&labels)?;
            match (self.kind, value) {
                (Kind::Counter, Value::Whole(value)) => sample.encode_counter::<NoLabelSet, _, u64>(value, None),
                (Kind::Counter, Value::Real(value)) => sample.encode_counter::<NoLabelSet, _, f64>(value, None),
                (Kind::Gauge, Value::Whole(value)) => sample.encode_gauge(value),
                (Kind::Gauge, Value::Real(value)) => sample.encode_gauge(value),
                (_, Value::Times(times)) => {
                    sample.encode_histogram::<NoLabelSet>(times.sum, times.count, &times.buckets, None)
                }
                (Kind::Histogram | Kind::Info, _) => Ok(()),
            }?;
        }
        Ok(())
    }
}
