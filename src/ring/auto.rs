//! Changes that need no operator: who asks to join is taken in, a wiped node replaces itself, a joiner that died is given
//! up, members that came with a complete layout decide from the next one on, who has left is let go.
//!
//! [`wish`] says which successor this node would propose by what it knows; two nodes that wish at once meet in the
//! decision, which one of them wins. Everything else waits for a command, and `status` says which.

use std::collections::BTreeSet;
use std::time::Duration;

use super::live::View;
use super::{Layout, Member, change, planner, risk};
use crate::types::StoreId;

/// How long a joiner is down, before it has ever held what it was given, until it is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What a node sees of the others.
pub struct Seen<'a> {
    /// Who asks to be taken in.
    pub joiners: &'a [Member],
    /// Whether joiners are taken in by themselves.
    pub auto_join: bool,
    /// Members whose partitions are in doubt: as good as gone where something may be lost.
    pub in_doubt: &'a BTreeSet<StoreId>,
    /// The newest version whose layout this node has accepted in a decision, or pledged for (0: none): it sync_acks
    /// nothing older.
    pub pledged: u64,
    /// How long a member has been down; none while it is up.
    pub down_for: &'a dyn Fn(StoreId) -> Option<Duration>,
}

/// Why a successor is wished for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// These ask to be taken in.
    Join(Vec<String>),
    /// These were wiped, and come back under their names and addresses with new stores.
    Replace(Vec<String>),
    /// These joiners died before they held anything.
    GiveUp(Vec<String>),
    /// The newest members decide from now on.
    Same,
    /// These own nothing any more, and leave.
    Leave(Vec<String>),
    /// These were wiped in the middle of a change, which goes on without them; [`risk::may_lose`] is to be asked first.
    Skip(BTreeSet<StoreId>, Vec<String>),
    /// A successor was begun, accepted here and never decided: this node cannot complete what it was to follow.
    Undecided,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Join(names) => write!(f, "{} would join", names.join(", ")),
            Self::Replace(names) => write!(f, "{} was wiped, and replaces itself", names.join(", ")),
            Self::GiveUp(names) => write!(f, "{} died while joining", names.join(", ")),
            Self::Same => write!(f, "the newest members are to decide, too"),
            Self::Leave(names) => write!(f, "{} has left", names.join(", ")),
            Self::Undecided => write!(f, "a successor was begun and never decided"),
            Self::Skip(_, names) => write!(f, "{} was wiped in the middle of a change", names.join(", ")),
        }
    }
}

/// Why one that asks is not taken in by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Declined {
    /// Another member has its name or its address, and is not the one it replaces.
    Clash {
        /// Who asks.
        name: String,
        /// The member in its way.
        with: String,
    },
    /// The member that it would replace is still up.
    OldIsUp(String),
    /// What the old store held may be nowhere else: an operator has to say so.
    MayLose(String),
}

impl std::fmt::Display for Declined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Clash { name, with } => {
                write!(f, "{name} cannot join: member {with} has its name or its address; give it others")
            }
            Self::OldIsUp(name) => {
                write!(f, "{name} would replace itself, but the member it would replace still answers")
            }
            Self::MayLose(name) => write!(
                f,
                "{name} would replace itself, but what its old store held may be nowhere else: `quorate layout skip \
                 {name} --accept-data-loss` gives that up"
            ),
        }
    }
}

/// The successor this node would propose now, and who is declined.
#[must_use]
pub fn wish(view: View<'_>, seen: &Seen<'_>) -> (Option<(Why, Layout)>, Vec<Declined>) {
    let newest = view.chain.newest();
    if !view.is_complete() {
        return (give_up(view, seen), Vec::new());
    }
    let (mut declined, mut joining, mut replacing) = (Vec::new(), Vec::new(), Vec::new());
    let mut members = newest.members().to_vec();
    let candidates =
        seen.joiners.iter().filter(|_| seen.auto_join).filter(|joiner| {
            newest.member_by_store(joiner.store).is_none() && !view.chain.ended().contains(&joiner.store)
        });
    for joiner in candidates {
        let in_way = members.iter().position(|member| {
            member.name == joiner.name || member.peer_address == joiner.peer_address || member.node == joiner.node
        });
        match in_way {
            None => {
                joining.push(joiner.name.clone());
                members.push(joiner.clone());
            }
            Some(at) => {
                let old = &members[at];
                let comes_back = old.name == joiner.name
                    && old.peer_address == joiner.peer_address
                    && newest.member_by_store(old.store).is_some();
                let lost = || risk::may_lose(view.chain, &BTreeSet::from([old.store]), seen.in_doubt, &[]);
                if !comes_back {
                    declined.push(Declined::Clash { name: joiner.name.clone(), with: old.name.clone() });
                } else if (seen.down_for)(old.store).is_none() {
                    declined.push(Declined::OldIsUp(joiner.name.clone()));
                } else if !replacing.is_empty() {
                    // One at a time: what each holds is counted with the others alive.
                } else if !lost().is_empty() {
                    declined.push(Declined::MayLose(joiner.name.clone()));
                } else {
                    replacing.push(joiner.name.clone());
                    members[at] = joiner.clone();
                }
            }
        }
    }
    let changed = |why: Why, layout: Result<Layout, super::LayoutError>| layout.ok().map(|layout| (why, layout));
    let leaving: Vec<String> = newest.leaving().map(|member| member.name.clone()).collect();
    // One that came in with a change that was taken back, and lives. It may have so little weight that there is nothing for
    // it: then the same would be wished for ever again.
    let idle = |layout: &Layout| -> Vec<String> {
        let idle = |member: &&Member| member.weight > 0 && layout.partitions_of(member.store).is_empty();
        layout.members().iter().filter(idle).map(|member| member.name.clone()).collect()
    };
    let wished = if !replacing.is_empty() {
        changed(Why::Replace(replacing), planner::plan(newest, members))
    } else if !joining.is_empty() {
        changed(Why::Join(joining), planner::plan(newest, members))
    } else if let (true, true, waiting @ [_, ..]) = (leaving.is_empty(), seen.auto_join, &idle(newest)[..])
        && let Ok(layout) = planner::plan(newest, members)
        && idle(&layout).len() < waiting.len()
    {
        Some((Why::Join(waiting.to_vec()), layout))
    } else {
        let why = if leaving.is_empty() { Why::Same } else { Why::Leave(leaving) };
        change::follow_up(view.chain).ok().flatten().map(|layout| (why, layout))
    };
    (wished, declined)
}

/// A change that cannot complete: because a joiner died in the middle of it, then it is taken back without it; or
/// because a member was wiped, as its own successor at the door shows, then it goes on without that one.
fn give_up(view: View<'_>, seen: &Seen<'_>) -> Option<(Why, Layout)> {
    let (base, newest) = (view.chain.live().first()?, view.chain.newest());
    let synced = |store| view.trackers.of(store).synced.contains(&newest.version());
    let wiped = |member: &Member| {
        seen.auto_join
            && (seen.down_for)(member.store).is_some()
            && seen.joiners.iter().any(|joiner| {
                joiner.store != member.store && joiner.name == member.name && joiner.peer_address == member.peer_address
            })
    };
    let joined = |member: &Member| base.member_by_store(member.store).is_none();
    let gone = |member: &Member| {
        let down_long = (seen.down_for)(member.store).is_some_and(|down| down >= GIVE_UP_AFTER);
        joined(member) && !synced(member.store) && (down_long || wiped(member))
    };
    let names = |of: &[&Member]| of.iter().map(|member| member.name.clone()).collect();
    let stores = |of: &[&Member]| of.iter().map(|member| member.store).collect::<BTreeSet<_>>();
    let dead: Vec<&Member> = newest.members().iter().filter(|member| gone(member)).collect();
    if !dead.is_empty() {
        let layout = change::abort(view.chain, &stores(&dead)).ok()?;
        return Some((Why::GiveUp(names(&dead)), layout));
    }
    if seen.pledged > newest.version() && view.all_synced(newest) {
        // Whatever was accepted is carried on by the decision; where nothing was, the change is taken back. Where it gives
        // back itself, or who has ended cannot be given anything back, it is repeated.
        let back = change::abort(view.chain, &BTreeSet::new()).ok();
        let back = back.filter(|back| change::judge_successor(view.chain, false, back).is_ok());
        let next = back.map_or_else(|| change::same_again(view.chain), Ok);
        return Some((Why::Undecided, next.ok()?));
    }
    let first = newest.members().iter().find(|member| wiped(member))?;
    let layout = change::skip(view.chain, &stores(&[first])).ok()?;
    Some((Why::Skip(stores(&[first]), names(&[first])), layout))
}

#[cfg(test)]
mod tests;
