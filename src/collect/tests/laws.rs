//! Epochs, bytes, and what an owner refuses.

use super::*;

fn listed(keys: &[usize]) -> Vec<Listed> {
    let dots = || vec![Dot::new(ActorId(1), Stamp(2))];
    keys.iter().map(|key| Listed { stored: stored(*key), digest: Digest([7; 16]), dots: dots() }).collect()
}

fn agrees(_: &Listed) -> bool {
    true
}

fn epoch(number: u64) -> Epoch {
    Epoch(LAYOUT << 32 | number)
}

#[test]
fn epochs_of_a_later_layout_are_greater() {
    let first = Epoch::FIRST.next_under(3).unwrap();
    assert_eq!((first.layout(), first.to_string()), (3, "3.1".into()));
    assert!(Epoch::of_layout(3) < first && Epoch::of_layout(3) > Epoch::FIRST.next_under(2).unwrap());
    let second = first.next_under(3).unwrap();
    assert!(second > first && second.next_under(4).unwrap() > second);
    assert_eq!(Epoch(3 << 32 | u64::from(u32::MAX)).next_under(3), None, "the next is another layout's");
    assert_eq!(second.next_under(2), None, "an older layout has none any more");
    assert_eq!(Epoch::FIRST.next_under(1 << 32), None);
}

#[test]
fn a_round_is_named_by_all_it_says() {
    let round =
        |nonce, keys: &[usize], after: &[RoundId]| Round::new(epoch(1), nonce, listed(keys), after.to_vec()).id();
    let one = round(1, &[0], &[]);
    assert_eq!(one, round(1, &[0], &[]));
    for other in [round(2, &[0], &[]), round(1, &[1], &[]), round(1, &[0, 1], &[]), round(1, &[0], &[one])] {
        assert_ne!(one, other);
    }
}

#[test]
fn an_owner_marks_upwards_what_it_holds_under_its_layout() {
    let mut book = Book::default();
    let round = |number, nonce| Round::new(epoch(number), nonce, listed(&[0]), Vec::new());
    assert_eq!(book.mark(&round(2, 0), Some(LAYOUT + 1), agrees), Err(NotMarked::OtherLayout(LAYOUT)));
    assert_eq!(book.mark(&round(2, 0), None, agrees), Err(NotMarked::OtherLayout(LAYOUT)));
    assert_eq!(book.mark(&round(2, 0), Some(LAYOUT), |_| false), Err(NotMarked::Differs(vec![stored(0)])));
    assert!(book.is_blank(), "nothing was changed");
    assert_eq!(book.mark(&round(2, 0), Some(LAYOUT), agrees), Ok(()));
    assert_eq!(book.mark(&round(2, 1), Some(LAYOUT), agrees), Err(NotMarked::Behind(epoch(2))));
    assert_eq!(book.mark(&round(1, 0), Some(LAYOUT), agrees), Err(NotMarked::Behind(epoch(2))));
    assert_eq!(book.mark(&round(2, 0), None, |_| false), Ok(()), "it has");
    for number in 3..3 + HELD_MAX as u64 - 1 {
        assert_eq!(book.mark(&round(number, 0), Some(LAYOUT), agrees), Ok(()));
    }
    assert_eq!(book.mark(&round(99, 0), Some(LAYOUT), agrees), Err(NotMarked::TooMany(HELD_MAX)));
}

#[test]
fn what_is_forgotten_before_it_is_marked_never_is() {
    let mut book = Book::default();
    let round = Round::new(epoch(2), 0, listed(&[0]), Vec::new());
    book.forget(round.id(), false);
    assert_eq!(book.mark(&round, Some(LAYOUT), agrees), Err(NotMarked::Behind(epoch(2))));
}

#[test]
fn a_round_goes_by_its_steps() {
    let mut book = Book::default();
    let round = Round::new(epoch(1), 0, listed(&[0]), Vec::new());
    let id = round.id();
    assert_eq!(book.seal(id), Err(NoSuchRound));
    book.mark(&round, Some(LAYOUT), agrees).unwrap();
    assert_eq!(book.drop_round(id), Err(NoSuchRound), "it is not sealed");
    assert_eq!(book.judge(Epoch::FIRST), Ok(()));
    book.drain(id.epoch);
    assert_eq!(book.judge_hint(Epoch::FIRST), Err(TooOld { read: Epoch::FIRST, sealed: id.epoch }));
    book.seal(id).unwrap();
    assert_eq!(book.judge(Epoch::FIRST), Err(TooOld { read: Epoch::FIRST, sealed: id.epoch }));
    assert_eq!(book.lesson(), Err(Unfinished(id)));
    let mut late = book.clone();
    late.forget(id, true);
    assert_eq!(late, book, "a driver that gave it up does not know that another one took it on");
    let mut anew = book.clone();
    anew.begin_anew(LAYOUT + 1);
    assert_eq!((anew.is_sealing(), anew.sealed()), (false, id.epoch), "what it refused it refuses");
    assert_eq!(anew.epoch(), Epoch::of_layout(LAYOUT + 1), "it owes no mark of an older layout");
    book.abandon();
    assert_eq!(book.status().rounds[&id], Stage::Sealed, "who has sealed a round does not abandon it");
    assert_eq!(book.drop_round(id).unwrap().len(), 1);
    book.forget(id, false);
    assert_eq!(book.status().rounds[&id], Stage::Dropped);
    let mut new = Book::default();
    new.learn(Lesson::decode(book.lesson().unwrap().encode()).unwrap());
    assert_eq!(new, book);
    let next = Round::new(epoch(2), 0, Vec::new(), vec![id]);
    book.mark(&next, Some(LAYOUT), agrees).unwrap();
    book.seal(next.id()).unwrap();
    assert_eq!(book.status().rounds.keys().collect::<Vec<_>>(), [&next.id()], "what all had dropped is forgotten");
}

/// One that has marked three rounds.
fn book_of_three() -> Book {
    let mut book = Book::default();
    for number in 1..4 {
        let after = book.status().rounds.into_keys().collect();
        let round = Round::new(epoch(number), number, listed(&[0, 1]), after);
        book.mark(&round, Some(LAYOUT), agrees).unwrap();
    }
    book
}

#[test]
fn a_damaged_book_is_no_empty_one() {
    let book = book_of_three();
    let bytes = book.encode();
    assert_eq!(Book::decode(bytes.clone()), Ok(book));
    for len in 0..bytes.len() {
        assert!(Book::decode(bytes.slice(..len)).is_err(), "{len} bytes of it");
    }
    assert_eq!(Book::decode([&bytes[..], &[0]].concat().into()), Err(BookError::Malformed));
    assert_eq!(Book::decode([&[9], &bytes[1..]].concat().into()), Err(BookError::Version(9)));
    assert_eq!(Lesson::decode(bytes.clone()), Ok(Book::decode(bytes).unwrap().lesson().unwrap()));
    let last = *book_of_three().status().rounds.last_key_value().unwrap().0;
    let mut sealed = book_of_three();
    sealed.seal(last).unwrap();
    assert!(Lesson::decode(sealed.encode()).is_err(), "with a round that is not finished");
}

#[test]
fn a_driver_finishes_forgets_and_only_then_begins() {
    let id = |number| Round::new(epoch(number), 0, Vec::new(), Vec::new()).id();
    let says = |number, rounds: &[(u64, Stage)]| Status {
        epoch: epoch(number),
        rounds: rounds.iter().map(|(number, stage)| (id(*number), *stage)).collect(),
        ..Status::default()
    };
    let (marked, sealed, dropped) = (Stage::Marked, Stage::Sealed, Stage::Dropped);
    let begin = |number, after: &[u64]| Plan::Begin {
        epoch: epoch(number),
        after: after.iter().map(|number| id(*number)).collect(),
    };
    let nothing = || says(0, &[]);
    for (what, owners, next) in [
        ("nothing", [nothing(), nothing()], begin(1, &[])),
        ("one that may still be marked", [says(1, &[(1, marked)]), nothing()], begin(2, &[])),
        ("one that cannot be marked any more", [says(1, &[(1, marked)]), says(2, &[])], Plan::Forget(id(1))),
        ("... though it is sealed", [says(1, &[(1, sealed)]), says(1, &[])], Plan::Forget(id(1))),
        ("one that all marked", [says(1, &[(1, marked)]), says(3, &[(1, marked)])], Plan::Finish(id(1))),
        ("one that is half dropped", [says(1, &[(1, dropped)]), says(1, &[(1, sealed)])], Plan::Finish(id(1))),
        ("one that is done with", [says(1, &[(1, dropped)]), says(1, &[(1, dropped)])], begin(2, &[1])),
        ("one that one has forgotten since", [says(2, &[]), says(1, &[(1, dropped)])], begin(3, &[1])),
        (
            "two, the earlier first",
            [says(2, &[(1, marked), (2, marked)]), says(2, &[(1, marked), (2, marked)])],
            Plan::Finish(id(1)),
        ),
    ] {
        assert_eq!(plan(&owners, LAYOUT), next, "{what}");
    }
    let last = Status { epoch: Epoch(LAYOUT << 32 | u64::from(u32::MAX)), ..Status::default() };
    assert_eq!(plan(&[last, nothing()], LAYOUT), Plan::Exhausted);
}

#[test]
fn a_drive_asks_everybody_before_the_next_step() {
    let owners: BTreeSet<StoreId> = (0..2).map(store).collect();
    let holders: BTreeSet<StoreId> = owners.iter().copied().chain([fallback()]).collect();
    let id = Round::new(epoch(1), 0, Vec::new(), Vec::new()).id();
    let mut drive = Drive::begin(id, owners.clone(), holders.clone());
    for (step, whom) in [(Step::Mark, &owners), (Step::Drain, &holders), (Step::Seal, &owners), (Step::Drop, &owners)] {
        for store in whom {
            assert_eq!(drive.step(), Some(step));
            assert!(drive.waits().contains(store));
            drive.done(*store, Step::Mark);
            drive.done(*store, step);
        }
    }
    assert_eq!(drive.step(), None);
    assert_eq!(Drive::resume(id, owners.clone(), holders).step(), Some(Step::Drain));
    assert_eq!(Drive::finish(id, owners).step(), Some(Step::Seal));
}
