//! Work that blocks, on a thread of its own beside the control thread.
//!
//! Not tokio's pool for such work: where no thread can be had, because memory or threads are limited, it panics, and the
//! control thread must outlive that.

use std::io;

use tokio::sync::oneshot::{self, Receiver};

/// Starts `work` on a thread of this name. Its result comes out of the receiver; none comes where it panicked.
///
/// # Errors
/// When no thread can be had; `work` is dropped then.
pub(super) fn run<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        // Whoever asked may have gone.
        let _ = sender.send(work());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(receiver)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn result_comes_back_and_a_panic_is_an_end_without_one() {
        assert_eq!(run("test", || 42).unwrap().blocking_recv(), Ok(42));
        let panicked = run("test", || -> u32 { panic!("on purpose") }).unwrap();
        assert!(panicked.blocking_recv().is_err());
    }
}
