//! Hours that pass, partitions that cannot be read, messages that no side of ours would send.

use super::*;

fn two_partitions() -> Maps {
    let mut maps = Maps::default();
    for n in 0..40_u8 {
        maps.put(A, u32::from(n % 2), n, &[n], 1);
        maps.put(B, u32::from(n % 2), n, &[n], 1 + u8::from(n < 10));
    }
    maps
}

struct Unreadable(Maps, usize);

impl Sides for Unreadable {
    fn each(&self, side: usize, partition: PartitionId, offer: &mut dyn FnMut(&Entry)) {
        self.0.each(side, partition, offer);
    }

    fn reads(&self, side: usize, partition: PartitionId) -> bool {
        side != self.1 || partition.0 != 1
    }
}

#[test]
fn a_partition_that_cannot_be_read_is_unfinished_and_holds_up_no_other() {
    for side in [A, B] {
        let told = round(&mut Unreadable(two_partitions(), side), 2, &terms(3, Width::Short));
        assert_eq!(told.found.len(), 5);
        assert_eq!(told.unfinished, [PartitionId(1)].into());
    }
}

/// An hour passes on one side after the roots were compared.
struct Turning(Maps, usize, usize);

impl Sides for Turning {
    fn each(&self, side: usize, partition: PartitionId, offer: &mut dyn FnMut(&Entry)) {
        self.0.each(side, partition, offer);
    }

    fn meddle(&mut self) {
        self.2 = self.2.saturating_sub(1);
        if self.2 == 0 {
            self.0.firsts[self.1] = 1;
        }
    }

    fn first(&self, side: usize) -> u32 {
        self.0.first(side)
    }
}

#[test]
fn an_hour_that_passes_under_way_ends_the_walk_and_the_next_one_leaves_it_out() {
    for side in [A, B] {
        for after in 3..9 {
            let mut maps = two_partitions();
            maps.put(A, 0, 77, b"expires", 1).hour = 0;
            let mut turning = Turning(maps, side, after);
            let told = round(&mut turning, 2, &terms(3, Width::Full));
            assert!(told.found.is_empty() && told.unfinished.len() == 2, "{told:?}");
            // Asked with the old hour, the side for which it has passed names the later one.
            let terms = Terms { first: turning.first(A), ..terms(4, Width::Full) };
            let told = round(&mut turning, 2, &terms);
            assert_eq!((told.found.len(), told.unfinished.len()), (10, 0));
        }
    }
}

/// A walk that has just asked.
fn asked() -> (Walk, Request) {
    let maps = two_partitions();
    let mut walk = Walk::new(terms(3, Width::Short), [PartitionId(0), PartitionId(1)]);
    let wanted = walk.wanted(0);
    let read = wanted.iter().map(|w| (w.partition, maps.read(A, walk.terms(), w).unwrap())).collect();
    let request = walk.ask(&read).unwrap();
    (walk, request)
}

#[test]
fn replies_that_answer_something_else_end_the_walk() {
    let keys = Answer::Keys { marks: vec![], names: vec![] };
    let wrong = [
        Reply::Malformed,
        Reply::Later(0),
        Reply::Answers(vec![]),
        Reply::Answers(vec![None]),
        Reply::Answers(vec![None, None, None]),
        Reply::Answers(vec![None, Some(vec![])]),
        Reply::Answers(vec![None, Some(vec![Answer::Children(1), Answer::Children(1)])]),
        Reply::Answers(vec![None, Some(vec![keys])]),
        Reply::Answers(vec![None, Some(vec![Answer::Split])]),
        Reply::Answers(vec![None, Some(vec![Answer::NoRoom])]),
    ];
    for reply in wrong {
        let (mut walk, _) = asked();
        let shown = format!("{reply:?}");
        assert!(walk.answered(reply).is_err(), "{shown}");
        assert!(walk.wanted(0).is_empty(), "{shown}");
        assert!(walk.unfinished().contains(&PartitionId(1)), "{shown}");
    }
    let (mut walk, _) = asked();
    assert_eq!(walk.answered(Reply::Answers(vec![None, Some(vec![Answer::Children(0)])])), Ok(vec![]));
    assert_eq!((walk.wanted(0).len(), walk.unfinished().len()), (0, 1));
}

#[test]
fn a_key_that_was_asked_about_and_is_named_is_exchanged_both_ways() {
    let mut maps = Maps::default();
    maps.put(A, 0, 9, b"asked", 1);
    let mut walk = Walk::new(terms(3, Width::Short), [PartitionId(0)]);
    let found = loop {
        let wanted = walk.wanted(0);
        let read = wanted.iter().map(|w| (w.partition, maps.read(A, walk.terms(), w).unwrap())).collect();
        let request = walk.ask(&read).unwrap();
        let reply = match &request.parts[0].1[..] {
            [Question::Keys { prints, .. }] => {
                assert_eq!(prints.len(), 1);
                let names = [&b"\0\0\0\0asked"[..], b"\0\0\0\0other"].map(Bytes::from_static).into();
                Reply::Answers(vec![Some(vec![Answer::Keys { marks: vec![Mark::Lacking], names }])])
            }
            _ => reply_of(&maps, &request),
        };
        let found = walk.answered(reply).unwrap();
        if !found.is_empty() {
            break found;
        }
    };
    assert_eq!(found.iter().map(|found| found.exchange).collect::<Vec<_>>(), [Exchange::Both, Exchange::Fetch]);
    assert!(walk.wanted(0).is_empty() && walk.unfinished().is_empty());
}

#[test]
fn requests_that_no_walk_makes_are_refused_before_anything_is_read() {
    let children = |number| Question::Children { node: Node::new(number).unwrap(), sums: [0; 4] };
    let keys = |number, count| Question::Keys {
        node: Node::new(number).unwrap(),
        prints: vec![Print { key: 1, element: 1 }; count],
    };
    let request =
        |questions: Vec<Question>| Request { terms: terms(1, Width::Short), parts: vec![(PartitionId(0), questions)] };
    let wrong = [
        request(vec![]),
        request(vec![keys(1, 0)]),
        request(vec![keys(127, 0)]),
        request(vec![keys(256, 257)]),
        request(vec![children(1 << 40)]),
        request(vec![children(1); NODES_MAX + 1]),
    ];
    for request in &wrong {
        assert_eq!(Answering::new(request, 0).err(), Some(Reply::Malformed));
    }
    let right = request([vec![keys(256, 256), keys(1 << 40, 0)], vec![children(1); NODES_MAX - 2]].concat());
    assert!(Answering::new(&right, 0).is_ok());
    assert_eq!(Answering::new(&right, 7).err(), Some(Reply::Later(7)));
    let roots = Roots { terms: terms(1, Width::Short), roots: vec![(PartitionId(0), 0); ROOTS_MAX + 1] };
    assert_eq!(answer_roots(&roots, 0, |_| None), RootsReply::Malformed);
}

/// Answers any question whatever, by lot, without looking at its own data.
#[test]
fn nonsense_from_the_other_side_ends_too() {
    let mut roll = 1_u64;
    let mut lot = |below: u64| {
        roll = roll.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (roll >> 33) % below
    };
    for _ in 0..300 {
        let maps = two_partitions();
        let mut walk = Walk::new(terms(3, Width::Short), [PartitionId(0), PartitionId(1)]);
        let mut steps = 0;
        loop {
            let wanted = walk.wanted(0);
            if wanted.is_empty() {
                break;
            }
            let read = wanted.iter().map(|w| (w.partition, maps.read(A, walk.terms(), w).unwrap())).collect();
            let Some(request) = walk.ask(&read) else { continue };
            assert!(request.size() <= REQUEST_MAX);
            let answers = request.parts.iter().map(|(_, questions)| {
                let answer = |question: &Question| match question {
                    Question::Children { .. } => Answer::Children(1 << lot(4) | 1 << lot(8)),
                    Question::Keys { .. } if lot(2) == 0 => Answer::Split,
                    Question::Keys { prints, .. } => {
                        Answer::Keys { marks: vec![Mark::Differs; prints.len()], names: vec![] }
                    }
                };
                Some(questions.iter().map(answer).collect())
            });
            let reply = Reply::Answers(answers.collect());
            if walk.answered(reply).is_err() {
                break;
            }
            steps += 1;
            assert!(steps < 100_000, "it does not end");
        }
    }
}
