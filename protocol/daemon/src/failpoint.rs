//! Named points around every durable step, at which a test makes a process fail.
//!
//! `failpoint!("log::before_sync")` does nothing in a release: the feature `failpoints` is off there, and the name is not
//! even compiled in. With it, the environment variable `FAILPOINTS` says what happens where (`name=panic`,
//! `name=return(eio)`, …; see the crate `fail`). `name=return(abort)` ends the process there as a crash does, and
//! `name=20*off->return(abort)` does so when it comes by for the twenty-first time.

/// A point at which a test can stop, delay or fail this process. With an expression, a configured `return` gives the
/// value of that expression back from the enclosing function.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        {
            let _ = $crate::failpoint::hit($name);
        }
    };
    ($name:literal, $on_return:expr) => {
        #[cfg(feature = "failpoints")]
        if let Some(argument) = $crate::failpoint::hit($name) {
            return $on_return(argument);
        }
    };
}

/// Whether a bug is planted in this process, here: `FAILPOINTS=plant::<name>=return`, or `=5%return` for one time in
/// twenty. Always `false`, and no code, in programs without failpoints. `chaos mutants` turns each on in turn and sees who
/// notices.
#[macro_export]
macro_rules! planted {
    ($name:literal) => {{
        #[cfg(feature = "failpoints")]
        let planted = $crate::failpoint::hit(concat!("plant::", $name)).is_some();
        #[cfg(not(feature = "failpoints"))]
        let planted = false;
        planted
    }};
}

/// What a point is told to return so that it ends the process instead.
#[cfg(feature = "failpoints")]
const ABORT: &str = "abort";

/// Evaluates a point; `Some` when it is configured to `return`.
#[cfg(feature = "failpoints")]
#[must_use = "a configured return must be obeyed"]
pub fn hit(name: &str) -> Option<String> {
    let argument = fail::eval(name, |argument| argument.unwrap_or_default())?;
    if argument == ABORT {
        // Nothing is unwound, flushed or closed.
        std::process::abort();
    }
    Some(argument)
}

/// Reads `FAILPOINTS`. Called once at the start of a program; the guard must live as long as the program.
#[cfg(feature = "failpoints")]
#[must_use = "the points are off again when this is dropped"]
pub fn from_environment() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}
