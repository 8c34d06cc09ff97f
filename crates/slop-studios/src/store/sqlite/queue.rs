//! The writer's queue. Requests are carried out in the order of the calls. Writes without a waiting caller (sessions,
//! inbox positions) are merged by key, and written some milliseconds later. Reads for clients that come back from
//! earlier runs of the server need no place in that order. They wait in a queue of their own, and are done in slices.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{collections::VecDeque, mem};

use super::super::availability::Availability;
use super::super::{Backlog, Before, Ending, SessionKey, SessionRecord, StoreError};
use super::lazy::{Lazy, Saving, SessionChange};
use super::request::{Recall, Request};
use super::unsaved::Unsaved;
use crate::limits::{
    GROUP_BYTES, GROUP_REQUESTS, LAZY_SESSIONS, LAZY_WRITES, LAZY_WRITES_AFTER, LAZY_WRITES_AGAIN_AFTER,
    STORE_QUEUE_BYTES, STORE_QUEUE_CLIENT_REQUESTS, STORE_QUEUE_REQUESTS,
};

/// The requests and writes that are carried out together.
#[derive(Default)]
pub(super) struct Group {
    pub(super) requests: Vec<Request>,
    pub(super) lazy: Lazy,
    /// Whether this group completes the write of all changes of sessions that were noted as being written.
    pub(super) ends_saving: bool,
}

impl Backlog {
    fn of(requests: usize, lazy: &Lazy) -> Self {
        Self { requests, sessions: lazy.sessions.len(), inboxes: lazy.received.len() }
    }

    fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            sessions: self.sessions + other.sessions,
            inboxes: self.inboxes + other.inboxes,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    /// `None` if sessions are not saved. This lock is taken before `waiting`.
    unsaved: Mutex<Option<Unsaved>>,
    waiting: Mutex<Waiting>,
    work: Condvar,
    /// Notified when the writer has ended.
    over: Condvar,
    pub(super) availability: Availability,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    bytes: usize,
    /// The number of requests of clients.
    from_clients: usize,
    recalls: VecDeque<Recall>,
    lazy: Lazy,
    /// Changes that were in `lazy` before and are being written.
    saving: Saving,
    /// The deadline for the write of `lazy`, if it has changes.
    lazy_due: Option<Instant>,
    /// The last write has failed, and the next one has to wait for its time.
    is_retrying: bool,
    /// Whether requests are refused.
    closed: bool,
    /// Whether the last changes have been taken. Later changes are not written any more.
    lazy_closed: bool,
    /// The data that the writer is about to write.
    in_hand: Backlog,
    /// The data that the writer will not write any more.
    given_up: Backlog,
    /// Whether the writer ended without being asked to.
    is_broken: bool,
    is_over: bool,
}

impl Queue {
    /// Creates a queue with the list of sessions whose saved records are outdated.
    pub(super) fn new(unsaved: Option<Unsaved>) -> Self {
        Self { unsaved: Mutex::new(unsaved), ..Self::default() }
    }

    fn unsaved(&self) -> MutexGuard<'_, Option<Unsaved>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code under this lock panics half way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request at the end.
    pub(super) fn push(&self, request: Request) -> Result<(), StoreError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(stopped());
        }
        let weight = request.weight();
        if waiting.requests.len() >= STORE_QUEUE_REQUESTS || waiting.bytes + weight > STORE_QUEUE_BYTES {
            self.availability.refused();
            return Err(StoreError::Overloaded);
        }
        if request.is_from_client() {
            if waiting.from_clients >= STORE_QUEUE_CLIENT_REQUESTS {
                return Err(StoreError::Overloaded);
            }
            waiting.from_clients += 1;
        }
        if let Request::Inbox { user_id, .. } = &request
            && waiting.lazy.received.contains_key(user_id)
        {
            // Notifications that one socket has received must not be sent to the next.
            waiting.lazy_due = Some(Instant::now());
        }
        waiting.bytes += weight;
        waiting.requests.push_back(request);
        self.work.notify_one();
        Ok(())
    }

    /// Adds a read for a returning client. There are no more of them than permits.
    pub(super) fn push_recall(&self, recall: Recall) -> Result<(), StoreError> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(stopped());
        }
        waiting.recalls.push_back(recall);
        self.work.notify_one();
        Ok(())
    }

    /// Takes the read that continues next.
    pub(super) fn take_recall(&self) -> Option<Recall> {
        self.waiting().recalls.pop_front()
    }

    /// Puts back an unfinished read, behind the others.
    pub(super) fn put_recall_back(&self, recall: Recall) {
        self.waiting().recalls.push_back(recall);
    }

    /// Adds the change, and returns whether there was room for it.
    pub(super) fn put_session(&self, key: SessionKey, change: SessionChange) -> bool {
        // The lock is held until the change is queued, so that its key is not removed from the list before. Other
        // requests, and changes that do not outdate a saved record, need not wait for this lock.
        let mut unsaved = change.outdates_saved().then(|| self.unsaved());
        let needs_no_note = |earlier: &SessionChange| earlier.outdates_saved() || earlier.is_first();
        let is_noted = || self.waiting().lazy.sessions.get(&key).is_some_and(needs_no_note);
        if let Some(unsaved) = unsaved.as_mut().and_then(|unsaved| unsaved.as_mut())
            && !is_noted()
        {
            unsaved.add(&key);
        }
        let mut waiting = self.waiting();
        let earlier = if waiting.lazy_closed { None } else { waiting.lazy.sessions.remove(&key) };
        let fits = earlier.is_some() || (!waiting.lazy_closed && waiting.lazy.sessions.len() < LAZY_WRITES);
        if fits {
            let is_new = earlier.is_none();
            let change = match (earlier, change) {
                // A short-lived session causes no disk write.
                (Some(earlier), SessionChange::Forgotten) if earlier.is_first() => return true,
                (Some(earlier), change) => earlier.then(change),
                (None, change) => change,
            };
            waiting.lazy.sessions.insert(key, change);
            if is_new && waiting.lazy.sessions.len() == LAZY_SESSIONS && !waiting.is_retrying {
                // As many as are written at once: more would only take memory.
                waiting.lazy_due = Some(Instant::now());
                self.work.notify_one();
            }
            self.lazy_waits(waiting);
        } else if !waiting.lazy_closed {
            waiting.given_up.sessions += 1;
            drop((waiting, unsaved));
            self.sessions_lost();
        }
        // A change after the end is not written, and its key stays on the list.
        fits
    }

    /// Records the number up to which all connected clients have received every event.
    pub(super) fn put_confirmed(&self, up_to: u64) {
        let mut waiting = self.waiting();
        if !waiting.lazy_closed {
            waiting.lazy.confirmed = Some(up_to);
            self.lazy_waits(waiting);
        }
    }

    /// A session that a pending change saves, or `Some(None)` if a pending change removes it.
    pub(super) fn pending_session(&self, key: &SessionKey) -> Option<Option<SessionRecord>> {
        let waiting = self.waiting();
        let [earlier, later] =
            [&waiting.saving.sessions, &waiting.lazy.sessions].map(|sessions| sessions.get(key).cloned());
        drop(waiting);
        let change = match (earlier, later) {
            (Some(earlier), Some(later)) => earlier.then(later),
            (earlier, later) => later.or(earlier)?,
        };
        match change {
            SessionChange::Saved(session) => Some(Some(session)),
            SessionChange::Forgotten => Some(None),
            SessionChange::Left(_) => None,
        }
    }

    /// Adds the change, and returns whether there was room for it.
    pub(super) fn put_received(&self, user_id: &Arc<str>, up_to: u64) -> bool {
        let mut waiting = self.waiting();
        let fits = waiting.lazy.received.len() < LAZY_WRITES || waiting.lazy.received.contains_key(user_id);
        let fits = fits && !waiting.lazy_closed;
        if fits {
            waiting.lazy.received(user_id, up_to);
            self.lazy_waits(waiting);
        } else if !waiting.lazy_closed {
            waiting.given_up.inboxes += 1;
        }
        fits
    }

    fn lazy_waits(&self, mut waiting: MutexGuard<'_, Waiting>) {
        if waiting.lazy_due.is_none() {
            waiting.lazy_due = Some(Instant::now() + LAZY_WRITES_AFTER);
            self.work.notify_one();
        }
    }

    /// Puts back changes that could not be written. Changes that were queued since are newer.
    pub(super) fn put_back(&self, mut lazy: Lazy) {
        let mut waiting = self.waiting();
        let saving = mem::take(&mut waiting.saving);
        lazy.sessions.extend(saving.sessions);
        lazy.confirmed = lazy.confirmed.or(saving.confirmed);
        if waiting.lazy_closed {
            // There is no later write.
            waiting.given_up = waiting.given_up.and(Backlog::of(0, &lazy));
            return;
        }
        for (key, mut earlier) in lazy.sessions {
            if let SessionChange::Saved(session) = &mut earlier
                && session.before == Before::Nothing
            {
                // A failed commit may be on the disk.
                session.before = Before::Valid;
            }
            let change = match waiting.lazy.sessions.remove(&key) {
                Some(change) => earlier.then(change),
                None => earlier,
            };
            waiting.lazy.sessions.insert(key, change);
        }
        waiting.lazy.confirmed = waiting.lazy.confirmed.or(lazy.confirmed);
        for (user_id, up_to) in lazy.received {
            waiting.lazy.received(&user_id, up_to);
        }
        if !waiting.lazy.is_empty() {
            waiting.lazy_due = Some(Instant::now() + LAZY_WRITES_AGAIN_AFTER);
            waiting.is_retrying = true;
        }
    }

    /// Waits for work, at most until the given time. Returns false when there will be no more work.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut waiting = self.waiting();
        loop {
            let now = Instant::now();
            let due = waiting.lazy_due.map_or(until, |due| due.min(until));
            let is_work = !waiting.requests.is_empty() || !waiting.recalls.is_empty() || !waiting.saving.is_empty();
            if is_work || waiting.closed || due <= now {
                break;
            }
            waiting = self.work.wait_timeout(waiting, due - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        let has_writes = !waiting.lazy.is_empty() || !waiting.saving.is_empty();
        let goes_on = !waiting.closed || !waiting.requests.is_empty() || has_writes;
        waiting.lazy_closed |= !goes_on;
        goes_on
    }

    /// Whether there is work besides recalls.
    pub(super) fn has_work(&self) -> bool {
        let waiting = self.waiting();
        let is_due = || waiting.lazy_due.is_some_and(|due| due <= Instant::now());
        !waiting.requests.is_empty() || !waiting.saving.is_empty() || waiting.closed || is_due()
    }

    /// Takes the next group. The rest stays for later turns of the writer.
    pub(super) fn take(&self) -> Group {
        let mut unsaved = self.unsaved();
        let mut waiting = self.waiting();
        let mut group = Group::default();
        if waiting.closed || waiting.lazy_due.is_some_and(|due| due <= Instant::now()) {
            // All of them: an inbox that is read with this group must not contain received notifications.
            group.lazy.received = mem::take(&mut waiting.lazy.received);
            if waiting.saving.is_empty() {
                waiting.lazy_due = None;
                waiting.is_retrying = false;
                waiting.lazy_closed = waiting.closed;
                waiting.saving = Saving::of(&mut waiting.lazy);
                group.lazy.confirmed_at_most = waiting.saving.confirmed;
                if let Some(unsaved) = &mut *unsaved
                    && !waiting.saving.sessions.is_empty()
                {
                    unsaved.write();
                }
            }
        }
        // At the end, no new caller needs an answer.
        let is_last = waiting.closed;
        waiting.saving.take_part(&mut group.lazy, is_last);
        group.ends_saving = !group.lazy.sessions.is_empty() && waiting.saving.sessions.is_empty();
        let mut bytes = 0;
        while group.requests.len() < GROUP_REQUESTS
            && bytes < GROUP_BYTES
            && let Some(request) = waiting.requests.pop_front()
        {
            bytes += request.weight();
            waiting.from_clients -= usize::from(request.is_from_client());
            group.requests.push(request);
        }
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        waiting.in_hand = Backlog::of(group.requests.len(), &group.lazy);
        group
    }

    /// Records that the taken changes of sessions have been written.
    pub(super) fn sessions_written(&self) {
        if let Some(unsaved) = &mut *self.unsaved() {
            unsaved.written();
        }
    }

    /// Records that changes of sessions will never be written.
    pub(super) fn sessions_lost(&self) {
        if let Some(unsaved) = &mut *self.unsaved() {
            unsaved.lost();
        }
    }

    /// Records that the taken data has been written or put back.
    pub(super) fn put_down(&self) {
        self.waiting().in_hand = Backlog::default();
    }

    /// Whether no request is queued and the queue is open.
    pub(super) fn is_idle(&self) -> bool {
        let waiting = self.waiting();
        waiting.requests.is_empty() && !waiting.closed
    }

    /// The number of queued reads for returning clients.
    pub(super) fn recalls(&self) -> usize {
        self.waiting().recalls.len()
    }

    /// The number of queued requests.
    pub(super) fn len(&self) -> usize {
        self.waiting().requests.len()
    }

    /// Whether requests are accepted.
    pub(super) fn is_open(&self) -> bool {
        !self.waiting().closed
    }

    /// Closes the queue. Queued requests are still carried out.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.work.notify_one();
    }

    /// Closes the queue and drops the queued requests, which answers them. Nothing is written from now on.
    pub(super) fn abandon(&self) {
        let mut waiting = self.waiting();
        (waiting.closed, waiting.lazy_closed) = (true, true);
        let abandoned = (mem::take(&mut waiting.requests), mem::take(&mut waiting.recalls));
        let mut lazy = mem::take(&mut waiting.lazy);
        lazy.sessions.extend(mem::take(&mut waiting.saving).sessions);
        let in_hand = mem::take(&mut waiting.in_hand);
        waiting.given_up = waiting.given_up.and(in_hand).and(Backlog::of(abandoned.0.len(), &lazy));
        drop(waiting);
        drop(abandoned);
    }

    /// The data that will not be written.
    pub(super) fn given_up(&self) -> Backlog {
        self.waiting().given_up
    }

    /// Records that the writer has ended, whether it was asked to or not.
    pub(super) fn end(&self, is_broken: bool) {
        let mut waiting = self.waiting();
        (waiting.is_over, waiting.is_broken) = (true, is_broken);
        self.over.notify_all();
    }

    /// Waits until the writer has ended, at most until the given time.
    pub(super) fn wait_for_end(&self, until: Instant) -> Ending {
        let mut waiting = self.waiting();
        while !waiting.is_over {
            let patience = until.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                break;
            }
            waiting = self.over.wait_timeout(waiting, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        let saving = Backlog { sessions: waiting.saving.sessions.len(), ..Backlog::default() };
        let left = waiting.in_hand.and(Backlog::of(waiting.requests.len(), &waiting.lazy)).and(saving);
        Ending { unwritten: waiting.given_up.and(left), is_broken: waiting.is_broken, is_late: !waiting.is_over }
    }
}

/// The error of requests after the writer has ended.
pub(super) fn stopped() -> StoreError {
    StoreError::Unavailable("it has stopped".into())
}

#[cfg(test)]
mod tests {
    use super::super::lazy::Left;
    use super::*;
    use crate::contract::time::Moment;
    use crate::limits::LAZY_BYTES;

    #[test]
    fn what_fails_while_the_store_ends_is_tried_once_more() {
        let queue = Queue::default();
        let key: SessionKey = [1; 32];
        assert!(queue.put_session(key, SessionChange::Forgotten));
        queue.waiting().lazy_due = Some(Instant::now());
        let taken = queue.take();
        assert_eq!(taken.lazy.sessions.len(), 1);
        queue.close();
        queue.put_back(taken.lazy);
        assert!(queue.wait(Instant::now()));
        let taken = queue.take();
        assert_eq!(taken.lazy.sessions.len(), 1);
        queue.put_back(taken.lazy);
        assert!(!queue.wait(Instant::now()));
        assert_eq!(queue.given_up().sessions, 1);
    }

    #[test]
    fn a_session_that_ends_before_it_was_written_is_not_written() {
        let first = |key| match saved(key, 1) {
            SessionChange::Saved(session) => SessionChange::Saved(SessionRecord { before: Before::Nothing, ..session }),
            other => other,
        };
        let queue = Queue::default();
        for change in [first(1), saved(1, 2), SessionChange::Forgotten] {
            assert!(queue.put_session([1; 32], change));
        }
        assert!(queue.waiting().lazy.sessions.is_empty());
        // A failed commit of this session may be on the disk.
        assert!(queue.put_session([2; 32], first(2)));
        queue.waiting().lazy_due = Some(Instant::now());
        queue.put_back(queue.take().lazy);
        assert!(queue.put_session([2; 32], SessionChange::Forgotten));
        assert!(matches!(queue.waiting().lazy.sessions.get(&[2; 32]), Some(SessionChange::Forgotten)));
    }

    fn saved(key: u8, room_bytes: usize) -> SessionChange {
        SessionChange::Saved(SessionRecord {
            key: [key; 32],
            namespace: "/".to_owned(),
            socket_id: "s".to_owned(),
            rooms: vec![("x".repeat(room_bytes).into(), 0)],
            data: String::new(),
            since_seq: 0,
            updated_at: Moment::now(),
            left_at: None,
            before: Before::Outdated,
            own_events: None,
        })
    }

    /// The confirmed number falls before the first part and rises with the last. A session that is not in the file yet
    /// is found, together with its later changes.
    #[test]
    fn sessions_are_written_in_parts() {
        let queue = Queue::new(None);
        for key in 0..8 {
            assert!(queue.put_session([key; 32], saved(key, LAZY_BYTES / 2)));
        }
        queue.put_confirmed(7);
        let later = queue.waiting().lazy_due.expect("it is to be written");
        while Instant::now() < later {
            std::thread::yield_now();
        }
        let mut written = Vec::new();
        for part in 0..4 {
            assert!(queue.has_work() && queue.wait(later));
            if part == 2 {
                // These are not among the changes that are being written.
                assert!(queue.put_session([9; 32], saved(9, 1)));
                queue.put_confirmed(9);
            }
            let group = queue.take();
            let (at_most, confirmed) = (group.lazy.confirmed_at_most, group.lazy.confirmed);
            assert_eq!((at_most, confirmed), ((part == 0).then_some(7), (part == 3).then_some(7)), "{part}");
            assert_eq!((group.lazy.sessions.len(), group.ends_saving), (2, part == 3), "{part}");
            written.extend(group.lazy.sessions.into_keys());
            for key in 0..8 {
                let is_pending = queue.pending_session(&[key; 32]).is_some();
                assert_eq!(is_pending, !written.contains(&[key; 32]), "{key}");
                if is_pending && part == 0 {
                    let at = Moment::now();
                    assert!(queue.put_session([key; 32], SessionChange::Left(Left { at, since_seq: 5 })));
                    let pending = queue.pending_session(&[key; 32]).flatten().expect("it is saved");
                    assert_eq!((pending.since_seq, pending.left_at), (5, Some(at)));
                }
            }
        }
        assert_eq!(written.len(), 8);
    }

    #[test]
    fn sessions_of_a_part_that_failed_are_written_again_and_newer_ones_stay() {
        let queue = Queue::new(None);
        for key in 0..4 {
            assert!(queue.put_session([key; 32], saved(key, LAZY_BYTES)));
        }
        queue.put_confirmed(7);
        queue.waiting().lazy_due = Some(Instant::now());
        let group = queue.take();
        assert!(queue.put_session([0; 32], SessionChange::Forgotten));
        queue.put_back(group.lazy);
        let waiting = queue.waiting();
        assert!(waiting.saving.is_empty());
        assert_eq!((waiting.lazy.sessions.len(), waiting.lazy.confirmed), (4, Some(7)));
        assert!(matches!(waiting.lazy.sessions[&[0; 32]], SessionChange::Forgotten));
    }

    #[test]
    fn a_full_group_of_sessions_does_not_wait_unless_the_last_write_failed() {
        let queue = Queue::new(None);
        let is_due = || queue.waiting().lazy_due.is_some_and(|due| due <= Instant::now());
        let key = |number: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            key
        };
        let save = |number| assert!(queue.put_session(key(number), saved(0, 1)));
        (1..LAZY_SESSIONS).for_each(save);
        assert!(!is_due());
        save(LAZY_SESSIONS);
        assert!(is_due());
        let group = queue.take();
        assert_eq!(group.lazy.sessions.len(), LAZY_SESSIONS);
        queue.put_back(group.lazy);
        // Neither a change of a session that waits, nor another one, nor anything else makes it due.
        queue.put_confirmed(1);
        assert!(queue.put_received(&"u".into(), 1));
        [1, LAZY_SESSIONS + 1].into_iter().for_each(save);
        assert!(!is_due());
    }
}
