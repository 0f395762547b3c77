//! Names of an instance that something else has: links, pipes, directories, devices, files of others. Whoever starts,
//! connects, looks or cleans is refused by name, nothing behind such a name is touched, and nothing accepted is lost.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use executor_client::{Client, Status, TaskDescriptor};
use executor_shm::clean::{CleanOptions, clean};
use executor_shm::core::Registry;
use executor_shm::core::idle::IdleStrategy;
use executor_shm::inspect::Inspector;
use executor_shm::{Ending, Sidecar, SidecarHandle, StartError};
use executor_tests::FAIL_SAFE;
use executor_tests::handlers::ECHO;
use executor_tests::instance::TestInstance;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Somebody else.
const STRANGER: u32 = 61_021;

/// What can have a name instead of the executor's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SymbolicLink,
    HardLink,
    Pipe,
    Directory,
    Socket,
    Device,
    OtherOwner,
}

impl Kind {
    /// Those that this process can make; of the others it is told why not.
    fn all() -> Vec<Self> {
        let mut kinds = vec![Self::SymbolicLink, Self::HardLink, Self::Pipe, Self::Directory, Self::Socket];
        if nix::unistd::geteuid().is_root() {
            kinds.extend([Self::Device, Self::OtherOwner]);
        } else {
            println!("skipped: only root makes devices and gives files away");
        }
        kinds
    }

    /// How a refusal calls it.
    fn words(self) -> &'static str {
        match self {
            Self::SymbolicLink => "it is a symbolic link; remove it or choose another name",
            Self::HardLink => "it has a second name, a hard link; remove that one",
            Self::Pipe => "it is a pipe; remove it or choose another name",
            Self::Directory => "it is a directory; remove it or choose another name",
            Self::Socket => "it is a socket; remove it or choose another name",
            Self::Device => "it is a device; remove it or choose another name",
            Self::OtherOwner => "belongs to uid 61021",
        }
    }
}

/// Something that has a name of the executor's. Dropped, the name is as it was.
struct Squatter {
    kind: Kind,
    path: PathBuf,
    /// Where the file went that had the name; for links, what is behind them.
    kept: PathBuf,
    /// Tells whether anybody opened or changed what has the name, or is behind it.
    watch: Inotify,
    facts: String,
}

impl Squatter {
    /// Takes the name. If there is no such file, it is first made by somebody who knows nothing of executors.
    fn take(path: &Path, kind: Kind) -> Self {
        if fs::symlink_metadata(path).is_err() {
            fs::write(path, "nobody's business").unwrap();
        }
        let kept = Path::new("/dev/shm").join(format!("kept-{}", path.file_name().unwrap().to_str().unwrap()));
        match kind {
            Kind::HardLink => fs::hard_link(path, &kept).unwrap(),
            Kind::OtherOwner => chown(path, Some(STRANGER), None).unwrap(),
            _ => fs::rename(path, &kept).unwrap(),
        }
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match kind {
            Kind::SymbolicLink => std::os::unix::fs::symlink(&kept, path).unwrap(),
            Kind::Pipe => nix::unistd::mkfifo(path, mode).unwrap(),
            Kind::Directory => fs::create_dir(path).unwrap(),
            Kind::Socket => drop(UnixListener::bind(path).unwrap()),
            Kind::Device => mknod(path, SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap(), // as /dev/null
            Kind::HardLink | Kind::OtherOwner => {}
        }
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let mut events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF;
        if kind != Kind::OtherOwner {
            events |= AddWatchFlags::IN_OPEN; // whose a plain file is may be asked of an open one
        }
        watch.add_watch(path, events).unwrap(); // through a link
        let mut this = Self { kind, path: path.to_owned(), kept, watch, facts: String::new() };
        this.facts = this.look();
        this
    }

    fn look(&self) -> String {
        let facts = |path: &Path| {
            let stat = fs::symlink_metadata(path).unwrap();
            let (kind, inode, mtime) = (stat.file_type(), stat.ino(), (stat.mtime(), stat.mtime_nsec()));
            let special = (kind.is_fifo(), kind.is_socket(), kind.is_char_device(), stat.rdev());
            format!("{kind:?} {special:?} {inode} {mtime:?} {:o} {} {}", stat.mode(), stat.uid(), stat.nlink())
        };
        match self.kind {
            Kind::SymbolicLink | Kind::HardLink => facts(&self.path) + &facts(&self.kept),
            _ => facts(&self.path),
        }
    }

    /// It still has the name, and nobody opened or changed it or what is behind it.
    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(self.look(), self.facts, "{:?} at {:?}", self.kind, self.path);
        match self.watch.read_events() {
            Err(Errno::EAGAIN) => {}
            touched => panic!("{:?} at {:?} was touched: {touched:?}", self.kind, self.path),
        }
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = match self.kind {
            Kind::HardLink => fs::remove_file(&self.kept),
            Kind::OtherOwner => chown(&self.path, Some(nix::unistd::geteuid().as_raw()), None),
            Kind::Directory => fs::remove_dir(&self.path).and_then(|()| fs::rename(&self.kept, &self.path)),
            _ => fs::remove_file(&self.path).and_then(|()| fs::rename(&self.kept, &self.path)),
        };
    }
}

fn start(instance: &TestInstance, lanes: u32) -> Result<SidecarHandle, StartError> {
    let mut registry = Registry::builder();
    registry.handler(ECHO, "echo", |_, request, response| {
        response.write(request);
        Ok(())
    });
    let builder = Sidecar::builder().instance(instance.name().clone()).registry(registry.build().unwrap());
    builder.capacity(8).lanes(lanes).pinned(false).idle(IdleStrategy::Yield).start()
}

fn stop(sidecar: SidecarHandle) -> Ending {
    sidecar.stop();
    sidecar.join().unwrap().ending
}

fn ended(client: &mut Client, payload: &[u8]) {
    let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), payload).unwrap();
    let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
    assert_eq!((completion.status(), completion.response().to_vec()), (Status::Done, payload.to_vec()));
}

/// The name and the kind of what has it must be in the words of a refusal.
#[track_caller]
fn expect_refusal<T>(what: &str, result: Result<T, impl Error>, words: &str) {
    let Err(error) = result else { panic!("{what} is not refused: {words}") };
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    assert!(text.contains(words), "{what}: {text} does not say: {words}");
}

fn path_of(instance: &TestInstance, object: &str, lane: u32) -> PathBuf {
    let is_it = |name: &String| match object {
        "status" | "journal" => name.ends_with(&format!(".{object}")),
        _ => name.contains(&format!(".lane-{lane}-")) && name.ends_with(&format!(".{object}")),
    };
    Path::new("/dev/shm").join(instance.files().into_iter().find(is_it).unwrap())
}

#[test]
fn a_dead_instance_with_a_name_taken_is_refused_untouched_and_loses_nothing() {
    for object in ["status", "journal", "sq", "cq"] {
        for kind in Kind::all() {
            let instance = TestInstance::new("taken");
            let sidecar = start(&instance, 4).unwrap();
            let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
            ended(&mut client, b"before");
            assert!(matches!(stop(sidecar), Ending::Kept { attached: 1, .. }));
            let mut ticket = client.submit_ticket(&TaskDescriptor::new(ECHO), b"accepted").unwrap();

            let squatter = Squatter::take(&path_of(&instance, object, client.lane_number()), kind);
            let files = instance.files();
            let what = |verb: &str| format!("{verb}, {object} {kind:?}");
            for _ in 0..2 {
                expect_refusal(&what("start"), start(&instance, 4), kind.words());
            }
            for discard in [false, true] {
                let cleaned = clean(instance.name(), CleanOptions { discard, dry_run: false });
                expect_refusal(&what("clean"), cleaned, kind.words());
            }
            let words = if object == "status" { kind.words() } else { "no executor is running" };
            expect_refusal(&what("connect"), Client::connect(instance.name()), words);
            match Inspector::open(instance.name()) {
                _ if kind == Kind::OtherOwner => {} // whoever looks believes nobody
                found if object == "status" => expect_refusal(&what("inspect"), found, kind.words()),
                found => {
                    let lane = found.unwrap().look().lanes.swap_remove(client.lane_number() as usize);
                    assert!(lane.unreadable.as_ref().is_some_and(|why| why.contains(kind.words())), "{lane:?}");
                }
            }
            squatter.is_untouched();
            assert_eq!(instance.files(), files, "{}", what("all"));
            drop(squatter);

            let sidecar = start(&instance, 4).unwrap();
            let completion = client.wait_timeout(&mut ticket, FAIL_SAFE).unwrap();
            let found = (completion.status(), completion.response().to_vec());
            assert_eq!(found, (Status::Done, b"accepted".to_vec()), "{}", what("all"));
            drop(client);
            instance.wait_until_deserted();
            assert_eq!(stop(sidecar), Ending::Removed);
        }
    }
}

#[test]
fn a_living_instance_with_a_name_taken_is_refused_to_who_connects_and_serves_the_others() {
    for object in ["status", "sq", "cq"] {
        for kind in Kind::all() {
            let instance = TestInstance::new("living");
            let sidecar = start(&instance, 2).unwrap();
            let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
            ended(&mut client, b"before");
            let free = 1 - client.lane_number();
            let squatter = Squatter::take(&path_of(&instance, object, free), kind);
            expect_refusal("connect", Client::connect(instance.name()), kind.words());
            if kind != Kind::OtherOwner {
                match Inspector::open(instance.name()) {
                    found if object == "status" => expect_refusal("inspect", found, kind.words()),
                    found => {
                        let lane = found.unwrap().look().lanes.swap_remove(free as usize);
                        assert!(lane.unreadable.as_ref().is_some_and(|why| why.contains(kind.words())), "{lane:?}");
                    }
                }
            }
            squatter.is_untouched();
            if object != "status" {
                ended(&mut client, b"meanwhile");
                drop(squatter);
                ended(&mut Client::connect(instance.name()).unwrap(), b"after");
            }
            drop((client, sidecar));
        }
    }
}

#[test]
fn one_lane_whose_name_is_taken_keeps_nobody_from_the_next() {
    let instance = TestInstance::new("next");
    let sidecar = start(&instance, 2).unwrap();
    let squatter = Squatter::take(&path_of(&instance, "sq", 0), Kind::HardLink);
    let mut client = Client::connect(instance.name()).unwrap();
    assert_eq!(client.lane_number(), 1);
    ended(&mut client, b"served");
    squatter.is_untouched();
    drop((client, sidecar));
}

/// A lane and a temporary name as a start, or one that was killed, might have left them.
const LEFT: [&str; 2] = ["lane-0-0123456789abcd.sq", "tmp-0123456789abcdef"];

#[test]
fn a_name_taken_before_there_is_an_instance_refuses_it_and_stays_alone() {
    for object in ["status", "journal", LEFT[0], LEFT[1]] {
        for kind in Kind::all() {
            let instance = TestInstance::new("fresh");
            let squatter = Squatter::take(&instance.path(object), kind);
            let files = instance.files();
            let what = |verb: &str| format!("{verb}, {object} {kind:?}");
            if object == "status" {
                expect_refusal(&what("connect"), Client::connect(instance.name()), kind.words());
                if kind != Kind::OtherOwner {
                    expect_refusal(&what("inspect"), Inspector::open(instance.name()), kind.words());
                }
            } else {
                expect_refusal(&what("connect"), Client::connect(instance.name()), "no executor is running");
                expect_refusal(&what("inspect"), Inspector::open(instance.name()), "there is no instance");
            }
            if kind == Kind::OtherOwner && LEFT.contains(&object) {
                continue; // see below
            }
            expect_refusal(&what("start"), start(&instance, 4), kind.words());
            let cleaned = clean(instance.name(), CleanOptions { discard: true, dry_run: false });
            expect_refusal(&what("clean"), cleaned, kind.words());
            squatter.is_untouched();
            assert_eq!(instance.files(), files, "{}", what("all"));
        }
    }
}

#[test]
fn a_name_taken_beside_a_dead_instance_refuses_its_start_and_its_removal_and_loses_nothing() {
    for object in LEFT {
        for kind in Kind::all().into_iter().filter(|kind| *kind != Kind::OtherOwner) {
            let instance = TestInstance::new("beside");
            let sidecar = start(&instance, 4).unwrap();
            let client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
            assert!(matches!(stop(sidecar), Ending::Kept { .. }));
            let squatter = Squatter::take(&instance.path(object), kind);
            let files = instance.files();
            expect_refusal("start", start(&instance, 4), kind.words());
            let cleaned = clean(instance.name(), CleanOptions { discard: true, dry_run: false });
            expect_refusal("clean", cleaned, kind.words());
            squatter.is_untouched();
            assert_eq!(instance.files(), files);
            drop((squatter, client));
            // What it gave back is a plain file without a name in the journal: a start sweeps it.
            drop(start(&instance, 4).unwrap());
            assert_eq!(instance.files(), [""; 0], "{object} {kind:?}");
        }
    }
}

#[test]
fn names_that_others_made_beside_an_instance_neither_stop_it_nor_go_with_it() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    let instance = TestInstance::new("others");
    let mut squatters = Vec::new();
    for (number, kind) in Kind::all().into_iter().enumerate() {
        for name in [format!("lane-{number}-0123456789abcd.sq"), format!("tmp-0123456789abcde{number}")] {
            let path = instance.path(&name);
            let mut squatter = Squatter::take(&path, kind);
            lchown(&path, Some(STRANGER), None).unwrap();
            let _ = squatter.watch.read_events();
            squatter.facts = squatter.look();
            squatters.push(squatter);
        }
    }
    let theirs = instance.files();
    for _ in 0..2 {
        let sidecar = start(&instance, 4).unwrap();
        let mut client = Client::connect_timeout(instance.name(), FAIL_SAFE).unwrap();
        ended(&mut client, b"served");
        assert!(matches!(stop(sidecar), Ending::Kept { .. }));
        drop(client);
        drop(start(&instance, 4).unwrap());
        assert_eq!(instance.files(), theirs);
    }
    assert_eq!(clean(instance.name(), CleanOptions::default()).unwrap().files, 0);
    squatters.iter().for_each(Squatter::is_untouched);
}
