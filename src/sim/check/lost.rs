//! `lost`: at the end everything acknowledged is there, and nothing else (I-ACK, I-DELETE). For every profile.
//!
//! A value is a list of *elements* (split at commas): a blind PUT writes one, a GET-union-PUT writes all it was shown
//! and one more. At the end (healed, restarted, quiet) every object is read at R = all through every node: reads that
//! the history marks `last`. Rules, for each of those reads:
//!
//! | rule | what it says |
//! |---|---|
//! | `lost` | an acknowledged element is there, unless writes that may have been applied superseded every acknowledged write that carried it, one of them without carrying it on |
//! | `resurrected` | no dot is shown that an acknowledged write superseded |
//! | `not-read` | every object that was written has last reads, and each was answered |
//! | `from-nowhere`, `dot-reused` | as in [`super::overlap`]: nothing is found that nobody attempted |

use std::collections::{BTreeMap, BTreeSet};

use super::{Digested, Name, Op, Violation, about, name};
use crate::causality::VersionVector;
use crate::sim::history::{Answered, Line, Verb};

/// Everything about one object.
#[derive(Default)]
struct Fate<'a> {
    /// Writes that may have been applied.
    writes: Vec<&'a Op<'a>>,
    /// Reads at the end.
    last: Vec<&'a Op<'a>>,
    /// Who carried each element.
    carriers: BTreeMap<&'a str, Vec<&'a Op<'a>>>,
    /// What attempted writes superseded; none: somebody may have superseded anything.
    tried: VersionVector,
    anything: bool,
    /// What acknowledged writes superseded.
    done: VersionVector,
}

/// Judges a history that ends in last reads. Empty: all is well.
#[must_use]
pub fn check(lines: &[Line]) -> Vec<Violation> {
    let mut digested = Digested::new(lines);
    let mut violations = std::mem::take(&mut digested.violations);
    let mut fates: BTreeMap<Name<'_>, Fate<'_>> = BTreeMap::new();
    for op in digested.ops.values().filter(|op| op.attempted() || op.invoke.last) {
        let fate = fates.entry(name(op.invoke)).or_default();
        match op.invoke.verb {
            Verb::Get if op.invoke.last => fate.last.push(op),
            Verb::Get => {}
            Verb::Put | Verb::Delete => fate.add(op),
        }
    }
    for fate in fates.values() {
        fate.judge(&mut violations);
    }
    violations
}

fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').filter(|element| !element.is_empty())
}

fn carries(op: &Op<'_>, element: &str) -> bool {
    op.invoke.value.as_deref().is_some_and(|value| elements(value).any(|other| other == element))
}

impl<'a> Fate<'a> {
    fn add(&mut self, op: &'a Op<'a>) {
        self.writes.push(op);
        for element in op.invoke.value.as_deref().into_iter().flat_map(elements) {
            self.carriers.entry(element).or_default().push(op);
        }
        match op.superseded() {
            Some(superseded) => {
                self.tried.join(&superseded);
                if op.answered().is_some() {
                    self.done.join(&superseded);
                }
            }
            None => self.anything = true,
        }
    }

    fn judge(&self, violations: &mut Vec<Violation>) {
        if let (Some(write), []) = (self.writes.first(), self.last.as_slice()) {
            let detail = "it was written and never read at the end".to_owned();
            violations.push(Violation { rule: "not-read", about: about(write.invoke), op: None, detail });
        }
        // What must be there is the same for every read: worked out once, for what the first missed.
        let mut must: BTreeMap<&str, bool> = BTreeMap::new();
        for read in &self.last {
            let mut violation = |rule, detail| {
                violations.push(Violation { rule, about: about(read.invoke), op: Some(read.id), detail });
            };
            let Some(Answered { shown, .. }) = read.answered() else {
                violation("not-read", "a read at the end got no answer".to_owned());
                continue;
            };
            let found: BTreeSet<&str> = shown.iter().filter_map(|s| s.value.as_deref()).flat_map(elements).collect();
            for (element, carriers) in &self.carriers {
                if found.contains(element) || !*must.entry(element).or_insert_with(|| self.must_hold(element, carriers))
                {
                    continue;
                }
                let by: Vec<u64> = carriers.iter().filter(|op| op.answered().is_some()).map(|op| op.id).collect();
                violation("lost", format!("{element:?}, acknowledged to operations {by:?}"));
            }
            for shown in shown.iter().filter(|shown| self.done.covers(shown.dot)) {
                violation("resurrected", format!("{} = {:?}, which was superseded for good", shown.dot, shown.value));
            }
        }
    }

    /// Whether nobody can have removed this element.
    fn must_hold(&self, element: &str, carriers: &[&Op<'a>]) -> bool {
        let acked: Vec<_> = carriers.iter().filter(|op| op.answered().is_some()).filter_map(|op| op.dot).collect();
        if acked.is_empty() || self.anything {
            return false;
        }
        let all_superseded = acked.iter().all(|dot| self.tried.covers(*dot));
        let dots: Vec<_> = carriers.iter().filter_map(|op| op.dot).collect();
        let drops = |op: &&&Op<'_>| {
            !carries(op, element) && op.superseded().is_some_and(|gone| dots.iter().any(|dot| gone.covers(*dot)))
        };
        !(all_superseded && self.writes.iter().find(drops).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::hand::Hand;
    use super::*;

    fn rules_broken(hand: &Hand) -> Vec<&'static str> {
        check(&hand.lines()).iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn good_everything_acknowledged_is_there() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(2, "y", None));
        h.wrote(x, "a1", None, "a1");
        h.wrote(y, "b1", None, "b1");
        h.info(h.put(1, "maybe", None));
        h.fail(h.put(1, "never", None));
        h.last("a1 b1", "a1=x b1=y");
        h.last("a1 b1 c1", "a1=x b1=y c1=maybe");
        assert_eq!(rules_broken(&h), [""; 0]);
    }

    #[test]
    fn bad_an_acknowledged_element_is_missing_from_one_node() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(2, "y", None));
        h.wrote(x, "a1", None, "a1");
        h.wrote(y, "b1", None, "b1");
        h.last("a1 b1", "a1=x b1=y");
        h.last("a1", "a1=x");
        assert_eq!(rules_broken(&h), ["lost"]);
    }

    #[test]
    fn good_a_union_carries_elements_on() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", None, "a1");
        h.get(2, "a1", "a1=x");
        let union = h.put(2, "x,y", Some("a1"));
        h.wrote(union, "b2", None, "a1 b2");
        h.last("a1 b2", "b2=x,y");
        assert_eq!(rules_broken(&h), [""; 0]);
    }

    #[test]
    fn bad_a_union_is_lost_after_it_superseded_what_it_carried() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", None, "a1");
        let union = h.put(2, "x,y", Some("a1"));
        h.wrote(union, "b2", None, "a1 b2");
        h.last("a1 b2", "");
        assert_eq!(rules_broken(&h), ["lost", "lost"], "x was superseded, but only by who carried it on");
    }

    #[test]
    fn bad_an_unknown_union_takes_what_it_carried_with_it() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", None, "a1");
        h.info(h.put(2, "x,y", Some("a1")));
        h.last("a1", "");
        assert_eq!(rules_broken(&h), ["lost"]);
    }

    #[test]
    fn good_deleted_elements_stay_away_and_concurrent_ones_stay() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        let y = h.put(2, "y", None);
        let gone = h.delete(1, Some("a1"));
        h.wrote(gone, "a2", None, "a2");
        h.wrote(y, "b1", None, "a1 b1");
        h.last("a2 b1", "b1=y a2=-");
        assert_eq!(rules_broken(&h), [""; 0]);
    }

    #[test]
    fn bad_a_deleted_element_comes_back() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        let gone = h.delete(1, Some("a1"));
        h.wrote(gone, "a2", Some("a2"), "a2");
        h.last("a1", "a1=x");
        assert_eq!(rules_broken(&h), ["resurrected"]);
    }

    #[test]
    fn good_an_unknown_delete_may_or_may_not_have_happened() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.info(h.delete(1, Some("a1")));
        h.last("a1", "a1=x");
        h.last("a1 b2", "");
        assert_eq!(rules_broken(&h), [""; 0]);
    }

    #[test]
    fn bad_a_failed_delete_excuses_nothing() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.fail(h.delete(1, Some("a1")));
        h.last("a1 b2", "");
        assert_eq!(rules_broken(&h), ["lost"]);
    }

    #[test]
    fn good_and_bad_deletes_without_context() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(1, "y", None));
        h.wrote(x, "a1", None, "a1");
        h.wrote(y, "b1", None, "b1");
        let seen_x_only = h.delete(2, None);
        h.wrote(seen_x_only, "a2", Some("a2"), "a2");
        h.last("a2 b1", "b1=y a2=-");
        assert_eq!(rules_broken(&h), [""; 0]);
        h.last("a2 b1", "");
        assert_eq!(rules_broken(&h), ["lost"], "it never saw y");
    }

    #[test]
    fn bad_found_but_never_attempted() {
        let h = Hand::default();
        h.fail(h.put(1, "x", None));
        h.last("a1 b1", "a1=x b1=y");
        assert_eq!(rules_broken(&h), ["from-nowhere", "from-nowhere"]);
    }

    #[test]
    fn bad_nobody_looked() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", None, "a1");
        assert_eq!(rules_broken(&h), ["not-read"]);
        h.info(h.last_begins());
        assert_eq!(rules_broken(&h), ["not-read"]);
    }
}
