//! The steward: proposes the changes that need no operator (`ring::auto`).
//!
//! Every member has one. So that they do not all propose at once, each waits a little longer than those before it in the
//! order of store ids; when two propose all the same, the decision picks one, and the other finds nothing left to wish.
//! A wish is proposed once it has held for a while: nodes that start together join together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::{Joiners, LayoutKeeper, ProposeError, Proposed, Standing};
use crate::env::Env;
use crate::peers::Peers;
use crate::replica::Replica;
use crate::ring::Member;
use crate::ring::auto::{Declined, Seen, Why, wish};
use crate::ring::risk::may_lose;
use crate::types::{Mono, StoreId};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(250);
/// How long a wish holds before it is proposed.
const HOLD: Duration = Duration::from_secs(1);
/// How long a decision that was begun is left to whoever began it.
const UNDECIDED: Duration = Duration::from_secs(15);
/// How much longer each one waits than the one before it.
const STEP: Duration = Duration::from_millis(500);
/// How long a proposal tries.
const PATIENCE: Duration = Duration::from_secs(10);

/// Proposes what needs no operator. Clones are the same steward.
#[derive(Clone)]
pub struct Steward {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    keeper: LayoutKeeper,
    replica: Replica,
    peers: Peers,
    joiners: Joiners,
    auto_join: bool,
    declined: Mutex<Vec<Declined>>,
}

impl std::fmt::Debug for Steward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steward").field("joiners", &self.inner.joiners).finish_non_exhaustive()
    }
}

impl Steward {
    /// Begins, in a task of the node.
    #[must_use]
    pub fn start(env: &Env, keeper: LayoutKeeper, peers: Peers, joiners: Joiners, auto_join: bool) -> Self {
        let replica = keeper.inner.replica.clone();
        let inner = Inner { env: env.clone(), keeper, replica, peers, joiners, auto_join, declined: Mutex::default() };
        let this = Self { inner: Arc::new(inner) };
        env.tasks.spawn(this.clone().run());
        this
    }

    /// Who asks to be taken in and is not, and why.
    #[must_use]
    pub fn declined(&self) -> Vec<Declined> {
        self.inner.declined.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn run(self) {
        let clock = Arc::clone(&self.inner.env.clock);
        let mut held: Option<(Why, Mono)> = None;
        let mut down: BTreeMap<StoreId, Mono> = BTreeMap::new();
        loop {
            clock.sleep(EVERY).await;
            let now = clock.now();
            let Some((why, layout)) = self.look(now, &mut down) else {
                held = None;
                continue;
            };
            let since = held.as_ref().filter(|(what, _)| kind(what) == kind(&why)).map_or(now, |(_, since)| *since);
            held = Some((why.clone(), since));
            // Whoever proposed it may be about to have it decided.
            let hold = if why == Why::Undecided { UNDECIDED } else { HOLD };
            if now.since(since) < hold + self.turn() {
                continue;
            }
            held = None;
            if let Why::Skip(stores, names) = &why
                && !self.nothing_is_lost(stores).await
            {
                let mut declined = self.inner.declined.lock().unwrap_or_else(PoisonError::into_inner);
                declined.retain(|declined| !matches!(declined, Declined::MayLose(name) if names.contains(name)));
                declined.extend(names.iter().cloned().map(Declined::MayLose));
                continue;
            }
            match self.inner.keeper.propose(layout, PATIENCE).await {
                Ok(Proposed::Won { layout, .. }) => {
                    info!(version = layout.version(), %why, "a change that needs no operator")
                }
                // Somebody else's, of the same mind or not: it is looked at anew.
                Ok(Proposed::Conflict { .. }) | Err(ProposeError::NotNow(_) | ProposeError::NotServing) => {}
                Err(failed) => warn!(%why, %failed, "a change came to nothing for now"),
            }
        }
    }

    /// What this node wishes for now.
    fn look(&self, now: Mono, down: &mut BTreeMap<StoreId, Mono>) -> Option<(Why, crate::ring::Layout)> {
        let Inner { keeper, peers, joiners, auto_join, declined, .. } = &*self.inner;
        let known = keeper.known().filter(|known| known.is_member() && keeper.standing() == Standing::Serving)?;
        let up = peers.up();
        let members: Vec<StoreId> = known.newest().members().iter().map(|member| member.store).collect();
        down.retain(|store, _| members.contains(store));
        for store in members.into_iter().filter(|store| *store != known.me) {
            if up.is_up(store) {
                down.remove(&store);
            } else {
                down.entry(store).or_insert(now);
            }
        }
        let asking = joiners.now().into_iter().filter(|joiner| !joiner.by_plan);
        let asking: Vec<Member> = asking.map(|joiner| joiner.member).collect();
        let down_for = |store| down.get(&store).map(|since| now.since(*since));
        let in_doubt = self.in_doubt();
        let (joiners, auto_join, pledged) = (&asking[..], *auto_join, keeper.pledged());
        let seen = Seen { joiners, auto_join, in_doubt: &in_doubt, pledged, down_for: &down_for };
        let (wish, mut turned_down) = wish(known.view(), &seen);
        if let Some((Why::Skip(_, names), _)) = &wish {
            let told = declined.lock().unwrap_or_else(PoisonError::into_inner);
            let still = |declined: &&Declined| matches!(declined, Declined::MayLose(name) if names.contains(name));
            turned_down.extend(told.iter().filter(still).cloned());
        }
        *declined.lock().unwrap_or_else(PoisonError::into_inner) = turned_down;
        wish
    }

    /// Whether these can be skipped without losing what was acknowledged. This node says first how far it had sync_acked,
    /// and goes no further in what is left behind: so what it says stays true.
    async fn nothing_is_lost(&self, stores: &BTreeSet<StoreId>) -> bool {
        let in_doubt = self.in_doubt();
        let known = self.inner.keeper.known();
        let allowed = |pledge| {
            known.as_ref().is_some_and(|known| may_lose(&known.chain, stores, &in_doubt, &[pledge]).is_empty())
        };
        // Who pledges goes no further with the newest layout: not where that would help nobody.
        let now = known.as_ref().map_or(u64::MAX, |known| known.view().own().sync_ack);
        if !allowed((self.inner.replica.identity().store(), now)) {
            return false;
        }
        let pledge = match self.inner.keeper.pledge().await {
            Ok(pledge) => pledge,
            Err(fault) => {
                warn!(%fault, "could not say how far this node follows");
                return false;
            }
        };
        allowed(pledge)
    }

    /// Members whose partitions are in doubt, as far as they said so.
    fn in_doubt(&self) -> BTreeSet<StoreId> {
        let Inner { keeper, peers, replica, .. } = &*self.inner;
        let (me, up) = (replica.identity().store(), peers.up());
        let doubtful = |store: StoreId| match store == me {
            true => !replica.health().unsynced().is_empty(),
            false => up.get(store).is_some_and(|peer| peer.mood.in_doubt),
        };
        let newest = keeper.newest();
        let members = newest.iter().flat_map(|layout| layout.members()).map(|member| member.store);
        members.filter(|store| doubtful(*store)).collect()
    }

    /// How long this node lets others go first.
    fn turn(&self) -> Duration {
        let Some(known) = self.inner.keeper.known() else { return Duration::ZERO };
        let up = self.inner.peers.up();
        let before = known.newest().members().iter().filter(|member| member.store < known.me && up.is_up(member.store));
        STEP * u32::try_from(before.count().min(10)).unwrap_or(10)
    }
}

/// A wish stays the same wish while others join in.
fn kind(why: &Why) -> std::mem::Discriminant<Why> {
    std::mem::discriminant(why)
}
