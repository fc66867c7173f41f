//! What one node lists of its own store.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::causality::{Payload, Supersedes, Write};
use crate::replica::tests::{Life, disk, live, place};

fn wanted(prefix: &'static str, after: &'static str, keys: usize) -> ListWanted {
    ListWanted {
        bucket: Bucket::new("b").unwrap(),
        generation: 0,
        prefix: prefix.into(),
        after: after.into(),
        now: Wall(1000),
        keys,
        bytes: 1 << 20,
        records: false,
        dead: false,
    }
}

fn all() -> Vec<PartitionId> {
    (0..8).map(PartitionId).collect()
}

impl Life {
    async fn lists(&self, wanted: &ListWanted) -> Listing {
        let deadline = self.env.clock.now() + Duration::from_secs(60);
        self.replica.list(&all(), wanted, deadline).await.unwrap()
    }

    async fn remove(&self, key: &str) {
        let write = Write { payload: Payload::default(), supersedes: Supersedes::Seen, request: None };
        self.mint(crate::replica::MintRequest { write, ..self.request(key, "") }).await.unwrap().1.unwrap();
    }
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.keys.iter().map(|(key, _)| std::str::from_utf8(key).unwrap()).collect()
}

#[tokio::test]
async fn keys_of_all_partitions_come_in_one_order_as_far_as_they_are_wanted() {
    let life = live(&disk());
    let keys: Vec<String> = (0..60).map(|number| format!("k{number:02}")).collect();
    for key in &keys {
        life.put(key, "v").await;
    }
    life.remove("k07").await;
    let left: Vec<&str> = keys.iter().map(String::as_str).filter(|key| *key != "k07").collect();
    let listing = life.lists(&wanted("", "", 1000)).await;
    assert_eq!((names(&listing), &listing.whole, listing.unable.len()), (left.clone(), &None, 0));
    let digest = digest_of_record(&life.replica.read(place("k00")).await.unwrap().unwrap());
    assert_eq!(listing.keys[0].1, Listed { digest, siblings: 1, expired: 0, record: None });

    let some = life.lists(&wanted("k", "k05", 4)).await;
    assert_eq!((names(&some), some.whole.as_deref()), (vec!["k06", "k08", "k09", "k10"], Some(&b"k10"[..])));
    let rest = life.lists(&wanted("k5", "k1", 100)).await;
    assert_eq!(names(&rest), left[left.len() - 10..]);
    assert_eq!(names(&life.lists(&wanted("k5", "k6", 100)).await), Vec::<&str>::new());
    let other = ListWanted { generation: 1, ..wanted("", "", 100) };
    assert_eq!(life.lists(&other).await, Listing::default());

    let few = ListWanted { records: true, bytes: 1, ..wanted("", "", 100) };
    let one = life.lists(&few).await;
    assert_eq!((one.keys.len(), one.whole.as_deref()), (1, Some(&b"k00"[..])), "one at least, whatever it takes");
    assert!(one.keys[0].1.record.is_some());
}

#[tokio::test]
async fn deletes_are_told_to_those_who_merge_and_what_has_expired_to_nobody() {
    let life = live(&disk());
    life.put("a", "v").await;
    life.remove("b").await;
    let mut brief = life.request("c", "v");
    brief.write.payload.expires_at = Some(Wall(2000));
    life.mint(brief).await.unwrap().1.unwrap();
    assert_eq!(names(&life.lists(&wanted("", "", 9)).await), ["a", "c"]);
    let later = ListWanted { now: Wall(2000), ..wanted("", "", 9) };
    assert_eq!(names(&life.lists(&later).await), ["a"]);
    let merges = ListWanted { records: true, dead: true, ..wanted("", "", 9) };
    let told = life.lists(&merges).await;
    let shown: Vec<(&str, u32)> = names(&told).into_iter().zip(told.keys.iter().map(|(_, key)| key.siblings)).collect();
    assert_eq!(shown[..2], [("a", 1), ("b", 0)]);
    assert!(told.keys.iter().all(|(_, key)| key.record.is_some()));
}

#[tokio::test]
async fn what_cannot_be_read_is_said_of_its_partition_alone() {
    let life = live(&disk());
    let keys: Vec<String> = (0..40).map(|number| format!("k{number:02}")).collect();
    for key in &keys {
        life.put(key, "v").await;
    }
    let bad = place("k20");
    life.replica.suspect(bad.clone()).await;
    let listing = life.lists(&wanted("", "", 1000)).await;
    assert_eq!(listing.unable, [(bad.partition, Fault::Damaged)]);
    let others: BTreeSet<&str> =
        keys.iter().map(String::as_str).filter(|key| place(key).partition != bad.partition).collect();
    assert_eq!(names(&listing).into_iter().collect::<BTreeSet<_>>(), others);
    // Of what lies elsewhere it can tell.
    for elsewhere in [wanted("", "k20", 1000), wanted("k1", "", 1000)] {
        assert_eq!(life.lists(&elsewhere).await.unable, []);
    }
}

#[tokio::test]
async fn deletes_beyond_what_is_done_in_one_go_hide_nothing_and_time_ends_a_list() {
    let life = live(&disk());
    for number in 0..4 * SCANNED {
        life.remove(&format!("a{number}")).await;
    }
    life.put("b", "v").await;
    assert_eq!(names(&life.lists(&wanted("", "", 5)).await), ["b"]);
    let past = life.env.clock.now();
    let late = life.replica.list(&all(), &wanted("", "", 5), past).await.unwrap();
    assert_eq!((names(&late), late.whole.as_deref()), (Vec::new(), Some(&b""[..])), "nothing is known, and it says so");
}
