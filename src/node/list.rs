//! Pages of keys, as clients see them.

use super::Node;
use crate::coordinator::{ListPlan, PlannedGap, PlannedPage};
use crate::kv::{
    ETag, Error, ErrorCode, KeyGap, KeyPage, KeyView, LIST_BYTES, ListCursor, ListOptions, Outcome, ReplicaReport,
    views,
};
use crate::types::{Bucket, Key, Wall};

impl Node {
    pub(super) async fn counted_list(&self, bucket: Bucket, options: ListOptions) -> Result<KeyPage, Error> {
        let (clock, lists) = (&self.inner.env.clock, &self.inner.metrics.lists);
        let began = clock.now();
        let page = self.list_page(&bucket, options).await;
        match &page {
            Ok(_) => lists.pages.inc(),
            Err(_) => lists.failures.inc(),
        };
        lists.seconds.observe(clock.now().since(began).as_secs_f64());
        page
    }

    async fn list_page(&self, bucket: &Bucket, options: ListOptions) -> Result<KeyPage, Error> {
        self.serving()?;
        options.check()?;
        let (now, after) = (self.wall(), options.place(bucket)?);
        let ListOptions { prefix, limit, values, r, timeout, .. } = options;
        let plan = ListPlan {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            after,
            keys: limit,
            bytes: LIST_BYTES,
            values,
            r,
            timeout,
            now,
        };
        let PlannedPage { keys, upto, gaps, layout } = self.inner.coordinator.list(&plan).await?;
        let view = |(key, found): (bytes::Bytes, crate::coordinator::FoundKey)| {
            let key = Key::new(key).map_err(|_| {
                Error::new(ErrorCode::Internal, Outcome::Unknown, "an owner listed what can be no key; this is a bug")
            })?;
            let live = |object: &crate::causality::Object, now: Wall| {
                let mut live = views(object, now);
                live.retain(|sibling| sibling.value.is_some());
                live
            };
            Ok(KeyView {
                key,
                etag: ETag { digest: found.digest, expired: found.expired as usize },
                siblings: found.siblings,
                values: found.object.filter(|_| values).map(|object| live(&object, now)),
            })
        };
        let gap = |PlannedGap { partitions, silent }| KeyGap {
            partitions: partitions.iter().map(|partition| partition.0).collect(),
            replicas: silent.into_iter().map(|(node, state)| ReplicaReport { node, state: state.to_owned() }).collect(),
        };
        Ok(KeyPage {
            keys: keys.into_iter().map(view).collect::<Result<_, Error>>()?,
            cursor: upto.map(|key| ListCursor::behind(bucket, &prefix, &key)),
            gaps: gaps.into_iter().map(gap).collect(),
            layout,
        })
    }
}
