//! Single views and single exchanges, by example.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

fn says(view: &View, of: usize, what: &str) -> Option<Bytes> {
    view.get(node(of)).and_then(|state| state.get(&name(what)).cloned())
}

#[test]
fn generations() {
    for (persisted, heard, next) in
        [(0, None, 1), (4, None, 5), (4, Some(2), 5), (4, Some(4), 5), (4, Some(7), 8), (u64::MAX, None, u64::MAX)]
    {
        assert_eq!(next_generation(persisted, heard), next, "{persisted} {heard:?}");
    }
    assert!(life(2, 0) > life(1, 9) && life(1, 9) > life(1, 8));
}

#[test]
fn what_is_said_travels_both_ways_and_then_sixteen_bytes_do() {
    let (mut a, mut b) = (view(0), view(1));
    assert_eq!(a.set(name("zone"), value("red")), Ok(true));
    assert_eq!(a.set(name("zone"), value("red")), Ok(false), "said already");
    assert_eq!(b.set(name("zone"), value("blue")), Ok(true));
    let told = exchange(&mut a, &mut b, 0, Mono(0));
    assert_eq!(told, (vec![Event::Changed(node(1))], vec![Event::Changed(node(0))]));
    assert_eq!((says(&a, 1, "zone"), says(&b, 0, "zone")), (Some(value("blue")), Some(value("red"))));
    assert_eq!(a.hash(), b.hash());
    assert_eq!(b.answer_hash(a.hash(), 0, Mono(0)), None, "nothing more to say");
    assert_eq!(std::mem::size_of::<ViewHash>(), 16);
}

#[test]
fn what_is_too_much_is_not_said() {
    let mut a = view(0);
    assert_eq!(a.set(name("x"), Bytes::from(vec![0; VALUE_MAX + 1])), Err(Unset::TooLarge(VALUE_MAX + 1)));
    for n in 0..ENTRIES_MAX {
        assert_eq!(a.set(name(&format!("{n}")), Bytes::new()), Ok(true));
    }
    assert_eq!(a.set(name("x"), Bytes::new()), Err(Unset::TooMany));
    assert_eq!(a.set(name("0"), value("else")), Ok(true), "what is said may change");
    assert!(Name::new("").is_err() && Name::new(&"x".repeat(NAME_MAX + 1)).is_err());
}

#[test]
fn a_later_life_replaces_the_earlier_one_whole() {
    let (mut a, mut b) = (view(0), view(1));
    let _ = (a.set(name("old"), value("1")), a.set(name("both"), value("1")));
    exchange(&mut a, &mut b, 0, Mono(0));
    let mut again = View::new(node(0), life(2, 70), Mono(0));
    let _ = again.set(name("both"), value("2"));
    let (told, _) = exchange(&mut again, &mut b, 0, Mono(0));
    assert!(!told.iter().any(|event| matches!(event, Event::Surpassed { .. })), "it knows it is the later one");
    assert_eq!((says(&b, 0, "old"), says(&b, 0, "both")), (None, Some(value("2"))));
    let before = b.clone();
    exchange(&mut a, &mut b, 0, Mono(0));
    assert_eq!(b.get(node(0)), before.get(node(0)), "what is left of the earlier life changes nothing");
    assert_eq!(says(&a, 0, "both"), Some(value("1")), "nor is it told what to say");
}

#[test]
fn a_directory_that_went_back_hears_of_it_and_gets_the_last_word() {
    let (mut a, mut b) = (View::new(node(0), life(7, 1), Mono(0)), view(1));
    let _ = a.set(name("x"), value("then"));
    exchange(&mut a, &mut b, 0, Mono(0));
    let mut back = View::new(node(0), life(4, 2), Mono(0));
    let _ = back.set(name("x"), value("now"));
    let (told, _) = exchange(&mut back, &mut b, 0, Mono(0));
    assert!(told.contains(&Event::Surpassed { heard: life(7, 1), raise_to: 8 }), "{told:?}");
    assert_eq!(says(&b, 0, "x"), Some(value("then")));
    back.reborn(8);
    exchange(&mut back, &mut b, 0, Mono(0));
    assert_eq!(says(&b, 0, "x"), Some(value("now")));
    back.reborn(5);
    assert_eq!(back.life(), life(8, 2), "a life does not go back");
}

#[test]
fn a_process_that_went_back_within_its_life_hears_of_it() {
    let (mut a, mut b) = (view(0), view(1));
    let _ = a.set(name("x"), value("1"));
    let mut resumed = a.clone();
    let _ = a.set(name("x"), value("2"));
    exchange(&mut a, &mut b, 0, Mono(0));
    let (told, _) = exchange(&mut resumed, &mut b, 0, Mono(0));
    assert!(told.contains(&Event::Surpassed { heard: life(1, 0), raise_to: 2 }), "{told:?}");
}

#[test]
fn two_processes_of_one_generation_are_told_of_by_whoever_sees_both() {
    let twin = |boot| {
        let mut view = View::new(node(0), life(3, boot), Mono(0));
        let _ = view.set(name("boot"), value(boot.to_string()));
        view
    };
    for (first, second) in [(1, 2), (2, 1)] {
        let (mut one, mut two, mut c) = (twin(first), twin(second), view(1));
        exchange(&mut one, &mut c, 0, Mono(0));
        let (two_told, c_told) = exchange(&mut two, &mut c, 0, Mono(0));
        let both: Vec<Event> = two_told.into_iter().chain(c_told).collect();
        let reported = both.iter().any(|event| matches!(event, Event::Twins { node: n, .. } if *n == node(0)));
        assert!(reported, "{both:?}");
        assert_eq!(says(&c, 0, "boot"), Some(value("2")), "everybody keeps the same one");
        let (told, _) = exchange(&mut two, &mut one, 0, Mono(0));
        assert!(told.contains(&Event::Surpassed { heard: life(3, first), raise_to: 4 }), "{told:?}");
    }
}

#[test]
fn what_was_removed_is_refused_for_good() {
    let (mut a, mut b, mut c) = (view(0), view(1), view(2));
    let _ = c.set(name("x"), value("1"));
    exchange(&mut c, &mut b, 0, Mono(0));
    exchange(&mut b, &mut a, 0, Mono(0));
    assert!(a.get(node(2)).is_some() && a.remove(node(2)) && !a.remove(node(2)));
    assert!(a.get(node(2)).is_none() && a.is_removed(node(2)));
    let (_, told) = exchange(&mut a, &mut b, 0, Mono(0));
    assert_eq!(told, [Event::Removed(node(2))]);
    assert!(b.get(node(2)).is_none());
    let mut later = View::new(node(2), life(9, 9), Mono(0));
    let (told, _) = exchange(&mut later, &mut b, 0, Mono(0));
    assert!(told.contains(&Event::Removed(node(2))), "it is told so itself");
    assert!(b.get(node(2)).is_none() && later.removed().eq([node(2)]));
    exchange(&mut a, &mut b, 0, Mono(0));
    assert_eq!((a.hash(), a.states().len()), (b.hash(), 2));
}

#[test]
fn many_removed_ids_come_in_parts() {
    let (mut a, mut b) = (view(0), view(1));
    let ids = REMOVED_MAX + REMOVED_MAX / 2;
    (10..10 + ids).for_each(|n| assert!(a.remove(node(n))));
    let mut rounds = 0;
    while a.hash() != b.hash() {
        let digest = b.digest(0, Mono(0));
        let (push, _) = a.answer_digest(&digest, rounds * 1000, Mono(0));
        assert!(push.delta.removed.len() <= REMOVED_MAX);
        let (delta, _) = b.answer_push(&push, 0, Mono(0));
        a.apply(&delta, Mono(0));
        rounds += 1;
        assert!(rounds < 20, "{} of {ids}", b.removed().len());
    }
    assert_eq!(b.removed().len(), ids);
}

#[test]
fn strangers_are_forgotten_and_members_are_not() {
    let after = |time: Duration| Mono(0) + time;
    let (mut a, mut b, mut c) = (view(0), view(1), view(2));
    exchange(&mut c, &mut a, 0, Mono(0));
    // A joiner that knows no layout yet keeps everybody, however old.
    let mut joiner = View::new(node(3), life(1, 3), Mono(0));
    let late = after(FORGET_AFTER - Duration::from_secs(1));
    exchange(&mut a, &mut b, 0, late);
    let members: BTreeSet<NodeId> = [node(0), node(1)].into();
    assert_eq!(b.keep(members.clone(), after(FORGET_AFTER)), [node(2)], "its age came along with what was heard");
    exchange(&mut a, &mut joiner, 0, after(FORGET_AFTER));
    assert!(joiner.get(node(2)).is_some());
    exchange(&mut joiner, &mut b, 0, after(FORGET_AFTER));
    assert!(b.get(node(2)).is_none(), "not even from who keeps it");
    assert_eq!(a.keep(members.clone(), after(FORGET_AFTER)), [node(2)]);
    exchange(&mut a, &mut b, 0, after(FORGET_AFTER * 9));
    assert_eq!((a.hash(), a.states().len()), (b.hash(), 3), "both keep each other, and the one who came");
    let _ = c.set(name("waits"), value("still"));
    let (_, told) = exchange(&mut c, &mut a, 0, after(FORGET_AFTER * 9));
    assert!(told.contains(&Event::Changed(node(2))), "whoever gives a sign is known again");
}

#[test]
fn what_no_owner_says_is_left_out() {
    let entry = |version| Entry { name: name(&format!("n{version}")), value: value("v"), version };
    let delta = |generation, base, versions: &[u64]| Delta {
        nodes: vec![NodeDelta {
            node: node(5),
            life: life(generation, 5),
            base,
            age: Duration::ZERO,
            entries: versions.iter().map(|version| entry(*version)).collect(),
        }],
        removed: Vec::new(),
    };
    let mut a = view(0);
    assert_eq!(a.apply(&delta(1, 0, &[2, 1]), Mono(0)), [Event::Malformed(node(5))], "out of order");
    assert_eq!(a.apply(&delta(GENERATION_MAX, 0, &[1]), Mono(0)), [Event::Malformed(node(5))]);
    let many: Vec<u64> = (1..=ENTRIES_MAX as u64 + 1).collect();
    assert_eq!(a.apply(&delta(1, 0, &many), Mono(0)), [Event::Malformed(node(5))]);
    assert_eq!(a.apply(&delta(1, 3, &[4]), Mono(0)), [], "follows on what is not here");
    assert!(a.get(node(5)).is_none());
    assert_eq!(a.apply(&delta(1, 0, &[1, 3]), Mono(0)), [Event::Changed(node(5))]);
    assert_eq!(a.apply(&delta(1, 4, &[5]), Mono(0)), [], "would leave a gap");
    assert_eq!(a.apply(&delta(1, 2, &[3, 4]), Mono(0)), [Event::Changed(node(5))], "overlaps");
    assert_eq!(a.apply(&delta(1, 0, &[1, 3, 4]), Mono(0)), [], "late, and again");
    assert_eq!(a.apply(&delta(2, 1, &[2]), Mono(0)), [], "another life from its middle");
    assert_eq!(a.get(node(5)).map(|state| (state.life(), state.version())), Some((life(1, 5), 4)));
}
