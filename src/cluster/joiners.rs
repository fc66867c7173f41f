//! Nodes with an empty directory that ask to be taken in: they probe members until a layout lists them.
//!
//! What is heard is an opinion that ages: who has not asked for a few seconds has gone, or found its way in. Bound:
//! `MOST` of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::{Clock, Env};
use crate::ring::Member;
use crate::transport::Hello;
use crate::transport::messages::Probe;
use crate::types::{Mono, StoreId};

/// Who has not asked for so long asks no more.
const FORGET_AFTER: Duration = Duration::from_secs(5);
/// Most that are remembered at once.
const MOST: usize = 1000;

/// Who asks to be taken in. Clones are the same list.
#[derive(Clone)]
pub struct Joiners {
    clock: Arc<dyn Clock>,
    asking: Arc<Mutex<BTreeMap<StoreId, Joiner>>>,
}

/// One that asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joiner {
    /// As a layout would name it.
    pub member: Member,
    /// It waits for a plan, and is not taken in by itself.
    pub by_plan: bool,
    last: Mono,
}

impl std::fmt::Debug for Joiners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Joiners").field(&self.asking().len()).finish()
    }
}

impl Joiners {
    pub(super) fn new(env: &Env) -> Self {
        Self { clock: Arc::clone(&env.clock), asking: Arc::default() }
    }

    /// Somebody probes this node, and may want to be taken in.
    pub(super) fn hear(&self, from: &Hello, probe: &Probe) {
        let Probe { weight, by_plan } = *probe;
        let (now, mut asking) = (self.clock.now(), self.asking());
        asking.retain(|_, joiner| now.since(joiner.last) < FORGET_AFTER);
        if weight == 0 || from.cluster.is_some() || asking.len() >= MOST && !asking.contains_key(&from.store) {
            return;
        }
        let member = Member {
            node: from.node,
            store: from.store,
            name: from.name.clone(),
            region: from.region.clone(),
            zone: from.zone.clone(),
            weight,
            peer_address: from.peer_address.clone(),
            client_address: from.client_address.clone(),
        };
        asking.insert(from.store, Joiner { member, by_plan, last: now });
    }

    /// Those that ask now, by store.
    #[must_use]
    pub fn now(&self) -> Vec<Joiner> {
        let now = self.clock.now();
        self.asking().values().filter(|joiner| now.since(joiner.last) < FORGET_AFTER).cloned().collect()
    }

    fn asking(&self) -> MutexGuard<'_, BTreeMap<StoreId, Joiner>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
