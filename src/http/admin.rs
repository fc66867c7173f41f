//! The admin listener: health, metrics, and documents on how things are.
//!
//! Health is open to everybody who reaches the listener, so that orchestrators need no secret; all else asks for the
//! bearer token where one is set. Layouts, hints, workers, repairs and tombstones are files
//! of their own.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::any;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body_util::Full;

use super::owners::json;
use super::problem::Problem;
use super::routes::{Answer, Routes};
use super::{Api, hints, layouts, repairs, tombstones, workers};
use crate::kv::{Error, ErrorCode, Members};

/// A secret that admin requests must carry. Kept as a hash, compared in constant time.
#[derive(Clone)]
pub struct AdminToken(blake3::Hash);

impl AdminToken {
    /// Requests must say `Authorization: Bearer` and this text.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(blake3::hash(secret.as_bytes()))
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|value| value.split_at_checked(7));
        match given {
            Some((scheme, secret)) if scheme.eq_ignore_ascii_case(b"bearer ") && blake3::hash(secret) == self.0 => {
                Ok(())
            }
            _ => {
                let detail = "this listener wants the admin token: Authorization: Bearer …";
                let problem = Problem::from(Error::refused(ErrorCode::Unauthorized, detail));
                Err(problem.header(header::WWW_AUTHENTICATE, "Bearer realm=\"quorate admin\""))
            }
        }
    }
}

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// Paths that are written down and not built yet.
const NOT_YET: [&str; 5] = ["/admin/drain", "/admin/snapshots", "/admin/staleness", "/admin/regions", "/admin/faults"];

#[derive(Debug)]
struct Admin {
    api: Arc<Api>,
    token: Option<AdminToken>,
}

/// The admin API.
pub fn admin_router(api: Arc<Api>, token: Option<AdminToken>) -> Routes {
    Router::new().fallback(any(route)).with_state(Arc::new(Admin { api, token })).into()
}

async fn route(State(admin): State<Arc<Admin>>, request: Request) -> Answer {
    let started = admin.api.env.clock.now();
    let method = request.method().clone();
    let answer = answer(&admin, request).await;
    admin.api.finish(&method, started, answer)
}

async fn answer(admin: &Admin, request: Request) -> Result<Answer, Problem> {
    let api = &admin.api;
    api.check_headers(request.headers())?;
    let path = request.uri().path().to_owned();
    let path = path.as_str();
    let health = matches!(path, "/livez" | "/readyz");
    if let (Some(token), false) = (&admin.token, health) {
        token.check(request.headers())?;
    }
    if let Some(asked) = layouts::Asked::at(path) {
        return layouts::answer(api, asked, request).await;
    }
    if hints::PATHS.contains(&path) {
        return hints::answer(api, request).await;
    }
    if path == repairs::PATH {
        return repairs::answer(api, request).await;
    }
    if path == tombstones::PATH {
        return tombstones::answer(api, &request);
    }
    if let Some(asked) = workers::Asked::at(path) {
        return workers::answer(api, asked, &request);
    }
    if !(health || matches!(path, "/metrics" | "/admin/status" | "/admin/members" | "/admin/ring")) {
        return Err(Problem::unrouted(path, &NOT_YET));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::method("GET, HEAD"));
    }
    match path {
        "/livez" => Ok(text("ok\n".to_owned(), "text/plain; charset=utf-8")),
        "/readyz" => match api.node.ready() {
            Ok(()) => Ok(text("ok\n".to_owned(), "text/plain; charset=utf-8")),
            Err(why) => Err(Error::refused(ErrorCode::NotServing, why).into()),
        },
        "/metrics" => Ok(text(api.node.metrics_text(), "application/openmetrics-text; version=1.0.0; charset=utf-8")),
        "/admin/members" => json(&Members { members: api.node.status().members }),
        "/admin/ring" => json(&api.node.ring()),
        _ => json(&api.node.status()),
    }
}

fn text(body: String, media_type: &'static str) -> Answer {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
