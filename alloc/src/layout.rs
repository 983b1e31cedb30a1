//! Alignment as a type: a power of two of at least 512 bytes, the smallest logical block of any disk.

/// An alignment in bytes: a power of two, at least 512.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alignment(usize);

/// The alignment that every O_DIRECT device of today accepts, and the size of a memory page.
pub const PAGE: Alignment = Alignment(4096);

impl Alignment {
    /// The smallest alignment there is: the classic disk sector.
    pub const MIN: usize = 512;

    /// Makes an alignment of `bytes`; `None` unless it is a power of two of at least 512.
    #[must_use]
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= Self::MIN { Some(Self(bytes)) } else { None }
    }

    /// The alignment in bytes.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }

    /// The largest multiple that is not above `value`.
    #[must_use]
    pub const fn round_down(self, value: u64) -> u64 {
        value & !(self.0 as u64 - 1)
    }

    /// The smallest multiple that is not below `value`.
    ///
    /// # Panics
    /// When the result does not fit into 64 bits.
    #[must_use]
    pub const fn round_up(self, value: u64) -> u64 {
        self.round_down(value.checked_add(self.0 as u64 - 1).expect("rounding up overflows 64 bits"))
    }

    /// Whether `value` is a multiple.
    #[must_use]
    pub const fn is_aligned(self, value: u64) -> bool {
        value & (self.0 as u64 - 1) == 0
    }
}

const _: () = assert!(PAGE.get() >= Alignment::MIN);
const _: () = assert!(PAGE.get().is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_from_512_are_alignments() {
        for bytes in [0, 1, 256, 511, 513, 4095, 6144] {
            assert_eq!(Alignment::new(bytes), None, "{bytes}");
        }
        for bytes in [512, 1024, 4096, 1 << 21] {
            assert_eq!(Alignment::new(bytes).map(Alignment::get), Some(bytes));
        }
    }

    #[test]
    fn rounding_meets_its_multiples() {
        assert_eq!((PAGE.round_down(0), PAGE.round_up(0)), (0, 0));
        assert_eq!((PAGE.round_down(1), PAGE.round_up(1)), (0, 4096));
        assert_eq!((PAGE.round_down(4096), PAGE.round_up(4096)), (4096, 4096));
        assert_eq!((PAGE.round_down(4097), PAGE.round_up(4097)), (4096, 8192));
        assert!(PAGE.is_aligned(8192));
        assert!(!PAGE.is_aligned(8193));
    }
}
