//! Copy buffers, lent for as long as bytes are in hand. A connection at rest holds none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::task::{Poll, ready};
use std::thread::LocalKey;

use bytes::Bytes;

/// The size of each buffer, in octets: four TLS records, so that a bulk transfer makes few system calls.
pub(crate) const SIZE: usize = 64 * 1024;

/// How many idle buffers a thread keeps: 4 MiB at most.
const KEPT: usize = 64;

/// How many packets' payloads are taken from a QUIC stream at once: about the 64 KiB of a copy buffer.
const CHUNKS: usize = 48;

type Idle<T> = RefCell<Vec<T>>;

thread_local! {
    static IDLE: Idle<Box<[u8]>> = const { RefCell::new(Vec::new()) };
    static IDLE_CHUNKS: Idle<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
    /// Empty but while something is read into it.
    static LANDING: RefCell<[Bytes; CHUNKS]> = const { RefCell::new([const { Bytes::new() }; CHUNKS]) };
}

/// A buffer on loan. It goes back to the pool of the thread that drops it.
#[derive(Debug)]
pub(crate) struct Lent(Box<[u8]>);

/// Lends a buffer. What is in it is left over from its last user and is to be overwritten, not read.
pub(crate) fn lend() -> Lent {
    let idle = IDLE.with_borrow_mut(Vec::pop);
    Lent(idle.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        give_back(&IDLE, std::mem::take(&mut self.0));
    }
}

/// A list of chunks on loan, which goes back the same way.
#[derive(Debug)]
pub(crate) struct LentChunks(Vec<Bytes>);

/// Lends an empty list.
pub(crate) fn lend_chunks() -> LentChunks {
    LentChunks(IDLE_CHUNKS.with_borrow_mut(Vec::pop).unwrap_or_default())
}

/// Lends a list with the chunks that `read` puts into an array, whose number it says. A list is made only when there are any:
/// mostly one asks in vain.
pub(crate) fn lend_chunks_read<E>(
    read: impl FnOnce(&mut [Bytes]) -> Poll<Result<Option<usize>, E>>,
) -> Poll<Result<Option<LentChunks>, E>> {
    LANDING.with_borrow_mut(|landing| {
        Poll::Ready(Ok(ready!(read(landing))?.map(|count| {
            let mut chunks = lend_chunks();
            chunks.extend(landing[..count].iter_mut().map(std::mem::take));
            chunks
        })))
    })
}

impl Deref for LentChunks {
    type Target = Vec<Bytes>;

    fn deref(&self) -> &Vec<Bytes> {
        &self.0
    }
}

impl DerefMut for LentChunks {
    fn deref_mut(&mut self) -> &mut Vec<Bytes> {
        &mut self.0
    }
}

impl Drop for LentChunks {
    fn drop(&mut self) {
        let mut chunks = std::mem::take(&mut self.0);
        chunks.clear();
        give_back(&IDLE_CHUNKS, chunks);
    }
}

fn give_back<T>(pool: &'static LocalKey<Idle<T>>, lent: T) {
    // At thread exit the pool may be gone already; what was lent is then simply freed.
    let _ = pool.try_with(|idle| {
        let mut idle = idle.borrow_mut();
        if idle.len() < KEPT {
            idle.push(lent);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_lent_again_and_few_are_kept() {
        let first = lend();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(lend().as_ptr(), address);

        let many: Vec<_> = std::iter::repeat_with(lend).take(KEPT + 10).collect();
        drop(many);
        assert_eq!(IDLE.with_borrow(Vec::len), KEPT);
    }

    #[test]
    fn a_returned_list_is_empty() {
        let mut chunks = lend_chunks();
        chunks.push(Bytes::from_static(b"of another visitor"));
        drop(chunks);
        assert!(lend_chunks().is_empty());
    }
}
