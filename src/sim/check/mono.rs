//! `mono`: quorum reads never go back (I-MONO). For strict quorums and blocking repair.
//!
//! | rule | what it says |
//! |---|---|
//! | `went-back` | a read with R + R > N that begins after another such read of the same object was answered covers all that one covered |
//!
//! Linear: per object one vector, the join of all that quorum reads were answered with so far.

use std::collections::BTreeMap;

use super::{Digested, Name, Violation, about, name};
use crate::causality::VersionVector;
use crate::sim::history::{Event, Line, Verb};

/// Judges a history of buckets with `n` replicas. Empty: all is well.
#[must_use]
pub fn check(lines: &[Line], n: u8) -> Vec<Violation> {
    let digested = Digested::new(lines);
    let mut seen: BTreeMap<Name<'_>, VersionVector> = BTreeMap::new();
    let mut required: BTreeMap<u64, VersionVector> = BTreeMap::new();
    let mut violations = Vec::new();
    for line in lines {
        let Some(op) = digested.ops.get(&line.op) else { continue };
        if op.invoke.verb != Verb::Get || 2 * u16::from(op.invoke.level) <= u16::from(n) {
            continue;
        }
        match &line.event {
            Event::Invoke(_) => {
                required.insert(line.op, seen.get(&name(op.invoke)).cloned().unwrap_or_default());
            }
            Event::Ok(answered) => {
                let Some(context) = &answered.context else { continue };
                let required = required.remove(&line.op).unwrap_or_default();
                for missing in required.iter().filter(|dot| !context.covers(*dot)) {
                    let detail = format!("an earlier quorum read covered {missing}, and this one does not");
                    violations.push(Violation { rule: "went-back", about: about(op.invoke), op: Some(op.id), detail });
                }
                seen.entry(name(op.invoke)).or_default().join(context);
            }
            Event::Fail { .. } | Event::Info { .. } => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::hand::Hand;
    use super::*;

    fn broken(hand: &Hand) -> Vec<&'static str> {
        check(&hand.lines(), 3).iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn bad_a_later_quorum_read_covers_less() {
        let h = Hand::default();
        h.info(h.put(1, "x", None));
        h.get(1, "a1", "a1=x");
        h.get(2, "", "");
        assert_eq!(broken(&h), ["went-back"]);
    }

    #[test]
    fn good_reads_at_the_same_time_and_reads_of_one_replica_may() {
        let h = Hand::default();
        h.info(h.put(1, "x", None));
        let early = h.get_at(2, 2);
        h.get(1, "a1", "a1=x");
        h.read(early, "", "");
        h.read(h.get_at(3, 1), "", "");
        assert_eq!(broken(&h), [""; 0]);
    }
}
