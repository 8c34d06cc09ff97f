//! What a server is made of: mistakes of who describes it, and its end.

use std::{
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use socketio_server::{Config, EncodeError, Namespace, RawEndpoint, Server, ServerBuilder};

use crate::harness::{TestServer, echo, eventually};

fn one_shard() -> Config {
    Config { shards: 1, ..Config::default() }
}

/// Why a server does not start.
fn mistake(config: Config, describe: impl FnOnce(ServerBuilder) -> ServerBuilder) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let error = describe(Server::builder(config)).start(listener).expect_err("a mistake");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    error.to_string()
}

#[test]
fn mistakes_are_errors_of_the_start() {
    let with = |namespace: Namespace| mistake(one_shard(), |server| server.namespace(namespace));
    assert!(with(Namespace::new("media")).contains("\"media\" must begin with a slash"));
    assert!(with(Namespace::new("/a,b")).contains("\"/a,b\""));
    let twice = Namespace::new("/").on("say", |_, _| {}).on_async("say", async |_, _| {});
    assert_eq!(with(twice), r#"event "say" of namespace "/" has two handlers"#);
    assert!(with(Namespace::new("/").on("disconnect", |_, _| {})).contains("one of Socket.IO's own"));
    let two = mistake(one_shard(), |server| server.namespace(echo("/")).namespace(echo("/")));
    assert_eq!(two, r#"there are two namespaces "/""#);

    let endpoint = |path| mistake(one_shard(), |server| server.raw_endpoint(RawEndpoint::new(path, |_, _| {})));
    assert!(endpoint("/socket.io").contains("two things are at path"));
    assert!(endpoint("raw/").contains("must begin with a slash"));

    let of = |config| mistake(config, |server| server);
    assert_eq!(of(Config { max_payload: 0, ..one_shard() }), "max_payload must be more than 0");
    assert_eq!(of(Config { ping_timeout: Duration::ZERO, ..one_shard() }), "ping_timeout must be more than 0");
    assert!(of(Config { path: "/socket.io/".to_owned(), ..one_shard() }).contains("not end with one"));
}

#[tokio::test]
async fn a_broadcast_to_nowhere_is_an_error() {
    let server = TestServer::echo(one_shard());
    let error = server.handle.broadcast("/nowhere").emit("news", &1).expect_err("no such namespace");
    assert!(matches!(error, EncodeError::UnknownNamespace(name) if name == "/nowhere"));
    let builder = Server::builder(one_shard()).namespace(echo("/"));
    let error = builder.handle().to("/", "room").emit("news", &1).expect_err("it has not started");
    assert!(matches!(error, EncodeError::UnknownNamespace(_)));
}

#[tokio::test]
async fn a_server_that_is_dropped_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = Server::builder(Config { shards: 2, ..Config::default() }).namespace(echo("/"));
    let server = server.start(listener).expect("it starts");
    let (addr, handle) = (server.local_addr(), server.handle());
    drop(TcpStream::connect(addr).expect("it listens"));
    drop(server);
    assert!(!handle.is_accepting());
    eventually("it listens no more", || TcpStream::connect(addr).is_err()).await;
}
