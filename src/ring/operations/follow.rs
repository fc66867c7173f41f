//! How far a decided layout has come, from what one node knows: no record is kept of operations, so that every node can
//! be asked, also after a crash of the one that began it.

use crate::ring::change::{follow_up, is_follow_up};
use crate::ring::{LayoutHash, View};

/// Where a layout stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// This node has not heard of it: it may still be decided.
    Unheard,
    /// Another one was decided in its place.
    Lost,
    /// It is being put in force.
    Running,
    /// It was given up, or taken over, before it was complete: by this version.
    Superseded(u64),
    /// It is in force, or was.
    Done,
}

/// Where the layout `version` stands; `hash` says which one, where that is known.
///
/// What follows a layout by itself belongs to it ([`follow_up`]): one by which somebody leaves is done when the one that
/// leaves it out is in force; one with newcomers, when they decide as well. Who waits for that can take the next step, or lose
/// the next member.
#[must_use]
pub fn stage(view: View<'_>, version: u64, hash: Option<LayoutHash>) -> Stage {
    let newest = view.chain.newest();
    let Some(layout) = view.chain.get(version) else {
        return if version > newest.version() { Stage::Unheard } else { Stage::Done };
    };
    if hash.is_some_and(|hash| hash != layout.hash()) {
        return Stage::Lost;
    }
    let complete = view.chain.live_from() >= version || (version == newest.version() && view.is_complete());
    let follows = || match newest.version() - version {
        0 => matches!(follow_up(view.chain), Ok(Some(_))),
        1 => !view.is_complete() && is_follow_up(layout, newest),
        _ => false,
    };
    match complete {
        true if follows() => Stage::Running,
        true => Stage::Done,
        false if version < newest.version() => Stage::Superseded(version + 1),
        false => Stage::Running,
    }
}

/// Of how many steps how many are done until the newest layout is in force: each member acks, is synced, sync_acks.
#[must_use]
pub fn steps(view: View<'_>) -> (usize, usize) {
    let newest = view.chain.newest();
    let (version, total) = (newest.version(), 3 * newest.members().len());
    if view.is_complete() {
        return (total, total);
    }
    let done = newest.members().iter().map(|member| {
        let tracker = view.trackers.of(member.store);
        let passed = [tracker.ack >= version, tracker.synced.contains(&version), tracker.sync_ack >= version];
        passed.into_iter().filter(|passed| *passed).count()
    });
    (done.sum(), total)
}
