//! `/admin/workers`: what runs in the background; `/admin/workers/{name}/{verb}`: what one of it is told.

use axum::extract::Request;
use http::Method;

use super::Api;
use super::owners::json;
use super::problem::Problem;
use super::routes::Answer;
use crate::kv::Steer;

const PATH: &str = "/admin/workers";

/// What a path asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    List,
    /// A worker's name, and the verb as it was spelt.
    Steer(String, String),
}

impl Asked {
    /// None for a path that is none of these.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path.strip_prefix(PATH)? {
            "" => Some(Self::List),
            below => {
                let (name, verb) = below.strip_prefix('/')?.split_once('/')?;
                let right = !name.is_empty() && !verb.is_empty() && !verb.contains('/');
                right.then(|| Self::Steer(name.to_owned(), verb.to_owned()))
            }
        }
    }
}

pub(super) fn answer(api: &Api, asked: Asked, request: &Request) -> Result<Answer, Problem> {
    if let Some(name) = request.uri().query().and_then(|query| query.split(['=', '&']).find(|name| !name.is_empty())) {
        return Err(Problem::bad_parameter(format!("the parameter {name} means nothing here")));
    }
    match (asked, request.method()) {
        (Asked::List, &Method::GET | &Method::HEAD) => json(&api.node.workers_view()),
        (Asked::List, _) => Err(Problem::method("GET, HEAD")),
        (Asked::Steer(name, verb), &Method::POST) => {
            let steer: Steer = verb.parse()?;
            json(&api.node.steer(&name, steer)?)
        }
        (Asked::Steer(..), _) => Err(Problem::method("POST")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_list_or_a_worker_and_a_verb() {
        assert_eq!(Asked::at("/admin/workers"), Some(Asked::List));
        assert_eq!(Asked::at("/admin/workers/hints/run"), Some(Asked::Steer("hints".into(), "run".into())));
        for other in
            ["/admin/workers/", "/admin/workers/hints", "/admin/workers//run", "/admin/workers/a/b/c", "/admin"]
        {
            assert_eq!(Asked::at(other), None, "{other}");
        }
    }
}
