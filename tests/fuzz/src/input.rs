//! What bytes mean.
//!
//! All bytes mean something, and steps are of equal size: so what a fuzzer cuts, joins or changes is an input again, and
//! differs in as little as its bytes do.

use dmacached::digest::Digest;

/// Bytes before the steps.
pub const HEADER_SIZE: usize = 6;
/// Bytes of a step.
pub const STEP_SIZE: usize = 6;

/// Which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As a store has it. Too large to be split by what an input may cost, but not to be merged, once it is built large.
    Full,
    /// The same with 96 bits of identity.
    Dense,
    /// Full entries, blocks of two, at most 22 to a segment: split from 2048 entries on.
    Small,
    /// Dense entries, blocks of four, at most 16 to a segment: split from 1024 entries on, and overflowing often.
    Tiny,
}

/// How much memory the index may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// More than any input needs.
    Ample,
    /// The least number of rows, and so many blocks.
    Blocks(u8),
    /// So many times 8 KiB.
    Pages(u8),
}

/// How the digests of keys are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Evenly.
    Even,
    /// Evenly over the few segments that the mask leaves.
    Crowded(u8),
    /// All in one bucket.
    Meeting(u8),
    /// The key is 16 bits of the hash, behind so many others, which are all the same as those behind: neighbours.
    Placed(u8, bool),
}

impl Spread {
    /// The hash of a key, in the order of the index.
    #[must_use]
    pub fn hash(self, key: u16) -> [u8; 20] {
        let mut hash = [0; 20];
        let mut state = u64::from(key);
        for chunk in hash.chunks_mut(8) {
            chunk.copy_from_slice(&random(&mut state).to_le_bytes()[..chunk.len()]);
        }
        match self {
            Self::Even => {}
            Self::Crowded(mask) => {
                hash[0] &= mask;
                hash[1] &= 0x7f;
            }
            Self::Meeting(byte) => hash[..4].fill(byte),
            Self::Placed(before, is_ones) => {
                hash.fill(if is_ones { 0xff } else { 0 });
                for bit in 0..16 {
                    let at = usize::from(before) + bit;
                    let mask = 0x80 >> (at % 8);
                    hash[at / 8] = hash[at / 8] & !mask | if key << bit >> 15 == 1 { mask } else { 0 };
                }
            }
        }
        hash
    }
}

/// The digest whose hash this is.
#[must_use]
pub fn digest(mut hash: [u8; 20]) -> Digest {
    hash.rotate_right(2);
    Digest(hash)
}

/// The next of a sequence of pseudo-random numbers (splitmix64, Steele et al. 2014).
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `upsert`.
    Upsert,
    /// `remove`.
    Remove,
    /// `remove_at`, with the pointer that is there or with another.
    RemoveAt,
    /// `replace_at`, in the same way.
    ReplaceAt,
    /// `set_expiry`.
    SetExpiry,
    /// `modify`, of all fields.
    Modify,
    /// `get`, and the hints before it.
    Get,
    /// `get_batch`.
    GetBatch,
    /// Some steps of the walk, or of a new one.
    Walk,
    /// `upsert` of many keys.
    UpsertMany,
    /// `remove` of many keys.
    RemoveMany,
    /// `retain`.
    Retain,
    /// `clear`.
    Clear,
    /// `clear`, and `build` from what was there.
    Rebuild,
    /// `build` from what is not in order.
    BuildUnsorted,
    /// `invariants`.
    Invariants,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub action: Action,
    /// The key, or the first of many.
    pub key: u16,
    /// How many.
    pub count: u16,
    /// What else there is to choose.
    pub value: u8,
}

impl Step {
    fn decode(bytes: &[u8; STEP_SIZE]) -> Self {
        let action = match bytes[0] % 32 {
            0..5 => Action::Upsert,
            5..9 => Action::Remove,
            9 => Action::RemoveAt,
            10 => Action::ReplaceAt,
            11 => Action::SetExpiry,
            12 => Action::Modify,
            13..15 => Action::Get,
            15..17 => Action::GetBatch,
            17..21 => Action::Walk,
            21..24 => Action::UpsertMany,
            24..27 => Action::RemoveMany,
            27 => Action::Retain,
            28 => Action::Rebuild,
            29 => Action::BuildUnsorted,
            30 => Action::Invariants,
            _ => Action::Clear,
        };
        let [_, key_low, key_high, count_low, count_high, value] = *bytes;
        let (key, count) = (u16::from_le_bytes([key_low, key_high]), u16::from_le_bytes([count_low, count_high]));
        Self { action, key, count, value }
    }
}

/// A whole input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Which index.
    pub layout: Layout,
    /// How much memory it may use.
    pub budget: Budget,
    /// How digests are spread.
    pub spread: Spread,
    /// The size of tables, which decides how pointers are packed.
    pub table_size: usize,
    /// What is done.
    pub steps: Vec<Step>,
}

impl Input {
    /// The input that the bytes are, `None` when there are too few.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let ([layout, budget, amount, spread, detail, table], steps) = bytes.split_first_chunk::<HEADER_SIZE>()?;
        let layout = match layout % 8 {
            0 => Layout::Full,
            1 => Layout::Dense,
            2..5 => Layout::Small,
            _ => Layout::Tiny,
        };
        // Hash bits behind a key's own 16.
        let bits_max = if matches!(layout, Layout::Full | Layout::Small) { 144 } else { 80 };
        Some(Self {
            layout,
            budget: match budget % 4 {
                0 | 1 => Budget::Ample,
                2 => Budget::Blocks(*amount),
                _ => Budget::Pages(*amount),
            },
            spread: match spread % 8 {
                0..3 => Spread::Even,
                3 => Spread::Crowded(*detail),
                4 => Spread::Meeting(*detail),
                odd => Spread::Placed(detail % (bits_max + 1), odd == 5),
            },
            table_size: if table % 2 == 0 { 64 << 20 } else { 1 << 20 },
            steps: steps.as_chunks::<STEP_SIZE>().0.iter().map(Step::decode).collect(),
        })
    }
}
