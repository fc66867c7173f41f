//! Buckets through the client: the documents that any node shows and changes.
//!
//! A change is not tried again where it may have been done: what it names in `If-Match` would not fit any more, and a
//! bucket that is emptied twice is empty, but of more.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Client;
use super::attempt::{Answer, Request};
use crate::kv::{BucketView, Buckets, Error, ErrorCode, Guard, Outcome};
use crate::types::Bucket;

impl Client {
    /// All buckets that are configured.
    pub async fn buckets(&self, patience: Duration) -> Result<Buckets, Error> {
        self.about_buckets(Request::new(Method::GET, ("/v1/buckets".into(), Vec::new())), patience).await
    }

    /// A bucket, configured or not.
    pub async fn bucket(&self, bucket: &Bucket, patience: Duration) -> Result<BucketView, Error> {
        self.about_buckets(Request::new(Method::GET, (path(bucket, "")?, Vec::new())), patience).await
    }

    /// Creates or changes a bucket: `document` is all that it shall be, what it leaves out is as the cluster's default.
    pub async fn set_bucket(
        &self,
        bucket: &Bucket,
        document: &Value,
        guard: &Guard,
        patience: Duration,
    ) -> Result<BucketView, Error> {
        let mut request = Request::new(Method::PUT, (path(bucket, "")?, Vec::new()));
        guarded(&mut request, guard);
        request.header("content-type", "application/json");
        request.body = Some(Bytes::from(document.to_string()));
        self.about_buckets(request, patience).await
    }

    /// Empties a bucket for good, everywhere.
    pub async fn purge_bucket(&self, bucket: &Bucket, patience: Duration) -> Result<BucketView, Error> {
        self.about_buckets(Request::new(Method::POST, (path(bucket, "/purge")?, Vec::new())), patience).await
    }

    /// Takes a bucket away with all that is in it.
    pub async fn delete_bucket(&self, bucket: &Bucket, guard: &Guard, patience: Duration) -> Result<BucketView, Error> {
        let mut request = Request::new(Method::DELETE, (path(bucket, "")?, Vec::new()));
        guarded(&mut request, guard);
        self.about_buckets(request, patience).await
    }

    async fn about_buckets<T: DeserializeOwned>(&self, request: Request, patience: Duration) -> Result<T, Error> {
        let safe = request.method == Method::GET;
        let answer: Answer = self.execute(&self.0.endpoints, request, patience, safe, true).await?;
        let outcome = if safe { Outcome::NotApplied } else { Outcome::Applied };
        let nonsense = |error| Error::new(ErrorCode::Internal, outcome, format!("not the expected document: {error}"));
        serde_json::from_slice(&answer.body).map_err(nonsense)
    }
}

fn guarded(request: &mut Request, guard: &Guard) {
    if let Some(tag) = &guard.matches {
        let quoted = if tag == "*" { tag.clone() } else { format!("\"{tag}\"") };
        request.header("if-match", quoted);
    }
    if guard.absent {
        request.header("if-none-match", "*");
    }
}

pub(super) fn path(bucket: &Bucket, verb: &str) -> Result<String, Error> {
    match bucket.as_str() {
        "." | ".." => Err(Error::refused(ErrorCode::BadParameter, "a URL cannot name the buckets . and ..")),
        name => Ok(format!("/v1/buckets/{name}{verb}")),
    }
}
