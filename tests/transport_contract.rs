//! The transport contract over loopback TCP, and what only TCP can get wrong.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate::env::{BoxFuture, Env};
use quorate::transport::counters::Stats;
use quorate::transport::frame::{self, Kind};
use quorate::transport::handshake::{Handshake, Role, Secrets, Step};
use quorate::transport::tcp::{LinkEvent, TcpConfig, TcpTransport, TokioNet};
use quorate::transport::{CallError, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "transport_contract/suite.rs"]
mod suite;

use suite::{Bench, Echo, Endpoint, ask, hello, told};

const AMPLE: Duration = Duration::from_secs(60);

struct Loopback;

impl Bench for Loopback {
    fn endpoint(&self) -> BoxFuture<'_, Endpoint> {
        Box::pin(async {
            // No probe may come to the rescue of a task that was not woken.
            let (transport, env) =
                tcp(TcpConfig { idle_probe: Duration::from_secs(3600), ..TcpConfig::default() }).await;
            let address = transport.local_address().unwrap().to_owned();
            Endpoint { transport: Arc::new(transport), address, env }
        })
    }

    fn crash<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, ()> {
        Box::pin(endpoint.env.tasks.shutdown())
    }

    fn nowhere(&self) -> String {
        // A port that was just free; nobody else is told of it.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }
}

async fn tcp(config: TcpConfig) -> (TcpTransport, Env) {
    let env = Env::real();
    let config = TcpConfig { listen: Some("127.0.0.1:0".into()), ..config };
    (TcpTransport::bind(env.clone(), Arc::new(TokioNet), config).await.unwrap(), env)
}

async fn serving(n: u128, config: TcpConfig) -> (TcpTransport, String, Arc<Echo>) {
    let (transport, _) = tcp(config).await;
    let address = transport.local_address().unwrap().to_owned();
    let echo = Echo::new();
    transport.serve(hello(n, &address), echo.clone());
    (transport, address, echo)
}

macro_rules! contract {
    ($($check:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            suite::$check(&Loopback).await;
        })*
    };
}

contract!(
    call_and_reply,
    a_thousand_at_once,
    deadlines,
    expected_store,
    admission,
    strangers,
    death,
    nobody_there,
    large_messages,
    slow_requests_block_nobody,
    cancelled_calls_free_their_place,
    serving_anew,
    shutdown,
);

#[tokio::test]
async fn the_whole_suite_on_one_thread() {
    suite::all(&Loopback).await;
}

/// A peer written out by hand, past its handshake.
async fn raw_dialler(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let me = Arc::new(hello(77, "raw"));
    let mut handshake = Handshake::new(Role::Dialler, me, Arc::default(), [9; 32]).unwrap();
    send(&mut stream, Kind::Hello, 0, &handshake.hello()).await;
    let (kind, _, body) = receive(&mut stream).await.unwrap();
    let Step::Send(kind, body) = handshake.receive(kind, &body.into()).unwrap() else { panic!("a proof is due") };
    send(&mut stream, kind, 0, &body).await;
    let (kind, _, body) = receive(&mut stream).await.unwrap();
    assert!(matches!(handshake.receive(kind, &body.into()), Ok(Step::Verified { .. })));
    stream
}

async fn send(stream: &mut TcpStream, kind: Kind, id: u64, body: &[u8]) {
    let mut out = Vec::new();
    frame::put(&mut out, kind, false, id, body);
    stream.write_all(&out).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<(u8, u64, Vec<u8>)> {
    let mut header = [0; frame::HEADER_LEN];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; u32::from_be_bytes(header[4..8].try_into().unwrap()) as usize];
    stream.read_exact(&mut body).await?;
    Ok((header[8], u64::from_be_bytes(header[10..].try_into().unwrap()), body))
}

#[tokio::test]
async fn an_unknown_frame_is_answered_and_a_damaged_one_ends_the_connection() {
    let (transport, address, _) = serving(1, TcpConfig::default()).await;
    let mut peer = raw_dialler(&address).await;
    // A kind of a later version: number 99, with a good checksum.
    let mut unknown = Vec::new();
    frame::put(&mut unknown, Kind::Request, false, 5, b"later");
    unknown[8] = 99;
    let crc = crc32fast::hash(&unknown[4..]);
    unknown[..4].copy_from_slice(&crc.to_be_bytes());
    peer.write_all(&unknown).await.unwrap();
    let (kind, id, body) = receive(&mut peer).await.unwrap();
    assert_eq!((Kind::of(kind), id), (Some(Kind::Reply), 5));
    let reply = <quorate::transport::messages::Reply as prost::Message>::decode(&body[..]).unwrap();
    assert!(matches!(reply.tell, Some(quorate::transport::messages::Tell::Refused(_))), "{reply:?}");
    // A request that is no message: refused, and the connection lives.
    send(&mut peer, Kind::Request, 6, &[0xff; 7]).await;
    assert_eq!(receive(&mut peer).await.unwrap().1, 6);
    // A flipped bit.
    let mut damaged = Vec::new();
    frame::put(&mut damaged, Kind::Request, false, 7, b"damaged");
    damaged[20] ^= 1;
    peer.write_all(&damaged).await.unwrap();
    assert!(receive(&mut peer).await.is_err(), "the connection is closed");
    let stats = transport.counters().snapshot();
    let expected = Stats { bad_checksums: 1, unknown_frames: 1, malformed_requests: 1, ..stats };
    assert_eq!(stats, expected);
    transport.shutdown().await;
}

#[tokio::test]
async fn strangers_get_four_kib_and_no_more() {
    let (transport, address, echo) = serving(1, TcpConfig::default()).await;
    let mut stranger = TcpStream::connect(&address).await.unwrap();
    let mut header = frame::header(Kind::Hello, false, 0, &[]);
    header[4..8].copy_from_slice(&(frame::UNAUTHENTICATED_CAP as u32 + 1).to_be_bytes());
    stranger.write_all(&header).await.unwrap();
    assert!(receive(&mut stranger).await.is_err(), "closed by the header alone");
    // A request before the handshake is over is refused, not served.
    let mut stranger = TcpStream::connect(&address).await.unwrap();
    send(&mut stranger, Kind::Request, 1, &prost::Message::encode_to_vec(&ask("x"))).await;
    assert_eq!(Kind::of(receive(&mut stranger).await.unwrap().0), Some(Kind::Refused));
    assert_eq!(echo.handled.load(Ordering::Relaxed), 0);
    let stats = transport.counters().snapshot();
    assert_eq!((stats.bad_frames, stats.rejected_handshakes), (1, 1));
    transport.shutdown().await;
}

#[tokio::test]
async fn the_secret_decides_and_rotates_while_running() {
    let with = |secrets: &[&[u8]]| TcpConfig { secrets: Secrets::new(secrets), ..TcpConfig::default() };
    let (a, _, _) = serving(1, with(&[b"old"])).await;
    let (b, address, _) = serving(2, with(&[b"new"])).await;
    let error = a.call(&address, None, ask("x"), AMPLE).await.unwrap_err();
    assert!(matches!(&error, CallError::Rejected(text) if text.contains("wrong cluster secret")), "{error:?}");
    b.set_secrets(Secrets::new(&[b"new", b"old"]));
    a.set_secrets(Secrets::new(&[b"old", b"new"]));
    let answer = loop {
        match a.call(&address, None, ask("x"), AMPLE).await {
            Ok(answer) => break answer,
            // Within the backoff the last refusal is told again.
            Err(error) => assert!(error.proves_unseen(), "{error:?}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(told(&answer), "x");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn bounds_are_hit_honestly() {
    let config = TcpConfig { max_in_flight: 10, max_message: 1 << 20, ..TcpConfig::default() };
    let (a, _, _) = serving(1, config.clone()).await;
    let (b, address, echo) = serving(2, config).await;
    told(&a.call(&address, None, ask("open"), AMPLE).await.unwrap());
    let calls = (0..30).map(|_| a.call(&address, None, ask("wait"), Duration::from_millis(200)));
    let answers = futures_util::future::join_all(calls).await;
    let unsent = answers.iter().filter(|answer| matches!(answer, Err(CallError::Busy(_)))).count();
    let late = answers.iter().filter(|answer| matches!(answer, Err(CallError::TimedOut))).count();
    assert_eq!((unsent, late), (20, 10));
    assert_eq!(a.counters().snapshot().in_flight_bound_hits, 20);
    assert_eq!(echo.handled.load(Ordering::Relaxed), 11, "what was not sent was not seen");
    let error = a.call(&address, None, ask(vec![0; 2 << 20]), AMPLE).await.unwrap_err();
    assert!(matches!(error, CallError::Busy(_)), "{error:?}");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_dead_link_is_noticed_though_it_never_breaks() {
    // A peer that shakes hands and then says nothing, as TCP does that a partition killed.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mute = async {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut handshake =
                Handshake::new(Role::Listener, Arc::new(hello(9, "mute")), Arc::default(), [1; 32]).unwrap();
            for _ in 0..2 {
                let (kind, _, body) = receive(&mut stream).await.unwrap();
                match handshake.receive(kind, &body.into()).unwrap() {
                    Step::Send(kind, body) => send(&mut stream, kind, 0, &body).await,
                    Step::Verified { welcome, .. } => send(&mut stream, Kind::Proof, 0, &welcome.unwrap()).await,
                }
            }
            open.push(stream);
        }
    };
    let config = TcpConfig { probe_timeout: Duration::from_millis(20), ..TcpConfig::default() };
    let (a, _, _) = serving(1, config).await;
    let downs = Arc::new(AtomicUsize::new(0));
    let seen = downs.clone();
    a.on_link(move |_, event| {
        if matches!(event, LinkEvent::Down(_)) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    let noticed = async {
        let long = a.call(&address, None, ask("long"), AMPLE);
        let short = a.call(&address, None, ask("short"), Duration::from_millis(20));
        let (long, short) = tokio::join!(long, short);
        assert_eq!(short.unwrap_err(), CallError::TimedOut);
        assert!(matches!(&long, Err(CallError::Lost(why)) if why.contains("silent")), "{long:?}");
    };
    tokio::select! {
        () = mute => unreachable!(),
        () = noticed => {}
    }
    assert_eq!(a.counters().snapshot().silent_peers, 1);
    a.shutdown().await;
    assert_eq!(downs.load(Ordering::Relaxed), 1, "told once");
}

#[tokio::test]
async fn the_port_is_free_after_shutdown() {
    let (transport, address, _) = serving(1, TcpConfig::default()).await;
    let peer = raw_dialler(&address).await;
    transport.shutdown().await;
    drop(peer);
    let config = TcpConfig { listen: Some(address), ..TcpConfig::default() };
    let again = TcpTransport::bind(Env::real(), Arc::new(TokioNet), config).await.unwrap();
    again.shutdown().await;
}

/// Run by hand, in release: prints CPU time per request and reply of one process that is both ends.
#[test]
#[ignore = "prints a figure, asserts nothing"]
fn cost_per_call() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (a, _, _) = serving(1, TcpConfig::default()).await;
        let (b, address, _) = serving(2, TcpConfig::default()).await;
        let a = Arc::new(a);
        let calls = 400_000;
        let cpu = cpu_micros();
        let workers: Vec<_> = (0..256)
            .map(|_| {
                let (a, address) = (a.clone(), address.clone());
                runtime.spawn(async move {
                    for _ in 0..calls / 256 {
                        a.call(&address, None, ask(&b"0123456789012345678901234567890123456789"[..]), AMPLE)
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        let stats = a.counters().snapshot();
        let per_call = (cpu_micros() - cpu) as f64 / f64::from(calls);
        let per_write = stats.frames_out as f64 / stats.writes as f64;
        println!("{per_call:.2} us CPU per call and reply, {per_write:.1} frames per write");
        a.shutdown().await;
        b.shutdown().await;
    });
}

/// CPU time of this process so far, by /proc (hundredths of a second).
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}
