//! HTTP over raw sockets, where a URL library would tidy up what is sent; and what must hold at every client listener,
//! whatever stores behind it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) mod spelling;

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The code of a problem, after a check of what every problem carries.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(["applied", "not_applied", "unknown"].contains(&problem["outcome"].as_str().unwrap()));
        assert_eq!(problem["request_id"].as_str(), self.header("quorate-request-id"));
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("urn:quorate:problem:{}", code.replace('_', "-")));
        assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
        code.to_owned()
    }
}

/// Reads one response. `head`: it has no body, whatever its Content-Length says.
pub(crate) async fn receive(stream: &mut TcpStream, head: bool) -> Option<Response> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; if head || status == 204 || status == 304 { 0 } else { length }];
    stream.read_exact(&mut body).await.ok()?;
    Some(Response { status, headers, body })
}

/// Sends these bytes on a connection of their own.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> Response {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    receive(&mut stream, request.starts_with(b"HEAD")).await.expect("an answer")
}

pub(crate) async fn send(
    address: SocketAddr,
    verb: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    raw(address, &request(verb, target.as_bytes(), headers, body)).await
}

pub(crate) fn request(verb: &str, target: &[u8], headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = [verb.as_bytes(), b" ", target, b" HTTP/1.1\r\nhost: x\r\n"].concat();
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    if !body.is_empty() || verb == "PUT" {
        bytes.extend(format!("content-length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}
