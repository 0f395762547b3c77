//! The images of an operation, as they come up under the tracer's eyes.
//!
//! After an instruction that may have stored, and after every system call, the files are compared with what they were;
//! after a system call their names are too. What differs is a new image.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use executor_shm::InstanceName;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::effects::Effects;
use crate::image::{Content, Image, name_of_word, path, suffixes};
use crate::instruction::Effect;
use crate::subject::Stepped;

/// Looks at the files of one instance.
#[derive(Debug)]
pub(crate) struct Watch {
    instance: InstanceName,
    effects: Arc<Effects>,
    files: BTreeMap<String, File>,
    image: Image,
    scratch: Vec<u8>,
}

impl Watch {
    /// From the files as they are now.
    pub(crate) fn new(instance: &InstanceName, effects: &Arc<Effects>) -> Self {
        let image = Image { effects: effects.copy(), ..Image::default() };
        let (instance, effects) = (instance.clone(), Arc::clone(effects));
        let mut this = Self { instance, effects, files: BTreeMap::new(), image, scratch: Vec::new() };
        this.look_at_names();
        this.note_locks();
        this
    }

    /// The image now.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// What an instruction changed, if anything.
    pub(crate) fn look(&mut self, stepped: &Stepped) -> Option<String> {
        let mut changes = Vec::new();
        match stepped.effect {
            Effect::None => return None,
            Effect::Marker | Effect::Store | Effect::Fill(_) => changes.extend(self.look_at_words()),
            Effect::Call => {
                if stepped.call.is_none_or(changes_names) {
                    changes.extend(self.look_at_names());
                }
                changes.extend(self.look_at_words());
            }
        }
        if changes.is_empty() {
            return None;
        }
        self.note_locks();
        Some(changes.join(", "))
    }

    /// Whatever changed; for the end of an operation, when nothing may have been missed.
    pub(crate) fn look_at_everything(&mut self) -> Option<String> {
        let mut changes = self.look_at_names();
        changes.extend(self.look_at_words());
        self.note_locks();
        (!changes.is_empty()).then(|| changes.join(", "))
    }

    fn look_at_words(&mut self) -> Vec<String> {
        let mut changes = Vec::new();
        for (suffix, file) in &self.files {
            let Some(content) = self.image.files.get_mut(suffix) else { continue };
            self.scratch.resize(Content::head(content.bytes), 0);
            if file.read_exact_at(&mut self.scratch, 0).is_err() {
                continue; // it was cut, which `look_at_names` sees
            }
            if let Some((word, old, new)) = content.difference(&self.scratch) {
                let name = name_of_word(suffix, content.bytes, word);
                changes.push(format!("{name}: {old:#x} -> {new:#x}"));
                let fresh = Content::read(file, Some(content));
                *content = Content { locked: content.locked, ..fresh };
            }
        }
        let length = self.image.effects.len();
        self.scratch.resize(length, 0);
        self.effects.file().read_exact_at(&mut self.scratch, 0).unwrap();
        if self.scratch != self.image.effects {
            changes.push("the effects".to_owned());
            self.image.effects.clone_from(&self.scratch);
        }
        changes
    }

    fn look_at_names(&mut self) -> Vec<String> {
        let mut changes = Vec::new();
        let names = suffixes(&self.instance);
        for gone in self.files.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>() {
            changes.push(format!("{gone} is gone"));
            self.files.remove(&gone);
            self.image.files.remove(&gone);
        }
        for name in names {
            let Ok(file) =
                self.files.get(&name).map_or_else(|| File::open(path(&self.instance, &name)), File::try_clone)
            else {
                continue;
            };
            let content = Content::read(&file, self.image.files.get(&name));
            match self.image.files.get_mut(&name) {
                None => {
                    changes.push(format!("{name} is there"));
                    self.image.files.insert(name.clone(), content);
                    self.files.insert(name, file);
                }
                Some(known) if (known.bytes, known.mode) != (content.bytes, content.mode) => {
                    changes.push(format!("{name} has {} bytes, mode {:o}", content.bytes, content.mode));
                    *known = Content { locked: known.locked, ..content };
                }
                Some(_) => {}
            }
        }
        changes
    }

    /// Which files somebody holds a write lock on: it matters to an attacher that comes before the kill.
    fn note_locks(&mut self) {
        for (suffix, file) in &self.files {
            let mut lock = crate::stand_in::whole(libc::F_RDLCK);
            fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
            if let Some(content) = self.image.files.get_mut(suffix) {
                content.locked = i32::from(lock.l_type) != libc::F_UNLCK;
            }
        }
    }
}

/// Whether a system call may change names, lengths or modes.
fn changes_names(call: u64) -> bool {
    [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_creat,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_link,
        libc::SYS_linkat,
        libc::SYS_unlink,
        libc::SYS_unlinkat,
        libc::SYS_chmod,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_truncate,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
    ]
    .contains(&(call as i64))
}
