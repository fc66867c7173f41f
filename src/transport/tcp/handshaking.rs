//! Runs the handshake over a stream: the shell around [`crate::transport::handshake`].

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::net::Stream;
use super::{Identity, Inner};
use crate::transport::counters::count;
use crate::transport::frame::{self, Frame, Kind, UNAUTHENTICATED_CAP};
use crate::transport::handshake::{Handshake, HandshakeError, Nonce, Role, Step};
use crate::transport::{CallError, Hello};

/// A connection whose handshake is over.
pub(super) struct Opened {
    pub(super) peer: Arc<Hello>,
    pub(super) stream: Box<dyn Stream>,
    /// What was read past the handshake.
    pub(super) input: BytesMut,
}

/// Shakes hands within the configured time, as the dialler of an address or, without one, as the listener. No request was sent before, so an error proves that none was seen.
pub(super) async fn open(
    inner: &Inner,
    dialled: Option<&str>,
    identity: &Identity,
    stream: Box<dyn Stream>,
) -> Result<Opened, CallError> {
    let result = inner.env.timeout(inner.config.handshake_timeout, shake(inner, dialled, identity, stream)).await;
    let result = result.unwrap_or_else(|_| Err(CallError::NotSent("the handshake took too long".into())));
    match &result {
        Err(CallError::Rejected(_)) => count(&inner.counters.rejected_handshakes),
        Err(_) => count(&inner.counters.failed_handshakes),
        Ok(_) => {}
    }
    result
}

async fn shake(
    inner: &Inner,
    dialled: Option<&str>,
    identity: &Identity,
    mut stream: Box<dyn Stream>,
) -> Result<Opened, CallError> {
    let mut input = BytesMut::new();
    let role = if dialled.is_some() { Role::Dialler } else { Role::Listener };
    let mut handshake =
        Handshake::new(role, identity.hello.clone(), inner.secrets.load_full(), nonce(inner)).map_err(rejected)?;
    if let Some(address) = dialled.filter(|address| identity.handler.lists(address)) {
        handshake = handshake.to_member(address).map_err(rejected)?;
    }
    if role == Role::Dialler {
        send(&mut stream, Kind::Hello, &handshake.hello()).await?;
    }
    loop {
        let frame = receive(inner, &mut stream, &mut input).await?;
        match handshake.receive(frame.kind, &frame.body) {
            Ok(Step::Send(kind, body)) => send(&mut stream, kind, &body).await?,
            Ok(Step::Verified { peer, protocol: _, welcome }) => {
                if let Err(text) = identity.handler.admit(&peer) {
                    return Err(refuse(&mut stream, &text).await);
                }
                if let Some(proof) = welcome {
                    send(&mut stream, Kind::Proof, &proof).await?;
                }
                return Ok(Opened { peer, stream, input });
            }
            Err(error @ HandshakeError::Refused(_)) => return Err(rejected(error)),
            Err(HandshakeError::OtherCluster { mine, stranger }) => {
                identity.handler.overhear(&stranger);
                let error = HandshakeError::OtherCluster { mine, stranger };
                return Err(refuse(&mut stream, &error.to_string()).await);
            }
            Err(error) => return Err(refuse(&mut stream, &error.to_string()).await),
        }
    }
}

fn nonce(inner: &Inner) -> Nonce {
    let mut nonce = Nonce::default();
    let (high, low) = nonce.split_at_mut(16);
    high.copy_from_slice(&inner.env.entropy.u128().to_be_bytes());
    low.copy_from_slice(&inner.env.entropy.u128().to_be_bytes());
    nonce
}

fn rejected(error: HandshakeError) -> CallError {
    CallError::Rejected(error.to_string())
}

/// Tells the peer why, as far as it still listens; that it did not hear changes nothing here.
async fn refuse(stream: &mut Box<dyn Stream>, text: &str) -> CallError {
    let cut = text.floor_char_boundary(UNAUTHENTICATED_CAP.min(text.len()));
    if send(stream, Kind::Refused, &text.as_bytes()[..cut]).await.is_ok() {
        // A close with unread bytes would be a reset, which can overtake the text.
        drop(stream.shutdown().await);
    }
    CallError::Rejected(text.to_owned())
}

async fn send(stream: &mut Box<dyn Stream>, kind: Kind, body: &[u8]) -> Result<(), CallError> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, false, 0, body);
    let written = async {
        stream.write_all(&out).await?;
        stream.flush().await
    };
    written.await.map_err(|error| CallError::NotSent(format!("handshake: {error}")))
}

async fn receive(inner: &Inner, stream: &mut Box<dyn Stream>, input: &mut BytesMut) -> Result<Frame, CallError> {
    loop {
        match frame::decode(input, UNAUTHENTICATED_CAP) {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(error) => {
                let checksum = error == frame::FrameError::Checksum;
                count(if checksum { &inner.counters.bad_checksums } else { &inner.counters.bad_frames });
                return Err(CallError::NotSent(format!("handshake: {error}")));
            }
        }
        input.reserve(UNAUTHENTICATED_CAP);
        match stream.read_buf(input).await {
            Ok(0) => return Err(CallError::NotSent("the peer closed the connection during the handshake".into())),
            Ok(_) => {}
            Err(error) => return Err(CallError::NotSent(format!("handshake: {error}"))),
        }
    }
}
