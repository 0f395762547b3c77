//! What is made from the command lines for those who type them: completions for shells, and manual pages.

use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::units::counted;

/// A program with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// The sidecar.
    Executord,
    /// The inspector.
    ShmDump,
}

impl Program {
    /// Its command line as its users are told of it.
    fn command(self) -> Command {
        let mut command = match self {
            Self::Executord => crate::cli::Cli::command(),
            Self::ShmDump => crate::dump::Cli::command(),
        }
        .disable_help_subcommand(true);
        command.build();
        visible(&command)
    }
}

/// A built command without what is hidden, which generators would tell all the same.
fn visible(command: &Command) -> Command {
    let name = command.get_name().to_owned();
    let shown = |argument: &&Arg| !argument.is_hide_set();
    let mut copy = Command::new(name)
        .args(command.get_arguments().filter(shown).cloned())
        .subcommands(command.get_subcommands().filter(|below| !below.is_hide_set()).map(visible))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true);
    if let Some(version) = command.get_version() {
        copy = copy.version(version.to_owned());
    }
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(text) = command.get_after_long_help().or(command.get_after_help()) {
        copy = copy.after_help(text.clone());
    }
    copy
}

/// A page could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}", path = path.display())]
pub(crate) struct ManualError {
    path: PathBuf,
    source: std::io::Error,
}

/// What a shell reads to complete a program's command line.
pub(crate) fn completions(shell: Shell, program: Program) -> Vec<u8> {
    let mut command = program.command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    if shell != Shell::Bash {
        return script;
    }
    // clap_complete 4.6 takes a dash in a program's name for the step to a subcommand, in one of two places.
    let (wrong, right) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
    String::from_utf8_lossy(&script).replace(&wrong, &right).into_bytes()
}

/// A page and its file's name, for a program and each of its subcommands.
fn pages(program: Program) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
        let page = Man::new(command.clone()).source(format!("executor {}", env!("CARGO_PKG_VERSION")));
        let mut text = Vec::new();
        page.render(&mut text)?;
        pages.push((page.get_filename(), as_written(&text)));
        command.get_subcommands().try_for_each(|below| add(below, pages))
    }
    let mut command = program.command();
    command.build();
    let mut all = Vec::new();
    add(&command, &mut all)?;
    Ok(all)
}

/// The page with tables and examples of its help in the lines they were written in, under a heading that says what they are.
fn as_written(page: &[u8]) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let Some((head, tail)) = page.split_once(".SH EXTRA\n") else { return page.as_bytes().to_vec() };
    let mut text = format!("{head}.SH NOTES\n.ad l\n");
    let mut is_table = false;
    for line in tail.lines() {
        if line.starts_with("  ") != is_table {
            is_table = !is_table;
            text.push_str(if is_table { ".nf\n" } else { ".fi\n" });
        }
        // An empty line would be one of a manual's errors.
        text.push_str(if line.is_empty() { ".PP" } else { line });
        text.push('\n');
    }
    text.into_bytes()
}

/// Writes all pages to a folder and says so.
///
/// # Errors
///
/// The folder or a page cannot be written.
pub(crate) fn write_pages(folder: &Path) -> Result<String, ManualError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ManualError { path, source }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    let mut count = 0;
    for program in [Program::Executord, Program::ShmDump] {
        for (name, text) in pages(program).map_err(failed(folder))? {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(failed(&path))?;
            count += 1;
        }
    }
    Ok(format!("{} written to {}\n", counted(count, "page"), folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAMS: [Program; 2] = [Program::Executord, Program::ShmDump];

    /// Every command that is shown, as a program's user writes it, with its long flags; and then what is hidden.
    fn told(program: Program) -> (Vec<(String, Vec<String>)>, Vec<String>) {
        type Told = (Vec<(String, Vec<String>)>, Vec<String>);
        fn add(command: &Command, above: &str, told: &mut Told) {
            let name = format!("{above}{}", command.get_name());
            let mut shown = Vec::new();
            for flag in command.get_arguments() {
                let Some(long) = flag.get_long().map(str::to_owned) else { continue };
                if flag.is_hide_set() { told.1.push(format!("--{long}")) } else { shown.push(long) }
            }
            for below in command.get_subcommands() {
                match below.is_hide_set() {
                    true => told.1.push(below.get_name().to_owned()),
                    false => add(below, &format!("{name} "), told),
                }
            }
            told.0.push((name, shown));
        }
        let mut command = match program {
            Program::Executord => crate::cli::Cli::command(),
            Program::ShmDump => crate::dump::Cli::command(),
        };
        command.build();
        let mut told = (Vec::new(), Vec::new());
        add(&command, "", &mut told);
        told.0.retain(|(name, _)| !name.contains(" help"));
        told
    }

    #[test]
    fn every_subcommand_has_a_page_that_names_every_option() {
        for program in PROGRAMS {
            let pages = pages(program).unwrap();
            let (commands, hidden) = told(program);
            assert!(commands.len() >= 4, "{commands:?}");
            assert_eq!(pages.len(), commands.len());
            for (name, flags) in commands {
                let file = format!("{}.1", name.replace(' ', "-"));
                let (_, page) = pages.iter().find(|(page, _)| *page == file).unwrap_or_else(|| panic!("no {file}"));
                let page = String::from_utf8(page.clone()).unwrap();
                for flag in flags {
                    let told = format!("\\-\\-{}", flag.replace('-', "\\-"));
                    assert!(page.contains(&told), "{file} does not say {told}");
                }
                assert!(page.contains(".SH DESCRIPTION") && page.contains("Exit codes"), "{file}");
                for word in &hidden {
                    assert!(!page.contains(&word.replace('-', "\\-")) || word == "produce", "{file} tells of {word}");
                }
            }
        }
    }

    #[test]
    fn every_command_of_the_guide_to_a_slow_system_is_one_that_the_programs_take() {
        let page = include_str!("../docs/reading-a-slow-system.md");
        let shown = page.lines().filter_map(|line| line.strip_prefix("$ "));
        let in_text = page.split('`').skip(1).step_by(2).filter(|code| !code.contains('\n'));
        let is_command = |text: &&str| text.starts_with("executord ") || text.starts_with("shm-dump ");
        let commands: Vec<String> = shown.chain(in_text).filter(is_command).map(str::to_owned).collect();
        assert!(commands.len() >= 15, "{commands:?}");
        for command in commands {
            let words = command.split_whitespace();
            let taken = match command.starts_with("executord ") {
                true => crate::cli::Cli::command().try_get_matches_from(words).map(drop),
                false => crate::dump::Cli::command().try_get_matches_from(words).map(drop),
            };
            assert!(taken.is_ok(), "{command}: {}", taken.unwrap_err());
        }
        // What no view takes is an `Other`, which would take anything.
        let views = crate::dump::Cli::command();
        for command in page.split("shm-dump ").skip(1) {
            let view: String =
                command.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '-').collect();
            let is_view = view.is_empty() || views.find_subcommand(&view).is_some();
            assert!(is_view, "shm-dump has no view {view}");
        }
        for flag in page.split('`').skip(1).step_by(2).filter(|code| code.starts_with("--")) {
            let name = flag.split_whitespace().next().unwrap_or_default().trim_start_matches('-');
            let programs = [crate::cli::Cli::command(), crate::dump::Cli::command()];
            let has = |command: &Command| command.get_arguments().any(|it| it.get_long() == Some(name));
            let is_known = programs.iter().any(|program| has(program) || program.get_subcommands().any(has));
            assert!(is_known, "nothing takes --{name}");
        }
    }

    #[test]
    fn every_shell_completes_every_subcommand_and_every_option() {
        for program in PROGRAMS {
            for &shell in Shell::value_variants() {
                let script = String::from_utf8(completions(shell, program)).unwrap();
                let (commands, hidden) = told(program);
                assert_eq!(hidden.is_empty(), program == Program::ShmDump, "{hidden:?}");
                for word in hidden.iter().filter(|word| word.starts_with("--") && shell != Shell::Fish) {
                    assert!(!script.contains(word), "{shell} tells of {word}");
                }
                assert!(!script.contains("produce "), "{shell} tells of a hidden subcommand");
                for (name, flags) in commands {
                    let last = name.rsplit(' ').next().unwrap();
                    assert!(script.contains(last), "{shell}: {name}");
                    for flag in flags {
                        // Fish writes `-l lanes`.
                        let told = if shell == Shell::Fish { format!("-l {flag}") } else { format!("--{flag}") };
                        assert!(script.contains(&told), "{shell}: {name} {told}");
                    }
                }
            }
        }
    }
}
