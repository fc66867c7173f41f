//! How a write would be counted if a rule of layout changes, or of sloppy quorums, were not kept.
//!
//! Nothing between a node and its seams can break these rules, for they are about what the coordinator makes of what it is
//! told. A simulation breaks them, one at a time, to show that each is needed ([`Buggify::breaks`]); everywhere else
//! nothing here does anything.

use super::Located;
use crate::env::Buggify;
use crate::quorum::{OwnersIn, PutCore};
use crate::types::StoreId;

/// What a write would be counted in; none while the rules are kept.
pub(super) fn counted_in(buggify: &Buggify, located: &Located) -> Option<Vec<OwnersIn>> {
    let live = &located.route.live;
    let (newest, oldest) = (live.first()?, live.last()?);
    match () {
        () if buggify.breaks("a write counts in the newest layout") => Some(vec![oldest.clone()]),
        () if buggify.breaks("a write counts in the older layouts") => Some(vec![newest.clone()]),
        () if buggify.breaks("a layout counts with its own n") => {
            let n_of = |region: &str| oldest.regions.iter().find(|older| &*older.region == region).map(|older| older.n);
            let mut counted = live.clone();
            let regions = counted.iter_mut().flat_map(|owners| &mut owners.regions);
            regions.for_each(|owners| owners.n = n_of(&owners.region).unwrap_or(owners.n));
            Some(counted)
        }
        () if buggify.breaks("an owner counts before it is synced") => {
            let mut counted = live.clone();
            for newer in counted.iter_mut().filter(|owners| owners.layout > oldest.layout) {
                let synced = |owner: &StoreId| located.known.trackers.of(*owner).synced.contains(&newer.layout);
                newer.regions.iter_mut().for_each(|region| region.owners.retain(synced));
            }
            counted.retain(|owners| owners.n() > 0);
            Some(counted)
        }
        () => None,
    }
}

/// For whom, and in which layout, an acknowledgement of one that owns nothing there any more would count as well: for one
/// that has come in its place. None while the rules are kept.
pub(super) fn counts_for(buggify: &Buggify, located: &Located, from: StoreId) -> Option<(StoreId, u64)> {
    if !buggify.breaks("who owns no more counts no more") {
        return None;
    }
    let [newest, .., oldest] = &located.route.live[..] else { return None };
    let owners = |of: &OwnersIn| -> Vec<StoreId> {
        of.regions.iter().flat_map(|region| region.owners.iter().take(region.n).copied()).collect()
    };
    let (before, after) = (owners(oldest), owners(newest));
    let gone: Vec<StoreId> = before.iter().filter(|owner| !after.contains(owner)).copied().collect();
    let mut come = after.iter().filter(|owner| !before.contains(owner));
    let at = gone.iter().position(|owner| *owner == from)?;
    come.nth(at).map(|heir| (*heir, newest.layout))
}

/// For whom a fallback's hint would count as well: for another owner that lacks the write. None while the rules are kept.
pub(super) fn counts_twice(buggify: &Buggify, core: &PutCore, from: StoreId) -> Option<StoreId> {
    if !buggify.breaks("a fallback counts for one owner") {
        return None;
    }
    let owner = core.stands_for(from)?;
    core.missed().find(|missed| *missed != owner)
}
