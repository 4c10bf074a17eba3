//! The name that was probably meant.

/// The candidate closest to `name`, where it is close enough to be a slip: at most one edit per three letters, and
/// one edit in any case.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    if length > NAME_CHARS_MAX {
        return None;
    }
    let bound = (length / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= NAME_CHARS_MAX)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|&(distance, _)| distance <= bound)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours, each counted once; letter case does not count.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut before = vec![0; right.len() + 1];
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, &a) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &b) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(a != b);
            let mut best = replaced.min(previous[column + 1] + 1).min(current[column] + 1);
            let is_swap = row > 0 && column > 0 && a == right[column - 1] && b == left[row - 1];
            if is_swap {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous.last().copied().unwrap_or(usize::MAX)
}

/// Longest name that is compared: the work grows with the square.
const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_of_a_slip_is_what_was_meant() {
        let keys = ["address", "backend", "idle_timeout"];
        assert_eq!(nearest("adress", keys), Some("address"));
        assert_eq!(nearest("bakcend", keys), Some("backend"));
        assert_eq!(nearest("idle-timeout", keys), Some("idle_timeout"));
        assert_eq!(nearest("Address", keys), Some("address"));
    }

    #[test]
    fn nearest_of_something_else_is_nothing() {
        assert_eq!(nearest("client_auth", ["address", "backend", "policy"]), None);
        assert_eq!(nearest("", ["address"]), None);
        assert_eq!(nearest(&"a".repeat(10_000), ["address"]), None);
    }
}
