//! What a directory that went back explains, and nothing more.
//!
//! A copy put back unnoticed votes "not found" for what it forgot (`docs/decisions/0012`): a read that counts it may miss
//! that. It explains a read only as far as this goes: of an object that its node owns, begun after it went back and
//! before anybody noticed, and missing only what was acknowledged, or read at a quorum, while it was being forgotten:
//! not before the copy was made, and not once more since it was put back.
//!
//! Nothing explains a loss.

use std::collections::{BTreeMap, BTreeSet};

use super::{Digested, Violation, name};
use crate::causality::VersionVector;
use crate::sim::history::{Event, Line, Verb};

/// A directory that went back, by the recorder's clock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WentBack {
    /// When the copy was made.
    pub copied: u64,
    /// When it was put back.
    pub back: u64,
    /// When the node had its proof: from then on nothing of its directory is a vote until it is merged from the others.
    pub noticed: Option<u64>,
    /// The keys that its node owns.
    pub keys: BTreeSet<String>,
}

/// The rules about what a read has to cover.
const ABOUT_READS: [&str; 5] = ["stale", "went-back", "own-write-missed", "session-went-back", "returned"];

/// What is left of `violations` of a history with `n` replicas once what these explain is taken away.
#[must_use]
pub fn unexplained(lines: &[Line], n: u8, violations: Vec<Violation>, went_back: &[WentBack]) -> Vec<Violation> {
    if went_back.is_empty() {
        return violations;
    }
    let digested = Digested::new(lines);
    let mut ends: BTreeMap<u64, (u64, Option<u64>)> = BTreeMap::new();
    for line in lines {
        match line.event {
            Event::Invoke(_) => drop(ends.insert(line.op, (line.at, None))),
            _ => drop(ends.entry(line.op).and_modify(|(_, end)| *end = Some(line.at))),
        }
    }
    let judge = Judge { digested: &digested, ends: &ends, n, went_back };
    violations.into_iter().filter(|violation| !judge.explains(violation)).collect()
}

struct Judge<'a> {
    digested: &'a Digested<'a>,
    /// When each operation began and ended.
    ends: &'a BTreeMap<u64, (u64, Option<u64>)>,
    n: u8,
    went_back: &'a [WentBack],
}

impl Judge<'_> {
    fn explains(&self, violation: &Violation) -> bool {
        let Some(read) = violation.op.filter(|_| ABOUT_READS.contains(&violation.rule)) else { return false };
        let (Some(op), Some(&(began, _))) = (self.digested.ops.get(&read), self.ends.get(&read)) else { return false };
        let Some(context) = op.answered().and_then(|answered| answered.context.as_ref()) else { return false };
        let ended = |went: &&WentBack| went.noticed.is_none_or(|noticed| began < noticed);
        let windows: Vec<(u64, u64)> = self
            .went_back
            .iter()
            .filter(|went| went.back <= self.ends[&read].1.unwrap_or(u64::MAX) && went.keys.contains(&op.invoke.key))
            .filter(ended)
            .map(|went| (went.copied, went.back))
            .collect();
        // Everything that it misses has to be explained, not only what the violation is about.
        let established = self.digested.ops.values().filter(|other| name(other.invoke) == name(op.invoke));
        let mut missed = established.filter_map(|other| {
            let (from, to) = *self.ends.get(&other.id)?;
            let known = self.established_by(other.id)?;
            let meets = u16::from(other.invoke.level) + u16::from(op.invoke.level) > u16::from(self.n);
            let before = to.is_some_and(|to| to <= began);
            (before && meets && !context.covers_all(&known)).then_some((from, to.unwrap_or(u64::MAX)))
        });
        !windows.is_empty()
            && missed.all(|(from, to)| windows.iter().any(|(copied, back)| from <= *back && to >= *copied))
    }

    /// What as many replicas as its level says hold since an operation was answered.
    fn established_by(&self, op: u64) -> Option<VersionVector> {
        let op = self.digested.ops.get(&op)?;
        let answered = op.answered()?;
        match op.invoke.verb {
            Verb::Get if 2 * u16::from(op.invoke.level) > u16::from(self.n) => answered.context.clone(),
            Verb::Get => None,
            Verb::Put | Verb::Delete => {
                let mut left = answered.seen.clone().unwrap_or_default();
                op.dot.into_iter().for_each(|dot| left.add(dot));
                Some(left)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hand::Hand;
    use super::super::{mono, overlap};
    use super::*;

    /// The copy was made at 10 and put back at 20.
    fn back() -> WentBack {
        WentBack { copied: 10, back: 20, noticed: None, keys: BTreeSet::from(["k".to_owned()]) }
    }

    fn left(hand: &Hand, went: &WentBack) -> Vec<&'static str> {
        let lines = hand.lines();
        let mut violations = overlap::check(&lines, overlap::Rules { n: 3, lww: false });
        violations.extend(mono::check(&lines, 3));
        assert!(!violations.is_empty(), "there is something to explain");
        unexplained(&lines, 3, violations, std::slice::from_ref(went)).iter().map(|left| left.rule).collect()
    }

    /// A write acknowledged from `from` to `to`, and a read at `read` that misses it.
    fn missed(from: u64, to: u64, read: u64) -> Hand {
        let h = Hand::default();
        h.at(from);
        let x = h.put(1, "x", None);
        h.at(to);
        h.wrote(x, "a1", None, "a1");
        h.at(read);
        h.get(2, "", "");
        h
    }

    #[test]
    fn what_was_written_in_between_may_be_missed() {
        assert_eq!(left(&missed(12, 15, 30), &back()), [""; 0]);
        assert_eq!(left(&missed(5, 12, 30), &back()), [""; 0], "acknowledged after the copy");
    }

    #[test]
    fn what_the_copy_held_what_came_later_and_who_read_earlier_is_not_excused() {
        assert_eq!(left(&missed(5, 9, 30), &back()), ["stale"], "it was acknowledged before the copy was made");
        assert_eq!(left(&missed(21, 25, 30), &back()), ["stale"], "it was written after the copy was put back");
        assert_eq!(left(&missed(12, 15, 18), &back()), ["stale"], "nothing had gone back yet");
    }

    #[test]
    fn once_it_was_noticed_and_for_others_keys_there_is_no_excuse() {
        assert_eq!(left(&missed(12, 15, 30), &WentBack { noticed: Some(25), ..back() }), ["stale"]);
        assert_eq!(left(&missed(12, 15, 24), &WentBack { noticed: Some(25), ..back() }), [""; 0]);
        assert_eq!(left(&missed(12, 15, 30), &WentBack { keys: BTreeSet::new(), ..back() }), ["stale"]);
    }

    #[test]
    fn what_was_read_at_a_quorum_since_may_not_be_missed_again() {
        let h = missed(12, 15, 30);
        h.at(40);
        h.get(3, "a1", "a1=x");
        h.at(50);
        h.get(3, "", "");
        assert_eq!(left(&h, &back()), ["stale", "went-back"], "the first is explained, the second is not");
    }

    #[test]
    fn one_that_is_not_explained_is_enough() {
        let h = missed(5, 9, 12);
        h.at(13);
        let y = h.put(1, "y", None);
        h.at(15);
        h.wrote(y, "b2", None, "a1 b2");
        h.at(30);
        h.get(2, "", "");
        assert_eq!(left(&h, &back()), ["stale"; 3], "a1 was in the copy");
    }
}
