//! Tests that cannot run here: said when it happens, and told again at the end of `make test`, which hides what tests say
//! that pass.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Says that the test of this thread is left out, and why.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("{line}");
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped.txt");
    let written =
        File::options().append(true).create(true).open(list).and_then(|mut list| list.write_all(line.as_bytes()));
    assert!(written.is_ok(), "{written:?}");
}
