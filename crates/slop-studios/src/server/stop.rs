//! The shutdown: the drain, the last commit, and one deadline for both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use socketio_server::{Drained, Server};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout};

use super::signals::{StopSignal, StopSignals};
use crate::emitters::Emitters;
use crate::store::{Backlog, Ending, StoreControl};

/// The divisor of the grace period that gives the time in which `/health/ready` already fails while connections are
/// still accepted. In this time a load balancer can redirect clients before they are refused.
const READINESS_SHARE: u32 = 10;

/// The time that the process may take to end after `SHUTDOWN_GRACE_MS` has passed, for the last commit, which takes a
/// slow disk a second. Whatever hangs, the process has ended after both times together, so a supervisor that waits
/// longer never has to kill it.
const STOP_MARGIN: Duration = Duration::from_secs(3);

/// The part of [`STOP_MARGIN`] for a drain that has not ended within the grace period.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// The time for the last commit after a second signal: a healthy disk needs some milliseconds.
const IMPATIENT_COMMIT: Duration = Duration::from_secs(1);

/// The part of [`STOP_MARGIN`] for recording that sessions are not saved, on a disk that may not respond.
const LAST_MARK: Duration = Duration::from_millis(500);

/// The part of [`STOP_MARGIN`] for the thread that reads the emitters, if there was no drain.
const EMITTERS_END: Duration = Duration::from_millis(500);

/// The outcome of the shutdown. If the connections were not drained, clients are served to the end. Their changes after
/// the last commit are then in the same state as after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The connections were drained, and all accepted data is written.
    InOrder,
    /// A second signal, with this number, ended the server before the connections were drained. All data accepted
    /// before the last commit is written.
    Interrupted(u8),
    /// Some data is not written, the store had broken down or did not end, or the connections could not be drained.
    OutOfOrder,
}

impl Stopped {
    /// See docs/operations.md.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::InOrder => 0,
            Self::OutOfOrder => 3,
            // As a shell reports a process ended by the signal.
            Self::Interrupted(signal) => 128 + signal,
        }
    }
}

/// Drains the connections and commits the accepted data. It waits for nothing beyond the one deadline.
pub(super) async fn end(
    server: Server,
    mut emitters: Option<Emitters>,
    store: Arc<dyn StoreControl>,
    stop: &mut StopSignals,
    grace: Duration,
) -> anyhow::Result<Stopped> {
    let began = Instant::now();
    // Another node reads them while this one drains.
    emitters.iter_mut().for_each(Emitters::stop);
    let deadline = began + grace + STOP_MARGIN - LAST_MARK;
    let drained = tokio::select! {
        biased;
        // After a second signal, the operator does not want to wait.
        signal = stop.received() => Drain::Interrupted(signal),
        drained = drain(server, grace) => drained?,
        () = sleep_until((began + grace + DRAIN_MARGIN).into()) => Drain::Late,
    };
    let deadline = match drained {
        Drain::Done(_) | Drain::Late | Drain::Failed => deadline,
        Drain::Interrupted(_) => deadline.min(Instant::now() + IMPATIENT_COMMIT),
    };
    match drained {
        Drain::Done(Drained { connections_left, .. }) => tracing::info!(connections_left, "drained"),
        Drain::Late => tracing::error!("the drain did not end in time"),
        Drain::Failed => tracing::error!("the drain failed"),
        Drain::Interrupted(signal) => {
            tracing::warn!(signal = signal.name, "stopped before the connections were drained");
        }
    }

    if let Some(emitters) = emitters {
        // It was told before the drain.
        let _ = timeout(EMITTERS_END, emitters.ended()).await;
    }
    let ending = close(store, stop, deadline).await?;
    Ok(match drained {
        _ if ending != Ending::default() => Stopped::OutOfOrder,
        Drain::Late | Drain::Failed => Stopped::OutOfOrder,
        Drain::Interrupted(signal) => Stopped::Interrupted(signal.number),
        Drain::Done(_) => {
            tracing::info!("stopped");
            Stopped::InOrder
        }
    })
}

/// Closes the store, and logs what is not written.
async fn close(store: Arc<dyn StoreControl>, stop: &mut StopSignals, deadline: Instant) -> anyhow::Result<Ending> {
    // All accepted data is committed before the process ends, and the next process finds a tidy file.
    let closing = Arc::clone(&store);
    let closed = on_a_thread("last-commit", move || closing.close_by(deadline))?;
    let ending = tokio::select! {
        biased;
        signal = stop.received() => {
            tracing::error!(signal = signal.name, "stopped before everything was written");
            store.close_by(Instant::now())
        }
        closed = closed => closed.context("close the store")?,
    };
    let Ending { unwritten, is_broken, is_late } = ending;
    let Backlog { requests, sessions, inboxes } = unwritten;
    if is_late {
        tracing::error!("the store did not end in time: its files are as after a kill");
    }
    if is_broken || unwritten != Backlog::default() {
        tracing::error!(requests, sessions, inboxes, is_broken, "stopped, and not everything is written");
    }
    if sessions > 0 {
        let marked = on_a_thread("last-mark", move || store.void_sessions())?;
        if timeout(LAST_MARK, marked).await.is_err() {
            tracing::error!(
                "the disk does not answer: clients may come back as they were before they left a room or logged out"
            );
        }
    }
    Ok(ending)
}

/// The outcome of a drain.
enum Drain {
    Done(Drained),
    /// It did not end in time.
    Late,
    /// It panicked.
    Failed,
    Interrupted(StopSignal),
}

/// Fails the readiness check for a while, then closes the connections.
async fn drain(server: Server, grace: Duration) -> anyhow::Result<Drain> {
    server.announce_shutdown();
    let notice = grace / READINESS_SHARE;
    sleep(notice).await;
    let drained = on_a_thread("drain", move || server.shutdown(grace - notice))?;
    Ok(drained.await.map_or(Drain::Failed, Drain::Done))
}

fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<T>> {
    let (done, finished) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    // The send fails only if the receiver no longer waits.
    thread.spawn(move || drop(done.send(work()))).with_context(|| format!("start the thread {name:?}"))?;
    Ok(finished)
}
