//! `/v1/buckets/{bucket}/keys`: a page of keys, or all of them line by line.
//!
//! A page is one document. Lines are made page by page, as the client reads them: nothing is made ahead of it, and whoever
//! goes away stops it. The last line is a trailer, which says where to go on and what is missing; without it the list was
//! broken off.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::request::Parts;
use http::{HeaderValue, Method, Response, header};
use http_body_util::Full;
use serde::Serialize;

use super::Api;
use super::owners::json;
use super::params::{self, Query};
use super::problem::Problem;
use super::routes::Answer;
use crate::kv::wire::{KeyDocument, LINES_TYPE, ListTrailer, PageDocument, TrailerLine};
use crate::kv::{Error, GapsSeen, KeyPage, LIST_MOST, ListOptions};
use crate::types::Bucket;

/// An answer, and what follows it line by line.
pub(super) type Listed = (Answer, Option<Lines>);

pub(super) async fn keys(api: &Arc<Api>, parts: &Parts, bucket: Bucket) -> Result<Listed, Problem> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Problem::method("GET, HEAD"));
    }
    let accept = params::text(&parts.headers, header::ACCEPT.as_str())?.unwrap_or_default();
    let by_line = accept.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == LINES_TYPE));
    let (options, limit) = Query::parse(parts.uri.query())?.list_options(by_line)?;
    let page = api.kv.list(bucket.clone(), options.clone()).await?;
    if !by_line {
        return Ok((json(&document(&bucket, &page))?, None));
    }
    let mut answer = Response::new(Full::default());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(LINES_TYPE));
    let lines = Lines {
        api: Arc::clone(api),
        bucket,
        options,
        left: limit.unwrap_or(u64::MAX),
        page: Some(page),
        gaps: GapsSeen::default(),
        keys: 0,
    };
    Ok((answer, (parts.method == Method::GET).then_some(lines)))
}

fn document(bucket: &Bucket, page: &KeyPage) -> PageDocument {
    PageDocument {
        bucket: bucket.to_string(),
        keys: page.keys.iter().map(KeyDocument::from).collect(),
        cursor: page.cursor.clone(),
        gaps: page.gaps.clone(),
        layout: page.layout,
    }
}

/// A list on its way.
pub(super) struct Lines {
    api: Arc<Api>,
    bucket: Bucket,
    options: ListOptions,
    /// Keys that may still be listed.
    left: u64,
    /// A page that is there already.
    page: Option<KeyPage>,
    gaps: GapsSeen,
    keys: u64,
}

impl Lines {
    /// The body that brings them.
    pub(super) fn body(self) -> Body {
        Body::from_stream(stream::unfold(Some(self), |lines| async {
            let (text, lines) = lines?.next().await;
            Some((Ok::<_, Infallible>(text), lines))
        }))
    }

    /// The next lines: those of a page that has any, or the trailer.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        let mut text = Vec::new();
        loop {
            let page = match self.page.take() {
                Some(page) => Ok(page),
                None => {
                    self.options.limit = usize::try_from(self.left).unwrap_or(LIST_MOST).min(self.options.limit);
                    self.api.kv.list(self.bucket.clone(), self.options.clone()).await
                }
            };
            let page = match page {
                Ok(page) => page,
                Err(error) => return self.end(text, Some(error)),
            };
            page.keys.iter().for_each(|key| line(&mut text, &KeyDocument::from(key)));
            let listed = page.keys.len() as u64;
            self.gaps.add(&page.gaps);
            self.keys += listed;
            self.left = self.left.saturating_sub(listed);
            self.options.cursor = page.cursor;
            if self.options.cursor.is_none() || self.left == 0 {
                return self.end(text, None);
            }
            if !text.is_empty() {
                return (text.into(), Some(self));
            }
        }
    }

    fn end(self, mut text: Vec<u8>, error: Option<Error>) -> (Bytes, Option<Self>) {
        let cursor = self.options.cursor;
        let trailer = ListTrailer {
            complete: error.is_none() && cursor.is_none() && self.gaps.count() == 0,
            keys: self.keys,
            cursor,
            gaps: self.gaps.gaps().to_vec(),
            error: error.map(|error| Problem::from(error).document()),
        };
        line(&mut text, &TrailerLine { trailer });
        (text.into(), None)
    }
}

fn line(text: &mut Vec<u8>, document: &impl Serialize) {
    let before = text.len();
    match serde_json::to_writer(&mut *text, document) {
        Ok(()) => text.push(b'\n'),
        // Strings and numbers alone: there is nothing in it that has no JSON form.
        Err(_) => text.truncate(before),
    }
}
