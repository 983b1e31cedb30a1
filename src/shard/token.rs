//! The token of a stale item: of those who fetch it, one is told to fetch it anew, and that is noted in its record.

use super::Shard;
use super::operations::{STALE, TOKEN_SENT, meta_of};
use crate::io::Io;
use crate::protocol::meta::encode::Standing;
use crate::record::{Header, Record};
use crate::store::{Held, Meta, Obstacle, Stored, Update};

/// What asking for the token has come to.
pub(super) struct Taken {
    /// What the item's state says to whoever asked.
    pub(super) standing: Standing,
    /// Whether the item was fetched until now; `None` when it is gone, or is another one by now.
    pub(super) was_fetched: Option<bool>,
}

/// What an item's state says to whoever fetches it.
pub(super) fn standing(header: &Header, has_won: bool) -> Standing {
    Standing { has_won, token_sent: header.bits & TOKEN_SENT != 0, is_stale: header.bits & STALE != 0 }
}

/// Whether whoever fetches the item next is to be told to fetch it anew.
pub(super) fn needs_token(header: &Header) -> bool {
    header.bits & (STALE | TOKEN_SENT) == STALE
}

impl<I: Io> Shard<I> {
    /// Takes the token of a stale record that was read from disk: whether whoever asked has won it, or another has it.
    /// `None`: there is no room to note it at the moment.
    pub(super) fn take_token(&self, key: &[u8], read: &Header, held: &Held<'_, I::File>) -> Option<Taken> {
        let unique = self.store.cas_of(read);
        let mut was_fetched = None;
        let take = |record: Option<Record<'_>>, scratch: &mut Vec<u8>| match record {
            Some(record) if self.store.cas_of(&record.header) == unique => {
                was_fetched = Some(record.was_fetched);
                let header = &record.header;
                if header.bits & TOKEN_SENT != 0 {
                    return (Update::Keep, true);
                }
                scratch.extend_from_slice(record.value);
                let bits = header.bits | TOKEN_SENT;
                (Update::Replace(Meta { bits, own_cas: Some(unique), ..meta_of(&record) }), false)
            }
            // Removed or replaced by who came later: there is nothing to note it in, but who waited for the same read.
            _ => (Update::Keep, self.lost_token.replace(Some(held.read.place())) == Some(held.read.place())),
        };
        let result = self.store.try_update(key, Some(held), take);
        let standing = match result {
            // It cannot be noted, and nobody is told what all would be told.
            Ok((Some(Stored::NoSpace | Stored::TooLarge), _)) => standing(read, false),
            Ok((_, token_sent)) => Standing { has_won: !token_sent, token_sent, is_stale: true },
            Err(Obstacle::Room) => return None,
            Err(_) => Standing { has_won: true, token_sent: false, is_stale: true },
        };
        Some(Taken { standing, was_fetched })
    }
}
