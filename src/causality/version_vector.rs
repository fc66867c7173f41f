//! Dots and version vectors.

use std::fmt;

use crate::types::{ActorId, Stamp};

/// One write: who minted it, and when by that actor's own clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The actor that minted it.
    pub actor: ActorId,
    /// Its stamp, strictly increasing per actor and key.
    pub stamp: Stamp,
}

impl Dot {
    /// The dot of `actor` at `stamp`.
    #[must_use]
    pub const fn new(actor: ActorId, stamp: Stamp) -> Self {
        Self { actor, stamp }
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.actor, self.stamp.0)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Per actor the highest stamp seen: a set of dots, closed downwards.
///
/// Entries are sorted by actor, so equal vectors are equal bytes. There is no pruning by size or age (anchor:
/// riak_kv#26): an entry dropped too early resurrects what it covered.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct VersionVector(Vec<Dot>);

impl VersionVector {
    /// The vector that covers nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes entries that are in order already, no actor twice; `None` where they are not.
    pub(super) fn from_sorted(sorted: Vec<Dot>) -> Option<Self> {
        sorted.is_sorted_by(|a, b| a.actor < b.actor).then_some(Self(sorted))
    }

    /// The entry at `index`: how a record names actors briefly.
    pub(super) fn entry(&self, index: usize) -> Option<Dot> {
        self.0.get(index).copied()
    }

    /// Whether nothing is covered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of actors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The highest dot of each actor, by actor.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.0.iter().copied()
    }

    /// The highest stamp seen of `actor`.
    #[must_use]
    pub fn get(&self, actor: ActorId) -> Option<Stamp> {
        self.position(actor).ok().map(|at| self.0[at].stamp)
    }

    /// Whether the write that minted `dot` has been seen.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.actor).is_some_and(|stamp| stamp >= dot.stamp)
    }

    /// Whether everything that `other` covers is covered.
    #[must_use]
    pub fn covers_all(&self, other: &Self) -> bool {
        other.iter().all(|dot| self.covers(dot))
    }

    /// Covers `dot` and every earlier one of its actor.
    pub fn add(&mut self, dot: Dot) {
        match self.position(dot.actor) {
            Ok(at) => self.0[at].stamp = self.0[at].stamp.max(dot.stamp),
            Err(at) => self.0.insert(at, dot),
        }
    }

    /// Covers all that `other` covers: the element-wise maximum.
    pub fn join(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
        } else {
            other.iter().for_each(|dot| self.add(dot));
        }
    }

    /// The greatest stamp of any actor.
    #[must_use]
    pub fn greatest_stamp(&self) -> Option<Stamp> {
        self.iter().map(|dot| dot.stamp).max()
    }

    /// Where `actor`'s entry is, or would be.
    pub(super) fn position(&self, actor: ActorId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&actor, |dot| dot.actor)
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = Self::new();
        dots.into_iter().for_each(|dot| vector.add(dot));
        vector
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}
