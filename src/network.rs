//! Sets of networks, asked about once per connection.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses of any number of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// First and last address of each range, ascending and apart from each other; IPv4 as IPv4-mapped IPv6.
    ranges: Vec<(u128, u128)>,
}

impl Networks {
    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether one of the networks has `address`. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        let behind = self.ranges.partition_point(|(first, _)| *first <= address);
        behind.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| address <= *last)
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let mut sorted: Vec<_> =
            networks.into_iter().map(|network| (number(network.network()), number(network.broadcast()))).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::new();
        for (first, last) in sorted {
            match ranges.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }
}

/// The address that stands for every address with the same first bits: `ipv4_bits` of IPv4, `ipv6_bits` of IPv6.
pub fn masked(address: IpAddr, ipv4_bits: u8, ipv6_bits: u8) -> IpAddr {
    let address = address.to_canonical();
    let bits = if address.is_ipv4() { ipv4_bits } else { ipv6_bits };
    // Beyond the length of an address nothing is masked.
    IpNet::new(address, bits).map_or(address, |network| network.network())
}

fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|network| network.parse::<IpNet>().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn set_has_the_first_and_the_last_address_of_a_network_and_no_other() {
        let set = networks(&["192.0.2.0/24", "2001:db8::/32"]);
        for (address, is_in) in [
            ("192.0.1.255", false),
            ("192.0.2.0", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", false),
            ("2001:db8::", true),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:db9::", false),
            ("::ffff:192.0.2.7", true),
        ] {
            assert_eq!(set.contains(ip(address)), is_in, "{address}");
        }
    }

    #[test]
    fn networks_that_touch_or_overlap_are_one_range() {
        let set = networks(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "0.0.0.0/0"]);
        assert_eq!(set.ranges.len(), 1);
        let all = networks(&["::/0", "255.255.255.255/32"]);
        assert_eq!(all.ranges, [(0, u128::MAX)]);
        assert!(all.contains(ip("192.0.2.1")) && all.contains(ip("ffff::")));
        assert!(networks(&[]).is_empty() && !networks(&[]).contains(ip("192.0.2.1")));
    }

    #[test]
    fn masked_address_keeps_the_bits_of_its_family() {
        assert_eq!(masked(ip("192.0.2.77"), 32, 64), ip("192.0.2.77"));
        assert_eq!(masked(ip("192.0.2.77"), 24, 64), ip("192.0.2.0"));
        assert_eq!(masked(ip("::ffff:192.0.2.77"), 24, 64), ip("192.0.2.0"));
        assert_eq!(masked(ip("2001:db8:1:2:3:4:5:6"), 32, 64), ip("2001:db8:1:2::"));
        assert_eq!(masked(ip("2001:db8:1:2:3:4:5:6"), 32, 128), ip("2001:db8:1:2:3:4:5:6"));
    }
}
