//! What each client holds, in one table for all workers: the kernel spreads the connections of one client over all of
//! them, so that a table for each would multiply every limit.
//!
//! No lock, and no memory that grows. A client has a place for as long as it has connections or has not yet earned back
//! what it spent of its rate; then the place says nothing that a new one would not, and whoever comes next may have it.
//! Where every place of a row is needed, a client is let in without a place, and counted as untracked: an attacker with
//! that many addresses is none that limits per address can stop, and the others must not be shut out for it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::settings::{ClientLimits, Rate};
use crate::network;

/// The clients of the process.
#[derive(Debug)]
pub struct Clients {
    /// Made when the first client with limits comes.
    rows: OnceLock<Box<[Row]>>,
    row_count: usize,
    /// Keyed with a secret of this process, so that nobody can aim at a row.
    hasher: RandomState,
    started: Instant,
}

/// How a client was let in.
#[derive(Debug)]
pub enum Admission {
    /// Within its limits.
    Seated(Seat),
    /// It has none.
    Exempt,
    /// Nothing is known about it, for want of a place in the table.
    Untracked,
}

/// Which limit a client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// [`ClientLimits::connections_max`].
    Connections,
    /// [`ClientLimits::rate`].
    Rate,
}

/// One connection in the count of its client; dropped, it is no longer counted.
#[derive(Debug)]
pub struct Seat {
    clients: Arc<Clients>,
    position: u32,
}

/// Places that one client may have: those of two cache lines, which come together.
#[derive(Debug)]
#[repr(align(128))]
struct Row([Place; ROW_PLACES]);

const ROW_PLACES: usize = 8;
/// A row that other workers change all the time is given up after this many attempts.
const ATTEMPTS_MAX: u32 = 64;
/// Bits of [`Place::owner`] for the count.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

#[derive(Debug, Default)]
struct Place {
    /// Who, and above that how many connections: 40 bits of the client's hash, then [`COUNT_BITS`].
    owner: AtomicU64,
    /// When the client will have earned back all that it spent of its rate: nanoseconds since the table was made. This
    /// is the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371).
    paid_at: AtomicU64,
}

impl Clients {
    /// Clients that are told apart at the same time unless configured otherwise.
    pub const TRACKED_MAX: usize = 65_536;

    /// A table for `tracked_max` clients, rounded up to whole rows; each takes 16 bytes from the first client on.
    pub fn new(tracked_max: usize) -> Arc<Self> {
        Arc::new(Self {
            rows: OnceLock::new(),
            row_count: tracked_max.div_ceil(ROW_PLACES).next_power_of_two(),
            hasher: RandomState::new(),
            started: Instant::now(),
        })
    }

    /// Lets a client in, if its limits allow. `scope` tells listeners apart: each has its own limits.
    ///
    /// # Errors
    /// [`Refusal`], with nothing counted.
    pub fn admit_at(
        self: &Arc<Self>,
        scope: &str,
        address: IpAddr,
        limits: &ClientLimits,
        now: Instant,
    ) -> Result<Admission, Refusal> {
        if limits.exempt.contains(address) {
            return Ok(Admission::Exempt);
        }
        let now = nanos(now.saturating_duration_since(self.started));
        let client = network::masked(address, limits.ipv4_prefix, limits.ipv6_prefix);
        let hash = self.hasher.hash_one((scope, client));
        let connections_max = u64::from(limits.connections_max.unwrap_or(ClientLimits::CONNECTIONS_MAX));
        let Some(position) = self.take_place(hash, connections_max, now)? else { return Ok(Admission::Untracked) };
        // From here on the place stays the client's: its count is not zero.
        let seat = Seat { clients: Arc::clone(self), position };
        match limits.rate {
            Some(rate) if !self.place(position).spend(rate, now) => Err(Refusal::Rate),
            _ => Ok(Admission::Seated(seat)),
        }
    }

    /// Counts a connection at the client's place, be it a new one; none where the row is full.
    fn take_place(&self, hash: u64, connections_max: u64, now: u64) -> Result<Option<u32>, Refusal> {
        let (row_index, tag) = self.split(hash);
        let row = &self.rows()[row_index];
        'again: for _ in 0..ATTEMPTS_MAX {
            for (index, place) in row.0.iter().enumerate() {
                let owner = place.owner.load(Ordering::Acquire);
                if owner & !COUNT_MASK != tag {
                    continue;
                }
                if owner & COUNT_MASK >= connections_max {
                    return Err(Refusal::Connections);
                }
                if place.replace_owner(owner, owner + 1) {
                    return Ok(Some(position(row_index, index)));
                }
                continue 'again;
            }
            // The first free place, so that two workers with the same new client try for the same one.
            let free = row.0.iter().enumerate().find_map(|(index, place)| Some((index, place, place.free_at(now)?)));
            let Some((index, place, owner)) = free else { return Ok(None) };
            if place.replace_owner(owner, tag | 1) {
                return Ok(Some(position(row_index, index)));
            }
        }
        Ok(None)
    }

    /// The row of a client, and what its place is marked with, which is never zero.
    fn split(&self, hash: u64) -> (usize, u64) {
        let row = usize::try_from(hash & COUNT_MASK).unwrap_or_default() % self.row_count;
        (row, (hash & !COUNT_MASK).max(COUNT_MASK + 1))
    }

    fn rows(&self) -> &[Row] {
        self.rows.get_or_init(|| (0..self.row_count).map(|_| Row(Default::default())).collect())
    }

    fn place(&self, position: u32) -> &Place {
        let position = position as usize;
        &self.rows()[position / ROW_PLACES].0[position % ROW_PLACES]
    }
}

impl Place {
    /// The present owner where it is nobody that anything must be remembered of.
    fn free_at(&self, now: u64) -> Option<u64> {
        let owner = self.owner.load(Ordering::Acquire);
        (owner & COUNT_MASK == 0 && self.paid_at.load(Ordering::Relaxed) <= now).then_some(owner)
    }

    fn replace_owner(&self, current: u64, new: u64) -> bool {
        self.owner.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes one connection from the client's rate; false when it has used it up.
    fn spend(&self, rate: Rate, now: u64) -> bool {
        let cost = NANOS_PER_SECOND / u64::from(rate.per_second.max(1));
        let credit = cost.saturating_mul(u64::from(rate.burst.max(1)));
        let spend = |paid_at: u64| {
            let next = paid_at.max(now).saturating_add(cost);
            (next - now <= credit).then_some(next)
        };
        self.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Release: whoever finds the place free also finds what was spent.
        self.clients.place(self.position).owner.fetch_sub(1, Ordering::Release);
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn position(row: usize, index: usize) -> u32 {
    u32::try_from(row * ROW_PLACES + index).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::network::Networks;

    fn limits(connections_max: Option<u32>, rate: Option<(u32, u32)>) -> ClientLimits {
        let rate = rate.map(|(per_second, burst)| Rate { per_second, burst });
        ClientLimits { connections_max, rate, ipv4_prefix: 32, ipv6_prefix: 64, exempt: Networks::default() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn admit(clients: &Arc<Clients>, address: &str, limits: &ClientLimits, ms: u64) -> Result<Admission, Refusal> {
        clients.admit_at("edge", ip(address), limits, clients.started + Duration::from_millis(ms))
    }

    fn is_seated(admission: &Result<Admission, Refusal>) -> bool {
        matches!(admission, Ok(Admission::Seated(_)))
    }

    #[test]
    fn connections_of_a_client_stop_at_its_limit_and_go_on_when_one_ends() {
        let (clients, limits) = (Clients::new(64), limits(Some(3), None));
        let mut seats: Vec<_> = (0..3).map(|_| admit(&clients, "192.0.2.1", &limits, 0)).collect();
        assert!(seats.iter().all(is_seated));
        assert_eq!(admit(&clients, "192.0.2.1", &limits, 0).unwrap_err(), Refusal::Connections);
        assert!(is_seated(&admit(&clients, "192.0.2.2", &limits, 0)), "another client has its own count");
        assert!(is_seated(&clients.admit_at("other", ip("192.0.2.1"), &limits, clients.started)));
        seats.pop();
        seats.push(admit(&clients, "192.0.2.1", &limits, 0));
        assert!(seats.iter().all(is_seated));
        assert_eq!(admit(&clients, "192.0.2.1", &limits, 0).unwrap_err(), Refusal::Connections);
    }

    #[test]
    fn addresses_of_one_prefix_are_one_client() {
        let (clients, limits) = (Clients::new(64), limits(Some(1), None));
        let _first = admit(&clients, "2001:db8::1", &limits, 0);
        assert_eq!(admit(&clients, "2001:db8::2", &limits, 0).unwrap_err(), Refusal::Connections);
        assert!(is_seated(&admit(&clients, "2001:db8:0:1::1", &limits, 0)));
    }

    #[test]
    fn rate_grants_its_burst_at_once_and_then_one_for_each_interval() {
        let (clients, limits) = (Clients::new(64), limits(None, Some((10, 5))));
        let granted = |ms, count| (0..count).filter(|_| is_seated(&admit(&clients, "192.0.2.1", &limits, ms))).count();
        assert_eq!(granted(1000, 20), 5);
        assert_eq!(granted(1099, 20), 0);
        assert_eq!(granted(1100, 20), 1);
        assert_eq!(granted(1350, 20), 2);
        assert_eq!(granted(60_000, 20), 5, "a pause earns no more than the burst");
        assert_eq!(admit(&clients, "192.0.2.1", &limits, 60_000).unwrap_err(), Refusal::Rate);
    }

    #[test]
    fn refused_connection_is_in_no_count() {
        let clients = Clients::new(64);
        let both = limits(Some(2), Some((1, 1)));
        let first = admit(&clients, "192.0.2.1", &both, 0);
        assert!(is_seated(&first));
        for _ in 0..10 {
            assert_eq!(admit(&clients, "192.0.2.1", &both, 0).unwrap_err(), Refusal::Rate);
        }
        assert!(is_seated(&admit(&clients, "192.0.2.1", &both, 1000)));
    }

    #[test]
    fn exempt_client_is_never_refused() {
        let clients = Clients::new(64);
        let exempt = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
        let limits = ClientLimits { exempt, ..limits(Some(1), Some((1, 1))) };
        let admissions: Vec<_> = (0..5).map(|_| admit(&clients, "192.0.2.9", &limits, 0)).collect();
        assert!(admissions.iter().all(|admission| matches!(admission, Ok(Admission::Exempt))));
    }

    #[test]
    fn place_is_kept_while_it_says_something_and_given_away_after_that() {
        // One row: the ninth client finds no place.
        let (clients, limits) = (Clients::new(1), limits(None, Some((1, 1))));
        for last in 1..=8 {
            assert!(is_seated(&admit(&clients, &format!("192.0.2.{last}"), &limits, 0)), "{last}");
        }
        assert!(matches!(admit(&clients, "192.0.2.9", &limits, 500), Ok(Admission::Untracked)));
        assert_eq!(admit(&clients, "192.0.2.1", &limits, 500).unwrap_err(), Refusal::Rate, "it is still remembered");
        assert!(is_seated(&admit(&clients, "192.0.2.9", &limits, 1000)));
    }

    #[test]
    fn place_with_open_connections_is_never_given_away() {
        let (clients, limits) = (Clients::new(1), limits(Some(1), None));
        let seats: Vec<_> = (1..=8).map(|last| admit(&clients, &format!("192.0.2.{last}"), &limits, 0)).collect();
        assert!(seats.iter().all(is_seated));
        assert!(matches!(admit(&clients, "192.0.2.9", &limits, 0), Ok(Admission::Untracked)));
        drop(seats);
        assert!(is_seated(&admit(&clients, "192.0.2.9", &limits, 0)));
    }

    #[test]
    fn workers_together_grant_no_more_than_one_would() {
        const WORKERS: usize = 4;
        let (clients, barrier) = (Clients::new(1024), Barrier::new(WORKERS));
        let limits = limits(Some(50), Some((1, 200)));
        let work = || {
            barrier.wait();
            let mut granted = 0;
            for _ in 0..500 {
                let seats: Vec<_> = (0..20).filter_map(|_| admit(&clients, "192.0.2.1", &limits, 0).ok()).collect();
                granted += seats.len();
            }
            granted
        };
        let granted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(granted, 200);
        assert!(
            clients
                .rows()
                .iter()
                .flat_map(|row| &row.0)
                .all(|place| { place.owner.load(Ordering::Relaxed) & COUNT_MASK == 0 })
        );
    }
}
