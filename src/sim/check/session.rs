//! `session`: what a client sees only grows, whichever node it asks (I-SESSION).
//!
//! A session is one client's operations on one object, in order. Without floors the guarantees follow where quorums
//! overlap: for R + W > N and blocking repair. With [`Rules::floors`] every operation carries its session's floor, and
//! they hold at any level.
//!
//! | rule | what it says |
//! |---|---|
//! | `own-write-missed` | read your writes: a read covers all that the client's acknowledged writes left behind |
//! | `session-went-back` | monotonic reads: a read covers all that the client's earlier reads covered |
//! | `write-before-read` | writes follow reads: a write's object covers the write's context, by a newer stamp, and so does whatever shows that write to anybody; with floors it covers all that its client had seen |
//!
//! Linear: per client and object one vector for each level, and each read looks up the writers of what it shows.

use std::collections::BTreeMap;

use super::{Digested, Name, Op, Violation, about, name};
use crate::causality::VersionVector;
use crate::sim::history::{Answered, Event, Line, Verb};

/// What the check has to know of the bucket and of the clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// N: how many owners a key has.
    pub n: u8,
    /// Every operation carries the floor of its session.
    pub floors: bool,
}

/// What one client knows of one object, by the number of replicas that held it when it was told.
#[derive(Default)]
struct Session {
    wrote: BTreeMap<u8, VersionVector>,
    read: BTreeMap<u8, VersionVector>,
}

/// What a read under way has to cover.
struct Required {
    wrote: VersionVector,
    read: VersionVector,
}

/// Judges a history. Empty: all is well.
#[must_use]
pub fn check(lines: &[Line], rules: Rules) -> Vec<Violation> {
    let digested = Digested::new(lines);
    let mut sessions: BTreeMap<(u32, Name<'_>), Session> = BTreeMap::new();
    let mut under_way: BTreeMap<u64, Required> = BTreeMap::new();
    let mut violations = Vec::new();
    for line in lines {
        let Some(op) = digested.ops.get(&line.op) else { continue };
        let session = sessions.entry((op.invoke.client, name(op.invoke))).or_default();
        match &line.event {
            Event::Invoke(_) => drop(under_way.insert(op.id, session.required(op, rules))),
            Event::Ok(answered) => {
                let Some(required) = under_way.remove(&op.id) else { continue };
                let mut judge = Judge { op, violations: &mut violations };
                if op.is_write() {
                    judge.write(answered, &required, rules);
                    session.wrote(op, answered);
                } else if let Some(context) = &answered.context {
                    judge.covers("own-write-missed", context, &required.wrote, "a write of its own left");
                    judge.covers("session-went-back", context, &required.read, "an earlier read of its own covered");
                    judge.follows(&digested, answered, context);
                    session.read(op, context, rules);
                }
            }
            Event::Fail { .. } | Event::Info { .. } => {}
        }
    }
    violations
}

impl Session {
    fn required(&self, op: &Op<'_>, rules: Rules) -> Required {
        let meets = |level: u8| rules.floors || u16::from(level) + u16::from(op.invoke.level) > u16::from(rules.n);
        let join = |known: &BTreeMap<u8, VersionVector>| {
            let mut all = VersionVector::new();
            known.iter().filter(|(level, _)| meets(**level)).for_each(|(_, vector)| all.join(vector));
            all
        };
        Required { wrote: join(&self.wrote), read: join(&self.read) }
    }

    /// The whole resulting object travels, so W replicas hold all that it had seen.
    fn wrote(&mut self, op: &Op<'_>, answered: &Answered) {
        let left = self.wrote.entry(op.invoke.level).or_default();
        op.dot.into_iter().for_each(|dot| left.add(dot));
        answered.seen.iter().for_each(|seen| left.join(seen));
    }

    /// Only what a read waits for is held by R replicas when it is answered.
    fn read(&mut self, op: &Op<'_>, context: &VersionVector, rules: Rules) {
        if rules.floors || 2 * u16::from(op.invoke.level) > u16::from(rules.n) {
            self.read.entry(op.invoke.level).or_default().join(context);
        }
    }
}

struct Judge<'a, 'h> {
    op: &'a Op<'h>,
    violations: &'a mut Vec<Violation>,
}

impl Judge<'_, '_> {
    fn violation(&mut self, rule: &'static str, detail: String) {
        self.violations.push(Violation { rule, about: about(self.op.invoke), op: Some(self.op.id), detail });
    }

    fn covers(&mut self, rule: &'static str, context: &VersionVector, required: &VersionVector, whence: &str) {
        for dot in required.iter().filter(|dot| !context.covers(*dot)) {
            self.violation(rule, format!("{whence} {dot}, and this does not cover it"));
        }
    }

    fn write(&mut self, answered: &Answered, required: &Required, rules: Rules) {
        let rule = "write-before-read";
        if let (Some(context), Some(seen)) = (&self.op.invoke.context, &answered.seen) {
            self.covers(rule, seen, context, "its context names");
            if self.op.dot.is_some_and(|dot| context.iter().any(|named| named.stamp >= dot.stamp)) {
                self.violation(rule, "its stamp is not above all that its context names".to_owned());
            }
        }
        if let (true, Some(seen)) = (rules.floors, &answered.seen) {
            self.covers(rule, seen, &required.wrote, "a write of its own left");
            self.covers(rule, seen, &required.read, "an earlier read of its own covered");
        }
    }

    /// Whoever shows a write covers what its writer had been shown.
    fn follows(&mut self, digested: &Digested<'_>, answered: &Answered, context: &VersionVector) {
        let Some(dots) = digested.dots.get(&name(self.op.invoke)) else { return };
        for shown in &answered.shown {
            let writer = dots.get(&shown.dot).and_then(|writer| digested.ops.get(writer));
            if let Some(known) =
                writer.filter(|op| op.invoke.verb != Verb::Get).and_then(|op| op.invoke.context.as_ref())
            {
                self.covers("write-before-read", context, known, "the writer of what it shows had been shown");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hand::Hand;
    use super::*;

    const STRICT: Rules = Rules { n: 3, floors: false };
    const FLOORS: Rules = Rules { n: 3, floors: true };

    fn broken(hand: &Hand, rules: Rules) -> Vec<&'static str> {
        check(&hand.lines(), rules).iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn good_one_client_goes_round_the_nodes() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.get(1, "a1", "a1=x");
        let y = h.put(1, "y", Some("a1"));
        h.wrote(y, "b2", Some("a1 b2"), "a1 b2");
        h.get(1, "a1 b2", "b2=y");
        h.get(2, "a1 b2", "b2=y");
        assert_eq!((broken(&h, STRICT), broken(&h, FLOORS)), (vec![], vec![]));
    }

    #[test]
    fn bad_a_client_misses_its_own_write() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", None, "a1");
        h.get(1, "", "");
        assert_eq!(broken(&h, STRICT), ["own-write-missed"]);
    }

    #[test]
    fn bad_a_client_misses_what_its_write_was_minted_on() {
        let h = Hand::default();
        h.info(h.put(2, "x", None));
        let y = h.put(1, "y", None);
        h.wrote(y, "b2", None, "a1 b2");
        h.get(1, "b2", "b2=y");
        assert_eq!(broken(&h, STRICT), ["own-write-missed"], "the whole object travels");
    }

    #[test]
    fn good_another_session_an_unknown_write_and_quorums_that_do_not_meet() {
        let h = Hand::default();
        let x = h.put_at(1, "x", None, 1);
        h.wrote(x, "a1", None, "a1");
        h.info(h.put(1, "y", None));
        h.get(1, "", "");
        h.get(2, "", "");
        assert_eq!(broken(&h, STRICT), [""; 0]);
        assert_eq!(broken(&h, FLOORS), ["own-write-missed"], "a floor asks for it at any level");
    }

    #[test]
    fn bad_a_client_reads_backwards() {
        let h = Hand::default();
        h.info(h.put(2, "x", None));
        h.get(1, "a1", "a1=x");
        h.get(2, "", "");
        h.get(1, "", "");
        assert_eq!(broken(&h, STRICT), ["session-went-back"], "the other client's read is another session's");
    }

    #[test]
    fn good_and_bad_reads_of_fewer_replicas() {
        let h = Hand::default();
        h.info(h.put(2, "x", None));
        h.read(h.get_at(1, 1), "a1", "a1=x");
        h.get(1, "", "");
        assert_eq!(broken(&h, STRICT), [""; 0], "nobody waited until more than one held it");
        assert_eq!(broken(&h, FLOORS), ["session-went-back"]);
        h.read(h.get_at(1, 3), "a1", "a1=x");
        h.read(h.get_at(1, 1), "", "");
        assert_eq!(broken(&h, STRICT), ["session-went-back"], "what all three hold, each shows");
    }

    #[test]
    fn bad_a_write_forgets_its_context() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        let y = h.put(1, "y", Some("a1"));
        h.wrote(y, "b2", None, "b2");
        assert_eq!(broken(&h, STRICT), ["write-before-read"]);
    }

    #[test]
    fn bad_a_write_is_older_than_what_it_follows() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a5", Some("a5"), "a5");
        let y = h.put(1, "y", Some("a5"));
        h.wrote(y, "b4", None, "a5 b4");
        assert_eq!(broken(&h, STRICT), ["write-before-read"]);
    }

    #[test]
    fn bad_somebody_is_shown_a_write_and_not_what_it_followed() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.info(h.put(1, "y", Some("a1")));
        h.read(h.get_at(2, 1), "b2", "b2=y");
        assert_eq!(broken(&h, STRICT), ["write-before-read"]);
    }

    #[test]
    fn bad_with_floors_a_write_ignores_what_its_client_had_seen() {
        let h = Hand::default();
        h.info(h.put(2, "x", None));
        h.get(1, "a1", "a1=x");
        let y = h.put(1, "y", None);
        h.wrote(y, "b2", None, "b2");
        assert_eq!(broken(&h, STRICT), [""; 0], "a blind write promises nothing without a floor");
        assert_eq!(broken(&h, FLOORS), ["write-before-read"]);
    }
}
