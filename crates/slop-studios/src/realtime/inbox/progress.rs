//! The progress of a socket through its user's inbox.

use std::mem::{self, replace};
use std::sync::Arc;
use std::time::Duration;

use crate::limits::{INBOX_AGAIN_AFTER, INBOX_AGAIN_AT_LATEST};
use crate::store::{self, InboxItem, Unread};

/// The progress of a socket on `/notifications` through its user's inbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The user of the inbox. It stays after a logout: the same user continues, and another user starts again.
    user_id: Option<Arc<str>>,
    /// Number up to which everything was sent from the inbox. A recovered session can rely on it, because the recovery
    /// repeats events that were sent to one socket alone.
    sent: u64,
    /// The notifications sent on this connection, from the inbox or live. At least all up to `sent`.
    has: Sent,
    /// The notifications sent to earlier users of the socket, the latest user last: one of them may come back.
    earlier: Vec<(Arc<str>, Sent)>,
    /// The number of the last notification that came live while older ones were pending.
    pub(super) last_live: u64,
    /// Whether no pending notification is left: later ones come live.
    pub(super) is_drained: bool,
    /// Whether the client has used an inbox event, as any user. Only such clients understand the count.
    wants_count: bool,
    /// Whether the count of unread notifications may have changed since it was last sent to the client.
    is_count_stale: bool,
    /// The newest count that could be sent to this socket's client, whether it was sent or not.
    newest_count: Unread,
    /// How often the count became stale.
    pub(super) times_stale: u64,
    /// Number of unanswered requests whose answer may bring the client the count.
    unanswered: usize,
    /// The count of an inbox that was read meanwhile, in case that no answer brings one.
    held: Option<u64>,
    reading: Reading,
    /// Number of consecutive failed reads.
    failures: u32,
}

/// The numbers of the sent notifications.
#[derive(Debug, Clone, Default)]
struct Sent {
    /// All notifications up to this one.
    up_to: u64,
    /// The notifications that came live while older ones were pending: above the first number, up to the second.
    live: Vec<(u64, u64)>,
}

/// Maximum number of live intervals, and of earlier users, that a socket remembers. Each takes a logout or another
/// token before the inbox has been sent. Beyond the limit, a notification may come twice.
const MAX_REMEMBERED: usize = 16;

impl Sent {
    pub(super) fn has(&self, seq: u64) -> bool {
        seq <= self.up_to || self.live.iter().any(|(after, until)| seq > *after && seq <= *until)
    }

    pub(super) fn all_up_to(&mut self, seq: u64) {
        self.up_to = self.up_to.max(seq);
        self.live.retain(|(_, until)| *until > self.up_to);
    }

    pub(super) fn came_live(&mut self, after: u64, until: u64) {
        if until > after {
            push_bounded(&mut self.live, (after, until));
        }
    }
}

fn push_bounded<T>(list: &mut Vec<T>, item: T) {
    if list.len() == MAX_REMEMBERED {
        list.remove(0);
    }
    list.push(item);
}

/// The read state of a socket's inbox. One read runs at a time, however often the client authenticates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    No,
    Once,
    /// The socket got a user, the same or another, since the read began: the result may be incomplete.
    Again,
}

impl Progress {
    /// The progress of a recovered session, whose user's inbox was sent up to this number.
    pub(crate) fn restored(user_id: Option<&str>, sent: u64, wants_count: bool) -> Self {
        let (user_id, has) = (user_id.map(Arc::from), Sent { up_to: sent, live: Vec::new() });
        Self { user_id, sent, has, wants_count, is_count_stale: true, ..Self::default() }
    }

    /// The number up to which this user's inbox was sent, for a session that may be recovered.
    pub(crate) fn sent_to(&self, user_id: &str) -> u64 {
        if self.user_id.as_deref() == Some(user_id) { self.sent } else { 0 }
    }

    /// Whether the client is sent the number of unread notifications, for a session that may be recovered.
    pub(crate) fn wants_count(&self) -> bool {
        self.wants_count
    }

    /// Records a request for the inbox, whose answer contains the count. Returns whether it is the first one.
    pub(super) fn want_count(&mut self) -> bool {
        self.unanswered += 1;
        !replace(&mut self.wants_count, true)
    }

    /// Records the answer to a request that was made when `times_stale` was `asked`. `has_count`: the answer contained
    /// the count. Returns the count to send now.
    pub(super) fn answered(&mut self, asked: u64, has_count: bool) -> Option<u64> {
        self.unanswered = self.unanswered.saturating_sub(1);
        if has_count && self.times_stale == asked {
            (self.is_count_stale, self.held) = (false, None);
        }
        let held = if self.unanswered == 0 { self.held.take() } else { None };
        self.is_count_stale &= held.is_none();
        held
    }

    /// The count for the answer to a request that was made when `times_stale` was `asked`: the one of the answer's own
    /// position in the order, or a newer one that was sent to the client meanwhile.
    pub(super) fn newest(&mut self, asked: u64, unread: Unread) -> u64 {
        if self.times_stale != asked {
            // The socket may have another user by now.
            return unread.count;
        }
        if unread.as_of >= self.newest_count.as_of {
            self.newest_count = unread;
        }
        self.newest_count.count
    }

    /// Records a change of the count, as of its event. Returns the count to send to the client: an answer may have
    /// contained a newer one.
    pub(super) fn count_changed(&mut self, unread: Unread) -> Option<u64> {
        self.held = None;
        if unread.as_of >= self.newest_count.as_of {
            self.newest_count = unread;
        }
        self.is_count_stale &= !self.wants_count;
        self.wants_count.then_some(self.newest_count.count)
    }

    /// Records that the socket has got a user. Returns whether the inbox is to be read now.
    pub(super) fn begin(&mut self, user_id: &Arc<str>) -> bool {
        if self.user_id.as_ref() != Some(user_id) {
            let mut earlier = mem::take(&mut self.earlier);
            if let Some(before) = self.user_id.take() {
                push_bounded(&mut earlier, (before, mem::take(&mut self.has)));
            }
            let known = earlier.iter().position(|(earlier, _)| earlier == user_id);
            *self = Self {
                has: known.map(|known| earlier.remove(known).1).unwrap_or_default(),
                earlier,
                user_id: Some(Arc::clone(user_id)),
                reading: self.reading,
                wants_count: self.wants_count,
                is_count_stale: true,
                times_stale: self.times_stale + 1,
                unanswered: self.unanswered,
                failures: self.failures,
                ..Self::default()
            };
        }
        if self.is_drained {
            return false;
        }
        let is_first = self.reading == Reading::No;
        self.reading = if is_first { Reading::Once } else { Reading::Again };
        is_first
    }

    /// Records a successful read. Returns whether the inbox is to be read again.
    pub(super) fn was_read(&mut self) -> bool {
        self.failures = 0;
        replace(&mut self.reading, Reading::No) == Reading::Again
    }

    /// Records a failed read. The inbox counts as being read until the retry. Returns the longest wait before the
    /// retry.
    pub(super) fn failed(&mut self) -> Duration {
        let wait = INBOX_AGAIN_AFTER * 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        wait.min(INBOX_AGAIN_AT_LATEST)
    }

    /// Allows the retry, for the socket's current user.
    pub(super) fn try_again(&mut self) {
        self.reading = Reading::No;
    }

    /// Records that the socket leaves its user's room. It got all notifications after `joined` up to `position` live.
    /// While older ones are pending, that says nothing about them.
    pub(crate) fn end(&mut self, joined: u64, position: u64) {
        self.is_count_stale = true;
        self.times_stale += 1;
        self.held = None;
        if replace(&mut self.is_drained, false) {
            self.has.all_up_to(position);
        } else {
            self.has.came_live(joined, position);
        }
    }

    /// Records a notification that came live. Returns whether no older one is pending, so that its arrival confirms
    /// all.
    pub(super) fn came_live(&mut self, seq: u64) -> bool {
        if !self.is_drained {
            self.last_live = seq;
        }
        self.is_drained
    }

    /// The count to send the client after its inbox was read. A change since the read has the newer count.
    pub(super) fn take_count(&mut self, inbox: &store::Inbox, is_late: bool) -> Option<u64> {
        if is_late || !self.is_count_stale {
            return None;
        }
        let Unread { count, as_of } = self.newest_count;
        let unread = if as_of > inbox.as_of { count } else { inbox.unread };
        if self.unanswered > 0 {
            self.held = Some(unread);
            return None;
        }
        self.is_count_stale = false;
        self.wants_count.then_some(unread)
    }

    /// The notifications of an inbox that the socket has not got. Those with a higher number than `joined` came live.
    /// `is_late`: the inbox was read before the socket joined.
    pub(super) fn take<'a>(&mut self, inbox: &'a store::Inbox, joined: u64, is_late: bool) -> Vec<&'a InboxItem> {
        let is_new = |item: &&InboxItem| !self.has.has(item.seq) && item.seq <= joined;
        let new = inbox.undelivered.iter().filter(is_new).collect();
        // Notifications that came live before a logout may be lost with the connection. Then only the inbox repeats
        // them.
        let is_unsure = inbox.undelivered.iter().any(|item| item.seq > self.sent && self.has.has(item.seq));
        let last = inbox.undelivered.last().map_or(0, |item| item.seq).min(joined);
        if !is_unsure {
            self.sent = self.sent.max(last);
        }
        self.is_drained = !inbox.more && !is_late;
        self.has.all_up_to(if self.is_drained { inbox.as_of.max(self.last_live) } else { last });
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(numbers: &[u64], as_of: u64) -> store::Inbox {
        let item = |&seq| InboxItem { seq, id: "n".into(), payload: "{}".into() };
        store::Inbox { undelivered: numbers.iter().map(item).collect(), as_of, ..store::Inbox::default() }
    }

    fn unread(as_of: u64, count: u64) -> Unread {
        Unread { count, as_of }
    }

    fn count(progress: &mut Progress, unread: u64, is_late: bool) -> Option<u64> {
        progress.take_count(&store::Inbox { unread, as_of: 8, ..store::Inbox::default() }, is_late)
    }

    fn taken(progress: &mut Progress, inbox: &store::Inbox, joined: u64) -> Vec<u64> {
        progress.take(inbox, joined, false).iter().map(|item| item.seq).collect()
    }

    #[test]
    fn what_came_before_a_logout_does_not_come_again() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[2, 3, 6], 7), 4), [2, 3], "the last one came live");
        progress.end(4, 8);
        progress.begin(&user);
        // Nothing is confirmed yet, and 9 came while it was logged out.
        assert_eq!(taken(&mut progress, &waiting(&[2, 3, 6, 8, 9], 10), 9), [9]);
        assert_eq!(taken(&mut progress, &waiting(&[2, 3, 6, 8, 9], 10), 9), [0; 0]);
        progress.end(9, 10);
        progress.begin(&other);
        assert_eq!(taken(&mut progress, &waiting(&[5], 11), 11), [5], "another one's inbox");
    }

    #[test]
    fn what_came_before_another_user_does_not_come_again() {
        let (user, other): (Arc<str>, Arc<str>) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[2], 3), 3), [2]);
        progress.end(3, 5);
        progress.begin(&other);
        assert_eq!(taken(&mut progress, &waiting(&[4], 5), 5), [4]);
        progress.end(5, 7);
        progress.begin(&user);
        // 5 came live, and none is confirmed yet.
        assert_eq!(taken(&mut progress, &waiting(&[2, 5, 6], 8), 8), [6]);
        assert_eq!(progress.sent_to("u"), 0, "who comes back counts on nothing that came live");
        for number in 0..2 * MAX_REMEMBERED {
            progress.begin(&number.to_string().into());
        }
        assert_eq!(progress.earlier.len(), MAX_REMEMBERED);
    }

    #[test]
    fn what_came_live_while_others_waited_does_not_come_again() {
        let user = "u".into();
        let mut progress = Progress::default();
        progress.begin(&user);
        // The inbox is not read yet when the client logs out.
        progress.end(3, 5);
        progress.was_read();
        progress.begin(&user);
        let batch = store::Inbox { more: true, ..waiting(&[2, 4], 8) };
        assert_eq!(taken(&mut progress, &batch, 7), [2], "4 came live");
        progress.end(7, 9);
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[2, 4, 6, 8, 10], 10), 10), [6, 10]);
        assert!(progress.has.live.is_empty(), "all are sent");
    }

    /// The inbox was read as of a number, and is handed to the socket later.
    #[test]
    fn what_came_live_since_the_read_counts_as_sent() {
        let mut progress = Progress::default();
        progress.begin(&"u".into());
        assert!(progress.want_count());
        progress.answered(0, false);
        assert!(!progress.came_live(9) && progress.count_changed(unread(9, 2)).is_some());
        assert_eq!(taken(&mut progress, &waiting(&[2], 8), 4), [2]);
        assert_eq!(count(&mut progress, 1, false), None, "a newer number was sent to the client");
        assert_eq!(progress.last_live, 9);
        assert!(progress.came_live(10));
        progress.end(4, 10);
        progress.begin(&"u".into());
        assert_eq!(taken(&mut progress, &waiting(&[2, 9, 11], 12), 11), [11]);
    }

    #[test]
    fn a_count_that_changed_since_the_read_is_sent() {
        let mut progress = Progress::default();
        progress.begin(&"u".into());
        assert_eq!(progress.count_changed(unread(9, 4)), None, "the client has not asked for it");
        assert!(progress.want_count());
        assert_eq!(count(&mut progress, 3, false), None);
        assert_eq!(progress.answered(0, false), Some(4), "the list failed");
        assert_eq!(progress.count_changed(unread(10, 5)), Some(5));
    }

    /// An answer and the events of the count reach the socket in either order.
    #[test]
    fn the_count_never_steps_back() {
        let mut progress = Progress::default();
        progress.begin(&"u".into());
        assert!(progress.want_count());
        let asked = progress.times_stale;
        assert_eq!(progress.count_changed(unread(5, 2)), Some(2));
        assert_eq!(progress.newest(asked, unread(4, 1)), 2, "the answer is older than the event");
        assert_eq!(progress.newest(asked, unread(8, 7)), 7, "the answer is ahead of the events");
        assert_eq!(progress.count_changed(unread(6, 3)), Some(7), "the event of an older count tells the newer one");
        assert_eq!(progress.count_changed(unread(9, 6)), Some(6));
        progress.begin(&"v".into());
        assert_eq!(progress.newest(asked, unread(10, 4)), 4, "the answer is for the user before");
        assert_eq!(progress.count_changed(unread(7, 1)), Some(1));
    }

    #[test]
    fn one_read_at_a_time_and_one_more_after_it() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        assert!(progress.begin(&user));
        for user in [&user, &other, &user] {
            assert!(!progress.begin(user));
        }
        assert!(progress.was_read(), "for those that came meanwhile");
        // The socket joined after that read: 2 is on its way, and the live notifications do not replace it.
        assert_eq!(progress.take(&waiting(&[1], 1), 3, true).len(), 1);
        progress.end(3, 4);
        assert!(progress.begin(&user));
        assert!(!progress.was_read());
        assert_eq!(taken(&mut progress, &waiting(&[1, 2, 4], 4), 3), [2]);
        assert!(!progress.begin(&user), "nothing waits");
        progress.end(3, 5);
        assert!(progress.begin(&user));
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_once_at_a_time_and_less_and_less_often() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        assert!(progress.begin(&user));
        let mut waits = Vec::new();
        for _ in 0..40 {
            waits.push(progress.failed());
            assert!(!progress.begin(&user), "one try at a time");
            progress.try_again();
            assert!(progress.begin(&user));
        }
        assert_eq!((waits[0], waits[1]), (INBOX_AGAIN_AFTER, 2 * INBOX_AGAIN_AFTER));
        assert!(waits.is_sorted() && waits[39] == INBOX_AGAIN_AT_LATEST, "{waits:?}");
        progress.end(0, 1);
        assert!(!progress.begin(&other), "not by another user either");
        assert_eq!(progress.failed(), INBOX_AGAIN_AT_LATEST);
        progress.try_again();
        assert!(progress.begin(&other));
        assert!(!progress.was_read());
        assert!(progress.begin(&other));
        assert_eq!(progress.failed(), INBOX_AGAIN_AFTER);
    }

    #[test]
    fn what_comes_live_does_not_pass_for_what_waits() {
        let mut progress = Progress::default();
        progress.begin(&"u".into());
        let batch = store::Inbox { more: true, ..waiting(&[1, 2], 500) };
        assert_eq!(taken(&mut progress, &batch, 400), [1, 2]);
        progress.end(400, 501);
        assert_eq!(taken(&mut progress, &waiting(&[300, 502], 502), 502), [300, 502]);
    }

    #[test]
    fn a_session_that_comes_back_counts_on_nothing_that_came_live() {
        let user = "u".into();
        let mut progress = Progress::default();
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[1], 2), 2), [1]);
        progress.end(2, 3);
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[1, 3, 4], 5), 5), [4]);
        assert_eq!((progress.sent_to("u"), progress.sent_to("v")), (1, 0));
        let mut back = Progress::restored(Some("u"), 1, false);
        back.begin(&user);
        assert_eq!(taken(&mut back, &waiting(&[1, 3, 4], 5), 5), [3, 4]);
    }

    #[test]
    fn the_count_is_sent_when_it_may_have_changed_unnoticed() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        progress.begin(&user);
        assert_eq!(count(&mut progress, 1, false), None, "the client has not asked for it");
        assert_eq!([progress.want_count(), progress.want_count()], [true, false]);
        assert_eq!([progress.answered(1, true), progress.answered(1, true)], [None; 2]);
        assert_eq!(count(&mut progress, 1, false), None, "what it asked for had the count");
        progress.end(0, 1);
        progress.begin(&user);
        assert_eq!(count(&mut progress, 1, true), None, "read before the socket joined");
        assert_eq!([count(&mut progress, 1, false), count(&mut progress, 1, false)], [Some(1), None]);
        progress.begin(&other);
        assert_eq!(count(&mut progress, 1, false), Some(1), "it is another one's");
        assert_eq!(count(&mut Progress::restored(None, 0, progress.wants_count()), 1, false), Some(1));
    }

    #[test]
    fn the_count_of_an_inbox_is_sent_unless_an_answer_contains_it() {
        let begun = || {
            let mut progress = Progress::default();
            progress.begin(&"u".into());
            progress.want_count();
            let asked = progress.times_stale;
            assert_eq!(count(&mut progress, 5, false), None, "the answer will tell it");
            (progress, asked)
        };
        let (mut progress, asked) = begun();
        assert_eq!((progress.answered(asked, true), count(&mut progress, 5, false)), (None, None));
        let (mut failed, asked) = begun();
        assert_eq!((failed.answered(asked, false), count(&mut failed, 5, false)), (Some(5), None));
        let (mut away, asked) = begun();
        away.end(0, 2);
        away.begin(&"u".into());
        assert_eq!(
            (away.answered(asked, true), count(&mut away, 6, false)),
            (None, Some(6)),
            "it was away since it asked"
        );
    }
}
