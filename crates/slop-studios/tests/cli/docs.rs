//! What the pages and the running server say of the same thing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;

use crate::Place;
use crate::live::Dev;

fn get(url: &str, path: &str) -> Value {
    let address = url.strip_prefix("http://").expect("a plain URL");
    let mut stream = TcpStream::connect(address).expect("the server takes connections");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

/// The file that the page for operators shows, as it stands there.
#[test]
fn the_whole_file_on_the_page_is_accepted() {
    let place = Place::new();
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md"));
    let page = page.expect("the page");
    let (_, file) = page.split_once("```toml\n").expect("a file");
    let (file, _) = file.split_once("```").expect("its end");
    place.write("slop.toml", file);
    let ran = place.run(&["check-config", "--config", "slop.toml"]).ok();
    let settings = file.split("[[").next().expect("settings").matches(" = ").count();
    assert_eq!(ran.stdout.matches(" (file)").count(), settings + file.matches("[[").count(), "{ran:#?}");
}

#[test]
fn the_description_and_the_page_agree_on_readiness() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let description = get(&dev.url, "/openapi.json");
    let ready = &description["paths"]["/health/ready"]["get"];
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/http-api.md"));
    let page = page.expect("the page").to_lowercase();
    let (_, told) = page.split_once("- `get /health/ready`").expect("the page has it");
    let told = told.split("\n- ").next().expect("an entry");
    for part in
        [&ready["summary"], &ready["responses"]["200"]["description"], &ready["responses"]["503"]["description"]]
    {
        let part = part.as_str().expect("a description").to_lowercase();
        assert!(told.contains(&part), "{part:?} is not in {told:?}");
    }
    let codes = &description["components"]["schemas"]["ProblemCode"].to_string();
    for code in ["draining", "store_unavailable"] {
        assert!(codes.contains(code) && told.contains(&format!("`{code}`")), "{code}\n{told}");
    }
    assert_eq!(get(&dev.url, "/health/ready")["status"], "ok");
    dev.stop();
}
