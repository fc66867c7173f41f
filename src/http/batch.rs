//! Batches: `POST /v1/batch`. Up to a hundred operations in one request, carried out side by side, each with the status,
//! outcome and document that it would have had as a request of its own. Not atomic: the whole is a 200 whatever became of
//! its parts.
//!
//! What cannot be read as a batch (a member that there is not, more operations than there may be) is refused as a whole,
//! before anything is done; what is wrong with one operation is that one's result.

use std::sync::Arc;

use axum::extract::{Request, State};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::headers::SERVER_TIMING;
use super::kv::{accepts_envelope, not_found, siblings_stand};
use super::owners::json;
use super::params::{Query, check_described, idempotency_key};
use super::problem::Problem;
use super::routes::Answer;
use super::{Api, body};
use crate::kv::batch::wire::{MEMBERS, OperationDocument, ResultDocument, Results, key_of};
use crate::kv::batch::{BODY_MOST, Done, OPS_MOST, Operation, batch, check_count};
use crate::kv::{Error, ReadAnswer, wire};
use crate::types::{Mono, ObjectId, nearest};

pub(super) async fn route(State(api): State<Arc<Api>>, request: Request) -> Answer {
    let started = api.env.clock.now();
    let method = request.method().clone();
    let answer = Box::pin(answer(&api, request, started)).await;
    api.finish(&method, started, answer)
}

async fn answer(api: &Api, request: Request, started: Mono) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    api.check_headers(&parts.headers)?;
    if parts.method != Method::POST {
        return Err(Problem::method("POST"));
    }
    let query = Query::parse(parts.uri.query())?;
    // What is wrong here is wrong for every operation.
    let explain = query.batch_options(&api.limits)?.explain;
    let (whole, key) = (accepts_envelope(&parts.headers), idempotency_key(&parts.headers)?);
    let bytes = body::bounded(api, &parts.headers, body, BODY_MOST).await?;
    let documents = documents(&bytes.ok_or_else(too_large)?)?;
    let results = perform(api, &query, documents, key.as_deref(), whole).await?;
    let mut response = json(&Results { results })?;
    if explain {
        let time = api.env.clock.now().since(started).as_micros();
        let text = format!("total;dur={}.{:03}", time / 1_000, time % 1_000);
        if let Ok(value) = HeaderValue::try_from(text) {
            response.headers_mut().insert(SERVER_TIMING, value);
        }
    }
    Ok(response)
}

fn too_large() -> Problem {
    let detail = format!("a batch has at most {} MiB: send it in several, or values by themselves", BODY_MOST >> 20);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "value_too_large", "The batch is too large", detail)
}

/// The operations that a body names.
fn documents(body: &[u8]) -> Result<Vec<OperationDocument>, Problem> {
    let bad = |detail: String| Problem::bad_parameter(format!("the body: {detail}"));
    let Whole(operations) = serde_json::from_slice(body).map_err(|wrong| bad(wrong.to_string()))?;
    let Ops { first: operations, count } = operations.ok_or_else(|| bad(r#"it is {"ops":[...]}"#.into()))?;
    check_count(count)?;
    let read = |(at, operation): (usize, Json)| {
        let Json::Object(members) = &operation else {
            return Err(bad(format!("ops[{at}] is no object")));
        };
        if let Some(unknown) = members.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
            let right = nearest(unknown, MEMBERS).unwrap_or_default();
            return Err(bad(format!("ops[{at}]: unknown member {:?}: did you mean {right}?", brief(unknown))));
        }
        serde_json::from_value(operation).map_err(|wrong| bad(format!("ops[{at}]: {wrong}")))
    };
    operations.into_iter().enumerate().map(read).collect()
}

/// The body, as far as it is to be kept: what a hostile one names beside the first hundred operations is counted, no more.
struct Whole(Option<Ops>);

struct Ops {
    first: Vec<Json>,
    count: usize,
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Whole;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(r#"{"ops":[...]}"#)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Whole, A::Error> {
                let mut ops = None;
                while let Some(name) = map.next_key::<String>()? {
                    match (name.as_str(), &ops) {
                        ("ops", None) => ops = Some(map.next_value()?),
                        ("ops", Some(_)) => return Err(A::Error::custom("ops is given twice")),
                        (other, _) => {
                            let text = format!("unknown member {:?}: did you mean ops?", brief(other));
                            return Err(A::Error::custom(text));
                        }
                    }
                }
                Ok(Whole(ops))
            }
        }
        from.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Ops {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Ops;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("that ops is a list of operations")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ops, A::Error> {
                let (mut first, mut count) = (Vec::new(), 0);
                while first.len() < OPS_MOST {
                    let Some(operation) = list.next_element()? else { break };
                    first.push(operation);
                    count += 1;
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Ops { first, count })
            }
        }
        from.deserialize_seq(List)
    }
}

fn brief(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Carries out what can be read, and tells of all in their order.
async fn perform(
    api: &Api,
    query: &Query<'_>,
    documents: Vec<OperationDocument>,
    key: Option<&[u8]>,
    whole: bool,
) -> Result<Vec<ResultDocument>, Problem> {
    let mut results: Vec<Result<ObjectId, ResultDocument>> = Vec::with_capacity(documents.len());
    let mut operations = Vec::with_capacity(documents.len());
    for (at, document) in documents.into_iter().enumerate() {
        match operation(api, query, document, key.map(|key| key_of(key, at))) {
            Ok(operation) => {
                results.push(Ok(operation.id().clone()));
                operations.push(operation);
            }
            Err(problem) => results.push(Err(ResultDocument::of_problem(problem.document()))),
        }
    }
    let mut done = batch(&*api.kv, &*api.env.clock, operations).await?.into_iter();
    let told = |result: Result<ObjectId, ResultDocument>| match result {
        Err(wrong) => Some(wrong),
        Ok(id) => done.next().map(|done| tell(&id, done, whole)),
    };
    Ok(results.into_iter().filter_map(told).collect())
}

fn operation(
    api: &Api,
    query: &Query<'_>,
    document: OperationDocument,
    key: Option<Bytes>,
) -> Result<Operation, Problem> {
    let unsaid = query.batch_options(&api.limits_of(&document.id()?.bucket))?;
    let mut operation = document.operation(&unsaid)?;
    if let Operation::Put(_, value, _) = &operation {
        check_described(value)?;
    }
    if let Operation::Put(_, _, options) | Operation::Delete(_, options) = &mut operation {
        options.idempotency_key = options.idempotency_key.take().or(key);
    }
    Ok(operation)
}

fn tell(id: &ObjectId, done: Done, whole: bool) -> ResultDocument {
    let failed = |error: Error| ResultDocument::of_problem(Problem::from(error).document());
    match done {
        Done::Read(Ok(answer)) => tell_of_read(id, answer, whole),
        Done::Wrote(Ok(answer)) => ResultDocument::of_write(answer),
        Done::Read(Err(error)) | Done::Wrote(Err(error)) => failed(error),
    }
}

/// As a GET tells it; `whole`: with the envelope's members.
fn tell_of_read(id: &ObjectId, answer: ReadAnswer, whole: bool) -> ResultDocument {
    let siblings = answer.siblings.clone();
    let mut result = ResultDocument::of_read(answer);
    let (only, problem) = match siblings.as_slice() {
        _ if whole => return result,
        [] => (None, Some(not_found(format!("{id} has no value")))),
        [only] => (Some(only), None),
        all => (None, Some(siblings_stand(id, all.len()))),
    };
    if let Some(problem) = problem {
        let problem = problem.document();
        (result.status, result.outcome) = (problem.status, problem.outcome);
        result.siblings = result.siblings.filter(|siblings| !siblings.is_empty());
        result.error = Some(problem);
    }
    if let Some((view, value)) = only.and_then(|view| Some((view, view.value.as_ref()?))) {
        result.siblings = None;
        result.value_b64 = Some(wire::to_base64(&value.bytes));
        result.content_type.clone_from(&value.content_type);
        result.meta.clone_from(&value.meta);
        result.expires_at = view.expires_at.map(crate::kv::date::rfc3339);
    }
    result
}
