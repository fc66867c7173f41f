//! I-ACK, I-CONCUR: mint, merge and contexts. No acknowledged value disappears unless a write that was shown it follows.

use super::explore::{clean, finds};
use super::world::{Bug, Verb, World};

fn world(bug: Option<Bug>, writes: usize) -> World {
    World { bug, fault: None, clients: 2, writes, verbs: &[Verb::Blind, Verb::Put], collects: false, before: &[] }
}

#[test]
fn no_acknowledged_value_disappears() {
    assert!(clean("two clients, two writes", &world(None, 2)) > 500);
    let deletes = World { clients: 1, verbs: &[Verb::Blind, Verb::Put, Verb::Delete], ..world(None, 3) };
    assert!(clean("one client, three writes or deletes", &deletes) > 5_000);
}

#[test]
fn a_put_that_returns_the_whole_context_loses() {
    finds("PUT returns the whole context", &world(Some(Bug::PutReturnsContext), 3));
}

#[test]
fn a_blind_put_that_supersedes_values_loses() {
    finds("a blind PUT supersedes values", &world(Some(Bug::BlindSupersedesValues), 2));
}

#[test]
fn a_sibling_that_travels_alone_loses() {
    finds("only the new sibling travels", &World { clients: 1, ..world(Some(Bug::OnlyTheSiblingTravels), 3) });
}
