//! What needs attention: each a code for programs, a text that says what to do, and the next command where there is one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Node;
use crate::cluster::{Known, Standing};
use crate::kv::plans::{awaited_word, quoted};
use crate::kv::{Attention, date};
use crate::repair::{Transfers, Worker};
use crate::ring::founding::{lonely, seedless};
use crate::ring::risk::too_thin;
use crate::ring::{BucketSettings, Layout, Member, MemberIndex};
use crate::types::{Bucket, StoreId};

/// A change that waits so long for members that are up is worth a look.
const SLOW: Duration = Duration::from_secs(60);

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
        if let Some(known) = self.inner.keeper.known() {
            self.about_changes(&known, &mut list);
        }
        list.0
    }

    /// For whom a change waits, since when, and what to do about it; who is a member for nothing; which partitions have
    /// too few members that are up.
    fn about_changes(&self, known: &Known, list: &mut List) {
        let (view, newest) = (known.view(), known.newest());
        let up = self.inner.peers.up();
        let is_up = |store| store == known.me || up.is_up(store);
        let version = newest.version();
        let now = self.inner.env.clock.wall();
        let mut slow = Vec::new();
        for (store, awaited) in view.waits_for() {
            let Some(member) = newest.member_by_store(store).map(|index| newest.member(index)) else { continue };
            let since = self.desk().waits_since(store).unwrap_or(now);
            if is_up(store) {
                let waited = Duration::from_millis(now.0.saturating_sub(since.0));
                slow.extend((waited >= SLOW).then(|| format!("{} ({})", member.name, awaited_word(awaited))));
                continue;
            }
            let joins = known.chain.live()[0].member_by_store(store).is_none();
            let name = &member.name;
            let (way, command) = if joins {
                ("if it does not come back, give the change up", "quorate layout abort".to_owned())
            } else {
                ("if it has stopped for good, leave it out", format!("quorate layout skip {}", quoted(name)))
            };
            let text = format!(
                "layout {version} has waited for {name} since {}, which is down ({}): {way}",
                date::rfc3339(since),
                awaited_word(awaited)
            );
            list.add_with("change_waits", text, &command);
        }
        if !slow.is_empty() {
            let text = format!("layout {version} has waited for a while for members that are up: {}", slow.join(", "));
            list.add_with("change_is_slow", text, "quorate layout show");
        }
        self.about_voices(known, list);
        let trouble = self.transfers().map(|transfers| transfers.now()).and_then(|progress| progress.trouble);
        if let Some(trouble) = trouble.filter(|_| !view.is_complete()) {
            list.add("transfer_failed", format!("what a layout gives this node is copied again: {trouble}"));
        }
        for declined in self.steward().map(|steward| steward.declined()).unwrap_or_default() {
            list.add_with("not_taken_in", declined.to_string(), "quorate layout show");
        }
        if view.is_complete() && !self.inner.config.node.auto_join {
            let owned: BTreeSet<MemberIndex> =
                newest.spec().regions.iter().flat_map(|table| table.owners.iter().copied()).collect();
            let idle = (0..).map(MemberIndex).zip(newest.members());
            for (_, member) in idle.filter(|(index, member)| member.weight > 0 && !owned.contains(index)) {
                let text = format!("{} is a member and owns nothing: place all anew to give it its share", member.name);
                list.add_with("owns_nothing", text, "quorate layout plan --rebalance");
            }
        }
        for short in known.chain.live().iter().flat_map(|layout| too_thin(layout, is_up)) {
            list.add_with("too_few_live", short.to_string().replace("would be left", "are up"), "quorate members");
        }
    }

    /// Whether enough of those who decide on the next layout are there, and have a voice.
    fn about_voices(&self, known: &Known, list: &mut List) {
        let up = self.inner.peers.up();
        let is_up = |store: &StoreId| *store == known.me || up.is_up(*store);
        let silent = self.silent(known);
        let names = |which: &dyn Fn(&StoreId) -> bool| -> String {
            let members = known.newest().members().iter();
            let names: Vec<&str> = members.filter(|its| which(&its.store)).map(|its| its.name.as_str()).collect();
            names.join(", ")
        };
        let deciders = known.chain.deciders();
        let stores = || deciders.iter().map(|(_, store)| store);
        let decide = stores().filter(|store| is_up(store)).count();
        if decide <= deciders.len() / 2 {
            let text = format!(
                "{decide} of the {} members that decide are up, too few to change the layout: start more of {}; only if \
                 they are gone for good, the last resort is a layout that nobody decides",
                deciders.len(),
                names(&|store| stores().any(|decider| decider == store) && !is_up(store))
            );
            list.add_with("no_majority", text, "quorate layout force --help");
            return;
        }
        if silent.is_empty() {
            return;
        }
        let (mute, down) = (names(&|store| silent.contains(store)), names(&|store| !is_up(store)));
        let forgot = format!("the directory of {mute} went back, and may have forgotten what was promised for layouts");
        let short = stores().filter(|store| is_up(store) && !silent.contains(store)).count() <= deciders.len() / 2;
        match (short, down.is_empty()) {
            (false, true) => {}
            (true, true) => {
                let text = format!(
                    "{forgot}: too few of those who decide have a voice until every member has answered, which takes a \
                     second or two; if this stays, one of them does not serve"
                );
                list.add_with("no_voice", text, "quorate members");
            }
            (false, false) => {
                let text = format!(
                    "{forgot}: no change completes until {down} has answered; start it or, if it has stopped for good, \
                     leave it out"
                );
                let first = down.split(", ").next().unwrap_or_default();
                list.add_with("waits_for_a_word", text, &format!("quorate layout skip {}", quoted(first)));
            }
            (true, false) => {
                let text = format!(
                    "{forgot}: too few of those who decide have a voice until {down} has answered; start it; only if it is \
                     gone for good, the last resort is a layout that nobody decides"
                );
                list.add_with("no_voice", text, "quorate layout force --help");
            }
        }
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
        self.about_hints(list);
        let quarantined = health.quarantined().len();
        if quarantined > 0 {
            let text = format!("{quarantined} keys could not be read and are being fetched from the other owners");
            list.add("quarantined", text);
        }
        if let Some(scrub) = self.scrub_view().filter(|scrub| scrub.gaps > 0) {
            let text = format!(
                "in {} partitions the last scrub met what could not even be named: merged from the other owners, but the \
                 disk is damaged; give this node an empty one, and it is its own replacement",
                scrub.gaps
            );
            list.add_with("disk_damaged", text, "quorate workers -o json");
        }
        for worker in self.inner.roster.all().into_iter().filter(Worker::is_paused) {
            let name = worker.name();
            let waits = self.inner.keeper.known().filter(|known| name == "transfers" && !known.view().is_complete());
            let waits = match waits.map(|known| (known.newest().version(), self.transfers().map(Transfers::missing))) {
                Some((version, missing)) => {
                    let partitions: BTreeSet<_> = missing.unwrap_or_default().into_values().flatten().collect();
                    format!("; layout {version} waits for it, {} partitions are not whole here yet", partitions.len())
                }
                None => String::new(),
            };
            let text =
                format!("{name} was told to pause on this node, until it is resumed or the node restarts{waits}");
            list.add_with("paused", text, &format!("quorate workers resume {name}"));
        }
    }

    /// What cannot be read of the hints here, and what keeps this node from leaving.
    fn about_hints(&self, list: &mut List) {
        let hints = self.inner.replica.hints();
        let (owed, unreadable) = (hints.owed(), hints.unreadable());
        if unreadable > 0 {
            let text = format!(
                "{unreadable} hints, or stretches of hints, could not be read when this node started: the disk is damaged, or \
                 a later version left them. They are left alone, and their partitions are compared; what they alone held \
                 for owners that were down stays here"
            );
            list.add_with("hints_unreadable", text, "quorate hints");
        }
        let me = self.inner.replica.identity().store();
        let newest = self.inner.keeper.newest().filter(|newest| newest.leaving().any(|member| member.store == me));
        let Some(newest) = newest.filter(|_| owed > 0) else { return };
        let up = self.inner.peers.up();
        let down = hints.targets().into_iter().filter(|(store, waiting)| waiting.owed > 0 && !up.is_up(*store));
        let down: Vec<&Member> =
            down.filter_map(|(store, _)| newest.member_by_store(store).map(|index| newest.member(index))).collect();
        let own = newest.member_by_store(me).map_or("", |index| &*newest.member(index).name);
        let (way, command) = match down.first() {
            Some(first) => {
                let names: Vec<&str> = down.iter().map(|member| &*member.name).collect();
                let text = format!(
                    "{} are down: start them. One that is gone for good is left out by `quorate layout skip`, with all that it \
                     alone holds, and what it was to get goes to the owners that are left",
                    names.join(", ")
                );
                (text, quoted(&first.name))
            }
            None if unreadable > 0 => {
                let text = "those that could not be read when it started may be readable for the version that wrote them, or \
                            after another start: start it again; only where that does not help, `quorate layout skip` of this \
                            node gives them up";
                (text.to_owned(), quoted(own))
            }
            None => ("they are on their way".to_owned(), String::new()),
        };
        let command =
            if command.is_empty() { "quorate hints".into() } else { format!("quorate layout skip {command}") };
        let text = format!(
            "this node leaves once it has handed over {owed} keys that it keeps for owners that missed them; {way}. A skip of \
             this node itself loses those that nobody else holds"
        );
        list.add_with("leave_waits_for_hints", text, &command);
    }

    fn about_peer(&self, member: &Member, list: &mut List) {
        let up = self.inner.peers.up();
        let status = up.get(member.store);
        if !up.is_up(member.store) {
            let why = status.map_or_else(String::new, |status| status.why.clone());
            let text = format!("{} at {} is down: {why}", member.name, member.peer_address);
            list.add_with("member_down", text, "quorate members");
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
        if status.is_some_and(|status| status.up && status.mood.pauses) {
            let text = format!("background workers of {} were told to pause", member.name);
            list.add_with("paused", text, "quorate workers");
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
        let n = layout.spec().default_bucket.n;
        let stay: Vec<&str> = layout.members().iter().filter(|m| m.weight > 0).map(|m| m.region.as_str()).collect();
        let members = stay.len();
        if config.cluster.n != n {
            let text =
                format!("cluster.n is {} here, but the cluster was founded with {n}: {n} holds", config.cluster.n);
            list.add("settings_differ", text);
        }
        if members < usize::from(n) {
            let text = format!("buckets want {n} replicas and the cluster has {members} members: that many are kept");
            list.add("fewer_than_n", text);
        }
        let wide = |(bucket, settings): (&Bucket, &BucketSettings)| {
            let short = |region: &str| {
                usize::from(settings.n_in(region)) > stay.iter().filter(|label| **label == region).count()
            };
            layout.regions().any(short).then(|| bucket.to_string())
        };
        let wide: Vec<String> = layout.spec().buckets.iter().filter_map(wide).collect();
        if let Some(first) = wide.first() {
            let others = if wide.len() > 1 { format!(" and {} more", wide.len() - 1) } else { String::new() };
            let text = format!("bucket {first}{others} wants more replicas than there are members: as many are kept");
            list.add_with("fewer_than_n", text, "quorate layout plan --add NAME");
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
