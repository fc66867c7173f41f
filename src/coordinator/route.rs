//! What the live layouts say of the objects of one partition, worked out once.
//!
//! Owners, their order and who has to answer at which level depend on the layouts, the partition and how many replicas a
//! bucket wants, not on the key: so they are kept, for every partition that was asked for, until other layouts are live
//! or reads use another one. Partitions with the same owners in the same order share what is kept: in a small cluster that
//! is a handful, which stays in the processor's cache, where one for each of a thousand partitions would not. Bounded by
//! what there is to keep: partitions times the different wishes for replicas.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::cluster::Known;
use crate::quorum::{Level, LevelError, OwnersIn, RegionOwners, Requirement, requirement};
use crate::ring::{BucketSettings, Layout};
use crate::types::{Bucket, PartitionId, StoreId};

/// The levels whose requirements are kept. A number is worked out each time: it is rare, and there are many.
const KEPT: [Level; 8] = [
    Level::One,
    Level::Two,
    Level::Three,
    Level::Quorum,
    Level::All,
    Level::LocalOne,
    Level::LocalQuorum,
    Level::EachQuorum,
];

/// The owners of one partition's objects.
pub(super) struct Route {
    /// The owners in all live layouts, each once, in the order in which they coordinate: those of the layout that reads
    /// use come first.
    pub(super) stores: Vec<StoreId>,
    /// The owners by live layout and region, the newest first.
    pub(super) live: Vec<OwnersIn>,
    /// The layout that reads use.
    read: u64,
    requirements: [OnceLock<Result<Requirement, LevelError>>; KEPT.len()],
    reads: [OnceLock<Result<Requirement, LevelError>>; KEPT.len()],
}

impl Route {
    /// `settings`: one for each layout.
    fn new(layouts: &[Layout], read: u64, home: &str, partition: PartitionId, settings: &[BucketSettings]) -> Self {
        let mut stores: Vec<StoreId> = Vec::new();
        let both = || layouts.iter().zip(settings);
        let first = both().filter(|(layout, _)| layout.version() == read);
        for (layout, settings) in first.chain(both().filter(|(layout, _)| layout.version() != read)) {
            for index in layout.preference_list(home, partition, settings) {
                let store = layout.member(index).store;
                if !stores.contains(&store) {
                    stores.push(store);
                }
            }
        }
        let in_layout = |(layout, settings): (&Layout, &BucketSettings)| {
            let regions = layout.regions().map(|region| {
                let n = settings.n_in(region);
                let owners = layout.owners_in(region, partition, n).iter().map(|index| layout.member(*index).store);
                RegionOwners { region: region.into(), n: usize::from(n), owners: owners.collect() }
            });
            OwnersIn { layout: layout.version(), regions: regions.collect() }
        };
        let live = both().rev().map(in_layout).collect();
        Self { stores, live, read, requirements: Default::default(), reads: Default::default() }
    }

    /// Who has to take a write at `level`, asked in the region `home`: enough in each live layout.
    pub(super) fn writes(&self, level: Level, home: &str) -> Result<Requirement, LevelError> {
        let make = || requirement(level, &self.live, home);
        kept(&self.requirements, level, make)
    }

    /// Who has to answer a read at `level`: enough in the layout that reads use. The level is judged by the newest one.
    pub(super) fn reads(&self, level: Level, home: &str) -> Result<Requirement, LevelError> {
        if self.live.len() == 1 {
            return self.writes(level, home);
        }
        let make = || {
            let all = self.writes(level, home)?;
            all.in_layout(self.read).ok_or(LevelError::NoOwners)
        };
        kept(&self.reads, level, make)
    }

    /// Whether an owner is in the region `home`.
    pub(super) fn is_near(&self, store: StoreId, home: &str) -> bool {
        let regions = self.live.iter().flat_map(|layout| &layout.regions);
        regions.filter(|owners| &*owners.region == home).any(|owners| owners.owners.contains(&store))
    }

    /// Whether a store is an owner in the layout that reads use.
    pub(super) fn reads_from(&self, store: StoreId) -> bool {
        let regions = self.live.iter().filter(|owners| owners.layout == self.read).flat_map(|owners| &owners.regions);
        regions.into_iter().any(|region| region.owners.iter().take(region.n).any(|owner| *owner == store))
    }
}

fn kept(
    list: &[OnceLock<Result<Requirement, LevelError>>; KEPT.len()],
    level: Level,
    make: impl FnOnce() -> Result<Requirement, LevelError>,
) -> Result<Requirement, LevelError> {
    match KEPT.iter().position(|kept| *kept == level) {
        Some(at) => list[at].get_or_init(make).clone(),
        None => make(),
    }
}

/// The partitions as buckets with the same wish for replicas see them.
struct Class {
    /// What they want, in each live layout.
    settings: Vec<BucketSettings>,
    partitions: Box<[OnceLock<Arc<Route>>]>,
    /// Those that differ.
    different: Mutex<Vec<Arc<Route>>>,
}

impl Class {
    fn holds(&self, settings: &[&BucketSettings]) -> bool {
        let same = |(mine, theirs): (&BucketSettings, &&BucketSettings)| {
            mine.n == theirs.n && mine.n_in_region == theirs.n_in_region
        };
        self.settings.len() == settings.len() && self.settings.iter().zip(settings).all(same)
    }

    /// The same route, shared with the partitions that have it already.
    fn shared(&self, route: Route) -> Arc<Route> {
        let mut different = self.different.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&Arc<Route>| known.stores == route.stores && known.live == route.live;
        if let Some(known) = different.iter().find(same) {
            return Arc::clone(known);
        }
        let route = Arc::new(route);
        different.push(Arc::clone(&route));
        route
    }
}

/// The routes while these layouts are live.
pub(super) struct Routes {
    known: Arc<Known>,
    home: String,
    classes: Vec<Class>,
    /// The class of each bucket that was ever configured; all others are in the first.
    of_bucket: BTreeMap<Bucket, usize>,
}

impl Routes {
    /// Nothing is worked out yet. `home` is the region of this node.
    pub(super) fn new(known: Arc<Known>, home: &str) -> Self {
        let (mut classes, mut of_bucket): (Vec<Class>, BTreeMap<Bucket, usize>) = (Vec::new(), BTreeMap::new());
        let live = known.chain.live();
        let mut class_of = |settings: Vec<&BucketSettings>| {
            classes.iter().position(|class| class.holds(&settings)).unwrap_or_else(|| {
                let settings = settings.into_iter().cloned().collect();
                let partitions = known.newest().grid().partitions().map(|_| OnceLock::new()).collect();
                classes.push(Class { settings, partitions, different: Mutex::default() });
                classes.len() - 1
            })
        };
        let _first = class_of(live.iter().map(|layout| &layout.spec().default_bucket).collect());
        for bucket in live.iter().flat_map(|layout| layout.spec().buckets.keys()) {
            let class = class_of(live.iter().map(|layout| layout.settings(bucket)).collect());
            of_bucket.insert(bucket.clone(), class);
        }
        Self { known, home: home.to_owned(), classes, of_bucket }
    }

    /// What they were made from.
    pub(super) fn known(&self) -> &Arc<Known> {
        &self.known
    }

    /// The route of a bucket's objects in `partition`.
    pub(super) fn of(&self, partition: PartitionId, bucket: &Bucket) -> Arc<Route> {
        let class =
            &self.classes[if self.of_bucket.is_empty() { 0 } else { self.of_bucket.get(bucket).copied().unwrap_or(0) }];
        let make = || {
            let (live, read) = (self.known.chain.live(), self.known.read_version());
            class.shared(Route::new(live, read, &self.home, partition, &class.settings))
        };
        class.partitions[partition.0 as usize].get_or_init(make).clone()
    }
}
