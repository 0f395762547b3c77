//! `shm-dump` on copies of files that hold anything.
//!
//! The input is an archive (`archive.rs`). Whatever the bytes: every view, as text and as JSON, is shown or refused with an
//! error; nothing panics, hangs (`-timeout`) or takes memory that the files do not explain (`-rss_limit_mb`).

#![no_main]

mod archive;
mod input;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use executor_core::Clock;
use executor_core::recorder::{ERROR_TEXT, ERRORS, EVENTS, SLEEPS, SLOW_TASKS, SLOWEST};
use executor_shm::InstanceName;
use executor_shm::inspect::{Inspector, list_copies};
use input::Input;
use libfuzzer_sys::fuzz_target;

/// What all views of eight small files can take.
const SHOWN_BYTES_MAX: usize = 16 << 20;

/// In memory: nothing of it is worth a disk. `FUZZ_FOLDER` says where; whoever sets it removes it.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let parent = std::env::var_os("FUZZ_FOLDER").map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let folder = parent.join(format!("executor-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the files");
    folder
});

fn clear(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("the folder") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("our file");
    }
}

fuzz_target!(|data: &[u8]| {
    let folder = FOLDER.as_path();
    clear(folder);
    archive::unpack(Input(data), folder);
    let instance = InstanceName::new("fuzz").expect("a name");
    let listed = list_copies(folder).expect("the folder");
    assert!(listed.len() <= 1, "there is one name");
    for unreadable in listed.iter().filter_map(|one| one.view.as_ref().err()) {
        assert!(!unreadable.to_string().is_empty());
    }
    let Ok(inspector) = Inspector::open_copy(&instance, folder) else { return };
    let view = inspector.look();
    assert!(view.alive.is_none(), "a copy is neither alive nor dead");
    for lane in &view.lanes {
        // Of the lane's own words there are as many tasks as it has slots, whatever they say.
        let capacity = u64::from(view.geometry.capacity);
        assert!(lane.depth.unwrap_or(0) <= capacity, "{lane:?}");
        for position in [0, lane.started.unwrap_or(0).wrapping_sub(1), u64::MAX] {
            let _ = inspector.completion(lane.lane, lane.nonce, position);
        }
    }
    let recorded = inspector.recorded();
    let layout = view.geometry.meter_layout();
    let events = (layout.workers + 1) * (EVENTS + SLEEPS);
    let slow = layout.workers * (SLOW_TASKS + layout.handlers * SLOWEST) + SLOW_TASKS;
    let errors = (layout.workers + 1) * ERRORS;
    assert!(recorded.events.len() <= events && recorded.slow.len() <= slow && recorded.errors.len() <= errors);
    assert!(recorded.torn as usize <= events + slow + errors, "{} rows torn", recorded.torn);
    for task in &recorded.slow {
        assert!(task.wait_unexplained() <= task.wait() && task.run_itself() <= task.run(), "{task:?}");
        assert_eq!(task.wait() + task.run(), task.total());
    }
    for error in &recorded.errors {
        assert!(error.text.len() <= 3 * ERROR_TEXT, "{error:?}"); // a byte that is none of UTF-8 is told in three
    }
    for worker in view.workers.iter().filter_map(|worker| worker.time) {
        let clock = view.clock.unwrap_or_else(Clock::detect);
        let [busy, asleep, idle] = worker.shares_ns(&clock, clock.now());
        let _ = busy.checked_add(asleep).and_then(|sum| sum.checked_add(idle)).expect("parts of one time");
    }
    let mut saved = 0;
    let kept: Result<_, std::convert::Infallible> = inspector.save(|file| {
        saved += file.words.len();
        Ok(())
    });
    assert!(kept.is_ok_and(|kept| saved > 0 && kept.lanes <= view.geometry.lanes));
    let records = inspector.records(None, usize::MAX).expect("all lanes that there are");
    for rows in records.iter().filter_map(|lane| lane.tasks.as_ref().ok()).map(Vec::len) {
        assert!(rows <= view.geometry.capacity as usize, "{rows} tasks in {} slots", view.geometry.capacity);
    }
    let shown =
        executord::every_view(&listed, &view, &records, &inspector.recorded(), view.created_at_ns.wrapping_add(1));
    assert!(shown <= SHOWN_BYTES_MAX, "{shown} bytes of eight small files");
});
