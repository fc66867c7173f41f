//! Expiry: what has outlived its horizon leaves the disk. Readers do not wait for it: they see expired values as absent
//! at once, and objects behind their horizon as never written.
//!
//! Every partition that holds anything is looked at, owned or not: what an ex-owner still has need not be covered by
//! anybody once its time has passed.
//!
//! Bounds: one worker; a look at each partition a minute, chunks of 1,024 index entries, a pause after each.

use std::time::Duration;

use bytes::Bytes;
use tracing::{info, warn};

use super::worker::Roster;
use crate::cluster::LayoutKeeper;
use crate::env::Env;
use crate::replica::{Fault, Replica};
use crate::types::PartitionId;

/// Between two looks at everything.
const ROUND: Duration = Duration::from_secs(60);
/// After each chunk: clients come first.
const GIVE_WAY: Duration = Duration::from_millis(2);

/// Begins to expire, in a task of the node.
pub fn start(env: &Env, replica: Replica, keeper: LayoutKeeper, roster: &Roster) {
    let this = Expiry { env: env.clone(), replica };
    let worker = roster.register("expiry", "Drops what has outlived its horizon from the disk.", None);
    let mut bell = worker.bell();
    env.tasks.spawn(async move {
        loop {
            // Not all nodes at once.
            let pause = ROUND / 2 + Duration::from_millis(this.env.entropy.below(60_000));
            worker.rest(&mut bell, pause).await;
            let Some(newest) = keeper.newest() else { continue };
            let (_run, mut dropped) = (worker.begin(), 0);
            for partition in newest.grid().partitions() {
                worker.progress(u64::from(partition.0), u64::from(newest.grid().q()));
                worker.allowed().await;
                match this.expire(partition).await {
                    Ok(some) => dropped += some,
                    // Clients have enough to do here; and a disk that takes no deletes is told of elsewhere.
                    Err(Fault::Overloaded | Fault::ReadOnly(_)) => {}
                    Err(Fault::Stopping) => return,
                    Err(fault) => {
                        warn!(%partition, %fault, "what has expired could not be dropped yet");
                        worker.failed(format!("partition {partition}: {fault}"));
                    }
                }
            }
            if dropped > 0 {
                info!(dropped, "what has expired is gone from the disk");
            }
        }
    });
}

struct Expiry {
    env: Env,
    replica: Replica,
}

impl Expiry {
    async fn expire(&self, partition: PartitionId) -> Result<u64, Fault> {
        let (mut after, mut dropped) = (Bytes::new(), 0);
        loop {
            let (some, next) = self.replica.expire(partition, after).await?;
            dropped += some;
            match next {
                Some(next) => after = next,
                None => return Ok(dropped),
            }
            self.env.clock.sleep(GIVE_WAY).await;
        }
    }
}
