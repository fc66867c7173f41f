//! Lists of keys through the client: [`Pages`](crate::kv::Pages) goes through them, over any of the endpoints, as a page's
//! cursor is as good at one node as at another.

use reqwest::Method;

use super::attempt::{Answer, Request};
use super::{Client, read};
use crate::kv::wire::{self, KeyDocument, PageDocument};
use crate::kv::{Error, ErrorCode, KeyPage, ListOptions, Outcome};
use crate::types::Bucket;

impl Client {
    pub(super) async fn page(&self, bucket: &Bucket, options: &ListOptions) -> Result<KeyPage, Error> {
        options.check()?;
        let mut request = Request::new(Method::GET, (super::buckets::path(bucket, "/keys")?, Vec::new()));
        if !options.prefix.is_empty() {
            request.param("prefix_b64", wire::to_base64(&options.prefix));
        }
        request.param("limit", options.limit.to_string());
        request.param("r", options.r.to_string());
        if options.values {
            request.param("values", "1");
        }
        if let Some(cursor) = &options.cursor {
            request.param("cursor", cursor.0.clone());
        }
        let answer: Answer = self.execute(&self.0.endpoints, request, options.timeout, true, true).await?;
        let PageDocument { keys, cursor, gaps, layout, .. } = read(&answer)?;
        let keys: Option<Vec<_>> = keys.into_iter().map(KeyDocument::view).collect();
        let nonsense = || Error::new(ErrorCode::Internal, Outcome::Unknown, "a key of the page makes no sense");
        Ok(KeyPage { keys: keys.ok_or_else(nonsense)?, cursor, gaps, layout })
    }
}
