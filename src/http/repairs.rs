//! `/admin/repairs`: a comparison with the other owners is begun; `/admin/operations/{id}` tells how far it is.

use axum::extract::Request;
use http::{Method, StatusCode};

use super::Api;
use super::body::document;
use super::owners::json;
use super::problem::Problem;
use super::routes::Answer;

pub(super) const PATH: &str = "/admin/repairs";

pub(super) async fn answer(api: &Api, request: Request) -> Result<Answer, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::method("POST"));
    }
    if let Some(name) = request.uri().query().and_then(|query| query.split(['=', '&']).find(|name| !name.is_empty())) {
        let detail = format!("the parameter {name} means nothing here: what to compare is said in the body");
        return Err(Problem::bad_parameter(detail));
    }
    let (parts, body) = request.into_parts();
    let mut response = json(&api.node.begin_repair(document(api, &parts.headers, body).await?)?)?;
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
