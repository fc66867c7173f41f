//! Changes: which successor may be decided now, and how the one that aborts or skips is made.
//!
//! **The rule**: one unfinished change at a time, beside the successor that aborts or skips it. More would be safe
//! (every layout is treated like any other: writes in each live one, reads in one that is complete), but each live
//! layout costs every write another quorum, and a change must not wait behind a queue of others. Joiners that arrive
//! meanwhile go together into the next version.
//!
//! *Abort* gives back the owners of the last complete layout, as an ordinary layout: what was written meanwhile is
//! merged by the owners that return. *Skip* leaves out stores that are dead for good, which ends them. Neither ever
//! wedges: a successor needs the deciders' majority, its own members, and nobody else. [`super::risk`] says what a skip
//! may lose.

use std::collections::BTreeSet;

use thiserror::Error;

use super::{
    BucketSettings, Chain, ChainError, Layout, LayoutError, LayoutSpec, Member, MemberIndex, RegionOwners, planner,
};
use crate::types::StoreId;

/// What a successor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any change, behind a complete layout.
    Change,
    /// The same again. Behind a complete layout: members that came with it decide from now on. Behind another: it can
    /// complete in the place of one that cannot.
    Same,
    /// The owners of the last complete layout are given back.
    Abort,
    /// Members of an unfinished layout are left out.
    Skip,
}

/// Why a successor may not be decided (now).
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NotNow {
    /// It stands behind no layout of the chain, or changes what it cannot.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A change is under way.
    #[error("layout {unfinished} is not complete yet: {store} waits for the version after it, or for its abort")]
    Joins {
        /// The unfinished layout.
        unfinished: u64,
        /// Who would join meanwhile.
        store: StoreId,
    },
    /// A change is under way, and this is neither its abort nor a skip.
    #[error("layout {unfinished} is not complete yet: what follows gives its owners back or skips members")]
    Unfinished {
        /// The unfinished layout.
        unfinished: u64,
    },
    /// Nothing is gained by it.
    #[error("layout {unfinished} has the owners of the last complete one already")]
    NothingToAbort {
        /// The unfinished layout.
        unfinished: u64,
    },
    /// No layout can be made so.
    #[error("no layout can be made: {0}")]
    NoLayout(#[from] LayoutError),
}

/// Whether `next` may be decided behind `chain`; `complete` is [`View::is_complete`](super::live::View::is_complete),
/// as far as the proposer knows. One that does not know yet that a change is complete may abort it all the same: that
/// is then one more change.
pub fn judge_successor(chain: &Chain, complete: bool, next: &Layout) -> Result<Kind, NotNow> {
    chain.follows(next)?;
    let newest = chain.newest();
    if complete {
        let again = *next.spec() == successor(newest);
        return Ok(if again { Kind::Same } else { Kind::Change });
    }
    let unfinished = newest.version();
    if let Some(joins) = next.members().iter().find(|member| newest.member_by_store(member.store).is_none()) {
        return Err(NotNow::Joins { unfinished, store: joins.store });
    }
    let base = &chain.live()[0];
    let taken_back = || abort(chain, &BTreeSet::new()).is_ok_and(|back| gives_back(base, &back));
    if *next.spec() == successor(newest) && !taken_back() {
        // One that cannot complete, since a successor of it was begun and never decided, is followed by itself where there is
        // nothing to give back, or nobody to give it back to.
        return Ok(Kind::Same);
    }
    let skips = next.members().len() < newest.members().len();
    match (gives_back(base, next), gives_back(base, newest), skips) {
        (true, false, _) => Ok(Kind::Abort),
        (_, _, true) => Ok(Kind::Skip),
        (true, true, false) => Err(NotNow::NothingToAbort { unfinished }),
        (false, _, false) => Err(NotNow::Unfinished { unfinished }),
    }
}

/// The layout that aborts the unfinished one, without `skipped`: the owners and the n of the last complete layout, as
/// it is known here; the members of now, so that a joiner that lives stays a member without a partition. Where an owner
/// to be given back is skipped or has ended, the planner fills its places from the others; members of a region that
/// only the aborted layout had leave with it.
pub fn abort(chain: &Chain, skipped: &BTreeSet<StoreId>) -> Result<Layout, NotNow> {
    let (base, newest) = (&chain.live()[0], chain.newest());
    if gives_back(base, newest) && skipped.is_empty() {
        return Err(NotNow::NothingToAbort { unfinished: newest.version() });
    }
    let mut spec = successor(newest);
    let labels: BTreeSet<&str> = base.regions().collect();
    let mut members = newest.members().to_vec();
    for member in &mut members {
        if let Some(before) = base.member_by_store(member.store).map(|index| base.member(index)) {
            (member.region, member.zone, member.weight) = (before.region.clone(), before.zone.clone(), before.weight);
        }
    }
    let placed =
        |member: &Member, labels: &BTreeSet<&str>| member.weight == 0 || labels.contains(member.region.as_str());
    members.retain(|member| !skipped.contains(&member.store) && placed(member, &labels));
    let stays = |store: StoreId| members.iter().any(|member| member.store == store);
    let owners = base.spec().regions.iter().flat_map(|table| &table.owners).map(|owner| base.member(*owner).store);
    let filled = if owners.into_iter().all(stays) {
        base.clone()
    } else {
        let old = members.iter().filter(|member| base.member_by_store(member.store).is_some());
        planner::plan(base, old.cloned().collect())?
    };
    members.retain(|member| placed(member, &filled.regions().collect()));
    spec.regions = filled.spec().regions.iter().map(|table| of_members(&filled, table, &members)).collect();
    spec.members = members;
    spec.default_bucket = with_n_of(&spec.default_bucket, &base.spec().default_bucket);
    for (name, settings) in &mut spec.buckets {
        // Also of a bucket that was made or taken away meanwhile: its objects lie where the name's objects lay.
        *settings = with_n_of(settings, base.settings(name));
    }
    Ok(Layout::new(spec)?)
}

/// The layout that leaves `skipped` out of the newest one and goes on with it: the planner fills their places.
pub fn skip(chain: &Chain, skipped: &BTreeSet<StoreId>) -> Result<Layout, NotNow> {
    let newest = chain.newest();
    let members = newest.members().iter().filter(|member| !skipped.contains(&member.store));
    Ok(planner::plan(newest, members.cloned().collect())?)
}

/// The layout by which `leaving` give up all their partitions, and stay members of weight 0: what they hold is copied
/// from them, and everybody waits for them. Once it is complete they are left out ([`follow_up`]). Who is left out while
/// it owns something is skipped, and [`super::risk::may_lose`] is to be asked first.
pub fn leave(chain: &Chain, leaving: &BTreeSet<StoreId>) -> Result<Layout, NotNow> {
    let newest = chain.newest();
    let mut members = newest.members().to_vec();
    members.iter_mut().filter(|member| leaving.contains(&member.store)).for_each(|member| member.weight = 0);
    Ok(planner::plan(newest, members)?)
}

/// What follows a complete layout by itself, nobody asking for it: those that were leaving are left out, else the same
/// again where some members do not decide yet ([`Chain::some_do_not_decide`]). None where there is nothing to do.
pub fn follow_up(chain: &Chain) -> Result<Option<Layout>, NotNow> {
    let newest = chain.newest();
    let due = newest.leaving().next().is_some() || chain.some_do_not_decide();
    due.then(|| without_leaving(newest)).transpose().map_err(NotNow::from)
}

/// Whether `next` is what follows `layout` by itself.
#[must_use]
pub fn is_follow_up(layout: &Layout, next: &Layout) -> bool {
    next.spec().parent == layout.hash() && without_leaving(layout).is_ok_and(|expected| expected == *next)
}

/// `layout` again, but for those that leave: nothing moves.
fn without_leaving(layout: &Layout) -> Result<Layout, LayoutError> {
    let members: Vec<Member> = layout.members().iter().filter(|member| member.weight > 0).cloned().collect();
    let regions = layout.spec().regions.iter().map(|table| of_members(layout, table, &members)).collect();
    Layout::new(LayoutSpec { regions, members, ..successor(layout) })
}

/// The newest layout again, as its own successor: see [`Chain::some_do_not_decide`].
pub fn same_again(chain: &Chain) -> Result<Layout, NotNow> {
    Ok(Layout::new(successor(chain.newest()))?)
}

/// Whether `layout` has the owners and the n of `base`.
fn gives_back(base: &Layout, layout: &Layout) -> bool {
    let owners = |of: &Layout| -> Vec<(String, u8, Vec<StoreId>)> {
        let tables = of.spec().regions.iter();
        let stores = |table: &RegionOwners| table.owners.iter().map(|owner| of.member(*owner).store).collect();
        tables.map(|table| (table.region.clone(), table.width, stores(table))).collect()
    };
    let same_n = |a: &BucketSettings, b: &BucketSettings| a == &with_n_of(a, b);
    let (before, after) = (base.spec(), layout.spec());
    let mut names = before.buckets.keys().chain(after.buckets.keys());
    owners(base) == owners(layout)
        && same_n(&after.default_bucket, &before.default_bucket)
        && names.all(|name| same_n(layout.settings(name), base.settings(name)))
}

fn with_n_of(settings: &BucketSettings, before: &BucketSettings) -> BucketSettings {
    BucketSettings { n: before.n, n_in_region: before.n_in_region.clone(), ..settings.clone() }
}

/// `newest` again, one version on.
fn successor(newest: &Layout) -> LayoutSpec {
    LayoutSpec {
        version: newest.version() + 1,
        parent: newest.hash(),
        cluster: Some(newest.cluster()),
        ..newest.spec().clone()
    }
}

/// A table of `layout`, in the numbers of `members`, among whom all its owners are.
fn of_members(layout: &Layout, table: &RegionOwners, members: &[Member]) -> RegionOwners {
    let number = |owner: &MemberIndex| {
        let store = layout.member(*owner).store;
        let at = members.iter().position(|member| member.store == store).unwrap_or(usize::MAX);
        // An owner that is not there makes a number that no member has: `Layout::new` refuses it.
        MemberIndex(u16::try_from(at).unwrap_or(u16::MAX))
    };
    RegionOwners { owners: table.owners.iter().map(number).collect(), ..table.clone() }
}

#[cfg(test)]
mod tests;
