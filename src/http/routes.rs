//! Which request goes where.
//!
//! Objects take nearly all requests, so they are told by their path's beginning, before axum: its routing (a tree of
//! paths, parameters nobody reads, three boxes) costs a tenth of a small read. Everything else is a [`Router`]'s. No path
//! is known to both, so the two cannot part.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::{Api, kv};

/// An answer of this edge: its body is there as a whole.
pub(super) type Answer = Response<Full<Bytes>>;
/// A body as the connection sends it.
pub(super) type AnyBody = Either<Full<Bytes>, Body>;

/// What a listener serves.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Answers for objects, where this listener has them.
    objects: Option<Arc<Api>>,
    rest: TowerToHyperService<Router>,
}

impl Routes {
    /// A router, and before it the objects of `api`.
    pub(super) fn with_objects(api: Arc<Api>, rest: Router) -> Self {
        Self { objects: Some(api), rest: TowerToHyperService::new(rest) }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<AnyBody> {
        match &self.objects {
            Some(api) if kv::takes(request.uri().path()) => {
                let to_head = request.method() == Method::HEAD;
                let answer = kv::route(api, request).await;
                if to_head { without_body(answer) } else { answer }.map(Either::Left)
            }
            _ => {
                let Ok(answer) = Box::pin(self.rest.call(request)).await;
                answer.map(Either::Right)
            }
        }
    }
}

impl From<Router> for Routes {
    fn from(rest: Router) -> Self {
        Self { objects: None, rest: TowerToHyperService::new(rest) }
    }
}

/// What HEAD is told: all but the body.
fn without_body(mut answer: Answer) -> Answer {
    if let Some(length) = answer.body().size_hint().exact() {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    *answer.body_mut() = Full::default();
    answer
}
