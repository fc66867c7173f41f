//! Merkle comparisons on the wire: lists as columns, so that an item costs its own bytes and no tags.
//!
//! Numbers are base-128 digits, least first; partitions are differences from the one before; prints are as wide as the
//! terms say, big endian. What is no such message reads as none, and nothing is allocated beyond what came.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::merkle::{
    Answer, Mark, NODES_MAX, Node, Print, Question, ROOTS_MAX, Reply, Request, Roots, RootsReply, Terms, Width,
};
use crate::types::PartitionId;

/// What both sides go by.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TermsOf {
    /// Random, another one in each round.
    #[prost(fixed64, tag = "1")]
    pub salt: u64,
    /// Bytes of a print: 3 or 8.
    #[prost(uint32, tag = "2")]
    pub width: u32,
    /// The first hour that counts.
    #[prost(uint32, tag = "3")]
    pub first: u32,
    /// The placement classes that count.
    #[prost(uint32, repeated, tag = "4")]
    pub classes: Vec<u32>,
}

/// See [`super::Ask::CompareRoots`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CompareRoots {
    /// What counts.
    #[prost(message, required, tag = "1")]
    pub terms: TermsOf,
    /// Partitions.
    #[prost(bytes = "bytes", tag = "2")]
    pub partitions: Bytes,
    /// The print of each root: eight bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub prints: Bytes,
}

/// See [`super::Tell::RootsCompared`]: nothing was compared where `malformed`, or `later` is there.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RootsCompared {
    /// The first hour that counts here, where that is a later one.
    #[prost(uint32, optional, tag = "1")]
    pub later: Option<u32>,
    /// The question is none.
    #[prost(bool, tag = "2")]
    pub malformed: bool,
    /// Partitions that differ.
    #[prost(bytes = "bytes", tag = "3")]
    pub differ: Bytes,
    /// Partitions that nothing can be told of.
    #[prost(bytes = "bytes", tag = "4")]
    pub cannot: Bytes,
}

/// See [`super::Ask::Descend`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Descend {
    /// What counts.
    #[prost(message, required, tag = "1")]
    pub terms: TermsOf,
    /// Partitions.
    #[prost(bytes = "bytes", tag = "2")]
    pub partitions: Bytes,
    /// How many questions each partition has.
    #[prost(bytes = "bytes", tag = "3")]
    pub counts: Bytes,
    /// The node of each question.
    #[prost(bytes = "bytes", tag = "4")]
    pub nodes: Bytes,
    /// Of each question 0 where it is about the node's children, else one more than the keys it lists.
    #[prost(bytes = "bytes", tag = "5")]
    pub keys: Bytes,
    /// Prints: of four sums, or of a key and its element each.
    #[prost(bytes = "bytes", tag = "6")]
    pub prints: Bytes,
}

/// See [`super::Tell::Descended`]: nothing was compared where `malformed`, or `later` is there.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Descended {
    /// The first hour that counts here, where that is a later one.
    #[prost(uint32, optional, tag = "1")]
    pub later: Option<u32>,
    /// The question is none.
    #[prost(bool, tag = "2")]
    pub malformed: bool,
    /// Of each partition asked about one more than it has answers; 0 where nothing can be told of it.
    #[prost(bytes = "bytes", tag = "3")]
    pub counts: Bytes,
    /// The answers: 0 to 15 which children differ; 16 split; 17 no room; 18 keys, then how many were asked about, two bits
    /// for each (same, lacking, differs), how many names, and each with its length.
    #[prost(bytes = "bytes", tag = "4")]
    pub answers: Bytes,
}

const SPLIT: u64 = 16;
const NO_ROOM: u64 = 17;
const KEYS: u64 = 18;

/// A column being written.
#[derive(Default)]
struct Column(BytesMut);

impl Column {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.put_u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.put_u8(number as u8);
    }

    fn print(&mut self, print: u64, width: Width) {
        self.0.put_uint(print, width.bytes());
    }

    fn partitions(partitions: impl IntoIterator<Item = PartitionId>) -> Bytes {
        let (mut column, mut last) = (Self::default(), 0);
        for PartitionId(partition) in partitions {
            column.number(u64::from(partition.wrapping_sub(last)));
            last = partition;
        }
        column.0.freeze()
    }
}

/// A column being read.
struct Reading(Bytes);

impl Reading {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.0.try_get_u8().ok()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn print(&mut self, width: Width) -> Option<u64> {
        self.0.try_get_uint(width.bytes()).ok()
    }

    fn bytes(&mut self, len: u64) -> Option<Bytes> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.0.len())?;
        Some(self.0.split_to(len))
    }

    fn ended(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    fn partitions(column: &Bytes, most: usize) -> Option<Vec<PartitionId>> {
        let (mut column, mut partitions, mut last) = (Self(column.clone()), Vec::new(), 0u32);
        while !column.0.is_empty() {
            last = last.wrapping_add(u32::try_from(column.number()?).ok()?);
            partitions.push(PartitionId(last));
            if partitions.len() > most {
                return None;
            }
        }
        Some(partitions)
    }
}

impl From<&Terms> for TermsOf {
    fn from(terms: &Terms) -> Self {
        Self {
            salt: terms.salt,
            width: u32::try_from(terms.width.bytes()).unwrap_or(0),
            first: terms.first,
            classes: terms.classes.iter().map(|class| u32::from(*class)).collect(),
        }
    }
}

impl TermsOf {
    fn read(&self) -> Option<Terms> {
        let width = [Width::Short, Width::Full].into_iter().find(|width| width.bytes() == self.width as usize)?;
        let classes = self.classes.iter().map(|class| u16::try_from(*class).ok()).collect::<Option<_>>()?;
        Some(Terms { salt: self.salt, width, first: self.first, classes })
    }
}

impl From<&Roots> for CompareRoots {
    fn from(roots: &Roots) -> Self {
        let mut prints = Column::default();
        roots.roots.iter().for_each(|(_, print)| prints.print(*print, Width::Full));
        Self {
            terms: (&roots.terms).into(),
            partitions: Column::partitions(roots.roots.iter().map(|(partition, _)| *partition)),
            prints: prints.0.freeze(),
        }
    }
}

impl CompareRoots {
    /// What it says; none: it is no such message.
    #[must_use]
    pub fn read(&self) -> Option<Roots> {
        let partitions = Reading::partitions(&self.partitions, ROOTS_MAX)?;
        let mut prints = Reading(self.prints.clone());
        let roots = partitions.into_iter().map(|partition| Some((partition, prints.print(Width::Full)?)));
        let roots = roots.collect::<Option<_>>()?;
        prints.ended()?;
        Some(Roots { terms: self.terms.read()?, roots })
    }
}

impl From<&RootsReply> for RootsCompared {
    fn from(reply: &RootsReply) -> Self {
        match reply {
            RootsReply::Later(first) => Self { later: Some(*first), ..Self::default() },
            RootsReply::Malformed => Self { malformed: true, ..Self::default() },
            RootsReply::Compared { differ, cannot } => Self {
                differ: Column::partitions(differ.iter().copied()),
                cannot: Column::partitions(cannot.iter().copied()),
                ..Self::default()
            },
        }
    }
}

impl RootsCompared {
    /// What it says; none: it is no such message.
    #[must_use]
    pub fn read(&self) -> Option<RootsReply> {
        Some(match (self.malformed, self.later) {
            (true, _) => RootsReply::Malformed,
            (false, Some(first)) => RootsReply::Later(first),
            (false, None) => RootsReply::Compared {
                differ: Reading::partitions(&self.differ, ROOTS_MAX)?,
                cannot: Reading::partitions(&self.cannot, ROOTS_MAX)?,
            },
        })
    }
}

impl From<&Request> for Descend {
    fn from(request: &Request) -> Self {
        let width = request.terms.width;
        let (mut counts, mut nodes, mut keys, mut prints) =
            (Column::default(), Column::default(), Column::default(), Column::default());
        for (_, questions) in &request.parts {
            counts.number(questions.len() as u64);
            for question in questions {
                nodes.number(question.node().number());
                match question {
                    Question::Children { sums, .. } => {
                        keys.number(0);
                        sums.iter().for_each(|sum| prints.print(*sum, width));
                    }
                    Question::Keys { prints: listed, .. } => {
                        keys.number(listed.len() as u64 + 1);
                        for Print { key, element } in listed {
                            prints.print(*key, width);
                            prints.print(*element, width);
                        }
                    }
                }
            }
        }
        Self {
            terms: (&request.terms).into(),
            partitions: Column::partitions(request.parts.iter().map(|(partition, _)| *partition)),
            counts: counts.0.freeze(),
            nodes: nodes.0.freeze(),
            keys: keys.0.freeze(),
            prints: prints.0.freeze(),
        }
    }
}

impl Descend {
    /// What it says; none: it is no such message.
    #[must_use]
    pub fn read(&self) -> Option<Request> {
        let terms = self.terms.read()?;
        let width = terms.width;
        let reading = |column: &Bytes| Reading(column.clone());
        let (mut counts, mut nodes) = (reading(&self.counts), reading(&self.nodes));
        let (mut keys, mut prints) = (reading(&self.keys), reading(&self.prints));
        let mut parts = Vec::new();
        for partition in Reading::partitions(&self.partitions, NODES_MAX)? {
            let count = counts.number().filter(|count| *count <= NODES_MAX as u64)?;
            let mut questions = Vec::new();
            for _ in 0..count {
                let node = Node::new(nodes.number()?)?;
                questions.push(match keys.number()?.checked_sub(1) {
                    None => {
                        let mut sums = [0; 4];
                        for sum in &mut sums {
                            *sum = prints.print(width)?;
                        }
                        Question::Children { node, sums }
                    }
                    Some(listed) => {
                        let mut found = Vec::new();
                        for _ in 0..listed {
                            found.push(Print { key: prints.print(width)?, element: prints.print(width)? });
                        }
                        Question::Keys { node, prints: found }
                    }
                });
            }
            parts.push((partition, questions));
        }
        [counts, nodes, keys, prints].iter().try_for_each(Reading::ended)?;
        Some(Request { terms, parts })
    }
}

impl From<&Reply> for Descended {
    fn from(reply: &Reply) -> Self {
        let parts = match reply {
            Reply::Later(first) => return Self { later: Some(*first), ..Self::default() },
            Reply::Malformed => return Self { malformed: true, ..Self::default() },
            Reply::Answers(parts) => parts,
        };
        let (mut counts, mut answers) = (Column::default(), Column::default());
        for part in parts {
            counts.number(part.as_ref().map_or(0, |part| part.len() as u64 + 1));
            part.iter().flatten().for_each(|answer| write(answer, &mut answers));
        }
        Self { counts: counts.0.freeze(), answers: answers.0.freeze(), ..Self::default() }
    }
}

fn write(answer: &Answer, column: &mut Column) {
    match answer {
        Answer::Children(mask) => column.number(u64::from(mask & 15)),
        Answer::Split => column.number(SPLIT),
        Answer::NoRoom => column.number(NO_ROOM),
        Answer::Keys { marks, names } => {
            column.number(KEYS);
            column.number(marks.len() as u64);
            for four in marks.chunks(4) {
                let bits = |mark: &Mark| match mark {
                    Mark::Same => 0,
                    Mark::Lacking => 1,
                    Mark::Differs => 2,
                };
                column.0.put_u8(four.iter().rev().fold(0, |byte, mark| byte << 2 | bits(mark)));
            }
            column.number(names.len() as u64);
            for name in names {
                column.number(name.len() as u64);
                column.0.put_slice(name);
            }
        }
    }
}

fn read(column: &mut Reading) -> Option<Answer> {
    Some(match column.number()? {
        mask @ 0..=15 => Answer::Children(mask as u8),
        SPLIT => Answer::Split,
        NO_ROOM => Answer::NoRoom,
        KEYS => {
            let count = column.number()?;
            let packed = column.bytes(count.div_ceil(4))?;
            let bits = packed.iter().flat_map(|byte| [0, 2, 4, 6].map(|shift| byte >> shift & 3));
            let mark = |bits| match bits {
                0 => Some(Mark::Same),
                1 => Some(Mark::Lacking),
                2 => Some(Mark::Differs),
                _ => None,
            };
            let marks = bits.take(usize::try_from(count).ok()?).map(mark).collect::<Option<_>>()?;
            let mut names = Vec::new();
            for _ in 0..column.number()? {
                let len = column.number()?;
                names.push(column.bytes(len)?);
            }
            Answer::Keys { marks, names }
        }
        _ => return None,
    })
}

impl Descended {
    /// What it says; none: it is no such message.
    #[must_use]
    pub fn read(&self) -> Option<Reply> {
        match (self.malformed, self.later) {
            (true, _) => return Some(Reply::Malformed),
            (false, Some(first)) => return Some(Reply::Later(first)),
            (false, None) => {}
        }
        let (mut counts, mut answers) = (Reading(self.counts.clone()), Reading(self.answers.clone()));
        let mut parts = Vec::new();
        while !counts.0.is_empty() {
            let part = match counts.number()?.checked_sub(1) {
                None => None,
                Some(count) if count > NODES_MAX as u64 => return None,
                Some(count) => Some((0..count).map(|_| read(&mut answers)).collect::<Option<Vec<_>>>()?),
            };
            parts.push(part);
        }
        answers.ended()?;
        Some(Reply::Answers(parts))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn terms() -> impl Strategy<Value = Terms> {
        let width = prop_oneof![Just(Width::Short), Just(Width::Full)];
        (any::<u64>(), width, any::<u32>(), vec(any::<u16>(), 0..4)).prop_map(|(salt, width, first, classes)| Terms {
            salt,
            width,
            first,
            classes,
        })
    }

    fn partitions(most: usize) -> impl Strategy<Value = Vec<PartitionId>> {
        vec(any::<u32>().prop_map(PartitionId), 0..most)
    }

    fn node() -> impl Strategy<Value = Node> {
        (0..=20_u32, any::<u64>()).prop_map(|(depth, path)| {
            let number = 1 << (2 * depth) | path & ((1 << (2 * depth)) - 1);
            Node::new(number).unwrap()
        })
    }

    fn question(width: Width) -> impl Strategy<Value = Question> {
        let print = move || any::<u64>().prop_map(move |print| print >> (64 - 8 * width.bytes()));
        let keys = vec((print(), print()).prop_map(|(key, element)| Print { key, element }), 0..9);
        prop_oneof![
            (node(), [print(), print(), print(), print()]).prop_map(|(node, sums)| Question::Children { node, sums }),
            (node(), keys).prop_map(|(node, prints)| Question::Keys { node, prints }),
        ]
    }

    fn request() -> impl Strategy<Value = Request> {
        terms().prop_flat_map(|terms| {
            let parts = vec((any::<u32>().prop_map(PartitionId), vec(question(terms.width), 0..5)), 0..5);
            parts.prop_map(move |parts| Request { terms: terms.clone(), parts })
        })
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let mark = prop_oneof![Just(Mark::Same), Just(Mark::Lacking), Just(Mark::Differs)];
        let names = vec(vec(any::<u8>(), 0..300).prop_map(Bytes::from), 0..4);
        prop_oneof![
            (0..16_u8).prop_map(Answer::Children),
            Just(Answer::Split),
            Just(Answer::NoRoom),
            (vec(mark, 0..10), names).prop_map(|(marks, names)| Answer::Keys { marks, names }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]
        #[test]
        fn roots_survive_the_wire(terms in terms(), roots in vec((any::<u32>().prop_map(PartitionId), any::<u64>()), 0..50)) {
            let roots = Roots { terms, roots };
            let sent = CompareRoots::from(&roots).encode_to_vec();
            prop_assert_eq!(CompareRoots::decode(&sent[..]).unwrap().read(), Some(roots));
        }

        #[test]
        fn replies_to_roots_survive_the_wire(differ in partitions(50), cannot in partitions(50), first: u32) {
            for reply in [RootsReply::Compared { differ, cannot }, RootsReply::Later(first), RootsReply::Malformed] {
                let sent = RootsCompared::from(&reply).encode_to_vec();
                prop_assert_eq!(RootsCompared::decode(&sent[..]).unwrap().read(), Some(reply));
            }
        }

        #[test]
        fn steps_of_a_walk_survive_the_wire(request in request()) {
            let sent = Descend::from(&request).encode_to_vec();
            // What it is counted as bounds what it takes.
            prop_assert!(sent.len() <= request.size() + 16, "{} of {}", sent.len(), request.size());
            prop_assert_eq!(Descend::decode(&sent[..]).unwrap().read(), Some(request));
        }

        #[test]
        fn answers_survive_the_wire(parts in vec(proptest::option::of(vec(answer(), 0..6)), 0..6), first: u32) {
            for reply in [Reply::Answers(parts), Reply::Later(first), Reply::Malformed] {
                let sent = Descended::from(&reply).encode_to_vec();
                prop_assert_eq!(Descended::decode(&sent[..]).unwrap().read(), Some(reply));
            }
        }

        #[test]
        fn garbage_reads_as_something_or_nothing(a in vec(any::<u8>(), 0..60), b in vec(any::<u8>(), 0..60), c in vec(any::<u8>(), 0..60), width in 0..9_u32) {
            let (a, b, c) = (Bytes::from(a), Bytes::from(b), Bytes::from(c));
            let terms = TermsOf { width, ..TermsOf::default() };
            let _ = CompareRoots { terms: terms.clone(), partitions: a.clone(), prints: b.clone() }.read();
            let _ = RootsCompared { differ: a.clone(), cannot: b.clone(), ..RootsCompared::default() }.read();
            let descend = Descend { terms, partitions: a.clone(), counts: b.clone(), nodes: c.clone(), keys: a.clone(), prints: c };
            let _ = descend.read();
            let _ = Descended { counts: a, answers: b, ..Descended::default() }.read();
        }
    }
}
