//! Whom to gossip with: each partner once, dead ones and seeds as often as they should.

use super::*;

/// A small generator: tests need any numbers, the same each time.
pub(super) struct Rolls(u64);

impl Rolls {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

#[test]
fn how_often() {
    let live: Vec<u32> = (0..9).collect();
    let mut rolls = Rolls::new(1);
    let mut counts = [0_u32; 30];
    for _ in 0..10_000 {
        let chosen = choose(&live, &[20, 21], &[0, 25], 2, |n| rolls.below(n));
        chosen.iter().for_each(|one| counts[*one as usize] += 1);
    }
    // 2 of 9 live, and the seed among them a little more; 1 of 5 a dead one, 2 of 11 a seed.
    assert!(counts[1..9].iter().all(|count| (2_000..2_450).contains(count)), "{counts:?}");
    assert!((2_700..3_150).contains(&counts[0]), "{counts:?}");
    assert!((1_800..2_200).contains(&(counts[20] + counts[21])) && counts[20] > 800 && counts[21] > 800, "{counts:?}");
    assert!((750..1_070).contains(&counts[25]), "{counts:?}");
}

#[test]
fn alone_it_asks_a_seed_every_time() {
    let mut rolls = Rolls::new(1);
    for _ in 0..100 {
        assert_eq!(choose(&[], &[], &[7], 3, |n| rolls.below(n)), [7]);
    }
    assert!(choose::<u32>(&[], &[], &[], 3, |n| rolls.below(n)).is_empty());
}

proptest! {
    #[test]
    fn each_once_and_only_those_there_are(
        live in 0..20_u32, dead in 0..20_u32, seeds in 0..5_u32, fanout in 0..5_usize, seed: u64,
    ) {
        let live: Vec<u32> = (0..live).collect();
        let dead: Vec<u32> = (100..100 + dead).collect();
        // Some seeds are live, some dead, some neither.
        let seeds: Vec<u32> = (0..seeds).map(|n| [n, 100 + n, 200 + n][n as usize % 3]).collect();
        let mut rolls = Rolls::new(seed);
        let chosen = choose(&live, &dead, &seeds, fanout, |n| { assert!(n > 0); rolls.below(n) });
        let known = |one: &u32| live.contains(one) || dead.contains(one) || seeds.contains(one);
        prop_assert!(chosen.iter().all(known));
        prop_assert!((1..chosen.len()).all(|n| !chosen[..n].contains(&chosen[n])));
        let alive = chosen.iter().filter(|one| live.contains(one)).count();
        prop_assert!(alive >= fanout.min(live.len()) && chosen.len() <= fanout + 2);
        prop_assert!(!live.is_empty() || seeds.is_empty() || chosen.iter().any(|one| seeds.contains(one)));
    }
}
