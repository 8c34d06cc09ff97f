//! What browsers are told about every page and answer.

use crate::api::send;
use crate::server::{KEY, Server};

#[tokio::test]
async fn every_answer_has_them() {
    let server = Server::start();
    let key = format!("Bearer {KEY}");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/docs/"),
        ("GET", "/docs/swagger-ui.css"),
        ("GET", "/openapi.json"),
        ("GET", "/health/live"),
        ("GET", "/metrics"),
        ("GET", "/v1/media/m"),
        ("GET", "/v1/users/u/notifications"),
        ("POST", "/v1/publish"),
        ("DELETE", "/v1/publish"),
        ("GET", "/nowhere"),
        ("HEAD", "/"),
        ("OPTIONS", "/v1/publish"),
    ] {
        for headers in [&[("authorization", key.as_str())][..], &[]] {
            let answer = send(&server, method, path, headers, b"").await;
            let what = format!("{method} {path} {}", answer.status);
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{what}");
            assert_eq!(answer.header("x-frame-options"), "DENY", "{what}");
            assert_eq!(answer.header("referrer-policy"), "no-referrer", "{what}");
            assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{what}");
            let policy = answer.header("content-security-policy");
            for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
                assert!(policy.contains(part), "{what}: {policy}");
            }
            assert!(!policy.contains("unsafe-eval") && !policy.contains("script-src 'unsafe"), "{what}: {policy}");
            let is_docs = path.starts_with("/docs");
            assert_eq!(answer.header("cache-control"), if is_docs { "" } else { "no-store" }, "{what}");
            assert!(!answer.headers.contains_key("strict-transport-security"), "{what}: there is no TLS");
            assert!(!answer.headers.contains_key("access-control-allow-origin"), "{what}: no page may read it");
            assert!(!answer.headers.contains_key("server"), "{what}");
        }
    }
}

/// A page whose policy forbids what it loads is blank.
#[tokio::test]
async fn the_pages_load_nothing_that_their_policy_forbids() {
    let server = Server::start();
    for path in ["/", "/docs/"] {
        let page = send(&server, "GET", path, &[], b"").await;
        let policy = page.header("content-security-policy").to_owned();
        assert!(policy.contains("script-src 'self'") && policy.contains("connect-src 'self'"), "{policy}");
        let mut scripts = 0;
        for script in page.text.split("<script").skip(1) {
            let (attributes, rest) = script.split_once('>').expect("a tag");
            let source = attributes.split("src=\"").nth(1).and_then(|rest| rest.split('"').next());
            let source = source.unwrap_or_else(|| panic!("a script within {path}, which does not run: {script}"));
            let body = rest.split("</script>").next().unwrap_or_default();
            assert_eq!(body.trim(), "", "{path}");
            let file = source.strip_prefix("./").expect("a file of ours");
            let script = send(&server, "GET", &format!("{path}{file}"), &[], b"").await;
            assert_eq!(script.status, 200, "{file}");
            let kind = script.header("content-type");
            assert!(kind.contains("javascript"), "{file} is {kind}, which nosniff forbids to run");
            scripts += 1;
        }
        assert_eq!(scripts > 0, path == "/docs/");
        for attribute in [" onload=", " onclick=", " onerror=", "javascript:", "http://", "https://"] {
            assert!(!page.text.contains(attribute), "{path} has {attribute}");
        }
        for link in page.text.split("<link").skip(1).filter(|link| link.contains("stylesheet")) {
            let source = link.split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an address");
            let style = send(&server, "GET", &format!("{path}{}", source.trim_start_matches("./")), &[], b"").await;
            assert_eq!(style.status, 200, "{source}");
            assert!(style.header("content-type").starts_with("text/css"), "{source}");
        }
    }
    // Nor is anybody else told of the page.
    let initializer = send(&server, "GET", "/docs/swagger-initializer.js", &[], b"").await;
    assert!(initializer.text.contains(r#""validatorUrl": "none""#), "{}", initializer.text);
}
