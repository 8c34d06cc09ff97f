//! The browser's client, at `/socket.io/socket.io.js` and similar paths. Every Socket.IO server has it, so a page needs
//! no bundler.
//!
//! The files are from the npm package `socket.io-client` (see `client/README.md`). They are checked in compressed, and
//! sent compressed to clients that accept gzip. The files are the same for everybody, so any page may load them,
//! whatever `CORS_ORIGIN` says.

use std::io::Read as _;
use std::sync::OnceLock;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::accept::elements;
use super::problem::Problem;

/// The route of the files. The path without a file name belongs to the engine.
pub(super) const PATTERN: &str = "/socket.io/{file}";

/// The version of the package as an entity tag, in the form of the reference server.
const TAG: &str = "\"4.8.4\"";

/// The names of the gzip coding (RFC 9110 §8.4.1.3).
const GZIP: [&str; 2] = ["gzip", "x-gzip"];

/// A compressed file.
struct File {
    name: &'static str,
    packed: &'static [u8],
    /// The uncompressed file, made at the first request of a client that does not accept gzip.
    plain: OnceLock<Option<Bytes>>,
}

macro_rules! files {
    ($($name:literal,)+) => {
        [$(File {
            name: $name,
            packed: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/client/", $name, ".gz")),
            plain: OnceLock::new(),
        },)+]
    };
}

static FILES: [File; 8] = files![
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
    "socket.io.msgpack.min.js",
    "socket.io.msgpack.min.js.map",
];

impl File {
    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.name.ends_with(".map") {
            true => "application/json; charset=utf-8",
            false => "application/javascript; charset=utf-8",
        })
    }

    fn plain(&self) -> Option<Bytes> {
        let unpacked = || {
            let mut plain = Vec::new();
            match GzDecoder::new(self.packed).read_to_end(&mut plain) {
                Ok(_) => Some(plain.into()),
                Err(error) => {
                    tracing::error!(file = self.name, %error, "unpack a file of the browser's client");
                    None
                }
            }
        };
        self.plain.get_or_init(unpacked).clone()
    }
}

pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let file = FILES.iter().find(|file| file.name == name);
    let file = file.ok_or_else(|| Problem::of_status(StatusCode::NOT_FOUND))?;
    let common = [
        (ETAG, HeaderValue::from_static(TAG)),
        (CACHE_CONTROL, HeaderValue::from_static("public, max-age=0")),
        (VARY, HeaderValue::from_static("Accept-Encoding")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ];
    if is_known(&headers) {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    let content_type = [(CONTENT_TYPE, file.content_type())];
    if unpacks(&headers) {
        let encoding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        return Ok((common, content_type, encoding, Bytes::from_static(file.packed)).into_response());
    }
    let plain = file.plain().ok_or_else(Problem::internal)?;
    Ok((common, content_type, plain).into_response())
}

/// Whether the client has this version (RFC 9110 §13.1.2).
fn is_known(headers: &HeaderMap) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == TAG)
}

fn unpacks(headers: &HeaderMap) -> bool {
    let mut any = false;
    for coding in elements(headers, ACCEPT_ENCODING) {
        let is_taken = coding.quality > 0.0;
        if GZIP.iter().any(|name| coding.is(name)) {
            return is_taken;
        }
        any |= coding.is("*") && is_taken;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_whole_and_of_this_version() {
        for file in &FILES {
            let plain = file.plain().expect("it can be unpacked");
            let text = std::str::from_utf8(&plain).expect("UTF-8");
            match file.name.strip_suffix(".map") {
                Some(source) => {
                    let map: serde_json::Value = serde_json::from_str(text).expect("JSON");
                    assert_eq!(map["file"], source);
                }
                None => {
                    assert!(text.contains(&format!("Socket.IO v{}\n", TAG.trim_matches('"'))), "{}", file.name);
                    assert!(
                        text.trim_end().ends_with(&format!("//# sourceMappingURL={}.map", file.name)),
                        "{}",
                        file.name
                    );
                }
            }
        }
    }

    #[test]
    fn a_packed_file_is_for_who_unpacks_it() {
        let unpacks = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            unpacks(&headers)
        };
        for takes in ["gzip", "deflate, GZIP;q=0.5", "x-gzip", "*", "br;q=1.0, gzip;q=0.8, *;q=0.1"] {
            assert!(unpacks(takes), "{takes}");
        }
        for takes in ["", "identity", "br", "gzip;q=0", "gzip;q=0, *", "*;q=0"] {
            assert!(!unpacks(takes), "{takes}");
        }
        assert!(!super::unpacks(&HeaderMap::new()));
    }
}
