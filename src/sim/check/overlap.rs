//! `overlap`: every read shows what it has to show (I-OVERLAP, I-CONCUR). For strict quorums.
//!
//! | rule | what it says |
//! |---|---|
//! | `stale` | a read invoked after a write was acknowledged, with R + W > N, has a context that covers its dot |
//! | `dropped` | a dot that a read covers but does not show was superseded by some attempted write's input context, expired, was superseded at its coordinator by a DELETE without context or an `overwrite` PUT, or lost an `lww` merge |
//! | `not-shown` | an input context covers only dots that its client was shown, or that something it was shown superseded |
//! | `no-context` | a read gives a context, and it covers all it shows |
//! | `dot-reused`, `from-nowhere` | dots are unique per bucket and key; nothing is shown that nobody wrote or whose write provably failed |
//!
//! Linear: per object only the values that nothing attempted has superseded yet are looked at by each read, and each
//! client's contexts are checked only for what they cover beyond the ones before. Collected tombstones are not known
//! here: judge a history with collection by `lost`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Digested, Name, Op, Violation, about, name};
use crate::causality::{Dot, VersionVector};
use crate::sim::history::{Answered, Event, Line, Verb};
use crate::types::Stamp;

/// What the check has to know of the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// N: how many owners a key has.
    pub n: u8,
    /// The bucket keeps the last write only.
    pub lww: bool,
}

/// What one client may name of one object.
#[derive(Default)]
struct Entitled {
    /// Dots it was shown.
    shown: BTreeSet<Dot>,
    /// What those had superseded.
    closed: VersionVector,
    /// Contexts it used that were checked.
    checked: VersionVector,
    /// Contexts it was given whose hidden dots (tombstones, what expires) were looked through.
    searched: VersionVector,
}

#[derive(Default)]
struct ObjectState {
    /// Acknowledged dots, by W.
    acked: BTreeMap<u8, VersionVector>,
    /// All that attempted writes may have superseded so far.
    excused: VersionVector,
    /// A write that supersedes what its coordinator sees has no known end: anything may be superseded from here on.
    anything: bool,
    /// Values that may have been written and that nothing attempted has superseded.
    live: BTreeMap<Dot, u64>,
    /// What deletes of unknown end and unknown dot were to supersede.
    hidden: VersionVector,
    clients: BTreeMap<u32, Entitled>,
}

/// Judges a history. Empty: all is well.
#[must_use]
pub fn check(lines: &[Line], rules: Rules) -> Vec<Violation> {
    let mut digested = Digested::new(lines);
    let mut violations = std::mem::take(&mut digested.violations);
    let mut run =
        Run { digested: &digested, rules, objects: BTreeMap::new(), required: BTreeMap::new(), found: Vec::new() };
    for line in lines {
        let Some(op) = digested.ops.get(&line.op) else { continue };
        match &line.event {
            Event::Invoke(_) if op.is_write() => run.write_begins(op),
            Event::Invoke(_) => run.read_begins(op),
            Event::Ok(answered) if op.is_write() => run.wrote(op, answered),
            Event::Ok(answered) => run.read(op, answered),
            Event::Fail { .. } | Event::Info { .. } => {}
        }
    }
    violations.append(&mut run.found);
    violations
}

struct Run<'a> {
    digested: &'a Digested<'a>,
    rules: Rules,
    objects: BTreeMap<Name<'a>, ObjectState>,
    /// What reads under way have to cover.
    required: BTreeMap<u64, VersionVector>,
    found: Vec<Violation>,
}

impl<'a> Run<'a> {
    fn violation(&mut self, rule: &'static str, op: &Op<'a>, detail: String) {
        self.found.push(Violation { rule, about: about(op.invoke), op: Some(op.id), detail });
    }

    fn write_begins(&mut self, op: &Op<'a>) {
        if !op.attempted() {
            return;
        }
        self.check_context(op);
        let object = self.objects.entry(name(op.invoke)).or_default();
        match op.superseded() {
            Some(superseded) => object.excused.join(&superseded),
            None => object.anything = true,
        }
        if let (Verb::Delete, None, Some(context)) = (op.invoke.verb, op.dot, &op.invoke.context) {
            object.hidden.join(context);
        }
        if let (Verb::Put, Some(dot), false) = (op.invoke.verb, op.dot, op.invoke.expires) {
            object.live.insert(dot, op.id);
        }
        let ObjectState { live, excused, .. } = object;
        live.retain(|dot, _| !excused.covers(*dot));
    }

    /// Rule `not-shown`.
    fn check_context(&mut self, op: &Op<'a>) {
        let Some(context) = &op.invoke.context else { return };
        let object = self.objects.entry(name(op.invoke)).or_default();
        let entitled = object.clients.entry(op.invoke.client).or_default();
        let hidden = |dot: &Dot| object.anything || object.hidden.covers(*dot);
        let mut unseen = Vec::new();
        for top in context.iter() {
            let known = entitled.checked.get(top.actor).max(entitled.closed.get(top.actor));
            for (&dot, &writer) in self.digested.between(op, known, top) {
                let exempt = self.digested.ops[&writer].invoke.expires || hidden(&dot);
                if !exempt && !entitled.shown.contains(&dot) {
                    unseen.push((dot, writer));
                }
            }
        }
        entitled.checked.join(context);
        for (dot, writer) in unseen {
            let text = format!("its context covers {dot} of operation {writer}, which this client was never shown");
            self.violation("not-shown", op, text);
        }
    }

    fn read_begins(&mut self, op: &Op<'a>) {
        let Some(object) = self.objects.get(&name(op.invoke)) else { return };
        let meets = |w: u8| u16::from(w) + u16::from(op.invoke.level) > u16::from(self.rules.n);
        let mut required = VersionVector::new();
        object.acked.iter().filter(|(w, _)| meets(**w)).for_each(|(_, acked)| required.join(acked));
        self.required.insert(op.id, required);
    }

    fn wrote(&mut self, op: &Op<'a>, answered: &Answered) {
        let object = self.objects.entry(name(op.invoke)).or_default();
        if let Some(dot) = op.dot {
            if !op.invoke.expires {
                object.acked.entry(op.invoke.level).or_default().add(dot);
            }
            if answered.context.is_some() {
                let entitled = object.clients.entry(op.invoke.client).or_default();
                entitled.shown.insert(dot);
                if let Some(superseded) = op.superseded() {
                    entitled.closed.join(&superseded);
                }
            }
        }
        self.entitle(op, answered);
    }

    fn read(&mut self, op: &Op<'a>, answered: &Answered) {
        let required = self.required.remove(&op.id).unwrap_or_default();
        let Some(context) = &answered.context else {
            return self.violation("no-context", op, "a read without a context".to_owned());
        };
        for dot in required.iter().filter(|dot| !context.covers(*dot)) {
            let text =
                format!("{dot} of {} was acknowledged before it began, and its context lacks it", self.writer(op, dot));
            self.violation("stale", op, text);
        }
        let shown: BTreeSet<Dot> = answered.shown.iter().map(|shown| shown.dot).collect();
        for dot in shown.iter().filter(|dot| !context.covers(**dot)) {
            self.violation("no-context", op, format!("it shows {dot}, and its context does not cover that"));
        }
        let object = self.objects.entry(name(op.invoke)).or_default();
        if !object.anything {
            let last = shown.iter().map(|dot| (dot.stamp, dot.actor)).max();
            let excused = |dot: &Dot| self.rules.lww && last > Some((dot.stamp, dot.actor));
            let gone = |dot: &Dot| context.covers(*dot) && !shown.contains(dot) && !excused(dot);
            let dropped: Vec<(Dot, u64)> = object.live.iter().map(|(&d, &w)| (d, w)).filter(|(d, _)| gone(d)).collect();
            for (dot, writer) in dropped {
                object.live.remove(&dot);
                let text =
                    format!("it covers {dot} of operation {writer}, and its value is not there; nobody superseded it");
                self.found.push(Violation { rule: "dropped", about: about(op.invoke), op: Some(op.id), detail: text });
            }
        }
        self.entitle(op, answered);
    }

    /// Notes what a client was shown and given.
    fn entitle(&mut self, op: &Op<'a>, answered: &Answered) {
        let Some(context) = &answered.context else { return };
        let object = self.objects.entry(name(op.invoke)).or_default();
        let entitled = object.clients.entry(op.invoke.client).or_default();
        if self.rules.lww || object.anything {
            entitled.closed.join(context);
        }
        let writers = self.digested.dots.get(&name(op.invoke));
        for shown in &answered.shown {
            if !entitled.shown.insert(shown.dot) {
                continue;
            }
            match writers
                .and_then(|dots| dots.get(&shown.dot))
                .and_then(|writer| self.digested.ops[writer].superseded())
            {
                Some(superseded) => entitled.closed.join(&superseded),
                None => entitled.closed.join(context),
            }
        }
        for top in context.iter() {
            let known = entitled.searched.get(top.actor);
            for (&dot, writer) in self.digested.between(op, known, top) {
                let writer = &self.digested.ops[writer];
                if writer.invoke.verb == Verb::Delete || writer.invoke.expires {
                    entitled.shown.insert(dot);
                    entitled.closed.join(&writer.superseded().unwrap_or_else(|| context.clone()));
                }
            }
        }
        entitled.searched.join(context);
    }

    fn writer(&self, op: &Op<'a>, dot: Dot) -> String {
        let writer = self.digested.dots.get(&name(op.invoke)).and_then(|dots| dots.get(&dot));
        writer.map_or_else(|| "an unknown operation".to_owned(), |op| format!("operation {op}"))
    }
}

impl<'a> Digested<'a> {
    /// The known dots of `op`'s object that `top`'s actor minted after `known`, up to `top`.
    fn between<'s>(
        &'s self,
        op: &Op<'a>,
        known: Option<Stamp>,
        top: Dot,
    ) -> impl Iterator<Item = (&'s Dot, &'s u64)> + use<'s, 'a> {
        let first = known.map_or(Stamp(0), Stamp::next);
        let range = (first <= top.stamp).then(|| Dot::new(top.actor, first)..=top);
        let dots: Option<&'s BTreeMap<Dot, u64>> = self.dots.get(&name(op.invoke));
        range.and_then(|range| dots.map(|dots| dots.range(range))).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::hand::Hand;
    use super::*;

    fn rules_broken(hand: &Hand) -> Vec<&'static str> {
        check(&hand.lines(), Rules { n: 3, lww: false }).iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn good_siblings_are_shown_resolved_and_deleted() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        let y = h.put(2, "y", None);
        h.wrote(y, "b2", None, "a1 b2");
        h.get(1, "a1 b2", "a1=x b2=y");
        let z = h.put(1, "z", Some("a1 b2"));
        h.wrote(z, "a3", Some("a3 b2"), "a3 b2");
        let gone = h.delete(1, Some("a3 b2"));
        h.wrote(gone, "c4", Some("a3 b2 c4"), "a3 b2 c4");
        h.get(2, "a3 b2 c4", "");
        // A blind PUT supersedes the tombstone; its context covers what that had covered.
        let again = h.put(3, "again", None);
        h.wrote(again, "c5", Some("a3 b2 c5"), "a3 b2 c5");
        let more = h.put(3, "more", Some("a3 b2 c5"));
        h.wrote(more, "c6", Some("a3 b2 c6"), "a3 b2 c6");
        h.get(1, "a3 b2 c6", "c6=more");
        assert_eq!(rules_broken(&h), [""; 0]);
    }

    #[test]
    fn good_an_unknown_write_may_come_later_or_never() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.info(x);
        h.get(1, "", "");
        h.get(1, "a1", "a1=x");
        let y = h.put(1, "y", Some("a1"));
        h.info(y);
        h.get(1, "a1", "a1=x");
        h.get(2, "a1 b2", "b2=y");
        assert_eq!(rules_broken(&h), [""; 0]);
    }

    #[test]
    fn bad_a_read_after_the_acknowledgement_misses_it() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", None, "a1");
        h.get(2, "", "");
        assert_eq!(rules_broken(&h), ["stale"]);
    }

    #[test]
    fn good_reads_that_need_not_see_it() {
        let h = Hand::default();
        let x = h.put_at(1, "x", None, 1);
        let early = h.get_at(2, 3);
        h.wrote(x, "a1", None, "a1");
        h.get(2, "", "");
        h.read(early, "", "");
        assert_eq!(rules_broken(&h), [""; 0], "W = 1 and R = 2 do not overlap; R = 3 began before");
    }

    #[test]
    fn bad_a_sibling_dropped_in_silence() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(2, "y", None));
        h.wrote(x, "a1", None, "a1");
        h.wrote(y, "b1", None, "a1 b1");
        h.get(3, "a1 b1", "b1=y");
        assert_eq!(rules_broken(&h), ["dropped"]);
    }

    #[test]
    fn bad_an_unknown_write_is_shown_and_then_dropped() {
        let h = Hand::default();
        h.info(h.put(1, "x", None));
        h.get(2, "a1", "a1=x");
        h.get(2, "a1", "");
        assert_eq!(rules_broken(&h), ["dropped"]);
    }

    #[test]
    fn bad_a_superseder_that_provably_failed_excuses_nothing() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        h.fail(h.delete(1, Some("a1")));
        h.get(2, "a1", "");
        assert_eq!(rules_broken(&h), ["dropped"]);
    }

    /// The loss in three steps: a PUT answers with the whole context, and its client supersedes what it never saw.
    #[test]
    fn bad_a_context_of_what_was_not_shown() {
        let h = Hand::default();
        let y = h.put(2, "y", None);
        h.wrote(y, "a1", Some("a1"), "a1");
        let x = h.put(1, "x", None);
        h.wrote(x, "a2", Some("a2"), "a2");
        let z = h.put(1, "z", Some("a2"));
        h.wrote(z, "a3", Some("a3"), "a3");
        h.get(2, "a3", "a3=z");
        assert_eq!(rules_broken(&h), ["not-shown"], "the same actor: its vector is closed downwards, the check is not");
    }

    #[test]
    fn bad_a_context_shown_to_somebody_else() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        let y = h.put(2, "y", Some("a1"));
        h.wrote(y, "b2", Some("a1 b2"), "a1 b2");
        assert_eq!(rules_broken(&h), ["not-shown"]);
    }

    #[test]
    fn good_and_bad_deletes_without_context() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(1, "y", None));
        h.wrote(x, "a1", None, "a1");
        h.wrote(y, "b1", None, "b1");
        let seen_x_only = h.delete(2, None);
        h.wrote(seen_x_only, "a2", None, "a2");
        h.get(3, "a2 b1", "b1=y a2=-");
        assert_eq!(rules_broken(&h), [""; 0]);
        h.get(3, "a2 b1", "");
        assert_eq!(rules_broken(&h), ["dropped"], "it never saw y");
    }

    #[test]
    fn good_and_bad_overwrites() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", None, "a1");
        let over = h.overwrite(2, "over");
        h.wrote(over, "a2", Some("a2"), "a2");
        h.get(3, "a2", "a2=over");
        assert_eq!(rules_broken(&h), [""; 0]);
        h.get(3, "a2", "");
        assert_eq!(rules_broken(&h), ["dropped"], "it does not supersede itself");
    }

    #[test]
    fn good_what_expires_may_be_absent_and_takes_what_it_superseded_along() {
        let h = Hand::default();
        let x = h.put(1, "x", None);
        h.wrote(x, "a1", Some("a1"), "a1");
        let soon = h.expiring(1, "soon", Some("a1"));
        h.wrote(soon, "a2", Some("a2"), "a2");
        h.get(2, "a2", "");
        let next = h.put(2, "next", Some("a2"));
        h.wrote(next, "a3", Some("a3"), "a3");
        assert_eq!(rules_broken(&h), [""; 0]);
    }

    #[test]
    fn good_and_bad_last_write_wins() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(2, "y", None));
        h.wrote(x, "a1", None, "a1");
        h.wrote(y, "b2", None, "a1 b2");
        h.get(3, "a1 b2", "b2=y");
        let lww = Rules { n: 3, lww: true };
        assert_eq!(check(&h.lines(), lww), []);
        h.get(3, "a1 b2", "a1=x");
        assert_eq!(
            check(&h.lines(), lww).iter().map(|v| v.rule).collect::<Vec<_>>(),
            ["dropped"],
            "the lesser one won"
        );
    }

    #[test]
    fn bad_one_dot_for_two_writes() {
        let h = Hand::default();
        let (x, y) = (h.put(1, "x", None), h.put(2, "y", None));
        h.wrote(x, "a1", None, "a1");
        h.wrote(y, "a1", None, "a1");
        assert!(rules_broken(&h).contains(&"dot-reused"));
        let h = Hand::default();
        h.info(h.put(1, "x", None));
        h.get(1, "a1", "a1=x");
        h.get(1, "a1 b1", "a1=x b1=x");
        assert_eq!(rules_broken(&h), ["dot-reused"], "one write, two dots: minted twice");
    }

    #[test]
    fn bad_values_from_nowhere() {
        let h = Hand::default();
        h.fail(h.put(1, "x", None));
        h.get(1, "a1", "a1=x");
        h.get(1, "a1 b1", "a1=x b1=y");
        h.get(1, "b2", "b2=-");
        let broken = rules_broken(&h);
        assert_eq!(broken.iter().filter(|rule| **rule == "from-nowhere").count(), 4, "{broken:?}");
    }

    #[test]
    fn bad_a_context_that_lacks_what_is_shown() {
        let h = Hand::default();
        h.info(h.put(1, "x", None));
        h.get(1, "", "a1=x");
        assert_eq!(rules_broken(&h), ["no-context"]);
    }
}
