use super::*;
use crate::env::Entropy;
use crate::ring::change::abort;
use crate::ring::{BucketSettings, Chain, Grid, Tracker, Trackers, planner};
use crate::storage::Batch;
use crate::storage::memory::MemoryDisk;
use crate::types::NodeId;

fn member(number: u128) -> Member {
    Member {
        node: NodeId::from_bits(number),
        store: StoreId::from_bits(100 + number),
        name: format!("n{number}"),
        region: String::new(),
        zone: String::new(),
        weight: 1,
        peer_address: format!("n{number}:1"),
        client_address: format!("n{number}:2"),
    }
}

fn founded(numbers: std::ops::Range<u128>) -> Chain {
    let (grid, settings) = (Grid::new(4).unwrap(), BucketSettings::default());
    Chain::founded(planner::found("test", grid, 5, settings, numbers.map(member).collect()).unwrap())
}

#[test]
fn how_a_layout_ended_and_since_when_it_waits_is_remembered() {
    let (mut desk, mut trackers, mut chain) = (Desk::default(), Trackers::default(), founded(1..4));
    let me = StoreId::from_bits(101);
    let look = |desk: &mut Desk, chain: &Chain, trackers: &Trackers, at: u64| {
        desk.look(View { chain, trackers, me }, Mono(at), Wall(at));
    };
    look(&mut desk, &chain, &trackers, 5);
    assert_eq!((desk.seen.len(), desk.known_since(1)), (1, None), "it was there before");
    chain.push(planner::plan(chain.newest(), (1..5).map(member).collect()).unwrap()).unwrap();
    let joiner = StoreId::from_bits(104);
    look(&mut desk, &chain, &trackers, 1000);
    look(&mut desk, &chain, &trackers, 2000);
    assert_eq!(desk.waits_since(joiner), Some(Wall(1000)));
    assert_eq!(desk.known_since(2).as_deref(), Some("1970-01-01T00:00:01.000Z"));
    assert_eq!(desk.seen[1].summary.changes, ["n4 joins"]);
    chain.push(abort(&chain, &[joiner].into()).unwrap()).unwrap();
    let mut at_once = Desk::default();
    let until_then = Chain::new(chain.layouts()[..2].to_vec(), 1, [].into()).unwrap();
    look(&mut at_once, &until_then, &trackers, 2000);
    look(&mut desk, &chain, &trackers, 3000);
    assert_eq!((desk.seen[1].ended, desk.waits_since(joiner)), (Some(Stage::Superseded(3)), None));
    let done = Tracker { ack: 3, synced: [3].into(), sync_ack: 3 };
    (1..4).for_each(|number| trackers.set_own(StoreId::from_bits(100 + number), &done));
    chain.drop_before(3);
    look(&mut desk, &chain, &trackers, 4000);
    assert_eq!(desk.seen[1].ended, Some(Stage::Superseded(3)), "that the next one is complete makes it none that was");
    assert_eq!((desk.seen[2].ended, desk.waiting.len()), (Some(Stage::Done), 0));
    look(&mut at_once, &chain, &trackers, 4000);
    assert_eq!(at_once.seen[1].ended, Some(Stage::Superseded(3)), "abort and its end were heard of at once");
}

#[test]
fn partitions_are_weighed_by_some_of_them_and_not_at_all_where_that_costs_too_much() {
    let storage = MemoryDisk::new(Arc::new(Entropy::seeded(1))).open().unwrap();
    let mut batch = Batch::new();
    for partition in 0..64u32 {
        let key = [&partition.to_be_bytes()[..], b"key!"].concat();
        batch.put(Keyspace::Objects, key, vec![0; 92]);
    }
    storage.commit(batch, crate::storage::Durability::Flush).unwrap();
    let partitions: Vec<PartitionId> = (0..64).map(PartitionId).collect();
    assert_eq!(weigh(&storage, &partitions), Some(100));
    assert_eq!(weigh(&storage, &[]), None);
    let mut batch = Batch::new();
    batch.put(Keyspace::Objects, [&0u32.to_be_bytes()[..], b"large"].concat(), vec![0; 5 << 20]);
    storage.commit(batch, crate::storage::Durability::Flush).unwrap();
    assert_eq!(weigh(&storage, &partitions), None, "the first is more than is read for it");
}
