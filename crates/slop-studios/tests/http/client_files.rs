//! The browser's client and the icon, as browsers ask for them.

use std::io::Read as _;

use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::api::send;
use crate::server::Server;

const FILES: [&str; 4] = ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.msgpack.min.js"];

/// An answer whose body need not be text.
async fn fetch(server: &Server, path: &str, headers: &[(&str, &str)]) -> (u16, http::HeaderMap, Bytes) {
    let stream = TcpStream::connect(server.address).await.expect("the server takes connections");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1 begins");
    let connection = tokio::spawn(connection);
    let mut request = http::Request::builder().uri(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request")).await;
    let (parts, body) = response.expect("it is answered").into_parts();
    let body = body.collect().await.expect("the answer is whole").to_bytes();
    connection.abort();
    (parts.status.as_u16(), parts.headers, body)
}

#[tokio::test]
async fn every_file_is_there_packed_and_not() {
    let server = Server::start();
    for file in FILES.iter().flat_map(|file| [file.to_string(), format!("{file}.map")]) {
        let path = format!("/socket.io/{file}");
        let (status, headers, plain) = fetch(&server, &path, &[]).await;
        assert_eq!(status, 200, "{file}");
        let kind = if file.ends_with(".map") { "application/json" } else { "application/javascript" };
        for (name, value) in [
            ("content-type", format!("{kind}; charset=utf-8")),
            ("etag", "\"4.8.4\"".to_owned()),
            ("cache-control", "public, max-age=0".to_owned()),
            ("vary", "Accept-Encoding".to_owned()),
            ("access-control-allow-origin", "*".to_owned()),
            ("content-length", plain.len().to_string()),
            ("x-content-type-options", "nosniff".to_owned()),
        ] {
            assert_eq!(headers.get(name).and_then(|found| found.to_str().ok()), Some(&*value), "{file}: {name}");
        }
        assert!(!headers.contains_key("content-encoding"));
        assert!(plain.len() > 40_000, "{file} has {} bytes", plain.len());

        let (status, headers, packed) = fetch(&server, &path, &[("accept-encoding", "gzip, deflate, br, zstd")]).await;
        assert_eq!((status, headers["content-encoding"].as_bytes()), (200, &b"gzip"[..]), "{file}");
        let mut unpacked = Vec::new();
        GzDecoder::new(&*packed).read_to_end(&mut unpacked).expect("it can be unpacked");
        assert!(unpacked == plain && packed.len() < plain.len() / 2, "{file}");
    }
}

#[tokio::test]
async fn a_browser_that_has_it_is_told_so() {
    let server = Server::start();
    for (tag, status) in [
        ("\"4.8.4\"", 304),
        ("W/\"4.8.4\"", 304),
        ("\"a\", \"4.8.4\"", 304),
        ("*", 304),
        ("\"4.8.3\"", 200),
        ("4.8.4", 200),
    ] {
        let (found, headers, body) = fetch(&server, "/socket.io/socket.io.min.js", &[("if-none-match", tag)]).await;
        assert_eq!((found, body.is_empty()), (status, status == 304), "{tag}");
        assert_eq!(headers["etag"], "\"4.8.4\"");
    }
    let head = send(&server, "HEAD", "/socket.io/socket.io.js", &[], b"").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert!(head.header("content-length").parse::<u64>().expect("a length") > 100_000);
}

#[tokio::test]
async fn nothing_else_is_there_and_it_can_be_turned_off() {
    let server = Server::start();
    for path in ["/socket.io/x.js", "/socket.io/socket.io.js.gz", "/socket.io/..%2fCargo.toml", "/socket.io/a/b"] {
        send(&server, "GET", path, &[], b"").await.problem(404, "not_found");
    }
    // The engine's path is the engine's.
    for path in ["/socket.io", "/socket.io/", "/socket.io/?EIO=4"] {
        assert_eq!(send(&server, "GET", path, &[], b"").await.status, 400, "{path}");
    }
    let server = Server::start_with(&[("SERVE_CLIENT", "false")]);
    send(&server, "GET", "/socket.io/socket.io.js", &[], b"").await.problem(404, "not_found");
    assert_eq!(send(&server, "GET", "/socket.io/?EIO=4&transport=polling", &[], b"").await.status, 200);
}

#[tokio::test]
async fn the_icon_is_one() {
    let server = Server::start();
    let (status, headers, icon) = fetch(&server, "/favicon.ico", &[]).await;
    assert_eq!((status, headers["content-type"].as_bytes()), (200, &b"image/x-icon"[..]));
    assert_eq!(headers["cache-control"], "public, max-age=86400");
    // A folder of one picture, which is a PNG.
    assert!(icon.starts_with(&[0, 0, 1, 0, 1, 0]) && icon[22..].starts_with(b"\x89PNG\r\n"), "{icon:?}");
}
