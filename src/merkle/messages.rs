//! What two owners say to each other, and how much room it takes.
//!
//! The transport puts these on the wire with lists as columns: numbers as base-128 digits in one, partitions there as
//! differences from the one before, prints and names in others. So an item costs its own bytes and no tags; `size` counts
//! that, and `HEADER` for the frame and the layouts that each message names.

use bytes::Bytes;

use super::node::Node;
use super::salt::{Salt, Width};
use super::tree::Root;
use crate::types::PartitionId;

/// Most questions in one request.
pub const NODES_MAX: usize = 600;
/// Most partitions in one comparison of roots.
pub const ROOTS_MAX: usize = 4096;
/// Most bytes of a request.
pub const REQUEST_MAX: usize = 48 * 1024;
/// Most bytes of a reply.
pub const REPLY_MAX: usize = 64 * 1024;
/// Most keys that are listed of one node; of more, its children are asked for.
pub(super) const KEYS_MAX: usize = 256;
/// Most placement classes in one message.
const CLASSES_MAX: usize = 256;
const HEADER: usize = 64;

/// Bytes of a number as base-128 digits.
const fn digits(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes of partitions, as differences.
fn partitions_size(partitions: impl IntoIterator<Item = PartitionId>) -> usize {
    let mut last = 0;
    let size = |PartitionId(partition)| {
        let size = digits(u64::from(partition.wrapping_sub(last)));
        last = partition;
        size
    };
    partitions.into_iter().map(size).sum()
}

/// What both sides of a walk go by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Terms {
    /// Random, another one in each round.
    pub salt: u64,
    /// How wide prints are.
    pub width: Width,
    /// The first hour that counts ([`first_hour`](super::first_hour)).
    pub first: u32,
    /// The placement classes that both hold of these partitions; at most 256.
    pub classes: Vec<u16>,
}

impl Terms {
    /// Whether what hangs under this class and hour is compared.
    #[must_use]
    pub fn counts(&self, class: u16, hour: u32) -> bool {
        hour >= self.first && self.classes.contains(&class)
    }

    /// Whether there are no more classes than a message has.
    pub(super) const fn are_bounded(&self) -> bool {
        self.classes.len() <= CLASSES_MAX
    }

    pub(super) fn salt(&self) -> Salt {
        Salt::new(self.salt, self.width)
    }

    fn size(&self) -> usize {
        8 + 1 + 5 + 1 + 2 * self.classes.len()
    }
}

/// The roots of partitions, to be compared with the receiver's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Roots {
    /// What counts.
    pub terms: Terms,
    /// Prints of roots, ascending by partition; at most [`ROOTS_MAX`].
    pub roots: Vec<(PartitionId, u64)>,
}

impl Roots {
    /// The messages that compare these roots.
    #[must_use]
    pub fn of(terms: &Terms, roots: &[(PartitionId, Root)]) -> Vec<Self> {
        let salt = terms.salt();
        let print = |(partition, root): &(PartitionId, Root)| (*partition, salt.root(*root));
        let some = |roots: &[_]| Self { terms: terms.clone(), roots: roots.iter().map(print).collect() };
        roots.chunks(ROOTS_MAX).map(some).collect()
    }

    /// About as many bytes as it takes on the wire.
    #[must_use]
    pub fn size(&self) -> usize {
        let partitions = partitions_size(self.roots.iter().map(|(partition, _)| *partition));
        HEADER + self.terms.size() + partitions + 8 * self.roots.len()
    }
}

/// The answer to [`Roots`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RootsReply {
    /// Nothing was compared: an hour has passed here. Ask again with this first hour.
    Later(u32),
    /// Nothing was compared: the message is none that this version sends.
    Malformed,
    /// Compared.
    Compared {
        /// Partitions that differ.
        differ: Vec<PartitionId>,
        /// Partitions that the receiver cannot tell anything of.
        cannot: Vec<PartitionId>,
    },
}

impl RootsReply {
    /// About as many bytes as it takes on the wire.
    #[must_use]
    pub fn size(&self) -> usize {
        HEADER
            + match self {
                Self::Later(_) => 5,
                Self::Malformed => 1,
                Self::Compared { differ, cannot } => {
                    partitions_size(differ.iter().copied()) + partitions_size(cannot.iter().copied())
                }
            }
    }
}

/// What the sender holds under a key, in short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Print {
    /// Tells the key from others of its node.
    pub key: u64,
    /// Tells its digest from another; 0: the sender leaves this key out.
    pub element: u64,
}

/// A question about one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Question {
    /// Which of its children differ from these sums?
    Children {
        /// The node.
        node: Node,
        /// Prints of the sums of its children.
        sums: [u64; 4],
    },
    /// Which keys differ from these? Only of nodes at or below the leaves.
    Keys {
        /// The node.
        node: Node,
        /// All that the sender holds there.
        prints: Vec<Print>,
    },
}

impl Question {
    /// The node asked about.
    #[must_use]
    pub const fn node(&self) -> Node {
        match self {
            Self::Children { node, .. } | Self::Keys { node, .. } => *node,
        }
    }

    pub(super) fn size(&self, width: Width) -> usize {
        // The count, 0 where children are asked for, then the prints.
        let (count, prints) = match self {
            Self::Children { .. } => (0, 4),
            Self::Keys { prints, .. } => (prints.len() + 1, 2 * prints.len()),
        };
        digits(self.node().number()) + digits(count as u64) + prints * width.bytes()
    }
}

/// Questions about nodes of partitions that differ.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// What counts.
    pub terms: Terms,
    /// By partition, each once; at most [`NODES_MAX`] questions in all.
    pub parts: Vec<(PartitionId, Vec<Question>)>,
}

impl Request {
    /// About as many bytes as it takes on the wire.
    #[must_use]
    pub fn size(&self) -> usize {
        let partitions = partitions_size(self.parts.iter().map(|(partition, _)| *partition));
        let counts = self.parts.iter().map(|(_, questions)| digits(questions.len() as u64));
        let questions = self.parts.iter().flat_map(|(_, questions)| questions);
        let questions = questions.map(|question| question.size(self.terms.width));
        HEADER + self.terms.size() + partitions + counts.sum::<usize>() + questions.sum::<usize>()
    }
}

/// What is the matter with a key that was asked about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mark {
    /// Both hold the same, or one of them leaves it out.
    Same,
    /// The answering side does not hold it.
    Lacking,
    /// The two hold different objects.
    Differs,
}

/// The answer to one question.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// The children that differ: bit 0 is the first.
    Children(u8),
    /// The keys that differ.
    Keys {
        /// Of the keys asked about, in their order.
        marks: Vec<Mark>,
        /// Stored keys that only the answering side holds.
        names: Vec<Bytes>,
    },
    /// Too many keys: ask for the children.
    Split,
    /// There was no room: ask again.
    NoRoom,
}

impl Answer {
    pub(super) fn size(&self) -> usize {
        1 + match self {
            Self::Children(_) | Self::Split | Self::NoRoom => 0,
            Self::Keys { marks, names } => marks.len().div_ceil(4) + names.iter().map(Self::name_size).sum::<usize>(),
        }
    }

    pub(super) fn name_size(name: &Bytes) -> usize {
        digits(name.len() as u64) + name.len()
    }
}

/// The answer to a [`Request`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reply {
    /// Nothing was compared: an hour has passed here, and this is the first that counts.
    Later(u32),
    /// Nothing was compared: the request is none that this version sends.
    Malformed,
    /// By partition and question, in the order of the request; none for a partition that the receiver cannot tell
    /// anything of.
    Answers(Vec<Option<Vec<Answer>>>),
}

impl Reply {
    pub(super) const EMPTY_SIZE: usize = HEADER;

    /// About as many bytes as it takes on the wire.
    #[must_use]
    pub fn size(&self) -> usize {
        let part = |part: &Option<Vec<Answer>>| 1 + part.iter().flatten().map(Answer::size).sum::<usize>();
        HEADER
            + match self {
                Self::Later(_) => 5,
                Self::Malformed => 1,
                Self::Answers(parts) => parts.iter().map(part).sum(),
            }
    }
}
