//! Prints: short hashes of what is compared, salted anew for each walk.
//!
//! A difference between two nodes costs its prints, level by level, so three bytes are sent in place of sixteen. Two
//! different sums have one print with a probability of 2 in 2^24 over the salts, and hide what is under them only in
//! that walk: the next one draws another salt. Nothing ever rests on prints being equal but that a walk stops there.
//! (Multiply-shift hashing by a random odd factor, Dietzfelbinger et al. 1997: universal, and one multiplication.)

use super::tree::Root;

/// How wide prints are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Width {
    /// Three bytes: for rounds in the background, of which there is always a next one.
    #[default]
    Short,
    /// Eight bytes: for a walk whose "nothing differs" is told to somebody.
    Full,
}

impl Width {
    /// Bytes of a print.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Short => 3,
            Self::Full => 8,
        }
    }
}

/// In place of an element's print: the sender leaves this key out.
pub(super) const LEFT_OUT: u64 = 0;

/// The hashes of one walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt {
    seed: u64,
    factor: u128,
    shift: u32,
}

impl Salt {
    pub(super) fn new(seed: u64, width: Width) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(&seed.to_be_bytes()).as_bytes()[..16]);
        Self { seed, factor: u128::from_le_bytes(half) | 1, shift: 128 - 8 * width.bytes() as u32 }
    }

    /// The print of a sum.
    pub(super) const fn sum(&self, sum: u128) -> u64 {
        (sum.wrapping_mul(self.factor) >> self.shift) as u64
    }

    /// The print of one element; never [`LEFT_OUT`].
    pub(super) fn element(&self, element: u128) -> u64 {
        self.sum(element).max(LEFT_OUT + 1)
    }

    /// The print of a root: always eight bytes.
    pub(super) const fn root(&self, root: Root) -> u64 {
        (u128::from_le_bytes(root.0).wrapping_mul(self.factor) >> 64) as u64
    }

    /// Where a key lies under its leaf, and the print that tells it from others there.
    pub(super) fn key(&self, stored: &[u8]) -> (u32, u64) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_be_bytes()).update(stored);
        let hash = hasher.finalize();
        let part = |at: usize| hash.as_bytes()[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        ((part(0) >> 32) as u32, part(8) >> (self.shift - 64))
    }

    #[cfg(test)]
    pub(super) const fn with_factor(self, factor: u128) -> Self {
        Self { factor: factor | 1, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sums_share_a_print_as_seldom_as_its_bits_say() {
        let (a, b) = (blake3::hash(b"a"), blake3::hash(b"b"));
        let sums = [a, b].map(|hash| u128::from_le_bytes(*hash.as_bytes().first_chunk().unwrap()));
        let first = Salt::new(0, Width::Short);
        // A factor that hides this difference; a walk that drew it would find nothing there.
        let mut factor = first.factor;
        let hiding = (0..1_u64 << 28).find_map(|_| {
            factor = factor.wrapping_mul(0xda94_2042_e4dd_58b5).wrapping_add(0x1405_7b7e_f767_814f);
            let salt = first.with_factor(factor);
            (salt.sum(sums[0]) == salt.sum(sums[1])).then_some(salt)
        });
        assert!(hiding.is_some(), "prints have more bits than they say");
        let hidden = (0..100_000).filter(|seed| {
            let salt = Salt::new(*seed, Width::Short);
            salt.sum(sums[0]) == salt.sum(sums[1])
        });
        assert!(hidden.count() <= 2, "the next salt tells them apart");
    }

    #[test]
    fn prints_are_as_wide_as_they_say() {
        for (width, most) in [(Width::Short, 1 << 24), (Width::Full, u128::from(u64::MAX) + 1)] {
            let salt = Salt::new(7, width);
            let seen = (0..1000_u32).map(|n| u128::from(salt.key(&n.to_be_bytes()).1));
            assert!(seen.clone().all(|print| print < most));
            assert!(seen.max().unwrap() > most / 2);
            let sums = (1..1000_u128).map(|n| u128::from(salt.sum(n << 100)));
            assert!(sums.clone().all(|print| print < most));
            assert!(sums.max().unwrap() > most / 2);
        }
        assert_ne!(Salt::new(1, Width::Full).element(0), LEFT_OUT);
    }
}
