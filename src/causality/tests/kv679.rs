//! The kv679 family (riak_kv#679), members 1 and 5, each of which lost acknowledged writes in a real product: I-MINT.
//!
//! The clock stands still throughout, so a stamp is only ever one more than what the coordinator knows of: nothing but
//! the actor keeps dots apart.

use super::*;

/// Writes `count` times, each write shown the one before: the last value is what is left of them.
fn chain(name: &str, count: usize, actor: u64) -> Vec<Object> {
    let mut states = vec![Object::new()];
    for n in 1..=count {
        let shown = states[n - 1].context().clone();
        states.push(put(&states[n - 1], &format!("{name} {n}"), Supersedes::Covered(shown), actor).object);
    }
    states
}

/// What is left when a coordinator acknowledged `before` writes (a peer has them), read its own copy as it was after
/// `kept` of them, minted once more under `actor`, and meets the peer.
fn after_a_loss(before: usize, kept: usize, actor: u64) -> Vec<String> {
    let states = chain("old", before, 1);
    let minted = put(&states[kept], "new", Supersedes::Tombstones, actor);
    values(&merged(&minted.object, &states[before], &MergeRules::default()))
}

/// What is left when two nodes that wrote apart, under these actors, meet.
fn after_a_clone(ours: usize, theirs: usize, actors: [u64; 2]) -> Vec<String> {
    let (a, b) = (chain("ours", ours, actors[0]), chain("theirs", theirs, actors[1]));
    values(&merged(&a[ours], &b[theirs], &MergeRules::default()))
}

proptest! {
    #[test]
    fn one_a_new_actor_loses_nothing(before in 1..6_usize, lost in 1..6_usize) {
        let left = after_a_loss(before, before.saturating_sub(lost), 2);
        prop_assert_eq!(left, ["new".to_owned(), format!("old {before}")]);
    }

    #[test]
    fn one_the_planted_bug_the_same_actor_loses_the_write(before in 2..6_usize, lost in 2..6_usize) {
        let kept = before.saturating_sub(lost);
        prop_assert_eq!(after_a_loss(before, kept, 1), [format!("old {before}")], "the new write is gone");
        // What the peer holds is the proof that would have made it another actor.
        let states = chain("old", before, 1);
        let incoming = states[before].context();
        prop_assert!(rollback_proof(&states[kept], Stamp::default(), ActorId(1), incoming).is_some());
        prop_assert!(rollback_proof(&states[before], Stamp::default(), ActorId(1), incoming).is_none());
    }

    #[test]
    fn five_two_actors_lose_nothing(ours in 1..5_usize, theirs in 1..5_usize) {
        prop_assert_eq!(after_a_clone(ours, theirs, [1, 2]), [format!("ours {ours}"), format!("theirs {theirs}")]);
    }

    #[test]
    fn five_the_planted_bug_one_actor_on_two_nodes_loses(ours in 1..5_usize, more in 1..5_usize) {
        let theirs = ours + more;
        prop_assert_eq!(after_a_clone(ours, theirs, [1, 1]), [format!("theirs {theirs}")], "ours is gone");
    }
}

#[test]
fn one_dot_with_two_values_keeps_both_and_tells() {
    let (a, b) =
        (put(&Object::new(), "a", Supersedes::Seen, 1).object, put(&Object::new(), "b", Supersedes::Seen, 1).object);
    let mut both = a.clone();
    assert_eq!(both.merge(&b, &MergeRules::default()), Merged { changed: true, clashes: 1 });
    assert_eq!(values(&both), ["a", "b"]);
    assert!(both.context_of_only().is_none(), "a context of two values shown as one");
    assert!(!both.is_alone(both.siblings()[0].dot));
}
