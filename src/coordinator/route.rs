//! What a layout says of the objects of one partition, worked out once.
//!
//! Owners, their order and who has to answer at which level depend on the layout, the partition and how many replicas a
//! bucket wants, not on the key: so they are kept, for every partition that was asked for, until the layout changes.
//! Bounded by what there is to keep: partitions times the different wishes for replicas.

use std::sync::{Arc, OnceLock};

use crate::quorum::{Level, LevelError, OwnersIn, RegionOwners, Requirement, requirement};
use crate::ring::{BucketSettings, Layout, MemberIndex};
use crate::types::{PartitionId, StoreId};

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
    /// The owners, in the order in which they coordinate.
    pub(super) owners: Vec<MemberIndex>,
    /// Their stores, in the same order.
    pub(super) stores: Vec<StoreId>,
    /// The owners by live layout and region.
    pub(super) live: Vec<OwnersIn>,
    requirements: [OnceLock<Result<Requirement, LevelError>>; KEPT.len()],
}

impl Route {
    fn new(layout: &Layout, home: &str, partition: PartitionId, settings: &BucketSettings) -> Self {
        let owners = layout.preference_list(home, partition, settings);
        let stores = owners.iter().map(|index| layout.member(*index).store).collect();
        let regions = layout.regions().map(|region| {
            let n = settings.n_in(region);
            let owners = layout.owners_in(region, partition, n).iter().map(|index| layout.member(*index).store);
            RegionOwners { region: region.into(), n: usize::from(n), owners: owners.collect() }
        });
        let live = vec![OwnersIn { layout: layout.version(), regions: regions.collect() }];
        Self { owners, stores, live, requirements: Default::default() }
    }

    /// Who has to answer at `level`, asked in the region `home`.
    pub(super) fn requirement(&self, level: Level, home: &str) -> Result<Requirement, LevelError> {
        match KEPT.iter().position(|kept| *kept == level) {
            Some(at) => self.requirements[at].get_or_init(|| requirement(level, &self.live, home)).clone(),
            None => requirement(level, &self.live, home),
        }
    }
}

/// The partitions as buckets with the same wish for replicas see them.
struct Class {
    n: u8,
    n_in_region: Vec<(String, u8)>,
    partitions: Box<[OnceLock<Arc<Route>>]>,
}

impl Class {
    fn holds(&self, settings: &BucketSettings) -> bool {
        self.n == settings.n && self.n_in_region == settings.n_in_region
    }
}

/// The routes of one layout.
pub(super) struct Routes {
    layout: Arc<Layout>,
    home: String,
    classes: Vec<Class>,
}

impl Routes {
    /// Nothing is worked out yet. `home` is the region of this node.
    pub(super) fn new(layout: Arc<Layout>, home: &str) -> Self {
        let mut classes: Vec<Class> = Vec::new();
        let spec = layout.spec();
        for settings in std::iter::once(&spec.default_bucket).chain(spec.buckets.values()) {
            if !classes.iter().any(|class| class.holds(settings)) {
                classes.push(Class {
                    n: settings.n,
                    n_in_region: settings.n_in_region.clone(),
                    partitions: layout.grid().partitions().map(|_| OnceLock::new()).collect(),
                });
            }
        }
        Self { layout, home: home.to_owned(), classes }
    }

    /// The layout they are of.
    pub(super) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The route of a bucket's objects in `partition`.
    pub(super) fn of(&self, partition: PartitionId, settings: &BucketSettings) -> Arc<Route> {
        let make = || Arc::new(Route::new(&self.layout, &self.home, partition, settings));
        match self.classes.iter().find(|class| class.holds(settings)) {
            Some(class) => class.partitions[partition.0 as usize].get_or_init(make).clone(),
            // Settings that are not this layout's: nothing is kept for them.
            None => make(),
        }
    }
}
