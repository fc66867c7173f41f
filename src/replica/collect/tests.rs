//! Rounds on a memory disk: each step is durable once it is answered, and does to objects what it says.

use super::super::audit;
use super::super::tests::{Life, disk, live, live_but, place};
use super::super::{Cause, MergeRequest};
use super::*;
use crate::causality::{MergeRules, Payload, Supersedes, Write};
use crate::collect::Stage;
use crate::env::Entropy;
use crate::ring::Grid;

const LAYOUT: u64 = 3;

impl Life {
    async fn delete(&self, key: &str) -> Object {
        let mut request = self.request(key, "");
        request.write = Write { payload: Payload::default(), supersedes: Supersedes::Seen, request: None };
        let mut minting = self.replica.mint(request).unwrap();
        let minted = minting.minted().await.unwrap().object;
        minting.durable().await.unwrap();
        minted
    }

    async fn arrives(&self, key: &str, object: &Object, epoch: Epoch) -> Result<bool, Fault> {
        self.arrives_as(Cause::Repair, key, object, epoch).await
    }

    async fn arrives_as(&self, cause: Cause, key: &str, object: &Object, epoch: Epoch) -> Result<bool, Fault> {
        let (place, record, rules) = (place(key), encode_object(object), MergeRules::default());
        self.replica.merge(MergeRequest { place, record, rules, class: 3, flush: false, cause, epoch }).await
    }

    /// A round that lists these keys of one partition.
    fn round(&self, keys: &[&str], number: u64, after: Vec<RoundId>) -> Round {
        let listed = keys.iter().map(|key| {
            let stored = place(key).stored;
            let record = self.replica.storage().get(Keyspace::Objects, &stored).unwrap().unwrap();
            let dots = decode_object(record.clone()).unwrap().siblings().iter().map(|sibling| sibling.dot).collect();
            Listed { stored, digest: digest_of_record(&record), dots }
        });
        Round::new(Epoch(LAYOUT << 32 | number), number, listed.collect(), after)
    }

    async fn marks(&self, key: &str, round: &Round) -> Result<(), NotMarked> {
        self.replica.mark(place(key).partition, round.clone(), Some(LAYOUT), Arc::new(|_| true)).await.unwrap()
    }

    fn stage(&self, key: &str, round: &Round) -> Option<Stage> {
        self.replica.rounds(place(key).partition).rounds.get(&round.id()).copied()
    }

    fn is_exact(&self) {
        let audit = audit(&**self.replica.storage(), Grid::new(8).unwrap()).unwrap();
        assert_eq!(audit.wrong, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_round_removes_what_it_lists_and_nothing_older_comes_back() {
    let life = live(&disk());
    let partition = place("k").partition;
    let before = life.put("k", "v").await;
    assert_eq!(before.epoch, Epoch::FIRST);
    let deleted = life.delete("k").await;
    let round = life.round(&["k"], 1, Vec::new());
    life.marks("k", &round).await.unwrap();
    assert_eq!(life.replica.epoch(partition), round.id().epoch);
    assert_eq!(life.arrives("k", &before.object, Epoch::FIRST).await, Ok(true), "it is covered");
    life.replica.drain(partition, round.id().epoch).await.unwrap();
    life.replica.seal(partition, round.id()).await.unwrap().unwrap();
    assert_eq!(life.replica.sealed(partition), round.id().epoch);
    assert_eq!(life.object("k").await, Some(deleted.clone()), "whoever mends a damaged copy has it from here");
    let refused = life.arrives("k", &before.object, Epoch::FIRST).await;
    assert!(matches!(refused, Err(Fault::TooOld(_))), "{refused:?}");
    assert_eq!(life.replica.drop_round(partition, round.id()).await.unwrap(), Ok(1));
    assert_eq!(life.replica.drop_round(partition, round.id()).await.unwrap(), Ok(0), "asked twice");
    assert_eq!(life.object("k").await, None);
    assert_eq!(life.replica.storage().get(Keyspace::Objects, &place("k").stored).unwrap(), None);
    life.is_exact();
    assert_eq!(life.arrives("k", &deleted, round.id().epoch).await, Ok(true));
    assert_eq!(life.replica.storage().get(Keyspace::Objects, &place("k").stored).unwrap(), None, "it is taken out");
    let next = life.put("k", "w").await;
    assert!(next.dot.stamp > deleted.greatest_stamp().unwrap(), "above all that was covered");
    assert_eq!(next.epoch, round.id().epoch);
    assert_eq!(life.object("k").await, Some(next.object));
    life.is_exact();
}

#[tokio::test]
async fn every_step_survives_a_power_cut() {
    let disk = disk();
    let partition = place("k").partition;
    let mut life = live(&disk);
    life.put("k", "v").await;
    life.delete("k").await;
    let round = life.round(&["k"], 1, Vec::new());
    for (step, stage) in [Stage::Marked, Stage::Sealed, Stage::Dropped].into_iter().enumerate() {
        match stage {
            Stage::Marked => life.marks("k", &round).await.unwrap(),
            Stage::Sealed => life.replica.seal(partition, round.id()).await.unwrap().unwrap(),
            Stage::Dropped => assert_eq!(life.replica.drop_round(partition, round.id()).await.unwrap(), Ok(1)),
        }
        disk.crash(&Entropy::seeded(step as u64));
        life = live(&disk);
        assert_eq!(life.stage("k", &round), Some(stage));
        assert_eq!(life.replica.epoch(partition), round.id().epoch);
        life.is_exact();
    }
    assert!(life.put("k", "w").await.object.siblings().len() == 1);
}

#[tokio::test]
async fn what_is_no_deletion_or_not_the_one_that_is_listed_is_not_marked() {
    let life = live(&disk());
    life.put("k", "v").await;
    let value = life.round(&["k"], 1, Vec::new());
    assert_eq!(life.marks("k", &value).await, Err(NotMarked::Differs(vec![place("k").stored])));
    life.delete("k").await;
    assert_eq!(life.marks("k", &value).await, Err(NotMarked::Differs(vec![place("k").stored])));
    let deletion = life.round(&["k"], 1, Vec::new());
    life.put("k", "w").await;
    assert_eq!(life.marks("k", &deletion).await, Err(NotMarked::Differs(vec![place("k").stored])));
    let partition = place("k").partition;
    assert_eq!(life.replica.epoch(partition), Epoch::FIRST);
    assert_eq!(life.replica.seal(partition, deletion.id()).await.unwrap(), Err(NoSuchRound));
    assert_eq!(life.replica.drop_round(partition, deletion.id()).await.unwrap(), Err(NoSuchRound));
}

#[tokio::test]
async fn a_write_after_the_mark_keeps_its_context_and_loses_the_deletion() {
    let life = live(&disk());
    let partition = place("k").partition;
    life.put("k", "v").await;
    let deleted = life.delete("k").await;
    let round = life.round(&["k"], 1, Vec::new());
    life.marks("k", &round).await.unwrap();
    // Of somebody who was told "not found": beside the deletion.
    let mut request = life.request("k", "w");
    request.write.supersedes = Supersedes::Covered(crate::causality::VersionVector::new());
    let mut minting = life.replica.mint(request).unwrap();
    let beside = minting.minted().await.unwrap();
    minting.durable().await.unwrap();
    assert_eq!(beside.object.siblings().len(), 2);
    life.replica.seal(partition, round.id()).await.unwrap().unwrap();
    assert_eq!(life.object("k").await, Some(beside.object.clone()));
    life.replica.drop_round(partition, round.id()).await.unwrap().unwrap();
    let sent = life.object("k").await.unwrap();
    assert_eq!((sent.siblings().len(), sent.context()), (1, beside.object.context()));
    assert!(life.object("k").await.unwrap().context().covers_all(deleted.context()));
    life.is_exact();
}

#[tokio::test]
async fn a_new_store_learns_what_is_taken_out_and_inherits_no_mark() {
    let (old, new) = (live(&disk()), live(&disk()));
    let partition = place("k").partition;
    let value = old.put("k", "v").await;
    let deleted = old.delete("k").await;
    let round = old.round(&["k"], 1, Vec::new());
    old.marks("k", &round).await.unwrap();
    old.replica.seal(partition, round.id()).await.unwrap().unwrap();
    assert_eq!(old.replica.lesson(partition), None, "a round waits to be finished");
    old.replica.close_rounds(LAYOUT).await.unwrap();
    assert_eq!(old.stage("k", &round), Some(Stage::Sealed), "who has sealed a round does not abandon it");
    old.replica.drop_round(partition, round.id()).await.unwrap().unwrap();
    let next = old.round(&[], 2, Vec::new());
    old.marks("k", &next).await.unwrap();
    old.replica.close_rounds(LAYOUT + 1).await.unwrap();
    assert_eq!(old.stage("k", &next), None);
    let late = old.round(&[], 3, Vec::new());
    assert_eq!(old.marks("k", &late).await, Err(NotMarked::OtherLayout(LAYOUT)), "nor is another one marked");
    new.replica.begins_under(LAYOUT + 1);
    new.replica.learn(partition, old.replica.lesson(partition).unwrap()).await.unwrap();
    assert_eq!(new.replica.epoch(partition), Epoch::of_layout(LAYOUT + 1), "it owns it since then");
    assert!(matches!(new.arrives("k", &value.object, Epoch::FIRST).await, Err(Fault::TooOld(_))));
    assert_eq!(new.arrives("k", &deleted, round.id().epoch).await, Ok(true));
    assert_eq!(new.object("k").await, None);
}

#[tokio::test]
async fn a_damaged_book_stops_the_start() {
    let disk = disk();
    let life = live(&disk);
    life.put("k", "v").await;
    life.delete("k").await;
    life.marks("k", &life.round(&["k"], 1, Vec::new())).await.unwrap();
    let mut batch = Batch::new();
    batch.put(Keyspace::Meta, partition_key(COLLECT, place("k").partition), vec![1, 2, 3]);
    life.replica.storage().commit(batch, Durability::Flush).unwrap();
    assert!(matches!(Books::open(&**life.replica.storage(), 8), Err(StorageError::Io(_))));
}

#[tokio::test]
async fn a_layout_is_read_under_its_first_epoch_and_what_it_gives_takes_nothing_older() {
    let life = live(&disk());
    let partition = place("k").partition;
    let object = live(&disk()).put("k", "v").await.object;
    life.replica.follow_layout(4, [partition].into());
    assert_eq!(life.replica.epoch(partition), Epoch::of_layout(4));
    assert_eq!(life.replica.sealed(partition), Epoch::FIRST, "nothing is collected here");
    let older = Epoch(3 << 32 | 9);
    assert!(matches!(life.arrives("k", &object, older).await, Err(Fault::TooOld(_))));
    assert_eq!(life.arrives("k", &object, Epoch::of_layout(4)).await, Ok(true));
    life.replica.follow_layout(4, BTreeSet::new());
    assert_eq!(life.arrives("k", &object, older).await, Ok(true), "it has merged what there was");
}

#[tokio::test]
async fn an_owner_that_forgot_its_mark_starts_over() {
    let (whole, behind) = (live(&disk()), live(&disk()));
    let partition = place("k").partition;
    let value = behind.put("k", "v").await;
    whole.arrives("k", &value.object, Epoch::FIRST).await.unwrap();
    whole.delete("k").await;
    let round = whole.round(&["k"], 1, Vec::new());
    whole.marks("k", &round).await.unwrap();
    whole.replica.seal(partition, round.id()).await.unwrap().unwrap();
    whole.replica.drop_round(partition, round.id()).await.unwrap().unwrap();
    let sealed = whole.replica.sealed(partition);
    assert!(behind.replica.is_behind(partition, sealed) && !whole.replica.is_behind(partition, sealed));
    let actor = value.dot.actor;
    let lesson = whole.replica.lesson(partition).unwrap();
    assert_eq!(behind.replica.learn(partition, lesson).await, Err(Fault::Syncing), "it would seem to remember");
    assert!(behind.replica.is_behind(partition, sealed));
    let before = behind.replica.health().doubt(partition).expect("it has no vote any more");
    assert_eq!(
        behind
            .replica
            .start_over(partition, whole.replica.lesson(partition).unwrap(), sealed, Arc::new(|_| true))
            .await,
        Ok(1)
    );
    assert!(!behind.replica.health().is_synced(partition) && !behind.replica.is_behind(partition, sealed));
    assert!(!behind.replica.mark_synced(partition, before).await.unwrap(), "what was merged before went as well");
    let doubt = behind.replica.health().doubt(partition).unwrap();
    assert!(behind.replica.mark_synced(partition, doubt).await.unwrap());
    assert_eq!(behind.object("k").await, None);
    assert_ne!(behind.put("k", "w").await.dot.actor, actor, "under a new tenure");
    behind.is_exact();
}

/// Two owners of a value that one of them has deleted, and collected, since the other's directory was copied.
async fn behind(behind: &Life) -> (Lesson, Epoch) {
    let whole = live(&disk());
    let value = behind.put("k", "v").await;
    whole.arrives("k", &value.object, Epoch::FIRST).await.unwrap();
    whole.delete("k").await;
    let (partition, round) = (place("k").partition, whole.round(&["k"], 1, Vec::new()));
    whole.marks("k", &round).await.unwrap();
    whole.replica.seal(partition, round.id()).await.unwrap().unwrap();
    whole.replica.drop_round(partition, round.id()).await.unwrap().unwrap();
    (whole.replica.lesson(partition).unwrap(), whole.replica.sealed(partition))
}

#[tokio::test]
async fn who_starts_over_refuses_what_was_collected_before_it_gives_anything_up() {
    for broken in ["nothing", "who starts over refuses first what was collected"] {
        let life = live_but(&disk(), broken);
        let (partition, (lesson, sealed)) = (place("k").partition, behind(&life).await);
        let (replica, refused) = (life.replica.clone(), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&refused);
        // It is asked of each key, as that is about to go.
        let shared: OfBucket<bool> = Arc::new(move |_| {
            assert!(replica.is_behind(partition, sealed), "a crash would leave it as much behind");
            seen.store(replica.sealed(partition) == sealed, Ordering::Release);
            true
        });
        assert_eq!(life.replica.start_over(partition, lesson, sealed, shared).await, Ok(1));
        assert_eq!(refused.load(Ordering::Acquire), broken == "nothing");
        assert_eq!(life.replica.sealed(partition), sealed);
    }
}

#[tokio::test]
async fn rules_of_who_is_behind_and_what_they_are_for() {
    let partition = place("k").partition;
    let life = live_but(&disk(), "who is behind does not learn");
    let (lesson, sealed) = behind(&life).await;
    life.replica.learn(partition, lesson).await.unwrap();
    assert!(!life.replica.is_behind(partition, sealed), "it seems to remember");
    assert!(life.object("k").await.is_some(), "... what was deleted");

    let life = live_but(&disk(), "who starts over is marked once more");
    let (lesson, _) = behind(&life).await;
    life.replica.distrust(partition).await.unwrap();
    let doubt = life.replica.health().doubt(partition).unwrap();
    life.replica.start_over(partition, lesson, Epoch::FIRST, Arc::new(|_| true)).await.unwrap();
    assert!(life.replica.mark_synced(partition, doubt).await.unwrap(), "what was merged before counts, and is gone");

    let life = live_but(&disk(), "what is sealed is held");
    life.put("k", "v").await;
    life.delete("k").await;
    let round = life.round(&["k"], 1, Vec::new());
    life.marks("k", &round).await.unwrap();
    life.replica.suspect(place("k")).await;
    assert_eq!(life.replica.seal(partition, round.id()).await, Ok(Ok(())), "nobody knows what it holds");
}

/// A power cut takes no book along: what such an owner reads, and teaches, is as new as it was.
#[tokio::test]
async fn who_is_unsynced_without_having_gone_back_goes_on_teaching() {
    let life = live(&disk());
    let partition = place("k").partition;
    life.replica.follow_layout(4, [partition].into());
    let object = live(&disk()).put("k", "v").await.object;
    life.replica.health().mark_unsynced(&**life.replica.storage(), &[partition], Batch::new()).unwrap();
    assert_eq!(life.replica.epoch(partition), Epoch::of_layout(4));
    assert!(life.replica.lesson(partition).is_some());
    life.replica.distrust(partition).await.unwrap();
    assert_eq!(life.replica.epoch(partition), Epoch::FIRST, "it went back after all");
    assert_eq!(life.replica.lesson(partition), None);
    // Of another one that went back as well: whoever has asked all what they have sealed takes it.
    let older = Epoch(3 << 32);
    assert!(matches!(life.arrives("k", &object, older).await, Err(Fault::TooOld(_))));
    assert_eq!(life.arrives_as(Cause::Anew, "k", &object, older).await, Ok(true));
    life.replica.begin_anew(partition, 4).await.unwrap();
    life.replica.refuse_before(partition, Epoch(3 << 32 | 7)).await.unwrap();
    for cause in [Cause::Repair, Cause::Anew, Cause::Mend] {
        let refused = life.arrives_as(cause, "k", &object, older).await;
        assert!(matches!(refused, Err(Fault::TooOld(_))), "what an owner has sealed is refused");
    }
}

#[tokio::test]
async fn what_was_lost_since_the_mark_is_merged_before_the_seal() {
    let life = live(&disk());
    let partition = place("k").partition;
    life.put("k", "v").await;
    life.delete("k").await;
    let round = life.round(&["k"], 1, Vec::new());
    life.marks("k", &round).await.unwrap();
    life.replica.suspect(place("k")).await;
    assert_eq!(life.replica.seal(partition, round.id()).await, Err(Fault::Damaged));
    let nothing = life.round(&[], 2, Vec::new());
    life.marks("k", &nothing).await.unwrap();
    assert_eq!(life.replica.seal(partition, nothing.id()).await, Ok(Ok(())), "which lists no such key");
    life.replica.distrust(partition).await.unwrap();
    assert_eq!(life.replica.seal(partition, round.id()).await, Err(Fault::Syncing));
    assert_eq!(life.replica.seal(partition, nothing.id()).await, Ok(Ok(())), "it is sealed already");
}

/// What an old directory holds is no newer for the layouts that its node has heard of since.
#[tokio::test]
async fn knowing_a_newer_layout_hides_no_forgotten_mark_and_owning_since_one_owes_none() {
    let disk = disk();
    let life = live(&disk);
    let partition = place("k").partition;
    let sealed = Epoch(LAYOUT << 32 | 1);
    life.replica.follow_layout(LAYOUT + 1, BTreeSet::new());
    assert_eq!(life.replica.epoch(partition), Epoch::of_layout(LAYOUT + 1));
    assert!(life.replica.is_behind(partition, sealed));
    assert_eq!(life.replica.leftover_epoch(partition), Epoch::FIRST, "its owners refuse what is left over here");
    life.replica.distrust(partition).await.unwrap();
    assert_eq!(life.replica.epoch(partition), Epoch::FIRST);
    assert_eq!(life.replica.lesson(partition), None, "and nobody who gains the partition copies from here");
    life.replica.begin_anew(partition, LAYOUT + 1).await.unwrap();
    assert!(!life.replica.is_behind(partition, sealed), "it is owned since then");
    let other = PartitionId((partition.0 + 1) % 8);
    assert!(life.replica.is_behind(other, sealed));
    let since = life.replica.begins_under(LAYOUT + 1);
    life.replica.remember(vec![since]).await.unwrap();
    assert!(!life.replica.is_behind(other, sealed), "nothing here is older than that layout");
    disk.crash(&Entropy::seeded(5));
    let life = live(&disk);
    assert!(!life.replica.is_behind(partition, sealed) && !life.replica.is_behind(other, sealed), "it is remembered");
    assert!(life.replica.is_behind(partition, Epoch((LAYOUT + 1) << 32 | 1)));
}

#[tokio::test]
async fn an_owner_of_the_partition_that_owns_no_such_bucket_marks_what_it_does_not_hold() {
    let (owner, other) = (live(&disk()), live(&disk()));
    let partition = place("k").partition;
    owner.put("k", "v").await;
    owner.delete("k").await;
    let round = owner.round(&["k"], 1, Vec::new());
    let marks = |owns: bool| other.replica.mark(partition, round.clone(), Some(LAYOUT), Arc::new(move |_| owns));
    assert_eq!(marks(true).await.unwrap(), Err(NotMarked::Differs(vec![place("k").stored])));
    assert_eq!(marks(false).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn deletions_are_found_by_the_index_and_told_by_their_age() {
    let life = live(&disk());
    for key in ["a", "b", "c"] {
        life.put(key, "v").await;
    }
    life.delete("b").await;
    let partition = place("b").partition;
    let entry = |key: &str| life.replica.storage().get(Keyspace::Index, &place(key).stored).unwrap().unwrap();
    assert!(may_be_deletion(&entry("b")) && !may_be_deletion(&entry("a")));
    let found = |before| life.replica.deletions(partition, Bytes::new(), before, Arc::new(|_| true));
    let all = found(Wall(u64::MAX)).await.unwrap();
    assert_eq!(all.ripe.iter().map(|listed| &listed.stored).collect::<Vec<_>>(), [&place("b").stored]);
    let others = life.replica.deletions(partition, Bytes::new(), Wall(u64::MAX), Arc::new(|_| false));
    assert_eq!(
        others.await.unwrap(),
        Deletions { others: true, ..Deletions::default() },
        "of buckets that another owner drives"
    );
    assert_eq!(found(Wall(0)).await.unwrap(), Deletions { young: 1, ..Deletions::default() });
    assert!(life.replica.may_hold_deletions(partition));
    life.replica.looks_for_deletions(partition);
    assert!(!life.replica.may_hold_deletions(partition));
    life.put("b", "w").await;
    assert!(!life.replica.may_hold_deletions(partition), "a value is none");
    life.delete("b").await;
    assert!(life.replica.may_hold_deletions(partition));
}
