//! The bytes that a round takes, as the performance table names them: printed, and held.

use std::collections::BTreeSet;

use super::*;
use crate::types::Token;

const KEYS: u32 = 1_000_000;
const DIFFER: u32 = 1000;

/// A million keys of 40 bytes, made when they are looked at. On side B every 1,000th is another object or none.
struct Million {
    /// By partition: (key, leaf).
    keys: Vec<Vec<(u32, u8)>>,
    /// By side and partition: kept, as stored leaves are.
    trees: [Vec<Tree>; 2],
}

fn stored(partition: PartitionId, key: u32) -> Bytes {
    let mut stored = Vec::with_capacity(40);
    stored.extend(partition.0.to_be_bytes());
    stored.extend(b"\x07objects\0\0\0\0\0\0\0\x01/a/key/0000");
    stored.extend([key.to_be_bytes(); 2].as_flattened());
    stored.into()
}

impl Million {
    fn new(partitions: u32) -> Self {
        let bits = partitions.trailing_zeros();
        let mut keys = vec![Vec::new(); partitions as usize];
        for key in 0..KEYS {
            let hash = blake3::hash(&key.to_be_bytes());
            let token = u64::from_be_bytes(*hash.as_bytes().first_chunk().unwrap());
            keys[(token >> 32 >> (32 - bits)) as usize].push((key, leaf_of(Token(token), bits)));
        }
        let mut million = Self { keys, trees: Default::default() };
        for side in [A, B] {
            let trees = (0..partitions)
                .map(|partition| {
                    let (mut tree, terms) = (Tree::new(), terms(0, Width::Short));
                    million.each(side, PartitionId(partition), &mut |entry| {
                        let element = leaf_element(&entry.stored, &entry.digest);
                        tree.add(&terms, entry.class, entry.hour, entry.leaf, element);
                    });
                    tree
                })
                .collect();
            million.trees[side] = trees;
        }
        million
    }
}

fn differs(key: u32) -> bool {
    key.is_multiple_of(KEYS / DIFFER)
}

impl Sides for Million {
    fn tree(&self, side: usize, partition: PartitionId, _: &Terms) -> Tree {
        self.trees[side][partition.0 as usize].clone()
    }

    fn each(&self, side: usize, partition: PartitionId, offer: &mut dyn FnMut(&Entry)) {
        for (key, leaf) in &self.keys[partition.0 as usize] {
            let other = side == B && differs(*key);
            // Of those that differ a quarter is missing.
            if other && (key / (KEYS / DIFFER)).is_multiple_of(4) {
                continue;
            }
            let mut digest = [u8::from(other); 16];
            digest[..4].copy_from_slice(&key.to_be_bytes());
            offer(&Entry {
                stored: stored(partition, *key),
                digest: Digest(digest),
                leaf: *leaf,
                class: 0,
                hour: MAIN,
                is_fresh: false,
            });
        }
    }
}

#[test]
fn a_thousand_of_a_million_keys_are_found_in_one_round_within_the_bytes_there_are() {
    for partitions in [1024, 64] {
        let mut million = Million::new(partitions);
        let told = round(&mut million, partitions, &terms(42, Width::Short));
        let wanted: BTreeSet<Bytes> = (0..partitions)
            .map(PartitionId)
            .flat_map(|p| {
                million.keys[p.0 as usize].iter().filter(|(key, _)| differs(*key)).map(move |(key, _)| stored(p, *key))
            })
            .collect();
        let overhead = told.roots_bytes + told.walk_bytes;
        println!(
            "Q = {partitions}: {} of {KEYS} keys found in {} partitions; {overhead} bytes: roots {}, walk {} in {} requests ({} a key); largest {:?}",
            told.found.len(),
            told.differ,
            told.roots_bytes,
            told.walk_bytes,
            told.requests,
            overhead / DIFFER as usize,
            told.largest,
        );
        assert_eq!(told.found.keys().cloned().collect::<BTreeSet<_>>(), wanted);
        // Of the 128 KiB there are beside the objects, some go to the heads of the messages that carry those.
        assert!(overhead <= 112 * 1024, "{overhead}");
        assert!(told.unfinished.is_empty());
    }
}

#[test]
fn in_sync_a_partition_pair_takes_less_than_64_bytes_a_round() {
    // Twelve nodes and 1024 partitions of three owners share about 46 a pair; three share them all.
    for partitions in [8, 46, 64, 1024, 4096, 65_536] {
        let mut none = Maps::default();
        none.put(A, 3, 4, b"key", 1);
        none.put(B, 3, 4, b"key", 1);
        let told = round(&mut none, partitions, &terms(42, Width::Short));
        let each = told.roots_bytes as f64 / f64::from(partitions);
        println!("{partitions} partitions in sync: {each:.1} bytes each");
        assert_eq!((told.differ, told.requests), (0, 0));
        assert!(each <= 64.0, "{each}");
    }
}
