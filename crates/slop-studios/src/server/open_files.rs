//! The system's limit on open files, which also limits connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socketio_server::MAX_LEAVING;

use crate::config::defaults::ADDRESSES_THAT_FILL;
use crate::limits::{FEWEST_CONNECTIONS, FILES_PER_SHARD, SPARE_FILES};

/// Raises the limit as far as the process may, and returns it; `None` if there is no limit.
pub(crate) fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current
}

/// The maximum numbers of TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Connections of clients.
    pub(crate) connections: usize,
    /// Other HTTP connections.
    pub(crate) http: usize,
}

/// The limit leaves no room for even a few connections.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's limit of open files is {limit}, and {needed} are needed at least (`ulimit -n`, `LimitNOFILE=`)")]
pub(crate) struct TooFewFiles {
    limit: u64,
    needed: u64,
}

impl Capacity {
    /// The numbers that fit beside all other open files of the server. If not all connections fit, a quarter of the
    /// connections is not for clients.
    pub(crate) fn that_fit(self, files: Option<u64>, shards: usize) -> Result<Self, TooFewFiles> {
        let Some(limit) = files else { return Ok(self) };
        let [connections, http] = [self.connections, self.http].map(|wanted| wanted as u64);
        let others = SPARE_FILES + FILES_PER_SHARD * shards as u64 + MAX_LEAVING as u64;
        let needed = others + connections.min(FEWEST_CONNECTIONS) + http.min(FEWEST_CONNECTIONS);
        if limit < needed {
            return Err(TooFewFiles { limit, needed });
        }
        let left = limit - others;
        let unwanted = left.saturating_sub(connections);
        let http = http.min(unwanted.max(left / 4).max(FEWEST_CONNECTIONS));
        let connections = connections.min(left - http);
        let [connections, http] = [connections, http].map(|fit| usize::try_from(fit).unwrap_or(usize::MAX));
        Ok(Self { connections, http })
    }

    /// The maximum number of client connections of one address. If `chosen` is the default share of `wanted`, it
    /// becomes the same share of this capacity. Any other number is the operator's choice and stays.
    pub(crate) fn of_address(self, chosen: usize, wanted: Self) -> usize {
        // At least 1: 0 would mean any number.
        let share = |capacity: Self| (capacity.connections / ADDRESSES_THAT_FILL as usize).max(1);
        if chosen == share(wanted) { share(self) } else { chosen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Capacity = Capacity { connections: 100_000, http: 1_024 };

    fn fit(wanted: Capacity, files: u64) -> Option<(usize, usize)> {
        wanted.that_fit(Some(files), 2).ok().map(|capacity| (capacity.connections, capacity.http))
    }

    #[test]
    fn connections_leave_some_files_to_others() {
        assert_eq!(WANTED.that_fit(None, 2), Ok(WANTED));
        assert_eq!(fit(WANTED, 1_048_576), Some((100_000, 1_024)));
        assert_eq!(fit(WANTED, 20_000), Some((18_840, 1_024)));
        assert_eq!(fit(WANTED, 1_024), Some((666, 222)));
        assert_eq!(fit(WANTED, 200), Some((32, 32)));
        assert_eq!(fit(WANTED, 199), None);
        assert_eq!(fit(Capacity { connections: 10, ..WANTED }, 1_024), Some((10, 878)));
        assert_eq!(fit(Capacity { connections: 10, ..WANTED }, 178), Some((10, 32)));
        assert_eq!(fit(Capacity { connections: 10, http: 1 }, 147), Some((10, 1)));
    }

    #[test]
    fn whatever_fits_is_no_more_than_there_is() {
        for files in 0..30_000 {
            for wanted in [WANTED, Capacity { connections: 900, http: 10_000 }, Capacity { connections: 1, http: 1 }] {
                let Some((connections, http)) = fit(wanted, files) else { continue };
                assert!(connections >= 1 && connections <= wanted.connections && http >= 1 && http <= wanted.http);
                assert!((connections + http) as u64 + 136 <= files, "{files}: {connections} and {http}");
            }
        }
    }

    #[test]
    fn an_address_has_its_part_of_what_fits() {
        let capacity = Capacity { connections: 666, http: 222 };
        assert_eq!(capacity.of_address(20_000, WANTED), 133);
        for chosen in [0, 1, 20_001] {
            assert_eq!(capacity.of_address(chosen, WANTED), chosen);
        }
        assert_eq!(Capacity { connections: 3, http: 1 }.of_address(20_000, WANTED), 1);
    }
}
