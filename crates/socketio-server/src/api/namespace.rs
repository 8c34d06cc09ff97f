//! A namespace: its name and its table of handlers, made once and the same for all sockets.

use std::{collections::HashMap, fmt, future::Future, pin::Pin};

use ::http::HeaderMap;
use foldhash::fast::RandomState;
use serde_json::value::RawValue;
use socketio_protocol::packet;

use crate::{DisconnectReason, Event, OwnedEvent, Socket};

/// The reason why a client was refused a namespace. The client gets it as a `connect_error`.
#[derive(Debug, Clone)]
pub struct ConnectError {
    pub(crate) message: String,
    pub(crate) data: Option<Box<RawValue>>,
    pub(crate) is_temporary: bool,
}

impl ConnectError {
    /// An error with the message that the client sees as `error.message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), data: None, is_temporary: false }
    }

    /// An error for a client that should connect again later. A stock client does not do so after a `connect_error`, but
    /// after the loss of its connection. So its connection is closed, without a message.
    #[must_use]
    pub fn temporary() -> Self {
        Self { is_temporary: true, ..Self::new("") }
    }

    /// Adds the data that the client sees as `error.data`. Data without a JSON form is left out.
    #[must_use]
    pub fn with_data(mut self, data: &impl serde::Serialize) -> Self {
        self.data = serde_json::value::to_raw_value(data).ok();
        self
    }
}

type BeforeConnect = dyn Fn(Option<&RawValue>, Option<&HeaderMap>) -> Option<HandlerFuture> + Send + Sync;
type Authorize = dyn Fn(&Socket, Option<&RawValue>) -> Result<(), ConnectError> + Send + Sync;
pub(crate) type OnSocket = dyn Fn(&Socket) + Send + Sync;
type Admit = dyn Fn(&Socket) -> bool + Send + Sync;
type OnEvent = dyn Fn(&Socket, Event<'_>) + Send + Sync;
type Save = dyn Fn(&Socket) -> String + Send + Sync;
type Restore = dyn Fn(&Socket, &str, Option<&RawValue>) -> bool + Send + Sync;
type OnDisconnect = dyn Fn(&Socket, DisconnectReason) + Send + Sync;
type OnOwnedEvent = dyn Fn(Socket, OwnedEvent) -> HandlerFuture + Send + Sync;
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = ()>>>;

pub(crate) enum Handler {
    Sync(Box<OnEvent>),
    Async(Box<OnOwnedEvent>),
    /// Runs side by side with other overlapping handlers.
    Overlapping(Box<OnOwnedEvent>),
}

fn owned<F: Future<Output = ()> + 'static>(
    f: impl Fn(Socket, OwnedEvent) -> F + Send + Sync + 'static,
) -> Box<OnOwnedEvent> {
    Box::new(move |socket, event| Box::pin(f(socket, event)))
}

/// A namespace's name and handlers.
///
/// The events of one socket are handled in the order of arrival. An asynchronous handler delays the next event of its
/// socket, unless the two [overlap](Namespace::on_overlapping). It does not delay other sockets. While more events of a
/// connection wait than [`Config::handler_backlog`](crate::Config::handler_backlog) allows, the server reads nothing
/// from the connection, the client's acks included.
pub struct Namespace {
    name: &'static str,
    /// Clients choose the names that are looked up, not the keys of the table: a fast hash is enough.
    handlers: HashMap<&'static str, Handler, RandomState>,
    /// An event with two handlers, of which only the last would be called.
    handled_twice: Option<&'static str>,
    pub(crate) before_connect: Option<Box<BeforeConnect>>,
    pub(crate) authorize: Option<Box<Authorize>>,
    pub(crate) on_connect: Option<Box<OnSocket>>,
    pub(crate) fallback: Option<Handler>,
    pub(crate) admit: Option<Box<Admit>>,
    pub(crate) on_refused: Option<Box<OnEvent>>,
    pub(crate) on_timer: Option<Box<OnSocket>>,
    pub(crate) on_disconnect: Option<Box<OnDisconnect>>,
    pub(crate) save: Option<Box<Save>>,
    pub(crate) restore: Option<Box<Restore>>,
    pub(crate) before_replay: Option<Box<OnSocket>>,
    pub(crate) on_recovered: Option<Box<OnSocket>>,
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace")
            .field("name", &self.name)
            .field("events", &self.handlers.keys())
            .finish_non_exhaustive()
    }
}

impl Namespace {
    /// A namespace without handlers. The name starts with a slash; the default namespace is `/`.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            handlers: HashMap::default(),
            handled_twice: None,
            before_connect: None,
            authorize: None,
            on_connect: None,
            fallback: None,
            admit: None,
            on_refused: None,
            on_timer: None,
            on_disconnect: None,
            save: None,
            restore: None,
            before_replay: None,
            on_recovered: None,
        }
    }

    /// Called first when a client asks to connect, with its `auth` object and the headers that
    /// [`Config::kept_headers`](crate::Config::kept_headers) names. If it returns a future, the client waits for that
    /// future before anything else is called: it can prepare the data that [`Namespace::authorize`] or
    /// [`Namespace::restore`] needs. The future must end by itself.
    #[must_use]
    pub fn before_connect<F>(
        mut self,
        f: impl Fn(Option<&RawValue>, Option<&HeaderMap>) -> Option<F> + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.before_connect = Some(Box::new(move |auth, headers| {
            let future: HandlerFuture = Box::pin(f(auth, headers)?);
            Some(future)
        }));
        self
    }

    /// Called before the connection is accepted, with the client's `auth` object. It may refuse the connection.
    #[must_use]
    pub fn authorize(
        mut self,
        f: impl Fn(&Socket, Option<&RawValue>) -> Result<(), ConnectError> + Send + Sync + 'static,
    ) -> Self {
        self.authorize = Some(Box::new(f));
        self
    }

    /// Called when the acceptance is on its way to the client. Events emitted here arrive right after it.
    #[must_use]
    pub fn on_connect(mut self, f: impl Fn(&Socket) + Send + Sync + 'static) -> Self {
        self.on_connect = Some(Box::new(f));
        self
    }

    /// Handles an event.
    #[must_use]
    pub fn on(self, event: &'static str, f: impl Fn(&Socket, Event<'_>) + Send + Sync + 'static) -> Self {
        self.handled_by(event, Handler::Sync(Box::new(f)))
    }

    fn handled_by(mut self, event: &'static str, handler: Handler) -> Self {
        if self.handlers.insert(event, handler).is_some() {
            self.handled_twice = Some(event);
        }
        self
    }

    /// Handles an event with a future, on the socket's shard. The socket's next event waits until the future is done.
    #[must_use]
    pub fn on_async<F>(self, event: &'static str, f: impl Fn(Socket, OwnedEvent) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.handled_by(event, Handler::Async(owned(f)))
    }

    /// Like [`Namespace::on_async`], for a future that sends a request at its first poll, to a service that answers in
    /// the order of the requests. The socket's next event need not wait if it is handled in the same way: the futures
    /// run side by side, some tens at a time, and are polled for the first time in the order of their events. All other
    /// events of the socket wait until the events before them are done.
    #[must_use]
    pub fn on_overlapping<F>(
        self,
        event: &'static str,
        f: impl Fn(Socket, OwnedEvent) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.handled_by(event, Handler::Overlapping(owned(f)))
    }

    /// Handles every event that has no handler of its own.
    #[must_use]
    pub fn fallback(mut self, f: impl Fn(&Socket, Event<'_>) + Send + Sync + 'static) -> Self {
        self.fallback = Some(Handler::Sync(Box::new(f)));
        self
    }

    /// Called right before each event is handled. If it returns false, [`Namespace::on_refused`] gets the event.
    #[must_use]
    pub fn admit(mut self, f: impl Fn(&Socket) -> bool + Send + Sync + 'static) -> Self {
        self.admit = Some(Box::new(f));
        self
    }

    /// Called with each event that [`Namespace::admit`] or
    /// [`Config::event_rate_per_socket`](crate::Config::event_rate_per_socket) refuses, so that it can tell the client.
    /// It may be called while the future of an earlier event is still running.
    #[must_use]
    pub fn on_refused(mut self, f: impl Fn(&Socket, Event<'_>) + Send + Sync + 'static) -> Self {
        self.on_refused = Some(Box::new(f));
        self
    }

    /// Called at the deadline set with [`Socket::set_timer`].
    #[must_use]
    pub fn on_timer(mut self, f: impl Fn(&Socket) + Send + Sync + 'static) -> Self {
        self.on_timer = Some(Box::new(f));
        self
    }

    /// Called once for each socket that was connected, when it is disconnected. Its rooms can still be read.
    #[must_use]
    pub fn on_disconnect(mut self, f: impl Fn(&Socket, DisconnectReason) + Send + Sync + 'static) -> Self {
        self.on_disconnect = Some(Box::new(f));
        self
    }

    /// With [recovery](crate::Config::recovery), returns the socket's data to be kept with its session, as text. Call
    /// [`Socket::session_changed`] when the data changes.
    #[must_use]
    pub fn save(mut self, f: impl Fn(&Socket) -> String + Send + Sync + 'static) -> Self {
        self.save = Some(Box::new(f));
        self
    }

    /// With recovery, called instead of [`Namespace::authorize`] when a client comes back for its session. It gets the
    /// text that [`Namespace::save`] returned, and the client's `auth` object. The socket is in its rooms again. Here,
    /// make it leave the rooms that it may no longer be in: the missed events of those rooms are not sent. Nothing may
    /// be emitted yet. If the function returns false, the client gets a new session.
    #[must_use]
    pub fn restore(mut self, f: impl Fn(&Socket, &str, Option<&RawValue>) -> bool + Send + Sync + 'static) -> Self {
        self.restore = Some(Box::new(f));
        self
    }

    /// With recovery, called when a client has its session back, before the missed events are sent. Events emitted to
    /// the socket here come first. They are not remembered for a client that loses its connection again before they
    /// arrive: use [`Socket::when_arrived`] to learn of their arrival.
    #[must_use]
    pub fn before_replay(mut self, f: impl Fn(&Socket) + Send + Sync + 'static) -> Self {
        self.before_replay = Some(Box::new(f));
        self
    }

    /// With recovery, called instead of [`Namespace::on_connect`] when a client has its session back and the missed
    /// events are on their way.
    #[must_use]
    pub fn on_recovered(mut self, f: impl Fn(&Socket) + Send + Sync + 'static) -> Self {
        self.on_recovered = Some(Box::new(f));
        self
    }

    /// The namespace's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Checks the namespace. The error text is for its author.
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = self.name;
        // A comma ends the name in a packet, and a client takes the text after a question mark as parameters.
        if !name.starts_with('/') || name.contains([',', '?']) {
            return Err(format!("namespace {name:?} must begin with a slash and have no comma or question mark"));
        }
        if let Some(event) = self.handled_twice {
            return Err(format!("event {event:?} of namespace {name:?} has two handlers"));
        }
        match self.handlers.keys().find(|event| packet::RESERVED_EVENTS.contains(*event)) {
            Some(event) => Err(format!("event {event:?} of namespace {name:?} is one of Socket.IO's own")),
            None => Ok(()),
        }
    }

    pub(crate) fn handler(&self, event: &str) -> Option<&Handler> {
        self.handlers.get(event)
    }
}
