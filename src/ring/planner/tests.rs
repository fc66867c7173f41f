use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::ring::report::PlacementReport;
use crate::types::{NodeId, PartitionId, StoreId};

fn member(number: u128, zone: usize, weight: u32) -> Member {
    Member {
        node: NodeId::from_bits(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
        store: StoreId::from_bits(number),
        name: format!("n{number}"),
        region: "home".into(),
        zone: format!("z{zone}"),
        weight,
        peer_address: format!("n{number}:1"),
        client_address: format!("n{number}:2"),
    }
}

fn equal(numbers: std::ops::Range<u128>, zones: u128) -> Vec<Member> {
    numbers.map(|number| member(number, (number % zones) as usize, 1)).collect()
}

fn first(q: u32, members: Vec<Member>) -> Layout {
    found("test", Grid::new(q).unwrap(), 5, BucketSettings::default(), members).unwrap()
}

/// Members with zones and weights.
fn any_members() -> impl Strategy<Value = Vec<Member>> {
    (1usize..=50, 1usize..=8).prop_flat_map(|(count, zones)| {
        proptest::collection::vec((0..zones, 1u32..=8), count)
            .prop_map(|drawn| (1..).zip(drawn).map(|(number, (zone, weight))| member(number, zone, weight)).collect())
    })
}

/// Zones hold without exception, and nobody holds more than whole partitions, zones and weights make least: but for
/// `over` partitions where the zones leave an odd choice.
fn sound(before: Option<&Layout>, layout: &Layout, over: f64) -> Result<(), TestCaseError> {
    let report = PlacementReport::of(before, layout);
    let weights = layout.members().iter().map(|member| f64::from(member.weight));
    let lightest = weights.clone().fold(f64::MAX, f64::min) / weights.sum::<f64>();
    for at in &report.figures {
        let partition = 1.0 / (lightest * f64::from(at.n) * f64::from(layout.grid().q()));
        prop_assert_eq!(at.zone_violations, 0, "n = {}", at.n);
        prop_assert!(at.max_over_mean <= at.least_max_over_mean + over * partition + 1e-9, "{}", report);
    }
    Ok(())
}

/// Moves at every n against the least possible.
fn moves_little(before: &Layout, after: &Layout, ratio: f64, extra: usize) -> Result<(), TestCaseError> {
    let report = PlacementReport::of(Some(before), after);
    for at in &report.figures {
        let most = (at.least_moves as f64 * ratio) as usize + extra;
        prop_assert!(at.moves <= most, "{} members -> {}\n{}", before.members().len(), after.members().len(), report);
    }
    Ok(())
}

#[test]
fn ten_equal_nodes_meet_the_bar() {
    let report = PlacementReport::of(None, &first(1024, equal(1..11, 1)));
    for at in &report.figures {
        assert!(at.max_over_mean <= 1.05, "{report}");
    }
    let before = first(1024, equal(1..11, 1));
    let [mut replaced, added, removed] = [equal(1..11, 1), equal(1..12, 1), equal(2..11, 1)];
    replaced[3] = member(99, 0, 1);
    for members in [added, removed, replaced] {
        let report = PlacementReport::of(Some(&before), &plan(&before, members).unwrap());
        for at in &report.figures {
            assert!(at.max_over_mean <= 1.05 && at.moves as f64 <= 1.10 * at.least_moves as f64, "{report}");
        }
    }
}

#[test]
fn a_new_store_takes_the_places_of_its_node() {
    let before = first(256, equal(1..8, 1));
    let mut members = before.members().to_vec();
    members[2].store = StoreId::from_bits(1234);
    let after = plan(&before, members).unwrap();
    assert_eq!(after.spec().regions, before.spec().regions);
    assert_eq!(after.partitions_of(StoreId::from_bits(1234)), before.partitions_of(before.members()[2].store));
}

#[test]
fn any_two_members_share_few_partitions() {
    // Drawn, not dealt in turn: a dead node's data comes back from everybody. Ten nodes, lists of 3 of 5: on average
    // 1024 * 5 * 4 / 2 / 45 = 228 partitions per pair.
    let layout = first(1024, equal(0..10, 1));
    let mut shared = [[0usize; 10]; 10];
    for partition in layout.grid().partitions() {
        let owners = layout.owners_in("home", partition, 5);
        owners.iter().for_each(|a| owners.iter().for_each(|b| shared[a.get()][b.get()] += 1));
    }
    for (a, row) in shared.iter().enumerate() {
        for (b, count) in row.iter().enumerate().filter(|(b, _)| *b != a) {
            assert!((150..=306).contains(count), "{a} and {b} share {count}");
        }
    }
}

#[test]
fn regions_are_placed_one_by_one() {
    let mut members = equal(1..10, 3);
    members.iter_mut().skip(5).for_each(|member| member.region = "away".into());
    let layout = first(256, members);
    assert_eq!(layout.regions().collect::<Vec<_>>(), ["away", "home"]);
    assert_eq!(layout.owners_in("home", PartitionId(0), 9).len(), 5);
    assert_eq!(layout.owners_in("away", PartitionId(0), 9).len(), 4);
}

proptest! {
    // Seeded: these bounds are those of a planner that searches locally, not laws.
    #![proptest_config(ProptestConfig { cases: 32, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn zones_and_load_hold_for_any_cluster(members in any_members()) {
        sound(None, &first(256, members), 4.0)?;
    }

    #[test]
    fn input_order_does_not_matter_and_nothing_moves_without_reason(members in any_members()) {
        let mut turned = members.clone();
        turned.reverse();
        let layout = first(64, members.clone());
        prop_assert_eq!(&layout, &first(64, turned.clone()));
        let again = plan(&layout, turned).unwrap();
        prop_assert_eq!(&again.spec().regions, &layout.spec().regions);
    }

    // The least is a lower bound at one n, so 1.10 of it can be out of reach by a few partitions. How many more are
    // allowed, here and below, is the most that a thousand drawn changes needed, rounded up.
    #[test]
    fn equal_members_move_little(count in 1u128..=50, gone in any::<prop::sample::Index>()) {
        let before = first(256, equal(0..count, 1));
        let grown = plan(&before, equal(0..count + 1, 1)).unwrap();
        sound(Some(&before), &grown, 0.0)?;
        moves_little(&before, &grown, 1.10, 8)?;
        let mut fewer = equal(0..count, 1);
        let mut replaced = fewer.clone();
        fewer.remove(gone.index(fewer.len()));
        let at = gone.index(replaced.len());
        replaced[at] = member(1000, 0, 1);
        if !fewer.is_empty() {
            let shrunk = plan(&before, fewer).unwrap();
            sound(Some(&before), &shrunk, 0.0)?;
            moves_little(&before, &shrunk, 1.10, 8)?;
        }
        let replaced = plan(&before, replaced).unwrap();
        sound(Some(&before), &replaced, 0.0)?;
        moves_little(&before, &replaced, 1.0, 0)?;
    }

    #[test]
    fn who_leaves_is_as_good_as_gone(members in any_members(), gone in any::<prop::sample::Index>()) {
        prop_assume!(members.len() > 1);
        let before = first(128, members.clone());
        let mut without = members.clone();
        without.remove(gone.index(members.len()));
        let mut leaving = members.clone();
        leaving[gone.index(members.len())].weight = 0;
        let (without, leaving) = (plan(&before, without).unwrap(), plan(&before, leaving).unwrap());
        let owners = |layout: &Layout| -> Vec<StoreId> {
            layout.spec().regions[0].owners.iter().map(|owner| layout.member(*owner).store).collect()
        };
        prop_assert_eq!(owners(&without), owners(&leaving));
        prop_assert_eq!(PlacementReport::of(Some(&before), &without), PlacementReport::of(Some(&before), &leaving));
    }

    #[test]
    fn any_change_keeps_the_rules(mut members in any_members(), weight in 1u32..8, gone in any::<prop::sample::Index>()) {
        let before = first(128, members.clone());
        let at = gone.index(members.len());
        members[at].weight = weight;
        let weighed = plan(&before, members.clone()).unwrap();
        sound(Some(&before), &weighed, 6.0)?;
        moves_little(&before, &weighed, 1.25, 40)?;
        members.push(member(77, at % 5, weight));
        let grown = plan(&weighed, members.clone()).unwrap();
        sound(Some(&weighed), &grown, 6.0)?;
        moves_little(&weighed, &grown, 1.25, 20)?;
        members.remove(at);
        let shrunk = plan(&grown, members).unwrap();
        sound(Some(&grown), &shrunk, 6.0)?;
        moves_little(&grown, &shrunk, 1.25, 20)?;
    }
}
