//! A stream that comes in, at its own pace: a thread reads it, so that a signal ends a load that waits for more.

use std::io::{Error, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use memchr::memchr;

use crate::io::Io;
use crate::limits::MIB;
use crate::shard::stream::{BadStreamLine, STREAM_LINE_SIZE_MAX, STREAM_VALUE_END};

/// Bytes that are read at once.
const READ_SIZE: usize = MIB;
/// Reads that may wait to be used.
const READ_COUNT: usize = 4;
/// How long a signal may go unnoticed.
const PATIENCE: Duration = Duration::from_millis(50);

/// Why a stream cannot be used from some point on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the stream was cut short: it has no `mn` at its end. What came is stored")]
    Cut,
    #[error("{0}. What came before is stored")]
    Line(BadStreamLine),
    #[error(
        "the value is not followed by a line's end: its size is wrong, or the stream is damaged. What came before is \
        stored"
    )]
    ValueEnd,
    #[error("stopped by a signal. What came before is stored")]
    Stopped,
    #[error("it cannot be read: {0}. What came before is stored")]
    Read(Error),
}

/// The stream.
pub(super) struct Input {
    reads: Receiver<Result<Vec<u8>, Error>>,
    stop: Arc<AtomicBool>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are used.
    start: usize,
    /// Bytes of the stream before the command under way.
    offset: u64,
    /// Bytes of the command under way that are used.
    size: u64,
}

impl Input {
    /// Reads `source` until it ends, or until `stop` is set.
    pub(super) fn new(mut source: Box<dyn Read + Send>, stop: Arc<AtomicBool>) -> Self {
        let (sender, reads) = sync_channel(READ_COUNT);
        std::thread::spawn(move || {
            loop {
                let mut bytes = vec![0; READ_SIZE];
                let read = match source.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(count) => {
                        bytes.truncate(count);
                        Ok(bytes)
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self { reads, stop, buffer: Vec::new(), start: 0, offset: 0, size: 0 }
    }

    /// Bytes of the stream before the command under way.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The command under way is done.
    pub(super) fn done(&mut self) {
        self.offset += std::mem::take(&mut self.size);
    }

    /// The next line, without its end.
    pub(super) async fn line(&mut self, io: &impl Io, line: &mut Vec<u8>) -> Result<(), Unusable> {
        let mut searched = 0;
        let size = loop {
            let rest = &self.buffer[self.start..];
            if let Some(found) = memchr(b'\n', &rest[searched..]) {
                break searched + found;
            }
            searched = rest.len();
            // The end of the line is not one of its bytes.
            if searched > STREAM_LINE_SIZE_MAX + 1 {
                return Err(Unusable::Line(BadStreamLine::TooLong));
            }
            self.fill(io).await?;
        };
        let bytes = &self.buffer[self.start..self.start + size];
        line.clear();
        line.extend_from_slice(bytes.strip_suffix(b"\r").unwrap_or(bytes));
        self.take(size + 1);
        Ok(())
    }

    /// The next `size` bytes, which a line's end has to follow.
    pub(super) async fn value(&mut self, io: &impl Io, size: usize) -> Result<&[u8], Unusable> {
        let whole = size.saturating_add(STREAM_VALUE_END.len());
        while self.buffer.len() - self.start < whole {
            self.fill(io).await?;
        }
        let start = self.start;
        if !self.buffer[start..start + whole].ends_with(STREAM_VALUE_END) {
            return Err(Unusable::ValueEnd);
        }
        self.take(whole);
        Ok(&self.buffer[start..start + size])
    }

    /// Passes over a value of `size` bytes and what follows it.
    pub(super) async fn skip(&mut self, io: &impl Io, size: u64) -> Result<(), Unusable> {
        let mut left = size;
        while left > 0 {
            if self.start == self.buffer.len() {
                self.fill(io).await?;
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len() - self.start);
            self.take(count);
            left -= count as u64;
        }
        self.value(io, 0).await.map(drop)
    }

    fn take(&mut self, count: usize) {
        self.start += count;
        self.size += count as u64;
    }

    /// Gets more bytes. Other tasks run before, and whoever wants to stop is heard.
    async fn fill(&mut self, io: &impl Io) -> Result<(), Unusable> {
        loop {
            io.yield_now().await;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Unusable::Stopped);
            }
            match self.reads.recv_timeout(PATIENCE) {
                Ok(Ok(bytes)) => {
                    self.buffer.drain(..std::mem::take(&mut self.start));
                    self.buffer.extend_from_slice(&bytes);
                    return Ok(());
                }
                Ok(Err(error)) => return Err(Unusable::Read(error)),
                Err(RecvTimeoutError::Disconnected) => return Err(Unusable::Cut),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::readonly::{ReadOnly, run};

    fn input(bytes: &[u8]) -> Input {
        Input::new(Box::new(std::io::Cursor::new(bytes.to_vec())), Arc::default())
    }

    #[test]
    fn lines_and_values_come_one_after_the_other() {
        let io = ReadOnly::new();
        let value = vec![b'v'; 3 * READ_SIZE];
        let stream = [b"one\r\n".as_slice(), &value, b"\r\ntwo\n", &value, b"\r\nlast"].concat();
        run(async {
            let (mut input, mut line) = (input(&stream), Vec::new());
            input.line(&io, &mut line).await.expect("a line");
            assert_eq!((line.as_slice(), input.offset()), (&b"one"[..], 0));
            assert_eq!(input.value(&io, value.len()).await.expect("a value"), value);
            input.done();
            assert_eq!(input.offset(), 7 + value.len() as u64);
            input.line(&io, &mut line).await.expect("a line");
            assert_eq!(line, b"two");
            input.skip(&io, value.len() as u64).await.expect("a value");
            input.done();
            assert_eq!(input.offset(), stream.len() as u64 - 4);
            assert!(matches!(input.line(&io, &mut line).await, Err(Unusable::Cut)));
        });
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let io = ReadOnly::new();
        run(async {
            let mut line = Vec::new();
            let long = vec![b'x'; 2 * STREAM_LINE_SIZE_MAX];
            let told = input(&long).line(&io, &mut line).await;
            assert!(matches!(told, Err(Unusable::Line(BadStreamLine::TooLong))));
            assert!(matches!(input(b"vvvxx").value(&io, 3).await, Err(Unusable::ValueEnd)));
            assert!(matches!(input(b"vvv").value(&io, 3).await, Err(Unusable::Cut)));
            let stopped = Arc::new(AtomicBool::new(true));
            let mut input = Input::new(Box::new(std::io::empty()), stopped);
            assert!(matches!(input.line(&io, &mut line).await, Err(Unusable::Stopped)));
        });
    }
}
