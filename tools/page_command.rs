//! `shm-dump report` as its readers see it: the page is parsed by parsers that others wrote, and held against the inspection of
//! the same instance.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Output;

use executor_client::{Client, InstanceName, TaskDescriptor};
use executor_core::histogram::HistogramSnapshot;
use executor_core::{Handler, Registry, TaskError};
use executor_shm::inspect::{Inspection, Inspector, LaneView, Recorded};
use executor_shm::layout::status;
use executor_shm::state::LaneState;
use executord::handlers::{ECHO, SPIN, SUM};
use nix::sys::stat::Mode;
use scraper::{ElementRef, Html, Selector};
use support::{Folder, Sidecar, assert_refused, eventually, instance, shm_dump};

const SECTIONS: [&str; 6] = ["workers", "handlers", "time", "lanes", "slow", "errors"];

fn report(arguments: &[&str]) -> Output {
    shm_dump().arg("report").args(arguments).output().unwrap()
}

/// A page that was printed, checked as a whole.
#[track_caller]
fn printed(arguments: &[&str]) -> Html {
    let output = report(&[arguments, &["--out", "-"]].concat());
    assert!(output.status.success() && output.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&output.stderr));
    checked(&String::from_utf8(output.stdout).unwrap())
}

/// Parses a page, and asserts what holds for every one: it is well-formed, has every section, and loads and runs nothing.
#[track_caller]
fn checked(text: &str) -> Html {
    let page = Html::parse_document(text);
    assert!(page.errors.is_empty(), "{:?}", page.errors);
    for section in SECTIONS {
        assert_eq!(select(&page, &format!("main > section#{section} > h2")).len(), 1, "{section}");
    }
    assert_eq!((select(&page, "body > header > h1").len(), select(&page, "body > footer").len()), (1, 1));
    let loads =
        ["script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use", "foreignObject", "a"];
    for element in loads {
        assert!(select(&page, element).is_empty(), "{element} is in the page");
    }
    for element in select(&page, "*") {
        for (name, value) in element.value().attrs() {
            let is_inert = !name.starts_with("on") && !["src", "href", "xlink:href", "style", "srcdoc"].contains(&name);
            assert!(is_inert, "{name}={value}");
            assert!(!value.contains("url(") || value == "url(#hatch)", "{name}={value}");
        }
    }
    let styles = select(&page, "style");
    let style: String = styles.iter().flat_map(|style| style.text()).collect();
    assert!(styles.len() == 1 && !style.contains("url(") && !style.contains("@import"), "{style}");
    let policy = select(&page, "meta[http-equiv=Content-Security-Policy]");
    assert!(policy[0].attr("content").unwrap().starts_with("default-src 'none';"));
    let mut pictures = 0;
    for picture in text.split("<svg").skip(1) {
        let picture = format!("<svg{}</svg>", picture.split("</svg>").next().unwrap());
        let document = roxmltree::Document::parse(&picture).unwrap_or_else(|error| panic!("{error} in {picture}"));
        for node in document.descendants().filter(|node| node.has_tag_name("rect") || node.has_tag_name("circle")) {
            for place in ["x", "cx", "width"].iter().filter_map(|name| node.attribute(*name)) {
                let share: f64 = place.trim_end_matches('%').parse().unwrap();
                assert!((0.0..=100.0).contains(&share), "{place} in {picture}");
            }
        }
        pictures += 1;
    }
    assert_eq!(pictures, select(&page, "svg").len());
    page
}

fn select<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    page.select(&Selector::parse(selector).unwrap()).collect()
}

fn text_of(element: ElementRef<'_>) -> String {
    element.text().collect()
}

/// The cells of the row of a section's last table whose head is `name`, by their titles.
#[track_caller]
fn cell<'a>(page: &'a Html, section: &str, name: &str, title: &str) -> ElementRef<'a> {
    let rows = select(page, &format!("#{section} tbody tr"));
    let is_it = |row: &&ElementRef<'_>| text_of(row.child_elements().next().unwrap()) == name;
    let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("no row {name} in {section}"));
    row.child_elements().find(|cell| cell.attr("data-title") == Some(title)).unwrap()
}

/// The numbers of an element.
fn numbers(element: ElementRef<'_>) -> Vec<u64> {
    let data = Selector::parse("data").unwrap();
    element.select(&data).map(|data| data.attr("value").unwrap().parse().unwrap()).collect()
}

#[track_caller]
fn number(page: &Html, section: &str, name: &str, title: &str) -> Option<u64> {
    numbers(cell(page, section, name, title)).first().copied()
}

/// The section's text.
fn said(page: &Html, selector: &str) -> String {
    select(page, selector).into_iter().map(text_of).collect()
}

fn submit(client: &mut Client, handler: u32, request: &[u8]) {
    client.try_submit(&TaskDescriptor::new(handler), request).unwrap();
}

fn collect(client: &mut Client, tasks: usize) {
    for _ in 0..tasks {
        eventually("a completion", || client.try_collect().unwrap().is_some());
    }
}

fn looked(instance: &InstanceName) -> (Inspection, Recorded) {
    let inspector = Inspector::open(instance).unwrap();
    (inspector.look(), inspector.recorded())
}

/// A sidecar that has done a little of everything and is at rest, and its producer with two answers not collected.
fn worked(what: &str, arguments: &[&str]) -> (Sidecar, Client) {
    let sidecar = Sidecar::start(&instance(what), arguments);
    let mut client = sidecar.connect();
    submit(&mut client, SPIN, &20_000_000u64.to_le_bytes());
    for _ in 0..8 {
        submit(&mut client, ECHO, b"behind it");
    }
    submit(&mut client, SUM, b"no number");
    collect(&mut client, 8);
    let mut seen = None;
    eventually("nothing more is noted", || {
        let (view, recorded) = looked(&sidecar.instance);
        let now = (recorded.slow.len(), recorded.errors.len(), recorded.events.len());
        let is_at_rest = view.stats.tasks == 10 && recorded.errors.len() == 1 && seen == Some(now);
        seen = Some(now);
        is_at_rest
    });
    (sidecar, client)
}

#[test]
fn every_number_of_the_page_is_that_of_the_inspection() {
    let (mut sidecar, _client) = worked("figures", &["--idle", "spin"]);
    sidecar.crash(); // so that nothing moves between two looks
    let page = printed(&[sidecar.instance.as_str()]);
    let (view, recorded) = looked(&sidecar.instance);
    let clock = view.clock.unwrap();
    let quantile = |of: &HistogramSnapshot, q| of.quantile(q).map(|ticks| clock.ticks_to_ns(ticks));
    assert_eq!(view.handlers.len(), 6);
    for handler in &view.handlers {
        let number = |title| number(&page, "handlers", &handler.row.name, title);
        assert_eq!(number("requests"), Some(handler.request_bytes), "{}", handler.row.name);
        assert_eq!(number("responses"), Some(handler.response_bytes));
        for (q, title) in [(0.5, "wait p50"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")] {
            assert_eq!(number(title), quantile(&handler.queue, q), "{title} of {}", handler.row.name);
        }
        for (q, title) in [(0.5, "run p50"), (0.99, "run p99"), (0.999, "run p99.9"), (1.0, "run max")] {
            assert_eq!(number(title), quantile(&handler.run, q), "{title} of {}", handler.row.name);
        }
        let ended: u64 = numbers(cell(&page, "handlers", &handler.row.name, "ended")).iter().sum();
        assert_eq!(ended, handler.by_status.iter().sum::<u64>());
    }
    assert_eq!(text_of(cell(&page, "handlers", "sum", "ended")), "1 failed");
    let lane = view.lanes.iter().find(|lane| lane.total.count() > 0).unwrap();
    let (name, producer) = (lane.lane.to_string(), lane.producer.unwrap());
    let of_lane = |title| number(&page, "lanes", &name, title);
    assert_eq!((of_lane("not collected"), of_lane("waiting")), (Some(2), lane.depth));
    assert_eq!(lane.completed.unwrap() - producer.credited, 2);
    assert_eq!((of_lane("submits refused"), of_lane("resets")), (Some(producer.rejected), Some(lane.resets)));
    for (q, title) in [(0.5, "total p50"), (0.99, "p99"), (1.0, "max")] {
        assert_eq!(of_lane(title), quantile(&lane.total, q));
    }
    let worker = &view.workers[0];
    let of_worker = |title| number(&page, "workers", "0", title);
    let gap = worker.time.unwrap().longest_gap.map(|gap| clock.ticks_to_ns(gap.ticks));
    assert_eq!((of_worker("tasks"), of_worker("slow tasks")), (Some(10), Some(worker.slow_tasks)));
    assert_eq!((of_worker("longest gap"), of_worker("preempted")), (gap, Some(worker.time.unwrap().preemptions)));
    // The slow tasks, the slowest first, and each with all it waited for.
    let bars = select(&page, "#slow figure.slow");
    assert_eq!(bars.len(), recorded.slow.len());
    assert!(bars.len() >= 8, "the task that took long and those behind it");
    for (bar, task) in bars.iter().zip(&recorded.slow) {
        let caption = bar.select(&Selector::parse("figcaption").unwrap()).next().unwrap();
        let told =
            [clock.ticks_to_ns(task.total()), task.position, task.request_bytes.into(), task.response_bytes.into()];
        assert_eq!(numbers(caption), told);
        let widths: f64 = bar
            .select(&Selector::parse("rect[class]").unwrap())
            .map(|part| part.attr("width").unwrap().trim_end_matches('%').parse::<f64>().unwrap())
            .sum();
        assert!((widths - 100.0).abs() < 0.1, "the parts are the whole: {widths} %");
    }
    let behind =
        recorded.slow.iter().position(|task| task.handler_id == ECHO && task.behind_lane.handler_id == SPIN).unwrap();
    assert!(text_of(bars[behind]).contains("longest spin"), "{}", text_of(bars[behind]));
    let error = &recorded.errors[0];
    assert_eq!((error.count, number(&page, "errors", &error.text, "count")), (1, Some(1)));
    assert_eq!(numbers(select(&page, "#time > p")[0])[..2], [recorded.events.len() as u64, recorded.events_ever]);
    // Each slow task has its place in the picture, and what is rare its line, however many gaps came after it.
    let drawn = select(&page, "#time figure:first-of-type circle").len();
    assert_eq!(drawn, recorded.slow.len(), "each slow task is a point");
    assert!(said(&page, "#time table").contains("start 1 by pid"), "{}", said(&page, "#time table"));
}

#[test]
fn an_instance_without_tasks_has_every_section_and_says_that_there_is_nothing() {
    let sidecar = Sidecar::start(&instance("still"), &[]);
    let page = printed(&[sidecar.instance.as_str()]);
    assert!(said(&page, "header").contains("alive"), "{}", said(&page, "header"));
    assert!(said(&page, "#slow").contains("No slow tasks") && said(&page, "#errors").contains("No errors"));
    assert!(said(&page, "#lanes").contains("No lane has been used"), "{}", said(&page, "#lanes"));
    assert!(said(&page, "#handlers").contains("No times of tasks"));
    assert!(select(&page, "header .warning").is_empty());
}

#[test]
fn what_was_not_recorded_is_left_out_and_not_told_as_none() {
    for (flag, warning, requests) in [
        ("--no-recording", "no bytes, times, slow tasks, events or errors", "-"),
        ("--no-timing", "Timing is off", "10 B"),
    ] {
        let sidecar = Sidecar::start(&instance("sparse"), &[flag, "--lanes", "1"]);
        let mut client = sidecar.connect();
        for _ in 0..2 {
            submit(&mut client, ECHO, b"hello");
        }
        collect(&mut client, 2);
        drop(client);
        eventually("its lane is free again", || {
            let (view, _) = looked(&sidecar.instance);
            let is_free = |lane: &LaneView| lane.state == Some(LaneState::Free) && lane.resets > 0;
            view.stats.tasks == 2 && view.lanes.iter().all(is_free)
        });
        let page = printed(&[sidecar.instance.as_str()]);
        assert!(said(&page, "header .warning").contains(warning), "{flag}: {}", said(&page, "header"));
        assert_eq!(text_of(cell(&page, "handlers", "echo", "ended")), "2 done", "{flag}");
        assert_eq!(text_of(cell(&page, "handlers", "echo", "requests")), requests, "{flag}");
        assert_eq!(text_of(cell(&page, "lanes", "0", "state")), "free", "{flag}: it has been used");
        for title in ["owner", "priority", "worker"] {
            assert_eq!(text_of(cell(&page, "lanes", "0", title)), "-", "{flag}: nobody has it");
        }
    }
}

#[test]
fn a_sidecar_that_was_killed_leaves_its_task_in_flight_and_its_last_events_to_the_page() {
    let (mut sidecar, mut client) = worked("killed", &[]);
    submit(&mut client, SPIN, &60_000_000_000u64.to_le_bytes());
    submit(&mut client, ECHO, b"");
    eventually("it runs", || looked(&sidecar.instance).0.lanes.iter().any(|lane| lane.in_flight.is_some()));
    let live = printed(&[sidecar.instance.as_str()]);
    assert!(said(&live, "header").contains("alive"));
    sidecar.crash();
    let page = printed(&[sidecar.instance.as_str()]);
    let warning = said(&page, "header .warning");
    assert!(warning.contains("No sidecar serves") && warning.contains("2 tasks wait"), "{warning}");
    assert!(said(&page, "#lanes").contains("spin, position 10"), "{}", said(&page, "#lanes"));
    assert!(said(&page, "#lanes figcaption").contains("2 not collected, 1 in flight, 1 waiting"));
    assert!(!select(&page, "#slow figure.slow").is_empty() && said(&page, "#errors").contains("8 bytes a number"));
}

#[test]
fn texts_from_shared_memory_are_shown_and_never_run() {
    let hostile = "<script>alert('x')</script>\u{0}\u{1b}[2J\u{202e} & \"</svg><img src=http://evil/>";
    let name = instance("inert");
    let mut registry = Registry::builder();
    registry.add(Handler::new(1, "<b>\"&'", move |_, _, _| Err(TaskError::new(hostile))));
    let builder = executor_shm::Sidecar::builder().instance(name.clone()).lanes(1).pinned(false);
    let recording = executor_core::recorder::Recording::SlowAfter(std::time::Duration::ZERO);
    let handle = builder.recording(recording).registry(registry.build().unwrap()).start().unwrap();
    let mut client = Client::connect(&name).unwrap();
    submit(&mut client, 1, b"");
    collect(&mut client, 1);
    eventually("it is noted", || {
        let recorded = looked(&name).1;
        !recorded.errors.is_empty() && !recorded.slow.is_empty()
    });
    let page = printed(&[name.as_str()]);
    let errors = said(&page, "#errors");
    assert!(errors.contains("<script>alert('x')</script>\\u{0}\\u{1b}[2J\\u{202e} & \"</svg><img"), "{errors}");
    for section in ["#errors td", "#handlers th", "#handlers figcaption", "#slow figcaption"] {
        assert!(said(&page, section).contains("<b>\"&'"), "{section} names the handler");
    }
    let folder = Folder::new("inert");
    let copy = folder.0.join("<i>&");
    assert!(shm_dump().args(["save", copy.to_str().unwrap(), name.as_str()]).output().unwrap().status.success());
    let page = printed(&["--from", copy.to_str().unwrap()]);
    assert!(said(&page, "header").contains("<i>&") && said(&page, "footer").contains("<i>&"));
    drop((client, handle));
    let _ = support::executord().args(["clean", name.as_str(), "--discard"]).output();
}

/// A copy of an instance that has worked.
fn copied(what: &str) -> (Folder, String) {
    let (sidecar, _client) = worked(what, &[]);
    let folder = Folder::new(what);
    let copy = folder.0.join("copy");
    let saved = shm_dump().args(["save", copy.to_str().unwrap(), sidecar.instance.as_str()]).output().unwrap();
    assert!(saved.status.success(), "{saved:?}");
    let status = copy.join(format!("executor.{}.status", sidecar.instance));
    (folder, status.to_str().unwrap().to_owned())
}

fn write(file: &str, word: usize, value: u64) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&value.to_le_bytes(), word as u64 * 8).unwrap();
}

#[test]
fn a_copy_without_a_clock_or_without_recording_says_so() {
    let (folder, file) = copied("clockless");
    let from = folder.0.join("copy");
    let from = ["--from", from.to_str().unwrap()];
    let whole = printed(&from);
    assert!(said(&whole, "header").contains("a copy") && select(&whole, "header .warning").is_empty());
    write(&file, status::SLOW_AFTER, 0);
    let page = printed(&from);
    assert!(said(&page, "header .warning").contains("Recording is off"), "{}", said(&page, "header"));
    write(&file, status::CLOCK_SEQUENCE, 1);
    let page = printed(&from);
    assert!(said(&page, "header .warning").contains("clock of this instance cannot be read"));
    assert!(said(&page, "#slow figcaption").contains(" ticks"), "{}", said(&page, "#slow figcaption"));
    assert!(!said(&page, "#handlers").contains(" us"), "{}", said(&page, "#handlers"));
}

#[test]
fn a_damaged_copy_is_a_sound_page_or_one_line_and_never_a_panic() {
    let (folder, file) = copied("damaged");
    let whole = fs::read(&file).unwrap();
    let from = folder.0.join("copy");
    let (mut pages, mut state) = (0, 1u64);
    for round in 0..40 {
        fs::write(&file, &whole).unwrap();
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> (state >> 58)
        };
        // Some of it, or all of it from a place on; the first lines say what file it is.
        let words = whole.len() / 8;
        let from_word = 64 + random() as usize % (words - 64);
        for _ in 0..2_000 {
            let word = if round % 2 == 0 {
                16 + random() as usize % (words - 16)
            } else {
                from_word + random() as usize % (words - from_word)
            };
            write(&file, word, random());
        }
        let output = report(&["--from", from.to_str().unwrap(), "--out", "-"]);
        match output.status.code() {
            Some(0) => {
                checked(&String::from_utf8(output.stdout).unwrap());
                pages += 1;
            }
            Some(1) => assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1),
            _ => panic!("round {round}: {output:?}"),
        }
    }
    assert!(pages >= 10, "{pages} pages");
}

#[test]
fn a_page_is_written_in_one_step_and_only_over_a_file() {
    let sidecar = Sidecar::start(&instance("file"), &[]);
    let name = sidecar.instance.as_str();
    let folder = Folder::new("page");
    let at = |file: &str| folder.0.join(file).to_str().unwrap().to_owned();
    let names = || {
        fs::read_dir(&folder.0).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let output = report(&[name, "--out", &at("page.html")]);
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        checked(&fs::read_to_string(at("page.html")).unwrap());
        assert_eq!(names(), ["page.html"], "nothing is left beside it");
        fs::write(at("page.html"), "an older page").unwrap();
    }
    fs::create_dir(at("folder")).unwrap();
    symlink(at("page.html"), at("link")).unwrap();
    nix::unistd::mkfifo(Path::new(&at("pipe")), Mode::S_IRWXU).unwrap();
    for (file, what) in [("folder", "a folder"), ("link", "a symbolic link"), ("pipe", "a pipe")] {
        assert_refused(&report(&[name, "--out", &at(file)]), 2, what);
    }
    assert_eq!(fs::read_to_string(at("page.html")).unwrap(), "an older page", "nobody followed the link");
    assert_refused(&report(&[name, "--out", &at("none/page.html")]), 1, "cannot write");
    assert_refused(&report(&[name, "--out", "-", "--json"]), 2, "leave out --json");
    assert_refused(&report(&[instance("gone").as_str(), "--out", "-"]), 1, "there is no instance");
    let output = report(&[name]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out"), "{output:?}");
}
