//! No change wedges: faults end, everybody hears everything, and the change completes; or it waits for a member that is
//! dead, names it, and the successor that skips it is legal and completes in turn.

use std::collections::BTreeSet;

use quorate::ring::View;
use quorate::ring::change::{judge_successor, skip};
use quorate::ring::risk::may_lose;

use super::super::explore::{Model, name_of};
use super::bug::Bug;
use super::rules::{Rules, store};
use super::state::{Action, Held, NOBODY, NODES, Read, Set, State, those};
use super::world::World;

impl World {
    /// What is wrong with where this state leads once faults end; asked of one state in so many.
    pub(super) fn wedged(&self, state: &State) -> Option<String> {
        let rules_hold = self.bug.is_none_or(|bug| bug == Bug::SyncAcksInOrder);
        if !rules_hold || !name_of(state).is_multiple_of(self.settle_one_in) {
            return None;
        }
        let mut settled = *state;
        self.settle(&mut settled);
        if let Some(what) = self.misses(&settled) {
            return Some(what);
        }
        let waits = self.unfinished(&settled);
        if waits.is_empty() {
            return None;
        }
        let dead: Set = (0..NODES).filter(|at| settled.nodes[*at].dead).fold(0, |set, at| set | 1 << at);
        if waits.iter().all(|store_waited| !those(dead).any(|at| store(at) == *store_waited)) {
            return Some(format!("the change waits for members that live: {waits:?}"));
        }
        self.skip_the_dead(settled, dead)
    }

    /// Everybody does all that may be done, until nothing is left.
    fn settle(&self, state: &mut State) {
        if state.op.coordinator != NOBODY {
            self.step_in_place(state, &Action::GiveUp);
        }
        state.read = Read::default();
        loop {
            let before = *state;
            for node in 0..NODES {
                for action in self.actions(state) {
                    let of_node = match action {
                        Action::Learn { node: at, version } => at == node && version == state.decided,
                        Action::Merge { node: at, .. }
                        | Action::SyncAck { node: at }
                        | Action::Drop { node: at }
                        | Action::Delete { node: at }
                        | Action::Commit { node: at } => at == node && !state.nodes[node].dead,
                        _ => false,
                    };
                    if of_node {
                        self.step_in_place(state, &action);
                        break;
                    }
                }
            }
            if *state == before {
                return;
            }
        }
    }

    /// For whom those that live wait.
    fn unfinished(&self, state: &State) -> BTreeSet<quorate::types::StoreId> {
        let members = self.rules.members(state.decided);
        let mut waits = BTreeSet::new();
        for at in those(members).filter(|at| !state.nodes[*at].dead) {
            let node = &state.nodes[at];
            if node.base < state.decided {
                let trackers = Rules::table(&state.nodes.map(|node| node.told));
                let view = View { chain: self.rules.chain(node.base, node.head), trackers: &trackers, me: store(at) };
                waits.extend(view.waits_for().into_iter().map(|(store, _)| store));
            }
        }
        waits
    }

    /// Whether a read through the newest layout could miss the write, everything having settled.
    fn misses(&self, state: &State) -> Option<String> {
        let complete = self.unfinished(state).is_empty();
        let owners = self.rules.owners[usize::from(state.decided)];
        let without = those(owners).filter(|at| !state.nodes[*at].dead && state.nodes[*at].held == Held::Nothing);
        let without = without.fold(0, |set, at| set | 1 << at);
        let misses = state.acknowledged && complete && self.rules.read_by(state.decided, without);
        misses.then(|| "settled, and a quorum of the newest layout has not got the acknowledged write".to_owned())
    }

    fn skip_the_dead(&self, settled: State, dead: Set) -> Option<String> {
        let knowing = (0..NODES).find(|at| !settled.nodes[*at].dead && settled.nodes[*at].head == settled.decided)?;
        let node = &settled.nodes[knowing];
        let chain = self.rules.chain(node.base, node.head);
        let gone: BTreeSet<_> = those(dead & self.rules.members(settled.decided)).map(store).collect();
        let next = match skip(chain, &gone) {
            Ok(next) => next,
            Err(why) => return Some(format!("the dead cannot be skipped: {why}")),
        };
        if let Err(why) = judge_successor(chain, false, &next) {
            return Some(format!("the dead may not be skipped: {why}"));
        }
        let mut layouts = self.rules.layouts[..usize::from(settled.decided)].to_vec();
        layouts.push(next);
        let on = World::of(Rules::new(layouts, self.rules.write, self.rules.read));
        let mut settled = State { decided: settled.decided + 1, ..settled };
        on.settle(&mut settled);
        let waits = on.unfinished(&settled);
        if !waits.is_empty() {
            return Some(format!("the dead were skipped, and the change still waits, for {waits:?}"));
        }
        let pledges: Vec<_> = (0..NODES).map(|at| (store(at), u64::from(settled.nodes[at].told.sync_ack))).collect();
        // Where too many have died, only the operator's word lets them be skipped.
        if may_lose(chain, &gone, &BTreeSet::new(), &pledges).is_empty() { on.misses(&settled) } else { None }
    }
}
