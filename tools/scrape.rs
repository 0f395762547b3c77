//! What the tests of metrics share: a client that is nothing but a socket, and a parser that is not of the library that
//! wrote the text.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use prometheus_parse::{Sample, Scrape, Value};

/// What a server said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: String,
}

/// Sends these bytes and reads until the other side is done. `None` where nobody listens, or the connection breaks before
/// there is a status.
pub fn send(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let _ = stream.write_all(request); // it may be refused before it is read whole
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    send(address, request.as_bytes()).unwrap()
}

/// A scrape as Prometheus asks for it.
#[track_caller]
pub fn scrape(address: SocketAddr) -> Metrics {
    let accept =
        "Accept: application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.7,*/*;q=0.1\r\n";
    let answer = ask(address, "GET", "/metrics", accept);
    assert_eq!(answer.status, 200, "{answer:?}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(kind), "{}", answer.head);
    let lines: Vec<&str> = answer.body.lines().collect();
    assert_eq!(lines.iter().position(|line| *line == "# EOF"), Some(lines.len() - 1), "the text ends with its end");
    assert!(answer.body.ends_with("# EOF\n"));
    Metrics::parse(&answer.body)
}

/// A scrape, read.
pub struct Metrics {
    pub samples: Vec<Sample>,
    /// Each name that a sample has, a histogram's three included, with its labels.
    pub labels: BTreeMap<String, BTreeSet<String>>,
    pub text: String,
}

impl Metrics {
    /// Reads a scrape; a line that the parser passes over is a mistake of ours.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let samples = Scrape::parse(lines).unwrap().samples;
        let mut labels = BTreeMap::<String, BTreeSet<String>>::new();
        let mut read = 0;
        for sample in &samples {
            let names = sample.labels.keys().cloned();
            match &sample.value {
                Value::Histogram(buckets) => {
                    read += buckets.len();
                    let names = names.chain(["le".to_owned()]);
                    labels.entry(format!("{}_bucket", sample.metric)).or_default().extend(names);
                    check_histogram(sample, &samples);
                }
                _ => {
                    read += 1;
                    labels.entry(sample.metric.clone()).or_default().extend(names);
                }
            }
        }
        let written: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(written.len(), read, "not every line was read: {text}");
        let series: BTreeSet<&str> = written.iter().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
        assert_eq!(series.len(), written.len(), "a sample is there twice");
        check_families(text);
        Self { samples, labels, text: text.to_owned() }
    }

    fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Sample> {
        let fits = |sample: &&Sample| {
            let has = |(label, value): &(&str, &str)| sample.labels.get(label) == Some(value);
            sample.metric == name && labels.iter().all(has)
        };
        let mut found = self.samples.iter().filter(fits);
        let first = found.next();
        assert!(found.next().is_none(), "more than one {name} has {labels:?}");
        first
    }

    /// The value of the only sample that has these labels; `None` without one.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.find(name, labels).map(number)
    }

    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {}", self.text))
    }

    /// Whether any sample has this name.
    pub fn has(&self, name: &str) -> bool {
        self.labels.contains_key(name)
    }
}

fn number(sample: &Sample) -> f64 {
    match sample.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        _ => panic!("{sample:?} is not a number"),
    }
}

/// Its bounds grow, its counts do not shrink, and the last bucket has what there is.
fn check_histogram(histogram: &Sample, samples: &[Sample]) {
    let Value::Histogram(buckets) = &histogram.value else { return };
    let beside = |end: &str| {
        let name = format!("{}_{end}", histogram.metric);
        let mut found = samples.iter().filter(|sample| sample.metric == name && sample.labels == histogram.labels);
        number(found.next().unwrap_or_else(|| panic!("no {name} for {histogram:?}")))
    };
    assert!(buckets.len() > 20, "{histogram:?}");
    for pair in buckets.windows(2) {
        assert!(pair[0].less_than < pair[1].less_than && pair[0].count <= pair[1].count, "{histogram:?}");
    }
    let last = buckets.last().unwrap();
    assert_eq!((last.less_than, last.count), (f64::INFINITY, beside("count")), "{histogram:?}");
    let sum = beside("sum");
    assert!((sum > 0.0) == (last.count > 0.0), "{sum} {histogram:?}");
}

/// Each family is described once, before its samples, which stand together and are called after it.
fn check_families(text: &str) {
    let mut described = BTreeSet::new();
    let mut family = ("", "");
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", _, help] => assert!(!help.is_empty(), "{line}"),
            ["#", "TYPE", name, kind] => {
                assert!(described.insert(name), "{name} is described twice");
                family = (name, kind);
            }
            ["#", "UNIT", name, unit] => assert!(name == family.0 && name.ends_with(&format!("_{unit}")), "{line}"),
            ["#", "EOF"] => {}
            _ => {
                let name = line.split(['{', ' ']).next().unwrap();
                let end = name.strip_prefix(family.0).unwrap_or_else(|| panic!("{line} below {family:?}"));
                let ends: &[&str] = match family.1 {
                    "counter" => &["_total", ""], // the second is Prometheus's own format, where the family ends so
                    "histogram" => &["_bucket", "_count", "_sum"],
                    "info" => &["_info"],
                    "gauge" => &[""],
                    _ => &[],
                };
                assert!(ends.contains(&end) && (end.is_empty() <= (family.1 != "counter" || name.ends_with("_total"))));
            }
        }
    }
}
