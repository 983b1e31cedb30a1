//! Long pipelines: requests go out in a thread of their own while their answers are read, as they have to when both
//! together are more than the sockets hold.

use super::Client;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

impl Client {
    /// Sends `requests` in pieces of `piece_size` bytes, each in a packet of its own as far as the network likes, and
    /// gives all that comes until the server closes the connection. A server that closes earlier has answered less,
    /// which the caller sees.
    pub(crate) fn converse(&mut self, requests: &[u8], piece_size: usize) -> Vec<u8> {
        let mut writer = self.stream.try_clone().expect("a socket can be duplicated");
        std::thread::scope(|scope| {
            scope.spawn(move || requests.chunks(piece_size).all(|piece| writer.write_all(piece).is_ok()));
            self.until_closed()
        })
    }

    /// The same, but what was sent is followed by the end of the stream rather than asked to be closed by a `quit`.
    pub(crate) fn converse_and_half_close(&mut self, requests: &[u8], piece_size: usize) -> Vec<u8> {
        let mut writer = self.stream.try_clone().expect("a socket can be duplicated");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let is_sent = requests.chunks(piece_size).all(|piece| writer.write_all(piece).is_ok());
                is_sent && writer.shutdown(Shutdown::Write).is_ok()
            });
            self.until_closed()
        })
    }

    /// The same connection once more, to send on while this one receives.
    pub(crate) fn duplicate(&self) -> Client {
        Client { stream: self.stream.try_clone().expect("a socket can be duplicated"), input: Vec::new() }
    }

    /// Asks the kernel for a small receive buffer, so that answers pile up at the server when this client does not read.
    /// One packet of the loopback interface still fits.
    pub(crate) fn receive_little(&mut self) {
        setsockopt(&self.stream, sockopt::RcvBuf, &(64 << 10)).expect("a buffer may be small");
    }

    /// Up to `size` bytes, as they come; nothing at the end of the stream.
    pub(crate) fn some(&mut self, size: usize) -> Vec<u8> {
        if !self.input.is_empty() {
            let size = size.min(self.input.len());
            return self.input.drain(..size).collect();
        }
        let mut piece = vec![0; size];
        match self.stream.read(&mut piece) {
            Ok(count) => piece.truncate(count),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => piece.clear(),
            Err(error) => panic!("no answer: {error}"),
        }
        piece
    }

    /// Leaves without a goodbye: the connection is reset, and what was sent to it is thrown away (SO_LINGER of 0).
    pub(crate) fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &linger).expect("a socket may linger for no time");
    }
}
