//! What a plan means to people: who changes, what moves, how full everybody and every zone is before and after.

use std::collections::{BTreeMap, BTreeSet};

use super::figures;
use crate::ring::report::FiguresAtN;
use crate::ring::{BucketSettings, Layout, Member, RegionOwners};
use crate::types::{Bucket, PartitionId, StoreId};

/// What becomes of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It becomes one.
    Joins,
    /// It becomes one, in the place of this one.
    Replaces(String),
    /// It gives up all it owns, and is left out then.
    Leaves,
    /// It was leaving, and stays.
    Stays,
    /// It has left, and is left out.
    LeftOut,
    /// It is left out while it owns something, dead for good.
    Removed,
    /// The same, and this one takes its places.
    ReplacedBy(String),
    /// Its share changes.
    Weight {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// Its zone changes.
    Zone {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// Its region changes.
    Region {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
}

/// What becomes of a bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BucketChange {
    /// It has settings of its own from now on.
    Configured,
    /// It has other numbers of replicas.
    Replicas {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
    /// Nothing that was written to it before is read again.
    Emptied,
    /// The same, and it has the cluster's defaults again.
    Deleted,
}

/// One member before and after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRow {
    /// The member, as it will be; as it was, where it is left out.
    pub member: Member,
    /// What becomes of it; nothing, mostly.
    pub changes: Vec<Change>,
    /// Partitions it owned.
    pub before: usize,
    /// Partitions it will own.
    pub after: usize,
    /// Partitions it did not own before: what is copied to it.
    pub gains: usize,
    /// About how many bytes these are; none where that is not known.
    pub bytes: Option<u64>,
}

/// Partitions that pass from one member to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Who gives them up; none where lists grow.
    pub from: Option<StoreId>,
    /// Who gets them.
    pub to: StoreId,
    /// How many.
    pub partitions: usize,
}

/// One zone before and after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneRow {
    /// The region it lies in.
    pub region: String,
    /// Its label.
    pub zone: String,
    /// Members that stay there.
    pub members: usize,
    /// Replicas there.
    pub before: usize,
    /// Replicas there afterwards.
    pub after: usize,
}

/// What a plan comes to. Counted with the most replicas that any bucket asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// That many replicas, per region at most.
    pub n: u8,
    /// Everybody who is or will be a member, by name.
    pub members: Vec<MemberRow>,
    /// What passes from whom to whom.
    pub moved: Vec<Moved>,
    /// The zones.
    pub zones: Vec<ZoneRow>,
    /// Replicas that are copied.
    pub copied: usize,
    /// About how many bytes these are; none where that is not known.
    pub bytes: Option<u64>,
    /// How well placed all was.
    pub before: Option<FiguresAtN>,
    /// How well placed it will be.
    pub after: Option<FiguresAtN>,
    /// A lower bound of `copied`; none where there will be fewer owners than `n`.
    pub least_copied: Option<usize>,
}

impl Report {
    /// The report on `next` as following `newest`.
    pub(super) fn of(
        newest: &Layout,
        next: &Layout,
        replaced: &BTreeMap<StoreId, StoreId>,
        bytes: &dyn Fn(PartitionId) -> Option<u64>,
    ) -> Self {
        let mut before = BTreeMap::<StoreId, usize>::new();
        let mut after = before.clone();
        let mut gains = BTreeMap::<StoreId, (usize, Option<u64>)>::new();
        let mut moved = BTreeMap::<(Option<StoreId>, StoreId), usize>::new();
        for partition in next.grid().partitions() {
            let (old, new) = (owners(newest, partition), owners(next, partition));
            old.iter().for_each(|store| *before.entry(*store).or_default() += 1);
            new.iter().for_each(|store| *after.entry(*store).or_default() += 1);
            let mut lost = old.iter().filter(|store| !new.contains(store)).copied();
            for to in new.iter().filter(|store| !old.contains(store)) {
                *moved.entry((lost.next(), *to)).or_default() += 1;
                let gained = gains.entry(*to).or_insert((0, Some(0)));
                *gained = (gained.0 + 1, gained.1.zip(bytes(partition)).map(|(sum, more)| sum + more));
            }
        }
        let n = next.regions().chain(newest.regions()).map(|region| widest(next, region)).max().unwrap_or(0);
        let (figures_before, figures_after) = figures(newest, next);
        let copied = gains.values().map(|(count, _)| count).sum();
        let total = gains.values().try_fold(0u64, |sum, (_, bytes)| Some(sum + (*bytes)?));
        let mut members: Vec<MemberRow> = everybody(newest, next)
            .map(|member| {
                let count = |of: &BTreeMap<StoreId, usize>| of.get(&member.store).copied().unwrap_or(0);
                let (gained, bytes) = gains.get(&member.store).copied().unwrap_or((0, Some(0)));
                MemberRow {
                    member: member.clone(),
                    changes: changes(newest, next, replaced, member.store),
                    before: count(&before),
                    after: count(&after),
                    gains: gained,
                    bytes,
                }
            })
            .collect();
        members.sort_by(|one, other| (&one.member.name, one.after).cmp(&(&other.member.name, other.after)));
        let moved = moved.into_iter().map(|((from, to), partitions)| Moved { from, to, partitions });
        Self {
            n,
            zones: zones(newest, next, &before, &after),
            members,
            moved: moved.collect(),
            copied,
            bytes: total,
            before: figures_before.at(n).copied(),
            after: figures_after.at(n).copied(),
            least_copied: figures_after.at(n).filter(|at| at.n == n).map(|at| at.least_moves),
        }
    }

    /// Those to whom something happens.
    pub fn changed(&self) -> impl Iterator<Item = &MemberRow> {
        self.members.iter().filter(|row| !row.changes.is_empty())
    }
}

/// What becomes of whom between two layouts, by name.
#[must_use]
pub fn member_changes(before: &Layout, after: &Layout) -> Vec<(String, Change)> {
    let none = BTreeMap::new();
    let of = |member: &Member| {
        let changes = changes(before, after, &none, member.store);
        changes.into_iter().map(|change| (member.name.clone(), change)).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = everybody(before, after).flat_map(of).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

/// What becomes of which bucket between two layouts, by name.
#[must_use]
pub fn bucket_changes(before: &Layout, after: &Layout) -> Vec<(Bucket, BucketChange)> {
    let of = |(bucket, now): (&Bucket, &BucketSettings)| {
        let was = before.settings(bucket);
        let mut changes = Vec::new();
        if now.generation > was.generation {
            let deleted = was.is_configured() && !now.is_configured();
            changes.push(if deleted { BucketChange::Deleted } else { BucketChange::Emptied });
        }
        if now.is_configured() && !was.is_configured() {
            changes.push(BucketChange::Configured);
        }
        let (from, to) = (replicas_words(was), replicas_words(now));
        if from != to {
            changes.push(BucketChange::Replicas { from, to });
        }
        changes.into_iter().map(|change| (bucket.clone(), change)).collect::<Vec<_>>()
    };
    after.spec().buckets.iter().flat_map(of).collect()
}

/// Whether some partition has other owners in `after`, or the same in another order.
#[must_use]
pub fn owners_change(before: &Layout, after: &Layout) -> bool {
    let lists = |layout: &Layout| -> BTreeMap<String, (u8, Vec<StoreId>)> {
        let stores = |table: &RegionOwners| table.owners.iter().map(|owner| layout.member(*owner).store).collect();
        layout.spec().regions.iter().map(|table| (table.region.clone(), (table.width, stores(table)))).collect()
    };
    lists(before) != lists(after)
}

/// How many replicas a bucket has, and where that is not the same everywhere.
fn replicas_words(settings: &BucketSettings) -> String {
    let mut words = settings.n.to_string();
    if !settings.n_in_region.is_empty() {
        let by_region: Vec<String> = settings.n_in_region.iter().map(|(region, n)| format!("{region} {n}")).collect();
        words += &format!(" ({})", by_region.join(", "));
    }
    words
}

/// The members after, and those before that are left out.
fn everybody<'a>(newest: &'a Layout, next: &'a Layout) -> impl Iterator<Item = &'a Member> {
    let gone = newest.members().iter().filter(|member| next.member_by_store(member.store).is_none());
    next.members().iter().chain(gone)
}

/// The most replicas any bucket asks for in a region.
fn widest(layout: &Layout, region: &str) -> u8 {
    let all = layout.spec().buckets.values().chain([&layout.spec().default_bucket]);
    all.map(|settings| settings.n_in(region)).max().unwrap_or(0)
}

/// The owners of whatever bucket has the most, region by region, in order.
fn owners(layout: &Layout, partition: PartitionId) -> Vec<StoreId> {
    let of = |table: &RegionOwners| table.of(partition, widest(layout, &table.region)).to_vec();
    layout.spec().regions.iter().flat_map(of).map(|owner| layout.member(owner).store).collect()
}

fn changes(newest: &Layout, next: &Layout, replaced: &BTreeMap<StoreId, StoreId>, store: StoreId) -> Vec<Change> {
    let find = |layout: &Layout, store| layout.member_by_store(store).map(|index| layout.member(index).clone());
    let (old, new) = match (find(newest, store), find(next, store)) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => {
            let heir = newest.member_by_node(new.node).map(|index| newest.member(index).store);
            let named = replaced.iter().find(|(_, by)| **by == store).map(|(old, _)| *old);
            let old = named.or(heir).and_then(|old| find(newest, old));
            return vec![old.map_or(Change::Joins, |old| Change::Replaces(old.name))];
        }
        (Some(old), None) => {
            let heir = next.member_by_node(old.node).map(|index| next.member(index).store);
            let by = replaced.get(&store).copied().or(heir).and_then(|by| find(next, by));
            return vec![match by {
                Some(by) => Change::ReplacedBy(by.name),
                None if old.weight == 0 => Change::LeftOut,
                None => Change::Removed,
            }];
        }
        (None, None) => return Vec::new(),
    };
    let mut changes = Vec::new();
    match (old.weight, new.weight) {
        (from, to) if from == to => {}
        (_, 0) => changes.push(Change::Leaves),
        (0, _) => changes.push(Change::Stays),
        (from, to) => changes.push(Change::Weight { from, to }),
    }
    if old.zone != new.zone {
        changes.push(Change::Zone { from: old.zone, to: new.zone });
    }
    if old.region != new.region {
        changes.push(Change::Region { from: old.region, to: new.region });
    }
    changes
}

fn zones(
    newest: &Layout,
    next: &Layout,
    before: &BTreeMap<StoreId, usize>,
    after: &BTreeMap<StoreId, usize>,
) -> Vec<ZoneRow> {
    let place = |member: &Member| (member.region.clone(), member.zone.clone());
    let places: BTreeSet<_> = newest.members().iter().chain(next.members()).map(place).collect();
    let sum = |layout: &Layout, at: &(String, String), of: &BTreeMap<StoreId, usize>| -> usize {
        let there = layout.members().iter().filter(|member| place(member) == *at);
        there.filter_map(|member| of.get(&member.store)).sum()
    };
    let row = |at: (String, String)| ZoneRow {
        members: next.members().iter().filter(|member| place(member) == at && member.weight > 0).count(),
        before: sum(newest, &at, before),
        after: sum(next, &at, after),
        region: at.0,
        zone: at.1,
    };
    places.into_iter().map(row).collect()
}
