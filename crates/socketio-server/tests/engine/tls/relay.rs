//! A server with a certificate, and the relay by which clients without TLS reach it.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use socketio_server::{
    Config, RawEndpoint, ServerBuilder, Tls,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, ServerName},
        version::TLS13,
    },
};
use tokio::{
    io::{AsyncReadExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{TestServer, echo, within};

/// A certificate that signs itself, for this name.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(super) config: ServerConfig,
}

impl Identity {
    pub(super) fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let certificate = cert.der().clone();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], signing_key.into())
            .expect("a certificate and its key");
        Self { certificate, config }
    }
}

/// A client that trusts these certificates and no other.
pub(crate) fn trusting(
    certificates: &[&CertificateDer<'static>],
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add((*certificate).clone()).expect("a certificate");
    }
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .expect("a known version")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(super) async fn handshake(addr: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    within("the handshake", TlsConnector::from(config.clone()).connect(name, stream)).await
}

/// Puts TLS on every connection that is made to it, until it is dropped. It has a thread of its own: a test that ends waits
/// for its connections to be gone.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn to(server: SocketAddr, config: ClientConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket option");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = relay(listener, server, Arc::new(config)) => {}
                }
            });
        });
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the relay does not panic");
    }
}

async fn relay(listener: std::net::TcpListener, server: SocketAddr, config: Arc<ClientConfig>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let mut connections = JoinSet::new();
    loop {
        let (mut plain, _) = listener.accept().await.expect("a connection");
        plain.set_nodelay(true).expect("a TCP option");
        let config = config.clone();
        connections.spawn(async move {
            if let Ok(mut tls) = handshake(server, &config).await {
                let _ = copy_bidirectional(&mut plain, &mut tls).await;
            }
        });
    }
}

/// A server with a certificate, and a way to it for plain clients.
pub(crate) fn start(
    config: Config,
    describe: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (TestServer, Identity, Relay) {
    let identity = Identity::new();
    let tls = Arc::new(Tls::new(identity.config.clone()));
    let server = TestServer::start(config, |server| describe(server.tls(tls)));
    let relay = Relay::to(server.addr, trusting(&[&identity.certificate], &TLS13));
    (server, identity, relay)
}

pub(super) fn echoing(server: ServerBuilder) -> ServerBuilder {
    server.namespace(echo("/")).raw_endpoint(RawEndpoint::new("/engine.io", |socket, message| socket.send(message)))
}

/// Reads until the server ends the connection; returns how long that took.
pub(super) async fn until_closed(mut stream: TcpStream, began: Instant) -> Duration {
    let mut rest = Vec::new();
    let _end = within("the server closes", stream.read_to_end(&mut rest)).await;
    began.elapsed()
}
