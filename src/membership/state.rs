//! What one node says of itself.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::Life;
use crate::types::NodeId;

/// Most bytes in the name of a value: enough for a bucket's name and a word before it.
pub const NAME_MAX: usize = 160;
/// Most bytes in a value.
pub const VALUE_MAX: usize = 16 * 1024;
/// Most values of one node.
pub const ENTRIES_MAX: usize = 1024;

/// The name of a value: 1 to 160 bytes of text. Names that a node does not know it carries on all the same, so that
/// newer nodes can say more than older ones understand.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a name has 1 to {NAME_MAX} bytes, got {0}")]
pub struct InvalidName(pub usize);

impl Name {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if (1..=NAME_MAX).contains(&name.len()) { Ok(Self(name.into())) } else { Err(InvalidName(name.len())) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?})", &*self.0)
    }
}

/// One value, and when it was set.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Opaque bytes. What is not so any more is set to nothing; a name goes away only with the life.
    pub value: Bytes,
    /// Counts the owner's changes, all names together.
    pub version: u64,
}

impl Entry {
    /// About as many bytes as it takes on the wire.
    pub(super) fn weight(&self) -> usize {
        16 + self.name.0.len() + self.value.len()
    }
}

/// Why a value was not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Unset {
    /// It is too large.
    #[error("a value has at most {VALUE_MAX} bytes, got {0}")]
    TooLarge(usize),
    /// There are too many.
    #[error("a node has at most {ENTRIES_MAX} values")]
    TooMany,
}

/// What one node said of itself, up to some version of one life.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    life: Life,
    /// Ascending by version; each name once.
    entries: Vec<Entry>,
    version: u64,
}

impl State {
    pub(super) const fn new(life: Life) -> Self {
        Self { life, entries: Vec::new(), version: 0 }
    }

    /// The life it is of.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.life
    }

    /// All changes up to this one are in it.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// A value by its name. Early in a life that was heard of in parts, what was set last may still be missing.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Bytes> {
        self.entries.iter().find(|entry| entry.name == *name).map(|entry| &entry.value)
    }

    /// All values, the one set first first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What was set after a version.
    pub(super) fn after(&self, version: u64) -> &[Entry] {
        &self.entries[self.entries.partition_point(|entry| entry.version <= version)..]
    }

    /// The owner sets a value. False if it has it already: what does not change is not told again.
    pub(super) fn set(&mut self, name: Name, value: Bytes) -> Result<bool, Unset> {
        if value.len() > VALUE_MAX {
            return Err(Unset::TooLarge(value.len()));
        }
        match self.entries.iter().position(|entry| entry.name == name) {
            Some(at) if self.entries[at].value == value => return Ok(false),
            Some(at) => drop(self.entries.remove(at)),
            None if self.entries.len() >= ENTRIES_MAX => return Err(Unset::TooMany),
            None => {}
        }
        self.version += 1;
        self.entries.push(Entry { name, value, version: self.version });
        Ok(true)
    }

    /// The owner goes on in another life, saying what it said.
    pub(super) fn reborn(&mut self, life: Life) {
        self.life = life;
        self.version = 0;
        for entry in &mut self.entries {
            self.version += 1;
            entry.version = self.version;
        }
    }

    /// Takes later changes, which follow on what is here without a gap. False, and this state spoilt, if they are not
    /// in order, too large or too many: no owner says that.
    pub(super) fn take(&mut self, changes: &[Entry]) -> bool {
        let ascends = changes.windows(2).all(|pair| pair[0].version < pair[1].version);
        let small = changes.iter().all(|change| change.value.len() <= VALUE_MAX);
        if !ascends || !small {
            return false;
        }
        let held = self.version;
        for change in changes.iter().filter(|change| change.version > held) {
            self.entries.retain(|entry| entry.name != change.name);
            self.entries.push(change.clone());
            self.version = change.version;
        }
        self.entries.len() <= ENTRIES_MAX
    }

    /// Sixteen bytes that stand for this state among others; summed up they stand for a view.
    pub(super) fn fingerprint(&self, node: NodeId) -> u128 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"state").update(node.as_bytes());
        for number in [self.life.generation, self.life.boot, self.version] {
            hasher.update(&number.to_be_bytes());
        }
        first_half(&hasher)
    }
}

pub(super) fn first_half(hasher: &blake3::Hasher) -> u128 {
    let mut half = [0; 16];
    hasher.finalize_xof().fill(&mut half);
    u128::from_be_bytes(half)
}
