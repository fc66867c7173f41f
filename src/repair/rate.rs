//! How many bytes a second a worker may move, so that clients keep the rest.

use std::sync::{Arc, Mutex, PoisonError};

use crate::env::{Clock, Env};
use crate::pacing::TokenBucket;

/// A worker's share. What it moves waits here, in whatever order it comes.
pub(super) struct Rate {
    clock: Arc<dyn Clock>,
    /// None: as many as there are.
    bucket: Option<Mutex<TokenBucket>>,
    burst: u64,
}

impl Rate {
    /// At most so many bytes a second, at most `burst` of them at once; 0 a second: as many as there are.
    pub(super) fn new(env: &Env, per_second: u64, burst: u64) -> Self {
        let burst = burst.max(1);
        let bucket = (per_second > 0).then(|| Mutex::new(TokenBucket::new(per_second, burst, env.clock.now())));
        Self { clock: Arc::clone(&env.clock), bucket, burst }
    }

    /// Waits until these bytes may be moved.
    pub(super) async fn pace(&self, bytes: u64) {
        let Some(bucket) = &self.bucket else { return };
        let mut left = bytes;
        while left > 0 {
            let (now, some) = (self.clock.now(), left.min(self.burst));
            let taken = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now, some);
            match taken {
                Ok(()) => left -= some,
                Err(wait) => self.clock.sleep(wait).await,
            }
        }
    }
}
