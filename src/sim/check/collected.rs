//! Histories of clusters that collect tombstones: once every owner has confirmed a delete, nothing is left of it, its context
//! included. Whoever reads then covers less than was acknowledged, and rightly so.
//!
//! [`covered`] gives each answer's context back what may have been collected by then: of every delete (and every write that
//! expires) that was begun a `linger` before, itself and what it superseded, unless that covers a value that nobody has
//! superseded. What the other judges say of such a history they say of what is left of it; what they cannot see any more is
//! the rule here:
//!
//! | rule | what it says |
//! |---|---|
//! | `returned` | a read that begins after a delete was acknowledged, with R + W > N, shows nothing that it superseded |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Digested, Name, Violation, about, name};
use crate::causality::{Dot, VersionVector};
use crate::sim::history::{Event, Line, Verb};

/// What is known of one object so far.
#[derive(Default)]
struct Object {
    /// What attempted writes supersede.
    excused: VersionVector,
    /// Deletes: when each was begun, and all that goes with it; none: nobody knows.
    deletes: Vec<(u64, Option<VersionVector>)>,
    /// When deletes were begun whose dots no answer told.
    open: Vec<u64>,
    /// Dots that somebody was told of and nobody is known to have minted: theirs, for all that is known.
    unknown: BTreeSet<Dot>,
}

impl Object {
    fn told<'a>(&mut self, of: impl Iterator<Item = &'a VersionVector>, known: Option<&BTreeMap<Dot, u64>>) {
        let minted = |dot: &Dot| known.is_some_and(|known| known.contains_key(dot));
        self.unknown.extend(of.flat_map(VersionVector::iter).filter(|dot| !minted(dot)));
    }

    /// Adds to what was answered at `at` what may have been collected by then; `before` are the writes begun by then.
    fn give_back(
        &self,
        context: &mut VersionVector,
        at: u64,
        linger: u64,
        (digested, name): (&Digested<'_>, Name<'_>),
        before: &BTreeSet<u64>,
    ) {
        let dots = digested.dots.get(&name);
        let values = || dots.into_iter().flatten().filter(|(_, op)| digested.ops[op].invoke.verb == Verb::Put);
        let lingered = |begun: &u64| begun.saturating_add(linger) <= at;
        for (_, gone) in self.deletes.iter().filter(|(begun, _)| lingered(begun)) {
            match gone {
                Some(gone) => {
                    let kept = |dot: &Dot| gone.covers(*dot) && !context.covers(*dot) && !self.excused.covers(*dot);
                    if !values().any(|(dot, _)| kept(dot)) {
                        context.join(gone);
                    }
                }
                None => {
                    let all = dots.into_iter().flatten().filter(|(_, id)| before.contains(id));
                    all.for_each(|(dot, _)| context.add(*dot));
                }
            }
        }
        if self.open.iter().any(lingered) {
            for unknown in &self.unknown {
                let below = |dot: &Dot| dot.actor == unknown.actor && dot.stamp <= unknown.stamp;
                let kept = |dot: &Dot| below(dot) && !context.covers(*dot) && !self.excused.covers(*dot);
                if !values().any(|(dot, _)| kept(dot)) {
                    context.add(*unknown);
                }
            }
        }
    }
}

/// The same history, with what may have been collected by then in the contexts of reads.
#[must_use]
pub fn covered(lines: &[Line], linger: Duration) -> Vec<Line> {
    let digested = Digested::new(lines);
    let linger = u64::try_from(linger.as_micros()).unwrap_or(u64::MAX);
    let mut objects: BTreeMap<Name<'_>, Object> = BTreeMap::new();
    let mut begun: BTreeMap<Name<'_>, Vec<u64>> = BTreeMap::new();
    let mut lines = lines.to_vec();
    for line in &mut lines {
        let Some(op) = digested.ops.get(&line.op) else { continue };
        let object = objects.entry(name(op.invoke)).or_default();
        match &mut line.event {
            Event::Invoke(_) if op.is_write() && op.attempted() => {
                begun.entry(name(op.invoke)).or_default().push(op.id);
                let superseded = op.superseded();
                object.excused.join(superseded.as_ref().unwrap_or(&VersionVector::new()));
                if op.invoke.verb == Verb::Delete || op.invoke.expires {
                    let with = superseded.map(|mut all| {
                        op.dot.into_iter().for_each(|dot| all.add(dot));
                        all
                    });
                    object.deletes.push((line.at, with));
                    object.open.extend(op.dot.is_none().then_some(line.at));
                }
            }
            Event::Ok(answered) => {
                let told: Vec<VersionVector> =
                    answered.context.iter().chain(answered.seen.iter().filter(|_| op.is_write())).cloned().collect();
                // What a write was made on may have been collected as well.
                let before: BTreeSet<u64> = begun.get(&name(op.invoke)).into_iter().flatten().copied().collect();
                let seen = answered.seen.iter_mut().filter(|_| op.is_write());
                for vector in answered.context.iter_mut().chain(seen) {
                    object.give_back(vector, line.at, linger, (&digested, name(op.invoke)), &before);
                }
                object.told(told.iter(), digested.dots.get(&name(op.invoke)));
            }
            _ => {}
        }
    }
    lines
}

/// Judges a history of buckets with `n` replicas by the rule above.
#[must_use]
pub fn check(lines: &[Line], n: u8) -> Vec<Violation> {
    let digested = Digested::new(lines);
    // By W, what acknowledged deletes superseded; of each read what it must not show.
    let mut gone: BTreeMap<Name<'_>, BTreeMap<u8, VersionVector>> = BTreeMap::new();
    let mut forbidden: BTreeMap<u64, VersionVector> = BTreeMap::new();
    let mut violations = Vec::new();
    for line in lines {
        let Some(op) = digested.ops.get(&line.op) else { continue };
        match &line.event {
            Event::Invoke(_) if !op.is_write() => {
                let mut all = VersionVector::new();
                let meets = |w: u8| u16::from(w) + u16::from(op.invoke.level) > u16::from(n);
                let met = gone.get(&name(op.invoke)).into_iter().flatten().filter(|(w, _)| meets(**w));
                met.for_each(|(_, superseded)| all.join(superseded));
                forbidden.insert(op.id, all);
            }
            Event::Ok(_) if op.invoke.verb == Verb::Delete => {
                if let Some(superseded) = op.superseded() {
                    gone.entry(name(op.invoke)).or_default().entry(op.invoke.level).or_default().join(&superseded);
                }
            }
            Event::Ok(answered) if !op.is_write() => {
                let forbidden = forbidden.remove(&op.id).unwrap_or_default();
                let live = answered.shown.iter().filter(|shown| shown.value.is_some());
                for shown in live.filter(|shown| forbidden.covers(shown.dot)) {
                    let detail = format!("{} = {:?} was deleted for good before it began", shown.dot, shown.value);
                    violations.push(Violation { rule: "returned", about: about(op.invoke), op: Some(op.id), detail });
                }
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::hand::Hand;
    use super::super::{mono, overlap};
    use super::*;

    fn broken(hand: &Hand, linger: Duration) -> Vec<&'static str> {
        let lines = hand.lines();
        let covered = covered(&lines, linger);
        let mut found = check(&lines, 3);
        found.extend(overlap::check(&covered, overlap::Rules { n: 3, lww: false }));
        found.extend(mono::check(&covered, 3));
        found.into_iter().map(|violation| violation.rule).collect()
    }

    /// A value, read, deleted, read again.
    fn deleted() -> Hand {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.get(1, "a1", "a1=x");
        let gone = h.delete(1, Some("a1"));
        h.wrote(gone, "a2", Some("a2"), "a2");
        h.get(1, "a2", "");
        h
    }

    #[test]
    fn good_what_was_deleted_a_while_ago_may_be_forgotten() {
        let h = deleted();
        h.get(2, "", "");
        let again = h.put(2, "y", None);
        h.wrote(again, "b3", Some("b3"), "b3");
        h.get(1, "b3", "b3=y");
        assert_eq!(broken(&h, Duration::ZERO), [""; 0]);
    }

    #[test]
    fn good_a_write_on_what_was_collected_covers_what_that_had_superseded() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.get(2, "a1", "a1=x");
        let gone = h.delete(2, Some("a1"));
        h.wrote(gone, "b2", Some("a1 b2"), "a1 b2");
        let again = h.put(3, "y", None);
        h.wrote(again, "a3", Some("a3"), "a3");
        let more = h.put(3, "z", Some("a3"));
        h.wrote(more, "a4", Some("a4"), "a4");
        assert_eq!(broken(&h, Duration::ZERO), [""; 0]);
        assert_eq!(broken(&h, Duration::from_secs(3600)), ["not-shown"]);
    }

    #[test]
    fn good_a_delete_of_unknown_end_that_was_seen_may_be_forgotten_too() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.info(h.delete(1, Some("a1")));
        h.get(2, "a2", "");
        h.get(2, "", "");
        assert_eq!(broken(&h, Duration::ZERO), [""; 0]);
        assert_eq!(broken(&h, Duration::from_secs(3600)), ["stale", "went-back"]);
    }

    #[test]
    fn bad_a_value_goes_with_a_delete_of_unknown_end() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.info(h.delete(2, Some("b1")));
        h.get(2, "a2 b1", "a1=x");
        h.get(2, "", "");
        assert_eq!(broken(&h, Duration::ZERO), ["stale", "went-back"], "x was never superseded, though a2 is above it");
    }

    #[test]
    fn bad_it_is_forgotten_before() {
        let h = deleted();
        h.get(2, "", "");
        assert_eq!(broken(&h, Duration::from_secs(3600)), ["stale", "went-back"]);
    }

    #[test]
    fn bad_what_was_deleted_is_back() {
        let h = deleted();
        h.get(2, "a1", "a1=x");
        assert_eq!(broken(&h, Duration::ZERO), ["returned"]);
    }

    #[test]
    fn bad_a_value_goes_with_what_was_deleted() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(2, "y", None));
        h.wrote(x, "a1", Some("a1"), "a1");
        h.wrote(y, "b1", None, "a1 b1");
        let gone = h.delete(1, Some("a1"));
        h.wrote(gone, "a2", None, "a2 b1");
        h.get(2, "", "");
        assert_eq!(broken(&h, Duration::ZERO), ["stale"], "y was never superseded");
    }
}
