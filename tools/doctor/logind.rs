//! The check of `RemoveIPC`: whether the end of a login session takes the files away.

use super::machine::Machine;
use super::{Case, Finding};

/// Where logind's settings may stand, the one that counts most first.
const FOLDERS: [&str; 4] = ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];
/// Users from here on are people.
const PEOPLE: u32 = 1000;

/// Whether systemd-logind removes the files of this user at logout.
pub(crate) fn remove_ipc(case: &Case<'_>) -> Finding {
    let machine = case.machine;
    if !machine.has("/run/systemd/system") {
        return Finding::ok("no systemd runs here, so no logout removes files").with("uid", case.uid);
    }
    let said = setting(machine, "RemoveIPC");
    let removes =
        said.as_ref().is_none_or(|(value, _)| !["no", "false", "off", "0", "n", "f"].contains(&value.as_str()));
    let by = said.as_ref().map_or("systemd's default".to_owned(), |(_, file)| file.clone());
    let lingers = case.user.as_ref().is_some_and(|user| machine.has(&format!("/var/lib/systemd/linger/{user}")));
    let finding = match (removes, case.uid) {
        (false, _) => Finding::ok(format!("RemoveIPC=no, by {by}")),
        (true, uid) if uid < PEOPLE => {
            Finding::ok(format!("RemoveIPC=yes, by {by}, spares system users such as uid {uid}"))
        }
        (true, uid) if lingers => Finding::ok(format!("RemoveIPC=yes, by {by}, spares uid {uid}: it lingers")),
        (true, uid) => Finding::warning(
            format!("RemoveIPC=yes, by {by}: the files go when the last session of uid {uid} ends"),
            format!(
                "RemoveIPC=no in /etc/systemd/logind.conf, loginctl enable-linger {}, or a system user",
                case.user.as_deref().unwrap_or("USER")
            ),
        ),
    };
    finding.with("uid", case.uid).with("remove_ipc", removes).with("lingers", lingers)
}

/// The value that is in force, in small letters, and the file that says so: drop-ins count more than the main file, a later name
/// more than an earlier one, and a drop-in hides those of its name in folders that count less.
fn setting(machine: &Machine, key: &str) -> Option<(String, String)> {
    let main = FOLDERS.iter().map(|folder| format!("{folder}/logind.conf")).find(|file| machine.has(file));
    let mut drop_ins: Vec<(String, String)> = Vec::new();
    for folder in FOLDERS {
        for name in machine.names(&format!("{folder}/logind.conf.d")) {
            if name.ends_with(".conf") && !drop_ins.iter().any(|(known, _)| *known == name) {
                drop_ins.push((name.clone(), format!("{folder}/logind.conf.d/{name}")));
            }
        }
    }
    drop_ins.sort();
    let files = main.into_iter().chain(drop_ins.into_iter().map(|(_, file)| file));
    let mut said = files.filter_map(|file| Some((value(&machine.text(&file)?, key)?, file)));
    said.next_back()
}

/// The last value of a key in the section `[Login]`.
fn value(text: &str, key: &str) -> Option<String> {
    let mut is_login = false;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_login = line == "[Login]";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| is_login)
            && name.trim() == key
        {
            found = Some(value.trim().to_lowercase());
        }
    }
    found
}
