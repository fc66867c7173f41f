//! Request bodies: bounded before they are buffered, in size and in time.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::Api;
use super::problem::Problem;
use crate::kv::{Error, ErrorCode};

/// Most bytes of a refused body that are read and thrown away, so that a client which sends before it listens hears
/// why it was refused instead of a reset connection.
const DRAIN: usize = 4 << 20;

/// Most bytes of a document that an administrator sends.
const DOCUMENT: usize = 1 << 20;

/// Reads a JSON document. An empty body is an empty document. A member that nothing reads is refused, as a parameter
/// would be: a typo may not weaken what is asked for.
pub(super) async fn document<T: DeserializeOwned>(api: &Api, headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = within(api, headers, body, DOCUMENT).await?;
    let text = if bytes.is_empty() { &b"{}"[..] } else { &bytes[..] };
    serde_json::from_slice(text).map_err(|wrong| Problem::bad_parameter(format!("the body: {wrong}")))
}

/// Reads a whole body of at most `most` bytes: a value.
pub(super) async fn within(api: &Api, headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Problem> {
    bounded(api, headers, body, most).await?.ok_or_else(|| too_large(most))
}

/// Reads a whole body; none where it has more than `most` bytes.
pub(super) async fn bounded(
    api: &Api,
    headers: &HeaderMap,
    mut body: Body,
    most: usize,
) -> Result<Option<Bytes>, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > most)) {
        if !headers.contains_key(header::EXPECT) {
            drain(api, body);
        }
        return Ok(None);
    }
    // Lazy: a body that is already here costs no timer.
    let deadline = async { api.env.clock.sleep(api.limits.body_time).await };
    let late = tokio::select! {
        biased;
        whole = collect(most, &mut body) => match whole {
            Ok(Some(bytes)) => return Ok(Some(bytes)),
            Ok(None) => false,
            Err(problem) => return Err(problem),
        },
        () = deadline => true,
    };
    if late {
        let detail = format!("the body did not come within {:?}", api.limits.body_time);
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "The body came too slowly", detail));
    }
    drain(api, body);
    Ok(None)
}

fn too_large(most: usize) -> Problem {
    Error::refused(ErrorCode::ValueTooLarge, format!("a value has at most {most} bytes")).into()
}

/// The body; none where it is longer than `limit`.
async fn collect(limit: usize, body: &mut Body) -> Result<Option<Bytes>, Problem> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let cut = |_| Problem::new(StatusCode::BAD_REQUEST, "bad_body", "The body is broken", "the body ended early");
        let Ok(data) = frame.map_err(cut)?.into_data() else {
            continue;
        };
        if first.len() + more.len() + data.len() > limit {
            return Ok(None);
        }
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(Some(if more.is_empty() { first } else { more.freeze() }))
}

/// Throws a refused body away beside the answer: at most [`DRAIN`] bytes, for at most the time of a body. One task a
/// connection at most, since the connection takes no further request before.
fn drain(api: &Api, mut body: Body) {
    let deadline = api.env.clock.sleep(api.limits.body_time);
    api.env.tasks.spawn(async move {
        let discard = async {
            let mut left = DRAIN;
            while let Some(Ok(frame)) = body.frame().await {
                let size = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(size) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        tokio::select! {
            biased;
            () = discard => {}
            () = deadline => {}
        }
    });
}
