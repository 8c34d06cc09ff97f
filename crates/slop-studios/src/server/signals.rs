//! The signals that the process handles.

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP, if it is handled.
pub(super) struct HangUp(Option<Signal>);

impl HangUp {
    pub(super) fn new(runtime: &Runtime, listens: bool) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self(listens.then(|| signal(SignalKind::hangup())).transpose()?))
    }

    pub(super) async fn received(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGXFSZ. It is caught so that a file at the process's size limit (`ulimit -f`) makes the write fail and does not
    /// end the process.
    _file_size: Signal,
}

/// The stop signal that was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct StopSignal {
    pub(super) name: &'static str,
    pub(super) number: u8,
}

impl StopSignals {
    pub(super) fn new(runtime: &Runtime) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    pub(super) async fn received(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal { name: "SIGTERM", number: 15 },
            _ = self.interrupt.recv() => StopSignal { name: "SIGINT", number: 2 },
        }
    }
}
