//! Which keys were written here lately: they may still be on their way to other owners, so a comparison leaves them out.
//!
//! A key is remembered by 32 bits of a hash for ten to twenty seconds. Two keys that share them leave each other out for as
//! long, no more. Bounds: [`MOST`] keys in ten seconds; past that everything counts as just written.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::types::Mono;

/// How long, at least, a key that was written is left out.
pub(super) const FRESH: Duration = Duration::from_secs(10);
const MOST: usize = 1 << 18;

/// Keys written in this span of [`FRESH`] and in the one before.
#[derive(Debug, Default)]
pub(super) struct Recent {
    now: BTreeSet<u32>,
    before: BTreeSet<u32>,
    since: Mono,
}

fn hash(stored: &[u8]) -> u32 {
    crc32fast::hash(stored)
}

impl Recent {
    fn turn(&mut self, now: Mono) {
        let passed = now.since(self.since);
        if passed < FRESH {
            return;
        }
        let last = std::mem::take(&mut self.now);
        self.before = if passed < 2 * FRESH { last } else { BTreeSet::new() };
        self.since = now;
    }

    /// This key is being written.
    pub(super) fn note(&mut self, now: Mono, stored: &[u8]) {
        self.turn(now);
        if self.now.len() < MOST {
            self.now.insert(hash(stored));
        }
    }

    /// Whether it was written lately, as far as is known.
    pub(super) fn has(&mut self, now: Mono, stored: &[u8]) -> bool {
        self.turn(now);
        let full = self.now.len().max(self.before.len()) >= MOST;
        full || self.now.contains(&hash(stored)) || self.before.contains(&hash(stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    #[test]
    fn a_key_is_fresh_for_ten_to_twenty_seconds() {
        for (written, fresh_at, stale_at) in [(0, 9, 21), (5, 14, 26), (9, 18, 30), (100, 109, 121)] {
            let mut recent = Recent::default();
            recent.note(at(0), b"first");
            recent.note(at(written), b"k");
            assert!(recent.has(at(fresh_at), b"k"), "written at {written}");
            assert!(!recent.has(at(stale_at), b"k"), "written at {written}");
            assert!(!recent.has(at(stale_at), b"other"));
        }
    }

    #[test]
    fn past_the_bound_everything_is_fresh_for_a_while() {
        let mut recent = Recent::default();
        for key in 0..2 * MOST as u64 {
            recent.note(at(1), &key.to_be_bytes());
        }
        assert!(recent.has(at(2), b"never written"));
        assert!(recent.now.len() <= MOST);
        assert!(!recent.has(at(40), b"never written"));
    }
}
