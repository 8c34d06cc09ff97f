//! The confirmed position of a shard: the last broadcast that all of its sessions are known to have received.
//!
//! Each session is counted at a watermark: its heartbeats have confirmed everything up to there. A heartbeat moves one
//! session from an older watermark to a newer one, so no operation iterates over the sessions.

use std::collections::VecDeque;

use crate::identifier::Position;

/// The maximum number of separate watermarks; 16 bytes each. A session that confirms nothing for longer than they
/// cover holds back all others, as it must.
const MAX_WATERMARKS: usize = 64;

/// The confirmed positions of one shard's sessions.
pub(crate) struct Confirmed {
    /// The id of the first watermark.
    first: u32,
    watermarks: VecDeque<Watermark>,
}

/// Sessions that have received everything up to a broadcast.
struct Watermark {
    position: Position,
    sessions: usize,
}

/// The id of a watermark of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatermarkId(u32);

impl Confirmed {
    /// A shard without sessions that has sent everything up to `position`.
    pub(crate) fn new(position: Position) -> Self {
        Self { first: 0, watermarks: VecDeque::from([Watermark { position, sessions: 0 }]) }
    }

    /// The last broadcast that every session has received.
    pub(crate) fn position(&self) -> Position {
        self.watermarks.front().map_or(Position::NONE, |first| first.position)
    }

    /// Adds a watermark: everything up to `position` has been sent.
    pub(crate) fn begin(&mut self, position: Position) {
        self.drop_passed();
        if self.watermarks.len() < MAX_WATERMARKS && self.watermarks.back().is_none_or(|last| last.position < position)
        {
            self.watermarks.push_back(Watermark { position, sessions: 0 });
        }
        self.drop_passed();
    }

    /// The last watermark: the position that a heartbeat sent now confirms.
    pub(crate) fn now(&self) -> WatermarkId {
        WatermarkId(self.first.wrapping_add(self.watermarks.len() as u32).wrapping_sub(1))
    }

    /// Adds a session that has received everything up to `since`.
    pub(crate) fn enter(&mut self, since: Position) -> WatermarkId {
        let after = self.watermarks.partition_point(|watermark| watermark.position <= since);
        let index = after.checked_sub(1).unwrap_or_else(|| {
            if self.watermarks.len() < MAX_WATERMARKS {
                self.watermarks.push_front(Watermark { position: since, sessions: 0 });
                self.first = self.first.wrapping_sub(1);
            } else if let Some(first) = self.watermarks.front_mut() {
                // For the other sessions at this watermark, the position is now lower than what they have received.
                first.position = since;
            }
            0
        });
        self.count(index, |sessions| sessions + 1);
        WatermarkId(self.first.wrapping_add(index as u32))
    }

    /// Moves a session that has received more.
    pub(crate) fn advance(&mut self, from: WatermarkId, to: WatermarkId) {
        if from != to {
            self.leave(from);
            self.count(self.index(to), |sessions| sessions + 1);
        }
    }

    /// Removes a session.
    pub(crate) fn leave(&mut self, watermark: WatermarkId) {
        self.count(self.index(watermark), |sessions| sessions.saturating_sub(1));
    }

    fn index(&self, watermark: WatermarkId) -> usize {
        watermark.0.wrapping_sub(self.first) as usize
    }

    fn count(&mut self, index: usize, change: impl FnOnce(usize) -> usize) {
        if let Some(watermark) = self.watermarks.get_mut(index) {
            watermark.sessions = change(watermark.sessions);
        }
    }

    fn drop_passed(&mut self) {
        while self.watermarks.len() > 1 && self.watermarks.front().is_some_and(|first| first.sessions == 0) {
            self.watermarks.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(number: u64) -> Position {
        Position::new(number)
    }

    #[test]
    fn the_session_that_has_received_least_decides() {
        let mut confirmed = Confirmed::new(at(10));
        let (one, other) = (confirmed.enter(at(12)), confirmed.enter(at(15)));
        confirmed.begin(at(20));
        assert_eq!(confirmed.position(), at(10));
        let asked = confirmed.now();
        confirmed.begin(at(30));
        confirmed.advance(one, asked);
        confirmed.begin(at(40));
        assert_eq!(confirmed.position(), at(10));
        confirmed.leave(other);
        confirmed.begin(at(40));
        assert_eq!(confirmed.position(), at(20));
        // A returning session has received less than all others.
        let back = confirmed.enter(at(5));
        assert_eq!(confirmed.position(), at(5));
        confirmed.advance(back, confirmed.now());
        confirmed.leave(asked);
        confirmed.begin(at(40));
        assert_eq!(confirmed.position(), at(40));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Broadcast,
        Begin,
        Enter(u64),
        Ask(usize),
        Answer(usize),
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Broadcast),
            Just(Step::Begin),
            (0u64..20).prop_map(Step::Enter),
            (0usize..8).prop_map(Step::Ask),
            (0usize..8).prop_map(Step::Answer),
            (0usize..8).prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// The position and the watermark of a session, now and once the heartbeat under way is answered.
    struct Session {
        since: (Position, WatermarkId),
        asked: (Position, WatermarkId),
    }

    proptest! {
        /// The confirmed position is not above the position of any session.
        #[test]
        fn nothing_is_confirmed_that_a_session_lacks(steps in steps()) {
            let (mut confirmed, mut position) = (Confirmed::new(at(0)), 0_u64);
            let mut sessions: Vec<Session> = Vec::new();
            for step in steps {
                match step {
                    Step::Broadcast => position += 1,
                    Step::Begin => confirmed.begin(at(position)),
                    Step::Enter(lag) => {
                        let since = at(position.saturating_sub(lag));
                        let since = (since, confirmed.enter(since));
                        sessions.push(Session { since, asked: since });
                    }
                    Step::Ask(n) if n < sessions.len() => sessions[n].asked = (at(position), confirmed.now()),
                    Step::Answer(n) if n < sessions.len() => {
                        let session = &mut sessions[n];
                        confirmed.advance(session.since.1, session.asked.1);
                        session.since = session.asked;
                    }
                    Step::Leave(n) if n < sessions.len() => confirmed.leave(sessions.remove(n).since.1),
                    _ => {}
                }
                let least = sessions.iter().map(|session| session.since.0).min().unwrap_or(at(position));
                prop_assert!(confirmed.position() <= least);
            }
            // The confirmed position does not stay behind for good.
            for session in sessions {
                confirmed.leave(session.since.1);
            }
            confirmed.begin(at(position));
            prop_assert_eq!(confirmed.position(), at(position));
        }
    }
}
