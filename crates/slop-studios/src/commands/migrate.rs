//! `migrate`: takes the folder of one server to Redis.

use std::io::Write as _;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;

use crate::commands::failure::Failure;
use crate::config::{Effective, Profile, SettingFlags};
use crate::server::store_options;
use crate::store::migration::{Migrated, NotificationRow};
use crate::store::redis::{Import, Standing};
use crate::store::sqlite::Folder;

/// The rows that were taken.
#[derive(Debug, Default)]
struct Taken {
    items: u64,
    notifications: u64,
    unread: u64,
    keys: u64,
    revocations: u64,
}

impl Taken {
    fn count(&mut self, row: &Migrated) {
        match row {
            Migrated::Media(_) => self.items += 1,
            Migrated::Notification(NotificationRow { is_read, .. }) => {
                self.notifications += 1;
                self.unread += u64::from(!is_read);
            }
            Migrated::Key(_) => self.keys += 1,
            Migrated::Revocation(_) => self.revocations += 1,
            Migrated::Received(_) | Migrated::Floors(_) => {}
        }
    }

    fn text(&self) -> String {
        let Self { items, notifications, unread, keys, revocations } = self;
        format!(
            "{items} media items\n{notifications} notifications, {unread} of them unread\n{keys} idempotency keys\n\
             {revocations} revocations\n"
        )
    }
}

pub(crate) fn run(flags: &SettingFlags, is_dry: bool) -> Result<(), Failure> {
    let settings = Effective::load(flags, Profile::Serve).settings()?;
    let Some(url) = &settings.redis_url else {
        return Err(Failure::Usage("REDIS_URL is empty: it names the Redis that takes the folder".to_owned()));
    };
    let target = url.expose_secret().parse().context("REDIS_URL")?;
    let folder = Folder::open(&store_options(&settings)).map_err(anyhow::Error::from)?;
    let identity = folder.identity().map_err(anyhow::Error::from)?;
    let next = folder.next_number().map_err(anyhow::Error::from)?;
    let mut import = Import::connect(&target, &settings.redis_prefix).map_err(anyhow::Error::from)?;
    for warning in import.warnings(settings.redis_durability, settings.redis_wait) {
        eprintln!("warning: {warning}");
    }
    let standing = import.begin(&identity, next, !is_dry).map_err(anyhow::Error::from)?;
    let place =
        format!("from {} to the prefix {} of {}", settings.data_dir.display(), settings.redis_prefix, import.address());
    if standing == Standing::Done {
        return write(&format!("migrated before, {place}: nothing was done\n"));
    }
    let taken = take(&folder, &mut import, is_dry)?;
    if is_dry {
        return write(&format!("{}would be migrated {place}\n", taken.text()));
    }
    import.finish(settings.redis_wait).map_err(anyhow::Error::from).context(AGAIN)?;
    write(&format!("{}migrated {place}\nClients begin anew: none is recovered.\n", taken.text()))
}

/// What to do if it ends early.
const AGAIN: &str = "the migration is not complete, and no node uses the prefix until it is: run it again";

fn take(folder: &Folder, import: &mut Import, is_dry: bool) -> anyhow::Result<Taken> {
    let mut taken = Taken::default();
    let read = folder.read(|row| {
        taken.count(&row);
        if is_dry { Ok(()) } else { import.take(row).map_err(anyhow::Error::from) }
    });
    // Without a change, there is nothing to complete.
    if is_dry { read } else { read.context(AGAIN) }?;
    Ok(taken)
}

fn write(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes()).context("write to standard output")?)
}
