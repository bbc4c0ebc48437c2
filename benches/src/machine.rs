//! What a figure was measured on. A figure without it says nothing.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Facts of this machine and this run, by name.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    vec![
        ("when", when()),
        ("processor", format!("{} x {}", cores(), field("/proc/cpuinfo", "model name").unwrap_or_else(unknown))),
        ("memory", field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown)),
        (
            "kernel",
            fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), |s| s.trim().to_owned()),
        ),
        (
            "load before and now",
            fs::read_to_string("/proc/loadavg").map_or_else(|_| unknown(), |s| s.trim().to_owned()),
        ),
        ("build", if cfg!(debug_assertions) { "debug: not to be compared".into() } else { "release".into() }),
        ("etcd", version("etcd")),
    ]
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| "not installed".to_owned(), str::to_owned)
}

/// The day, from the civil calendar (Howard Hinnant's `civil_from_days`), and the time, UTC.
fn when() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (i64::try_from(seconds / 86_400).unwrap_or(0), seconds % 86_400);
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}
