//! What needs attention: each a code for programs, a text that says what to do, and the next command where there is one.

use super::Node;
use crate::cluster::Standing;
use crate::kv::Attention;
use crate::ring::founding::{lonely, seedless};
use crate::ring::{Layout, Member};

/// The list as it grows.
#[derive(Default)]
struct List(Vec<Attention>);

impl List {
    fn add(&mut self, code: &str, text: impl Into<String>) {
        self.add_with(code, text, "");
    }

    fn add_with(&mut self, code: &str, text: impl Into<String>, command: &str) {
        self.0.push(Attention { code: code.into(), text: text.into(), command: command.into() });
    }
}

impl Node {
    /// All that is not as it should be, as far as this node knows.
    pub(super) fn attention(&self, layout: Option<&Layout>) -> Vec<Attention> {
        let mut list = List::default();
        self.about_itself(&mut list);
        if let Some(layout) = layout {
            let me = self.inner.replica.identity().store();
            for member in layout.members().iter().filter(|member| member.store != me) {
                self.about_peer(member, &mut list);
            }
            self.about_cluster(layout, &mut list);
        }
        list.0
    }

    fn about_itself(&self, list: &mut List) {
        match self.standing() {
            Standing::Serving => {}
            Standing::Starting => list.add("starting", "this node is starting"),
            Standing::Waiting(why) => list.add("waiting", format!("this node is not serving yet: {why}")),
            Standing::Refused(why) => list.add("stays_out", format!("this node does not serve: {why}")),
        }
        let health = self.inner.replica.health();
        if health.is_read_only() {
            list.add("read_only", "a commit failed: this node is read-only; check its disk, then start it again");
        }
        if let Some((space, reserve)) = health.room().space().filter(|_| health.room().is_short()) {
            let mib = |bytes: u64| bytes >> 20;
            let text = format!(
                "the disk has {} MiB free of {} MiB, and {} MiB are kept back (node.disk_reserve): this node takes \
                 deletes and no new values; make room, or give it a larger disk",
                mib(space.free),
                mib(space.total),
                mib(reserve)
            );
            list.add("deletes_only", text);
        }
        if let Some(bar) = self.inner.replica.identity().barred() {
            list.add("coordinates_nothing", format!("this node coordinates no writes: {bar}"));
        }
        let unsynced = health.unsynced().len();
        if unsynced > 0 {
            let text = format!("{unsynced} partitions have no vote here until merged with every other owner");
            list.add("syncing", text);
        }
        let quarantined = health.quarantined().len();
        if quarantined > 0 {
            let text = format!("{quarantined} keys could not be read and are being fetched from the other owners");
            list.add("quarantined", text);
        }
    }

    fn about_peer(&self, member: &Member, list: &mut List) {
        let up = self.inner.peers.up();
        let status = up.get(member.store);
        if !up.is_up(member.store) {
            let why = status.map_or_else(String::new, |status| status.why.clone());
            let text = format!("{} at {} is down: {why}", member.name, member.peer_address);
            list.add_with("member_down", text, "quorate status");
        }
        let ours = self.inner.peers.hello();
        let theirs = status.and_then(|status| status.hello.as_ref());
        if let Some((here, there)) = theirs.and_then(|theirs| ours.other_defaults(theirs)) {
            let text = format!(
                "[cluster] differs: {here} here, {there} at {}; nothing is lost by it, but what a request means then \
                 depends on whom it asks",
                member.name
            );
            list.add("settings_differ", text);
        }
        if status.is_some_and(|status| status.up && status.mood.deletes_only) {
            list.add(
                "deletes_only",
                format!("{} takes no new values: its disk is filled up to its reserve", member.name),
            );
        }
        if status.is_some_and(|status| status.mood.seedless) {
            list.add("no_seeds", no_seeds(member));
        }
    }

    fn about_cluster(&self, layout: &Layout, list: &mut List) {
        let config = &self.inner.config;
        let (seeds, address) = (&config.node.seeds, &config.node.peer_address);
        let me = layout.member_by_store(self.inner.replica.identity().store()).map(|index| layout.member(index));
        if let Some(me) = me.filter(|_| layout.members().len() > 1 && seedless(seeds, address)) {
            list.add("no_seeds", no_seeds(me));
        }
        let (n, members) = (layout.spec().default_bucket.n, layout.members().len());
        if config.cluster.n != n {
            let text =
                format!("cluster.n is {} here, but the cluster was founded with {n}: {n} holds", config.cluster.n);
            list.add("settings_differ", text);
        }
        if members < usize::from(n) {
            let text = format!("buckets want {n} replicas and the cluster has {members} members: that many are kept");
            list.add("fewer_than_n", text);
        }
        if let Some(why) = lonely(layout, seeds) {
            list.add("alone", why);
        }
    }
}

fn no_seeds(member: &Member) -> String {
    format!(
        "{} has no seeds that name another node: with an empty directory it would found a cluster of its own; give it \
         node.seeds and start it again",
        member.name
    )
}
