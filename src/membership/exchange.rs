//! The messages of an exchange, their bounds, and what goes into a delta when not all fits.

use std::time::Duration;

use super::{Entry, Life, State};
use crate::types::NodeId;

/// Most nodes in one digest (48 KiB). A larger view is compared piece by piece.
pub const KNOWN_MAX: usize = 1024;
/// About the most bytes in one delta. A single value always fits.
pub const DELTA_MAX: usize = 48 * 1024;
/// Most removed ids in one delta (8 KiB); of more a part is told, another one each time.
pub const REMOVED_MAX: usize = 512;
const HEADER: usize = 48;

/// How far somebody's knowledge of a node goes. Nothing is known where life and version are 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Known {
    /// The node.
    pub node: NodeId,
    /// The life known of.
    pub life: Life,
    /// All changes up to this one are known.
    pub version: u64,
}

impl Known {
    pub(super) const fn nothing(node: NodeId) -> Self {
        Self { node, life: Life { generation: 0, boot: 0 }, version: 0 }
    }

    pub(super) const fn of(node: NodeId, state: &State) -> Self {
        Self { node, life: state.life(), version: state.version() }
    }

    pub(super) const fn reach(&self) -> (Life, u64) {
        (self.life, self.version)
    }
}

/// Which nodes a digest speaks of: of these, those that it does not list are unknown to its sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// All.
    All,
    /// Those from one id up to another, both included; past the greatest id it goes on at the least.
    Arc(NodeId, NodeId),
}

impl Scope {
    pub(super) fn has(self, node: NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Arc(first, last) if first <= last => first <= node && node <= last,
            Self::Arc(first, last) => first <= node || node <= last,
        }
    }
}

/// How far a view goes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Digest {
    /// Which nodes it speaks of.
    pub scope: Scope,
    /// Those that are known, at most [`KNOWN_MAX`].
    pub known: Vec<Known>,
    /// Stands for the set of removed ids.
    pub removed: u128,
}

/// Changes of one node's state that follow on `base`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeDelta {
    /// The node.
    pub node: NodeId,
    /// The life that the changes are of.
    pub life: Life,
    /// The changes up to this one are left out: the receiver said it has them.
    pub base: u64,
    /// How long ago the node itself last gave a sign, as far as is known.
    pub age: Duration,
    /// The changes, ascending by version; later ones may have found no room.
    pub entries: Vec<Entry>,
}

/// What somebody lacked.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Delta {
    /// Changes, each node once.
    pub nodes: Vec<NodeDelta>,
    /// Ids of removed nodes, if the two sets differ.
    pub removed: Vec<NodeId>,
}

/// The answer to a digest: what its sender lacks, and what is wanted from it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Push {
    /// What it lacks.
    pub delta: Delta,
    /// Of whom it knows more, and how far this side's knowledge goes.
    pub wants: Vec<Known>,
    /// Stands for this side's set of removed ids.
    pub removed: u128,
}

impl Digest {
    /// About as many bytes as it takes on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        HEADER + HEADER * self.known.len()
    }
}

impl Delta {
    /// About as many bytes as it takes on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        let entries = self.nodes.iter().flat_map(|node| &node.entries);
        16 * self.removed.len() + HEADER * self.nodes.len() + entries.map(Entry::weight).sum::<usize>()
    }
}

impl Push {
    /// About as many bytes as it takes on the wire.
    #[must_use]
    pub fn weight(&self) -> usize {
        16 + self.delta.weight() + HEADER * self.wants.len()
    }
}

/// Changes that somebody lacks of one node.
pub(super) struct Lack<'a> {
    pub(super) node: NodeId,
    pub(super) state: &'a State,
    pub(super) base: u64,
    pub(super) age: Duration,
}

/// As much of what is lacked as has room: one change of each node, then another of each, beginning at a node drawn by
/// lot. A node's changes are never passed over, only cut off: the next one that has no room is that node's last word.
pub(super) fn pack(mut lacks: Vec<Lack<'_>>, removed: Vec<NodeId>, roll: u64) -> Delta {
    let mut left = DELTA_MAX - 16 * removed.len().min(REMOVED_MAX);
    if !lacks.is_empty() {
        let at = roll % lacks.len() as u64;
        lacks.rotate_left(usize::try_from(at).unwrap_or(0));
    }
    let (mut nodes, mut open): (Vec<NodeDelta>, Vec<(usize, &[Entry])>) = (Vec::new(), Vec::new());
    for lack in &lacks {
        let (changes, entries) = (lack.state.after(lack.base), Vec::new());
        // Its first change, if it has one, comes along with the header: a header alone is no news in a known life.
        let weight = HEADER + changes.first().map_or(0, Entry::weight);
        if weight > left {
            continue;
        }
        left -= weight;
        let mut delta = NodeDelta { node: lack.node, life: lack.state.life(), base: lack.base, age: lack.age, entries };
        if let Some((first, rest)) = changes.split_first() {
            delta.entries.push(first.clone());
            open.push((nodes.len(), rest));
        }
        nodes.push(delta);
    }
    while !open.is_empty() {
        open.retain_mut(|(node, rest)| {
            let Some((next, later)) = rest.split_first().filter(|(next, _)| next.weight() <= left) else {
                return false;
            };
            left -= next.weight();
            nodes[*node].entries.push(next.clone());
            *rest = later;
            true
        });
    }
    Delta { nodes, removed }
}
