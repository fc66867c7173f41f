use super::*;
use crate::causality::{self, MergeRules, Object, Payload, Supersedes, decode_object, encode_object};
use crate::collect::Epoch;
use crate::env::Entropy;
use crate::replica::tests::{Life, disk, live, place, roomy};
use crate::replica::{Coordinated, MintRequest};
use crate::storage::memory::MemoryDisk;
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
    let owed = Hint { owed: true, revision: Digest([1; 16]), since: Wall(5000), kept: None, refers: true };
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
        let sealed = Epoch::FIRST;
        KeepRequest { place: place(key), owner, record: record.clone(), epoch: 4, sealed, rules, flush: false }
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
        record.map(|(record, _)| decode_object(record).unwrap())
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
    assert!(third.refers && !second.refers, "what is kept, and what this node's own copy holds: both are missed");
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
    assert_eq!(life.replica.keep_hint(life.keep("k", A, &record(1, 10))).await, Ok(true));
    assert_eq!(life.replica.keep_hint(life.keep("other", A, &record(1, 300))).await, Err(Fault::HintsFull));
    assert_eq!(life.replica.keep_hint(life.keep("k", A, &record(2, 300))).await, Err(Fault::HintsFull));
    let request = MintRequest { stands_for: Some(A), ..life.request("k", &"v".repeat(300)) };
    assert_eq!(life.replica.mint(request).unwrap().minted().await.unwrap_err(), Fault::HintsFull);
    assert_eq!(life.kept("k").await.unwrap().siblings().len(), 1);
    life.agrees().await;
    let metrics = &life.replica.inner.metrics.hints;
    assert_eq!((metrics.refused.get(), metrics.kept.get(), metrics.all_dropped()), (3, 1, 0));
    assert!(life.replica.hints().marked().is_empty());
    let total = life.replica.hints().total().1;
    assert!(total < 200 && !life.replica.hints().is_full(), "the largest object, of 100 bytes, fits beside {total}");
    assert_eq!(life.replica.keep_hint(life.keep("k", A, &record(2, 90))).await, Ok(true));
    let total = life.replica.hints().total().1;
    assert!((201..300).contains(&total) && life.replica.hints().is_full(), "it does not fit beside {total}");
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

/// Hints for `A` in two partitions, of which the first cannot be read, one for `B`, and one that a later version left.
async fn with_unreadable(disk: &MemoryDisk) -> (Life, [String; 3]) {
    let life = roomy(disk);
    let mut keys: Vec<String> = (0..20).map(|at| format!("k{at}")).collect();
    keys.sort_by_key(|key| place(key).stored);
    let (bad, good) = (keys[0].clone(), keys[19].clone());
    let newer = keys.into_iter().find(|key| place(key).partition == place(&good).partition && *key != good).unwrap();
    assert!(place(&bad).partition < place(&good).partition);
    for key in [&bad, &good] {
        life.replica.keep_hint(life.keep(key, A, &record(1, 3))).await.unwrap();
    }
    life.replica.keep_hint(life.keep(&good, B, &record(1, 3))).await.unwrap();
    let mut batch = Batch::new();
    batch.put(Keyspace::Hints, hint_key(A, &place(&newer).stored), vec![2, 1, 0]);
    life.replica.storage().commit(batch, Durability::Flush).unwrap();
    (life, [bad, good, newer])
}

#[tokio::test]
async fn nothing_is_put_in_the_place_of_what_cannot_be_read() {
    let disk = disk();
    let (life, [bad, good, newer]) = with_unreadable(&disk).await;
    assert!(disk.damage(Keyspace::Hints, &hint_key(A, &place(&bad).stored)));
    let dropped = |life: &Life| life.replica.inner.metrics.hints.dropped(Dropped::Unreadable).get();
    for key in [&bad, &newer] {
        let unreadable = Err(Fault::HintUnreadable);
        assert_eq!(life.replica.keep_hint(life.keep(key, A, &record(2, 3))).await, unreadable);
        let request = MintRequest { stands_for: Some(A), ..life.request(key, "v") };
        assert_eq!(life.replica.mint(request).unwrap().minted().await.unwrap_err(), Fault::HintUnreadable);
        assert_eq!(life.replica.kept(place(key), MergeRules::default()).await, Err(Fault::HintUnreadable));
        let (stored, why) = (place(key).stored, HintEnd::Dropped(Dropped::Purged));
        assert_eq!(life.replica.end_hint(A, stored, Digest([0; 16]), why).await, Err(Fault::HintUnreadable));
        let before = dropped(&life);
        life.leave(key, 1, &[A, B]).await;
        assert_eq!(dropped(&life), before + 1);
        assert!(life.replica.hints().marked().contains_key(&place(key).partition), "it is found by comparison");
        assert!(life.all(B).await.iter().any(|(stored, _)| *stored == place(key).stored), "another owner's is left");
    }
    let left = life.replica.storage().get(Keyspace::Hints, &hint_key(A, &place(&newer).stored)).unwrap();
    assert_eq!(left.as_deref(), Some(&[2, 1, 0][..]));
    assert!(life.replica.storage().get(Keyspace::Hints, &hint_key(A, &place(&bad).stored)).is_err(), "damaged still");
    assert!(life.replica.inner.metrics.hints.unreadable.get() >= 10);
    let page = life.replica.hints_of(A, Bytes::new(), 10).await.unwrap();
    assert_eq!((page.entries.len(), page.unreadable, page.next), (1, 2, None), "what lies behind is sent all the same");
    assert_eq!(page.entries[0].0, place(&good).stored);
}

#[tokio::test]
async fn what_cannot_be_read_at_the_start_is_told_counts_as_owed_and_hides_nothing() {
    let disk = disk();
    let (life, [bad, good, newer]) = with_unreadable(&disk).await;
    assert_eq!((life.replica.hints().owed(), life.replica.hints().unreadable()), (3, 0));
    drop(life);
    disk.kill();
    let life = roomy(&disk);
    assert_eq!((life.replica.hints().owed(), life.replica.hints().unreadable()), (4, 1), "a later version's");
    assert_eq!(life.replica.hints().marked().into_keys().collect::<Vec<_>>(), [place(&newer).partition]);
    assert_eq!(life.kept("other").await, None, "it says of all others that nothing is kept");
    drop(life);
    assert!(disk.damage(Keyspace::Hints, &hint_key(A, &place(&bad).stored)));
    disk.kill();
    let life = roomy(&disk);
    assert_eq!((life.replica.hints().owed(), life.replica.hints().unreadable()), (4, 2), "nobody knows what there was");
    assert_eq!(life.replica.hints().marked().len(), 8, "all partitions");
    let waiting: Vec<u64> = [A, B].iter().map(|target| life.replica.hints().waiting(*target).unwrap().owed).collect();
    assert_eq!(waiting, [1, 1], "what lies behind is known");
    assert!(life.kept(&good).await.is_some());
    let other = life.replica.kept(place("other"), MergeRules::default()).await;
    assert_eq!(other, Err(Fault::HintUnreadable), "who cannot tell does not say that there is nothing");
}

#[tokio::test]
async fn one_dot_with_two_values_is_counted_wherever_it_is_kept() {
    let disk = disk();
    let life = roomy(&disk);
    let clashes = || life.replica.inner.metrics.replica.dot_clashes.get();
    life.replica.keep_hint(life.keep("k", A, &record(1, 3))).await.unwrap();
    assert_eq!(clashes(), 0);
    life.replica.keep_hint(life.keep("k", A, &record(1, 4))).await.unwrap();
    assert_eq!(clashes(), 1, "in one record");
    life.replica.keep_hint(life.keep("k", B, &record(1, 5))).await.unwrap();
    assert_eq!(clashes(), 1);
    assert!(life.kept("k").await.is_some());
    assert_eq!(clashes(), 2, "between two");
}

/// A round waits for what is kept from before it, and from when it was asked on nothing older is kept: what an owner would
/// refuse is not acknowledged by who stands in for it.
#[tokio::test]
async fn what_is_kept_from_before_a_round_is_in_its_way_and_nothing_older_is_kept_after_it() {
    let disk = disk();
    let life = roomy(&disk);
    let partition = place("k").partition;
    life.replica.keep_hint(life.keep("k", A, &record(1, 3))).await.unwrap();
    assert_eq!(life.replica.drain(partition, Epoch(4)).await, Ok(true), "read under its epoch");
    assert_eq!(life.replica.drain(partition, Epoch(5)).await, Ok(false));
    let older = life.replica.keep_hint(life.keep("k", B, &record(2, 3))).await;
    assert!(matches!(older, Err(Fault::TooOld(_))), "{older:?}");
    let onto = life.replica.keep_hint(life.keep("k", A, &record(2, 3))).await;
    assert!(matches!(onto, Err(Fault::TooOld(_))), "{onto:?}");
    let minted = life.put_for("k", "w").await;
    assert_eq!(minted.epoch, Epoch(4), "as old as what it is on");
    assert_eq!(life.kept("k").await.unwrap().siblings().len(), 2, "nothing is lost by being asked");
    disk.crash(&Entropy::seeded(5));
    let life = roomy(&disk);
    assert_eq!(life.replica.drain(partition, Epoch(5)).await, Ok(false));
    let [(_, hint)] = &life.all(A).await[..] else { panic!("one hint") };
    life.end("k", hint.revision, HintEnd::Replayed).await;
    assert_eq!(life.replica.drain(partition, Epoch(5)).await, Ok(true), "it was handed off");
    assert_eq!(life.put_for("k", "x").await.epoch, Epoch(5), "on nothing that is older");
    assert_eq!(life.replica.drain(partition, Epoch(5)).await, Ok(true));
    let older = life.replica.keep_hint(life.keep("k", A, &record(2, 3))).await;
    assert!(matches!(older, Err(Fault::TooOld(_))), "after a crash too: {older:?}");
}

/// A directory that went back has forgotten what it drained. Until it has heard of the owners it keeps nothing for them; from
/// then on nothing is merged with what they refuse.
#[tokio::test]
async fn who_forgot_what_it_drained_stands_in_for_nobody_until_it_has_heard() {
    let disk = disk();
    let life = roomy(&disk);
    let partition = place("k").partition;
    life.replica.keep_hint(life.keep("k", A, &record(1, 3))).await.unwrap();
    life.replica.roll_back().await.unwrap();
    let mint = async |life: &Life| {
        let request = MintRequest { stands_for: Some(A), ..life.request("l", "v") };
        life.mint(request).await.map(|(coordinated, _)| coordinated)
    };
    assert_eq!(life.replica.keep_hint(life.keep("l", A, &record(1, 3))).await, Err(Fault::Syncing));
    disk.crash(&Entropy::seeded(5));
    let life = roomy(&disk);
    assert_eq!(life.replica.keep_hint(life.keep("l", A, &record(1, 3))).await, Err(Fault::Syncing), "it is remembered");
    assert!(mint(&life).await.is_err());
    life.replica.hear(partition, Epoch(5), Epoch(6)).await.unwrap();
    let doubt = life.replica.health().doubt(partition).unwrap();
    assert!(life.replica.mark_synced(partition, doubt).await.unwrap());
    let onto = KeepRequest { epoch: 7, ..life.keep("k", A, &record(2, 3)) };
    let onto = life.replica.keep_hint(onto).await;
    assert!(matches!(onto, Err(Fault::TooOld(_))), "no owner takes what is kept there: {onto:?}");
    let request = MintRequest { stands_for: Some(A), ..life.request("k", "w") };
    assert!(life.mint(request).await.is_err());
    let older = KeepRequest { epoch: 5, ..life.keep("k", B, &record(2, 3)) };
    assert!(matches!(life.replica.keep_hint(older).await, Err(Fault::TooOld(_))), "it may have been drained");
    let newer = KeepRequest { epoch: 6, ..life.keep("k", B, &record(2, 3)) };
    assert!(life.replica.keep_hint(newer).await.is_ok());
    assert_eq!(life.replica.drain(partition, Epoch(6)).await, Ok(false), "and it is in the way of the next round");
}

/// What the sender of a state knows to be sealed is known from then on.
#[tokio::test]
async fn who_stands_in_for_owners_hears_what_they_have_sealed() {
    let disk = disk();
    let life = roomy(&disk);
    let partition = place("k").partition;
    let told = KeepRequest { epoch: 9, sealed: Epoch(8), ..life.keep("k", A, &record(1, 3)) };
    life.replica.keep_hint(told).await.unwrap();
    disk.crash(&Entropy::seeded(5));
    let life = roomy(&disk);
    assert_eq!(life.replica.heard(partition), Epoch(8));
    let older = life.replica.keep_hint(life.keep("k", B, &record(2, 3))).await;
    assert!(matches!(older, Err(Fault::TooOld(_))), "{older:?}");
    assert_eq!(life.replica.sealed(partition), Epoch::FIRST, "it has sealed nothing itself");
}
