//! Buckets as this node is asked about them: what the chain says and what was gossiped, put together; changes in both.
//!
//! The chain first: it decides whose change comes when, and makes the id that the gossiped part belongs to. A change
//! waits, as long as its patience lasts, for one that is under way, and begins again where another was decided instead;
//! what it takes for granted ([`Guard`]) is then looked at anew, so that no two changes of one bucket miss each other.

use std::time::Duration;

use super::Node;
use crate::causality::BlindWrites;
use crate::cluster::{Known, ProposeError, Proposed, Unset};
use crate::env::BoxFuture;
use crate::kv::{
    BucketAdmin, BucketRules, BucketValues, BucketView, BucketWish, Buckets, Error, ErrorCode, Guard, Outcome, Settings,
};
use crate::ring::buckets::{BucketError, delete, purge, set};
use crate::ring::change::NotNow;
use crate::ring::live::Awaited;
use crate::ring::{BucketSettings, Layout};
use crate::types::{Bucket, Mono};

/// Between two looks at whether a change that is under way is complete.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Node {
    /// What requests of no particular bucket go by.
    pub(super) fn default_rules(&self) -> BucketRules {
        let (cluster, node) = (&self.inner.config.cluster, &self.inner.config.node);
        BucketRules {
            ttl: None,
            r: cluster.r,
            w: cluster.w,
            blind_writes: BlindWrites::Sibling,
            max_value: node.max_value as u64,
            max_siblings: node.max_siblings,
            max_object: node.max_object as u64,
            sloppy: false,
        }
    }

    fn newest(&self) -> Result<Layout, Error> {
        self.inner.keeper.newest().ok_or_else(nowhere)
    }

    fn view_of(&self, bucket: &Bucket) -> Result<BucketView, Error> {
        let known = self.inner.keeper.known().ok_or_else(nowhere)?;
        let chained = known.newest().settings(bucket);
        let values = self.inner.buckets.values(bucket, chained.id);
        Ok(BucketView {
            layout: known.newest().version(),
            waits_for: waits_for(&known),
            etag: self.tag(bucket, chained),
            ..BucketView::new(bucket, chained, &values, &self.default_rules())
        })
    }

    /// Names the state a bucket is in; none where it is not configured.
    fn tag(&self, bucket: &Bucket, chained: &BucketSettings) -> Option<String> {
        let own = self.inner.buckets.settings(bucket, chained.id);
        chained.is_configured().then(|| tag_of(bucket, chained, own.as_ref()))
    }

    /// Has the layout that `make` makes of the newest one decided; none where nothing has to change.
    async fn decide(
        &self,
        deadline: Mono,
        make: impl Fn(&Layout) -> Result<Option<Layout>, Error>,
    ) -> Result<Option<Layout>, Error> {
        let (clock, keeper) = (&self.inner.env.clock, &self.inner.keeper);
        let left = || deadline.since(clock.now());
        loop {
            let Some(next) = make(&self.newest()?)? else { return Ok(None) };
            match keeper.propose(next, left()).await {
                Ok(Proposed::Won { layout, .. }) => return Ok(Some(layout)),
                Ok(Proposed::Conflict { .. }) if !left().is_zero() => {}
                Ok(Proposed::Conflict { winner }) => {
                    let detail = format!("layout {} was decided instead, by somebody else", winner.version());
                    return Err(Error::refused(ErrorCode::LayoutConflict, detail));
                }
                // Another change is under way, or the layout is a newer one by now.
                Err(ProposeError::NotNow(
                    NotNow::Unfinished { .. } | NotNow::NothingToAbort { .. } | NotNow::Chain(_),
                )) if left() > LOOK_EVERY => {
                    clock.sleep(LOOK_EVERY).await;
                }
                Err(ProposeError::NotNow(why)) => {
                    let waits = keeper.known().map_or_else(Vec::new, |known| waits_for(&known)).join(", ");
                    let detail = format!("{why}; it waits for {waits}; `quorate status` tells what to do about it");
                    return Err(Error::refused(ErrorCode::LayoutRefused, detail));
                }
                Err(ProposeError::NotServing) => {
                    return Err(Error::refused(ErrorCode::NotServing, ProposeError::NotServing.to_string()));
                }
                Err(undecided) => {
                    let detail = format!("{undecided}; the bucket shows whether it was");
                    return Err(Error::new(ErrorCode::Undecided, Outcome::Unknown, detail));
                }
            }
        }
    }

    /// Waits until all members that are up use the newest layout: none of them then answers by the one before.
    async fn followed(&self, deadline: Mono) {
        let (clock, keeper, peers) = (&self.inner.env.clock, &self.inner.keeper, &self.inner.peers);
        while clock.now() < deadline {
            let Some(known) = keeper.known() else { return };
            let up = peers.up();
            let mut waits = known.view().waits_for().into_iter();
            if !waits.any(|(store, awaited)| awaited == Awaited::Ack && (store == known.me || up.is_up(store))) {
                return;
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }

    async fn set(
        &self,
        bucket: Bucket,
        wish: BucketWish,
        guard: Guard,
        patience: Duration,
    ) -> Result<(BucketView, bool), Error> {
        self.serving()?;
        let deadline = self.inner.env.clock.now() + patience;
        let left = || deadline.since(self.inner.env.clock.now());
        self.inner.buckets.gather(left()).await.map_err(|unset| unset_error(&unset))?;
        let before = self.newest()?;
        let created = !before.settings(&bucket).is_configured();
        let defaults = self.default_rules();
        let decided = self.decide(deadline, |newest| {
            let now = newest.settings(&bucket);
            guard.check(&bucket, self.tag(&bucket, now).as_deref(), true)?;
            let wanted = wish.wanted(now, &newest.spec().default_bucket)?;
            let next = set(newest, &bucket, &wanted).map_err(|wrong| bucket_error(&wrong))?;
            let after = next.as_ref().unwrap_or(newest);
            wish.values(&defaults, after.settings(&bucket).replicas_in(after))?;
            Ok(next)
        });
        let decided = decided.await?;
        let layout = decided.clone().map_or_else(|| self.newest(), Ok)?;
        let chained = layout.settings(&bucket);
        let values = wish.values(&defaults, chained.replicas_in(&layout))?;
        if values != self.inner.buckets.values(&bucket, chained.id) {
            self.inner.buckets.change(&bucket, chained.id, &values, left()).await.map_err(|unset| {
                let mut error = unset_error(&unset);
                if decided.is_some() {
                    error.outcome = Outcome::Unknown;
                    error.detail = format!(
                        "n, regions and mode are decided (layout {}), the rest is not: {unset}; read the bucket, then \
                         change it again",
                        layout.version()
                    );
                }
                error
            })?;
        }
        if decided.is_some() {
            self.followed(deadline).await;
        }
        Ok((self.view_of(&bucket)?, created))
    }

    async fn empty(&self, bucket: Bucket, patience: Duration) -> Result<BucketView, Error> {
        self.serving()?;
        let deadline = self.inner.env.clock.now() + patience;
        let make = |newest: &Layout| purge(newest, &bucket).map(Some).map_err(|wrong| bucket_error(&wrong));
        self.decide(deadline, make).await?;
        self.followed(deadline).await;
        self.view_of(&bucket)
    }

    async fn remove(&self, bucket: Bucket, guard: Guard, patience: Duration) -> Result<BucketView, Error> {
        self.serving()?;
        let deadline = self.inner.env.clock.now() + patience;
        if guard.matches.is_some() {
            let left = deadline.since(self.inner.env.clock.now());
            self.inner.buckets.gather(left).await.map_err(|unset| unset_error(&unset))?;
        }
        let make = |newest: &Layout| {
            guard.check(&bucket, self.tag(&bucket, newest.settings(&bucket)).as_deref(), false)?;
            delete(newest, &bucket).map(Some).map_err(|wrong| bucket_error(&wrong))
        };
        self.decide(deadline, make).await?;
        self.followed(deadline).await;
        self.view_of(&bucket)
    }
}

impl BucketAdmin for Node {
    fn bucket_values(&self, bucket: &Bucket) -> BucketValues {
        let known = self.inner.keeper.look();
        known.as_ref().map_or_else(BucketValues::default, |known| {
            self.inner.buckets.values(bucket, known.newest().settings(bucket).id)
        })
    }

    fn bucket(&self, bucket: &Bucket) -> Result<BucketView, Error> {
        self.view_of(bucket)
    }

    fn buckets(&self) -> Result<Buckets, Error> {
        let layout = self.newest()?;
        let configured = layout.spec().buckets.iter().filter(|(_, settings)| settings.is_configured());
        Ok(Buckets { buckets: configured.map(|(bucket, _)| self.view_of(bucket)).collect::<Result<_, _>>()? })
    }

    fn set_bucket(
        &self,
        bucket: Bucket,
        wish: BucketWish,
        guard: Guard,
        patience: Duration,
    ) -> BoxFuture<'_, Result<(BucketView, bool), Error>> {
        Box::pin(self.set(bucket, wish, guard, patience))
    }

    fn purge_bucket(&self, bucket: Bucket, patience: Duration) -> BoxFuture<'_, Result<BucketView, Error>> {
        Box::pin(self.empty(bucket, patience))
    }

    fn delete_bucket(
        &self,
        bucket: Bucket,
        guard: Guard,
        patience: Duration,
    ) -> BoxFuture<'_, Result<BucketView, Error>> {
        Box::pin(self.remove(bucket, guard, patience))
    }
}

fn tag_of(bucket: &Bucket, chained: &BucketSettings, own: Option<&Settings>) -> String {
    let BucketSettings { id, generation, n, n_in_region, mode, role } = chained;
    let text = format!("{bucket} {id} {generation} {n} {n_in_region:?} {} {}", mode.word(), role.word());
    let mut hasher = blake3::Hasher::new();
    hasher.update(text.as_bytes());
    if let Some(own) = own {
        hasher.update(&own.encode());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The members that a change waits for. Who has done its own part, and only waits for others, is none of them.
fn waits_for(known: &Known) -> Vec<String> {
    let waits = known.view().waits_for();
    let holds_up = waits.iter().any(|(_, awaited)| *awaited != Awaited::SyncAck);
    let name = |store| {
        let newest = known.newest();
        newest.member_by_store(store).map(|index| newest.member(index).name.clone())
    };
    let to_tell = waits.into_iter().filter(|(_, awaited)| !holds_up || *awaited != Awaited::SyncAck);
    to_tell.filter_map(|(store, _)| name(store)).collect()
}

fn nowhere() -> Error {
    Error::refused(ErrorCode::NotServing, "this node is not in a cluster yet")
}

fn bucket_error(wrong: &BucketError) -> Error {
    let code = match wrong {
        BucketError::NotConfigured(_) => ErrorCode::NotKnown,
        BucketError::TooMany => ErrorCode::LayoutRefused,
        BucketError::NoLayout(_) => ErrorCode::Internal,
        _ => ErrorCode::BadParameter,
    };
    Error::refused(code, wrong.to_string())
}

fn unset_error(unset: &Unset) -> Error {
    let (code, outcome) = match unset {
        Unset::NotServing => (ErrorCode::NotServing, Outcome::NotApplied),
        Unset::TooFew { .. } => (ErrorCode::QuorumUnavailable, Outcome::NotApplied),
        Unset::Unknown { .. } => (ErrorCode::Undecided, Outcome::Unknown),
        Unset::Fault(_) => (ErrorCode::ReadOnly, Outcome::Unknown),
    };
    Error::new(code, outcome, unset.to_string())
}
