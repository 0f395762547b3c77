//! A kernel that refuses system calls, as a container's sandbox makes it.

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Has system calls, comma-separated, refused with EPERM to the calling thread and those it starts, for good.
///
/// # Panics
///
/// A name is not known here, or the kernel takes no filter.
pub fn deny(calls: &str) {
    let number = |call: &str| match call {
        "membarrier" => libc::SYS_membarrier,
        "futex_waitv" => libc::SYS_futex_waitv,
        _ => panic!("no system call is known here as {call}"),
    };
    let rules = calls.split(',').map(|call| (number(call), Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
