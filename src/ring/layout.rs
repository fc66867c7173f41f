//! A layout: one version of who owns which partition, and of what safety needs to know of buckets.
//!
//! Immutable. Built from a [`LayoutSpec`], which [`Layout::new`] checks whole, so every layout that exists is sound;
//! its encoding (`codec`) is canonical, so its hash names its content. Owners are small indexes into the members: a
//! query is an index and a slice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::{Grid, InvalidGrid, codec};
use crate::types::{Bucket, ClusterId, NodeId, PartitionId, StoreId, Token};

/// The longest owner list unless the cluster was founded with another.
pub const DEFAULT_REPLICAS_MAX: u8 = 5;
/// The longest owner list a cluster can be founded with.
pub const REPLICAS_LIMIT: usize = 16;
/// Replicas of what no bucket says otherwise.
pub const DEFAULT_N: u8 = 3;
/// The longest name, label or address in a layout, in bytes.
pub(super) const TEXT_MAX: usize = 255;
/// Most members of a layout.
pub(super) const MEMBERS_MAX: usize = 10_000;

/// A member of a layout: a node with one particular store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its data directory's contents: a process with another store is not this member.
    pub store: StoreId,
    /// Name for people, unique in the layout.
    pub name: String,
    /// Region label; replicas are placed per region.
    pub region: String,
    /// Zone label; replicas of a partition lie in different zones while zones suffice.
    pub zone: String,
    /// Share of the load, relative to the others'. 0: it is leaving. It owns nothing, and is left out of the layout that
    /// follows once this one is complete; until then it is a member, so that everybody waits for it and sees that it
    /// leaves, whoever began that.
    pub weight: u32,
    /// Where other nodes reach it: `host:port`, unique in the layout.
    pub peer_address: String,
    /// Where clients reach it: `host:port`.
    pub client_address: String,
}

/// A member's place in [`Layout::members`]. Means nothing in another layout.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberIndex(pub u16);

impl MemberIndex {
    /// As an index.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// Content hash of a layout: BLAKE3 of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LayoutHash(pub [u8; 32]);

impl fmt::Display for LayoutHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LayoutHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayoutHash({self})")
    }
}

/// What becomes of concurrent writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// All are kept and shown.
    #[default]
    Siblings,
    /// The greatest stamp wins.
    Lww,
}

/// What a bucket's data are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Role {
    /// The data themselves.
    #[default]
    Store,
    /// Copies of what lies elsewhere: may be dropped.
    Cache,
}

/// What safety needs to know of a bucket; the rest of its settings is gossiped.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BucketSettings {
    /// Names the bucket for ever, also after one of the same name took its place. 0: the cluster's default.
    pub id: u64,
    /// Part of every stored key; raised by purge and delete.
    pub generation: u64,
    /// Replicas in every region that `n_in_region` does not name; at least 1.
    pub n: u8,
    /// Replicas by region: sorted, unique; 0 keeps the bucket out of a region.
    pub n_in_region: Vec<(String, u8)>,
    /// What becomes of concurrent writes.
    pub mode: Mode,
    /// What its data are.
    pub role: Role,
}

impl BucketSettings {
    /// Replicas asked for in `region`; the layout may have fewer members ([`Layout::owners_in`]).
    #[must_use]
    pub fn n_in(&self, region: &str) -> u8 {
        self.n_in_region.iter().find(|(name, _)| name == region).map_or(self.n, |(_, n)| *n)
    }
}

impl Default for BucketSettings {
    fn default() -> Self {
        let (mode, role) = (Mode::default(), Role::default());
        Self { id: 0, generation: 0, n: DEFAULT_N, n_in_region: Vec::new(), mode, role }
    }
}

/// The owners of every partition in one region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionOwners {
    /// The region's label.
    pub region: String,
    /// Owners per partition: at most `replicas_max`.
    pub width: u8,
    /// Partition by partition, `width` owners each, in the partition's order.
    pub owners: Vec<MemberIndex>,
}

/// The content of a layout, not checked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutSpec {
    /// Counted from 1.
    pub version: u64,
    /// Hash of the layout before; zero in layout 1.
    pub parent: LayoutHash,
    /// The cluster; none in layout 1, whose hash makes it.
    pub cluster: Option<ClusterId>,
    /// The cluster's name, for people.
    pub cluster_name: String,
    /// Q.
    pub q: u32,
    /// The longest owner list.
    pub replicas_max: u8,
    /// Sorted by node id.
    pub members: Vec<Member>,
    /// The owners, by region, sorted by label: exactly the regions of members that are not leaving.
    pub regions: Vec<RegionOwners>,
    /// What holds for buckets that were never configured.
    pub default_bucket: BucketSettings,
    /// What holds for those that were.
    pub buckets: BTreeMap<Bucket, BucketSettings>,
}

/// Why something is no layout.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum LayoutError {
    /// The bytes end before the layout does.
    #[error("layout is cut short")]
    Short,
    /// Bytes follow the layout.
    #[error("{0} bytes follow the layout")]
    Trailing(usize),
    /// Written by a version this one does not know.
    #[error("layout format {0} is unknown here: a newer version wrote it")]
    Format(u8),
    /// A byte that means nothing, or a text that is none.
    #[error("layout's {0} cannot be read")]
    Unreadable(&'static str),
    /// The partitions make no grid.
    #[error(transparent)]
    Grid(#[from] InvalidGrid),
    /// A rule of layouts is broken.
    #[error("unsound layout: {0}")]
    Unsound(String),
}

/// A sound layout. Cheap to clone: clones share it.
#[derive(Clone)]
pub struct Layout {
    spec: Arc<LayoutSpec>,
    grid: Grid,
    hash: LayoutHash,
    by_store: Arc<[(StoreId, MemberIndex)]>,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Layout {}

impl std::hash::Hash for Layout {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layout({} of {}, {} members, {})", self.version(), self.cluster(), self.members().len(), self.hash)
    }
}

impl Layout {
    /// Checks and takes a layout's content.
    pub fn new(spec: LayoutSpec) -> Result<Self, LayoutError> {
        let grid = Grid::new(spec.q)?;
        check(&spec)?;
        let hash = LayoutHash(*blake3::hash(&codec::encode(&spec)).as_bytes());
        let mut by_store: Vec<_> =
            spec.members.iter().zip(0..).map(|(member, index)| (member.store, MemberIndex(index))).collect();
        by_store.sort_unstable();
        Ok(Self { spec: Arc::new(spec), grid, hash, by_store: by_store.into() })
    }

    /// Reads an encoding; refuses every byte string that [`Layout::encode`] would not have made.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        Self::new(codec::decode(bytes)?)
    }

    /// The one encoding.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode(&self.spec)
    }

    /// Hash of the encoding.
    #[must_use]
    pub const fn hash(&self) -> LayoutHash {
        self.hash
    }

    /// The content.
    #[must_use]
    pub fn spec(&self) -> &LayoutSpec {
        &self.spec
    }

    /// The version, counted from 1.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.spec.version
    }

    /// The cluster: the first 16 bytes of layout 1's hash.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.spec.cluster.unwrap_or_else(|| {
            let (head, _) = self.hash.0.split_at(16);
            ClusterId::from_bits(head.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
        })
    }

    /// The grid.
    #[must_use]
    pub const fn grid(&self) -> Grid {
        self.grid
    }

    /// The members, by node id.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.spec.members
    }

    /// The member at `index`.
    ///
    /// # Panics
    /// If the index is another layout's and this one has fewer members.
    #[must_use]
    pub fn member(&self, index: MemberIndex) -> &Member {
        &self.spec.members[index.get()]
    }

    /// The member with this store.
    #[must_use]
    pub fn member_by_store(&self, store: StoreId) -> Option<MemberIndex> {
        self.by_store.binary_search_by_key(&store, |entry| entry.0).ok().map(|at| self.by_store[at].1)
    }

    /// The member that is this node, whatever its store.
    #[must_use]
    pub fn member_by_node(&self, node: NodeId) -> Option<MemberIndex> {
        let at = self.spec.members.binary_search_by_key(&node, |member| member.node).ok()?;
        u16::try_from(at).ok().map(MemberIndex)
    }

    /// Whether (node, store) is a member.
    #[must_use]
    pub fn lists(&self, node: NodeId, store: StoreId) -> bool {
        self.member_by_store(store).is_some_and(|index| self.member(index).node == node)
    }

    /// Who is leaving: members that own nothing and are left out once this layout is complete.
    pub fn leaving(&self) -> impl Iterator<Item = &Member> {
        self.spec.members.iter().filter(|member| member.weight == 0)
    }

    /// The partition of a token.
    #[must_use]
    pub const fn partition(&self, token: Token) -> PartitionId {
        self.grid.partition(token)
    }

    /// What safety needs to know of `bucket`.
    #[must_use]
    pub fn settings(&self, bucket: &Bucket) -> &BucketSettings {
        self.spec.buckets.get(bucket).unwrap_or(&self.spec.default_bucket)
    }

    /// The regions' labels, sorted.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spec.regions.iter().map(|region| region.region.as_str())
    }

    /// The first `n` owners of `partition` in `region`, in the partition's order; fewer where there are fewer (the
    /// length is the effective N); none in a region without members.
    ///
    /// # Panics
    /// If the grid has no such partition.
    #[must_use]
    pub fn owners_in(&self, region: &str, partition: PartitionId, n: u8) -> &[MemberIndex] {
        self.spec.regions.iter().find(|table| table.region == region).map_or(&[], |table| table.of(partition, n))
    }

    /// The owners of a bucket's objects in `partition`: per region its label and its owners in order. The slices'
    /// lengths are the effective N.
    ///
    /// # Panics
    /// If the grid has no such partition.
    pub fn owners<'a>(
        &'a self,
        partition: PartitionId,
        settings: &'a BucketSettings,
    ) -> impl Iterator<Item = (&'a str, &'a [MemberIndex])> + 'a {
        self.spec.regions.iter().filter_map(move |table| {
            let owners = table.of(partition, settings.n_in(&table.region));
            (!owners.is_empty()).then_some((table.region.as_str(), owners))
        })
    }

    /// Whether `member` owns a bucket's objects in `partition`.
    #[must_use]
    pub fn owns(&self, member: MemberIndex, partition: PartitionId, settings: &BucketSettings) -> bool {
        self.owners(partition, settings).any(|(_, owners)| owners.contains(&member))
    }

    /// The partitions that list the member with this store, at whatever position, in order.
    #[must_use]
    pub fn partitions_of(&self, store: StoreId) -> Vec<PartitionId> {
        let Some(index) = self.member_by_store(store) else { return Vec::new() };
        let listed = |partition: &PartitionId| {
            self.spec.regions.iter().any(|table| table.of(*partition, u8::MAX).contains(&index))
        };
        self.grid.partitions().filter(listed).collect()
    }
}

impl RegionOwners {
    /// The first `n` owners of a partition.
    pub(super) fn of(&self, partition: PartitionId, n: u8) -> &[MemberIndex] {
        let width = usize::from(self.width);
        let first = partition.0 as usize * width;
        &self.owners[first..first + width.min(usize::from(n))]
    }
}

/// The rules of layouts that the encoding's form does not keep by itself.
fn check(spec: &LayoutSpec) -> Result<(), LayoutError> {
    let rule = |kept: bool, broken: &dyn Fn() -> String| {
        if kept { Ok(()) } else { Err(LayoutError::Unsound(broken())) }
    };
    rule(spec.version >= 1, &|| "versions count from 1".into())?;
    rule((spec.version == 1) == spec.cluster.is_none(), &|| "layout 1, and only it, makes the cluster id".into())?;
    rule((spec.version == 1) == (spec.parent == LayoutHash::default()), &|| "only layout 1 has no parent".into())?;
    let limits = 1..=REPLICAS_LIMIT;
    rule(limits.contains(&usize::from(spec.replicas_max)), &|| format!("replicas_max is 1 to {REPLICAS_LIMIT}"))?;
    rule(text(&spec.cluster_name), &|| "the cluster's name is too long".into())?;
    let members = &spec.members;
    rule((1..=MEMBERS_MAX).contains(&members.len()), &|| format!("1 to {MEMBERS_MAX} members, not {}", members.len()))?;
    rule(members.is_sorted_by(|a, b| a.node < b.node), &|| {
        "members are not sorted by node id, or one is twice".into()
    })?;
    let (mut stores, mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for member in members {
        let named = || format!("member {}", member.name);
        rule(stores.insert(member.store), &|| format!("{}: another has its store id", named()))?;
        rule(names.insert(&member.name), &|| format!("{}: another has its name", named()))?;
        rule(addresses.insert(&member.peer_address), &|| format!("{}: another has its peer address", named()))?;
        rule(spec.version > 1 || member.weight >= 1, &|| {
            format!("{}: weight 0 is for who leaves, and nobody does in layout 1", named())
        })?;
        let texts = [&member.name, &member.region, &member.zone, &member.peer_address, &member.client_address];
        rule(texts.iter().all(|part| text(part)), &|| format!("{}: a text is too long", named()))?;
    }
    let stay = members.iter().filter(|member| member.weight > 0);
    let labels: BTreeSet<&str> = stay.map(|member| member.region.as_str()).collect();
    rule(!labels.is_empty(), &|| "every member is leaving (weight 0): somebody has to stay".into())?;
    let tables = spec.regions.iter().map(|table| table.region.as_str());
    rule(tables.eq(labels.iter().copied()), &|| "regions are not exactly those of members that stay, sorted".into())?;
    for table in &spec.regions {
        check_owners(spec, table)?;
    }
    check_settings(&spec.default_bucket)?;
    rule(spec.default_bucket.id == 0, &|| "the default bucket's id is 0".into())?;
    let mut ids = BTreeSet::from([0]);
    for (bucket, settings) in &spec.buckets {
        check_settings(settings)?;
        rule(ids.insert(settings.id), &|| format!("bucket {bucket}: its id is taken"))?;
    }
    Ok(())
}

fn check_owners(spec: &LayoutSpec, table: &RegionOwners) -> Result<(), LayoutError> {
    let unsound = |what: String| Err(LayoutError::Unsound(format!("region {:?}: {what}", table.region)));
    let width = usize::from(table.width);
    if width == 0 || table.width > spec.replicas_max || table.owners.len() != width * spec.q as usize {
        return unsound("owner lists have the wrong length".into());
    }
    for (partition, owners) in table.owners.chunks(width).enumerate() {
        for (at, owner) in owners.iter().enumerate() {
            let Some(member) = spec.members.get(owner.get()).filter(|member| member.region == table.region) else {
                return unsound(format!("partition {partition}: owner {} is no member there", owner.0));
            };
            if member.weight == 0 {
                return unsound(format!("partition {partition}: {} is leaving (weight 0), and owns it", member.name));
            }
            if owners[..at].contains(owner) {
                return unsound(format!("partition {partition}: owner {} is listed twice", owner.0));
            }
        }
    }
    Ok(())
}

fn check_settings(settings: &BucketSettings) -> Result<(), LayoutError> {
    let regions = &settings.n_in_region;
    let sound = settings.n >= 1
        && regions.len() <= usize::from(u8::MAX)
        && regions.iter().all(|(region, _)| text(region))
        && regions.is_sorted_by(|a, b| a.0 < b.0);
    if sound { Ok(()) } else { Err(LayoutError::Unsound(format!("settings of bucket id {}", settings.id))) }
}

fn text(text: &str) -> bool {
    text.len() <= TEXT_MAX
}

#[cfg(test)]
pub(in crate::ring) mod tests;
