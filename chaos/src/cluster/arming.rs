//! Where a program with failpoints is to end.

use std::ffi::OsString;

/// The variable that programs with failpoints read; see `daemon::failpoint`.
const VARIABLE: &str = "FAILPOINTS";

/// A program ends at a failpoint, as in a crash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arming {
    term: String,
}

impl Arming {
    /// At this point, when it has passed it so many times.
    #[must_use]
    pub fn new(point: &str, passes: u64) -> Self {
        Self { term: format!("{point}={passes}*off->return(abort)") }
    }

    /// A program's environment with it, beside what is planted in the program already.
    pub(super) fn with(arming: Option<&Self>, environment: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let mut all = environment.to_vec();
        let Some(Self { term }) = arming else { return all };
        let before = all.iter().rfind(|(key, _)| key == VARIABLE).map(|(_, value)| value.clone());
        let mut value = before.unwrap_or_default();
        if !value.is_empty() {
            value.push(";");
        }
        value.push(term);
        all.push((VARIABLE.into(), value));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_program_keeps_what_is_planted_in_it() {
        let planted = [(OsString::from(VARIABLE), OsString::from("plant::a=return")), ("OTHER".into(), "x".into())];
        let value = |arming: Option<&Arming>, environment: &[(OsString, OsString)]| {
            let all = Arming::with(arming, environment);
            all.into_iter().rfind(|(key, _)| key == VARIABLE).map(|(_, value)| value.into_string().unwrap())
        };
        let arming = Arming::new("log::before_sync", 3);
        assert_eq!(value(None, &[]), None);
        assert_eq!(value(None, &planted).unwrap(), "plant::a=return");
        assert_eq!(value(Some(&arming), &[]).unwrap(), "log::before_sync=3*off->return(abort)");
        assert_eq!(value(Some(&arming), &planted).unwrap(), "plant::a=return;log::before_sync=3*off->return(abort)");
    }
}
