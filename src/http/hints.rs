//! `/admin/hints`: what waits for owners that missed it; `/admin/hints/wait`: until it is with them.

use std::time::Duration;

use axum::extract::Request;
use http::Method;

use super::Api;
use super::owners::json;
use super::params::Query;
use super::problem::Problem;
use super::routes::Answer;
use crate::types::Wall;

/// How long a sync point waits where the request does not say.
const WAIT_FOR: Duration = Duration::from_secs(10);

pub(super) const PATHS: [&str; 2] = ["/admin/hints", "/admin/hints/wait"];

pub(super) async fn answer(api: &Api, request: Request) -> Result<Answer, Problem> {
    let query = request.uri().query();
    match (request.uri().path() == PATHS[0], request.method()) {
        (true, &Method::GET | &Method::HEAD) => {
            if let Some(name) = query.and_then(|query| query.split(['=', '&']).find(|name| !name.is_empty())) {
                return Err(Problem::bad_parameter(format!("the parameter {name} means nothing here")));
            }
            json(&api.node.hints_view())
        }
        (true, _) => Err(Problem::method("GET, HEAD")),
        (false, &Method::POST) => {
            let (patience, until) = sync_point(query.unwrap_or_default())?;
            json(&api.node.wait_for_hints(patience, until).await)
        }
        (false, _) => Err(Problem::method("POST")),
    }
}

/// `timeout`, and `until`: the sync point that an earlier answer named.
fn sync_point(query: &str) -> Result<(Duration, Option<Wall>), Problem> {
    let (mut rest, mut until) = (Vec::new(), None);
    for pair in query.split('&') {
        match pair.strip_prefix("until=") {
            Some(_) if until.is_some() => return Err(Problem::bad_parameter("the parameter until is given twice")),
            Some(millis) => {
                let read = millis.parse().map_err(|_| {
                    Problem::bad_parameter(format!("until is what an earlier answer named, got {millis:?}"))
                })?;
                until = Some(Wall(read));
            }
            None => rest.push(pair),
        }
    }
    Ok((Query::parse(Some(&rest.join("&")))?.only_timeout(WAIT_FOR)?, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_point_is_a_time_and_what_was_answered_before() {
        let read = |query| sync_point(query).ok();
        assert_eq!(read(""), Some((WAIT_FOR, None)));
        assert_eq!(read("until=12&timeout=2s"), Some((Duration::from_secs(2), Some(Wall(12)))));
        for wrong in ["until=", "until=x", "until=1&until=1", "timeout=31s", "timeout=5", "r=1", "till=1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
