//! Leaves: where a key hangs, and what it adds there.
//!
//! What stands here is on every disk: the write path keeps these sums, and trees are never rebuilt. The golden values below
//! hold it still; another arithmetic would be another keyspace.

use crate::types::{Digest, Token};

/// Leaves of a tree.
pub const LEAVES: usize = 256;

/// The leaf of a key: the eight bits of its token after those that choose the partition.
#[must_use]
pub fn leaf_of(token: Token, partition_bits: u32) -> u8 {
    (token.0.checked_shl(partition_bits).unwrap_or(0) >> 56) as u8
}

/// What one object adds to its leaf: the first 16 bytes, little endian, of the BLAKE3 hash of (stored key, digest).
///
/// A leaf is the wrapping sum of these, so that a write is a difference to be added, whatever else hangs there.
#[must_use]
pub fn leaf_element(stored: &[u8], digest: &Digest) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(stored).update(&digest.0);
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_what_it_was_when_data_was_first_stored() {
        let leaves = |bits| [0, 0x1234_5678_9abc_def0, u64::MAX].map(|token| leaf_of(Token(token), bits));
        assert_eq!(leaves(0), [0x00, 0x12, 0xff]);
        assert_eq!(leaves(4), [0x00, 0x23, 0xff]);
        assert_eq!(leaves(10), [0x00, 0xd1, 0xff]);
        assert_eq!(leaves(64), [0, 0, 0]);
    }

    #[test]
    fn an_element_is_what_it_was_when_data_was_first_stored() {
        assert_eq!(leaf_element(b"", &Digest([0; 16])), 187_865_834_431_272_200_187_033_854_712_991_412_965);
        assert_eq!(
            leaf_element(b"\0\0\0\x07\x01b\0\0\0\0\0\0\0\x01key", &Digest(*b"0123456789abcdef")),
            326_775_342_588_618_969_089_961_757_783_816_030_719
        );
    }
}
