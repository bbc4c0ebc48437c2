//! Work that may block: off the runtime's own threads in a program, in its place among the tasks in a simulation.
//!
//! A simulation runs everything on one thread, so that the same seed gives the same order; there a thread of the pool would
//! end when the machine pleases. It says so once, for its own thread, and nothing else needs to know.

use std::cell::Cell;

use tokio::task::JoinHandle;

thread_local! {
    static INLINE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` where it may block.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if is_inline() { tokio::spawn(async move { work() }) } else { tokio::task::spawn_blocking(work) }
}

/// Runs `work` where it may block, and waits for it. A panic in it goes on here.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn(work).await {
        Ok(done) => done,
        // The task is never cancelled; so it panicked.
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// Whether work that may block runs among the tasks of this thread: it must not wait for any of them.
#[must_use]
pub fn is_inline() -> bool {
    INLINE.get()
}

/// From now on such work of this thread runs among its tasks. For simulations.
pub fn run_inline_on_this_thread() {
    INLINE.set(true);
}
