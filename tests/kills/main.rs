//! Nothing lost: kill anything at any instruction.
//!
//! A subject is a forked child that runs the release code of the product: a whole sidecar with its threads, or a producer
//! with its client. Its parent, the tracer, runs it one instruction at a time (`ptrace`) and knows the files in
//! `/dev/shm` before and after each. A SIGKILL leaves what was stored before it, so between two stores all kills leave the
//! same: an *image*, which is the files by name, with their bytes, and the page on which handlers note their effects.
//!
//! # Two passes
//! - **Images.** The operation is stepped through once. After an instruction that may store and after each system call the
//!   files are compared with what they were; what differs is kept as an image. Each image is put under a fresh instance
//!   name and judged: once as it is, and once after a client has attached and submitted, as far as the locks that the
//!   subject held at that moment let it. So the attacher that comes just before the kill is tried as well.
//! - **Kills.** For the short paths a fresh subject is brought to each instruction of the operation, killed there by
//!   SIGKILL, and what lies in `/dev/shm` is judged in place. It is brought there by running to the last system call
//!   before, then to the n-th time that the instruction's address comes up, which took place in the image pass.
//!
//! Producers are killed a third way: beside one living sidecar, which has to find out by itself.
//!
//! # What is stepped
//! | path | thread | from | to |
//! |---|---|---|---|
//! | submit | a client's | after its connect | after its last submit |
//! | step, publish | the worker | its first look for work | its first look that finds none |
//! | recover, create | the program's own | before `start()` | after it |
//! | attach | a client's; the keeper | before the connect; the first look | after it; nothing more to do |
//! | reset, stop | the keeper | its first look | nothing more to do; its end |
//!
//! Threads that are not stepped stand, save while the stepped one is in a system call that may wait for them. Interleavings
//! of two threads' stores are not the business of this harness: loom and shuttle have them.
//!
//! # The judge
//! A process of its own makes the next start on the files, with a real sidecar and real clients, and looks whether every
//! accepted task (its SQ commit word is stored) gets exactly one completion of those that the journal's words allow, with
//! the effects the protocol allows; whether all bytes are whole; whether the lane goes on, a fresh client is served, ids are
//! new, and a stop leaves no file. Surviving producers hold their locks and go on submitting.
//!
//! # The second level
//! With `--second`, inside the next start on each image, and inside the work after it, every image is judged again. For
//! long paths that is done for one image in `--one-in`, chosen by `--seed`.
//!
//! One page only counts: the meter in `status` is kept with each image but makes none.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an evidence program stops at the first surprise")]

#[cfg(target_arch = "x86_64")]
mod child;
#[cfg(target_arch = "x86_64")]
mod client;
#[cfg(target_arch = "x86_64")]
mod effects;
#[cfg(target_arch = "x86_64")]
mod image;
#[cfg(target_arch = "x86_64")]
mod instruction;
#[cfg(target_arch = "x86_64")]
mod judge;
#[cfg(target_arch = "x86_64")]
mod keeper;
#[cfg(target_arch = "x86_64")]
mod marker;
#[cfg(target_arch = "x86_64")]
mod names;
#[cfg(target_arch = "x86_64")]
mod pass;
#[cfg(target_arch = "x86_64")]
mod plan;
#[cfg(target_arch = "x86_64")]
mod run;
#[cfg(target_arch = "x86_64")]
mod scene;
#[cfg(target_arch = "x86_64")]
mod stand_in;
#[cfg(target_arch = "x86_64")]
mod start;
#[cfg(target_arch = "x86_64")]
mod starter;
#[cfg(target_arch = "x86_64")]
mod subject;
#[cfg(target_arch = "x86_64")]
mod tally;
#[cfg(target_arch = "x86_64")]
mod tasks;
#[cfg(target_arch = "x86_64")]
mod unit;
#[cfg(target_arch = "x86_64")]
mod watch;
#[cfg(target_arch = "x86_64")]
mod worker;

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    run::main()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    println!("skipped: instructions are stepped on x86-64 only");
    ExitCode::SUCCESS
}
