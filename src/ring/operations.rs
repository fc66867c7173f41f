//! Operations: what an operator asks for, in names -> the one successor that does it, what it costs, what it risks.
//!
//! A plan changes nothing. It is made on what one node knows ([`View`], [`Facts`]), and judged again when it is
//! committed: by then a member may have died, another layout may have been decided. Several changes at once are one
//! plan and one layout, so that nothing moves twice.
//!
//! | asked for | what becomes of the member |
//! |---|---|
//! | `add` | it joins, and is given partitions |
//! | `leave` | weight 0: it owns nothing, is copied from, and is left out by [`change::follow_up`] |
//! | `remove` | it is dead: left out at once, and its store ended; nobody copies from it |
//! | `replace` | the same, and another node takes its places |
//! | `weights`, `labels` | it stays, and partitions move |
//! | `rebalance` | it stays, and partitions move where that evens out |
//! | `abort` | the owners of the last complete layout are given back |
//!
//! Two things are refused unless the operator says so ([`Consent`]): partitions left with too few members that are up
//! to make their quorums ([`risk::too_thin`]), and stores left out that may hold what nobody else does
//! ([`risk::may_lose`]).

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::change::{self, Kind, NotNow};
use super::report::PlacementReport;
use super::risk::{self, Pledge, Short};
use super::{Layout, LayoutError, Member, View, planner};
use crate::types::{PartitionId, StoreId, nearest};

pub mod follow;
mod force;
mod report;

pub use force::force;
pub use report::{
    BucketChange, Change, MemberRow, Moved, Report, ZoneRow, bucket_changes, member_changes, owners_change,
};

/// What an operator asks for. Members are called by their name, node id or store id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Nodes that are to become members.
    pub add: Vec<String>,
    /// Members that are to leave: they live, and are copied from.
    pub leave: Vec<String>,
    /// Members that are dead for good.
    pub remove: Vec<String>,
    /// Members that are dead for good, and who takes their places.
    pub replace: Vec<Replace>,
    /// New shares of the load.
    pub weights: BTreeMap<String, u32>,
    /// New labels.
    pub labels: BTreeMap<String, Labels>,
    /// Give up the change under way. Only `remove` goes with it.
    pub abort: bool,
    /// Place everything anew, also where nobody changes: a joiner whose join was aborted owns nothing until then.
    pub rebalance: bool,
}

/// A dead member and its successor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replace {
    /// The member.
    pub old: String,
    /// The node that takes its places; it may have the same name and address.
    pub new: String,
}

/// Labels to be changed; none: it stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Labels {
    /// The zone.
    pub zone: Option<String>,
    /// The region.
    pub region: Option<String>,
}

/// What the planning node knows beside the chain.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Nodes that are no members and could become some.
    pub candidates: &'a [Member],
    /// Whether a member is up, as far as is known here.
    pub up: &'a dyn Fn(StoreId) -> bool,
    /// The newest layout a member has said it knows.
    pub knows: &'a dyn Fn(StoreId) -> u64,
    /// About how many bytes one replica of a partition takes; none where that is not known.
    pub bytes: &'a dyn Fn(PartitionId) -> Option<u64>,
    /// Members whose copies are known to be wanting: they count as left out where data may be lost.
    pub unsynced: &'a BTreeSet<StoreId>,
    /// Members whose stores have forgotten what they promised, and have no voice in what is decided next.
    pub silent: &'a BTreeSet<StoreId>,
}

/// What the operator takes upon himself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Consent {
    /// Partitions may be left with fewer live replicas than their quorums need.
    pub force: bool,
    /// Acknowledged writes may be lost.
    pub accept_data_loss: bool,
}

/// What goes wrong, or may.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Risks {
    /// Partitions that would have too few live replicas.
    pub thin: Vec<Short>,
    /// Where acknowledged writes may be lost.
    pub loses: Vec<Short>,
}

/// A successor, and what it means.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What kind of successor it is.
    pub kind: Kind,
    /// The layout.
    pub next: Layout,
    /// Who is replaced by whom.
    pub replaced: BTreeMap<StoreId, StoreId>,
    /// Who changes, what moves.
    pub report: Report,
    /// What may go wrong.
    pub risks: Risks,
}

/// Why there is no plan, or why it may not be committed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// Nobody has that name.
    #[error("no {what} is called {name:?}{}", near(.nearest.as_deref()))]
    Unknown {
        /// The name.
        name: String,
        /// What was looked for: a member, or a node that could become one.
        what: &'static str,
        /// Who has the most similar name.
        nearest: Option<String>,
    },
    /// Several nodes have that name.
    #[error("{count} nodes are called {name:?}: name it by its node id")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// It is asked for two things that do not go together.
    #[error("{name} is named twice: a member leaves, is removed or is replaced, and nothing else")]
    Twice {
        /// The member.
        name: String,
    },
    /// Who is to join has joined.
    #[error("{name} is a member already: to leave out a dead member beside it, remove that one")]
    Joined {
        /// The node.
        name: String,
    },
    /// A node under this name is a member already.
    #[error("a member is called {name} already: if it is dead, the new node takes its places (replace {name}={name})")]
    Taken {
        /// The name.
        name: String,
    },
    /// It lives.
    #[error("{name} is up: who is removed or replaced has stopped for good; stop its process, or let it leave")]
    Up {
        /// The member.
        name: String,
    },
    /// It is dead.
    #[error("{name} is down: who leaves is copied from; start it, or remove it")]
    Down {
        /// The member.
        name: String,
    },
    /// It is leaving already.
    #[error("{name} is leaving already")]
    Leaving {
        /// The member.
        name: String,
    },
    /// A weight that only a leave sets.
    #[error("{name}: a weight is at least 1; who is to own nothing leaves")]
    NoWeight {
        /// The member.
        name: String,
    },
    /// Nothing was asked for, or nothing would change.
    #[error("nothing would change")]
    Nothing,
    /// No change is under way.
    #[error("layout {newest} is complete: there is nothing to abort")]
    Complete {
        /// The newest layout.
        newest: u64,
    },
    /// More than an abort goes with.
    #[error("an abort gives back the owners from before: only removed members go with it")]
    NotWithAbort,
    /// A majority of the deciders lives.
    #[error(
        "{left} of {deciders} deciders are left and have a voice: they decide; remove the dead by an ordinary plan"
    )]
    MajorityLives {
        /// Deciders that are up, have a voice and are not named.
        left: usize,
        /// Deciders.
        deciders: usize,
    },
    /// A member that is to go on cannot be heard of here.
    #[error(
        "{name} is down and not named: a forced layout is made where all who go on are up; start it, or name it too"
    )]
    Unheard {
        /// The member.
        name: String,
    },
    /// Another member knows more.
    #[error("{name} knows layout {version}, this node {newest}: wait until this node has caught up, or ask that one")]
    Ahead {
        /// The member.
        name: String,
        /// The newest layout it knows.
        version: u64,
        /// The newest one known here.
        newest: u64,
    },
    /// Partitions would be left too thin.
    #[error("too few live replicas would be left ({}); force goes on all the same", list(.0))]
    TooThin(Vec<Short>),
    /// Data may be lost.
    #[error("acknowledged writes may be lost ({}); only accepting data loss goes on", list(.0))]
    MayLose(Vec<Short>),
    /// A layout that nobody decides.
    #[error(
        "a forced layout is decided by nobody, and may lose acknowledged writes{}; only accepting data loss goes on",
        where_(.0)
    )]
    Forced(Vec<Short>),
    /// Such a successor may not be decided now.
    #[error(transparent)]
    NotNow(#[from] NotNow),
}

impl From<LayoutError> for Refused {
    fn from(error: LayoutError) -> Self {
        NotNow::from(error).into()
    }
}

fn near(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| ": there is none".to_owned(), |name| format!(": did you mean {name}?"))
}

/// The first of them, and how many more.
fn list(shorts: &[Short]) -> String {
    let first = shorts.first().map(Short::to_string).unwrap_or_default();
    if shorts.len() > 1 { format!("{first}; and {} more such", shorts.len() - 1) } else { first }
}

fn where_(shorts: &[Short]) -> String {
    if shorts.is_empty() { String::new() } else { format!(" ({})", list(shorts)) }
}

/// What `changes` come to.
pub fn plan(view: View<'_>, facts: &Facts<'_>, changes: &Changes) -> Result<Plan, Refused> {
    let newest = view.chain.newest();
    if *changes == Changes::default() {
        return Err(Refused::Nothing);
    }
    let (next, replaced) = if changes.abort {
        (abort(view, facts, changes)?, BTreeMap::new())
    } else if !view.is_complete() && only_removes(changes) {
        (change::skip(view.chain, &dead(view, facts, &changes.remove)?)?, BTreeMap::new())
    } else {
        let (members, replaced) = members(view, facts, changes)?;
        let next = planner::plan(newest, members)?;
        let joins = next.members().iter().any(|member| newest.member_by_store(member.store).is_none());
        if !view.is_complete() && !joins {
            return Err(NotNow::Unfinished { unfinished: newest.version() }.into());
        }
        (next, replaced)
    };
    if next.members() == newest.members() && next.spec().regions == newest.spec().regions && !changes.abort {
        return Err(Refused::Nothing);
    }
    made(view, facts, next, replaced)
}

/// The plan that a successor is.
fn made(
    view: View<'_>,
    facts: &Facts<'_>,
    next: Layout,
    replaced: BTreeMap<StoreId, StoreId>,
) -> Result<Plan, Refused> {
    let kind = change::judge_successor(view.chain, view.is_complete(), &next)?;
    let report = Report::of(view.chain.newest(), &next, &replaced, facts.bytes);
    let risks = risks(view, facts, &next);
    Ok(Plan { kind, next, replaced, report, risks })
}

/// What `next` risks, by what is known now.
///
/// Which layouts may have replaced the last complete one is judged by this node's own sync_ack alone: it is the one
/// pledge that is certain beforehand, since this node accepts the successor or learns of it, and goes no further.
#[must_use]
pub fn risks(view: View<'_>, facts: &Facts<'_>, next: &Layout) -> Risks {
    let newest = view.chain.newest();
    let joins = |store| newest.member_by_store(store).is_none();
    let thin = risk::too_thin(next, |store| joins(store) || is_up(view, facts, store));
    Risks { thin, loses: loses(view, facts.unsynced, next, &[(view.me, view.own().sync_ack)]) }
}

/// What may be lost by those that `next` leaves out. With the pledges of those that accepted it this is the last word.
#[must_use]
pub fn loses(view: View<'_>, unsynced: &BTreeSet<StoreId>, next: &Layout, pledges: &[Pledge]) -> Vec<Short> {
    let newest = view.chain.newest();
    let stores = newest.members().iter().map(|member| member.store);
    let gone: BTreeSet<StoreId> = stores.filter(|store| next.member_by_store(*store).is_none()).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    let mut chain = view.chain.clone();
    if view.is_complete() {
        // Known to be so, not yet acted upon: layouts before it do not count any more.
        chain.drop_before(newest.version());
    }
    risk::may_lose(&chain, &gone, unsynced, pledges)
}

impl Risks {
    /// Whether a plan with these risks may be committed.
    pub fn allow(&self, consent: Consent) -> Result<(), Refused> {
        if !self.loses.is_empty() && !consent.accept_data_loss {
            return Err(Refused::MayLose(self.loses.clone()));
        }
        if !self.thin.is_empty() && !consent.force {
            return Err(Refused::TooThin(self.thin.clone()));
        }
        Ok(())
    }

    /// Whether a forced layout with these risks may be appended: never unasked.
    pub fn allow_force(&self, consent: Consent) -> Result<(), Refused> {
        if consent.accept_data_loss { Ok(()) } else { Err(Refused::Forced(self.loses.clone())) }
    }
}

fn only_removes(changes: &Changes) -> bool {
    *changes == Changes { remove: changes.remove.clone(), ..Changes::default() }
}

fn is_up(view: View<'_>, facts: &Facts<'_>, store: StoreId) -> bool {
    store == view.me || (facts.up)(store)
}

fn abort(view: View<'_>, facts: &Facts<'_>, changes: &Changes) -> Result<Layout, Refused> {
    if (Changes { abort: true, remove: changes.remove.clone(), ..Changes::default() }) != *changes {
        return Err(Refused::NotWithAbort);
    }
    let newest = view.chain.newest();
    if view.is_complete() {
        return Err(Refused::Complete { newest: newest.version() });
    }
    let mut skipped = dead(view, facts, &changes.remove)?;
    // A joiner that is down would hold up its own abort.
    let base = &view.chain.live()[0];
    let joiners = newest.members().iter().map(|m| m.store).filter(|store| base.member_by_store(*store).is_none());
    skipped.extend(joiners.filter(|store| !is_up(view, facts, *store)));
    Ok(change::abort(view.chain, &skipped)?)
}

/// Members by name that are removed: none of them is up.
fn dead(view: View<'_>, facts: &Facts<'_>, names: &[String]) -> Result<BTreeSet<StoreId>, Refused> {
    let mut gone = BTreeSet::new();
    for name in names {
        let member = member(view.chain.newest().members(), name)?;
        if is_up(view, facts, member.store) {
            return Err(Refused::Up { name: member.name.clone() });
        }
        if !gone.insert(member.store) {
            return Err(Refused::Twice { name: member.name.clone() });
        }
    }
    Ok(gone)
}

/// The members after `changes`, and who is replaced by whom.
fn members(
    view: View<'_>,
    facts: &Facts<'_>,
    changes: &Changes,
) -> Result<(Vec<Member>, BTreeMap<StoreId, StoreId>), Refused> {
    let now = view.chain.newest().members();
    let removed: Vec<String> = changes.remove.iter().chain(changes.replace.iter().map(|r| &r.old)).cloned().collect();
    let gone = dead(view, facts, &removed)?;
    let mut members: Vec<Member> = now.iter().filter(|member| !gone.contains(&member.store)).cloned().collect();
    let mut leaving = BTreeSet::new();
    for name in &changes.leave {
        let found = member(now, name)?;
        let name = found.name.clone();
        if gone.contains(&found.store) || !leaving.insert(found.store) {
            return Err(Refused::Twice { name });
        }
        match (found.weight, is_up(view, facts, found.store)) {
            (0, _) => return Err(Refused::Leaving { name }),
            (_, false) => return Err(Refused::Down { name }),
            (_, true) => {}
        }
    }
    let mut replaced = BTreeMap::new();
    let replacing = changes.replace.iter().map(|replace| (&replace.new, Some(&replace.old)));
    for (name, old) in changes.add.iter().map(|name| (name, None)).chain(replacing) {
        let joiner = candidate(facts.candidates, name).map_err(|unknown| {
            // It may have been taken in by itself meanwhile.
            let joined = members.iter().find(|member| is_called(member, name));
            joined.map_or(unknown, |member| Refused::Joined { name: member.name.clone() })
        })?;
        if members.iter().any(|member| member.store == joiner.store || member.name == joiner.name) {
            return Err(Refused::Taken { name: joiner.name.clone() });
        }
        if let Some(old) = old {
            replaced.insert(member(now, old)?.store, joiner.store);
        }
        members.push(joiner.clone());
    }
    for (name, weight) in &changes.weights {
        let at = at(&members, name)?;
        let member = &mut members[at];
        if leaving.contains(&member.store) {
            return Err(Refused::Twice { name: member.name.clone() });
        }
        member.weight = *weight;
    }
    if let Some(light) = members.iter().find(|member| member.weight == 0 && weighs(view, changes, member)) {
        return Err(Refused::NoWeight { name: light.name.clone() });
    }
    for (name, labels) in &changes.labels {
        let at = at(&members, name)?;
        let member = &mut members[at];
        labels.zone.iter().for_each(|zone| member.zone.clone_from(zone));
        labels.region.iter().for_each(|region| member.region.clone_from(region));
    }
    members.iter_mut().filter(|member| leaving.contains(&member.store)).for_each(|member| member.weight = 0);
    Ok((members, replaced))
}

/// Whether a member must have a weight: one that joins, or is given one. Who was leaving may go on leaving.
fn weighs(view: View<'_>, changes: &Changes, member: &Member) -> bool {
    let before = view.chain.newest().member_by_store(member.store).map(|index| view.chain.newest().member(index));
    let named = changes.weights.keys().any(|name| is_called(member, name));
    named || before.is_none_or(|before| before.weight > 0)
}

fn is_called(member: &Member, name: &str) -> bool {
    member.name == name || member.node.to_string() == name || member.store.to_string() == name
}

fn at(members: &[Member], name: &str) -> Result<usize, Refused> {
    let nearest = || nearest(name, members.iter().map(|member| member.name.as_str())).map(str::to_owned);
    let unknown = || Refused::Unknown { name: name.to_owned(), what: "member", nearest: nearest() };
    members.iter().position(|member| is_called(member, name)).ok_or_else(unknown)
}

fn member<'a>(members: &'a [Member], name: &str) -> Result<&'a Member, Refused> {
    at(members, name).map(|at| &members[at])
}

fn candidate<'a>(candidates: &'a [Member], name: &str) -> Result<&'a Member, Refused> {
    let called: Vec<&Member> = candidates.iter().filter(|member| is_called(member, name)).collect();
    match called[..] {
        [one] => Ok(one),
        [] => {
            let nearest = nearest(name, candidates.iter().map(|member| member.name.as_str())).map(str::to_owned);
            Err(Refused::Unknown { name: name.to_owned(), what: "node that waits to join", nearest })
        }
        _ => Err(Refused::Ambiguous { name: name.to_owned(), count: called.len() }),
    }
}

/// The figures of a plan's layout beside those of the one before.
pub(super) fn figures(before: &Layout, after: &Layout) -> (PlacementReport, PlacementReport) {
    (PlacementReport::of(None, before), PlacementReport::of(Some(before), after))
}

#[cfg(test)]
mod tests;
