//! The embedding API: [`Kv`] on a node. Checks what a client may not do, opens and signs its tokens, and shows objects as
//! clients see them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Node;
use crate::causality::{Supersedes, TokenKeys, VersionVector};
use crate::cluster::Standing;
use crate::coordinator::{Floor, Found, WritePlan, Wrote};
use crate::env::BoxFuture;
use crate::kv::{
    BucketAdmin, ContextToken, ETag, Error, ErrorCode, FloorToken, KeyPage, Kv, ListOptions, Outcome, ReadAnswer,
    ReadOptions, Value, WriteAnswer, WriteOptions, check_ttl, expired, open_context, open_floor, payload_of,
    request_of, views,
};
use crate::metrics::Ended;
use crate::quorum::Level;
use crate::types::{Bucket, ObjectId, Wall};

/// Most bytes of user metadata, names and values.
const META_MOST: usize = 2048;

impl Kv for Node {
    fn get(&self, id: ObjectId, options: ReadOptions) -> BoxFuture<'_, Result<ReadAnswer, Error>> {
        Box::pin(async move {
            let began = self.inner.env.clock.now();
            let result = self.read(&id, &options).await;
            let ended = match &result {
                Ok(answer) if answer.siblings.is_empty() => Ended::NotFound,
                Ok(_) => Ended::Ok,
                Err(error) => ended(error),
            };
            self.inner.metrics.reads.record(options.r, ended, self.inner.env.clock.now().since(began));
            result
        })
    }

    fn put(&self, id: ObjectId, value: Value, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.counted_write(id, Some(value), options))
    }

    fn delete(&self, id: ObjectId, options: WriteOptions) -> BoxFuture<'_, Result<WriteAnswer, Error>> {
        Box::pin(self.counted_write(id, None, options))
    }

    fn list(&self, bucket: Bucket, options: ListOptions) -> BoxFuture<'_, Result<KeyPage, Error>> {
        Box::pin(self.counted_list(bucket, options))
    }
}

impl Node {
    async fn read(&self, id: &ObjectId, options: &ReadOptions) -> Result<ReadAnswer, Error> {
        let keys = self.serving()?;
        let floor = options.floor.as_ref().map(|token| floor_of(&keys, id, token)).transpose()?;
        let found = self.inner.coordinator.get(id, options, floor.as_ref()).await?;
        let Found { object, digest, generation, counted, explain, .. } = found;
        let now = self.wall();
        let nothing = VersionVector::new();
        let context = object.as_ref().map_or(&nothing, |object| object.context());
        let siblings = object.as_ref().map_or_else(Vec::new, |object| views(object, now));
        if !siblings.is_empty() {
            self.inner.metrics.quorum.siblings.observe(siblings.len() as f64);
        }
        let (context, floor) = keys.sign_both(id, generation, context);
        Ok(ReadAnswer {
            siblings,
            context: ContextToken(context),
            floor: FloorToken(floor),
            etag: object.as_ref().map(|object| ETag {
                digest: digest.unwrap_or_else(|| object.digest()),
                expired: expired(object, now),
            }),
            counted,
            explain,
        })
    }

    /// The wall clock; where that is known to be wrong, what the other members say that it should be: what has expired is
    /// not for a wrong clock to say.
    pub(super) fn wall(&self) -> Wall {
        let wall = self.inner.env.clock.wall();
        match self.inner.peers.clock_offset() {
            Some((ahead_ms, true)) => Wall(wall.0.saturating_add_signed(-ahead_ms)),
            _ => wall,
        }
    }

    async fn counted_write(
        &self,
        id: ObjectId,
        value: Option<Value>,
        options: WriteOptions,
    ) -> Result<WriteAnswer, Error> {
        let (began, level) = (self.inner.env.clock.now(), options.w);
        let result = self.write(&id, value, options).await;
        let ended = result.as_ref().map_or_else(ended, |_| Ended::Ok);
        self.inner.metrics.writes.record(level, ended, self.inner.env.clock.now().since(began));
        result
    }

    async fn write(&self, id: &ObjectId, value: Option<Value>, options: WriteOptions) -> Result<WriteAnswer, Error> {
        let keys = self.serving()?;
        let rules = self.default_rules().with(&self.bucket_values(&id.bucket));
        if let Some(value) = &value {
            check_value(value, rules.max_value)?;
        }
        if let Some(key) = &options.idempotency_key
            && !(1..=255).contains(&key.len())
        {
            let detail = format!("an Idempotency-Key has 1 to 255 bytes, got {}", key.len());
            return Err(Error::refused(ErrorCode::BadParameter, detail));
        }
        check_ttl(options.ttl, value.is_none())?;
        let context = options.context.as_ref().map(|token| open_context(&keys, id, token)).transpose()?;
        let (shown_under, context) = context.unzip();
        let request = options
            .idempotency_key
            .as_ref()
            .map(|key| request_of(key, id, value.as_ref(), options.ttl, context.as_ref()));
        let supersedes = match value {
            Some(_) => Supersedes::by_put(context, rules.blind_writes),
            None => Supersedes::by_delete(context, rules.blind_writes),
        };
        let supersedes = supersedes.map_err(|wrong| Error::refused(ErrorCode::ContextRequired, wrong.to_string()))?;
        let plan = WritePlan {
            ttl: options.ttl.within(rules.ttl).filter(|_| value.is_some()),
            payload: payload_of(value, self.inner.env.clock.wall()),
            supersedes,
            shown_under,
            floor: options.floor.as_ref().map(|token| floor_of(&keys, id, token)).transpose()?,
            request,
            w: options.w,
            durable: options.durable,
            timeout: options.timeout,
            return_body: options.return_body,
            explain: options.explain,
            max_siblings: rules.max_siblings,
            max_object: rules.max_object,
            // Where a hint is all that is asked for.
            sloppy: options.sloppy || options.w == Level::Any,
        };
        let wrote = self.inner.coordinator.put(id, plan).await?;
        Ok(self.answer(&keys, id, wrote))
    }

    fn answer(&self, keys: &TokenKeys, id: &ObjectId, wrote: Wrote) -> WriteAnswer {
        let now = self.wall();
        // A context names only what its holder was shown.
        let shown = wrote.alone || wrote.object.is_some();
        let (context, floor) = keys.sign_both(id, wrote.generation, &wrote.context);
        WriteAnswer {
            context: shown.then_some(ContextToken(context)),
            floor: FloorToken(floor),
            etag: ETag {
                digest: wrote.digest,
                expired: wrote.object.as_ref().map_or(0, |object| expired(object, now)),
            },
            sibling_count: wrote.siblings,
            siblings: wrote.object.as_ref().map(|object| views(object, now)),
            expires_at: wrote.expires_at,
            replayed: wrote.replayed,
            counted: wrote.counted,
            explain: wrote.explain,
        }
    }

    /// The keys for this cluster's tokens, if this node serves.
    pub(super) fn serving(&self) -> Result<Arc<TokenKeys>, Error> {
        let why = match self.standing() {
            _ if self.inner.draining.load(Ordering::Acquire) => "it is stopping".to_owned(),
            Standing::Serving => match self.token_keys() {
                Some(keys) => return Ok(keys),
                None => "it is starting".to_owned(),
            },
            Standing::Starting => "it is starting".to_owned(),
            Standing::Waiting(why) | Standing::Refused(why) => why,
        };
        let mut error = Error::refused(ErrorCode::NotServing, format!("this node does not serve: {why}"));
        error.retry_after = Some(std::time::Duration::from_millis(500 + self.inner.env.entropy.below(1000)));
        Err(error)
    }
}

fn floor_of(keys: &TokenKeys, id: &ObjectId, token: &FloorToken) -> Result<Floor, Error> {
    let (generation, seen) = open_floor(keys, id, token)?;
    Ok(Floor { generation, seen })
}

fn ended(error: &Error) -> Ended {
    match error.outcome {
        Outcome::NotApplied => Ended::NotApplied,
        Outcome::Unknown | Outcome::Applied => Ended::Unknown,
    }
}

fn check_value(value: &Value, most: u64) -> Result<(), Error> {
    if value.bytes.len() as u64 > most {
        let detail = format!("a value has at most {most} bytes, got {}", value.bytes.len());
        return Err(Error::refused(ErrorCode::ValueTooLarge, detail));
    }
    let meta: usize = value.meta.iter().map(|(name, value)| name.len() + value.len()).sum();
    if meta > META_MOST {
        let detail = format!("user metadata has at most {META_MOST} bytes, got {meta}");
        return Err(Error::refused(ErrorCode::BadParameter, detail));
    }
    Ok(())
}
