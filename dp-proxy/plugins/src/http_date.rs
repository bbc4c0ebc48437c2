//! Times as HTTP writes them (RFC 9110 §5.6.7), from and to seconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that can be written: that of the year 9999.
const LAST: u64 = 253_402_300_799;

/// `Tue, 15 Nov 1994 08:12:31 GMT`. What is later than the year 9999 is its end.
pub(crate) fn print(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

/// Seconds since 1970; `None` for what is no time, or one before.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let time: SystemTime = httpdate::parse_http_date(text).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse(&print(784_887_151)), Some(784_887_151));
        assert_eq!(print(784_887_151), "Tue, 15 Nov 1994 08:12:31 GMT");
        assert_eq!(print(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(parse("soon"), None);
    }
}
