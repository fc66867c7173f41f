use proptest::prelude::*;

use super::*;
use crate::ring::chain::tests::{changed, founded, members};
use crate::ring::change::{Kind, NotNow, abort, judge_successor};
use crate::ring::layout::tests::member;
use crate::ring::operations::{BucketChange, bucket_changes, owners_change};
use crate::ring::{Chain, Grid, planner};

fn name(text: &str) -> Bucket {
    Bucket::new(text).unwrap()
}

fn wanted(n: u8) -> Wanted {
    Wanted { n, n_in_region: Vec::new(), mode: Mode::Siblings, role: Role::Store }
}

fn created(chain: &Chain, bucket: &str, n: u8) -> Layout {
    set(chain.newest(), &name(bucket), &wanted(n)).unwrap().unwrap()
}

#[test]
fn a_bucket_is_created_changed_emptied_deleted_and_made_anew() {
    let (mut chain, b) = (founded(&[1, 2, 3]), name("b"));
    assert!(!chain.newest().settings(&b).is_configured());
    chain.push(created(&chain, "b", 2)).unwrap();
    let first = chain.newest().settings(&b).clone();
    assert_eq!((first.id, first.generation, first.n), (2, 0, 2), "what was written before becomes its own");
    assert!(first.is_configured() && !first.only_remembers());
    assert_eq!(set(chain.newest(), &b, &wanted(2)), Ok(None), "it is so already");

    chain.push(created(&chain, "b", 5)).unwrap();
    assert_eq!(chain.newest().settings(&b), &BucketSettings { n: 5, ..first.clone() });
    chain.push(purge(chain.newest(), &b).unwrap()).unwrap();
    assert_eq!(chain.newest().settings(&b), &BucketSettings { n: 5, generation: 1, ..first });
    chain.push(delete(chain.newest(), &b).unwrap()).unwrap();
    let gone = chain.newest().settings(&b).clone();
    assert_eq!((gone.generation, gone.n), (2, 3), "it has the cluster's defaults, and remembers");
    assert!(gone.only_remembers() && !gone.is_configured());
    assert_eq!(delete(chain.newest(), &b), Err(BucketError::NotConfigured(b.clone())));

    let lww = Wanted { mode: Mode::Lww, ..wanted(3) };
    chain.push(set(chain.newest(), &b, &lww).unwrap().unwrap()).unwrap();
    let anew = chain.newest().settings(&b);
    assert_eq!((anew.id, anew.generation, anew.mode), (6, 2, Mode::Lww), "another one");
}

#[test]
fn what_becomes_of_buckets_is_told_by_name() {
    let mut chain = founded(&[1, 2, 3]);
    let mut told = |next: Layout| {
        let before = chain.newest().clone();
        assert!(!owners_change(&before, &next), "a bucket moves no partition");
        chain.push(next.clone()).unwrap();
        let changes = bucket_changes(&before, &next).into_iter();
        (changes.map(|(bucket, change)| (bucket.to_string(), change)).collect::<Vec<_>>(), next)
    };
    let first = founded(&[1, 2, 3]);
    let b = |change| ("b".to_owned(), change);
    let n = |from: &str, to: &str| b(BucketChange::Replicas { from: from.into(), to: to.into() });
    let (changes, layout) = told(created(&first, "b", 5));
    assert_eq!(changes, [b(BucketChange::Configured), n("3", "5")]);
    let by_region = Wanted { n_in_region: vec![(layout.regions().next().unwrap().to_owned(), 1)], ..wanted(2) };
    let (changes, layout) = told(set(&layout, &name("b"), &by_region).unwrap().unwrap());
    let region = layout.regions().next().unwrap();
    assert_eq!(changes, [n("5", &format!("2 ({region} 1)"))]);
    let (changes, layout) = told(purge(&layout, &name("b")).unwrap());
    assert_eq!(changes, [b(BucketChange::Emptied)]);
    let (changes, layout) = told(delete(&layout, &name("b")).unwrap());
    assert_eq!(changes[0], b(BucketChange::Deleted));
    let (changes, layout) = told(purge(&layout, &name("c")).unwrap());
    assert_eq!(changes, [("c".to_owned(), BucketChange::Emptied)]);
    let wider = planner::plan(&layout, members(&[1, 2, 3, 4])).unwrap();
    assert!(owners_change(&layout, &wider));
    assert_eq!(bucket_changes(&layout, &wider), []);
}

#[test]
fn a_name_that_was_never_configured_is_emptied_as_well() {
    let (mut chain, b) = (founded(&[1, 2, 3]), name("b"));
    chain.push(purge(chain.newest(), &b).unwrap()).unwrap();
    let settings = chain.newest().settings(&b);
    assert!(settings.only_remembers());
    assert_eq!((settings.generation, settings.n), (1, 3));
    chain.push(purge(chain.newest(), &b).unwrap()).unwrap();
    assert_eq!(chain.newest().settings(&b).generation, 2);
}

#[test]
fn what_cannot_be_says_what_would_be_right() {
    let region = |number, region| member(number, region, "", 1);
    let members = vec![region(1, "eu"), region(2, "eu"), region(3, "us")];
    let layout = planner::found("test", Grid::new(4).unwrap(), 5, BucketSettings::default(), members).unwrap();
    let says = |wanted: Wanted, why: &str| {
        let error = set(&layout, &name("b"), &wanted).expect_err(why).to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    };
    let regions = |of: &[(&str, u8)]| Wanted {
        n_in_region: of.iter().map(|(region, n)| ((*region).to_owned(), *n)).collect(),
        ..wanted(3)
    };
    says(wanted(0), "n is 1 to 5, the longest owner list of this cluster, got 0");
    says(wanted(6), "n is 1 to 5");
    says(regions(&[("eu", 6)]), "regions: eu is 0 to 5");
    says(regions(&[("mars", 1)]), "no member stands in \"mars\"; there are eu, us");
    says(regions(&[("eu", 1), ("eu", 2)]), "\"eu\" is named twice");
    says(regions(&[("eu", 0), ("us", 0)]), "no region holds a replica");
    let right = set(&layout, &name("b"), &regions(&[("us", 1), ("eu", 0)])).unwrap().unwrap();
    assert_eq!(right.settings(&name("b")).n_in_region, [("eu".to_owned(), 0), ("us".to_owned(), 1)]);
    assert_eq!(right.settings(&name("b")).replicas_in(&right), 1);

    let other = |mode, role| set(&right, &name("b"), &Wanted { mode, role, ..wanted(3) }).unwrap_err().to_string();
    assert!(other(Mode::Lww, Role::Store).contains("mode is fixed when a bucket is created, and b is siblings"));
    assert!(other(Mode::Siblings, Role::Cache).contains("role is fixed when a bucket is created, and b is a store"));
}

#[test]
fn names_are_bounded_and_those_that_are_known_can_still_be_changed() {
    let mut spec = founded(&[1, 2, 3]).newest().spec().clone();
    for at in 1..=BUCKETS_MAX as u64 {
        spec.buckets.insert(name(&format!("b{at}")), BucketSettings { id: at, ..BucketSettings::default() });
    }
    let full = Layout::new(spec).unwrap();
    assert_eq!(set(&full, &name("one-more"), &wanted(3)), Err(BucketError::TooMany));
    assert_eq!(purge(&full, &name("one-more")), Err(BucketError::TooMany));
    assert!(set(&full, &name("b7"), &wanted(2)).unwrap().is_some() && delete(&full, &name("b7")).is_ok());
}

#[test]
fn another_n_adds_or_takes_holders_and_moves_nothing() {
    let mut chain = founded(&[1, 2, 3, 4, 5]);
    let b = name("b");
    for n in [3, 5, 2, 4, 1] {
        let before = chain.newest().clone();
        chain.push(created(&chain, "b", n)).unwrap();
        let after = chain.newest();
        assert_eq!(after.spec().regions, before.spec().regions, "the lists stay");
        for partition in after.grid().partitions() {
            let owners = |layout: &Layout| layout.preference_list("home", partition, layout.settings(&b));
            let (old, new) = (owners(&before), owners(after));
            assert_eq!(new.len(), usize::from(n));
            assert!(new.starts_with(&old) || old.starts_with(&new), "{old:?} {new:?}");
            assert_eq!(after.settings(&name("other")), before.settings(&name("other")));
        }
    }
}

#[test]
fn one_change_at_a_time_and_an_abort_gives_n_back_but_no_generation() {
    let (mut chain, b) = (founded(&[1, 2, 3]), name("b"));
    chain.push(created(&chain, "b", 2)).unwrap();
    chain.drop_before(2);
    assert_eq!(judge_successor(&chain, true, &created(&chain, "b", 3)), Ok(Kind::Change));
    let mut next = purge(chain.newest(), &b).unwrap().spec().clone();
    next.buckets.get_mut(&b).unwrap().n = 3;
    chain.push(Layout::new(next).unwrap()).unwrap();
    let another = created(&chain, "c", 3);
    assert_eq!(judge_successor(&chain, false, &another), Err(NotNow::Unfinished { unfinished: 3 }));
    let back = abort(&chain, &[].into()).unwrap();
    assert_eq!(judge_successor(&chain, false, &back), Ok(Kind::Abort));
    let settings = back.settings(&b);
    assert_eq!((settings.n, settings.generation), (2, 1), "what was emptied stays empty");
}

/// A bucket that is made or deleted may change where its name's objects lie, too: that must not be what nobody can abort.
#[test]
fn also_the_n_of_a_bucket_that_was_made_or_deleted_meanwhile_is_given_back() {
    let (mut chain, b) = (founded(&[1, 2, 3, 4, 5]), name("b"));
    chain.push(created(&chain, "b", 5)).unwrap();
    let back = abort(&chain, &[].into()).unwrap();
    assert_eq!(judge_successor(&chain, false, &back), Ok(Kind::Abort));
    assert!(back.settings(&b).is_configured());
    assert_eq!(back.settings(&b).n, 3, "as the name's was");
    chain.drop_before(2);
    chain.push(delete(chain.newest(), &b).unwrap()).unwrap();
    let back = abort(&chain, &[].into()).unwrap();
    assert_eq!(judge_successor(&chain, false, &back), Ok(Kind::Abort));
    let settings = back.settings(&b);
    assert_eq!((settings.n, settings.generation, settings.only_remembers()), (5, 1, true), "and it stays deleted");
}

#[test]
fn no_layout_forgets_a_generation() {
    let (mut chain, b) = (founded(&[1, 2, 3]), name("b"));
    chain.push(created(&chain, "b", 3)).unwrap();
    let gone = changed(&chain, |spec| drop(spec.buckets.remove(&b)));
    assert_eq!(chain.follows(&gone), Ok(()), "nothing is forgotten with it");
    chain.push(purge(chain.newest(), &b).unwrap()).unwrap();
    let refused = |chain: &Chain, next: Layout| {
        let error = chain.follows(&next).expect_err("a generation fell").to_string();
        assert!(error.contains("a generation never goes back"), "{error}");
    };
    refused(&chain, changed(&chain, |spec| drop(spec.buckets.remove(&b))));
    refused(&chain, changed(&chain, |spec| spec.buckets.get_mut(&b).unwrap().generation = 0));
    let raised = changed(&chain, |spec| spec.default_bucket.generation = 7);
    assert_eq!(chain.follows(&raised), Ok(()));
    chain.push(raised).unwrap();
    let lower = BucketSettings { id: 99, ..BucketSettings::default() };
    refused(&chain, changed(&chain, |spec| drop(spec.buckets.insert(name("new"), lower))));
}

/// What may happen to a bucket, or around it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Set(u8, bool),
    Purge,
    Delete,
    Members(bool),
    Abort,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u8..6, any::<bool>()).prop_map(|(n, lww)| Step::Set(n, lww)),
        Just(Step::Purge),
        Just(Step::Delete),
        any::<bool>().prop_map(Step::Members),
        Just(Step::Abort),
    ]
}

proptest! {
    /// A stored key is (partition, bucket, generation, key). Objects written under one life of a name can be read as
    /// long as its generation is the same; once a purge or delete has ended it, no later layout ever has that
    /// generation for that name again.
    #[test]
    fn a_generation_that_has_ended_is_never_read_again(
        steps in proptest::collection::vec((0usize..2, step()), 1..24),
    ) {
        let names = [name("a"), name("b")];
        let mut chain = founded(&[1, 2, 3]);
        let mut ended: [std::collections::BTreeSet<u64>; 2] = Default::default();
        for (at, step) in steps {
            let newest = chain.newest().clone();
            let bucket = &names[at];
            let before = newest.settings(bucket).generation;
            let next = match step {
                Step::Set(n, lww) => {
                    let mode = if lww { Mode::Lww } else { Mode::Siblings };
                    set(&newest, bucket, &Wanted { mode, ..wanted(n) }).ok().flatten()
                }
                Step::Purge => Some(purge(&newest, bucket).unwrap()),
                Step::Delete => delete(&newest, bucket).ok(),
                Step::Members(four) => {
                    let numbers: &[u128] = if four { &[1, 2, 3, 4] } else { &[1, 2, 3] };
                    // A member that left has ended: it cannot come back with its store.
                    planner::plan(&newest, members(numbers)).ok().filter(|next| chain.follows(next).is_ok())
                }
                Step::Abort => abort(&chain, &[].into()).ok(),
            };
            let Some(next) = next else { continue };
            chain.push(next).unwrap();
            if matches!(step, Step::Purge | Step::Delete) {
                ended[at].insert(before);
            }
            // Now and then all of it is complete, and the older layouts are forgotten.
            if matches!(step, Step::Set(..)) {
                chain.drop_before(chain.newest().version());
            }
            for (bucket, ended) in names.iter().zip(&ended) {
                let settings = chain.newest().settings(bucket);
                prop_assert!(!ended.contains(&settings.generation), "{bucket}: {settings:?} after {ended:?}");
                prop_assert!(ended.iter().all(|old| *old < settings.generation));
            }
            let ids: std::collections::BTreeSet<u64> =
                chain.newest().spec().buckets.values().map(|settings| settings.id).collect();
            prop_assert_eq!(ids.len(), chain.newest().spec().buckets.len(), "an id names one bucket");
        }
    }
}
