//! `/admin/layout` and `/admin/operations`: documents in, documents out. What they mean is the node's
//! ([`LayoutAdmin`](crate::kv::LayoutAdmin)).

use axum::extract::Request;
use http::{Method, StatusCode};

use super::Api;
use super::body::document;
use super::owners::json;
use super::problem::Problem;
use super::routes::Answer;
use crate::kv::layouts::Begun;
use crate::kv::{Error, LayoutAdmin, REPAIR_ID};

/// What a path asks for.
pub(super) enum Asked {
    Layout,
    Plan,
    Commit(String),
    Skip,
    Abort,
    Force,
    Operation(String),
}

impl Asked {
    /// None for a path that is none of these.
    pub(super) fn at(path: &str) -> Option<Self> {
        let one = |text: &str| (!text.is_empty() && !text.contains('/')).then(|| text.to_owned());
        match path.strip_prefix("/admin/")? {
            "layout" => Some(Self::Layout),
            "layout/plans" => Some(Self::Plan),
            "layout/skip" => Some(Self::Skip),
            "layout/abort" => Some(Self::Abort),
            "layout/force" => Some(Self::Force),
            other => match other.strip_prefix("layout/plans/") {
                Some(plan) => plan.strip_suffix("/commit").and_then(one).map(Self::Commit),
                None => other.strip_prefix("operations/").and_then(one).map(Self::Operation),
            },
        }
    }

    const fn reads(&self) -> bool {
        matches!(self, Self::Layout | Self::Operation(_))
    }
}

pub(super) async fn answer(api: &Api, asked: Asked, request: Request) -> Result<Answer, Problem> {
    match (asked.reads(), request.method()) {
        (true, &Method::GET | &Method::HEAD) | (false, &Method::POST) => {}
        (true, _) => return Err(Problem::method("GET, HEAD")),
        (false, _) => return Err(Problem::method("POST")),
    }
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let node = &api.node;
    match asked {
        Asked::Layout => json(&node.layout()),
        Asked::Operation(id) if id.starts_with(REPAIR_ID) => json(&node.repair_operation(&id)?),
        Asked::Operation(id) => json(&LayoutAdmin::operation(&**node, &id)?),
        Asked::Plan => json(&node.plan(document(api, headers, body).await?).await?),
        Asked::Commit(plan) => begun(node.commit(plan, document(api, headers, body).await?).await),
        Asked::Skip => begun(node.skip(document(api, headers, body).await?).await),
        Asked::Abort => begun(node.abort(document(api, headers, body).await?).await),
        Asked::Force => begun(node.force(document(api, headers, body).await?).await),
    }
}

/// It is decided, and takes time.
fn begun(result: Result<Begun, Error>) -> Result<Answer, Problem> {
    let mut response = json(&result?)?;
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
