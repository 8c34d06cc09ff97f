//! HTTP/1.1 as the load speaks it: the WebSocket upgrade, and publishing over a connection that is kept.

use std::io::Write as _;

use anyhow::{Result, bail};

/// The key that the bench gives its publishers.
pub const API_KEY: &str = "bench-bench-bench-bench-bench-bench";

/// The upgrade. The key is RFC 6455's example, so that a server may answer with a constant.
pub const UPGRADE: &[u8] = b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n\
    Host: 127.0.0.1\r\n\
    Connection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A response that has arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: &'a [u8],
    /// Its length with its headers, in bytes.
    pub len: usize,
}

/// The response that `input` begins with, if it is all there.
///
/// # Errors
/// If it is no HTTP, or its length isn't given by `Content-Length`.
pub fn response(input: &[u8]) -> Result<Option<Response<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let start = match response.parse(input)? {
        httparse::Status::Complete(start) => start,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or_default();
    if status == 101 {
        return Ok(Some(Response { status, body: &[], len: start }));
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let Some(length) = length else { bail!("a response of status {status} without Content-Length") };
    let end = start + std::str::from_utf8(length.value)?.trim().parse::<usize>()?;
    Ok(input.get(start..end).map(|body| Response { status, body, len: end }))
}

/// Appends a request to publish `payload` as the event `update`, of which perhaps only the newest matters.
pub fn write_publish(out: &mut Vec<u8>, room: &str, payload: &[u8], latest: bool) {
    const BEFORE: &[u8] = br#"{"event":"update","data":"#;
    let after = end_of_event(latest);
    // Writing to a `Vec` can't fail.
    let _ = write!(
        out,
        "POST /v1/rooms/{room}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        BEFORE.len() + payload.len() + after.len()
    );
    out.extend_from_slice(BEFORE);
    out.extend_from_slice(payload);
    out.extend_from_slice(after);
}

fn end_of_event(latest: bool) -> &'static [u8] {
    if latest { br#","delivery":"latest"}"# } else { b"}" }
}

/// Appends an item of a batch request, as [`write_publish`] would ask for it.
pub fn write_batch_item(out: &mut Vec<u8>, room: &str, payload: &[u8], latest: bool) {
    out.push(if out.is_empty() { b'[' } else { b',' });
    // Writing to a `Vec` can't fail.
    let _ = write!(out, r#"{{"kind":"roomEvent","room":"{room}","event":"update","data":"#);
    out.extend_from_slice(payload);
    out.extend_from_slice(end_of_event(latest));
}

/// Appends a batch request of some items.
pub fn write_batch(out: &mut Vec<u8>, items: &[u8]) {
    let _ = write!(
        out,
        "POST /v1/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        items.len() + 1
    );
    out.extend_from_slice(items);
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_taken_when_its_body_is_there() {
        let bytes = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1";
        assert_eq!(response(&bytes[..bytes.len() - 9]).unwrap(), None);
        assert_eq!(response(bytes).unwrap(), Some(Response { status: 202, body: b"{}", len: bytes.len() - 8 }));
    }

    #[test]
    fn an_upgrade_has_no_body() {
        let bytes = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00";
        let response = response(bytes).unwrap().unwrap();
        assert_eq!((response.status, response.len), (101, bytes.len() - 2));
    }

    #[test]
    fn a_batch_is_an_array() {
        let (mut items, mut out) = (Vec::new(), Vec::new());
        write_batch_item(&mut items, "a", b"1", false);
        write_batch_item(&mut items, "b", b"2", true);
        write_batch(&mut out, &items);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let items: serde_json::Value = serde_json::from_str(body).unwrap();
        let latest = serde_json::json!({
            "kind": "roomEvent", "room": "b", "event": "update", "data": 2, "delivery": "latest"
        });
        assert_eq!(items[1], latest);
    }

    #[test]
    fn a_publish_says_how_long_it_is() {
        let mut out = Vec::new();
        write_publish(&mut out, "room-0001", br#"{"p":1}"#, false);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert_eq!(body, r#"{"event":"update","data":{"p":1}}"#);
    }
}
