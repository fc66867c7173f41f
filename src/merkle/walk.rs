//! The walk, from the side that began it.
//!
//! A loop for whoever drives it: [`Walk::wanted`], read that, [`Walk::ask`], send that, [`Walk::answered`], until nothing
//! is wanted any more. After a lost reply [`Walk::lost`] puts back what was asked, and the loop goes on; how often is
//! the driver's to say. Partitions that could not be walked to their end are [`Walk::unfinished`].
//!
//! Open nodes lie on a stack, and what was asked last is gone into first: beside the partitions not yet begun, no more
//! are open than a request opens, for each level of the tree.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::messages::{Answer, KEYS_MAX, Mark, NODES_MAX, Question, REQUEST_MAX, Reply, Request, Terms};
use super::node::{MAX_DEPTH, Node};
use super::salt::Salt;
use super::survey::{Keys, Read, Wanted};
use crate::types::PartitionId;

/// Up to so many keys of a node are listed at once; of more, its children are compared first: that takes four prints more
/// and then about a quarter of the keys, each two prints.
const FEW: usize = 6;
/// Room in a request for what is not questions: its head and terms, and the number and count of each partition.
const PARTS_MAX: usize = 1024 + 10 * NODES_MAX;

/// How a key that differs is made equal. States merge, so the order does not matter, nor whether it is done twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Exchange {
    /// Only the other side holds it.
    Fetch,
    /// Only this side holds it.
    Send,
    /// Both hold it, differently: fetch, merge, send back unless that came to what was fetched.
    Both,
}

/// A key that differs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Difference {
    /// Its partition.
    pub partition: PartitionId,
    /// The stored key. What the other side named is to be checked like all that comes from outside.
    pub stored: Bytes,
    /// What to do.
    pub exchange: Exchange,
}

/// A reply that does not answer what was asked: the walk is over, its partitions are unfinished.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a reply to a Merkle walk is none: {0}")]
pub struct Unexpected(pub &'static str);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Open {
    partition: PartitionId,
    node: Node,
    /// The other side would not list it.
    split: bool,
}

#[derive(Debug)]
struct Asked {
    open: Open,
    /// Its keys, in the order of the prints that were sent; none where children were.
    keys: Option<Vec<Bytes>>,
}

/// See the module.
#[derive(Debug)]
pub struct Walk {
    terms: Terms,
    salt: Salt,
    open: Vec<Open>,
    /// What is being read, then what was asked.
    taken: Vec<Open>,
    asked: Vec<Asked>,
    unfinished: BTreeSet<PartitionId>,
}

impl Walk {
    /// A walk over these partitions, whose roots differ.
    #[must_use]
    pub fn new(terms: Terms, differ: impl IntoIterator<Item = PartitionId>) -> Self {
        let open = |partition| Open { partition, node: Node::ROOT, split: false };
        let mut open: Vec<Open> = differ.into_iter().map(open).collect();
        open.reverse();
        let salt = terms.salt();
        Self { terms, salt, open, taken: Vec::new(), asked: Vec::new(), unfinished: BTreeSet::new() }
    }

    /// What it goes by.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Partitions in which something may differ that was not found.
    #[must_use]
    pub const fn unfinished(&self) -> &BTreeSet<PartitionId> {
        &self.unfinished
    }

    /// What is to be read here for the next request, by partition; empty: the walk is over. `first` is the first hour
    /// that counts by now: where that has changed, the walk ends, for what expired since differs by right.
    pub fn wanted(&mut self, first: u32) -> Vec<Wanted> {
        self.lost();
        if first > self.terms.first {
            self.give_up();
        }
        let from = self.open.len().saturating_sub(NODES_MAX);
        self.taken = self.open.split_off(from);
        self.taken.sort_unstable();
        let mut wanted: Vec<Wanted> = Vec::new();
        for Open { partition, node, split } in &self.taken {
            if wanted.last().is_none_or(|last| last.partition != *partition) {
                wanted.push(Wanted { partition: *partition, tree: false, nodes: Vec::new() });
            }
            if let Some(last) = wanted.last_mut() {
                if node.is_above_leaves() {
                    last.tree = true;
                } else {
                    let most = if node.depth() == MAX_DEPTH { KEYS_MAX } else { FEW };
                    last.nodes.push((*node, if *split { 0 } else { most }));
                }
            }
        }
        wanted
    }

    /// The request that goes with what was read, by partition; a partition that could not be read is given up. None:
    /// there is nothing to ask, see what is wanted next.
    pub fn ask(&mut self, read: &BTreeMap<PartitionId, Read>) -> Option<Request> {
        let mut request = Request { terms: self.terms.clone(), parts: Vec::new() };
        let mut room = REQUEST_MAX - PARTS_MAX;
        for open in std::mem::take(&mut self.taken) {
            let Some((question, keys)) = read.get(&open.partition).and_then(|read| self.question(&open, read)) else {
                self.unfinished.insert(open.partition);
                continue;
            };
            let first = request.parts.last().is_none_or(|(partition, _)| *partition != open.partition);
            let Some(left) = room.checked_sub(question.size(self.terms.width)) else {
                self.open.push(open);
                continue;
            };
            room = left;
            match request.parts.last_mut() {
                Some((_, questions)) if !first => questions.push(question),
                _ => request.parts.push((open.partition, vec![question])),
            }
            self.asked.push(Asked { open, keys });
        }
        (!self.asked.is_empty()).then_some(request)
    }

    fn question(&self, open: &Open, read: &Read) -> Option<(Question, Option<Vec<Bytes>>)> {
        let node = open.node;
        let sums = if node.is_above_leaves() {
            let tree = read.tree.as_ref()?;
            node.children()?.map(|child| tree.sum(child))
        } else {
            let surveyed = read.survey.as_ref()?.node(node)?;
            if let Keys::Listed(keys) = &surveyed.keys
                && !open.split
            {
                let prints = keys.iter().map(|key| key.print).collect();
                let names = keys.iter().map(|key| key.stored.clone()).collect();
                return Some((Question::Keys { node, prints }, Some(names)));
            }
            node.children()?;
            surveyed.children
        };
        Some((Question::Children { node, sums: sums.map(|sum| self.salt.sum(sum)) }, None))
    }

    /// The differences that a reply tells.
    pub fn answered(&mut self, reply: Reply) -> Result<Vec<Difference>, Unexpected> {
        let partitions: BTreeSet<PartitionId> = self.asked.iter().map(|asked| asked.open.partition).collect();
        let found = match reply {
            Reply::Answers(parts) => self.compared(parts),
            Reply::Later(first) if first > self.terms.first => {
                self.give_up();
                return Ok(Vec::new());
            }
            Reply::Later(_) => Err(Unexpected("it names an hour that is no later")),
            Reply::Malformed => Err(Unexpected("the request was not understood")),
        };
        if found.is_err() {
            self.unfinished.extend(partitions);
            self.give_up();
        }
        found
    }

    /// No reply came: what was asked is asked again.
    pub fn lost(&mut self) {
        self.open.append(&mut self.taken);
        self.open.extend(self.asked.drain(..).map(|asked| asked.open));
    }

    #[cfg(test)]
    pub(super) const fn open(&self) -> usize {
        self.open.len()
    }

    /// Ends the walk where it is.
    pub fn give_up(&mut self) {
        self.lost();
        self.unfinished.extend(self.open.drain(..).map(|open| open.partition));
    }

    fn compared(&mut self, parts: Vec<Option<Vec<Answer>>>) -> Result<Vec<Difference>, Unexpected> {
        let by_partition: Vec<usize> =
            self.asked.chunk_by(|a, b| a.open.partition == b.open.partition).map(<[Asked]>::len).collect();
        if parts.len() != by_partition.len() {
            return Err(Unexpected("it tells of other partitions"));
        }
        let fits =
            parts.iter().zip(&by_partition).all(|(part, asked)| part.as_ref().is_none_or(|part| part.len() == *asked));
        if !fits {
            return Err(Unexpected("it tells of other nodes"));
        }
        if parts.iter().flatten().flatten().all(|answer| *answer == Answer::NoRoom) && parts.iter().any(Option::is_some)
        {
            return Err(Unexpected("it answers nothing"));
        }
        let (mut found, mut again) = (Vec::new(), Vec::new());
        let mut asked = std::mem::take(&mut self.asked).into_iter();
        for (part, len) in parts.into_iter().zip(by_partition) {
            let asked: Vec<Asked> = asked.by_ref().take(len).collect();
            let Some(part) = part else {
                self.unfinished.extend(asked.first().map(|asked| asked.open.partition));
                continue;
            };
            for (asked, answer) in asked.into_iter().zip(part) {
                self.take(asked, answer, &mut found, &mut again)?;
            }
        }
        // On top: what had no room is asked first now.
        self.open.append(&mut again);
        Ok(found)
    }

    fn take(
        &mut self,
        asked: Asked,
        answer: Answer,
        found: &mut Vec<Difference>,
        again: &mut Vec<Open>,
    ) -> Result<(), Unexpected> {
        let Asked { open, keys } = asked;
        match (answer, keys) {
            (Answer::Children(differ), None) => {
                let children = open.node.children().into_iter().flatten().enumerate();
                let children = children.filter(|(at, _)| differ >> at & 1 == 1).map(|(_, node)| node);
                self.open.extend(children.map(|node| Open { node, split: false, ..open }));
            }
            (Answer::Keys { marks, names }, Some(keys)) if marks.len() == keys.len() => {
                let mut differ: BTreeMap<Bytes, Exchange> = BTreeMap::new();
                for (stored, mark) in keys.iter().zip(marks) {
                    match mark {
                        Mark::Same => continue,
                        Mark::Lacking => differ.insert(stored.clone(), Exchange::Send),
                        Mark::Differs => differ.insert(stored.clone(), Exchange::Both),
                    };
                }
                for stored in names {
                    let exchange = if keys.contains(&stored) { Exchange::Both } else { Exchange::Fetch };
                    differ.insert(stored, exchange);
                }
                let partition = open.partition;
                found.extend(differ.into_iter().map(|(stored, exchange)| Difference { partition, stored, exchange }));
            }
            (Answer::Split, Some(_)) if open.node.depth() < MAX_DEPTH => self.open.push(Open { split: true, ..open }),
            (Answer::NoRoom, _) => again.push(open),
            _ => return Err(Unexpected("it answers another question")),
        }
        Ok(())
    }
}
