//! How fast: rounds until all views are one, and what an exchange weighs when they are.

use super::choosing::Rolls;
use super::*;

/// Nodes that gossip in rounds: in each one every node opens one exchange, and all messages of a kind cross before any
/// is answered, as in a network in which everything takes equally long.
struct Cluster {
    views: Vec<View>,
    rolls: Rolls,
    /// What crossed in the last round: bytes, and the heaviest message.
    weight: usize,
    heaviest: usize,
}

impl Cluster {
    /// `knows` says whom each node knows of to begin with.
    fn new(views: Vec<View>, seed: u64) -> Self {
        Self { views, rolls: Rolls::new(seed), weight: 0, heaviest: 0 }
    }

    fn weigh(&mut self, weight: usize) {
        self.weight += weight;
        self.heaviest = self.heaviest.max(weight);
    }

    /// One round; in it the nodes ask those they know of, and the seeds.
    fn round(&mut self, seeds: &[usize]) {
        (self.weight, self.heaviest) = (0, 0);
        let mut opened = Vec::new();
        for a in 0..self.views.len() {
            let index = |id: NodeId| usize::try_from(id.bits()).unwrap() - 1;
            let live: Vec<usize> = self.views[a].states().map(|(id, _)| index(id)).filter(|b| *b != a).collect();
            let seeds: Vec<usize> = seeds.iter().copied().filter(|seed| *seed != a).collect();
            let Some(&b) = choose(&live, &[], &seeds, 1, |n| self.rolls.below(n)).first() else { continue };
            opened.push((a, b, self.views[a].hash()));
        }
        let mut digests = Vec::new();
        for (a, b, hash) in opened {
            self.weigh(hash.0.len());
            if let Some(digest) = self.views[b].answer_hash(hash, self.rolls.next(), Mono(0)) {
                digests.push((a, b, digest));
            }
        }
        let mut pushes = Vec::new();
        for (a, b, digest) in digests {
            self.weigh(digest.weight());
            let (push, events) = self.views[a].answer_digest(&digest, self.rolls.next(), Mono(0));
            assert_eq!(events, []);
            pushes.push((a, b, push));
        }
        let mut deltas = Vec::new();
        for (a, b, push) in pushes {
            self.weigh(push.weight());
            assert!(push.delta.weight() <= DELTA_MAX);
            let (delta, _) = self.views[b].answer_push(&push, self.rolls.next(), Mono(0));
            deltas.push((a, delta));
        }
        for (a, delta) in deltas {
            self.weigh(delta.weight());
            assert!(delta.weight() <= DELTA_MAX);
            self.views[a].apply(&delta, Mono(0));
        }
    }

    fn is_one(&self) -> bool {
        self.views.windows(2).all(|pair| pair[0].hash() == pair[1].hash())
    }

    /// Rounds until all views are one, of which there may be `most`.
    fn converge(&mut self, most: usize, seeds: &[usize]) -> usize {
        for round in 0..=most {
            if self.is_one() {
                return round;
            }
            self.round(seeds);
        }
        panic!("not one after {most} rounds");
    }
}

fn three_log2(n: usize) -> usize {
    (3.0 * (n as f64).log2()).floor() as usize
}

/// Nodes that know each other.
fn acquainted(n: usize) -> Vec<View> {
    let mut all = view(0);
    let _ = all.set(name("address"), value("0"));
    let others: Vec<Delta> = (1..n)
        .map(|other| {
            let entry = Entry { name: name("address"), value: value(format!("{other}")), version: 1 };
            let (id, life) = (node(other), life(1, other as u64));
            let delta = NodeDelta { node: id, life, base: 0, age: std::time::Duration::ZERO, entries: vec![entry] };
            Delta { nodes: vec![delta], removed: Vec::new() }
        })
        .collect();
    others.iter().for_each(|delta| assert_eq!(all.apply(delta, Mono(0)).len(), 1));
    (0..n).map(|me| all.seen_by(node(me))).collect()
}

#[test]
fn a_thousand_nodes_hear_of_a_change_within_three_log_n_rounds_and_are_quiet_then() {
    let n = 1_000;
    let mut cluster = Cluster::new(acquainted(n), 1);
    assert!(cluster.is_one());
    for changed in [3, 500, 999] {
        assert_eq!(cluster.views[changed].set(name("load"), value("0.7")), Ok(true));
    }
    let rounds = cluster.converge(three_log2(n), &[0, 1, 2]);
    println!("{n} nodes, 3 changes: one view after {rounds} rounds, at most {}", three_log2(n));
    // Opening one exchange and answering one, on average, each that knows tells two in a round.
    assert!(rounds > 6, "faster than threefold a round: the rounds are not counted rightly");
    cluster.round(&[0, 1, 2]);
    assert_eq!((cluster.weight, cluster.heaviest), (16 * n, 16), "an idle exchange is sixteen bytes");
}

#[test]
fn nodes_that_know_but_a_seed_find_each_other() {
    let n = 150;
    let fresh = |me| {
        let mut view = view(me);
        for what in ["address", "zone", "layout"] {
            let _ = view.set(name(what), value(format!("{what} of {me}")));
        }
        view
    };
    let mut cluster = Cluster::new((0..n).map(fresh).collect(), 2);
    let rounds = cluster.converge(three_log2(n), &[0, 1, 2]);
    println!("{n} nodes, all new: one view after {rounds} rounds, at most {}", three_log2(n));
    assert!(cluster.views.iter().all(|view| view.states().len() == n));
}

#[test]
fn more_than_fits_comes_in_parts_whole() {
    // 40 nodes that each say 64 KiB: 2.5 MiB, through deltas of 48 KiB.
    let (mut a, mut b) = (view(0), view(1));
    for other in 2..42 {
        let mut source = view(other);
        for n in 0..8 {
            let _ = source.set(name(&format!("{n}")), Bytes::from(vec![n; 8 * 1024]));
        }
        while exchange(&mut source, &mut a, 0, Mono(0)) != (Vec::new(), Vec::new()) {}
    }
    let mut exchanges = 0_u64;
    while a.hash() != b.hash() {
        exchange(&mut b, &mut a, exchanges, Mono(0));
        exchanges += 1;
        assert!(exchanges < 80, "{} of 40 known after {exchanges}", b.states().len() - 2);
    }
    assert!(exchanges > 50, "{exchanges}: it did not all fit at once");
    assert!((2..42).all(|other| a.get(node(other)) == b.get(node(other))));
}

#[test]
fn busy_nodes_keep_no_quiet_one_waiting() {
    // Two of the largest values have room in a delta. Three nodes say one anew before each exchange, six have one.
    let (mut a, mut b) = (view(0), view(1));
    exchange(&mut a, &mut b, 0, Mono(0));
    let mut rolls = Rolls::new(3);
    let large = |byte| Bytes::from(vec![byte; VALUE_MAX]);
    for quiet in 5..11 {
        let mut source = view(quiet);
        let _ = source.set(name("x"), large(0));
        exchange(&mut source, &mut a, 0, Mono(0));
    }
    let mut busy: Vec<View> = (2..5).map(view).collect();
    for round in 0..40 {
        for view in &mut busy {
            let _ = view.set(name("x"), large(round));
            exchange(view, &mut a, 0, Mono(0));
        }
        let digest = b.digest(0, Mono(0));
        let (push, _) = a.answer_digest(&digest, rolls.next(), Mono(0));
        let (_, told) = b.answer_push(&push, 0, Mono(0));
        assert_eq!(told.len(), 2, "as much as has room");
    }
    assert!((5..11).all(|quiet| b.get(node(quiet)) == a.get(node(quiet))), "each has had its turn");
    assert!((2..5).all(|busy| b.get(node(busy)).is_some_and(|state| state.version() > 20)), "and the others went on");
}

#[test]
fn views_larger_than_a_digest_are_compared_piece_by_piece() {
    let n = KNOWN_MAX + 300;
    let mut views = acquainted(n);
    let (mut a, mut b) = (views.swap_remove(0), views.swap_remove(7));
    let (mine, theirs) = (a.me(), b.me());
    let _ = (a.set(name("load"), value("a")), b.set(name("load"), value("b")));
    assert!(a.remove(node(1_200)));
    let mut rolls = Rolls::new(4);
    let mut exchanges = 0;
    while a.hash() != b.hash() {
        assert!(a.digest(rolls.next(), Mono(0)).known.len() == KNOWN_MAX);
        exchange(&mut a, &mut b, rolls.next(), Mono(0));
        exchanges += 1;
        assert!(exchanges < 20);
    }
    assert!(a.get(theirs) == b.get(theirs) && a.get(mine) == b.get(mine) && b.is_removed(node(1_200)));
    for _ in 0..20 {
        let digest = b.digest(rolls.next(), Mono(0));
        let (push, _) = a.answer_digest(&digest, 0, Mono(0));
        assert_eq!((push.delta, push.wants), (Delta::default(), Vec::new()), "who stands outside is not spoken of");
    }
    assert_eq!(a.states().len(), n - 1, "who stood outside the piece was not taken for unknown, nor lost");
}
