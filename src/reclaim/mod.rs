//! Getting tables back: which one ([`victim`]), how fast, and emptying it. The store's reclaimer does the rest.

pub mod throttle;
pub mod victim;

use std::io::Result;
use std::rc::Rc;

use crate::disktable::format::{Identity, MarkKind, Summary};
use crate::disktable::{reader, writer};
use crate::io::Io;

/// Marks the table as free on disk and then, with `is_visited`, visits what was in it, so that the caller can drop it from the
/// index. Says whether every record was visited; if not, the caller has to look through the whole index.
///
/// # Errors
/// When the table could not be marked; it must be left alone then, and nothing was visited.
pub async fn empty_table<I: Io>(
    io: &I,
    file: &Rc<I::File>,
    identity: Identity,
    sequence: u64,
    is_visited: bool,
    visit: impl FnMut(Summary),
) -> Result<bool> {
    if !is_visited {
        writer::free(&**file, identity, sequence, io.now()).await?;
        return Ok(true);
    }
    let trailer = reader::read_mark(&**file, MarkKind::Trailer, identity).await;
    writer::free(&**file, identity, sequence, io.now()).await?;
    let Ok(Ok(trailer)) = trailer else { return Ok(false) };
    if trailer.sequence != sequence {
        return Ok(false);
    }
    Ok(matches!(reader::read_footer(io, &**file, &trailer, visit).await, Ok(0)))
}
