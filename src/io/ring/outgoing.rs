//! What one send carries: bytes, and values that stay where they were read to, or where they are cached.

use std::ops::{Deref, Range};

use dma_alloc::{PinnedCell, SharedLease};

/// Most pieces of one sendmsg(2): the kernel's UIO_MAXIOV.
const PIECE_COUNT_MAX: usize = 1024;

/// Answers on their way to a client: bytes in a vector of its own, and between them values in shared read buffers and in the
/// cache, which are sent from there without being copied. Reused, so that it allocates only while it grows.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Values, each with how many of `bytes` go before it.
    values: Vec<Value>,
    size: usize,
    sent_size: usize,
    /// The pieces that remain to be sent, for the kernel. Filled by [`Self::prepare`].
    vectors: Vec<libc::iovec>,
    header: Option<libc::msghdr>,
}

struct Value {
    position: usize,
    kept: Kept,
    part: Range<usize>,
}

/// Bytes that stay where and as they are until they are sent.
#[derive(Clone, Debug)]
pub enum Kept {
    /// What was read from disk.
    Read(SharedLease),
    /// What lies in the cache.
    Cached(PinnedCell),
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(lease) => lease,
            Self::Cached(cell) => cell,
        }
    }
}

/// How an [`Outgoing`] is handed to the kernel.
pub(super) enum Prepared {
    /// send(2).
    Plain(*const u8, u32),
    /// sendmsg(2).
    Gathered(*const libc::msghdr),
}

impl Outgoing {
    /// The bytes, to be appended to only.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The same.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Puts other bytes in the place of some, of which none is sent yet and between which no value lies.
    pub fn replace(&mut self, place: Range<usize>, bytes: &[u8]) {
        debug_assert!(self.sent_size == 0, "what is sent stays as it is");
        let (start, end) = (place.start, place.end);
        self.bytes.splice(place, bytes.iter().copied());
        for value in self.values.iter_mut().filter(|value| value.position >= end && value.position > start) {
            value.position = value.position - end + start + bytes.len();
        }
    }

    /// Appends a part of what is kept until it is sent.
    pub fn push_value(&mut self, kept: Kept, part: Range<usize>) {
        debug_assert!(part.end <= kept.len(), "the value lies in what is kept");
        self.size += part.len();
        self.values.push(Value { position: self.bytes.len(), kept, part });
    }

    /// Bytes that are still to be sent.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.size - self.sent_size
    }

    /// Whether nothing is to be sent.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that `count` more bytes are sent.
    ///
    /// # Panics
    /// When there were fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "more bytes sent than there were");
        self.sent_size += count;
    }

    /// Forgets everything, gives the read buffers back, and keeps at most `kept_size` bytes of memory.
    pub fn clear(&mut self, kept_size: usize) {
        self.bytes.clear();
        if self.bytes.capacity() > kept_size {
            self.bytes.shrink_to(kept_size);
        }
        self.values.clear();
        self.vectors.clear();
        (self.size, self.sent_size) = (0, 0);
    }

    /// Bytes of memory that it takes, read buffers not counted.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Lays out what remains for the kernel. The addresses are good as long as this is neither moved nor changed.
    pub(super) fn prepare(&mut self) -> Prepared {
        if self.values.is_empty() {
            let rest = &self.bytes[self.sent_size..];
            return Prepared::Plain(rest.as_ptr(), u32::try_from(rest.len()).unwrap_or(u32::MAX));
        }
        self.vectors.clear();
        let mut skip = self.sent_size;
        let mut position = 0;
        for value in &self.values {
            push_rest(&mut self.vectors, &self.bytes[position..value.position], &mut skip);
            push_rest(&mut self.vectors, &value.kept[value.part.clone()], &mut skip);
            position = value.position;
        }
        push_rest(&mut self.vectors, &self.bytes[position..], &mut skip);
        // The rest goes with the next send.
        self.vectors.truncate(PIECE_COUNT_MAX);
        let header = self.header.insert(empty_header());
        header.msg_iov = self.vectors.as_mut_ptr();
        header.msg_iovlen = self.vectors.len() as _;
        Prepared::Gathered(header)
    }
}

/// Appends a piece without its first `skip` bytes, which are sent already.
fn push_rest(vectors: &mut Vec<libc::iovec>, piece: &[u8], skip: &mut usize) {
    let skipped = piece.len().min(*skip);
    *skip -= skipped;
    let rest = &piece[skipped..];
    if !rest.is_empty() {
        // The kernel only reads what is sent; the type is one for both directions.
        vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
    }
}

fn empty_header() -> libc::msghdr {
    // SAFETY: 1. msghdr is a plain C structure: integers and pointers, for which all zero bytes are valid values.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use dma_alloc::{Pool, PoolClass, PoolOptions};

    use super::*;

    /// What the kernel would send.
    fn gathered(outgoing: &mut Outgoing) -> Vec<u8> {
        match outgoing.prepare() {
            Prepared::Plain(..) => outgoing.bytes[outgoing.sent_size..].to_vec(),
            Prepared::Gathered(_) => {
                let pieces = outgoing.vectors.iter().map(|piece| {
                    // SAFETY: 1. prepare() has just filled the vector with addresses of bytes that `outgoing` keeps.
                    unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) }
                });
                pieces.flatten().copied().collect()
            }
        }
    }

    #[test]
    fn pieces_are_sent_in_order_from_wherever_the_last_send_stopped() {
        let pool = Pool::new(&[PoolClass { size: 4096, count: 2 }], PoolOptions::default()).expect("memory");
        let mut lease = pool.take(4096).expect("a free buffer");
        lease.fill_from(b"0123456789");
        let lease = lease.share();
        let fill = |outgoing: &mut Outgoing| {
            outgoing.bytes_mut().extend_from_slice(b"ab");
            outgoing.push_value(Kept::Read(lease.clone()), 2..5);
            outgoing.push_value(Kept::Read(lease.clone()), 0..1);
            outgoing.bytes_mut().extend_from_slice(b"cd");
        };
        for sent in 0..=8 {
            let mut outgoing = Outgoing::default();
            fill(&mut outgoing);
            assert_eq!(outgoing.len(), 8);
            outgoing.advance(sent);
            assert_eq!(gathered(&mut outgoing), &b"ab2340cd"[sent..]);
            outgoing.clear(0);
            assert!(outgoing.is_empty());
            assert_eq!(outgoing.capacity(), 0);
            outgoing.bytes_mut().extend_from_slice(b"xyz");
            assert_eq!(gathered(&mut outgoing), b"xyz");
        }
        drop(lease);
        assert_eq!(pool.taken_size(), 0);
    }
}
