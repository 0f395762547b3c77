#![allow(unsafe_code, reason = "takes charge of the descriptors that a letter carries")]
//! Letters from forked children to their parent, with open files in them. One that was sent arrives, also if its sender
//! is killed the moment after; of one that was not, nothing does.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

/// Longest text of a letter, in bytes; more is cut off.
pub const TEXT_MAX: usize = 2048;
/// Most open files in a letter.
const FILES_MAX: usize = 2;

/// A mailbox; children inherit the way in.
#[derive(Debug)]
pub struct Mailbox {
    slot: OwnedFd,
    inside: OwnedFd,
}

/// What was in the box.
#[derive(Debug)]
pub struct Letter {
    /// What it says.
    pub text: Vec<u8>,
    /// The open files it carries.
    pub files: Vec<OwnedFd>,
}

impl Mailbox {
    /// An empty box.
    ///
    /// # Errors
    ///
    /// The system gives no sockets.
    pub fn new() -> Result<Self, Errno> {
        let (slot, inside) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok(Self { slot, inside })
    }

    /// Sends a letter; waits while the box is full.
    ///
    /// # Errors
    ///
    /// The parent is gone.
    pub fn send(&self, text: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let carried = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
        let text = [IoSlice::new(text.get(..TEXT_MAX).unwrap_or(text))];
        loop {
            match sendmsg::<()>(self.slot.as_raw_fd(), &text, carried, MsgFlags::MSG_NOSIGNAL, None) {
                // Too many descriptors are on their way: the parent takes them out soon.
                Err(Errno::ETOOMANYREFS | Errno::EINTR) => std::thread::yield_now(),
                other => return other.map(drop),
            }
        }
    }

    /// The next letter, if there is one.
    ///
    /// # Errors
    ///
    /// This process has no room for the files of a letter.
    pub fn receive(&self) -> Result<Option<Letter>, Errno> {
        let mut text = vec![0; TEXT_MAX];
        let mut room = nix::cmsg_space!([RawFd; FILES_MAX]);
        let mut into = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, numbers) = match recvmsg::<()>(self.inside.as_raw_fd(), &mut into, Some(&mut room), flags) {
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno),
            Ok(message) => {
                let mut numbers = Vec::new();
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(some) = part {
                        numbers.extend(some);
                    }
                }
                (message.bytes, numbers)
            }
        };
        // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows their numbers.
        let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
        let files = numbers.into_iter().map(own).collect();
        text.truncate(length);
        Ok(Some(Letter { text, files }))
    }

    /// Readable while there is a letter.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }
}
