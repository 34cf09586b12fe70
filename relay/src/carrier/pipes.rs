//! Pipes for `splice(2)`, lent for as long as octets are in them. What passes through one never enters this process.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

/// The capacity of a pipe, in octets: what is read at once spares the kernel acknowledgements. One download costs the two ends
/// 1.05 times two plain splice hops with 1 MiB and 1.2 times with 256 KiB; 64 KiB loses a quarter of the throughput.
const CAPACITY: usize = 1024 * 1024;

/// The same once there are [`LARGE_PIPES`].
const SMALL_CAPACITY: usize = 256 * 1024;

/// So many of the full capacity the kernel gives a user without privileges, whose smaller ones it would shrink to a page then.
const LARGE_PIPES: usize = 48;

/// What a pipe has that the kernel will not make larger. One with less is slower than copying.
const USEFUL: usize = 64 * 1024;

/// How many pipes this process may have: each is two descriptors.
const MAX_PIPES: usize = 512;

/// How many idle pipes a thread keeps.
const KEPT: usize = 16;

static PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl Pipe {
    fn new() -> Option<Self> {
        let free = |count| (count < MAX_PIPES).then_some(count + 1);
        let others = PIPES.fetch_update(Relaxed, Relaxed, free).ok()?;
        let made = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let Ok((read, write)) = made else {
            PIPES.fetch_sub(1, Relaxed);
            return None;
        };
        let wanted = match others < LARGE_PIPES {
            true => CAPACITY,
            false => SMALL_CAPACITY,
        };
        let capacity = fcntl_setpipe_size(&write, wanted)
            .or_else(|_| fcntl_setpipe_size(&write, SMALL_CAPACITY))
            .or_else(|_| fcntl_getpipe_size(&write))
            .unwrap_or(0);
        let pipe = Self {
            read,
            write,
            capacity,
        };
        (capacity >= USEFUL).then_some(pipe)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Relaxed);
    }
}

/// A pipe on loan. An empty one goes back to the pool of the thread that drops it, any other is closed.
#[derive(Debug)]
pub(crate) struct Lent {
    pipe: Option<Pipe>,
    /// How many octets are in it.
    filled: usize,
}

/// Lends a pipe; `None` if there are too many, or the kernel gives none of a useful size.
pub(crate) fn lend() -> Option<Lent> {
    let idle = IDLE.with_borrow_mut(Vec::pop);
    Some(Lent {
        pipe: Some(match idle {
            Some(pipe) => pipe,
            None => Pipe::new()?,
        }),
        filled: 0,
    })
}

/// Whether the kernel, or what filters its calls, has no `splice(2)` for these sockets. Nothing has passed then.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

impl Lent {
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Fills the empty pipe with what `from` has, at most `limit` octets. 0 is the end of `from`. Because the pipe was empty,
    /// `WouldBlock` means that `from` has nothing.
    pub(crate) fn fill(&mut self, from: impl AsFd, limit: usize) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let length = pipe.capacity.min(limit);
        let filled = splice(from, None, &pipe.write, None, length, flags)?;
        self.filled += filled;
        Ok(filled)
    }

    /// Empties the pipe into `to`, as far as that takes it.
    pub(crate) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let drained = splice(&pipe.read, None, to, None, self.filled, flags)?;
        self.filled -= drained;
        Ok(drained)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take()
            && self.filled == 0
        {
            // At thread exit the pool may be gone already; the pipe is then simply closed.
            let _ = IDLE.try_with(|idle| {
                let mut idle = idle.borrow_mut();
                if idle.len() < KEPT {
                    idle.push(pipe);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn octets_pass_and_the_pipe_goes_back() {
        let (mut near, from) = UnixStream::pair().unwrap();
        let (to, mut far) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        near.write_all(b"passing").unwrap();

        let mut pipe = lend().unwrap();
        let nothing_yet = pipe.fill(&to, 10).unwrap_err();
        assert_eq!(nothing_yet.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(pipe.fill(&from, 4).unwrap(), 4);
        assert_eq!(pipe.drain(&to).unwrap(), 4);
        assert_eq!(pipe.fill(&from, 100).unwrap(), 3);
        assert_eq!(pipe.drain(&to).unwrap(), 3);
        assert!(pipe.is_empty());
        drop(pipe);
        assert_eq!(IDLE.with_borrow(Vec::len), 1);

        let mut heard = [0; 7];
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"passing");
    }

    #[test]
    fn a_pipe_with_octets_in_it_is_never_lent_again() {
        let (mut near, from) = UnixStream::pair().unwrap();
        near.write_all(b"another visitor's").unwrap();
        let mut pipe = lend().unwrap();
        pipe.fill(&from, 100).unwrap();
        drop(pipe);
        assert_eq!(IDLE.with_borrow(Vec::len), 0);
    }
}
