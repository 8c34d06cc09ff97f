use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use tempfile::TempDir;

use super::*;
use crate::contract::delivery::Class;
use crate::limits::JOURNAL_GROWTH_BYTES;

const AGE: Duration = Duration::from_secs(60);

/// Successive runs of a server on one folder, each with a thousand numbers.
struct Runs {
    folder: TempDir,
    count: u64,
    /// The first number of the last recorded run.
    noted: u64,
}

impl Runs {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), count: 0, noted: 0 }
    }

    fn begin(&mut self) -> (Journal, Earlier) {
        let begun = self.try_to_begin();
        self.noted = self.count * 1_000;
        begun
    }

    /// A run that ends before it is recorded in the store.
    fn try_to_begin(&mut self) -> (Journal, Earlier) {
        self.count += 1;
        let run = Run { boot_seq: self.count * 1_000, previous: self.noted };
        let (journal, earlier) = Journal::open(self.folder.path(), run, AGE).expect("it opens");
        (journal.expect("somebody may be recovered"), earlier)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
        files.sort();
        files
    }

    fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(file).expect("a file");
        file.write_all_at(bytes, at).expect("it can be written");
    }
}

fn event(room: &str, event: &str, class: Class) -> Envelope {
    Envelope {
        namespace: "/",
        room: room.into(),
        owner_room: None,
        event: event.into(),
        argument: "{\"a\":1}".into(),
        class,
    }
}

fn append<'a>(journal: &mut Journal, events: impl IntoIterator<Item = (u64, &'a Envelope)>) -> io::Result<()> {
    journal.append(events, Instant::now())
}

fn write(journal: &mut Journal, seq: u64, room: &str) {
    append(journal, [(seq, &event(room, &seq.to_string(), Class::Recoverable))]).expect("it is written");
}

fn found(earlier: &Earlier, room: &str) -> Vec<u64> {
    earlier.events("/", room, 0, u64::MAX).map(|record| record.seq).collect()
}

#[test]
fn the_next_life_finds_what_was_written() {
    let mut runs = Runs::new();
    let (mut journal, earlier) = runs.begin();
    assert_eq!(earlier.complete_after(), 999);
    let events = [event("a", "e", Class::Recoverable), event("b", "f", Class::Recoverable)];
    append(&mut journal, [(1_000, &events[0]), (1_001, &events[1])]).expect("they are written");
    write(&mut journal, 1_002, "a");
    // The process is killed.
    let (mut journal, earlier) = runs.begin();
    assert_eq!(
        (earlier.complete_after(), found(&earlier, "a"), found(&earlier, "b")),
        (999, vec![1_000, 1_002], vec![1_001])
    );
    let record = earlier.events("/", "a", 0, u64::MAX).next().expect("a record");
    assert_eq!((record.event, record.argument, record.is_latest), ("e", "{\"a\":1}", false));
    assert_eq!(earlier.events("/", "a", 1_000, u64::MAX).count(), 1);
    assert_eq!(earlier.events("/", "a", 0, 1_001).count(), 1);
    assert_eq!(earlier.events("/media", "a", 0, u64::MAX).count(), 0);
    assert!(earlier.end_of(1_000).is_some());
    write(&mut journal, 2_000, "a");
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000, 1_002, 2_000]));
}

#[test]
fn of_latest_events_the_newest_of_a_name_is_found() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    for (seq, name, class) in [
        (1_000, "x", Class::Latest),
        (1_001, "y", Class::Latest),
        (1_002, "x", Class::Recoverable),
        (1_003, "x", Class::Latest),
    ] {
        append(&mut journal, [(seq, &event("a", name, class))]).expect("it is written");
    }
    assert_eq!(found(&runs.begin().1, "a"), [1_001, 1_002, 1_003]);
}

/// The process was killed while it copied records.
#[test]
fn records_that_the_header_does_not_count_are_none() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    let file = runs.files()[0].clone();
    let counted = |file: &Path| fs::read(file).expect("a file")[56..64].to_vec();
    let first = counted(&file);
    write(&mut journal, 1_001, "a");
    assert_ne!(counted(&file), first);
    Runs::overwrite(&file, 56, &first);
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000]));
}

#[test]
fn what_may_be_missing_is_known() {
    type Fault = fn(&Runs);
    let faults: [(&str, Fault); 6] = [
        ("a damaged record", |runs| Runs::overwrite(&runs.files()[1], 80 + 30, b"X")),
        ("a count that ends within a record", |runs| Runs::overwrite(&runs.files()[1], 56, &10_u64.to_le_bytes())),
        ("a file that was cut", |runs| {
            let file = OpenOptions::new().write(true).open(&runs.files()[1]).expect("a file");
            file.set_len(80 + 10).expect("it is cut");
        }),
        ("a file that is gone", |runs| fs::remove_file(&runs.files()[1]).expect("it is there")),
        ("another machine, or another run of this one", |runs| Runs::overwrite(&runs.files()[1], 32, &[7; 16])),
        ("a run without a journal", |runs| Runs::overwrite(&runs.files()[1], 8, &1_500_u64.to_le_bytes())),
    ];
    for (fault, apply) in faults {
        let mut runs = Runs::new();
        let (mut journal, _) = runs.begin();
        write(&mut journal, 1_000, "a");
        let (mut journal, _) = runs.begin();
        write(&mut journal, 2_000, "a");
        apply(&runs);
        let (mut journal, earlier) = runs.begin();
        assert_eq!((earlier.complete_after(), found(&earlier, "a")), (2_999, vec![]), "{fault}");
        write(&mut journal, 3_000, "a");
        let (_, earlier) = runs.begin();
        assert_eq!((earlier.complete_after(), found(&earlier, "a")), (2_999, vec![3_000]), "{fault}, one run later");
    }
}

#[test]
fn what_was_closed_outlives_the_machine() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    // The process is killed. The next run ends in order.
    let (mut journal, _) = runs.begin();
    write(&mut journal, 2_000, "a");
    journal.begin_segment(2_000, Instant::now()).expect("another file");
    write(&mut journal, 2_001, "a");
    journal.close().expect("it is closed");
    for file in runs.files() {
        Runs::overwrite(&file, 32, &[7; 16]);
    }
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000, 2_000, 2_001]));
}

#[test]
fn the_newest_file_is_missed_too() {
    type Fault = fn(&Path) -> io::Result<()>;
    let faults: [(&str, Fault); 4] = [
        ("gone", |file| fs::remove_file(file)),
        ("empty", |file| fs::write(file, "")),
        ("no journal", |file| fs::write(file, vec![1; 1_000])),
        ("not readable", |file| fs::remove_file(file).and_then(|()| fs::create_dir(file))),
    ];
    for (fault, apply) in faults {
        let mut runs = Runs::new();
        let (mut journal, _) = runs.begin();
        write(&mut journal, 1_000, "a");
        journal.begin_segment(1_000, Instant::now()).expect("another file");
        write(&mut journal, 1_001, "a");
        apply(&runs.files()[1]).expect("it can be done");
        let (_, earlier) = runs.begin();
        assert_eq!((earlier.complete_after(), found(&earlier, "a")), (1_999, vec![]), "{fault}");
    }
}

/// The process was killed after it created the next file, and before it wrote anything to it.
#[test]
fn a_file_that_was_just_begun_is_no_gap() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    let continued = runs.files()[0].clone();
    journal.begin_segment(1_000, Instant::now()).expect("another file");
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000]));
    Runs::overwrite(&continued, 72, &[0; 8]);
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000]));
}

#[test]
fn the_oldest_files_leave() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    let mut large = event("a", "e", Class::Recoverable);
    large.argument = "x".repeat(1_000_000).into();
    for seq in 1_000..1_200 {
        append(&mut journal, [(seq, &large)]).expect("it is written");
        assert!(journal.bytes() <= JOURNAL_BYTES + large.argument.len() as u64 + 100);
    }
    assert!(runs.files().len() > 8);
    let (_, earlier) = runs.begin();
    let found = found(&earlier, "a");
    assert_eq!((found[0], found.last()), (earlier.complete_after() + 1, Some(&1_199)));
    assert!((1_115..1_140).contains(&found[0]), "{}", found[0]);

    // Files older than the time that a client may be away are removed too.
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    let later = Instant::now() + 2 * AGE;
    journal.begin_segment(1_000, later).expect("another file");
    journal.trim(later + Duration::from_secs(1)).expect("the first leaves");
    write(&mut journal, 1_001, "a");
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), super::tests::found(&earlier, "a")), (1_000, vec![1_001]));
}

#[test]
fn what_is_not_written_is_not_found_and_the_next_is() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    journal.current.break_writes(true);
    let mut refused = event("a", "e", Class::Recoverable);
    refused.argument = "x".repeat(JOURNAL_GROWTH_BYTES).into();
    assert!(append(&mut journal, [(1_001, &refused), (1_002, &refused)]).is_err());
    journal.current.break_writes(false);
    write(&mut journal, 1_003, "a");
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000, 1_003]));
}

#[test]
fn without_recovery_there_is_no_journal() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    let run = Run { boot_seq: 5_000, previous: 1_000 };
    let (journal, earlier) = Journal::open(runs.folder.path(), run, Duration::ZERO).expect("it opens");
    assert!(journal.is_none());
    assert_eq!((earlier.complete_after(), runs.files().len()), (4_999, 0));
}

#[test]
fn other_files_are_left_alone() {
    let mut runs = Runs::new();
    let folder = runs.folder.path().to_owned();
    for name in ["store.db", "events-old.txt", "notes.log"] {
        fs::write(folder.join(name), "x").expect("it can be written");
    }
    // A journal file that was never completed.
    fs::write(folder.join("events-00000000000000000001.log"), "slopev1\n").expect("it can be written");
    // A journal file that can't be read.
    fs::create_dir(folder.join("events-00000000000000000002.log")).expect("a folder");
    let (mut journal, _) = runs.begin();
    assert_eq!(runs.files().len(), 5);
    write(&mut journal, 1_000, "a");
    assert_eq!(found(&runs.begin().1, "a"), [1_000]);
}

#[test]
fn the_bytes_of_a_record_are_known_before() {
    let event = event("room", "event", Class::Recoverable);
    let mut record = Vec::new();
    record::encode(&mut record, 1, &event);
    assert_eq!(record.len(), record::record_bytes(&event));
}

#[test]
fn a_group_that_is_larger_than_a_file_has_one_of_its_own() {
    let mut large = event("a", "e", Class::Recoverable);
    large.argument = "x".repeat(3_000_000).into();
    for begun in [false, true] {
        let mut runs = Runs::new();
        let (mut journal, _) = runs.begin();
        if begun {
            write(&mut journal, 1_000, "a");
        }
        append(&mut journal, (1_001..1_006).map(|seq| (seq, &large))).expect("they are written");
        write(&mut journal, 1_006, "a");
        assert_eq!(runs.files().len(), 2 + usize::from(begun));
        let (_, earlier) = runs.begin();
        let expected: Vec<u64> = (1_001 - u64::from(begun)..=1_006).collect();
        assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, expected));
    }
}

#[test]
fn a_process_that_ends_while_it_starts_leaves_no_gap() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    for _ in 0..3 {
        let (_, earlier) = runs.try_to_begin();
        assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000]));
    }
    let (mut journal, _) = runs.begin();
    write(&mut journal, 5_000, "a");
    let (_, earlier) = runs.begin();
    assert_eq!((earlier.complete_after(), found(&earlier, "a")), (999, vec![1_000, 5_000]));
}

#[test]
fn what_can_be_tidied_is_tidied_whatever_fails() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    let end = |journal: &Journal| journal.current.segment().end().expect("readable").alive_at;
    write(&mut journal, 1_000, "a");
    let aged = Instant::now() + 2 * AGE;
    journal.begin_segment(1_000, aged).expect("another file");
    write(&mut journal, 1_001, "a");
    // The next file can't be created, and the current one is too old.
    let name = runs.folder.path().join(format!("events-{:020}.log", 1_001));
    fs::create_dir(&name).expect("a folder");
    journal.age = Duration::ZERO;
    journal.current.mark_alive(Moment::from_epoch_ms(1)).expect("it is reserved");
    let tidy = |journal: &mut Journal| {
        journal.alive_due = Instant::now();
        journal.tidy(1_001)
    };
    assert!(tidy(&mut journal).is_err());
    assert!(end(&journal) > Moment::from_epoch_ms(1));
    assert_eq!((journal.segments.len(), runs.files().len()), (0, 2));
    fs::remove_dir(&name).expect("it is there");
    tidy(&mut journal).expect("it is tidied");
    assert_eq!((journal.segments.len(), runs.files().len()), (1, 2));
}

#[test]
fn a_file_that_cannot_be_removed_is_tried_again_and_refuses_no_event() {
    let mut runs = Runs::new();
    let (mut journal, _) = runs.begin();
    write(&mut journal, 1_000, "a");
    let first = runs.files()[0].clone();
    fs::remove_file(&first).and_then(|()| fs::create_dir(&first)).expect("a folder in its place");
    journal.begin_segment(1_000, Instant::now()).expect("another file");
    journal.age = Duration::ZERO;
    let later = Instant::now() + AGE;
    journal.begin_segment(1_001, later).expect("another file, although none could be removed");
    assert_eq!(journal.segments.len(), 2);
    assert!(journal.trim(later).is_err());
    fs::remove_dir(&first).expect("it is there");
    journal.trim(later).expect("they leave");
    assert_eq!((journal.segments.len(), runs.files().len()), (0, 1));
}

/// The files are those of a server that is started again and again.
#[test]
fn files_of_earlier_lives_leave_when_they_are_too_old() {
    let mut runs = Runs::new();
    for first in [1_000, 2_000] {
        let (mut journal, _) = runs.begin();
        write(&mut journal, first, "a");
    }
    let old = Moment::now().before(AGE + 2 * ALIVE_INTERVAL).epoch_ms();
    Runs::overwrite(&runs.files()[0], 48, &old.to_le_bytes());
    let (journal, earlier) = runs.begin();
    // This run still knows the events that it has read.
    assert_eq!(found(&earlier, "a"), [1_000, 2_000]);
    assert_eq!((journal.segments.len(), runs.files().len()), (1, 2));
    drop(journal);
    assert_eq!(found(&runs.begin().1, "a"), [2_000]);
}

#[test]
fn a_name_that_only_resembles_a_files_is_left_alone() {
    let mut runs = Runs::new();
    let notes = runs.folder.path().join("events-notes.log");
    fs::write(&notes, "not ours").expect("writable");
    runs.begin();
    assert_eq!(fs::read(&notes).expect("it is there"), b"not ours");
}
