//! I-ACK, I-CONCUR, I-CONVERGE: the laws of merge, of writes, of request ids and of version vectors.

use super::*;

fn vector() -> impl Strategy<Value = VersionVector> {
    vec((0..5_u64, 1..6_u64), 0..6)
        .prop_map(|dots| dots.into_iter().map(|(a, s)| Dot::new(ActorId(a), Stamp(s))).collect())
}

proptest! {
    #[test]
    fn merge_is_commutative_associative_idempotent((rules, [a, b, c]) in three()) {
        let bytes = |object: &Object| encode_object(object);
        prop_assert_eq!(bytes(&merged(&a, &b, &rules)), bytes(&merged(&b, &a, &rules)));
        let left = merged(&merged(&a, &b, &rules), &c, &rules);
        let right = merged(&a, &merged(&b, &c, &rules), &rules);
        prop_assert_eq!(bytes(&left), bytes(&right));
        prop_assert_eq!(bytes(&merged(&a, &a, &rules)), bytes(&a));
        prop_assert_eq!(merged(&a, &Object::new(), &rules), a);
    }

    #[test]
    fn merge_only_adds((rules, [a, b, _]) in three()) {
        let mut up = a.clone();
        let told = up.merge(&b, &rules);
        prop_assert_eq!(told.changed, up != a);
        prop_assert!(up.context().covers_all(a.context()) && up.context().covers_all(b.context()));
        prop_assert!(up.horizon() >= a.horizon().max(b.horizon()));
        // What is gone was seen, and superseded, by the other; nothing comes from nowhere.
        if !rules.last_write_wins {
            let dots = |o: &Object| o.siblings().iter().map(|s| s.dot).collect::<Vec<_>>();
            for (mine, other) in [(&a, &b), (&b, &a)] {
                for dot in dots(mine) {
                    let survives = dots(other).contains(&dot) || !other.context().covers(dot);
                    prop_assert_eq!(dots(&up).contains(&dot), survives);
                }
            }
            prop_assert!(dots(&up).iter().all(|d| dots(&a).contains(d) || dots(&b).contains(d)));
        }
        prop_assert!(up.siblings().iter().all(|s| up.context().covers(s.dot)));
        prop_assert!(!merged(&up, &a, &rules).clone().merge(&b, &rules).changed, "both are below it");
    }

    #[test]
    fn a_write_is_above_everything_it_saw((rules, [a, b, _]) in three(), payload in payload(), floor in 0..99_u64) {
        let write = Write { payload: payload.clone(), supersedes: Supersedes::Covered(b.context().clone()), request: None };
        let floor = Stamp::at(Wall(floor));
        let Minted { object, dot } = super::super::write(&a, write, ActorId(11), Stamp(7), floor, &rules);
        prop_assert!(!a.context().covers(dot) && !b.context().covers(dot));
        prop_assert!(Some(dot.stamp) > a.greatest_stamp().max(b.greatest_stamp()).max(Some(floor)));
        prop_assert!(object.context().covers_all(a.context()) && object.context().covers_all(b.context()));
        prop_assert!(object.siblings().iter().any(|s| s.dot == dot && s.payloads == [payload.clone()]));
        prop_assert!(!object.siblings().iter().any(|s| b.context().covers(s.dot)), "what was shown is superseded");
        let unseen = a.siblings().iter().filter(|s| !b.context().covers(s.dot));
        prop_assert!(rules.last_write_wins || unseen.clone().all(|s| object.siblings().contains(s)), "and nothing else");
        // Wherever it meets what it was minted on, it wins.
        prop_assert_eq!(merged(&object, &a, &rules), object.clone());
        if !a.context().covers_all(b.context()) {
            prop_assert_eq!(object.horizon(), Horizon::INFINITE);
        }
    }

    #[test]
    fn writes_not_shown_each_other_both_survive((_, ops) in (Just(()), vec(op(), 0..10)), x in payload(), y in payload()) {
        let rules = rules(false);
        let reached = states(false, &ops);
        let base = reached.last().unwrap();
        let by = |payload: &Payload, actor| {
            let supersedes = Supersedes::Covered(base.context().clone());
            let write = Write { payload: payload.clone(), supersedes, request: None };
            super::super::write(base, write, ActorId(actor), Stamp(1), Stamp::default(), &rules)
        };
        let (one, two) = (by(&x, 100), by(&y, 101));
        let both = merged(&one.object, &two.object, &rules);
        let dots: Vec<Dot> = both.siblings().iter().map(|s| s.dot).collect();
        prop_assert_eq!(dots, vec![one.dot, two.dot]);
        // Whoever is given a context after a write was shown all that it names.
        let blind = Write { payload: x, supersedes: Supersedes::Tombstones, request: None };
        let third = super::super::write(&both, blind, ActorId(102), Stamp(1), Stamp::default(), &rules);
        prop_assert_eq!(third.context(false).is_some(), third.object.siblings().len() == 1);
        prop_assert_eq!(third.context(true), Some(third.object.context()));
    }

    #[test]
    fn lww_keeps_the_greatest(ops in vec(op(), 1..14)) {
        for state in states(true, &ops).iter().filter(|s| !s.context().is_empty()) {
            prop_assert_eq!(state.siblings().len(), 1);
            prop_assert_eq!(Some(state.siblings()[0].dot.stamp), state.greatest_stamp());
        }
    }

    #[test]
    fn requests_are_a_union_cut_by_the_object_alone(stamps in vec((1..50_u64, 0..3_u64), 0..150), split in vec(0..3_u8, 150)) {
        let all: Vec<Recent> = stamps.iter().map(|&(ms, actor)| Recent {
            dot: Dot::new(ActorId(actor), Stamp::at(Wall(ms))),
            id: RequestId([ms as u8; 16]),
            fingerprint: Fingerprint([1; 16]),
        }).collect();
        let window = Duration::from_millis(20);
        let of = |part: &dyn Fn(u8) -> bool| {
            let mut kept = RecentRequests::new();
            all.iter().zip(&split).filter(|(_, s)| part(**s)).for_each(|(r, _)| kept.add(*r));
            let greatest = kept.as_slice().iter().map(|r| r.dot.stamp).max().unwrap_or_default();
            kept.cut(greatest, window);
            (kept, greatest)
        };
        let join = |(a, g): (RecentRequests, Stamp), (b, h): (RecentRequests, Stamp)| {
            let mut both = a;
            both.join(&b);
            both.cut(g.max(h), window);
            (both, g.max(h))
        };
        let whole = of(&|_| true);
        prop_assert_eq!(join(join(of(&|s| s == 0), of(&|s| s == 1)), of(&|s| s == 2)), whole.clone());
        prop_assert_eq!(join(of(&|s| s == 2), join(of(&|s| s == 1), of(&|s| s == 0))), whole.clone());
        let (kept, greatest) = whole;
        prop_assert!(kept.as_slice().len() <= RECENT_MAX);
        prop_assert!(kept.as_slice().iter().all(|r| r.dot.stamp.wall().0 + 20 >= greatest.wall().0));
    }

    #[test]
    fn vectors_are_a_lattice(a in vector(), b in vector(), c in vector()) {
        let join = |a: &VersionVector, b: &VersionVector| { let mut a = a.clone(); a.join(b); a };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a.clone());
        let up = join(&a, &b);
        prop_assert!(up.covers_all(&a) && up.covers_all(&b));
        prop_assert!(!(c.covers_all(&a) && c.covers_all(&b)) || c.covers_all(&up), "the least one");
        prop_assert_eq!(a.covers_all(&b) && b.covers_all(&a), a == b);
        for dot in up.iter() {
            prop_assert!(a.covers(dot) || b.covers(dot));
        }
        prop_assert_eq!(decode_vector(&encode_vector(&a)), Ok(a));
    }
}

#[test]
fn what_a_write_without_context_supersedes() {
    let context = || Some(VersionVector::new());
    let covered = Ok(Supersedes::Covered(VersionVector::new()));
    for (blind, by_put, by_delete) in [
        (BlindWrites::Sibling, Ok(Supersedes::Tombstones), Ok(Supersedes::Seen)),
        (BlindWrites::Reject, Err(ContextRequired), Err(ContextRequired)),
        (BlindWrites::Overwrite, Ok(Supersedes::Seen), Ok(Supersedes::Seen)),
    ] {
        assert_eq!(Supersedes::by_put(None, blind), by_put);
        assert_eq!(Supersedes::by_delete(None, blind), by_delete);
        assert_eq!(Supersedes::by_put(context(), blind), covered);
        assert_eq!(Supersedes::by_delete(context(), blind), covered);
    }
}

#[test]
fn a_blind_put_supersedes_tombstones_and_never_values() {
    let rules = MergeRules::default();
    let one = put(&Object::new(), "one", Supersedes::Tombstones, 1);
    let gone =
        Write { payload: Payload::default(), supersedes: Supersedes::Covered(VersionVector::new()), request: None };
    let beside = super::super::write(&one.object, gone, ActorId(1), Stamp(1), Stamp::default(), &rules);
    assert_eq!(beside.object.siblings().len(), 2);
    assert_eq!((beside.context(false), beside.object.context_of_only()), (None, None));
    let two = put(&beside.object, "two", Supersedes::Tombstones, 1);
    assert_eq!(values(&two.object), ["one", "two"]);
    assert_eq!(two.object.siblings().len(), 2, "the tombstone is gone");
    let over = put(&beside.object, "two", Supersedes::Seen, 1);
    assert_eq!(values(&over.object), ["two"]);
    assert!(over.context(false).is_some());
}

#[test]
fn an_expired_overwrite_is_kept_as_long_as_what_it_covers_may_return() {
    let expiring = |at: u64, supersedes, local: &Object| {
        let payload = Payload { expires_at: Some(Wall(at)), ..value("v") };
        let write = Write { payload, supersedes, request: None };
        super::super::write(local, write, ActorId(1), Stamp(1), Stamp::default(), &MergeRules::default()).object
    };
    let first = expiring(50, Supersedes::Seen, &Object::new());
    assert_eq!(first.horizon(), Horizon(50));
    assert_eq!(expiring(30, Supersedes::Seen, &first).horizon(), Horizon(50));
    let forever = put(&Object::new(), "v", Supersedes::Seen, 1).object;
    assert_eq!(expiring(30, Supersedes::Seen, &forever).horizon(), Horizon::INFINITE);
    let unseen = Supersedes::Covered(forever.context().clone());
    assert_eq!(expiring(30, unseen, &Object::new()).horizon(), Horizon::INFINITE, "covers what it does not hold");
}

#[test]
fn the_clock_runs_on_whatever_the_wall_clock_does() {
    let mut clock = NodeClock::starting_after(Stamp::at(Wall(100)));
    let first = clock.next(Wall(50));
    assert_eq!(first, Stamp::at(Wall(100)).next());
    assert_eq!(clock.next(Wall(200)), Stamp::at(Wall(200)));
    let mut full = NodeClock::starting_after(Stamp(Stamp::at(Wall(9)).0 - 1));
    assert_eq!(full.next(Wall(8)).wall(), Wall(9), "counting past the logical bits carries");
    let lease = Lease { until: Lease::next_mark(first, Wall(50)) };
    assert!(lease.covers(first) && !lease.covers(lease.until.next()));
    assert!(!lease.is_short(first, Wall(50)) && lease.is_short(first, Wall(5_101)));
}
