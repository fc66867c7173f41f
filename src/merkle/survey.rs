//! What one side holds under some nodes of a partition, taken down in one pass over its keys.
//!
//! Of each node: the sums of its children, and its keys as long as they are few. Keys go by in any order and are kept
//! only where they are listed, within [`LISTED_MAX`]; a node that finds no room is not listed and says so.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::leaf::{LEAVES, leaf_element};
use super::messages::{Print, Terms};
use super::node::{MAX_DEPTH, Node, Position};
use super::salt::{LEFT_OUT, Salt};
use super::tree::Tree;
use crate::types::{Digest, PartitionId};

/// Most bytes of keys that a survey lists: stored keys, and what is kept with each.
pub const LISTED_MAX: usize = 4 << 20;
const BESIDE: usize = 64;

/// A key as it is held: what an index entry says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The stored key.
    pub stored: Bytes,
    /// The object's digest.
    pub digest: Digest,
    /// Its leaf.
    pub leaf: u8,
    /// The placement class it hangs under.
    pub class: u16,
    /// The hour of its horizon.
    pub hour: u32,
    /// It was written so lately that it may still be on its way to the other side: it is left out.
    pub is_fresh: bool,
}

/// What a step of a walk, or the answer to one, has to read of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The partition.
    pub partition: PartitionId,
    /// Whether its stored leaves are needed.
    pub tree: bool,
    /// The nodes whose keys are needed, and of how many keys each is listed at most. Empty: no key is.
    pub nodes: Vec<(Node, usize)>,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// The stored leaves that count, if wanted.
    pub tree: Option<Tree>,
    /// The survey that all keys of the partition were offered to, if any were wanted.
    pub survey: Option<Survey>,
}

/// A key that is listed.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) print: Print,
    pub(super) stored: Bytes,
}

/// The keys of a node.
#[derive(Clone, Debug)]
pub(super) enum Keys {
    /// All of them.
    Listed(Vec<Listed>),
    /// More than are listed.
    TooMany,
    /// There was no room for them.
    NoRoom,
}

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Surveyed {
    pub(super) children: [u128; 4],
    pub(super) keys: Keys,
    most: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Survey {
    terms: Terms,
    salt: Salt,
    nodes: BTreeMap<Node, Surveyed>,
    depths: Vec<u32>,
    leaves: [bool; LEAVES],
    room: usize,
}

impl Wanted {
    /// The survey to be filled.
    #[must_use]
    pub fn survey(&self, terms: &Terms) -> Survey {
        Survey::new(terms, &self.nodes, LISTED_MAX)
    }
}

impl Survey {
    pub(super) fn new(terms: &Terms, nodes: &[(Node, usize)], room: usize) -> Self {
        let mut leaves = [false; LEAVES];
        nodes.iter().for_each(|(node, _)| leaves[node.leaves()].fill(true));
        let mut depths: Vec<u32> = nodes.iter().map(|(node, _)| node.depth()).collect();
        depths.sort_unstable();
        depths.dedup();
        let empty = |most: usize| Surveyed { children: [0; 4], keys: Keys::Listed(Vec::new()), most };
        let nodes = nodes.iter().map(|(node, most)| (*node, empty(*most))).collect();
        Self { terms: terms.clone(), salt: terms.salt(), nodes, depths, leaves, room }
    }

    /// Whether keys of this leaf are looked for: others need not be offered.
    #[must_use]
    pub const fn wants(&self, leaf: u8) -> bool {
        self.leaves[leaf as usize]
    }

    /// Takes down a key, if it counts and is of a node that is looked for.
    pub fn offer(&mut self, entry: &Entry) {
        if !self.wants(entry.leaf) || !self.terms.counts(entry.class, entry.hour) {
            return;
        }
        let element = leaf_element(&entry.stored, &entry.digest);
        let (path, key) = self.salt.key(&entry.stored);
        let position = Position::new(entry.leaf, path);
        let print = Print { key, element: if entry.is_fresh { LEFT_OUT } else { self.salt.element(element) } };
        for depth in &self.depths {
            if let Some(node) = self.nodes.get_mut(&position.at(*depth)) {
                if *depth < MAX_DEPTH {
                    let child = &mut node.children[position.at(depth + 1).index()];
                    *child = child.wrapping_add(element);
                }
                node.list(print, &entry.stored, &mut self.room);
            }
        }
    }

    pub(super) fn node(&self, node: Node) -> Option<&Surveyed> {
        self.nodes.get(&node)
    }
}

const fn weight(stored: &Bytes) -> usize {
    stored.len() + BESIDE
}

impl Surveyed {
    fn list(&mut self, print: Print, stored: &Bytes, room: &mut usize) {
        let Keys::Listed(keys) = &mut self.keys else { return };
        let full = keys.len() >= self.most;
        if !full && weight(stored) <= *room {
            *room -= weight(stored);
            keys.push(Listed { print, stored: stored.clone() });
        } else {
            *room += keys.iter().map(|key| weight(&key.stored)).sum::<usize>();
            self.keys = if full { Keys::TooMany } else { Keys::NoRoom };
        }
    }
}
