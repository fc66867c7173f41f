//! What a driver of rounds asks of an owner, or a holder of hints, and what that one says.

use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::Known;
use crate::collect::{Epoch, NotMarked};
use crate::replica::{Fault, Replica};
use crate::ring::live::holders;
use crate::ring::sync::placements;
use crate::transport::messages::collect::{Collect, CollectStep, Collected, RoundName};
use crate::types::{Bucket, PartitionId, StoreId};

/// Takes a step here; answers how far this node is then. Flushed.
///
/// `heard` are those whom this node has asked, since it started, what they remember of it.
pub async fn take_step(
    replica: &Replica,
    known: &Known,
    heard: impl Fn(StoreId) -> bool,
    asked: Collect,
) -> Result<Collected, Fault> {
    let partition = PartitionId(asked.partition);
    if asked.partition >= known.newest().grid().q() {
        return Err(Fault::Malformed("there is no such partition".into()));
    }
    let live = known.chain.live();
    let owned = placements(live)
        .iter()
        .any(|bucket| live.iter().any(|layout| holders(layout, partition, bucket.as_ref()).contains(known.me)));
    // Also of what it has been told before: it may have been stopped as it was starting over.
    let behind = owned && replica.is_behind(partition, Epoch(asked.sealed).max(replica.sealed(partition)));
    if behind {
        // It has forgotten a mark: it says so, and takes no part until it has what the others hold.
        replica.distrust(partition).await?;
        if asked.step() != CollectStep::Ask {
            return Err(Fault::Syncing);
        }
    }
    let refused = step(replica, known, heard, partition, asked).await?.err();
    let leftover = !owned && !replica.holds_nothing(partition)?;
    let keeps = !owned && !replica.keeps_nothing(partition).await?;
    let Refused { why, differs } = refused.clone().unwrap_or_default();
    let status = Collected::new(&replica.rounds(partition));
    let syncing = owned && !replica.has_vote(partition);
    Ok(Collected { done: refused.is_none(), detail: why, differs, leftover, keeps, syncing, behind, ..status })
}

/// Why a step is not done.
#[derive(Clone, Default)]
struct Refused {
    why: String,
    /// Listed keys under which something else is held.
    differs: Vec<Bytes>,
}

async fn step(
    replica: &Replica,
    known: &Known,
    heard: impl Fn(StoreId) -> bool,
    partition: PartitionId,
    asked: Collect,
) -> Result<Result<(), Refused>, Fault> {
    let step = asked.step();
    if step == CollectStep::Ask {
        return Ok(Ok(()));
    }
    let Some(id) = asked.round.as_ref().and_then(RoundName::id) else {
        return Err(Fault::Malformed("a step names no round".into()));
    };
    let no = |why: &dyn std::fmt::Display| Err(Refused { why: why.to_string(), differs: Vec::new() });
    Ok(match step {
        CollectStep::Ask => Ok(()),
        CollectStep::Mark => {
            let Some(round) = asked.round() else {
                return Err(Fault::Malformed("what a round lists is not what it is named by".into()));
            };
            // With a mark an owner seems to remember all that was sealed before it. One whose directory went back does not, and
            // the other owners are who would know.
            let owners = super::owners(known.newest(), partition);
            if let Some(store) = owners.iter().find(|store| **store != known.me && !heard(**store)) {
                return Ok(no(&format_args!("it has not heard {store} since it started, or does not hear it now")));
            }
            let alone = if let [only] = known.chain.live() { Some(only.version()) } else { None };
            let (layout, me) = (known.newest().clone(), known.me);
            let owns = move |bucket: &Bucket| holders(&layout, partition, Some(bucket)).contains(me);
            match replica.mark(partition, round, alone, Arc::new(owns)).await? {
                Ok(()) => Ok(()),
                Err(NotMarked::Differs(differs)) => {
                    let why = NotMarked::Differs(differs.clone()).to_string();
                    Err(Refused { why, differs })
                }
                Err(why) => no(&why),
            }
        }
        CollectStep::Drain => match replica.drain(partition, id.epoch).await? {
            true => Ok(()),
            false => no(&"hints wait there that were read before the round"),
        },
        CollectStep::Seal => replica.seal(partition, id).await?.or_else(|why| no(&why)),
        CollectStep::Drop => replica.drop_round(partition, id).await?.map(drop).or_else(|why| no(&why)),
        CollectStep::Forget => {
            replica.forget_round(partition, id, asked.given_up).await?;
            Ok(())
        }
    })
}
