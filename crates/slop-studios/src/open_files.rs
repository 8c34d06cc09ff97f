//! The system's limit of open files, which is the limit of connections too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::SPARE_FILES;

/// Raises the limit as far as the process may, and returns it; none if there is none.
pub(crate) fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current
}

/// The connections that fit of those that are wanted.
pub(crate) fn connections_that_fit(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    // A tiny limit is shared half and half.
    let fit = files.saturating_sub(SPARE_FILES).max(files / 2).max(1);
    wanted.min(usize::try_from(fit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_some_files_to_others() {
        assert_eq!(connections_that_fit(100_000, None), 100_000);
        assert_eq!(connections_that_fit(100_000, Some(1_048_576)), 100_000);
        assert_eq!(connections_that_fit(100_000, Some(20_000)), 18_720);
        assert_eq!(connections_that_fit(100_000, Some(1_024)), 512);
        assert_eq!(connections_that_fit(100_000, Some(0)), 1);
        assert_eq!(connections_that_fit(10, Some(20_000)), 10);
    }
}
