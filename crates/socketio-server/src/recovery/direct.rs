//! The events emitted to one socket alone, for as long as they may not have arrived.

use std::{borrow::Cow, collections::VecDeque, rc::Rc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use socketio_protocol::engine_io::encode_binary;

use crate::{
    config::FRAME_OVERHEAD,
    delivery::frame::Frame,
    identifier::{Id, Position},
    recovery::Offset,
};

/// A socket's own events, or those of a session whose client is away (then `F` is a type that other threads may have).
/// No event is remembered once a heartbeat sent after the last event is answered.
#[derive(Debug)]
pub(crate) struct Direct<F = Rc<Frame>> {
    /// Number of the last event.
    last: u32,
    /// Number of the last event when the heartbeat under way was sent.
    asked: u32,
    /// Number of the last event that is known to have arrived.
    arrived: u32,
    /// Boxed, because it is `None` most of the time.
    log: Option<Box<Log<F>>>,
}

/// The events that may not have arrived.
#[derive(Debug)]
struct Log<F> {
    events: VecDeque<Event<F>>,
    bytes: usize,
    /// The last event that was evicted because there were too many.
    forgotten: Option<Emitted>,
}

/// The position of an event in the order of emission.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Emitted {
    number: u32,
    /// The offset of the last broadcast before it.
    after: Position,
}

#[derive(Debug)]
struct Event<F> {
    emitted: Emitted,
    /// The client gets the event only if it is in this room.
    room: Option<Box<str>>,
    frames: SmallVec<[F; 1]>,
}

impl Event<Rc<Frame>> {
    /// The bytes that the event takes.
    fn bytes(&self) -> usize {
        let frames: usize = self.frames.iter().map(|frame| frame.len() + FRAME_OVERHEAD).sum();
        size_of::<Self>() + self.room.as_deref().map_or(0, str::len) + frames
    }
}

impl<F> Default for Direct<F> {
    fn default() -> Self {
        Self { last: 0, asked: 0, arrived: 0, log: None }
    }
}

impl<F> Default for Log<F> {
    fn default() -> Self {
        // Most sockets get only one event alone: their greeting.
        Self { events: VecDeque::with_capacity(1), bytes: 0, forgotten: None }
    }
}

impl<F> Direct<F> {
    fn map<G>(self, f: impl Fn(F) -> G) -> Direct<G> {
        let Self { last, asked, arrived, log } = self;
        let event =
            |Event { emitted, room, frames }| Event { emitted, room, frames: frames.into_iter().map(&f).collect() };
        let log = log.map(|log| {
            let Log { events, bytes, forgotten } = *log;
            Box::new(Log { events: events.into_iter().map(event).collect(), bytes, forgotten })
        });
        Direct { last, asked, arrived, log }
    }

    /// The bytes of the remembered events.
    pub(crate) fn bytes(&self) -> usize {
        self.log.as_deref().map_or(0, |log| log.bytes)
    }
}

impl Direct {
    /// The next event's number.
    pub(crate) fn next(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// The last event's number.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// Remembers the event that got the last number, for as long as the socket is in `room`. Returns the remembered
    /// bytes.
    pub(crate) fn push(
        &mut self,
        after: Position,
        room: Option<&str>,
        frames: SmallVec<[Rc<Frame>; 1]>,
        max_bytes: usize,
    ) -> usize {
        let log = self.log.get_or_insert_default();
        let (emitted, room) = (Emitted { number: self.last, after }, room.map(Box::from));
        let event = Event { emitted, room, frames };
        log.bytes += event.bytes();
        log.events.push_back(event);
        self.forget_beyond(max_bytes);
        self.bytes()
    }

    /// Evicts the oldest events until no more than `max_bytes` are remembered.
    pub(crate) fn forget_beyond(&mut self, max_bytes: usize) {
        let Some(log) = &mut self.log else { return };
        while log.bytes > max_bytes
            && let Some(first) = log.events.pop_front()
        {
            log.bytes -= first.bytes();
            log.forgotten = Some(first.emitted);
        }
    }

    /// Records that a heartbeat is sent now.
    pub(crate) fn ask(&mut self) {
        self.asked = self.last;
    }

    /// Records that the heartbeat was answered: the events sent before it have arrived.
    pub(crate) fn answered(&mut self) {
        self.arrived = self.asked;
        let Some(log) = &mut self.log else { return };
        while log.events.front().is_some_and(|event| event.emitted.number <= self.arrived)
            && let Some(first) = log.events.pop_front()
        {
            log.bytes -= first.bytes();
        }
        if log.forgotten.is_some_and(|emitted| emitted.number <= self.arrived) {
            log.forgotten = None;
        }
        if log.events.is_empty() && log.forgotten.is_none() {
            self.log = None;
        }
    }

    /// Removes the events that a client returning with this offset has. Returns false if an event that it lacks is
    /// already evicted.
    pub(crate) fn resume(&mut self, socket: &Id, offset: Option<&Offset>) -> bool {
        let number = offset.and_then(|offset| offset.direct_of(socket)).unwrap_or_default().max(self.arrived);
        // A heartbeat under way on another connection does not confirm the events that are sent again on this one.
        (self.arrived, self.asked) = (number, number);
        // An earlier run of the server may have used higher numbers: these must not be used again.
        self.last = self.last.max(number);
        // An offset also confirms the events emitted before its broadcast, even if it has no number of its own events.
        let has = |emitted: Emitted| {
            emitted.number <= number || offset.is_some_and(|offset| emitted.after < offset.broadcast)
        };
        let Some(log) = &mut self.log else { return true };
        if log.forgotten.is_some_and(|emitted| !has(emitted)) {
            return false;
        }
        log.events.retain(|event| !has(event.emitted));
        log.bytes = log.events.iter().map(Event::bytes).sum();
        true
    }

    /// Removes the events that the socket was sent as a member of rooms that it is no longer in.
    pub(crate) fn retain_rooms(&mut self, is_in: impl Fn(&str) -> bool) {
        let Some(log) = &mut self.log else { return };
        log.events.retain(|event| event.room.as_deref().is_none_or(&is_in));
        log.bytes = log.events.iter().map(Event::bytes).sum();
    }

    /// The events, each with the offset of the last broadcast before it.
    pub(crate) fn events(&self) -> impl Iterator<Item = (Position, &[Rc<Frame>])> {
        let events = self.log.iter().flat_map(|log| &log.events);
        events.map(|event| (event.emitted.after, event.frames.as_slice()))
    }

    /// Converts the events for other threads.
    pub(crate) fn pack(self) -> Direct<Frame> {
        self.map(Rc::unwrap_or_clone)
    }
}

impl Direct<Frame> {
    /// Converts the events back for a shard.
    pub(crate) fn unpack(self) -> Direct {
        self.map(Rc::new)
    }

    /// The events as a text, for another server.
    pub(crate) fn to_text(&self) -> String {
        let log = self.log.as_deref();
        let text = Text {
            last: self.last,
            arrived: self.arrived,
            forgotten: log.and_then(|log| log.forgotten),
            events: log.into_iter().flat_map(|log| &log.events).map(TextEvent::of).collect(),
        };
        // Numbers and texts always have a JSON form.
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// Reads the text of another server. `None` if it is not one.
    pub(crate) fn of_text(text: &str) -> Option<Self> {
        let Text { last, arrived, forgotten, events } = serde_json::from_str(text).ok()?;
        let mut log = Log { forgotten, ..Log::default() };
        for TextEvent { emitted, room, frames } in events {
            let frames = frames.iter().map(|frame| frame_of_text(frame)).collect::<Option<_>>()?;
            let event = Event { emitted, room: room.map(|room| room.into()), frames };
            log.bytes += event.frames.iter().map(|frame: &Frame| frame.len() + FRAME_OVERHEAD).sum::<usize>();
            log.events.push_back(event);
        }
        let log = (!log.events.is_empty() || log.forgotten.is_some()).then(|| Box::new(log));
        Some(Self { last, asked: arrived, arrived, log })
    }
}

/// The form of the events for another server.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    last: u32,
    arrived: u32,
    forgotten: Option<Emitted>,
    #[serde(borrow)]
    events: Vec<TextEvent<'a>>,
}

#[derive(Serialize, Deserialize)]
struct TextEvent<'a> {
    emitted: Emitted,
    #[serde(borrow)]
    room: Option<Cow<'a, str>>,
    #[serde(borrow)]
    frames: Vec<Cow<'a, str>>,
}

impl<'a> TextEvent<'a> {
    fn of(Event { emitted, room, frames }: &'a Event<Frame>) -> Self {
        let frames = frames.iter().map(frame_to_text).collect();
        Self { emitted: *emitted, room: room.as_deref().map(Cow::Borrowed), frames }
    }
}

/// A frame as it stands in a polling payload: a text packet begins with a digit, a binary one with a `b`.
fn frame_to_text(frame: &Frame) -> Cow<'_, str> {
    if frame.is_binary() {
        let mut text = Vec::new();
        encode_binary(frame.payload(), &mut text);
        Cow::Owned(String::from_utf8(text).unwrap_or_default())
    } else {
        String::from_utf8_lossy(frame.payload())
    }
}

fn frame_of_text(text: &str) -> Option<Frame> {
    match text.strip_prefix('b') {
        Some(data) => Some(Frame::binary(&STANDARD.decode(data).ok()?)),
        None => text.starts_with('4').then(|| Frame::text(|out| out.extend_from_slice(text.as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(number: u64) -> Position {
        Position::new(number)
    }

    /// Ten events, each with a frame of 100 bytes.
    const MAX: usize = 10 * (100 + FRAME_OVERHEAD + size_of::<Event<Rc<Frame>>>());

    fn socket() -> Id {
        Id::parse("k9QxAAAAAAAAAAAAAAAA").expect("an id")
    }

    /// Emits an event after a broadcast.
    fn emit(direct: &mut Direct, after: u64) -> Offset {
        let number = direct.next();
        let frame = Rc::new(Frame::text(|out| out.resize(108, b'x')));
        direct.push(at(after), None, SmallVec::from_iter([frame]), MAX);
        Offset::of_direct(at(after), number, &socket())
    }

    fn positions(direct: &Direct) -> Vec<u64> {
        direct.events().map(|(after, _)| after.get()).collect()
    }

    #[test]
    fn a_client_gets_what_came_after_its_offset() {
        let mut direct = Direct::default();
        let offsets: Vec<Offset> = [5, 5, 6, 8].map(|after| emit(&mut direct, after)).into();
        let missed = |offset: Option<Offset>| {
            let mut direct = Direct::default();
            for after in [5, 5, 6, 8] {
                emit(&mut direct, after);
            }
            assert!(direct.resume(&socket(), offset.as_ref()));
            positions(&direct)
        };
        assert_eq!(missed(None), [5, 5, 6, 8]);
        assert_eq!(missed(Some(offsets[0])), [5, 6, 8]);
        assert_eq!(missed(Some(offsets[3])), [0; 0]);
        assert_eq!(missed(Some(Offset::of_broadcast(at(5)))), [5, 5, 6, 8]);
        assert_eq!(missed(Some(Offset::of_broadcast(at(7)))), [8]);
        // The number belongs to another session.
        let other = Offset::of_direct(at(5), 2, &Id::parse("otherAAAAAAAAAAAAAAA").expect("an id"));
        assert_eq!(missed(Some(other)), [5, 5, 6, 8]);
    }

    #[test]
    fn what_has_arrived_is_forgotten() {
        let mut direct = Direct::default();
        emit(&mut direct, 1);
        direct.ask();
        emit(&mut direct, 2);
        direct.answered();
        assert_eq!(positions(&direct), [2]);
        direct.ask();
        direct.answered();
        assert!(direct.log.is_none());
        emit(&mut direct, 3);
        assert!(direct.pack().unpack().resume(&socket(), None));
    }

    #[test]
    fn another_server_reads_the_same_events() {
        let mut direct = Direct::default();
        for (after, room, text) in [(5, None, "42[\"a\"]"), (6, Some("r \"1\""), "451-[\"b\"]")] {
            direct.next();
            let mut frames = SmallVec::from_iter([Rc::new(Frame::text(|out| out.extend_from_slice(text.as_bytes())))]);
            if room.is_some() {
                frames.push(Rc::new(Frame::binary(&[0, 159, 146, 150])));
            }
            direct.push(at(after), room, frames, MAX);
        }
        let packed = direct.pack();
        let text = packed.to_text();
        let read = Direct::of_text(&text).expect("it is one");
        assert_eq!(read.to_text(), text);
        let mut read = read.unpack();
        assert_eq!((positions(&read), read.last()), (vec![5, 6], 2));
        assert!(read.resume(&socket(), Some(&Offset::of_direct(at(5), 1, &socket()))));
        assert_eq!(positions(&read), [6]);
        for foreign in ["", "{}", "[]", &text.replace("42", "12"), &text[1..]] {
            assert!(Direct::of_text(foreign).is_none(), "{foreign}");
        }
    }

    #[test]
    fn a_heartbeat_on_another_connection_says_nothing_of_a_replay() {
        let mut direct = Direct::default();
        emit(&mut direct, 1);
        direct.ask();
        let mut direct = direct.pack().unpack();
        assert!(direct.resume(&socket(), None));
        direct.answered();
        assert_eq!(positions(&direct), [1]);
    }

    #[test]
    fn numbers_go_on_after_those_that_the_client_has() {
        let mut direct = Direct::default();
        let offset = Offset::of_direct(at(5), 7, &socket());
        assert!(direct.resume(&socket(), Some(&offset)));
        emit(&mut direct, 6);
        assert!(direct.resume(&socket(), Some(&offset)));
        assert_eq!(positions(&direct), [6]);
    }

    #[test]
    fn what_was_for_a_member_is_forgotten_with_the_membership() {
        let mut direct = Direct::default();
        for (after, room) in [(1, None), (2, Some("a")), (3, Some("b"))] {
            direct.next();
            let frame = Rc::new(Frame::text(|out| out.extend_from_slice(b"42[]")));
            direct.push(at(after), room, SmallVec::from_iter([frame]), MAX);
        }
        direct.retain_rooms(|room| room == "b");
        assert_eq!(positions(&direct), [1, 3]);
    }

    #[test]
    fn too_many_are_forgotten_and_that_is_known() {
        let mut direct = Direct::default();
        let offsets: Vec<Offset> = (0..12).map(|after| emit(&mut direct, after)).collect();
        let bytes = direct.log.as_ref().map(|log| log.bytes);
        assert_eq!((positions(&direct).len(), bytes), (10, Some(MAX)));
        assert!(!direct.resume(&socket(), None));
        assert!(!direct.resume(&socket(), Some(&offsets[0])));
        assert!(direct.resume(&socket(), Some(&offsets[1])));
        assert_eq!(positions(&direct), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }
}
