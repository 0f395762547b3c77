//! What an instruction does, as far as the tracer cares, and where in the sources it comes from.
//!
//! Subjects are forks of the tracer, so their code lies where its own lies.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, InstructionInfoFactory, IntelFormatter,
    OpAccess, Register,
};

/// What the tracer does differently for an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It stores nothing to shared memory.
    None,
    /// It stores somewhere that is not certainly the stack.
    Store,
    /// It stores through `rdi`, a round for each step; the next instruction is there.
    Fill(u64),
    /// It enters the kernel.
    Call,
    /// It stops for the tracer.
    Marker,
}

/// An instruction as the tracer needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) effect: Effect,
    /// Where the next one is, if that does not depend on registers.
    pub(crate) next: Option<u64>,
}

/// Decoded instructions by their address.
#[derive(Debug)]
pub(crate) struct Instructions {
    memory: File,
    known: HashMap<u64, Known>,
}

impl Instructions {
    pub(crate) fn new() -> Self {
        Self { memory: File::open("/proc/self/mem").unwrap(), known: HashMap::new() }
    }

    /// The instruction at `address`.
    pub(crate) fn at(&mut self, address: u64) -> Known {
        if let Some(&known) = self.known.get(&address) {
            return known;
        }
        let instruction = self.decode(address);
        let effect = effect(&instruction);
        let next = match instruction.flow_control() {
            FlowControl::Next if !matches!(effect, Effect::Fill(_)) => Some(instruction.next_ip()),
            // A system call is a call to this decoder, and has no target.
            FlowControl::UnconditionalBranch | FlowControl::Call
                if instruction.is_call_near() || instruction.is_jmp_short_or_near() =>
            {
                Some(instruction.near_branch_target())
            }
            _ => None,
        };
        let known = Known { effect, next };
        self.known.insert(address, known);
        known
    }

    fn decode(&self, address: u64) -> Instruction {
        let mut bytes = [0; 16];
        // The next page may be missing; whatever could be read is enough for a valid instruction.
        let read = self.memory.read_at(&mut bytes, address).unwrap_or(0);
        Decoder::with_ip(64, &bytes[..read], address, DecoderOptions::NONE).decode()
    }

    /// The instruction as an assembler writes it, and the lines it comes from, the innermost function first.
    pub(crate) fn describe(&self, address: u64) -> String {
        let mut text = String::new();
        IntelFormatter::new().format(&self.decode(address), &mut text);
        let mut frames = Vec::new();
        backtrace::resolve(address as *mut c_void, |symbol| {
            let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
            let name = name.split('<').find(|part| !part.is_empty()).unwrap_or("?").to_owned();
            let path = symbol.filename().map(|path| path.display().to_string()).unwrap_or_default();
            let ours = ["executor-core/", "executor-shm/", "executor-client/", "tests/"];
            let file = ours.iter().find_map(|part| path.find(part).map(|at| path[at..].to_owned()));
            frames.push((name, file, symbol.lineno().unwrap_or(0)));
        });
        // The innermost frame, and those of ours around it.
        let mut frames = frames.into_iter().enumerate().filter(|(at, frame)| *at == 0 || frame.1.is_some());
        let frames = frames.by_ref().take(4).map(|(_, (name, file, line))| match file {
            Some(file) => format!("{name} ({file}:{line})"),
            None => name,
        });
        format!("{address:#x} `{text}` in {}", frames.collect::<Vec<_>>().join(" in "))
    }
}

fn effect(instruction: &Instruction) -> Effect {
    match instruction.code() {
        Code::Syscall => return Effect::Call,
        Code::Int3 => return Effect::Marker,
        _ => {}
    }
    if instruction.has_rep_prefix() && instruction.is_string_instruction() {
        return Effect::Fill(instruction.next_ip());
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let stores = |access| {
        matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
    };
    let mut memory = info.used_memory().iter();
    let found = instruction.is_invalid() || memory.any(|used| stores(used.access()) && used.base() != Register::RSP);
    if found { Effect::Store } else { Effect::None }
}
