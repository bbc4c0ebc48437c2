//! The header `Date`, written anew once a second.

use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

use daemon::seams::SystemClock;
use httpdate::HttpDate;
use protocol::seam::WallClock;
use tokio::time::Instant;

/// Its text, and until when it holds.
#[derive(Debug, Default)]
pub(crate) struct Date(RefCell<Option<(Instant, String)>>);

impl Date {
    /// Gives the date of `now` to `with`. It may be up to a second old.
    pub(crate) fn with<T>(&self, now: Instant, with: impl FnOnce(&str) -> T) -> T {
        let mut date = self.0.borrow_mut();
        if date.as_ref().is_none_or(|(until, _)| now >= *until) {
            let millis = SystemClock.now();
            let text = HttpDate::from(UNIX_EPOCH + Duration::from_millis(millis)).to_string();
            *date = Some((now + Duration::from_millis(1000 - millis % 1000), text));
        }
        with(date.as_ref().map_or("", |(_, text)| text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_wall_clocks_and_goes_on_with_time() {
        let date = Date::default();
        let now = Instant::now();
        let read = |now| date.with(now, |text| httpdate::parse_http_date(text).unwrap());
        let first = read(now);
        let wall = UNIX_EPOCH + Duration::from_millis(SystemClock.now());
        assert!(wall.duration_since(first).unwrap() < Duration::from_secs(2), "{first:?} {wall:?}");
        assert_eq!(read(now), first);
        *date.0.borrow_mut() = Some((now + Duration::from_secs(1), "kept".to_owned()));
        date.with(now + Duration::from_millis(999), |text| assert_eq!(text, "kept"));
        date.with(now + Duration::from_secs(1), |text| assert_ne!(text, "kept"));
    }
}
