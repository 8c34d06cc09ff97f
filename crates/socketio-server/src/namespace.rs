//! A namespace: its name and its table of handlers, made once and the same for all sockets.

use std::{collections::HashMap, fmt, future::Future, pin::Pin};

use ::http::HeaderMap;
use foldhash::fast::RandomState;
use serde_json::value::RawValue;
use socketio_protocol::packet;

use crate::{DisconnectReason, Event, OwnedEvent, Socket};

/// Why a client was refused a namespace; it becomes the `connect_error` of the client.
#[derive(Debug, Clone)]
pub struct ConnectError {
    pub(crate) message: String,
    pub(crate) data: Option<Box<RawValue>>,
}

impl ConnectError {
    /// An error with the message that the client sees as `error.message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), data: None }
    }

    /// Adds what the client sees as `error.data`. Data that is not JSON is left out.
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
    /// Side by side with others of the kind.
    Overlapping(Box<OnOwnedEvent>),
}

fn owned<F: Future<Output = ()> + 'static>(
    f: impl Fn(Socket, OwnedEvent) -> F + Send + Sync + 'static,
) -> Box<OnOwnedEvent> {
    Box::new(move |socket, event| Box::pin(f(socket, event)))
}

/// A namespace's name and handlers.
///
/// The events of one socket are handled in the order they came; an asynchronous handler makes the next event of its
/// socket wait, and no other socket's, unless the two [overlap](Namespace::on_overlapping). While more of a connection's events wait
/// than [`Config::handler_backlog`](crate::Config::handler_backlog) allows, nothing of it is read, the acks of its client
/// included.
pub struct Namespace {
    name: &'static str,
    /// Clients choose what is looked up and not what is in it: a hash that is quick will do.
    handlers: HashMap<&'static str, Handler, RandomState>,
    /// The event of which the last of two handlers would be called.
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

    /// Called first when a client wants to connect, with its `auth` object and the headers that
    /// [`Config::kept_headers`](crate::Config::kept_headers) names. If it returns something, the client waits for that before
    /// anything else is called: for what [`Namespace::authorize`] or [`Namespace::restore`] needs. It has to end by itself.
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

    /// Called before the connection is accepted, with the client's `auth` object: may refuse it.
    #[must_use]
    pub fn authorize(
        mut self,
        f: impl Fn(&Socket, Option<&RawValue>) -> Result<(), ConnectError> + Send + Sync + 'static,
    ) -> Self {
        self.authorize = Some(Box::new(f));
        self
    }

    /// Called when the acceptance is on its way to the client; what is emitted here arrives right after it.
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

    /// Handles an event with a future, on the socket's shard. The socket's next event waits until it is done.
    #[must_use]
    pub fn on_async<F>(self, event: &'static str, f: impl Fn(Socket, OwnedEvent) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        self.handled_by(event, Handler::Async(owned(f)))
    }

    /// As [`Namespace::on_async`], for a future that asks something which answers in the order in which it was asked, at its
    /// first poll. The socket's next event need not wait if it is handled in the same way: the futures run side by side, some
    /// tens at a time, and are polled for the first time in the order of their events. All other events of the socket wait until
    /// those before them are done.
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

    /// Asked right before each event is handled; if it returns false, [`Namespace::on_refused`] gets the event.
    #[must_use]
    pub fn admit(mut self, f: impl Fn(&Socket) -> bool + Send + Sync + 'static) -> Self {
        self.admit = Some(Box::new(f));
        self
    }

    /// Gets the events that are not handled, because [`Namespace::admit`] or
    /// [`Config::event_rate_per_socket`](crate::Config::event_rate_per_socket) is against it, to tell the client. It may get
    /// one while the future of an event before is still running.
    #[must_use]
    pub fn on_refused(mut self, f: impl Fn(&Socket, Event<'_>) + Send + Sync + 'static) -> Self {
        self.on_refused = Some(Box::new(f));
        self
    }

    /// Called when a deadline set with [`Socket::set_timer`] has come.
    #[must_use]
    pub fn on_timer(mut self, f: impl Fn(&Socket) + Send + Sync + 'static) -> Self {
        self.on_timer = Some(Box::new(f));
        self
    }

    /// Called once for each socket that was connected, when it no longer is; its rooms can still be read.
    #[must_use]
    pub fn on_disconnect(mut self, f: impl Fn(&Socket, DisconnectReason) + Send + Sync + 'static) -> Self {
        self.on_disconnect = Some(Box::new(f));
        self
    }

    /// With [recovery](crate::Config::recovery): what is to be kept of a socket's data with its session, as text. Tell by
    /// [`Socket::session_changed`] when it changes.
    #[must_use]
    pub fn save(mut self, f: impl Fn(&Socket) -> String + Send + Sync + 'static) -> Self {
        self.save = Some(Box::new(f));
        self
    }

    /// With recovery, called instead of [`Namespace::authorize`] when a client comes back for its session: with what
    /// [`Namespace::save`] returned, and the client's `auth` object. The socket is in its rooms again; those that it may no
    /// longer be in, it leaves here, and what was missed of them is not sent. Nothing may be emitted yet. If it returns
    /// false, the client is connected anew.
    #[must_use]
    pub fn restore(mut self, f: impl Fn(&Socket, &str, Option<&RawValue>) -> bool + Send + Sync + 'static) -> Self {
        self.restore = Some(Box::new(f));
        self
    }

    /// With recovery, called when a client has its session back, before anything that it missed is sent. What is emitted here
    /// to the socket comes first. It is not remembered for a client that comes back without it once more: use
    /// [`Socket::when_arrived`] to know.
    #[must_use]
    pub fn before_replay(mut self, f: impl Fn(&Socket) + Send + Sync + 'static) -> Self {
        self.before_replay = Some(Box::new(f));
        self
    }

    /// With recovery, called instead of [`Namespace::on_connect`] when a client has its session back, and what it missed
    /// is on its way.
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

    /// Says what is wrong with it, for who wrote it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = self.name;
        // A comma ends the name in a packet, and a client takes what follows a question mark for parameters.
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
