//! What a proxy's headers and a path of its own change. Real proxies are in `e2e/node/test/proxies.test.js`.

use std::process::Stdio;

use serde_json::json;

use crate::api::{accepted, get, metric, post, send};
use crate::server::Server;

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

#[tokio::test]
async fn a_refused_page_and_its_operator_are_told_the_setting() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let settings = [("LOG_LEVEL", "debug"), ("CORS_ORIGIN", "https://other.example/")];
    let mut server = Server::start_in_with(data.path(), &settings, Stdio::piped());
    let refused = send(&server, "GET", HANDSHAKE, &[("origin", "https://studio.example")], b"").await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!(4)));
    let message = refused.json()["message"].as_str().expect("a text").to_owned();
    assert!(message.starts_with("Forbidden: ") && message.contains("CORS_ORIGIN"), "{message}");
    for own in ["https://test", "http://TEST:80", "https://other.example:443"] {
        assert_eq!(send(&server, "GET", HANDSHAKE, &[("origin", own)], b"").await.status, 200, "{own}");
    }
    server.signal("TERM");
    assert!(server.wait().await.success());
    let log = server.log();
    let line = log.lines().find(|line| line.contains("refuse a page")).expect("a line");
    for part in ["DEBUG", "CORS_ORIGIN", "https://studio.example", "host", "test", "X-Forwarded-Host"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_the_host() {
    let server = Server::start_with(&[("TRUSTED_PROXIES", "127.0.0.0/8")]);
    let page = ("origin", "https://studio.example");
    for (said, status) in [("studio.example", 200), ("studio.example:443", 200), ("evil.example", 403)] {
        let headers = [page, ("x-forwarded-host", said), ("x-forwarded-proto", "https")];
        assert_eq!(send(&server, "GET", HANDSHAKE, &headers, b"").await.status, status, "{said}");
    }
    let server = Server::start();
    let headers = [page, ("x-forwarded-host", "studio.example")];
    assert_eq!(send(&server, "GET", HANDSHAKE, &headers, b"").await.status, 403);
}

#[tokio::test]
async fn everything_works_under_a_base_path_and_links_have_it() {
    let server = Server::start_with(&[("BASE_PATH", "/realtime/")]);
    for base in ["", "/realtime"] {
        let index = get(&server, &format!("{base}/")).await;
        let links: Vec<&str> = index.text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() >= 5, "{}", index.text);
        for link in links {
            assert!(link.starts_with("/realtime/"), "{link}");
            assert_eq!(get(&server, link).await.status, 200, "{link}");
        }
        assert!(index.text.contains("<code>/realtime/socket.io/</code>"), "{}", index.text);

        let moved = get(&server, &format!("{base}/docs")).await;
        assert_eq!((moved.status, moved.header("location")), (303, "/realtime/docs/"));
        let initializer = get(&server, &format!("{base}/docs/swagger-initializer.js")).await;
        assert!(initializer.text.contains("\"/realtime/openapi.json\""), "{}", initializer.text);
        let docs = get(&server, &format!("{base}/docs/")).await;
        assert!(docs.header("content-security-policy").contains("script-src 'self'"));
        let description = get(&server, &format!("{base}/openapi.json")).await.json();
        assert_eq!(description["servers"][0]["url"], "/realtime");

        let event = json!({"progress": 1, "stage": "one"});
        accepted(&post(&server, &format!("{base}/v1/media/a%2Fb/progress"), &event).await);
        let state = get(&server, &format!("{base}/v1/media/a%2Fb")).await;
        assert_eq!(state.json()["mediaId"], "a/b");
        assert_eq!(send(&server, "GET", &format!("{base}{HANDSHAKE}"), &[], b"").await.status, 200);
        get(&server, &format!("{base}/nowhere")).await.problem(404, "not_found");
    }
    let counted = "slop_http_requests_total{route=\"/v1/media/{mediaId}\",method=\"GET\",status=\"200\"}";
    assert_eq!(metric(&server, counted).await, 2.0);

    let server = Server::start();
    let moved = get(&server, "/docs").await;
    assert_eq!((moved.status, moved.header("location")), (303, "/docs/"));
    get(&server, "/realtime/").await.problem(404, "not_found");
}
