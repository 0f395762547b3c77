//! Rules about the sources that no compiler checks: which way crates point, where `unsafe` may stand, what things are
//! called, and that the pages at the root still tell the truth.
//!
//! Each rule is a function from paths and texts to a list of complaints. The first half of this file holds the rules,
//! then come the tests that apply them to the repository, then one bad sample for each rule, so that a rule which has
//! stopped seeing anything fails as well.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::{Source, has_word, is_word};

/// Paths from the root of the repository, with `/`, and the text of each file.
type Files = BTreeMap<String, String>;

/// The libraries, and the ones each may depend on.
const ARROWS: [(&str, &[&str]); 3] = [
    ("executor-core", &[]),
    ("executor-shm", &["executor-core"]),
    ("executor-client", &["executor-core", "executor-shm"]),
];
const PACKAGES: [&str; 6] = ["executor-core", "executor-shm", "executor-client", "tools", "tests", "benches"];
/// The only file that may hold a bare fence without telling its story each time: telling it is what the file is for.
const WORD_MODULE: &str = "executor-shm/src/words.rs";
/// Names that say what kind of thing is in a file, not which.
const NAMES_OF_KINDS: [&str; 10] =
    ["utils", "util", "types", "traits", "common", "error", "errors", "helpers", "helper", "misc"];
const LINES_MAX: usize = 500;
/// Files that may be longer than [`LINES_MAX`], each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];
const README_COMMANDS: [&str; 2] = ["cargo run --release --bin executord -- demo", "cargo test --workspace"];

fn sources(files: &Files) -> impl Iterator<Item = (&str, Source)> {
    files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| (path.as_str(), Source::new(text)))
}

fn arrows(package: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().unwrap();
    let per_target = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    let tables = per_target.filter_map(toml::Value::as_table).chain([&manifest]);
    let dependencies = tables
        .flat_map(|table| ["dependencies", "build-dependencies"].map(|kind| table.get(kind)))
        .filter_map(|table| table?.as_table())
        .flatten();
    dependencies
        .map(|(key, value)| value.get("package").and_then(toml::Value::as_str).unwrap_or(key))
        .filter(|name| name.starts_with("executor") && !allowed.contains(name))
        .map(|name| format!("{package} depends on {name}: crates point one way, client -> shm -> core"))
        .collect()
}

/// The crate roots of a package: the targets its manifest lists, and those cargo finds by itself where it may.
fn roots(package: &str, manifest: &str, files: &Files) -> BTreeSet<String> {
    let manifest: toml::Table = manifest.parse().unwrap();
    let may_find = |key: &str| manifest["package"].get(key).and_then(toml::Value::as_bool).unwrap_or(true);
    let lists = ["bin", "test", "bench", "example"].map(|kind| manifest.get(kind).and_then(toml::Value::as_array));
    let listed = lists.into_iter().flatten().flatten().chain(manifest.get("lib"));
    let mut roots: BTreeSet<String> =
        listed.filter_map(|target| Some(format!("{package}/{}", target.get("path")?.as_str()?))).collect();
    for name in ["src/lib.rs", "src/main.rs", "build.rs"] {
        roots.extend(files.contains_key(&format!("{package}/{name}")).then(|| format!("{package}/{name}")));
    }
    let found =
        [("src/bin", "autobins"), ("tests", "autotests"), ("benches", "autobenches"), ("examples", "autoexamples")];
    for (folder, key) in found {
        let folder = format!("{package}/{folder}/");
        let inside = |path: &&String| {
            path.strip_prefix(&folder).is_some_and(|name| !name.contains('/') && name.ends_with(".rs"))
        };
        roots.extend(files.keys().filter(inside).filter(|_| may_find(key)).cloned());
    }
    roots
}

/// Every file that `mod` lines reach from `roots`, the roots included.
fn reachable(roots: &BTreeSet<String>, files: &Files) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<String> = roots.iter().cloned().collect();
    while let Some(path) = waiting.pop() {
        let Some(text) = files.get(&path).filter(|_| !reached.contains(&path)) else { continue };
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let is_top = roots.contains(&path) || name == "mod.rs";
        let below = if is_top { folder.to_owned() } else { format!("{folder}/{}", name.trim_end_matches(".rs")) };
        let mut given = None;
        for (code, raw) in Source::new(text).code.iter().zip(text.lines()) {
            if code.trim_start().starts_with("#[path") {
                given = raw.split('"').nth(1).map(|given| format!("{folder}/{given}"));
            }
            let words: Vec<&str> = code.split_whitespace().collect();
            let Some(place) = words.iter().position(|&word| word == "mod") else { continue };
            let Some(module) = words.get(place + 1).and_then(|word| word.strip_suffix(';')) else { continue };
            match given.take() {
                Some(given) => waiting.push(given),
                None => waiting.extend([format!("{below}/{module}.rs"), format!("{below}/{module}/mod.rs")]),
            }
        }
        reached.insert(path);
    }
    reached
}

/// Sources that no target compiles; `src`, and the folders whose files stand directly in them, hold no others.
fn orphans(package: &str, manifest: &str, files: &Files) -> Vec<String> {
    let reached = reachable(&roots(package, manifest, files), files);
    let is_ours = |path: &&String| {
        let Some(inside) = path.strip_prefix(package).and_then(|path| path.strip_prefix('/')) else { return false };
        path.ends_with(".rs") && (!inside.contains('/') || inside.starts_with("src/"))
    };
    let orphans = files.keys().filter(is_ours).filter(|path| !reached.contains(*path));
    orphans.map(|path| format!("{path} is neither a target of {package} nor a module of one")).collect()
}

/// The paths in the first column of the table in the section `## Unsafe`.
fn unsafe_table(architecture: &str) -> BTreeSet<String> {
    let section = architecture.split("\n## ").find(|section| section.starts_with("Unsafe")).unwrap_or("");
    let cells = section.lines().filter_map(|line| line.trim().strip_prefix('|')?.split('|').next());
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    quoted.filter(|path| path.ends_with(".rs")).map(str::to_owned).collect()
}

/// Rows of the table in the section `## Faults` whose last cell names no test: as `file`: `test`, or as a `step` of
/// `.ci/run`.
fn faults(architecture: &str, script: &str, files: &Files) -> Vec<String> {
    let section = architecture.split("\n## ").find(|section| section.starts_with("Faults")).unwrap_or("");
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    if rows.is_empty() {
        return vec!["ARCHITECTURE.md has no table of faults in a section `## Faults`".to_owned()];
    }
    let is_there = |row: &&&str| {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let quoted: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        match quoted[..] {
            [file, test] => {
                let (path, test) = (format!("/{file}.rs"), format!("fn {test}("));
                files.iter().any(|(name, text)| name.ends_with(&path) && text.contains(&test))
            }
            [step] => script.contains(&format!("\nstep_{step}()")),
            _ => false,
        }
    };
    let missing = rows.iter().filter(|row| !is_there(row));
    missing.map(|row| format!("ARCHITECTURE.md's table of faults names no test that is there: {row}")).collect()
}

fn unsafe_code(listed: &BTreeSet<String>, roots: &BTreeSet<String>, files: &Files) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in listed.iter().filter(|path| !files.contains_key(*path)) {
        complaints.push(format!("{path} is in ARCHITECTURE.md's table of unsafe files and does not exist"));
    }
    for (path, source) in sources(files) {
        let lifts = source.lifts_unsafe();
        match (lifts, listed.contains(path)) {
            (true, false) => {
                complaints.push(format!("{path} lifts deny(unsafe_code) and is not in ARCHITECTURE.md's table"));
            }
            (false, true) => {
                complaints.push(format!("{path} is in ARCHITECTURE.md's table and does not allow unsafe code"));
            }
            _ => {}
        }
        let code = source.squeezed();
        let denies = code.contains("#![deny(unsafe_code") || code.contains("#![forbid(unsafe_code");
        if roots.contains(path) && !denies && !lifts {
            complaints.push(format!("{path} is a crate root without #![deny(unsafe_code)]"));
        }
        let first = source.code.iter().position(|line| has_word(line, "unsafe"));
        if let Some(line) = first.filter(|_| !listed.contains(path)) {
            complaints.push(format!("{path}:{}: unsafe code in a file that ARCHITECTURE.md does not list", line + 1));
        }
    }
    complaints
}

fn file_names(files: &Files) -> Vec<String> {
    let is_kind = |path: &&String| path.trim_end_matches(".rs").split('/').any(|part| NAMES_OF_KINDS.contains(&part));
    let named = files.keys().filter(|path| path.ends_with(".rs")).filter(is_kind);
    named.map(|path| format!("{path} is named by its kind; name it by the one concept it holds")).collect()
}

fn fences(path: &str, source: &Source) -> Vec<String> {
    let stands_out = |line: &String| {
        let called = ["fence(", "compiler_fence("]
            .iter()
            .any(|call| line.match_indices(call).any(|(at, _)| !line[..at].chars().next_back().is_some_and(is_word)));
        let imports = ["use ", "pub use ", "pub(crate) use "].iter().any(|start| line.trim_start().starts_with(start));
        (called || has_word(line, "SeqCst")) && !imports
    };
    let explained = |line: usize| {
        let comments = &source.comments[line.saturating_sub(12)..=line];
        comments.iter().any(|comment| comment.contains("SeqCst:") || comment.contains("fence:"))
    };
    let lines = source.code.iter().enumerate().filter(|(_, code)| stands_out(code)).map(|(line, _)| line);
    lines
        .filter(|&line| path != WORD_MODULE && !explained(line))
        .map(|line| {
            format!("{path}:{}: SeqCst or a fence without a `SeqCst:` or `fence:` paragraph above it", line + 1)
        })
        .collect()
}

/// Names of tests, and of promises, which a macro makes into tests under their own names.
fn test_names(path: &str, source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut is_test = false;
    for (line, code) in source.code.iter().enumerate() {
        is_test |= code.trim_start().starts_with("#[test]") || code.contains("<S: Stage>(");
        let Some((_, after)) = code.split_once("fn ").filter(|_| is_test) else { continue };
        is_test = false;
        if after.starts_with('$') {
            continue;
        }
        let name: String = after.chars().take_while(|&c| is_word(c)).collect();
        let words: Vec<&str> = name.split('_').collect();
        if words.len() < 3 || words[0] == "test" || words.iter().any(|word| ["smoke", "works"].contains(word)) {
            complaints.push(format!("{path}:{}: {name} is not a sentence that is false when the test fails", line + 1));
        }
    }
    complaints
}

fn unfinished(path: &str, source: &Source) -> Vec<String> {
    let is_unfinished = |(code, comment): (&String, &String)| {
        ["todo!", "unimplemented!"].iter().any(|call| code.contains(call))
            || ["FIXME", "XXX"].iter().any(|word| has_word(code, word) || has_word(comment, word))
    };
    let lines = source.code.iter().zip(&source.comments).enumerate().filter(|(_, line)| is_unfinished(*line));
    lines.map(|(line, _)| format!("{path}:{}: unfinished work is not committed", line + 1)).collect()
}

/// Lines up to the module of tests; a file under `tests` is all test.
fn code_lines(path: &str, source: &Source) -> usize {
    if path.split('/').any(|part| part == "tests") {
        return 0;
    }
    let opens_tests = |line: &usize| {
        let mut below = source.code[line + 1..].iter().map(|code| code.trim());
        source.code[*line].trim() == "#[cfg(test)]"
            && below
                .find(|code| !code.is_empty() && !code.starts_with('#'))
                .is_some_and(|code| code.starts_with("mod "))
    };
    (0..source.code.len()).find(opens_tests).unwrap_or(source.code.len())
}

fn long_files(allowed: &[(&str, &str)], files: &Files) -> Vec<String> {
    let mut long: BTreeMap<&str, usize> =
        sources(files).map(|(path, source)| (path, code_lines(path, &source))).collect();
    long.retain(|_, lines| *lines > LINES_MAX);
    let stale = allowed.iter().filter(|(path, _)| !long.contains_key(path));
    let stale = stale.map(|(path, _)| format!("{path} is no longer past {LINES_MAX} lines: strike it from the table"));
    let new = long.iter().filter(|(path, _)| !allowed.iter().any(|(allowed, _)| allowed == *path));
    new.map(|(path, lines)| format!("{path} has {lines} lines of code: split it by concept")).chain(stale).collect()
}

fn changelog(layout: &str, changelog: &str) -> Vec<String> {
    let version = layout.lines().find_map(|line| line.strip_prefix("pub const ABI_VERSION: u32 = ")?.strip_suffix(';'));
    match version {
        None => vec!["layout.rs has no line `pub const ABI_VERSION: u32 = N;`".to_owned()],
        Some(version) if changelog.lines().any(|line| has_word(line, &format!("ABI {version}"))) => Vec::new(),
        Some(version) => vec![format!("CHANGELOG.md does not say what ABI {version} is")],
    }
}

fn readme(text: &str) -> Vec<String> {
    let is_line = |command: &str| text.lines().any(|line| line.trim().trim_start_matches("$ ") == command);
    let missing = README_COMMANDS.iter().filter(|command| !is_line(command));
    missing.map(|command| format!("README.md has no line `{command}`")).collect()
}

/// Every text file of the repository that git would not ignore.
fn repository() -> Files {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // `.git` may be missing from a copy of the sources; what it ignores is ignored all the same.
    let walk =
        ignore::WalkBuilder::new(root).require_git(false).filter_entry(|entry| entry.file_name() != "target").build();
    let mut files = Files::new();
    for entry in walk.map(Result::unwrap).filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file())) {
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if [".rs", ".md", ".toml"].iter().any(|end| path.ends_with(end)) {
            files.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
    files
}

fn text<'a>(files: &'a Files, path: &str) -> &'a str {
    files.get(path).unwrap_or_else(|| panic!("{path} is missing"))
}

#[track_caller]
fn expect_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn crates_point_one_way() {
    let files = repository();
    for (package, allowed) in ARROWS {
        expect_none(&arrows(package, allowed, text(&files, &format!("{package}/Cargo.toml"))));
    }
}

#[test]
fn every_source_belongs_to_a_target() {
    let files = repository();
    for package in PACKAGES {
        expect_none(&orphans(package, text(&files, &format!("{package}/Cargo.toml")), &files));
    }
}

#[test]
fn unsafe_code_stands_only_in_the_files_that_architecture_lists() {
    let files = repository();
    let manifest = |package: &str| text(&files, &format!("{package}/Cargo.toml"));
    let roots = PACKAGES.iter().flat_map(|package| roots(package, manifest(package), &files)).collect();
    let listed = unsafe_table(text(&files, "ARCHITECTURE.md"));
    assert!(!listed.is_empty(), "ARCHITECTURE.md has no table of files in a section `## Unsafe`");
    expect_none(&unsafe_code(&listed, &roots, &files));
}

#[test]
fn files_are_named_by_concept() {
    expect_none(&file_names(&repository()));
}

#[test]
fn every_seqcst_and_every_fence_tells_its_story() {
    expect_none(&sources(&repository()).flat_map(|(path, source)| fences(path, &source)).collect::<Vec<_>>());
}

#[test]
fn names_of_tests_are_sentences() {
    expect_none(&sources(&repository()).flat_map(|(path, source)| test_names(path, &source)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_unfinished() {
    expect_none(&sources(&repository()).flat_map(|(path, source)| unfinished(path, &source)).collect::<Vec<_>>());
}

#[test]
fn no_file_holds_too_much() {
    expect_none(&long_files(&LONG_FILES, &repository()));
}

#[test]
fn changelog_names_the_current_abi() {
    let files = repository();
    expect_none(&changelog(text(&files, "executor-shm/src/layout.rs"), text(&files, "CHANGELOG.md")));
}

#[test]
fn every_fault_names_a_test_that_is_there() {
    let files = repository();
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/run")).unwrap();
    expect_none(&faults(text(&files, "ARCHITECTURE.md"), &script, &files));
}

#[test]
fn readme_shows_the_two_commands() {
    expect_none(&readme(text(&repository(), "README.md")));
}

/// What each rule must see, and what it must let pass.
mod samples {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect()
    }

    #[test]
    fn a_fault_without_its_test_is_seen() {
        let files = files(&[("tests/crash.rs", "#[test]\nfn it_lives() {}")]);
        let page =
            |cell: &str| format!("# A\n\n## Faults\n| fault | what | test |\n|---|---|---|\n| f | w | {cell} |\n");
        let count = |cell: &str| faults(&page(cell), "\nstep_chaos() {", &files).len();
        assert_eq!((count("`crash`: `it_lives`"), count("step `chaos`")), (0, 0));
        assert_eq!((count("`crash`: `it_dies`"), count("`lanes`: `it_lives`")), (1, 1));
        assert_eq!((count("step `chao`"), count(""), faults("# A", "", &files).len()), (1, 1, 1));
    }

    #[test]
    fn an_arrow_that_points_back_is_seen() {
        let manifest =
            "[dependencies]\nexecutor-core.workspace = true\nnix = '1'\n[dev-dependencies]\nexecutor-shm = '1'";
        assert_eq!(arrows("executor-core", &[], manifest).len(), 1);
        assert_eq!(arrows("executor-shm", &["executor-core"], manifest), [""; 0]);
        let renamed = "[target.'cfg(unix)'.dependencies]\nx = { version = '1', package = 'executor-client' }";
        assert_eq!(arrows("executor-shm", &["executor-core"], renamed).len(), 1);
    }

    #[test]
    fn a_source_that_no_target_compiles_is_seen() {
        let manifest = "[package]\nautotests = false\n[lib]\npath = 'lib.rs'\n[[test]]\npath = 'crash.rs'";
        let tree = files(&[
            ("tests/lib.rs", "pub mod a;\n#[path = \"odd.rs\"]\nmod b;\n// mod lost;"),
            ("tests/crash.rs", ""),
            ("tests/a.rs", "mod deep;"),
            ("tests/a/deep.rs", ""),
            ("tests/odd.rs", ""),
            ("tests/lost.rs", ""),
            ("tests/refused/sample.rs", ""),
        ]);
        let complaints = orphans("tests", manifest, &tree);
        assert_eq!(complaints, ["tests/lost.rs is neither a target of tests nor a module of one"]);
        let found = files(&[("x/src/lib.rs", "mod a;"), ("x/src/a.rs", ""), ("x/src/b.rs", ""), ("x/tests/t.rs", "")]);
        assert_eq!(orphans("x", "[package]", &found), ["x/src/b.rs is neither a target of x nor a module of one"]);
        assert!(roots("x", "[package]", &found).contains("x/tests/t.rs"));
        assert!(!roots("x", "[package]\nautotests = false", &found).contains("x/tests/t.rs"));
    }

    #[test]
    fn unsafe_code_outside_the_table_is_seen() {
        let listed = unsafe_table(
            "# A\n\n## Unsafe\n| file | why |\n|---|---|\n| `a/b.rs` | `c/d.rs` |\n\n## Next\n| `e/f.rs` |",
        );
        assert_eq!(listed, BTreeSet::from(["a/b.rs".to_owned()]));
        let see =
            |list: &[(&str, &str)]| unsafe_code(&listed, &BTreeSet::from(["r.rs".to_owned()]), &files(list)).len();
        let good = ("a/b.rs", "#![allow(\n    unsafe_code,\n    reason = \"maps\"\n)]\nunsafe { f() }");
        assert_eq!(see(&[good, ("r.rs", "#![deny(unsafe_code)] // unsafe\nlet a = \"unsafe\";")]), 0);
        assert_eq!(see(&[good, ("r.rs", "")]), 1, "a root without deny");
        assert_eq!(see(&[good, ("c.rs", "unsafe { f() }")]), 1, "unsafe code in a file that is not listed");
        assert_eq!(see(&[good, ("c.rs", "#![allow(unsafe_code)]")]), 1, "a file that lifts and is not listed");
        assert_eq!(see(&[("a/b.rs", "")]), 1, "a listed file that does not lift");
        assert_eq!(see(&[]), 1, "a listed file that does not exist");
    }

    #[test]
    fn a_file_named_by_its_kind_is_seen() {
        let tree =
            files(&[("a/src/utils.rs", ""), ("tests/common/mod.rs", ""), ("a/src/lane.rs", ""), ("error.md", "")]);
        assert_eq!(file_names(&tree).len(), 2);
    }

    #[test]
    fn a_fence_without_its_story_is_seen() {
        let see = |text: &str| fences("a.rs", &Source::new(text)).len();
        assert_eq!(see("x.store(1, Ordering::SeqCst);"), 1);
        assert_eq!(see("compiler_fence(order);\nfence(Acquire); // \"SeqCst\""), 2);
        assert_eq!(
            see(&format!("// fence: both sides.{}fence(Acquire);", "\n".repeat(13))),
            1,
            "the story is too far away"
        );
        assert_eq!(see("// SeqCst: the sleeper stores, then looks; so does the waker.\n\nfence(SeqCst);"), 0);
        assert_eq!(see("use std::sync::atomic::Ordering::SeqCst;\n_mm_lfence();\n// fence()"), 0);
        assert_eq!(fences(WORD_MODULE, &Source::new("fence(Acquire);")), [""; 0]);
    }

    #[test]
    fn a_test_name_that_says_nothing_is_seen() {
        let see = |text: &str| test_names("a.rs", &Source::new(text)).len();
        for name in ["test_that_a_lane_is_full", "a_smoke_of_lanes", "a_lane_works", "full_lane"] {
            assert_eq!(see(&format!("#[test]\n#[cfg(loom)]\nfn {name}() {{}}")), 1, "{name}");
        }
        assert_eq!(see("#[test]\nfn submit_to_a_full_lane_hands_the_task_back() {}\nfn test_bed() {}"), 0);
        assert_eq!(see("fn full_lane<S: Stage>(stage: S) {}\n#[test]\nfn $promise() {}\nfn test_bed() {}"), 1);
    }

    #[test]
    fn unfinished_work_is_seen() {
        let see = |text: &str| unfinished("a.rs", &Source::new(text)).len();
        assert_eq!(see("todo!()\nunimplemented!(\"later\")\n// FIXME: later\n/* XXX */"), 4);
        assert_eq!(see("let todo = \"FIXME todo!\"; // XXXXXX"), 0);
    }

    #[test]
    fn a_file_that_holds_too_much_is_seen() {
        let text =
            |before: usize| format!("{}#[cfg(test)]\nmod tests {{\n{}}}", "x\n".repeat(before), "y\n".repeat(900));
        let tree = files(&[("a/fits.rs", &text(500)), ("a/long.rs", &text(501)), ("tests/all.rs", &"z\n".repeat(900))]);
        assert_eq!(long_files(&[], &tree), ["a/long.rs has 501 lines of code: split it by concept"]);
        assert_eq!(long_files(&[("a/long.rs", "a table")], &tree), [""; 0]);
        assert_eq!(long_files(&[("a/long.rs", "a table"), ("a/fits.rs", "was long")], &tree).len(), 1);
    }

    #[test]
    fn a_changelog_behind_the_abi_is_seen() {
        let layout = "/// The layout.\npub const ABI_VERSION: u32 = 2;\n";
        assert_eq!(changelog(layout, "- ABI 1\n- ABI 20").len(), 1);
        assert_eq!(changelog(layout, "- **ABI 2**: wider lanes"), [""; 0]);
        assert_eq!(changelog("", "ABI 2").len(), 1, "the version has moved");
    }

    #[test]
    fn a_readme_without_its_commands_is_seen() {
        assert_eq!(
            readme("    cargo test --workspace --lib\nrun `cargo run --release --bin executord -- demo`").len(),
            2
        );
        assert_eq!(readme("$ cargo test --workspace\n  cargo run --release --bin executord -- demo\n"), [""; 0]);
    }
}
