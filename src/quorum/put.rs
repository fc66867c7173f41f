//! A coordinated write, after the mint: acknowledgement in, answer out.
//!
//! ```text
//!   read, mint, commit (replica)          PutCore                     other owners
//!            |  the minted object            |                             |
//!            +-----------------------------> | start: Send to all at once  |
//!            |                               +---------------------------->|
//!            |  on_ack(own)                  |                             |
//!            +-----------------------------> |   on_ack / on_failed        |
//!                                            | <---------------------------+
//!            W in each live layout, K flushed| -> Answer                   |
//!            out of reach, or deadline       | -> Fail (outcome unknown)   |
//!            afterwards: late ones are noted | <---------------------------+
//!                                            | -> missed(): who has it not
//! ```
//!
//! **The rules** (semantics sections 3, 4 and 7). The own replica is a replica like any other; its commit is an
//! acknowledgement. One counts only in the layouts it was for (I-ACK over layout changes). Something was minted, so a
//! failure is never "not applied" (I-HONEST): [`Requirement::feasible`] is asked before the mint. Left to others: hints
//! for those who [`missed`](PutCore::missed) it.

use super::{Counted, NoVote, Recorder, ReplicaResult, Requirement, Tally, Verdict};
use crate::types::{Mono, StoreId};

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutAction {
    /// Send the minted object to this owner, naming these layouts.
    Send {
        /// The owner.
        to: StoreId,
        /// The layouts it counts in.
        layouts: Vec<u64>,
    },
    /// Tell the client that it is done.
    Answer(Counted),
    /// Tell the client that it may be done, or may be done later: outcome *unknown*.
    Fail {
        /// Why.
        why: PutFailure,
        /// How far it got.
        counted: Counted,
    },
}

/// Why a write was not acknowledged. The outcome is unknown, whatever it is: something was minted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutFailure {
    /// Too many owners refused, failed or could not be reached.
    TooFewAcks,
    /// The deadline passed.
    DeadlinePassed,
}

/// What became of one owner's copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Copy {
    Sent,
    Failed(NoVote),
    Acked,
}

/// One coordinated write. Pure: time is an argument, and what is to be done is returned.
#[derive(Clone, Debug)]
pub struct PutCore {
    tally: Tally,
    own: Option<StoreId>,
    owners: Vec<(StoreId, Copy)>,
    decided: bool,
    recorder: Option<Box<Recorder>>,
}

impl PutCore {
    /// A write that `requirement` has to acknowledge, `durable` of it flushed, and that goes to all `owners`: those of other
    /// regions too, which a local level does not count. `own` is the coordinator's own replica: it commits by itself, and
    /// is not sent to.
    #[must_use]
    pub fn new(
        requirement: Requirement,
        owners: impl IntoIterator<Item = StoreId>,
        durable: usize,
        own: Option<StoreId>,
        recorder: Option<Recorder>,
    ) -> Self {
        let mut everybody = requirement.members().to_vec();
        for owner in owners {
            if !everybody.contains(&owner) {
                everybody.push(owner);
            }
        }
        let owners: Vec<_> = everybody.into_iter().map(|id| (id, Copy::Sent)).collect();
        let mut recorder = recorder.map(Box::new);
        if let Some(recorder) = &mut recorder {
            recorder.expect(owners.iter().map(|(id, _)| *id));
        }
        Self { tally: Tally::durable(requirement, durable), own, owners, decided: false, recorder }
    }

    /// To all owners at once.
    pub fn start(&mut self, now: Mono) -> Vec<PutAction> {
        if let Some(recorder) = &mut self.recorder {
            self.owners.iter().for_each(|(id, _)| recorder.sent(now, *id, false));
        }
        let others = self.owners.iter().filter(|(id, _)| Some(*id) != self.own);
        others.map(|&(to, _)| PutAction::Send { to, layouts: self.tally.requirement().layouts_of(to) }).collect()
    }

    /// `from` has it, in these layouts; also long after the answer.
    pub fn on_ack(&mut self, now: Mono, from: StoreId, layouts: &[u64], flushed: bool) -> Option<PutAction> {
        let (_, copy) = self.owners.iter_mut().find(|(id, _)| *id == from)?;
        *copy = Copy::Acked;
        self.tally.acknowledged(from, layouts, flushed);
        if let Some(recorder) = &mut self.recorder {
            let result = if flushed { ReplicaResult::Flushed } else { ReplicaResult::Acked };
            recorder.answered(now, from, result, None);
        }
        self.decide(now, None)
    }

    /// `from` may not have it: not at all, or not in the layouts that it has not acknowledged.
    pub fn on_failed(&mut self, now: Mono, from: StoreId, why: NoVote) -> Option<PutAction> {
        let (_, copy) = self.owners.iter_mut().find(|(id, _)| *id == from)?;
        if *copy == Copy::Acked {
            if self.tally.has_all_of(from) {
                return None;
            }
            self.tally.failed(from);
            return self.decide(now, None);
        }
        *copy = Copy::Failed(why);
        self.tally.failed(from);
        if let Some(recorder) = &mut self.recorder {
            recorder.answered(now, from, why.into(), None);
        }
        self.decide(now, None)
    }

    /// Other layouts are live now, and it is counted in these. What was acknowledged stands for the layouts it was for;
    /// whoever lacks one is asked again, with the same dot, also who acknowledged for other layouts: between the two it
    /// may have lost what it held. After the decision nothing is asked any more.
    pub fn on_layouts(
        &mut self,
        now: Mono,
        requirement: Requirement,
        owners: impl IntoIterator<Item = StoreId>,
    ) -> Vec<PutAction> {
        if self.decided {
            return Vec::new();
        }
        self.tally = self.tally.carried_into(requirement);
        for owner in owners.into_iter().chain(self.tally.requirement().members().to_vec()) {
            if self.owners.iter().all(|(id, _)| *id != owner) {
                self.owners.push((owner, Copy::Sent));
                if let Some(recorder) = &mut self.recorder {
                    recorder.expect([owner]);
                }
            }
        }
        if let Some(action) = self.decide(now, None) {
            return vec![action];
        }
        let mut actions = Vec::new();
        for (id, copy) in &mut self.owners {
            let layouts = self.tally.requirement().layouts_of(*id);
            // Who is not counted gets it all the same, once.
            let lacks = if layouts.is_empty() { *copy != Copy::Acked } else { !self.tally.has_all_of(*id) };
            if lacks {
                *copy = Copy::Sent;
                if let Some(recorder) = &mut self.recorder {
                    recorder.sent(now, *id, false);
                }
                actions.push(PutAction::Send { to: *id, layouts });
            }
        }
        actions
    }

    /// The deadline passed.
    pub fn on_deadline(&mut self, now: Mono) -> Option<PutAction> {
        self.decide(now, Some(PutFailure::DeadlinePassed))
    }

    fn decide(&mut self, now: Mono, failure: Option<PutFailure>) -> Option<PutAction> {
        if self.decided {
            return None;
        }
        let counted = self.tally.counted();
        let action = match (self.tally.verdict(), failure) {
            (Verdict::Met, _) => PutAction::Answer(counted),
            (_, Some(why)) => PutAction::Fail { why, counted },
            (Verdict::Hopeless, None) => PutAction::Fail { why: PutFailure::TooFewAcks, counted },
            (Verdict::Open, None) => return None,
        };
        self.decided = true;
        if let Some(recorder) = &mut self.recorder {
            let owners = &self.owners;
            recorder.decided(now, |id| owners.contains(&(id, Copy::Acked)));
        }
        Some(action)
    }

    /// The owners that are not known to have it in every layout they count in: for hints, and for the answer.
    pub fn missed(&self) -> impl Iterator<Item = StoreId> + '_ {
        let missed = |(id, copy): &&(StoreId, Copy)| *copy != Copy::Acked || !self.tally.has_all_of(*id);
        self.owners.iter().filter(missed).map(|(id, _)| *id)
    }

    /// The owners that failed, refused or could not be reached: they have missed it, as far as anybody knows.
    pub fn failed(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.owners.iter().filter(|(_, copy)| matches!(copy, Copy::Failed(_))).map(|(id, _)| *id)
    }

    /// The owners that nothing was heard of since it was sent to them.
    pub fn unheard(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.owners.iter().filter(|(_, copy)| *copy == Copy::Sent).map(|(id, _)| *id)
    }

    /// The layouts in which `owner` counts.
    #[must_use]
    pub fn layouts_of(&self, owner: StoreId) -> Vec<u64> {
        self.tally.requirement().layouts_of(owner)
    }

    /// Whether `owner` has it, but in fewer layouts than it counts in: it has dropped one that is live here. It is to be
    /// asked what it knows, for nothing else is coming from it.
    #[must_use]
    pub fn acked_in_part(&self, owner: StoreId) -> bool {
        let acked = self.owners.contains(&(owner, Copy::Acked));
        !self.decided && acked && !self.tally.has_all_of(owner)
    }

    /// Whether the client has been answered.
    #[must_use]
    pub const fn is_decided(&self) -> bool {
        self.decided
    }

    /// Whether every owner has answered or failed, so that nothing more will come.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owners.iter().all(|(_, copy)| *copy != Copy::Sent)
    }

    /// What each owner did, as an error tells it: `ok`, `down`, `timeout`, `error`, `refused`, `syncing`.
    pub fn states(&self) -> impl Iterator<Item = (StoreId, &'static str)> + '_ {
        self.owners.iter().map(|(id, copy)| match copy {
            Copy::Sent => (*id, NoVote::TimedOut.as_str()),
            Copy::Failed(why) => (*id, why.as_str()),
            Copy::Acked => (*id, "ok"),
        })
    }

    /// What was taken down, where it was asked for.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::testing::{ids, one_layout, two_layouts};
    use crate::quorum::{Described, Level, Role};

    const A: StoreId = StoreId::from_bits(0);
    const B: StoreId = StoreId::from_bits(1);
    const C: StoreId = StoreId::from_bits(2);
    const NOW: Mono = Mono(5);

    fn core(level: Level, durable: usize) -> PutCore {
        let mut core = PutCore::new(one_layout(level, 3), [], durable, Some(A), Some(Recorder::new(Mono(0))));
        let sends: Vec<_> = [B, C].map(|to| PutAction::Send { to, layouts: vec![1] }).into();
        assert_eq!(core.start(Mono(1)), sends, "to all other owners at once");
        core
    }

    fn counted(answered: u32, needed: u32) -> Counted {
        Counted { answered, needed, n: 3, layout: 1 }
    }

    #[test]
    fn w_acknowledgements_answer_and_late_ones_are_noted() {
        let mut core = core(Level::Two, 0);
        assert_eq!(core.on_ack(NOW, A, &[1], false), None);
        assert_eq!(core.on_ack(NOW, A, &[1], false), None, "one owner counts once");
        assert_eq!(core.on_ack(NOW, StoreId::from_bits(9), &[1], false), None, "a stranger does not count");
        assert_eq!(core.on_ack(NOW, B, &[1], true), Some(PutAction::Answer(counted(2, 2))));
        assert_eq!(core.missed().collect::<Vec<_>>(), [C]);
        assert!(!core.is_settled());
        assert_eq!(core.on_ack(Mono(90), C, &[1], false), None, "answered once");
        assert_eq!(core.missed().count(), 0);
        assert!(core.is_settled());
        let explain = core.recorder().unwrap().explain(|id| Described {
            node: id.bits().to_string(),
            zone: String::new(),
            role: Role::Owner,
        });
        assert_eq!((explain.late, explain.decided_us), (vec!["2".to_owned()], Some(5)));
        assert_eq!(explain.replicas.iter().map(|r| r.counted).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn too_many_failures_end_it_with_nothing_known() {
        let mut core = core(Level::Two, 0);
        assert_eq!(core.on_failed(NOW, B, NoVote::Unreachable), None);
        let fail = PutAction::Fail { why: PutFailure::TooFewAcks, counted: counted(0, 2) };
        assert_eq!(core.failed().collect::<Vec<_>>(), [B]);
        assert_eq!(core.on_failed(NOW, C, NoVote::Refused), Some(fail));
        assert_eq!(core.on_ack(NOW, B, &[1], true), None);
        assert_eq!(core.states().collect::<Vec<_>>(), [(A, "timeout"), (B, "ok"), (C, "refused")]);
        assert_eq!((core.unheard().collect::<Vec<_>>(), core.failed().collect::<Vec<_>>()), (vec![A], vec![C]));
        assert_eq!(core.missed().collect::<Vec<_>>(), [A, C]);
    }

    #[test]
    fn the_deadline_ends_it() {
        let mut core = core(Level::All, 0);
        core.on_ack(NOW, A, &[1], true);
        let fail = PutAction::Fail { why: PutFailure::DeadlinePassed, counted: counted(1, 3) };
        assert_eq!(core.on_deadline(NOW), Some(fail));
        assert_eq!(core.on_deadline(NOW), None);
    }

    #[test]
    fn a_failure_takes_no_acknowledgement_back() {
        let mut core = core(Level::Two, 0);
        core.on_ack(NOW, A, &[1], true);
        core.on_failed(NOW, A, NoVote::TimedOut);
        assert!(matches!(core.on_ack(NOW, B, &[1], false), Some(PutAction::Answer(_))));
    }

    #[test]
    fn durable_waits_for_a_flush_beyond_w() {
        let mut core = core(Level::Two, 1);
        assert_eq!(core.on_ack(NOW, A, &[1], false), None);
        assert_eq!(core.on_ack(NOW, B, &[1], false), None, "two, but none flushed");
        assert_eq!(core.on_ack(NOW, C, &[1], true), Some(PutAction::Answer(counted(3, 2))));
        let mut core = self::core(Level::Two, 2);
        core.on_ack(NOW, A, &[1], false);
        assert!(core.on_ack(NOW, B, &[1], false).is_some_and(|a| matches!(a, PutAction::Fail { .. })));
    }

    #[test]
    fn an_acknowledgement_counts_only_in_the_layouts_it_was_for() {
        // Layout 1 owned by 0..3, layout 2 by 1..4.
        let mut core = PutCore::new(two_layouts(Level::Quorum), [], 0, Some(B), None);
        let sends = core.start(NOW);
        assert!(sends.contains(&PutAction::Send { to: C, layouts: vec![2, 1] }));
        assert!(sends.contains(&PutAction::Send { to: A, layouts: vec![1] }));
        assert_eq!(core.on_ack(NOW, B, &[1, 2], true), None);
        assert_eq!(core.on_ack(NOW, C, &[1], true), None, "layout 2 has one of two");
        assert_eq!(core.on_ack(NOW, A, &[1], true), None);
        assert_eq!(core.missed().collect::<Vec<_>>(), ids([2, 3]));
        assert!(matches!(core.on_ack(NOW, C, &[2], true), Some(PutAction::Answer(_))));
    }

    #[test]
    fn who_has_dropped_a_layout_acknowledges_in_part_and_is_asked_what_it_knows() {
        // Layout 1 owned by 0..3, layout 2 by 1..4; B and C have dropped layout 1, and nothing is heard of A.
        let write = || {
            let mut core = PutCore::new(two_layouts(Level::Quorum), [], 0, Some(B), None);
            core.start(NOW);
            for from in [B, C] {
                assert_eq!(core.on_ack(NOW, from, &[2], true), None);
                assert!(core.acked_in_part(from));
            }
            assert!(!core.acked_in_part(A), "it has not acknowledged at all");
            core
        };
        let mut learnt = write();
        let actions = learnt.on_layouts(NOW, two_layouts(Level::Quorum).in_layout(2).unwrap(), []);
        assert!(matches!(actions[..], [PutAction::Answer(_)]), "what they said for layout 2 is enough there");
        assert!(!learnt.acked_in_part(B));
        // Where nothing can be learnt it ends all the same.
        let mut ends = write();
        assert_eq!(ends.on_failed(NOW, B, NoVote::Refused), None, "A and C may make layout 1's quorum");
        let ended = ends.on_failed(NOW, C, NoVote::Refused);
        assert!(matches!(ended, Some(PutAction::Fail { why: PutFailure::TooFewAcks, .. })), "{ended:?}");
    }

    #[test]
    fn under_other_layouts_an_acknowledgement_stands_for_the_one_it_was_for() {
        // Layout 1 owned by 0..3; then layout 2 by 1..4 as well.
        let mut core = PutCore::new(one_layout(Level::Quorum, 3), [], 0, Some(A), None);
        core.start(NOW);
        assert_eq!(core.on_ack(NOW, A, &[1], true), None);
        let sends = core.on_layouts(NOW, two_layouts(Level::Quorum), []);
        let to = |id, layouts: &[u64]| PutAction::Send { to: id, layouts: layouts.to_vec() };
        let d = StoreId::from_bits(3);
        assert_eq!(sends, [to(B, &[2, 1]), to(C, &[2, 1]), to(d, &[2])], "A has all it counts in");
        assert_eq!(core.on_ack(NOW, B, &[1], true), None, "enough in layout 1, none in 2");
        assert_eq!(core.on_ack(NOW, d, &[2], true), None);
        assert!(matches!(core.on_ack(NOW, B, &[2, 1], true), Some(PutAction::Answer(_))), "asked again, it counts");
        assert_eq!(core.on_layouts(NOW, one_layout(Level::All, 3), []), [], "decided is decided");

        let mut core = PutCore::new(two_layouts(Level::Quorum), [], 0, Some(B), None);
        core.start(NOW);
        core.on_failed(NOW, A, NoVote::Refused);
        core.on_ack(NOW, B, &[2, 1], true);
        core.on_ack(NOW, C, &[1], true);
        assert!(matches!(core.on_layouts(NOW, one_layout(Level::Quorum, 3), [])[..], [PutAction::Answer(_)]));
    }
}
