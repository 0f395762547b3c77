//! `executord run --metrics`: a page that is right, and that nobody who reads it can harm the sidecar with.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod scrape;
mod support;

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use executor_client::{Client, InstanceName, TaskDescriptor};
use executord::handlers::{ECHO, SPIN, SPIN_NS_MAX, SUM};
use nix::sched::sched_getaffinity;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scrape::{Answer, ask, scrape, send};
use serde_json::Value;
use support::{Sidecar, assert_refused, eventually, executord, files_with, instance, signal};

/// The connections that the page has at a time.
const CONNECTIONS_MAX: usize = 16;

/// Where a sidecar says its page is.
#[track_caller]
fn page_of(line: &str) -> SocketAddr {
    let started: Value = serde_json::from_str(line).unwrap();
    assert_eq!(started["event"], "started", "{line}");
    started["metrics"].as_str().unwrap_or_else(|| panic!("no page in {line}")).parse().unwrap()
}

fn start(what: &str, more: &[&str]) -> (Sidecar, SocketAddr) {
    let arguments = [&["--json", "--metrics", "127.0.0.1:0"], more].concat();
    let sidecar = Sidecar::start(&instance(what), &arguments);
    let page = page_of(&sidecar.first_line);
    assert_ne!(page.port(), 0);
    (sidecar, page)
}

/// An address that no other test and no other run has: the whole of 127.0.0.0/8 is this machine.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    (Ipv4Addr::new(127, (pid >> 8) as u8, pid as u8, NEXT.fetch_add(1, Relaxed)), 9464).into()
}

/// Runs tasks of one handler to their end.
fn run(client: &mut Client, handler: u32, request: &[u8], times: u64) {
    for _ in 0..times {
        let mut ticket = client.submit_ticket(&TaskDescriptor::new(handler), request).unwrap();
        client.wait_timeout(&mut ticket, Duration::from_secs(60)).unwrap();
    }
}

fn get(page: SocketAddr, path: &str) -> Answer {
    ask(page, "GET", path, "")
}

#[test]
fn a_scrape_counts_exactly_what_was_submitted_and_the_next_one_what_came_since() {
    let (sidecar, page) = start("scrape", &["--lanes", "3", "--capacity", "64"]);
    let name = sidecar.instance.as_str();
    let mut client = sidecar.connect();
    run(&mut client, ECHO, b"hello", 7);
    run(&mut client, SUM, b"not numbers", 2);
    run(&mut client, 4000, b"", 1);
    // A task is counted a moment after it was answered.
    let total = |status: &str| scrape(page).value("executor_tasks_total", &[("status", status)]);
    eventually("the counts", || total("done") == 7.0 && total("malformed") == 1.0);
    let metrics = scrape(page);
    let status = |status| metrics.value("executor_tasks_total", &[("executor", name), ("status", status)]);
    assert_eq!(["done", "failed", "malformed", "panicked", "expired"].map(status), [7.0, 2.0, 1.0, 0.0, 0.0]);
    let handler = |handler, status| {
        metrics.value("executor_handler_tasks_total", &[("executor", name), ("handler", handler), ("status", status)])
    };
    assert_eq!([handler("echo", "done"), handler("echo", "failed")], [7.0, 0.0]);
    assert_eq!([handler("sum", "done"), handler("sum", "failed")], [0.0, 2.0]);
    for (handler, ran) in [("echo", 7.0), ("sum", 2.0), ("spin", 0.0)] {
        for times in ["executor_handler_queue_seconds_count", "executor_handler_run_seconds_count"] {
            assert_eq!(metrics.value(times, &[("handler", handler)]), ran, "{handler} {times}");
        }
    }
    assert_eq!(metrics.value("executor_task_seconds_count", &[]), 9.0, "the malformed one never ran");
    assert_eq!(metrics.value("executor_worker_tasks_total", &[("worker", "0")]), 10.0);
    let lane = |name: &str| metrics.value(name, &[("lane", "0")]);
    let lanes = ["executor_lane_started_total", "executor_lane_completed_total", "executor_lane_depth"].map(lane);
    assert_eq!(lanes, [10.0, 10.0, 0.0]);
    assert_eq!(lane("executor_lane_attached"), 1.0);
    let not_done = |status| metrics.get("executor_lane_not_done_total", &[("lane", "0"), ("status", status)]);
    assert_eq!([not_done("failed"), not_done("malformed"), not_done("expired")], [Some(2.0), Some(1.0), None]);
    assert_eq!(metrics.value("executor_lanes", &[("state", "active")]), 1.0);
    assert_eq!(metrics.value("executor_lanes_limit", &[]), 3.0);
    assert_eq!(metrics.value("executor_lane_slots", &[]), 64.0);
    assert_eq!([metrics.value("executor_up", &[]), metrics.value("executor_starts_total", &[])], [1.0, 1.0]);
    assert_eq!(metrics.value("executor_info", &[("executor", name), ("timing", "true")]), 1.0);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let started = metrics.value("executor_start_time_seconds", &[]);
    assert!(started <= now && started > now - 86_400.0, "{started} is no time of today");

    run(&mut client, ECHO, b"again", 5);
    eventually("the next counts", || total("done") == 12.0);
    assert_eq!(scrape(page).value("executor_handler_run_seconds_count", &[("handler", "echo")]), 12.0);
}

#[test]
fn times_lie_in_the_buckets_where_they_belong() {
    let (sidecar, page) = start("times", &[]);
    run(&mut sidecar.connect(), SPIN, &3_000_000u64.to_le_bytes(), 1);
    eventually("its count", || scrape(page).value("executor_handler_run_seconds_count", &[("handler", "spin")]) == 1.0);
    let metrics = scrape(page);
    let histogram = metrics.samples.iter().find_map(|sample| match &sample.value {
        prometheus_parse::Value::Histogram(buckets)
            if sample.metric == "executor_handler_run_seconds" && sample.labels.get("handler") == Some("spin") =>
        {
            Some(buckets)
        }
        _ => None,
    });
    let below = |bound: f64| {
        let bucket = histogram.unwrap().iter().find(|bucket| bucket.less_than == bound);
        bucket.unwrap_or_else(|| panic!("no bucket {bound} in {histogram:?}")).count == 1.0
    };
    assert!(!below(0.002) && !below(0.001), "a spin of 3 ms took no longer than 2 ms");
    assert!(below(20.0) && below(f64::INFINITY));
}

#[test]
fn a_task_in_flight_and_those_behind_it_are_told_while_it_runs() {
    let (sidecar, page) = start("flight", &["--capacity", "8"]);
    assert!(!scrape(page).has("executor_lane_running_seconds"), "nothing runs, so there is nothing to tell");
    let mut client = sidecar.connect();
    for _ in 0..3 {
        client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    }
    let running = || scrape(page).get("executor_lane_running_seconds", &[("lane", "0")]);
    eventually("a task in flight", || running().is_some());
    let metrics = scrape(page);
    let lane = |name: &str| metrics.value(name, &[("lane", "0")]);
    let lanes = ["executor_lane_started_total", "executor_lane_completed_total", "executor_lane_depth"].map(lane);
    assert_eq!(lanes, [1.0, 0.0, 2.0]);
    let (before, after) = (running(), running());
    assert!(before < after && before > Some(0.0), "{before:?} {after:?}");
}

#[test]
fn without_timing_there_are_counts_and_no_times() {
    let (sidecar, page) = start("untimed", &["--no-timing"]);
    run(&mut sidecar.connect(), ECHO, b"x", 3);
    eventually("its counts", || scrape(page).value("executor_tasks_total", &[("status", "done")]) == 3.0);
    let metrics = scrape(page);
    let times = ["executor_handler_run_seconds", "executor_handler_queue_seconds", "executor_task_seconds"];
    for name in times.iter().flat_map(|name| ["bucket", "sum", "count"].map(|end| format!("{name}_{end}"))) {
        assert!(!metrics.has(&name), "{name} would be 0, and nobody knows it");
    }
    assert_eq!(metrics.value("executor_info", &[("timing", "false")]), 1.0);
}

#[test]
fn whoever_asks_for_anything_else_is_told_what_there_is() {
    let (sidecar, page) = start("paths", &[]);
    let root = get(page, "/");
    assert_eq!(root.status, 200);
    assert!(root.body.contains("/metrics") && root.body.contains(sidecar.instance.as_str()), "{root:?}");
    for path in ["/metric", "/metrics/", "//metrics", "/..", "/metrics/../metrics", "/favicon.ico"] {
        let answer = get(page, path);
        assert_eq!((answer.status, answer.body.as_str()), (404, "the metrics are at /metrics\n"), "{path}");
    }
    assert_eq!(get(page, "/metrics?name[]=executor_up").status, 200, "a query is nothing to us");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let answer = ask(page, method, "/metrics", "Content-Length: 0\r\n");
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: get, head"), "{method}: {answer:?}");
    }
    let (head, whole) = (ask(page, "HEAD", "/metrics", ""), get(page, "/metrics"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let length = |answer: &Answer| {
        let line = answer.head.lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
        line.unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(length(&whole), whole.body.len());
    assert!(length(&head) > 1000, "{head:?}");
    let text = ask(page, "GET", "/metrics", "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n");
    assert!(text.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", text.head);
    assert!(text.body.contains("# TYPE executor_tasks_total counter\n") && !text.body.contains("# EOF"));
}

#[test]
fn what_is_no_request_is_refused_and_the_page_lives_on() {
    let (_sidecar, page) = start("garbage", &[]);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 14));
    let many = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(70));
    let path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "m".repeat(1 << 14));
    let body = format!("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{}", "y".repeat(1 << 20));
    let requests: [&[u8]; 9] = [
        b"\r\n\r\n",
        b"\0\x01\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // TLS
        long.as_bytes(),
        many.as_bytes(),
        path.as_bytes(),
        body.as_bytes(),
    ];
    for request in requests {
        let answer = send(page, request);
        let start = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
        assert!(answer.is_none_or(|answer| (400..500).contains(&answer.status)), "{start:?}");
        assert_eq!(scrape(page).value("executor_up", &[]), 1.0);
    }
}

fn sockets(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn clients_that_say_nothing_or_read_nothing_keep_nobody_out_and_are_hung_up_on() {
    let (sidecar, page) = start("slow", &[]);
    let before = sockets(sidecar.child.id());
    let mut silent: Vec<TcpStream> = Vec::new();
    for number in 0..3 * CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(page).unwrap();
        let said: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /metrics HTTP/1.1\r\nHost: ",
            _ => b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", // and its answer is left where it is
        };
        stream.write_all(said).unwrap();
        silent.push(stream);
    }
    // The connection of each scrape closes the oldest of those, and not one that comes later.
    for _ in 0..CONNECTIONS_MAX {
        assert_eq!(scrape(page).value("executor_up", &[]), 1.0);
    }
    eventually("no more than there may be", || sockets(sidecar.child.id()) <= before + CONNECTIONS_MAX);
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        let was_timeout = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!was_timeout, "it is held for ever");
    }
}

#[test]
fn a_client_alone_that_says_nothing_is_hung_up_on_too() {
    let (_sidecar, page) = start("silent", &[]);
    for said in [&b""[..], b"GET /metrics HTTP/1.1\r\nHost: "] {
        let mut stream = TcpStream::connect(page).unwrap();
        stream.write_all(said).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        assert!(
            !end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "it is held for ever"
        );
        assert!(!String::from_utf8_lossy(&rest).contains("executor_up"), "{said:?} is no request");
    }
}

#[test]
fn many_clients_at_a_time_each_get_a_whole_scrape() {
    let (sidecar, page) = start("many", &[]);
    let mut client = sidecar.connect();
    std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let mut last = 0.0;
                    for _ in 0..20 {
                        let done = scrape(page).value("executor_tasks_total", &[("status", "done")]);
                        assert!(done >= last, "{done} after {last}");
                        last = done;
                    }
                })
            })
            .collect();
        run(&mut client, ECHO, b"x", 2000);
        scrapers.into_iter().for_each(|scraper| scraper.join().unwrap());
    });
    eventually("all of them", || scrape(page).value("executor_tasks_total", &[("status", "done")]) == 2000.0);
}

#[test]
fn a_start_is_refused_where_the_page_cannot_be_and_leaves_nothing() {
    let listener = TcpListener::bind(own_address()).unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let name = instance("refused");
    for more in [&[][..], &["--respawn"]] {
        for (address, cure) in [
            (taken.as_str(), "Address already in use; choose another port with --metrics"),
            ("192.0.2.1:9464", "choose an address of this machine with --metrics"),
        ] {
            let arguments = [&["run", name.as_str(), "--unpinned", "--metrics", address], more].concat();
            let output = executord().args(arguments).output().unwrap();
            assert_refused(&output, 1, cure);
            assert!(String::from_utf8_lossy(&output.stderr).contains(address), "{output:?}");
            assert_eq!(files_with(name.as_str()), [""; 0]);
        }
    }
    for address in ["9464", "localhost:9464", "127.0.0.1", "127.0.0.1:65536"] {
        let output = executord().args(["run", name.as_str(), "--metrics", address]).output().unwrap();
        assert_refused(&output, 2, "write for example 127.0.0.1:9464");
    }
}

#[test]
fn a_page_that_others_can_reach_is_warned_of() {
    for (address, warns) in [("0.0.0.0:0", true), ("127.0.0.1:0", false), ("127.8.8.8:0", false)] {
        let name = instance("open");
        let mut command = executord();
        command.args(["run", name.as_str(), "--unpinned", "--json", "--metrics", address]).stderr(Stdio::piped());
        let mut sidecar = Sidecar::spawn(&name, command);
        let mut page = page_of(&sidecar.first_line);
        if page.ip().is_unspecified() {
            page.set_ip(Ipv4Addr::new(127, 9, 9, 9).into());
        }
        assert_eq!(get(page, "/").status, 200, "{address}");
        let mut stderr = sidecar.child.stderr.take().unwrap();
        assert!(sidecar.stop(Signal::SIGTERM).0.success());
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(said.contains("no password") && said.contains("--metrics 127.0.0.1:"), warns, "{address}: {said}");
        assert_eq!(said.lines().count(), usize::from(warns), "{said}");
    }
}

#[test]
fn the_line_for_people_names_the_page_and_a_variable_sets_it() {
    let name = instance("variable");
    let mut command = executord();
    command.args(["run", name.as_str(), "--unpinned"]).env("EXECUTOR_METRICS", "[::1]:0");
    let sidecar = match TcpListener::bind("[::1]:0") {
        Ok(_) => Sidecar::spawn(&name, command),
        Err(_) => return println!("skipped: no IPv6 here"),
    };
    let url = sidecar.first_line.split("metrics: http://").nth(1).unwrap_or_else(|| panic!("{}", sidecar.first_line));
    let page: SocketAddr = url.split("/metrics;").next().unwrap().parse().unwrap();
    assert_eq!(scrape(page).value("executor_up", &[("executor", name.as_str())]), 1.0);
}

#[test]
fn without_the_setting_there_is_no_page_and_no_thread_of_it() {
    let sidecar = Sidecar::start(&instance("off"), &["--json"]);
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    assert_eq!(started["metrics"], Value::Null);
    assert_eq!(thread(sidecar.child.id()), None);
}

#[test]
fn the_page_tells_of_a_stop_that_takes_its_time() {
    let (sidecar, page) = start("stop", &["--drain", "60m"]);
    let mut client = sidecar.connect();
    for _ in 0..20 {
        client.try_submit(&TaskDescriptor::new(SPIN), &SPIN_NS_MAX.to_le_bytes()).unwrap();
    }
    let state = |state: &str| scrape(page).value("executor_state", &[("state", state)]);
    assert_eq!([state("running"), state("closing")], [1.0, 0.0]);
    signal(&sidecar.child, Signal::SIGTERM);
    eventually("the stop", || state("closing") == 1.0);
    assert_eq!([state("running"), scrape(page).value("executor_up", &[])], [0.0, 1.0]);
}

/// The thread of the page, by its name.
fn thread(pid: u32) -> Option<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut named = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == "executor-page")
    });
    named.next().map(|task| Pid::from_raw(task.file_name().to_string_lossy().parse().unwrap()))
}

#[test]
fn the_thread_of_the_page_runs_on_no_cpu_of_a_worker() {
    let name = instance("cpus");
    let mut command = executord();
    command.args(["run", name.as_str(), "--json", "--idle", "yield", "--metrics", "127.0.0.1:0"]);
    let sidecar = Sidecar::spawn(&name, command);
    let page = page_of(&sidecar.first_line);
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    let cpu = started["cpus"][0].as_u64().unwrap() as usize;
    assert_eq!(get(page, "/").status, 200, "it has begun, so it has gone where it belongs");
    let allowed = sched_getaffinity(Pid::from_raw(sidecar.child.id() as i32)).unwrap();
    let cpus = |set: nix::sched::CpuSet| -> Vec<usize> {
        (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).collect()
    };
    let (allowed, own) = (cpus(allowed), cpus(sched_getaffinity(thread(sidecar.child.id()).unwrap()).unwrap()));
    if allowed.len() == 1 {
        return println!("skipped: there is one CPU, so the page shares it");
    }
    let expected: Vec<usize> = allowed.iter().copied().filter(|&other| other != cpu).collect();
    assert_eq!(own, expected, "the worker has {cpu} of {allowed:?}");
}

fn respawn(name: &InstanceName, address: &str) -> Command {
    let mut command = executord();
    command.args(["run", name.as_str(), "--unpinned", "--json", "--respawn", "--metrics", address]);
    command
}

#[test]
fn a_sidecar_that_is_started_again_has_its_page_at_the_same_address() {
    let (name, address) = (instance("again"), own_address());
    let mut sidecar = Sidecar::spawn(&name, respawn(&name, &address.to_string()));
    let mut line = sidecar.first_line.clone();
    run(&mut sidecar.connect(), ECHO, b"x", 3);
    for starts in [1.0, 2.0, 3.0] {
        assert_eq!(page_of(&line), address);
        let metrics = scrape(address);
        assert_eq!([metrics.value("executor_up", &[]), metrics.value("executor_starts_total", &[])], [1.0, starts]);
        assert_eq!(metrics.value("executor_tasks_total", &[("status", "done")]), 3.0, "counts outlive the sidecar");
        let started: Value = serde_json::from_str(&line).unwrap();
        // A connection that is open at the end is no reason either.
        let _open = TcpStream::connect(address).unwrap();
        kill(Pid::from_raw(started["pid"].as_i64().unwrap() as i32), Signal::SIGKILL).unwrap();
        assert!(sidecar.line().contains("\"crashed\""));
        line = sidecar.line();
    }
}

#[test]
fn a_sidecar_that_is_started_again_serves_although_its_address_is_taken_and_has_the_page_once_it_is_free() {
    let (name, address) = (instance("snatched"), own_address());
    let mut command = respawn(&name, &address.to_string());
    command.stderr(Stdio::piped());
    let mut sidecar = Sidecar::spawn(&name, command);
    let started: Value = serde_json::from_str(&sidecar.first_line).unwrap();
    let served = Pid::from_raw(started["pid"].as_i64().unwrap() as i32);
    let mut client = sidecar.connect();
    signal(&sidecar.child, Signal::SIGSTOP); // it starts nothing until the address has another owner
    kill(served, Signal::SIGKILL).unwrap();
    let mut listener = None;
    eventually("the address", || {
        listener = TcpListener::bind(address).ok();
        listener.is_some()
    });
    signal(&sidecar.child, Signal::SIGCONT);
    assert!(sidecar.line().contains("\"crashed\""));
    assert_eq!(page_of(&sidecar.line()), address);
    run(&mut client, ECHO, b"x", 1);
    let mut stderr = std::io::BufReader::new(sidecar.child.stderr.take().unwrap());
    let mut complaint = String::new();
    stderr.read_line(&mut complaint).unwrap();
    assert!(complaint.contains(&format!("{address}: Address already in use; choose another")), "{complaint}");
    drop(listener);
    let mut relief = String::new();
    stderr.read_line(&mut relief).unwrap();
    assert_eq!(relief, format!("executord: metrics on {address} now\n"));
    assert_eq!(scrape(address).value("executor_starts_total", &[]), 2.0);
}

#[test]
fn a_standby_takes_over_the_address_with_the_instance() {
    let (name, address) = (instance("standby"), own_address());
    let arguments = ["--json", "--standby", "--metrics", &address.to_string()];
    let mut first = Sidecar::start(&name, &arguments);
    run(&mut first.connect(), ECHO, b"x", 3);
    let mut second = Sidecar::start(&name, &arguments);
    assert!(second.first_line.contains("\"standing_by\""), "{}", second.first_line);
    assert_eq!(thread(second.child.id()), None, "who waits serves no page");
    let pid = || scrape(address).value("executor_start_time_seconds", &[]);
    let began = pid();
    first.crash();
    assert_eq!(page_of(&second.line()), address);
    // The kernel may close the other one's socket a moment after its locks.
    eventually("the page", || TcpStream::connect(address).is_ok());
    assert!(pid() > began);
    assert_eq!(scrape(address).value("executor_tasks_total", &[("status", "done")]), 3.0);
}

#[test]
fn a_page_whose_instance_was_removed_says_so_and_no_figures() {
    let (mut sidecar, page) = start("removed", &[]);
    let status = format!("/dev/shm/executor.{}.status", sidecar.instance);
    std::fs::remove_file(status).unwrap();
    // Until housekeeping notices, a second later at most, and ends it all.
    let answer = send(page, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.is_none_or(|answer| answer.status == 503 && answer.body.contains("there is no instance")));
    assert_eq!(sidecar.child.wait().unwrap().code(), Some(1));
}
