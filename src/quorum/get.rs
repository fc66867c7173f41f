//! A coordinated read: reply in, answer and repairs out.
//!
//! ```text
//!   start: Ask own replica ----> its object is the base; then R-1 others: Ask{have: digest of the base}
//!            |                                  (no own replica, or it failed: Ask{have: none})
//!            v
//!        +--------+  same | object | nothing: a vote            error | syncing | refused | timeout: no vote,
//!        | asking | <------------------------------------------ and the next candidate is asked
//!        +--------+  R votes in each group, and they cover the floor: result = merge of all votes
//!            |       (they do not: every owner is asked; all of them voted: what they hold is the result)
//!            |
//!            | Sync, and fewer than R hold the result              Async, Off, or R hold it (or nobody has anything)
//!            v                                                              |
//!        +---------+  Repair{awaited} to those who are stale;               |
//!        | mending |  where one fails, to another owner                     |
//!        +---------+                                                        |
//!            | R hold it, in each live layout                               |
//!            v                                                              v
//!        +---------+  Answer, once. Then, unless Off: Repair to whoever is stale, late replies included
//!        | decided |
//!        +---------+  out of reach, or deadline: Fail; never the value
//! ```
//!
//! **The rules** (semantics section 4). "Not found" is a vote, a failure is none (I-OVERLAP). With [`Repair::Sync`] the
//! result is fixed when R have voted and returned once R of each live layout hold it (I-MONO); any owners will do, and
//! one that holds more than the result holds it. One round trip even where they differ: a conditional read brings the
//! object. Left to others: the messages, the timers, what of the object is shown.
//!
//! **A floor** (I-SESSION) is what the client has seen. Where R votes do not cover it every owner is asked, and whatever
//! they hold together is the answer: what none of them has was collected, has expired, or was lost to all. An owner that
//! gives no vote may hold it, so without that one there is no answer ([`GetFailure::SessionUnmet`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Counted, NoVote, Recorder, ReplicaResult, Requirement, Tally, Verdict};
use crate::causality::{MergeRules, Object, VersionVector};
use crate::types::{Digest, Mono, StoreId};

/// As many actions as usually come of one event.
const USUAL: usize = 1;

/// When divergent replicas found by a read are mended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Before the answer, until R of them hold what is returned: monotonic reads (I-MONO).
    #[default]
    Sync,
    /// After the answer.
    Async,
    /// Not by this read.
    Off,
}

/// What a replica said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplicaReply {
    /// It holds what the digest it was given names. From one that was given none: no vote.
    Same,
    /// It holds this.
    Object(Object),
    /// It holds this, and this is its digest: it came as a record.
    Record(Object, Digest),
    /// It holds nothing: a vote.
    Nothing,
    /// It did not vote.
    NoVote(NoVote),
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GetAction {
    /// Read this replica's copy.
    Ask {
        /// The replica.
        to: StoreId,
        /// Digest of what the coordinator holds: an equal copy is answered "same".
        have: Option<Digest>,
    },
    /// Write this state to a replica that does not hold it, and report the outcome.
    Repair {
        /// The replica: perhaps the coordinator's own.
        to: StoreId,
        /// What to merge into its copy.
        object: Arc<Object>,
        /// The answer waits for it.
        awaited: bool,
    },
    /// Tell the client.
    Answer(Found),
    /// Tell the client that it is not known.
    Fail {
        /// Why.
        why: GetFailure,
        /// How far it got.
        counted: Counted,
    },
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The merge of the votes; none if nobody has ever had anything.
    pub object: Option<Arc<Object>>,
    /// Who said so.
    pub counted: Counted,
    /// Whether the votes differed.
    pub divergent: bool,
}

/// Why a read has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GetFailure {
    /// Too many replicas could not answer.
    TooFewVotes,
    /// The deadline passed before R had answered.
    DeadlinePassed,
    /// The replicas differed, and R of them could not be brought to hold the merge (in time).
    NotMended,
    /// R have answered, and together have not seen what the floor names; some other owner gave no vote.
    SessionUnmet,
}

/// What one replica is known to hold.
#[derive(Clone, Debug)]
enum Copy {
    /// Nothing was asked yet.
    Unasked,
    /// Asked, with or without a digest.
    Asked { conditional: bool },
    /// Asked; it did not vote (yet: a late reply still tells what it holds).
    Failed { conditional: bool, why: NoVote },
    /// It voted.
    Holds(Option<Arc<Object>>),
}

#[derive(Clone, Debug)]
struct Member {
    id: StoreId,
    copy: Copy,
    /// The last state sent to it.
    sent: Option<Arc<Object>>,
    /// Repairs under way.
    repairs: u32,
}

#[derive(Clone, Debug)]
enum Phase {
    Asking,
    Mending { result: Arc<Object>, hold: Tally, divergent: bool },
    Decided,
}

/// What a read must be at least as new as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Floor {
    /// What the client has seen.
    pub seen: VersionVector,
    /// Every owner in the layout whose votes are counted, in whatever region: if all of them vote, what they hold together
    /// is the answer.
    pub owners: Vec<StoreId>,
}

/// What a read needs to know.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// Whose votes are counted: in one layout.
    pub votes: Requirement,
    /// Who has to hold the result before it is returned, with [`Repair::Sync`]: R in each live layout.
    pub hold: Requirement,
    /// Whom to ask, in order. Members that are not in it come last; who is no member is not asked.
    pub candidates: Vec<StoreId>,
    /// What is known besides, by nobody's vote: the hints of fallbacks. It is merged into what the votes bring.
    pub beside: Option<Arc<Object>>,
    /// The coordinator's own replica: asked first and, so that the others need not send what it has, alone.
    pub own: Option<StoreId>,
    /// How states merge.
    pub rules: MergeRules,
    /// When to mend.
    pub repair: Repair,
    /// What the result must be at least as new as.
    pub floor: Option<Floor>,
    /// The digest of an object.
    pub digest: fn(&Object) -> Digest,
}

/// One coordinated read. Pure: time is an argument, and what is to be done is returned.
#[derive(Clone, Debug)]
pub struct GetCore {
    tally: Tally,
    hold: Requirement,
    own: Option<StoreId>,
    rules: MergeRules,
    repair: Repair,
    floor: Option<Floor>,
    /// Whether owners were asked because of the floor alone.
    widened: bool,
    digest: fn(&Object) -> Digest,
    members: Vec<Member>,
    /// The first object that came, and its digest: what conditional reads name.
    base: Option<(Arc<Object>, Digest)>,
    /// The merge of all votes so far, and of what was known besides.
    known: Option<Arc<Object>>,
    phase: Phase,
    recorder: Option<Box<Recorder>>,
}

impl GetCore {
    /// A read as planned; it takes down how it went where a recorder is handed in.
    #[must_use]
    pub fn new(plan: ReadPlan, recorder: Option<Recorder>) -> Self {
        let ReadPlan { votes, hold, candidates, beside, own, rules, repair, floor, digest } = plan;
        let voters = votes.members();
        let own = own.filter(|own| voters.contains(own));
        let mut members: Vec<Member> = Vec::with_capacity(voters.len());
        let candidates = candidates.iter().filter(|id| voters.contains(id));
        let owners = floor.iter().flat_map(|floor| &floor.owners);
        for &id in own.iter().chain(candidates).chain(voters).chain(hold.members()).chain(owners) {
            if members.iter().all(|member| member.id != id) {
                members.push(Member { id, copy: Copy::Unasked, sent: None, repairs: 0 });
            }
        }
        let mut recorder = recorder.map(Box::new);
        if let Some(recorder) = &mut recorder {
            recorder.expect(members.iter().map(|member| member.id));
        }
        Self {
            tally: Tally::new(votes),
            hold,
            own,
            rules,
            repair,
            floor,
            widened: false,
            digest,
            members,
            base: None,
            known: beside.filter(|object| !object.is_empty()),
            phase: Phase::Asking,
            recorder,
        }
    }

    /// The first asks.
    pub fn start(&mut self, now: Mono) -> Vec<GetAction> {
        let mut actions = Vec::with_capacity(USUAL);
        match self.own.and_then(|own| self.position(own)) {
            Some(own) => self.ask(own, now, false, &mut actions),
            None => self.ask_more(now, false, &mut actions),
        }
        actions
    }

    /// A replica answered, or was given up.
    pub fn on_reply(&mut self, now: Mono, from: StoreId, reply: ReplicaReply) -> Vec<GetAction> {
        let mut actions = Vec::with_capacity(USUAL);
        let Some(at) = self.position(from) else { return actions };
        let (Copy::Asked { conditional } | Copy::Failed { conditional, .. }) = self.members[at].copy else {
            return actions;
        };
        let digest = if let ReplicaReply::Record(_, digest) = reply { Some(digest) } else { None };
        let (vote, result) = match reply {
            ReplicaReply::Same => match self.base.as_ref().filter(|_| conditional) {
                Some((base, _)) => (Ok(Some(base.clone())), ReplicaResult::Same),
                None => (Err(NoVote::Failed), ReplicaResult::Error),
            },
            ReplicaReply::Object(object) | ReplicaReply::Record(object, _) if !object.is_empty() => {
                (Ok(Some(Arc::new(object))), ReplicaResult::Value)
            }
            ReplicaReply::Object(_) | ReplicaReply::Record(..) | ReplicaReply::Nothing => {
                (Ok(None), ReplicaResult::NotFound)
            }
            ReplicaReply::NoVote(why) => (Err(why), why.into()),
        };
        if let Some(recorder) = &mut self.recorder {
            recorder.answered(now, from, result, vote.as_ref().ok().and_then(Option::as_deref));
        }
        match vote {
            Ok(held) => self.vote(at, held, digest),
            Err(why) => {
                self.members[at].copy = Copy::Failed { conditional, why };
                self.tally.failed(from);
            }
        }
        self.step(now, &mut actions);
        actions
    }

    /// A replica is slow: asks one more, or mends one more. While the own replica is the slow one, asks R others.
    pub fn on_hedge(&mut self, now: Mono) -> Vec<GetAction> {
        let mut actions = Vec::with_capacity(USUAL);
        let pending: Vec<_> =
            self.members.iter().filter(|m| matches!(m.copy, Copy::Asked { .. })).map(|m| m.id).collect();
        match &self.phase {
            Phase::Asking if pending.len() == 1 && self.own == pending.first().copied() => {
                self.ask_more(now, true, &mut actions);
            }
            Phase::Asking => {
                let spare = |m: &Member| matches!(m.copy, Copy::Unasked) && self.tally.wants(m.id, |_| false);
                if let Some(at) = self.members.iter().position(spare) {
                    self.ask(at, now, true, &mut actions);
                }
            }
            Phase::Mending { result, hold, .. } => {
                let result = result.clone();
                // Who was asked and has said nothing is the slow one.
                let spare = |m: &Member| m.sent.is_none() && hold.wants(m.id, |_| false);
                let silent = |m: &Member| matches!(m.copy, Copy::Asked { .. });
                let other = self.members.iter().position(|m| spare(m) && !silent(m));
                if let Some(at) = other.or_else(|| self.members.iter().position(spare)) {
                    self.mend(at, &result, true, &mut actions);
                }
            }
            Phase::Decided => {}
        }
        actions
    }

    /// A repair was written, or was not.
    pub fn on_repair_ack(&mut self, now: Mono, from: StoreId, ok: bool) -> Vec<GetAction> {
        let mut actions = Vec::with_capacity(USUAL);
        let Some(at) = self.position(from).filter(|at| self.members[*at].repairs > 0) else { return actions };
        self.members[at].repairs -= 1;
        if let Phase::Mending { hold, .. } = &mut self.phase {
            if ok {
                hold.yes(from)
            } else {
                hold.failed(from)
            }
            self.step(now, &mut actions);
        }
        actions
    }

    /// The deadline passed.
    pub fn on_deadline(&mut self, now: Mono) -> Vec<GetAction> {
        let mut actions = Vec::with_capacity(USUAL);
        match self.phase {
            // Enough have voted: it is the floor that is waited for.
            Phase::Asking if self.tally.is_met() => self.fail(now, GetFailure::SessionUnmet, &mut actions),
            Phase::Asking => self.fail(now, GetFailure::DeadlinePassed, &mut actions),
            Phase::Mending { .. } => self.fail(now, GetFailure::NotMended, &mut actions),
            Phase::Decided => {}
        }
        actions
    }

    /// Whether it has been answered or failed.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        matches!(self.phase, Phase::Decided)
    }

    /// Whether nothing more can come: decided, and no reply or repair outstanding.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_decided() && self.members.iter().all(|m| m.repairs == 0 && !matches!(m.copy, Copy::Asked { .. }))
    }

    /// Whether all that is known by now covers the floor; none where there is no floor.
    #[must_use]
    pub fn covers_floor(&self) -> Option<bool> {
        let Floor { seen, .. } = self.floor.as_ref()?;
        Some(self.known.as_ref().map_or(seen.is_empty(), |known| known.context().covers_all(seen)))
    }

    /// Whether owners were asked for no other reason than that those who had answered had not seen what the floor names.
    #[must_use]
    pub const fn is_widened(&self) -> bool {
        self.widened
    }

    /// What each replica did, as an error tells it: `ok`, `down`, `timeout`, `error`, `refused`, `syncing`, `unsent`.
    pub fn states(&self) -> impl Iterator<Item = (StoreId, &'static str)> + '_ {
        self.members.iter().map(|member| match member.copy {
            Copy::Unasked => (member.id, "unsent"),
            Copy::Asked { .. } => (member.id, NoVote::TimedOut.as_str()),
            Copy::Failed { why, .. } => (member.id, why.as_str()),
            Copy::Holds(_) => (member.id, "ok"),
        })
    }

    /// The digest of a result, where it is known: it is what the first replica held.
    #[must_use]
    pub fn digest_of(&self, result: &Arc<Object>) -> Option<Digest> {
        self.base.as_ref().filter(|(base, _)| Arc::ptr_eq(base, result)).map(|(_, digest)| *digest)
    }

    /// What was taken down, where it was asked for.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    fn position(&self, id: StoreId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    /// Counts a vote and merges what it brought.
    fn vote(&mut self, at: usize, held: Option<Arc<Object>>, digest: Option<Digest>) {
        self.tally.yes(self.members[at].id);
        if let Some(object) = &held {
            if self.base.is_none() {
                self.base = Some((object.clone(), digest.unwrap_or_else(|| (self.digest)(object))));
            }
            match &mut self.known {
                None => self.known = Some(object.clone()),
                Some(known) if !includes(known, object, &self.rules) => {
                    Arc::make_mut(known).merge(object, &self.rules);
                }
                Some(_) => {}
            }
        }
        self.members[at].copy = Copy::Holds(held);
    }

    /// Goes on from where it stands, after something has changed.
    fn step(&mut self, now: Mono, actions: &mut Vec<GetAction>) {
        if matches!(self.phase, Phase::Asking) {
            match self.tally.verdict() {
                Verdict::Open => self.ask_more(now, false, actions),
                Verdict::Hopeless => self.fail(now, GetFailure::TooFewVotes, actions),
                Verdict::Met if self.meets_floor() => self.enough(now, actions),
                Verdict::Met => self.widen(now, actions),
            }
        }
        if matches!(self.phase, Phase::Mending { .. }) {
            self.mend_more(now, actions);
        }
        if self.is_decided() {
            self.spread(actions);
        }
    }

    fn ask(&mut self, at: usize, now: Mono, hedged: bool, actions: &mut Vec<GetAction>) {
        let have = self.base.as_ref().map(|(_, digest)| *digest);
        let member = &mut self.members[at];
        member.copy = Copy::Asked { conditional: have.is_some() };
        if let Some(recorder) = &mut self.recorder {
            recorder.sent(now, member.id, hedged);
        }
        actions.push(GetAction::Ask { to: member.id, have });
    }

    /// Asks as many more as are needed beside those that may still answer; a hedge does not wait for those.
    fn ask_more(&mut self, now: Mono, hedged: bool, actions: &mut Vec<GetAction>) {
        let mut pending: Vec<_> =
            self.members.iter().filter(|m| matches!(m.copy, Copy::Asked { .. })).map(|m| m.id).collect();
        if hedged {
            pending.clear();
        }
        for at in 0..self.members.len() {
            let member = &self.members[at];
            if matches!(member.copy, Copy::Unasked) && self.tally.wants(member.id, |id| pending.contains(&id)) {
                pending.push(member.id);
                self.ask(at, now, hedged, actions);
            }
        }
        if self.repair == Repair::Sync && self.hold != *self.tally.requirement() {
            self.ask_holders(now, hedged, pending, actions);
        }
    }

    /// While layouts change: asks voters, too, who have to hold the result by another layout than the one the votes are
    /// counted in. That they hold it already is cheaper to hear than it is to write.
    fn ask_holders(&mut self, now: Mono, hedged: bool, mut pending: Vec<StoreId>, actions: &mut Vec<GetAction>) {
        let mut hold = Tally::new(self.hold.clone());
        let voted = self.members.iter().filter(|member| matches!(member.copy, Copy::Holds(_)));
        voted.for_each(|member| hold.yes(member.id));
        for at in 0..self.members.len() {
            let member = &self.members[at];
            let votes = matches!(member.copy, Copy::Unasked) && self.tally.requirement().members().contains(&member.id);
            if votes && hold.wants(member.id, |id| pending.contains(&id)) {
                pending.push(member.id);
                self.ask(at, now, hedged, actions);
            }
        }
    }

    /// Whether the votes so far cover the floor, or nobody is left who could.
    fn meets_floor(&self) -> bool {
        let Some(Floor { owners, .. }) = &self.floor else { return true };
        let voted =
            |owner: &StoreId| self.position(*owner).is_some_and(|at| matches!(self.members[at].copy, Copy::Holds(_)));
        self.covers_floor() == Some(true) || owners.iter().all(voted)
    }

    /// Asks every owner that was not asked yet; where none of them may still answer, there is no answer to be had.
    fn widen(&mut self, now: Mono, actions: &mut Vec<GetAction>) {
        let Some(Floor { owners, .. }) = &self.floor else { return };
        let places: Vec<usize> = owners.iter().filter_map(|owner| self.position(*owner)).collect();
        for &at in &places {
            if matches!(self.members[at].copy, Copy::Unasked) {
                self.widened = true;
                self.ask(at, now, false, actions);
            }
        }
        if let (true, Some(recorder)) = (self.widened, &mut self.recorder) {
            recorder.widened();
        }
        if !places.iter().any(|at| matches!(self.members[*at].copy, Copy::Asked { .. })) {
            self.fail(now, GetFailure::SessionUnmet, actions);
        }
    }

    /// R have voted: the result is fixed.
    fn enough(&mut self, now: Mono, actions: &mut Vec<GetAction>) {
        let result = self.known.clone();
        let differs = |member: &Member| matches!(&member.copy, Copy::Holds(held) if held != &result);
        let divergent = self.members.iter().any(differs);
        match result {
            // Everybody who voted holds it, and it is they who have to: nothing to mend.
            Some(_) if !divergent && self.hold == *self.tally.requirement() => {
                self.answer(now, result, divergent, actions);
            }
            Some(result) if self.repair == Repair::Sync => {
                let mut hold = Tally::new(self.hold.clone());
                self.members.iter().filter(|m| m.holds(&result, &self.rules)).for_each(|m| hold.yes(m.id));
                self.phase = Phase::Mending { result, hold, divergent };
            }
            result => self.answer(now, result, divergent, actions),
        }
    }

    /// Writes the result to those who are stale, and to as many others as it takes; answers once enough hold it.
    fn mend_more(&mut self, now: Mono, actions: &mut Vec<GetAction>) {
        let Phase::Mending { result, hold, divergent } = &mut self.phase else { return };
        self.members.iter().filter(|m| m.holds(result, &self.rules)).for_each(|m| hold.yes(m.id));
        let (result, divergent) = (result.clone(), *divergent);
        match hold.verdict() {
            Verdict::Met => self.answer(now, Some(result), divergent, actions),
            Verdict::Hopeless => self.fail(now, GetFailure::NotMended, actions),
            Verdict::Open => {
                let hold = hold.clone();
                // Who was asked may say that it holds the result.
                let awaited = |m: &&Member| m.repairs > 0 || matches!(m.copy, Copy::Asked { .. });
                let mut pending: Vec<_> = self.members.iter().filter(awaited).map(|m| m.id).collect();
                for at in 0..self.members.len() {
                    if self.members[at].is_stale(&result, &self.rules) {
                        pending.push(self.members[at].id);
                        self.mend(at, &result, true, actions);
                    }
                }
                // Unasked ones first; those that did not vote are the last resort.
                let last_resort = |member: &Member| matches!(member.copy, Copy::Failed { .. });
                for last in [false, true] {
                    for at in 0..self.members.len() {
                        let member = &self.members[at];
                        let untried = member.sent.is_none() && last_resort(member) == last;
                        if untried && hold.wants(member.id, |id| pending.contains(&id)) {
                            pending.push(member.id);
                            self.mend(at, &result, true, actions);
                        }
                    }
                }
            }
        }
    }

    fn mend(&mut self, at: usize, object: &Arc<Object>, awaited: bool, actions: &mut Vec<GetAction>) {
        let member = &mut self.members[at];
        member.sent = Some(object.clone());
        member.repairs += 1;
        if let Some(recorder) = &mut self.recorder {
            recorder.repaired(member.id);
        }
        actions.push(GetAction::Repair { to: member.id, object: object.clone(), awaited });
    }

    /// After the decision: brings all that is known to everybody who voted and is behind.
    fn spread(&mut self, actions: &mut Vec<GetAction>) {
        let Some(known) = self.known.clone().filter(|_| self.repair != Repair::Off) else { return };
        for at in 0..self.members.len() {
            if self.members[at].is_stale(&known, &self.rules) {
                self.mend(at, &known, false, actions);
            }
        }
    }

    fn answer(&mut self, now: Mono, object: Option<Arc<Object>>, divergent: bool, actions: &mut Vec<GetAction>) {
        self.decide(now);
        actions.push(GetAction::Answer(Found { object, counted: self.tally.counted(), divergent }));
    }

    fn fail(&mut self, now: Mono, why: GetFailure, actions: &mut Vec<GetAction>) {
        let counted = match &self.phase {
            Phase::Mending { hold, .. } => hold.counted(),
            _ => self.tally.counted(),
        };
        self.decide(now);
        actions.push(GetAction::Fail { why, counted });
    }

    fn decide(&mut self, now: Mono) {
        self.phase = Phase::Decided;
        if let Some(recorder) = &mut self.recorder {
            let members = &self.members;
            recorder.decided(now, |id| members.iter().any(|m| m.id == id && matches!(m.copy, Copy::Holds(_))));
        }
    }
}

impl Member {
    /// Whether it voted with a state that has all of `object`.
    fn holds(&self, object: &Object, rules: &MergeRules) -> bool {
        matches!(&self.copy, Copy::Holds(Some(held)) if includes(held, object, rules))
    }

    /// Whether it voted, lacks some of `object`, and was not sent all of it yet.
    fn is_stale(&self, object: &Object, rules: &MergeRules) -> bool {
        matches!(self.copy, Copy::Holds(_))
            && !self.holds(object, rules)
            && !self.sent.as_ref().is_some_and(|sent| includes(sent, object, rules))
    }
}

/// Whether merging `part` into `whole` would change nothing.
fn includes(whole: &Object, part: &Object, rules: &MergeRules) -> bool {
    std::ptr::eq(whole, part) || whole == part || !whole.clone().merge(part, rules).changed
}

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
