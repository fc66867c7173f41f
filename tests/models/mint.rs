//! I-MINT, clause by clause: with the clause nothing is lost, without it the loss is found.

use super::explore::{clean, finds};
use super::world::{Action, Bug, Fault, Verb, World};

const BOTH: &[Verb] = &[Verb::Blind, Verb::Put];

fn both_ways(name: &str, bug: Bug, world: World) {
    clean(name, &world);
    finds(&format!("{name}, planted: {bug:?}"), &World { bug: Some(bug), ..world });
}

fn world(fault: Option<Fault>, writes: usize) -> World {
    World { bug: None, fault, clients: 1, writes, verbs: BOTH, collects: false, before: &[] }
}

const FIRST: Action = Action::Write { client: 0, node: 0, verb: Verb::Blind };
const SECOND: Action = Action::Write { client: 0, node: 0, verb: Verb::Put };
const COMMIT: Action = Action::Commit { node: 0 };

/// Node 0's directory is copied (as far as the fault needs a copy), then it writes once.
fn after_one_write(fault: Fault) -> World {
    World { before: &[Action::CleanStop, FIRST, COMMIT], ..world(Some(fault), 3) }
}

/// ... and a second time, shown the first.
fn after_two_writes(fault: Fault) -> World {
    World { before: &[Action::CleanStop, FIRST, COMMIT, SECOND, COMMIT], ..world(Some(fault), 4) }
}

#[test]
fn holds() {
    both_ways("local copy misread", Bug::Holds, world(None, 3));
}

#[test]
fn has_superseded() {
    let verbs = &[Verb::Blind, Verb::Delete];
    both_ways("deleted key written again", Bug::Superseded, World { verbs, ..world(None, 3) });
}

#[test]
fn has_collected_by_proof() {
    let verbs = &[Verb::Blind, Verb::Delete];
    both_ways("collection", Bug::Collected, World { verbs, collects: true, ..world(None, 3) });
}

#[test]
fn has_dropped_past_its_horizon() {
    let verbs = &[Verb::Expiring, Verb::Blind, Verb::Put];
    both_ways("horizon", Bug::Dropped, World { verbs, collects: true, ..world(None, 3) });
}

#[test]
fn unclean_stop() {
    both_ways("unclean stop", Bug::Unclean, World { before: &[FIRST], ..world(Some(Fault::Crash), 3) });
}

#[test]
fn wiped_directory() {
    both_ways("wiped directory", Bug::Wiped, after_one_write(Fault::Wipe));
}

#[test]
fn restore() {
    both_ways("restore", Bug::Restored, after_one_write(Fault::Restore));
}

#[test]
fn proof_by_state() {
    both_ways("rollback proven by a state", Bug::ProofByState, after_two_writes(Fault::UnnoticedRollBack));
}

#[test]
fn proof_by_context() {
    both_ways("rollback proven by a context", Bug::ProofByContext, after_two_writes(Fault::UnnoticedRollBack));
}

#[test]
fn newer_generation() {
    both_ways("directory rolled back", Bug::NewerGeneration, after_one_write(Fault::RollBack));
}

#[test]
fn same_generation_other_boot_nonce() {
    both_ways("directory copied", Bug::OtherBoot, after_one_write(Fault::Copy));
}
