//! What a node says of itself and its cluster: owners, status, ring, health.

use crate::cluster::Standing;
use crate::kv::{
    Addresses, BucketAdmin, Error, ErrorCode, HintsLeft, MemberView, NodeView, OlderRing, OwnerView, Owners,
    PartitionView, RingView, Status, date,
};
use crate::metrics::{TransportMetrics, set_counter};
use crate::replica::Waiting;
use crate::ring::{Layout, Member};
use crate::transport::counters::Stats;
use crate::types::{ObjectId, StoreId, Wall};

use super::Node;

impl NodeView for Node {
    fn owners(&self, id: &ObjectId) -> Result<Owners, Error> {
        let Some(known) = self.inner.keeper.known() else {
            return Err(Error::refused(ErrorCode::NotServing, "this node is not in a cluster yet"));
        };
        let layout = known.newest();
        let settings = layout.settings(&id.bucket);
        let partition = layout.partition(id.token());
        let region = &self.inner.config.node.region;
        let view = |index| {
            let member: &Member = layout.member(index);
            OwnerView {
                node: member.name.clone(),
                zone: member.zone.clone(),
                region: member.region.clone(),
                state: self.state_of(member, Some(partition)),
            }
        };
        Ok(Owners {
            token: id.token().to_string(),
            partition: partition.0,
            layout: layout.version(),
            owners: layout.preference_list(region, partition, settings).into_iter().map(view).collect(),
            fallbacks: known.chain.fallbacks(region, partition, settings.n_in(region)).into_iter().map(view).collect(),
        })
    }

    fn status(&self) -> Status {
        let layout = self.inner.keeper.newest();
        let members = layout.as_ref().map_or_else(Vec::new, |layout| {
            layout.members().iter().map(|member| self.member_view(layout, member)).collect()
        });
        let attention = self.attention(layout.as_ref());
        let hinted = |(store, waiting): (StoreId, Waiting)| HintsLeft { node: self.name_of(store), keys: waiting.keys };
        let health = match self.standing() {
            Standing::Serving if attention.is_empty() => "ok",
            Standing::Serving => "degraded",
            _ => "not_serving",
        };
        Status {
            node: self.inner.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            cluster: layout.as_ref().map(|layout| layout.cluster().to_string()),
            layout: layout.as_ref().map_or(0, |layout| layout.version()),
            change: self.last_change(),
            health: health.into(),
            members,
            attention,
            hints: self.inner.replica.hints().targets().into_iter().map(hinted).collect(),
        }
    }

    fn ring(&self) -> RingView {
        let Some(known) = self.inner.keeper.known() else { return RingView::default() };
        let layout = known.newest();
        let region = &self.inner.config.node.region;
        let partitions = |layout: &Layout| -> Vec<PartitionView> {
            let settings = &layout.spec().default_bucket;
            let owners = |partition| {
                let list = layout.preference_list(region, partition, settings).into_iter();
                list.map(|index| layout.member(index).name.clone()).collect()
            };
            let all = layout.grid().partitions();
            all.map(|partition| PartitionView { id: partition.0, owners: owners(partition) }).collect()
        };
        let newest = partitions(layout);
        let older = known.chain.live().iter().rev().skip(1).map(|older| OlderRing {
            version: older.version(),
            hash: older.hash().to_string(),
            partitions: partitions(older).into_iter().filter(|at| newest[at.id as usize] != *at).collect(),
        });
        RingView {
            version: layout.version(),
            hash: layout.hash().to_string(),
            live: known.live(),
            q: layout.grid().q(),
            members: layout.members().iter().map(|member| member.name.clone()).collect(),
            older: older.collect(),
            partitions: newest,
        }
    }

    fn ready(&self) -> Result<(), String> {
        match self.standing() {
            _ if self.inner.draining.load(std::sync::atomic::Ordering::Acquire) => Err("stopping".into()),
            Standing::Serving => Ok(()),
            Standing::Starting => Err("starting".into()),
            Standing::Waiting(why) | Standing::Refused(why) => Err(why),
        }
    }

    fn bucket_admin(&self) -> Option<&dyn BucketAdmin> {
        Some(self)
    }

    fn metrics_text(&self) -> String {
        let metrics = &self.inner.metrics;
        let health = self.inner.replica.health();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.replica.serving.set(i64::from(self.ready().is_ok()));
        metrics.repair.paused.set(count(self.inner.roster.all().iter().filter(|worker| worker.is_paused()).count()));
        metrics.replica.quarantined.set(count(health.quarantined().len()));
        metrics.replica.unsynced.set(count(health.unsynced().len()));
        if let Some((space, reserve)) = health.room().space() {
            let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            metrics.replica.disk_free.set(bytes(space.free));
            metrics.replica.disk_size.set(bytes(space.total));
            metrics.replica.disk_reserve.set(bytes(reserve));
        }
        show(&metrics.transport, &self.inner.transport.stats());
        metrics.replica.queue.set(count(self.inner.replica.queued()));
        metrics.replica.read_only.set(i64::from(health.is_read_only()));
        metrics.replica.deletes_only.set(i64::from(health.room().is_short()));
        let (keys, bytes) = self.inner.replica.hints().total();
        metrics.hints.waiting.set(i64::try_from(keys).unwrap_or(i64::MAX));
        metrics.hints.owed.set(i64::try_from(self.inner.replica.hints().owed()).unwrap_or(i64::MAX));
        metrics.hints.waiting_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let layout = self.inner.keeper.newest();
        metrics.peers.members.set(count(layout.as_ref().map_or(0, |layout| layout.members().len())));
        let version = layout.as_ref().map_or(0, |layout| layout.version());
        metrics.peers.layout.set(i64::try_from(version).unwrap_or(i64::MAX));
        metrics.text()
    }
}

impl Node {
    pub(super) fn state_of(&self, member: &Member, partition: Option<crate::types::PartitionId>) -> String {
        let me = self.inner.replica.identity().store();
        let health = self.inner.replica.health();
        if member.store == me {
            let syncing = match partition {
                Some(partition) => !health.is_synced(partition),
                None => !health.unsynced().is_empty(),
            };
            return if syncing { "syncing" } else { "up" }.into();
        }
        if self.inner.peers.up().is_up(member.store) { "up" } else { "down" }.into()
    }

    fn member_view(&self, layout: &Layout, member: &Member) -> MemberView {
        let up = self.inner.peers.up();
        let status = up.get(member.store);
        let clock = &self.inner.env.clock;
        let since = status.map(|status| {
            let ago = clock.now().since(status.since);
            let ago = u64::try_from(ago.as_millis()).unwrap_or(0);
            date::rfc3339(Wall(clock.wall().0.saturating_sub(ago)))
        });
        let hello = status.and_then(|status| status.hello.as_ref());
        let heard = self.heard();
        let said = heard.of(member.node);
        let me = self.inner.replica.identity();
        // What it said of itself on a connection is newer than what others passed on.
        let (incarnation, known) = if member.store == me.store() {
            (Some(me.incarnation()), layout.version())
        } else {
            let known = said.and_then(|said| said.head.as_ref()).map_or(0, |head| head.version);
            (hello.map(|hello| hello.incarnation).or(said.and_then(|said| said.incarnation)), known)
        };
        MemberView {
            id: member.node.to_string(),
            name: member.name.clone(),
            incarnation: incarnation.map(|incarnation| format!("{:032x}", incarnation.0)),
            addresses: Addresses { client: member.client_address.clone(), peer: member.peer_address.clone() },
            region: member.region.clone(),
            zone: member.zone.clone(),
            weight: member.weight,
            state: self.state_of(member, None),
            // Two places are what people look at, and what documents can be compared by.
            phi: self.inner.peers.phi(member.store).map(|phi| (phi * 100.0).round() / 100.0),
            since,
            layout: known,
        }
    }
}

/// Shows what the transport has counted.
fn show(metrics: &TransportMetrics, stats: &Stats) {
    metrics.connections.set(i64::try_from(stats.open_inbound + stats.open_outbound).unwrap_or(i64::MAX));
    for (counter, total) in [
        (&metrics.frames_sent, stats.frames_out),
        (&metrics.frames_received, stats.frames_in),
        (&metrics.bytes_sent, stats.bytes_out),
        (&metrics.bytes_received, stats.bytes_in),
        (&metrics.bad_frames, stats.bad_checksums + stats.bad_frames),
        (&metrics.rejected, stats.rejected_handshakes),
    ] {
        set_counter(counter, total);
    }
}
