#![allow(unsafe_code, reason = "a breakpoint is one instruction that no safe code makes")]
//! Where a subject stops for its tracer: a breakpoint.

use std::arch::asm;

/// Stops here until the tracer lets the thread go on; returns what it was told.
#[inline(never)]
pub(crate) fn stop_here() -> u64 {
    let told: u64;
    // SAFETY: the breakpoint touches no memory and no register; the tracer, which every caller has, swallows its signal
    // and stores to `rax` alone, which is declared.
    unsafe { asm!("int3", inout("rax") 0u64 => told, options(nostack)) };
    told
}
