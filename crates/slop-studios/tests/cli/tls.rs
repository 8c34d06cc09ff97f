//! Settings of TLS, and the client commands against a server that has it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::live::{Dev, PATIENCE};
use crate::{Place, Ran, SECRET};

const KEY: &str = "publisher-key-of-the-tls-tests-32-bytes";

/// Writes a certificate for this machine's loopback address, and its key.
fn write_certificate(place: &Place, certificate: &str, key: &str) {
    write_certificate_for(place, certificate, key, &["127.0.0.1", "localhost"]);
}

fn write_certificate_for(place: &Place, certificate: &str, key: &str, names: &[&str]) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a certificate");
    place.write(certificate, &cert.pem());
    place.write(key, &signing_key.serialize_pem());
}

fn check(place: &Place, certificate: &str, key: &str) -> Ran {
    let env = [("JWT_SECRET", SECRET), ("API_KEYS", KEY), ("TLS_CERT_FILE", certificate), ("TLS_KEY_FILE", key)];
    place.run_with(&["check-config"], &env)
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let place = Place::new();
    for (alone, other) in [("TLS_CERT_FILE", "TLS_KEY_FILE"), ("TLS_KEY_FILE", "TLS_CERT_FILE")] {
        let ran = place.run_with(&["check-config"], &[("JWT_SECRET", SECRET), (alone, "some.pem")]).refused();
        assert!(ran.stderr.contains(&format!("{alone} is set and {other} is not")), "{ran:#?}");
    }
    let ran = place.run_with(&["check-config"], &[("JWT_SECRET", SECRET), ("API_KEYS", KEY)]).ok();
    assert!(ran.stdout.contains("TLS_CERT_FILE = \"\" (default)\n"), "{ran:#?}");
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let place = Place::new();
    write_certificate(&place, "cert.pem", "key.pem");
    write_certificate(&place, "other.pem", "other-key.pem");
    place.write("empty.pem", "");
    place.write("broken.pem", "-----BEGIN CERTIFICATE-----\nhidden!\n-----END CERTIFICATE-----\n");
    place.write("nonsense.pem", "-----BEGIN CERTIFICATE-----\naGlkZGVu\n-----END CERTIFICATE-----\n");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGlkZGVu\n-----END ENCRYPTED PRIVATE KEY-----\n";
    place.write("encrypted.pem", encrypted);
    let ran = check(&place, "cert.pem", "key.pem").ok();
    assert!(ran.stdout.contains("TLS_KEY_FILE = key.pem (env)\n"), "{ran:#?}");
    for (certificate, key, said) in [
        ("none.pem", "key.pem", "TLS_CERT_FILE: can't read none.pem: No such file"),
        ("empty.pem", "key.pem", "TLS_CERT_FILE: empty.pem has no certificate"),
        ("key.pem", "key.pem", "TLS_CERT_FILE: key.pem has no certificate"),
        ("broken.pem", "key.pem", "TLS_CERT_FILE: can't read broken.pem: it is not in PEM form"),
        ("nonsense.pem", "key.pem", "TLS_CERT_FILE: the first certificate in nonsense.pem can't be read"),
        ("cert.pem", "none.pem", "TLS_KEY_FILE: can't read none.pem: No such file"),
        ("cert.pem", "cert.pem", "TLS_KEY_FILE: cert.pem has no private key"),
        ("cert.pem", "encrypted.pem", "without a password"),
        ("cert.pem", "other-key.pem", "the key in other-key.pem is not that of the certificate in cert.pem"),
    ] {
        let ran = check(&place, certificate, key).failed();
        assert!(ran.stderr.contains(said), "{said}\n{ran:#?}");
        assert!(!ran.stderr.contains("hidden") && !ran.stderr.contains("aGlk"), "{ran:#?}");
        // The server itself says the same, and does not start without.
        let serve = ["serve", "--port", "0", "--host", "127.0.0.1", "--jwt-secret", SECRET];
        let files = ["--tls-cert-file", certificate, "--tls-key-file", key];
        let ran = place.run(&[&serve[..], &files[..]].concat()).failed();
        assert!(ran.stderr.contains(said) && ran.stdout.is_empty(), "{said}\n{ran:#?}");
    }
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(place: &Place) -> Self {
        let serve = ["serve", "--port", "0", "--host", "127.0.0.1", "--jwt-secret", SECRET, "--api-keys", KEY];
        let files = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"];
        let mut command = place.command(&[&serve[..], &files[..]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a first line");
        let url = line.trim_end().strip_prefix("listening on ").expect("the start-up line").to_owned();
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn listen_and_publish_trust_whom_they_are_told_to() {
    let place = Place::new();
    write_certificate(&place, "cert.pem", "key.pem");
    write_certificate(&place, "other.pem", "other-key.pem");
    let server = Server::start(&place);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let publish = |url: &str, ca: &[&str]| {
        let command = ["publish", "--url", url, "--key", KEY];
        let event = ["room", "project-1", "projectUpdate", "{}"];
        place.run(&[&command[..], ca, &event[..]].concat())
    };
    let ran = publish(&server.url, &["--ca", "cert.pem"]).ok();
    assert!(ran.stdout.contains("\"delivered\""), "{ran:#?}");
    let ran = publish(&server.url, &[]).failed();
    assert!(ran.stderr.contains("--ca"), "it says what to do: {ran:#?}");
    let ran = publish(&server.url, &["--ca", "other.pem"]).failed();
    assert!(ran.stderr.contains("certificate"), "{ran:#?}");
    let ran = publish(&server.url, &["--ca", "key.pem"]).failed();
    assert!(ran.stderr.contains("key.pem has no certificate"), "{ran:#?}");
    let plain = server.url.replace("https", "http");
    let ran = publish(&plain, &["--ca", "cert.pem"]).failed();
    assert!(ran.stderr.contains("--ca is for servers with TLS"), "{ran:#?}");
    publish(&plain, &[]).failed();

    let listen = ["listen", "--url", &server.url, "--room", "project-1", "--event", "projectUpdate"];
    let listen = [&listen[..], &["--count", "1", "--timeout", "20", "--ca", "cert.pem"]].concat();
    let mut listener = place.command(&listen).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut progress = BufReader::new(listener.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.contains("joined the room")), "listen ends without having joined");
    publish(&server.url, &["--ca", "cert.pem"]).ok();
    let ran = Ran::from(listener.wait_with_output().expect("it ends")).ok();
    assert!(ran.stdout.contains("projectUpdate"), "{ran:#?}");
}

/// Both `publish` and `listen` end with these words.
#[track_caller]
fn assert_told(place: &Place, url: &str, ca: &[&str], told: &str) {
    let publish = ["publish", "--url", url, "--key", KEY, "room", "r", "e", "{}"];
    let lines = ["publish", "--url", url, "--key", KEY, "ndjson"];
    let listen = ["listen", "--url", url, "--room", "r", "--timeout", PATIENCE];
    for command in [&publish[..], &lines[..], &listen[..]] {
        place.write("events", r#"{"kind":"roomEvent","room":"r","event":"e"}"#);
        let file: &[&str] = if command.ends_with(&["ndjson"]) { &["events"] } else { &[] };
        // Whom this system trusts is not up to the test.
        let ran = place.run_with(&[command, file, ca].concat(), &[("SSL_CERT_FILE", "other.pem")]).failed();
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(told), "{told}\n{ran:#?}");
        assert_eq!(ran.stdout, "", "{ran:#?}");
    }
}

#[test]
fn a_mistake_with_tls_is_said_in_plain_words() {
    let place = Place::new();
    write_certificate(&place, "cert.pem", "key.pem");
    write_certificate(&place, "other.pem", "other-key.pem");
    let server = Server::start(&place);
    let unknown = "nobody whom this system trusts has signed the server's certificate: give the certificate of its CA, or its \
                   own if it signed itself, with --ca FILE";
    assert_told(&place, &server.url, &[], unknown);
    assert_told(&place, &server.url, &["--ca", "other.pem"], "no CA in other.pem has signed the server's certificate");
    let plain = server.url.replace("https", "http");
    assert_told(&place, &plain, &[], "the server speaks TLS there: begin the URL with https:// instead of http://");
    drop(server);

    write_certificate_for(&place, "cert.pem", "key.pem", &["studio.example"]);
    let server = Server::start(&place);
    let told = "the server's certificate is for studio.example, not for 127.0.0.1: use a name in the URL that it has";
    assert_told(&place, &server.url, &["--ca", "cert.pem"], told);
    drop(server);

    let dev = Dev::start(&place);
    let over_tls = dev.url.replace("http", "https");
    assert_told(
        &place,
        &over_tls,
        &[],
        "the server speaks no TLS there: begin the URL with http:// instead of https://",
    );
    dev.stop();
}
