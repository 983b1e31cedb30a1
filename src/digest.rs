//! What a key is to the store: `SHA-1(salt || key)`, 160 bits.
//!
//! The salt is made when the store is created and is nobody else's, so no client can choose keys that meet in one
//! shard or one index segment. Two keys with the same digest would need about 2^80 tries even by somebody who knew
//! the salt; the record on disk holds the whole key and every read compares it, so even then the answer is a miss and
//! never a wrong value.

use crate::limits::{KEY_SIZE_MAX, SHARD_COUNT_MAX};

/// Bytes of a digest.
pub const DIGEST_SIZE: usize = 20;
/// Bytes of a store's salt.
pub const SALT_SIZE: usize = 16;

/// The salt of a store.
pub type Salt = [u8; SALT_SIZE];

/// The 160-bit name of a key within a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; DIGEST_SIZE]);

const BLOCK_SIZE: usize = 64;
/// Salt, key, the mark 0x80 and the length in bits, in whole blocks.
const PADDED_SIZE_MAX: usize = (SALT_SIZE + KEY_SIZE_MAX + 1 + 8).next_multiple_of(BLOCK_SIZE);
/// FIPS 180-4, 5.3.1.
const INITIAL_STATE: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

impl Digest {
    /// The digest of `key` in the store of `salt`: one SHA-1 block for keys of up to 39 bytes.
    ///
    /// # Panics
    /// When `key` is longer than [`KEY_SIZE_MAX`]; callers check that first.
    #[must_use]
    pub fn of(salt: &Salt, key: &[u8]) -> Self {
        assert!(key.len() <= KEY_SIZE_MAX, "keys are checked where they come in");
        let message_size = SALT_SIZE + key.len();
        let padded_size = (message_size + 1 + 8).next_multiple_of(BLOCK_SIZE);
        let mut padded = [[0u8; BLOCK_SIZE]; PADDED_SIZE_MAX / BLOCK_SIZE];
        let bytes = padded.as_flattened_mut();
        bytes[..SALT_SIZE].copy_from_slice(salt);
        bytes[SALT_SIZE..message_size].copy_from_slice(key);
        bytes[message_size] = 0x80;
        #[expect(clippy::big_endian_bytes, reason = "SHA-1 is defined big-endian (FIPS 180-4)")]
        bytes[padded_size - 8..padded_size].copy_from_slice(&(message_size as u64 * 8).to_be_bytes());
        let mut state = INITIAL_STATE;
        sha1::block_api::compress(&mut state, &padded[..padded_size / BLOCK_SIZE]);
        let mut digest = [0u8; DIGEST_SIZE];
        for (word, place) in state.iter().zip(digest.chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        Self(digest)
    }

    /// The shard that owns the key in a store of `shard_count` shards: the top 16 bits, scaled.
    ///
    /// # Panics
    /// When `shard_count` is 0 or above [`SHARD_COUNT_MAX`].
    #[must_use]
    pub fn shard(&self, shard_count: usize) -> usize {
        assert!((1..=SHARD_COUNT_MAX).contains(&shard_count), "a store has between 1 and {SHARD_COUNT_MAX} shards");
        let top = usize::from(self.0[0]) << 8 | usize::from(self.0[1]);
        (top * shard_count) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hexadecimal(digest: Digest) -> String {
        digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `printf '0123456789abcdef%s' KEY | sha1sum`, for one block, its two edges and the longest key.
    #[test]
    fn digests_are_sha1_of_salt_and_key() {
        let salt = *b"0123456789abcdef";
        assert_eq!(hexadecimal(Digest::of(&salt, b"")), "fe5567e8d769550852182cdf69d74bb16dff8e29");
        for size in [1, 38, 39, 40, 100, 250] {
            use sha1::Digest as _;
            let key = vec![b'k'; size];
            let expected: String = sha1::Sha1::new()
                .chain_update(salt)
                .chain_update(&key)
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(hexadecimal(Digest::of(&salt, &key)), expected, "key of {size} bytes");
        }
    }

    #[test]
    fn every_shard_gets_its_part_and_no_other() {
        for shard_count in [1, 2, 3, 7, 64, SHARD_COUNT_MAX] {
            let mut counts = vec![0u32; shard_count];
            for number in 0..100_000u32 {
                counts[Digest::of(&[7; 16], &number.to_le_bytes()).shard(shard_count)] += 1;
            }
            let mean = 100_000 / shard_count as u32;
            assert!(counts.iter().all(|count| *count > mean / 2 && *count < mean * 2), "{shard_count}: {counts:?}");
        }
    }
}
