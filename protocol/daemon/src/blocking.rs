//! Work that may block: off the runtime's own threads in a program, in its place among the tasks in a simulation.
//!
//! A simulation runs everything on one thread, so that the same seed gives the same order; there a thread of the pool would
//! end when the machine pleases. It says so once, for its own thread, and nothing else needs to know.

use std::cell::Cell;

use tokio::task::{JoinError, JoinHandle};

thread_local! {
    static INLINE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` where it may block.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if is_inline() { tokio::spawn(async move { work() }) } else { tokio::task::spawn_blocking(work) }
}

/// Runs `work` where it may block, and waits for it. A panic in it goes on here. When the runtime ends before it has begun, this
/// never returns: whoever waits ends with the runtime.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    done(spawn(work)).await
}

async fn done<T>(work: JoinHandle<T>) -> T {
    match work.await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // Nobody but a runtime that ends cancels it.
        Err(Err(_cancelled)) => std::future::pending().await,
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn work_that_a_runtime_which_has_ended_never_does_is_waited_for_without_a_panic() {
        let ended = Builder::new_current_thread().build().unwrap();
        let handle = ended.handle().clone();
        ended.shutdown_background();
        let work = handle.spawn_blocking(|| 7);
        let state = pin!(done(work)).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(state, Poll::Pending), "{state:?}");
    }

    #[tokio::test]
    #[should_panic(expected = "so it ends")]
    async fn a_panic_of_the_work_goes_on_where_it_is_waited_for() {
        run(|| panic!("so it ends")).await
    }
}
