//! The answering side: it keeps nothing from one message to the next.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::messages::{
    Answer, KEYS_MAX, Mark, NODES_MAX, Print, Question, REPLY_MAX, ROOTS_MAX, Reply, Request, Roots, RootsReply,
};
use super::node::MAX_DEPTH;
use super::salt::{LEFT_OUT, Salt};
use super::survey::{Keys, Listed, Read, Wanted};
use super::tree::{Root, Tree};
use crate::types::PartitionId;

/// Most bytes of names in one answer; of more, the node's children are to be asked for.
const NAMES_MAX: usize = REPLY_MAX / 4;

/// Compares roots with this side's, `root_of` a partition under the message's terms; none where it has none to tell.
/// `first` is the first hour that counts here.
pub fn answer_roots(roots: &Roots, first: u32, mut root_of: impl FnMut(PartitionId) -> Option<Root>) -> RootsReply {
    if roots.roots.len() > ROOTS_MAX || !roots.terms.are_bounded() {
        return RootsReply::Malformed;
    }
    if first > roots.terms.first {
        return RootsReply::Later(first);
    }
    let salt = roots.terms.salt();
    let (mut differ, mut cannot) = (Vec::new(), Vec::new());
    for (partition, print) in &roots.roots {
        match root_of(*partition) {
            None => cannot.push(*partition),
            Some(root) if salt.root(root) != *print => differ.push(*partition),
            Some(_) => {}
        }
    }
    RootsReply::Compared { differ, cannot }
}

/// A request while it is answered, partition by partition: [`Answering::wanted`], read that, [`Answering::read`], and
/// when nothing is wanted any more, [`Answering::reply`].
#[derive(Debug)]
pub struct Answering<'a> {
    request: &'a Request,
    salt: Salt,
    answers: Vec<Option<Vec<Answer>>>,
    room: usize,
}

impl<'a> Answering<'a> {
    /// Begins; `first` is the first hour that counts here. `Err` is the reply where there is nothing to be read for it.
    pub fn new(request: &'a Request, first: u32) -> Result<Self, Reply> {
        if !is_well_formed(request) {
            return Err(Reply::Malformed);
        }
        if first > request.terms.first {
            return Err(Reply::Later(first));
        }
        let questions: usize = request.parts.iter().map(|(_, questions)| questions.len()).sum();
        let short = Reply::EMPTY_SIZE + 2 * request.parts.len() + questions;
        let salt = request.terms.salt();
        Ok(Self { request, salt, answers: Vec::new(), room: REPLY_MAX.saturating_sub(short) })
    }

    /// What is to be read for the next partition; none: all are answered.
    #[must_use]
    pub fn wanted(&self) -> Option<Wanted> {
        let (partition, questions) = self.request.parts.get(self.answers.len())?;
        let mut wanted = Wanted { partition: *partition, tree: false, nodes: Vec::new() };
        for question in questions {
            match question {
                Question::Children { node, .. } if node.is_above_leaves() => wanted.tree = true,
                Question::Children { node, .. } => wanted.nodes.push((*node, 0)),
                Question::Keys { node, .. } => wanted.nodes.push((*node, KEYS_MAX)),
            }
        }
        Some(wanted)
    }

    /// Answers for that partition; none: it cannot be read.
    pub fn read(&mut self, read: Option<&Read>) {
        let request = self.request;
        let Some((_, questions)) = request.parts.get(self.answers.len()) else { return };
        let answers = read.and_then(|read| questions.iter().map(|question| self.answer(question, read)).collect());
        self.answers.push(answers);
    }

    /// The reply.
    #[must_use]
    pub fn reply(self) -> Reply {
        Reply::Answers(self.answers)
    }

    fn answer(&mut self, question: &Question, read: &Read) -> Option<Answer> {
        match question {
            Question::Children { node, sums } => {
                let held = match node.children() {
                    Some(children) if node.is_above_leaves() => {
                        let tree: &Tree = read.tree.as_ref()?;
                        children.map(|child| tree.sum(child))
                    }
                    _ => read.survey.as_ref()?.node(*node)?.children,
                };
                let differ = held.iter().zip(sums).map(|(held, asked)| u8::from(self.salt.sum(*held) != *asked));
                Some(Answer::Children(differ.rev().fold(0, |mask, differs| mask << 1 | differs)))
            }
            Question::Keys { node, prints } => {
                let held = match &read.survey.as_ref()?.node(*node)?.keys {
                    Keys::Listed(held) => held,
                    Keys::TooMany if node.depth() < MAX_DEPTH => return Some(Answer::Split),
                    // More than can be listed of one node that can't be split: a hash whose 32 bits are all alike.
                    Keys::TooMany => return None,
                    Keys::NoRoom => return Some(Answer::NoRoom),
                };
                let (marks, mut names) = compare(prints, held);
                let mut size = 0;
                let most = names.iter().take_while(|name| {
                    size += Answer::name_size(name);
                    size <= NAMES_MAX
                });
                let most = most.count();
                if most < names.len() && node.depth() < MAX_DEPTH {
                    return Some(Answer::Split);
                }
                names.truncate(most);
                let answer = Answer::Keys { marks, names };
                match self.room.checked_sub(answer.size()) {
                    None => Some(Answer::NoRoom),
                    Some(room) => {
                        self.room = room;
                        Some(answer)
                    }
                }
            }
        }
    }
}

fn is_well_formed(request: &Request) -> bool {
    let mut count = 0;
    let mut questions = request.parts.iter().flat_map(|(_, questions)| questions);
    let plain = questions.all(|question| {
        count += 1;
        match question {
            Question::Children { node, .. } => node.children().is_some(),
            Question::Keys { node, prints } => !node.is_above_leaves() && prints.len() <= KEYS_MAX,
        }
    });
    plain
        && count <= NODES_MAX
        && request.terms.are_bounded()
        && request.parts.iter().all(|(_, questions)| !questions.is_empty())
}

/// What is the matter with the keys asked about, and the names of those that only this side holds.
///
/// Keys are paired by their prints. Where several that differ share one (different keys, once in millions), those asked
/// about differ and those held are named: too much is exchanged, and nothing is passed over. Only where just one is left
/// on each side are two keys taken for one, until the next salt tells them apart.
fn compare(asked: &[Print], held: &[Listed]) -> (Vec<Mark>, Vec<Bytes>) {
    let mut by_key: BTreeMap<u64, (Vec<usize>, Vec<&Listed>)> = BTreeMap::new();
    for (at, print) in asked.iter().enumerate() {
        by_key.entry(print.key).or_default().0.push(at);
    }
    for listed in held {
        by_key.entry(listed.print.key).or_default().1.push(listed);
    }
    let (mut marks, mut names) = (vec![Mark::Same; asked.len()], Vec::new());
    for (mut asking, mut held) in by_key.into_values() {
        let left_out = asking.iter().any(|at| asked[*at].element == LEFT_OUT)
            || held.iter().any(|listed| listed.print.element == LEFT_OUT);
        if left_out {
            continue;
        }
        asking.retain(|at| match held.iter().position(|listed| listed.print == asked[*at]) {
            None => true,
            Some(same) => {
                held.swap_remove(same);
                false
            }
        });
        let mark = if held.is_empty() { Mark::Lacking } else { Mark::Differs };
        asking.iter().for_each(|at| marks[*at] = mark);
        if (asking.len(), held.len()) != (1, 1) {
            names.extend(held.into_iter().map(|listed| listed.stored.clone()));
        }
    }
    (marks, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked, held, marks, names.
    type Row<'a> = (&'a [(u64, u64)], &'a [(u64, u64)], &'a str, &'a [u8]);

    fn print((key, element): &(u64, u64)) -> Print {
        Print { key: *key, element: *element }
    }

    /// Marks as letters, and which of those held are named.
    fn said(asked: &[(u64, u64)], held: &[(u64, u64)]) -> (String, Vec<u8>) {
        let asked: Vec<Print> = asked.iter().map(print).collect();
        let name = |(at, held)| Listed { print: print(held), stored: Bytes::from(vec![at as u8]) };
        let held: Vec<Listed> = held.iter().enumerate().map(name).collect();
        let (marks, names) = compare(&asked, &held);
        let letter = |mark: &Mark| match mark {
            Mark::Same => 's',
            Mark::Lacking => 'l',
            Mark::Differs => 'd',
        };
        let mut names: Vec<u8> = names.iter().map(|name| name[0]).collect();
        names.sort_unstable();
        (marks.iter().map(letter).collect(), names)
    }

    #[test]
    fn keys_are_paired_by_their_prints_and_nothing_is_passed_over_where_several_share_one() {
        let table: &[Row<'_>] = &[
            (&[], &[], "", &[]),
            (&[(1, 5), (2, 6), (3, 7)], &[(3, 7), (2, 9), (4, 7)], "lds", &[2]),
            // Of two keys with one print the one that is held alike is the same, the other is on its own.
            (&[(1, 5), (1, 6)], &[(1, 6)], "ls", &[]),
            (&[(1, 5)], &[(1, 6), (1, 5)], "s", &[0]),
            // Which is which cannot be told: all are exchanged.
            (&[(1, 5), (1, 6)], &[(1, 7)], "dd", &[0]),
            (&[(1, 5)], &[(1, 6), (1, 7)], "d", &[0, 1]),
            (&[(1, 5), (1, 5)], &[(1, 5)], "sl", &[]),
            // Left out by either side.
            (&[(1, LEFT_OUT), (2, 5)], &[(1, 5), (2, LEFT_OUT), (3, LEFT_OUT)], "ss", &[]),
            (&[(1, LEFT_OUT)], &[], "s", &[]),
        ];
        for (asked, held, marks, names) in table {
            assert_eq!(said(asked, held), ((*marks).to_owned(), names.to_vec()), "{asked:?} {held:?}");
        }
    }
}
