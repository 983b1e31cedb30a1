//! Whether the kernel has what the ring needs, asked before anything depends on it.

use std::io::Error;

use io_uring::{IoUring, Probe, opcode};

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// io_uring_setup(2) fails altogether.
    #[error("io_uring_setup fails: {0}")]
    Ring(Error),
    /// It fails with the flags of Linux 6.1.
    #[error("io_uring has no {0} ({1})")]
    Flags(&'static str, Error),
    /// An operation is not there.
    #[error("io_uring has no operation {0}")]
    Operation(&'static str),
}

/// The operations that a shard uses. Multishot accept and receive and the ring of buffers are no operations of their own:
/// they came before DEFER_TASKRUN, which is asked for too.
const OPERATIONS: [(u8, &str); 11] = [
    (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
    (opcode::Recv::CODE, "IORING_OP_RECV"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
    (opcode::Read::CODE, "IORING_OP_READ"),
    (opcode::ReadFixed::CODE, "IORING_OP_READ_FIXED"),
    (opcode::Write::CODE, "IORING_OP_WRITE"),
    (opcode::WriteFixed::CODE, "IORING_OP_WRITE_FIXED"),
    (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    (opcode::Timeout::CODE, "IORING_OP_TIMEOUT"),
];

/// Makes a small ring as the shards do, and asks it for every operation that they use.
///
/// # Errors
/// [`Missing`], the first thing that is.
pub fn check() -> Result<(), Missing> {
    let plain = IoUring::new(2).map_err(Missing::Ring)?;
    let mut probe = Probe::new();
    plain.submitter().register_probe(&mut probe).map_err(|error| Missing::Flags("IORING_REGISTER_PROBE", error))?;
    missing_operation(|code| probe.is_supported(code))?;
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    let ring: IoUring = builder
        .build(2)
        .map_err(|error| Missing::Flags("IORING_SETUP_SINGLE_ISSUER and IORING_SETUP_DEFER_TASKRUN", error))?;
    let buffers = super::receive::ReceiveBuffers::register(&ring, 4096, 1)
        .map_err(|error| Missing::Flags("IORING_REGISTER_PBUF_RING", error))?;
    // In this order, as with the shards' rings.
    drop(ring);
    drop(buffers);
    Ok(())
}

fn missing_operation(is_supported: impl Fn(u8) -> bool) -> Result<(), Missing> {
    match OPERATIONS.iter().find(|(code, _)| !is_supported(*code)) {
        Some((_, name)) => Err(Missing::Operation(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(missing_operation(|_| true).is_ok());
        let without_sendmsg = missing_operation(|code| code != opcode::SendMsg::CODE);
        let told = without_sendmsg.expect_err("it is missing").to_string();
        assert_eq!(told, "io_uring has no operation IORING_OP_SENDMSG");
    }
}
