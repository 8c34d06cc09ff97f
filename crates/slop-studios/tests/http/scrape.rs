//! `/metrics`: its two forms, by the rules of each, and the numbers of the process.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::api::{Answer, get, post, send, value_of};
use crate::client::Client;
use crate::server::Server;

const TEXT: &str = "text/plain;version=0.0.4";

async fn scrape(server: &Server, accept: &str) -> Answer {
    let answer = send(server, "GET", "/metrics", &[("accept", accept)], b"").await;
    assert_eq!(answer.status, 200);
    answer
}

/// A server of which all kinds of families have a sample.
async fn busy() -> Server {
    let server = Server::start();
    let mut client = Client::connect(&server, "/media").await;
    client.call("subscribeMedia", json!(["m"])).await;
    client.call("authenticate", json!([{"token": "x"}])).await;
    client.emit("nonsense", json!([])).await;
    client.call("joinRoom", json!(["user:another"])).await;
    assert_eq!(post(&server, "/v1/media/m/complete", &json!({"url": "u"})).await.status, 200);
    get(&server, "/v1/nothing").await;
    server
}

/// What the format's description and `promtool check metrics` ask for: each family is described before its samples, once and
/// together; its name has its unit and, if it counts, `_total`.
#[tokio::test]
async fn the_text_format_keeps_its_rules() {
    let server = busy().await;
    let answer = scrape(&server, TEXT).await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let mut described: HashMap<&str, (&str, &str)> = HashMap::new();
    let (mut help, mut family, mut series) = (("", ""), "", HashSet::new());
    for line in answer.text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("a text");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(help.0, name, "help comes first");
            assert!(help.1.len() > 5 && help.1.ends_with('.'), "{name}: {help:?}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(described.insert(name, (kind, help.1)).is_none(), "{name} is there twice");
            family = name;
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (labelled, value) = line.rsplit_once(' ').expect("a value");
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        assert!(series.insert(labelled), "{labelled} is there twice");
        let name = labelled.split('{').next().expect("a name");
        let kind = described[family].0;
        let belongs = match kind {
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|suffix| name.strip_suffix(suffix) == Some(family)),
            _ => name == family,
        };
        assert!(belongs, "{line} stands among the samples of {family}");
    }
    assert!(described.len() > 40, "{described:?}");
    for (name, (kind, _)) in &described {
        assert!(name.starts_with("slop_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        for suffix in ["_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(suffix), "{name} ends as a histogram's sample");
        }
        for part in name.split('_') {
            // Base units only, no abbreviations, no types.
            for wrong in
                ["ms", "sec", "secs", "milliseconds", "minutes", "hours", "days", "kb", "mb", "counter", "gauge"]
            {
                assert_ne!(part, wrong, "{name}");
            }
        }
    }
    for kind in ["counter", "gauge", "histogram"] {
        assert!(described.values().any(|(found, _)| *found == kind), "{kind}");
    }
}

#[tokio::test]
async fn both_forms_have_the_same_samples() {
    let server = busy().await;
    let (open, text) = (scrape(&server, "application/openmetrics-text").await, scrape(&server, TEXT).await);
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text.ends_with("\n# EOF\n") && !text.text.contains("# EOF") && !text.text.contains("# UNIT"));
    // The first look at them is a request like others, which the second one sees.
    let is_others = |line: &&str| !line.starts_with('#') && !line.contains("route=\"/metrics\"");
    let series = |text: &str| -> BTreeSet<String> {
        text.lines().filter(is_others).filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    let (open_series, text_series) = (series(&open.text), series(&text.text));
    assert!(open_series.len() > 100 && open_series == text_series, "{open_series:?} {text_series:?}");
    assert!(open.text.contains("# TYPE slop_build info\n") && text.text.contains("# TYPE slop_build_info gauge\n"));
    // As the scraper of Prometheus 3 asks, and who does not say.
    for accept in ["application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", "*/*"] {
        assert!(scrape(&server, accept).await.header("content-type").starts_with("application/openmetrics-text"));
    }
}

#[tokio::test]
async fn the_page_for_operators_has_every_metric() {
    let server = busy().await;
    let metrics = scrape(&server, TEXT).await.text;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let told: HashSet<&str> = page.split(|c: char| !c.is_ascii_lowercase() && c != '_').collect();
    let families = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<&str> = families.filter(|family| !told.contains(family)).collect();
    assert_eq!(missing, <[&str; 0]>::default(), "docs/operations.md does not name them");
}

#[tokio::test]
async fn the_process_and_the_program_are_there() {
    let server = Server::start();
    let metrics = scrape(&server, TEXT).await.text;
    let value = |name: &str| value_of(&metrics, name).unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
    let resident = value("process_resident_memory_bytes");
    assert!((1e6..1e9).contains(&resident) && value("process_virtual_memory_bytes") > resident);
    let open = value("process_open_fds");
    assert!(open > 10.0 && open < value("process_max_fds"), "{open}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let started = value("process_start_time_seconds");
    assert!((now - 60.0..now + 2.0).contains(&started), "{started} and {now}");
    let build = metrics.lines().find(|line| line.starts_with("slop_build_info{")).expect("the program");
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(build.contains(&version) && build.contains("arch=") && build.ends_with(" 1"), "{build}");

    // Connections count, and processor time only grows.
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(&server, "/").await);
    }
    let again = scrape(&server, TEXT).await.text;
    assert!(value_of(&again, "process_open_fds").expect("it is there") >= open + 5.0);
    assert!(value_of(&again, "process_cpu_seconds_total").expect("it is there") >= value("process_cpu_seconds_total"));
}
