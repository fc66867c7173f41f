//! The last resort: a successor that nobody decides, because those who would are gone for good.
//!
//! Where a majority of the deciders is lost, Paxos decides nothing any more, and no member can be added, left out or
//! replaced. The operator then names all that are gone, and one node of those that are left appends the layout without
//! them. It spreads like any other.
//!
//! **What makes it sound is what the operator says**: that they have stopped and never come back, so that none of them
//! has decided, or ever will decide, another successor. Four rules keep what can be kept of it here:
//!
//! 1. The deciders that are left are less than a majority: else they decide, and nothing is to be forced. One that has
//!    forgotten what it promised is not left: what would give it its voice back is an answer of those who are gone.
//! 2. Nobody who is named is up. Everybody who is not named is up, and knows no newer layout than this node: whatever
//!    was decided and is known to one who goes on is known here.
//! 3. The layout is a function of the newest one and of who is named: the same command at two nodes makes one layout,
//!    not two. Two different commands make two, and the second one is refused by whoever has heard of the first
//!    (`ChainError::Fork`).
//! 4. The stores that are named have ended: one that comes back after all is refused for good.
//!
//! It may always lose acknowledged writes, so it always asks for [`Consent::accept_data_loss`](super::Consent).

use std::collections::BTreeMap;

use super::{Facts, Plan, Refused, dead, is_up, made};
use crate::ring::{View, change};

/// The successor without `gone`, for a cluster that has lost a majority of its deciders.
pub fn force(view: View<'_>, facts: &Facts<'_>, gone: &[String]) -> Result<Plan, Refused> {
    let newest = view.chain.newest();
    let gone = dead(view, facts, gone)?;
    let deciders = view.chain.deciders();
    let left = deciders.iter().map(|(_, store)| *store).filter(|store| !gone.contains(store));
    let left = left.filter(|store| is_up(view, facts, *store) && !facts.silent.contains(store)).count();
    if left > deciders.len() / 2 {
        return Err(Refused::MajorityLives { left, deciders: deciders.len() });
    }
    for member in newest.members().iter().filter(|member| !gone.contains(&member.store)) {
        if !is_up(view, facts, member.store) {
            return Err(Refused::Unheard { name: member.name.clone() });
        }
        let version = (facts.knows)(member.store);
        if version > newest.version() {
            return Err(Refused::Ahead { name: member.name.clone(), version, newest: newest.version() });
        }
    }
    made(view, facts, change::skip(view.chain, &gone)?, BTreeMap::new())
}
