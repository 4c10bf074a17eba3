//! Host names as certificates and the configuration write them, and finding what belongs to the one that a client asks
//! for.

use std::collections::HashMap;
use std::fmt;

/// A host name, or a pattern `*.name` for the names with exactly one more label; in lower case, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Box<str>);

impl ServerName {
    /// Reads a name or pattern. None where it is neither: labels of letters, digits, `-` and `_`, 253 characters in all
    /// (RFC 1035 section 2.3.4); `*` stands alone as the first label only (RFC 9525 section 6.3).
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let host = text.strip_prefix("*.").unwrap_or(text);
        let is_label = |label: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=LABEL_LEN_MAX).contains(&label.len()) && label.bytes().all(is_plain)
        };
        let is_name = text.len() <= NAME_LEN_MAX && host.split('.').all(is_label);
        // Four numbers are an address, which server_name never carries (RFC 6066 section 3).
        let is_address = host.parse::<std::net::Ipv4Addr>().is_ok();
        (is_name && !is_address).then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// The name or pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name behind `*.`; none for a plain name.
    fn parent(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something for each name, and for each pattern.
#[derive(Clone, Debug)]
pub struct NameMap<T> {
    exact: HashMap<Box<str>, T>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, T>,
}

impl<T> Default for NameMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new() }
    }
}

/// What belongs to a name: at most one thing by the name itself and one by a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a, T> {
    /// By the name itself: goes first.
    pub exact: Option<&'a T>,
    /// By a pattern.
    pub wildcard: Option<&'a T>,
}

impl<T> NameMap<T> {
    /// What belongs to this very name or pattern.
    pub fn entry(&mut self, name: &ServerName) -> std::collections::hash_map::Entry<'_, Box<str>, T> {
        match name.parent() {
            Some(parent) => self.wildcard.entry(parent.into()),
            None => self.exact.entry(name.0.clone()),
        }
    }

    /// What belongs to the name that a client asks for, whatever its case, with or without a dot at the end.
    pub fn find(&self, asked: &str) -> Found<'_, T> {
        let asked = asked.strip_suffix('.').unwrap_or(asked);
        let mut buffer = [0; NAME_LEN_MAX];
        let Some(name) = buffer.get_mut(..asked.len()) else { return Found { exact: None, wildcard: None } };
        name.copy_from_slice(asked.as_bytes());
        name.make_ascii_lowercase();
        let Ok(name) = std::str::from_utf8(name) else { return Found { exact: None, wildcard: None } };
        let parent = name.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent);
        Found { exact: self.exact.get(name), wildcard: parent.and_then(|parent| self.wildcard.get(parent)) }
    }

    /// Everything in it, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values())
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }

    /// Names and patterns.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }
}

impl<'a, T> Found<'a, T> {
    /// The one that goes first.
    pub fn best(self) -> Option<&'a T> {
        self.exact.or(self.wildcard)
    }
}

/// RFC 1035 section 2.3.4.
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    fn map(names: &[&str]) -> NameMap<usize> {
        let mut map = NameMap::default();
        for (position, name) in names.iter().enumerate() {
            map.entry(&ServerName::parse(name).unwrap()).insert_entry(position);
        }
        map
    }

    #[test]
    fn name_is_found_whatever_its_case_and_with_a_dot_at_the_end() {
        let map = map(&["Edge.Example", "*.Edge.Example."]);
        assert_eq!(map.find("edge.example").exact, Some(&0));
        assert_eq!(map.find("EDGE.example.").exact, Some(&0));
        assert_eq!(map.find("a.EDGE.example.").best(), Some(&1));
    }

    #[test]
    fn pattern_stands_for_exactly_one_label() {
        let map = map(&["*.example"]);
        assert_eq!(map.find("a.example").wildcard, Some(&0));
        for other in ["example", "a.b.example", ".example", "", "aexample", "*", "a."] {
            assert_eq!(map.find(other).best(), None, "{other}");
        }
    }

    #[test]
    fn name_goes_before_pattern() {
        let map = map(&["*.example", "a.example"]);
        assert_eq!(map.find("a.example"), Found { exact: Some(&1), wildcard: Some(&0) });
        assert_eq!(map.find("a.example").best(), Some(&1));
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn name_that_is_too_long_is_not_found_and_no_panic() {
        let map = map(&["example"]);
        assert_eq!(map.find(&"a".repeat(NAME_LEN_MAX + 1)).best(), None);
        assert_eq!(map.find(&"é".repeat(NAME_LEN_MAX / 2)).best(), None);
    }

    #[test]
    fn text_that_is_no_host_name_is_not_parsed() {
        let long = ["a"; 127].join(".");
        for good in ["a", "xn--bcher-kva.example", "_sip.a", "*.a.b", "10.example", &long] {
            assert!(ServerName::parse(good).is_some(), "{good}");
        }
        let long = format!("{long}.a");
        let label = "a".repeat(64);
        for bad in
            ["", ".", "*", "*.", "a..b", "a.*.b", "*a.b", "**.a", "a b", "bücher", "192.0.2.1", "[::1]", &long, &label]
        {
            assert_eq!(ServerName::parse(bad), None, "{bad}");
        }
    }
}
