//! The one encoding of a layout: what is hashed, stored and sent.
//!
//! Canonical because nothing in it has two forms: integers have fixed widths (big endian), texts a length byte, lists
//! a count and an order that `Layout::new` checks. 1,000 members on 1,024 partitions take about 100 KiB.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::layout::{MEMBERS_MAX, TEXT_MAX};
use super::{BucketSettings, Grid, LayoutError, LayoutHash, LayoutSpec, Member, MemberIndex, Mode, RegionOwners, Role};
use crate::types::{Bucket, ClusterId, NodeId, StoreId};

const FORMAT: u8 = 1;

/// Encodes. What `check` refuses may encode to what does not decode.
pub(super) fn encode(spec: &LayoutSpec) -> Bytes {
    let owners: usize = spec.regions.iter().map(|table| table.owners.len()).sum();
    let mut out = BytesMut::with_capacity(128 + 128 * spec.members.len() + 2 * owners + 64 * spec.buckets.len());
    out.put_u8(FORMAT);
    out.put_u64(spec.version);
    out.put_slice(&spec.parent.0);
    out.put_u8(u8::from(spec.cluster.is_some()));
    spec.cluster.iter().for_each(|cluster| out.put_slice(cluster.as_bytes()));
    put_text(&mut out, &spec.cluster_name);
    out.put_u32(spec.q);
    out.put_u8(spec.replicas_max);
    put_count(&mut out, spec.members.len());
    for member in &spec.members {
        out.put_slice(member.node.as_bytes());
        out.put_slice(member.store.as_bytes());
        out.put_u32(member.weight);
        for text in [&member.name, &member.region, &member.zone, &member.peer_address, &member.client_address] {
            put_text(&mut out, text);
        }
    }
    put_count(&mut out, spec.regions.len());
    for table in &spec.regions {
        put_text(&mut out, &table.region);
        out.put_u8(table.width);
        table.owners.iter().for_each(|owner| out.put_u16(owner.0));
    }
    put_settings(&mut out, &spec.default_bucket);
    put_count(&mut out, spec.buckets.len());
    for (bucket, settings) in &spec.buckets {
        put_text(&mut out, bucket.as_str());
        put_settings(&mut out, settings);
    }
    out.freeze()
}

pub(super) fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
}

fn put_text(out: &mut BytesMut, text: &str) {
    debug_assert!(text.len() <= TEXT_MAX, "checked before");
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.put_slice(text.as_bytes());
}

fn put_settings(out: &mut BytesMut, settings: &BucketSettings) {
    out.put_u64(settings.id);
    out.put_u64(settings.generation);
    out.put_u8(settings.n);
    out.put_u8(u8::try_from(settings.n_in_region.len()).unwrap_or(u8::MAX));
    for (region, n) in &settings.n_in_region {
        put_text(out, region);
        out.put_u8(*n);
    }
    out.put_u8(match settings.mode {
        Mode::Siblings => 0,
        Mode::Lww => 1,
    });
    out.put_u8(match settings.role {
        Role::Store => 0,
        Role::Cache => 1,
    });
}

/// Decodes the form; the rules are `Layout::new`'s to check. Allocates no more than the bytes warrant.
pub(super) fn decode(bytes: &[u8]) -> Result<LayoutSpec, LayoutError> {
    let mut from = Reader(bytes);
    let format = from.u8()?;
    if format != FORMAT {
        return Err(LayoutError::Format(format));
    }
    let version = from.u64()?;
    let parent = LayoutHash(from.array()?);
    let cluster = match from.u8()? {
        0 => None,
        1 => Some(ClusterId::from_bits(u128::from_be_bytes(from.array()?))),
        _ => return Err(LayoutError::Unreadable("cluster id")),
    };
    let cluster_name = from.text("cluster name")?;
    let q = Grid::new(from.u32()?)?.q();
    let replicas_max = from.u8()?;
    let members = (0..from.count(MEMBERS_MAX, "members")?).map(|_| from.member()).collect::<Result<_, _>>()?;
    let mut regions = Vec::new();
    for _ in 0..from.count(MEMBERS_MAX, "regions")? {
        let region = from.text("region")?;
        let width = from.u8()?;
        let raw = from.take(2 * usize::from(width) * q as usize)?;
        let owners = raw.chunks(2).map(|pair| MemberIndex(u16::from(pair[0]) << 8 | u16::from(pair[1]))).collect();
        regions.push(RegionOwners { region, width, owners });
    }
    let default_bucket = from.settings()?;
    let mut buckets = BTreeMap::<Bucket, BucketSettings>::new();
    for _ in 0..from.u32()? {
        let bucket = Bucket::new(&from.text("bucket")?).map_err(|_| LayoutError::Unreadable("bucket"))?;
        if buckets.last_key_value().is_some_and(|(last, _)| *last >= bucket) {
            return Err(LayoutError::Unsound("buckets are not sorted, or one is twice".into()));
        }
        let settings = from.settings()?;
        buckets.insert(bucket, settings);
    }
    if !from.0.is_empty() {
        return Err(LayoutError::Trailing(from.0.len()));
    }
    Ok(LayoutSpec {
        version,
        parent,
        cluster,
        cluster_name,
        q,
        replicas_max,
        members,
        regions,
        default_bucket,
        buckets,
    })
}

/// Reads what is encoded from the front of its bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], LayoutError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(LayoutError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(LayoutError::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, LayoutError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, LayoutError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, LayoutError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn count(&mut self, most: usize, what: &'static str) -> Result<u32, LayoutError> {
        let count = self.u32()?;
        if count as usize <= most { Ok(count) } else { Err(LayoutError::Unreadable(what)) }
    }

    fn text(&mut self, what: &'static str) -> Result<String, LayoutError> {
        let len = usize::from(self.u8()?);
        let raw = self.take(len)?.to_vec();
        String::from_utf8(raw).map_err(|_| LayoutError::Unreadable(what))
    }

    fn member(&mut self) -> Result<Member, LayoutError> {
        Ok(Member {
            node: NodeId::from_bits(u128::from_be_bytes(self.array()?)),
            store: StoreId::from_bits(u128::from_be_bytes(self.array()?)),
            weight: self.u32()?,
            name: self.text("member's name")?,
            region: self.text("member's region")?,
            zone: self.text("member's zone")?,
            peer_address: self.text("member's peer address")?,
            client_address: self.text("member's client address")?,
        })
    }

    fn settings(&mut self) -> Result<BucketSettings, LayoutError> {
        let (id, generation, n) = (self.u64()?, self.u64()?, self.u8()?);
        let mut n_in_region = Vec::new();
        for _ in 0..self.u8()? {
            n_in_region.push((self.text("bucket's region")?, self.u8()?));
        }
        let mode = match self.u8()? {
            0 => Mode::Siblings,
            1 => Mode::Lww,
            _ => return Err(LayoutError::Unreadable("bucket's mode")),
        };
        let role = match self.u8()? {
            0 => Role::Store,
            1 => Role::Cache,
            _ => return Err(LayoutError::Unreadable("bucket's role")),
        };
        Ok(BucketSettings { id, generation, n, n_in_region, mode, role })
    }
}
