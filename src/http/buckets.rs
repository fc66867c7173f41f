//! Buckets: `/v1/buckets`, `/v1/buckets/{bucket}`, `/v1/buckets/{bucket}/purge`; their keys are listed by `lists`.
//!
//! Any node answers and changes them. A change of a bucket that is configured names the ETag of what was read
//! (`If-Match`), so that nobody's change is lost unseen; it is answered once it is decided, flushed by a majority of the
//! members, and used by those that are up. `waits_for` in the answer names those that do not use it alone yet.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::lists::{self, Listed};
use super::owners::json;
use super::params::{self, Query};
use super::problem::Problem;
use super::routes::Answer;
use super::uri::percent_decode;
use super::{Api, body};
use crate::kv::{BucketAdmin, BucketView, Guard};
use crate::types::Bucket;

const PREFIX: &str = "/v1/buckets";
/// How long a change may take, where the request does not say: one that is under way may have to end first.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn route(State(api): State<Arc<Api>>, request: Request) -> Response<Body> {
    let started = api.env.clock.now();
    let method = request.method().clone();
    let (answer, lines) =
        answer(&api, request).await.map_or_else(|no| (Err(no), None), |(yes, lines)| (Ok(yes), lines));
    let answer = api.finish(&method, started, answer);
    match lines {
        Some(lines) => answer.map(|_| lines.body()),
        None => answer.map(Body::new),
    }
}

/// What a path names.
enum Asked {
    All,
    One(Bucket),
    Purge(Bucket),
    Keys(Bucket),
}

fn asked(path: &str) -> Result<Asked, Problem> {
    let rest = path.strip_prefix(PREFIX).unwrap_or_default().trim_start_matches('/');
    let (name, verb) = rest.split_once('/').map_or((rest, None), |(name, verb)| (name, Some(verb)));
    if name.is_empty() && verb.is_none() {
        return Ok(Asked::All);
    }
    let bad = || Problem::bad_parameter("a % in the path is not followed by two hexadecimal digits");
    let name = percent_decode(name).ok_or_else(bad)?;
    let bucket = Bucket::new(&String::from_utf8_lossy(&name)).map_err(|invalid| Problem::bad_bucket(&invalid))?;
    match verb {
        None => Ok(Asked::One(bucket)),
        Some("purge") => Ok(Asked::Purge(bucket)),
        Some("keys") => Ok(Asked::Keys(bucket)),
        Some(_) => Err(Problem::unrouted(path, &[])),
    }
}

async fn answer(api: &Arc<Api>, request: Request) -> Result<Listed, Problem> {
    let (parts, body) = request.into_parts();
    api.check_headers(&parts.headers)?;
    let asked = match asked(parts.uri.path())? {
        Asked::Keys(bucket) => return lists::keys(api, &parts, bucket).await,
        asked => asked,
    };
    let query = Query::parse(parts.uri.query())?;
    let patience = query.only_timeout(PATIENCE)?;
    let admin = api.node.bucket_admin().ok_or_else(|| Problem::not_yet(PREFIX))?;
    let answer = match (parts.method, asked) {
        (Method::GET | Method::HEAD, Asked::All) => json(&admin.buckets()?),
        (_, Asked::All | Asked::Keys(_)) => Err(Problem::method("GET, HEAD")),
        (Method::GET | Method::HEAD, Asked::One(bucket)) => shown(StatusCode::OK, &admin.bucket(&bucket)?),
        (Method::PUT, Asked::One(bucket)) => put(api, admin, bucket, &parts.headers, body, patience).await,
        (Method::DELETE, Asked::One(bucket)) => {
            let gone = admin.delete_bucket(bucket, guard(&parts.headers)?, patience).await?;
            shown(StatusCode::OK, &gone)
        }
        (_, Asked::One(_)) => Err(Problem::method("GET, HEAD, PUT, DELETE")),
        (Method::POST, Asked::Purge(bucket)) => shown(StatusCode::OK, &admin.purge_bucket(bucket, patience).await?),
        (_, Asked::Purge(_)) => Err(Problem::method("POST")),
    };
    answer.map(|answer| (answer, None))
}

async fn put(
    api: &Api,
    admin: &dyn BucketAdmin,
    bucket: Bucket,
    headers: &HeaderMap,
    body: Body,
    patience: Duration,
) -> Result<Answer, Problem> {
    let guard = guard(headers)?;
    let wish = body::document(api, headers, body).await?;
    let (view, created) = admin.set_bucket(bucket, wish, guard, patience).await?;
    shown(if created { StatusCode::CREATED } else { StatusCode::OK }, &view)
}

fn shown(status: StatusCode, view: &BucketView) -> Result<Answer, Problem> {
    let mut response = json(view)?;
    *response.status_mut() = status;
    if let Some(tag) = view.etag.as_ref().and_then(|tag| HeaderValue::try_from(format!("\"{tag}\"")).ok()) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// What a change takes for granted: one tag or `*` in `If-Match`, `*` in `If-None-Match`.
fn guard(headers: &HeaderMap) -> Result<Guard, Problem> {
    let matches = params::text(headers, header::IF_MATCH.as_str())?.map(str::trim);
    let absent = params::text(headers, header::IF_NONE_MATCH.as_str())?.map(str::trim);
    if absent.is_some_and(|text| text != "*") {
        return Err(Problem::bad_parameter("If-None-Match is * here: the bucket is to be created"));
    }
    let tag = match matches {
        None | Some("*") => matches,
        Some(quoted) => {
            let tag = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let wrong = || Problem::bad_parameter("If-Match is one ETag, quotes and all, or *");
            Some(tag.filter(|tag| !tag.contains('"')).ok_or_else(wrong)?)
        }
    };
    if tag.is_some() && absent.is_some() {
        return Err(Problem::bad_parameter("If-Match and If-None-Match cannot both be true"));
    }
    Ok(Guard { matches: tag.map(str::to_owned), absent: absent.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_buckets_once_decoded() {
        let name = |path: &str| match asked(path) {
            Ok(Asked::All) => "*".to_owned(),
            Ok(Asked::One(bucket)) => bucket.to_string(),
            Ok(Asked::Purge(bucket)) => format!("purge {bucket}"),
            Ok(Asked::Keys(bucket)) => format!("keys of {bucket}"),
            Err(_) => "wrong".to_owned(),
        };
        for (path, named) in [
            ("/v1/buckets", "*"),
            ("/v1/buckets/", "*"),
            ("/v1/buckets/b", "b"),
            ("/v1/buckets/%62", "b"),
            ("/v1/buckets/b/purge", "purge b"),
            ("/v1/buckets/b/keys", "keys of b"),
            ("/v1/buckets/b/", "wrong"),
            ("/v1/buckets/b/purge/x", "wrong"),
            ("/v1/buckets/a%2Fb", "wrong"),
            ("/v1/buckets/%6", "wrong"),
        ] {
            assert_eq!(name(path), named, "{path}");
        }
    }

    #[test]
    fn what_is_taken_for_granted_is_one_tag() {
        let of = |name: header::HeaderName, value: &'static str| {
            guard(&HeaderMap::from_iter([(name, HeaderValue::from_static(value))]))
                .map_err(|wrong| wrong.detail().to_owned())
        };
        assert_eq!(guard(&HeaderMap::new()).unwrap(), Guard::default());
        assert_eq!(of(header::IF_MATCH, "\"ab\"").unwrap().matches.as_deref(), Some("ab"));
        assert_eq!(of(header::IF_MATCH, "*").unwrap().matches.as_deref(), Some("*"));
        assert!(of(header::IF_NONE_MATCH, "*").unwrap().absent);
        for wrong in ["ab", "\"a\", \"b\"", "W/\"ab\"", ""] {
            assert!(of(header::IF_MATCH, wrong).unwrap_err().contains("one ETag"), "{wrong}");
        }
        assert!(of(header::IF_NONE_MATCH, "\"ab\"").is_err());
    }
}
