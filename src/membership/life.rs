//! A node's lives: one from each start to the next, and each later than all before.

/// One life of a node. Later lives are greater, so that a state of an earlier one never replaces a later one's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Life {
    /// Counts starts; flushed before anybody hears of it.
    pub generation: u64,
    /// Bits drawn at the start. Two lives of one generation are two processes on copies of one directory; which of them
    /// counts as the later one matters little, as long as everybody says the same.
    pub boot: u64,
}

/// A generation that is not below this is damage, not news: no node starts that often, and one that heard of it could
/// never get above it.
pub const GENERATION_MAX: u64 = 1 << 48;

/// The generation of a life that begins: above the last one that the directory knows of, and above all that others have
/// heard of. So a restored directory, which knows of fewer starts than there were, still gets the last word on itself.
#[must_use]
pub fn next_generation(persisted: u64, heard: Option<u64>) -> u64 {
    let above = |generation: u64| generation.saturating_add(1);
    above(persisted).max(heard.map_or(0, above))
}
