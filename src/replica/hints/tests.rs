use super::*;
use crate::causality::{self, MergeRules, Object, Payload, Supersedes, decode_object, encode_object};
use crate::env::Entropy;
use crate::replica::tests::{Life, disk, live, place, roomy};
use crate::replica::{Coordinated, MintRequest};
use crate::types::{ActorId, Stamp, Wall};

const A: StoreId = StoreId::from_bits(7);
const B: StoreId = StoreId::from_bits(u128::MAX);

impl Life {
    async fn leave(&self, key: &str, revision: u8, targets: &[StoreId]) {
        self.replica.leave_hints(place(key), Digest([revision; 16]), targets.to_vec()).await.unwrap();
    }

    async fn end(&self, key: &str, revision: Digest, why: HintEnd) {
        self.replica.end_hint(A, place(key).stored, revision, why).await.unwrap();
    }

    async fn all(&self, target: StoreId) -> Vec<(Bytes, Hint)> {
        let (mut all, mut after) = (Vec::new(), Bytes::new());
        loop {
            let page = self.replica.hints_of(target, after, 2).await.unwrap();
            all.extend(page.entries);
            match page.next {
                Some(next) => after = next,
                None => return all,
            }
        }
    }

    /// The summary is what the disk says.
    async fn agrees(&self) {
        for target in [A, B] {
            let all = self.all(target).await;
            let bytes = all.iter().map(|(stored, hint)| bytes_of(stored, hint)).sum();
            let owed = all.iter().filter(|(_, hint)| hint.owed).count() as u64;
            let oldest = all.iter().map(|(_, hint)| Wall(hint.since.0 / 1000 * 1000)).min();
            let waiting = oldest.map(|oldest| Waiting { keys: all.len() as u64, bytes, owed, oldest });
            assert_eq!(self.replica.hints().waiting(target), waiting);
        }
        let sum: u64 = self.replica.hints().targets().values().map(|waiting| waiting.bytes).sum();
        assert_eq!(self.replica.hints().total().1, sum);
    }
}

#[tokio::test]
async fn many_hints_for_a_key_are_one_and_an_acknowledgement_ends_only_what_it_answers() {
    let disk = disk();
    let life = live(&disk);
    let written = life.put("k", "v").await.digest;
    life.replica.leave_hints(place("k"), written, vec![A, B]).await.unwrap();
    let [(stored, first)] = &life.all(A).await[..] else { panic!("one hint") };
    assert_eq!((stored, first.revision, first.owed), (&place("k").stored, written, false));
    // While that one is on its way:
    life.leave("k", 2, &[A]).await;
    life.end("k", written, HintEnd::Replayed).await;
    let [(_, second)] = &life.all(A).await[..] else { panic!("one hint") };
    assert_eq!(second.since, first.since);
    life.replica.leave_hints(place("k"), written, vec![A]).await.unwrap();
    life.end("k", written, HintEnd::Replayed).await;
    life.end("k", second.revision, HintEnd::Replayed).await;
    let [(_, third)] = &life.all(A).await[..] else { panic!("one hint: neither answer was for it") };
    life.agrees().await;
    life.end("k", third.revision, HintEnd::Replayed).await;
    assert_eq!(life.all(A).await, []);
    assert_eq!(life.all(B).await.len(), 1, "another owner's");
    life.agrees().await;
    let hints = &life.replica.inner.metrics.hints;
    assert_eq!((hints.left.get(), hints.replayed.get(), hints.all_dropped()), (4, 1, 0));
}

#[tokio::test]
async fn those_of_one_batch_see_each_other() {
    let disk = disk();
    let life = live(&disk);
    let revision = Digest([1; 16]);
    let (left, ended, again) = tokio::join!(
        life.replica.leave_hints(place("k"), revision, vec![A]),
        life.replica.end_hint(A, place("k").stored, revision, HintEnd::Replayed),
        life.replica.leave_hints(place("k"), revision, vec![A]),
    );
    left.and(ended).and(again).unwrap();
    assert_eq!(life.all(A).await.len(), 1);
    life.agrees().await;
}

#[tokio::test]
async fn past_the_bound_nothing_more_is_kept_and_the_partition_is_marked_for_good() {
    let disk = disk();
    let life = live(&disk);
    // 59 bytes each, 300 in all.
    for key in ["k0", "k1", "k2", "k3", "k4", "k5"] {
        life.leave(key, 1, &[A]).await;
    }
    life.leave("k0", 2, &[A]).await;
    assert_eq!(life.all(A).await.len(), 5, "and one that is known is merged all the same");
    let partition = place("k5").partition;
    assert_eq!(life.replica.hints().marked(), [(partition, 1)].into());
    life.leave("k5", 1, &[A]).await;
    life.agrees().await;
    life.replica.unmark(partition, 1).await.unwrap();
    assert_eq!(life.replica.hints().marked(), [(partition, 2)].into(), "something was dropped since");
    assert_eq!(life.replica.inner.metrics.hints.dropped(Dropped::Full).get(), 2);
    life.put("k", "flushes").await;
    disk.crash(&Entropy::seeded(1));
    let life = live(&disk);
    assert_eq!(life.replica.hints().marked(), [(partition, 0)].into());
    assert_eq!(life.all(A).await.len(), 5);
    life.agrees().await;
    life.replica.unmark(partition, 0).await.unwrap();
    disk.kill();
    assert_eq!(live(&disk).replica.hints().marked(), [].into());
}

#[tokio::test]
async fn what_is_dropped_marks_its_partition_unless_nobody_lacks_it_and_what_is_owed_stays() {
    let disk = disk();
    let life = live(&disk);
    for (key, why) in [("old", Dropped::TooOld), ("gone", Dropped::Gone), ("purged", Dropped::Purged)] {
        life.leave(key, 1, &[A]).await;
        life.end(key, Digest([1; 16]), HintEnd::Dropped(why)).await;
        assert_eq!(life.replica.inner.metrics.hints.dropped(why).get(), 1);
    }
    let marked: Vec<PartitionId> = life.replica.hints().marked().into_keys().collect();
    let mut expected = vec![place("old").partition, place("gone").partition];
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(marked, expected);
    assert!(!expected.contains(&place("purged").partition), "another key would show more");
    let owed = Hint { owed: true, revision: Digest([1; 16]), since: Wall(5000), kept: None };
    let mut batch = Batch::new();
    batch.put(Keyspace::Hints, hint_key(A, &place("owed").stored), owed.encode());
    batch.put(Keyspace::Hints, hint_key(A, &place("newer").stored), vec![2, 1, 0]);
    life.replica.storage().commit(batch, Durability::Os).unwrap();
    disk.kill();
    let life = live(&disk);
    life.agrees().await;
    life.end("owed", owed.revision, HintEnd::Dropped(Dropped::TooOld)).await;
    assert_eq!(life.all(A).await, [(place("owed").stored, owed.clone())]);
    assert_eq!((life.replica.hints().left_by(A, Wall(4999)), life.replica.hints().left_by(A, Wall(5000))), (0, 1));
    life.end("owed", owed.revision, HintEnd::Replayed).await;
    assert_eq!(life.all(A).await, []);
    let newer = life.replica.storage().get(Keyspace::Hints, &hint_key(A, &place("newer").stored)).unwrap();
    assert_eq!(newer.as_deref(), Some(&[2, 1, 0][..]), "what a newer version left is left alone");
}

#[tokio::test]
async fn no_flush_is_forced_and_a_hint_is_never_there_before_its_object() {
    let disk = disk();
    let life = live(&disk);
    let settled = disk.unsynced();
    life.leave("k", 1, &[A]).await;
    assert_eq!(disk.unsynced(), settled + 1, "it waits for the next flush");
    let written = life.put("k", "v").await;
    assert_eq!(disk.unsynced(), 0);
    let mut minting = life.replica.mint(life.request("k", "w")).unwrap();
    let left = life.replica.leave_hints(place("k"), written.digest, vec![B]);
    let (_, left) = tokio::join!(minting.minted(), left);
    left.unwrap();
    disk.crash(&Entropy::seeded(3));
    let life = live(&disk);
    let siblings = life.object("k").await.unwrap().siblings().len();
    assert!(life.all(B).await.is_empty() || siblings == 2, "the hint without what it is for");
    assert_eq!(life.all(A).await.len(), 1);
}

impl Life {
    fn keep(&self, key: &str, owner: StoreId, record: &Bytes) -> KeepRequest {
        let rules = MergeRules::default();
        KeepRequest { place: place(key), owner, record: record.clone(), epoch: 4, rules, flush: false }
    }

    /// Mints in the place of `A`.
    async fn put_for(&self, key: &str, value: &str) -> Coordinated {
        let request = MintRequest { stands_for: Some(A), ..self.request(key, value) };
        let (coordinated, durable) = self.mint(request).await.unwrap();
        assert_eq!(durable, Ok(true));
        coordinated
    }

    async fn kept(&self, key: &str) -> Option<Object> {
        let record = self.replica.kept(place(key), MergeRules::default()).await.unwrap();
        record.map(|record| decode_object(record).unwrap())
    }
}

/// A record of a value of so many bytes, by an actor of its own.
fn record(actor: u64, bytes: usize) -> Bytes {
    let payload = Payload { value: Some(vec![7; bytes].into()), ..Payload::default() };
    let write = causality::Write { payload, supersedes: Supersedes::Tombstones, request: None };
    let rules = MergeRules::default();
    encode_object(&causality::write(&Object::new(), write, ActorId(actor), Stamp(1), Stamp(0), &rules).object)
}

#[tokio::test]
async fn what_is_kept_for_an_owner_is_merged_and_ends_with_the_state_that_was_answered() {
    let disk = disk();
    let life = roomy(&disk);
    assert_eq!(life.replica.keep_hint(life.keep("k", A, &record(1, 3))).await, Ok(true), "as durable as any write");
    assert_eq!(disk.unsynced(), 0);
    let [(_, first)] = &life.all(A).await[..] else { panic!("one hint") };
    assert!(first.owed && first.kept.as_ref().is_some_and(|kept| kept.record == record(1, 3) && kept.epoch == 4));
    // While that one is on its way:
    life.replica.keep_hint(KeepRequest { epoch: 2, ..life.keep("k", A, &record(2, 3)) }).await.unwrap();
    life.end("k", first.revision, HintEnd::Replayed).await;
    let [(_, second)] = &life.all(A).await[..] else { panic!("one hint") };
    assert_eq!((second.kept.as_ref().unwrap().epoch, second.since), (2, first.since));
    assert_eq!(life.kept("k").await.unwrap().siblings().len(), 2);
    life.replica.keep_hint(life.keep("k", A, &record(1, 3))).await.unwrap();
    assert_eq!(life.all(A).await, [(place("k").stored, second.clone())], "it brought nothing");
    life.replica.keep_hint(life.keep("k", B, &record(3, 3))).await.unwrap();
    assert_eq!(life.kept("k").await.unwrap().siblings().len(), 3, "whomever it is for");
    assert_eq!((life.kept("other").await, life.object("k").await), (None, None), "it is no copy of this node's own");
    life.agrees().await;
    assert_eq!(life.replica.hints().owed(), 2);
    life.end("k", second.revision, HintEnd::Dropped(Dropped::TooOld)).await;
    life.leave("k", 9, &[A]).await;
    let [(_, third)] = &life.all(A).await[..] else { panic!("one hint") };
    assert!(third.owed && third.kept == second.kept && third.revision != second.revision);
    disk.crash(&Entropy::seeded(5));
    let life = roomy(&disk);
    life.agrees().await;
    assert_eq!(life.kept("k").await.unwrap().siblings().len(), 3);
    let [(_, left)] = &life.all(A).await[..] else { panic!("one hint") };
    life.end("k", left.revision, HintEnd::Dropped(Dropped::Purged)).await;
    assert_eq!(life.all(A).await, [], "of a bucket that is no more nothing is owed");
    life.agrees().await;
}

#[tokio::test]
async fn at_the_bound_what_would_be_owed_is_refused_and_what_is_owed_stays() {
    let disk = disk();
    let life = live(&disk);
    // 300 bytes in all.
    assert_eq!(life.replica.keep_hint(life.keep("k", A, &record(1, 60))).await, Ok(true));
    assert_eq!(life.replica.keep_hint(life.keep("other", A, &record(1, 300))).await, Err(Fault::HintsFull));
    assert_eq!(life.replica.keep_hint(life.keep("k", A, &record(2, 300))).await, Err(Fault::HintsFull));
    let request = MintRequest { stands_for: Some(A), ..life.request("k", &"v".repeat(300)) };
    assert_eq!(life.replica.mint(request).unwrap().minted().await.unwrap_err(), Fault::HintsFull);
    assert_eq!(life.kept("k").await.unwrap().siblings().len(), 1);
    life.agrees().await;
    let metrics = &life.replica.inner.metrics.hints;
    assert_eq!((metrics.refused.get(), metrics.kept.get(), metrics.all_dropped()), (3, 1, 0));
    assert!(life.replica.hints().marked().is_empty());
    let damaged = life.replica.keep_hint(life.keep("k", A, &Bytes::from_static(b"x"))).await;
    assert!(matches!(damaged, Err(Fault::Malformed(_))));
}

/// I-MINT on a hint's record: one actor while the record is there, another one after it, and in every other life.
#[tokio::test]
async fn who_mints_on_a_hint_is_drawn_for_its_record() {
    let disk = disk();
    let life = roomy(&disk);
    let first = life.put_for("k", "one").await;
    let again = life.put_for("k", "two").await;
    assert_eq!(first.dot.actor, again.dot.actor);
    assert!(again.object.context().covers(first.dot) && again.object.siblings().len() == 2, "on top of what is there");
    let owned = life.put("k", "mine").await;
    assert_ne!(owned.dot.actor, first.dot.actor, "not the partition's");
    assert_ne!(life.put_for("other", "one").await.dot.actor, first.dot.actor);
    let all = life.all(A).await;
    let (_, kept) = all.iter().find(|(stored, _)| *stored == place("k").stored).unwrap();
    life.end("k", kept.revision, HintEnd::Replayed).await;
    let anew = life.put_for("k", "three").await;
    assert_ne!(anew.dot.actor, first.dot.actor, "it does not hold what it minted before");
    disk.kill();
    let life = roomy(&disk);
    assert_ne!(life.put_for("k", "four").await.dot.actor, anew.dot.actor, "it may have forgotten some");
    // Two in one batch see each other.
    let [one, other] = ["five", "six"]
        .map(|value| life.replica.mint(MintRequest { stands_for: Some(A), ..life.request("b", value) }).unwrap());
    let (mut one, mut other) = (one, other);
    let (one, other) = (one.minted().await.unwrap(), other.minted().await.unwrap());
    assert_eq!(one.dot.actor, other.dot.actor);
    assert!(other.object.context().covers(one.dot));
}
