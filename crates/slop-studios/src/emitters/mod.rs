//! Other programs that publish over Redis, with Socket.IO's own emitters.
//!
//! **Flow:** Redis → `channels` (a bounded queue) or `stream` (a cursor in Redis) → [`decode`], strict and bounded →
//! [`Message::into_publish`] → the one executor of publishes → the store. Nothing goes back to an emitter. `outcomes` counts
//! what became of its messages.
//!
//! **Mapping.** An emitter may do what a publisher's key with all scopes may do, if `EMITTER_EVENTS` has the event, and no more:
//! - `mediaProgress`, `mediaComplete` and `mediaError` on `/media` are publishes of the media item in their payload. They have
//!   to follow the rules for its life, and go to its subscribers and its owner. A room is not needed; if there is one, it is
//!   the `mediaId`.
//! - `notification` on `/notifications`, to the room `user:{userId}`, is a notification for this user: it is kept, and waits.
//! - Other events are room events of the class `recoverable`. Names that the server or Socket.IO reserves are refused.
//!
//! A payload has the fields of the HTTP API, `ownerId` and `attempt` included. A room event may have several arguments.
//! The flags `volatile` and `compress` have no effect. Refused are events for a whole namespace or for several rooms at once,
//! events with exceptions or with binary data, and all requests (join, leave, disconnect): the store publishes an event to
//! one room, and no publisher's key can move or disconnect sockets.
//!
//! **Once.** One node of the cluster reads at a time (`lease`). Channels lose what is sent while no node reads: at most once.
//! An entry of the stream has its id as its idempotency key, and the cursor is saved after it is published. So a node that
//! ends in between repeats it, and it is not published twice.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::metrics::{Emitter, Metrics};
use crate::publish::Executor;
use crate::store::redis::Target;

mod allowlist;
mod channels;
pub mod decode;
mod json;
mod lease;
mod message;
mod msgpack;
mod outcomes;
mod reader;
mod stream;

pub use allowlist::{Allowlist, AllowlistError};
pub use message::{Message, Refusal};

use outcomes::Outcomes;
use reader::Reader;

/// The options of the emitters.
#[derive(Clone)]
pub(crate) struct Options {
    /// The Redis, as for the store.
    pub(crate) target: Target,
    /// The cluster, as for the store.
    pub(crate) prefix: String,
    /// The emitters that are read.
    pub(crate) emitters: Vec<Emitter>,
    /// The events that they may send.
    pub(crate) events: Allowlist,
    /// Bytes of the largest message, as for a publisher's body.
    pub(crate) most_bytes: usize,
}

/// The thread that reads the emitters.
#[derive(Debug)]
pub(crate) struct Emitters {
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl Emitters {
    /// Starts to read.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub(crate) fn start(options: Options, executor: Executor, metrics: &Arc<Metrics>) -> io::Result<Self> {
        for emitter in &options.emitters {
            metrics.emitters.create_series(*emitter);
        }
        let outcomes = Arc::new(Outcomes::new(Arc::clone(metrics)));
        let reader = Reader::new(options, executor, outcomes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let serve = move || {
            runtime.block_on(reader.run(stopped));
            // Nobody may wait for it.
            let _ = end.send(());
        };
        std::thread::Builder::new().name("emitters".to_owned()).spawn(serve)?;
        Ok(Self { stop: Some(stop), ended })
    }

    /// Ends the reading. Another node continues at once.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Without a receiver, the thread has ended.
            let _ = stop.send(());
        }
    }

    /// Resolves when nothing is read any more.
    pub(crate) async fn ended(self) {
        // It has ended, also if it panicked.
        let _ = self.ended.await;
    }
}

#[cfg(test)]
mod tests;
