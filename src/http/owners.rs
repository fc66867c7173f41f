//! `/v1/owners/{bucket}/{key}`: where an object lies.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::{HeaderValue, Method, Response, header};
use http_body_util::Full;
use serde::Serialize;

use super::Api;
use super::params::Query;
use super::problem::Problem;
use super::routes::Answer;
use super::uri::object_id;
use crate::kv::{Error, ErrorCode};

pub(super) async fn route(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let started = api.env.clock.now();
    let answer = owners(&api, &request);
    api.finish(request.method(), started, answer)
}

fn owners(api: &Api, request: &Request) -> Result<Answer, Problem> {
    api.check_headers(request.headers())?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::method("GET, HEAD"));
    }
    let query = Query::parse(request.uri().query())?;
    query.only_key()?;
    let id = object_id(request.uri().path(), "/v1/owners", &query)?;
    json(&api.node.owners(&id)?)
}

/// A document as a response.
pub(super) fn json(document: &impl Serialize) -> Result<Answer, Problem> {
    let body = serde_json::to_vec(document)
        .map_err(|error| Error::refused(ErrorCode::Internal, format!("the answer has no JSON form: {error}")))?;
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
