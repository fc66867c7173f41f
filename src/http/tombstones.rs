//! `/admin/tombstones`: deletions that wait to be removed for good, and for whom.

use axum::extract::Request;
use http::Method;

use super::Api;
use super::owners::json;
use super::problem::Problem;
use super::routes::Answer;

pub(super) const PATH: &str = "/admin/tombstones";

pub(super) fn answer(api: &Api, request: &Request) -> Result<Answer, Problem> {
    if let Some(name) = request.uri().query().and_then(|query| query.split(['=', '&']).find(|name| !name.is_empty())) {
        return Err(Problem::bad_parameter(format!("the parameter {name} means nothing here")));
    }
    match *request.method() {
        Method::GET | Method::HEAD => json(&api.node.tombstones_view()),
        _ => Err(Problem::method("GET, HEAD")),
    }
}
