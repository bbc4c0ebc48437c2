//! What the proxies are asked for, and by whom.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::peers::{Doors, LOAD_CORE, NAME};

/// One kind of load.
pub(super) struct Workload {
    pub(super) name: &'static str,
    load: Load,
    /// What our cost is to be at most, as a ratio to that of each peer.
    pub(super) goals: [(&'static str, f64); 4],
}

#[derive(Clone, Copy)]
enum Load {
    /// wrk: so many connections, a path, and whether over TLS and with a connection per request.
    Wrk { connections: u32, path: &'static str, tls: bool, close: bool },
    /// h2load over TLS.
    Http2,
    /// OpenSSL's `s_time`: a full handshake after the other, with one request each.
    Handshakes,
}

/// A route in the middle, so that finding it costs what it costs on the average.
const PATH: &str = "/r/5000/x";

const fn wrk(path: &'static str, tls: bool, close: bool) -> Load {
    Load::Wrk { connections: 32, path, tls, close }
}

const fn goals(nginx: f64, haproxy: f64, envoy: f64, pingora: f64) -> [(&'static str, f64); 4] {
    [("nginx", nginx), ("HAProxy", haproxy), ("Envoy", envoy), ("Pingora", pingora)]
}

/// All of them, with the goals of the project.
pub(super) const ALL: [Workload; 6] = [
    Workload { name: "keep-alive 1 KiB", load: wrk(PATH, false, false), goals: goals(0.85, 0.90, 0.30, 0.50) },
    Workload { name: "TLS keep-alive", load: wrk(PATH, true, false), goals: goals(0.85, 0.76, 0.35, 0.50) },
    Workload { name: "full TLS 1.3 handshake", load: Load::Handshakes, goals: goals(0.52, 0.50, 0.60, 0.40) },
    Workload { name: "HTTP/2", load: Load::Http2, goals: goals(0.85, 1.10, 0.33, 0.60) },
    Workload { name: "100 KiB bodies", load: wrk("/100k", false, false), goals: goals(0.85, 0.80, 0.40, 0.50) },
    Workload { name: "connection per request", load: wrk(PATH, false, true), goals: goals(0.95, 1.05, 0.40, 0.65) },
];

impl Workload {
    /// Loads a proxy for so many seconds; gives the requests that it answered.
    pub(super) async fn run(&self, doors: &Doors, seconds: u64) -> Result<u64> {
        let duration = seconds.to_string();
        let (program, args): (&str, Vec<String>) = match self.load {
            Load::Wrk { connections, path, tls, close } => {
                let url =
                    if tls { format!("https://{}{path}", doors.tls) } else { format!("http://{}{path}", doors.plain) };
                let mut args = vec!["-t1".into(), format!("-c{connections}"), format!("-d{duration}"), url];
                if close {
                    args.extend(["-H".into(), "Connection: close".into()]);
                }
                ("wrk", args)
            }
            Load::Http2 => {
                // The name that it asks for is that of the URL.
                let (url, to) = (format!("https://{NAME}{PATH}"), format!("--connect-to={}", doors.tls));
                let options = ["-t1", "-c8", "-m10", "-D", &duration, &to];
                ("h2load", options.iter().map(ToString::to_string).chain([url]).collect())
            }
            Load::Handshakes => {
                let options = ["s_time", "-new", "-tls1_3", "-www", PATH, "-time", &duration, "-connect", &doors.tls];
                ("openssl", options.iter().map(ToString::to_string).collect())
            }
        };
        let mut command = Command::new("taskset");
        command.args(["-c", LOAD_CORE, program]).args(&args).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.with_context(|| program.to_owned())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = requests(program, &text);
        let said = || format!("{program} {}: {text}{}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        let count = count.with_context(said)?;
        ensure!(count > 0 && !text.contains("Non-2xx"), "{}", said());
        Ok(count)
    }
}

/// The number of requests in what a program says of its work.
fn requests(program: &str, text: &str) -> Option<u64> {
    let mut words = text.lines().filter_map(|line| {
        let line = line.trim();
        match program {
            "wrk" => line.split_once(" requests in ").map(|(count, _)| count),
            "h2load" => line.strip_prefix("requests: ")?.split(", ").find_map(|part| part.strip_suffix(" succeeded")),
            // The second line of its kind counts by the clock, not by the client's processor.
            _ => line
                .split_once(" connections in ")
                .filter(|(_, rest)| rest.contains("real seconds"))
                .map(|(count, _)| count),
        }
    });
    words.next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_say_of_their_work() {
        for (program, text, expected) in [
            ("wrk", "  797 requests in 1.00s, 0.95MB read\nRequests/sec: 796.1\n", Some(797)),
            ("h2load", "requests: 2000 total, 2000 started, 2000 done, 1998 succeeded, 2 failed\n", Some(1998)),
            (
                "openssl",
                "880 connections in 0.90s; 977.8 connections/user sec\n880 connections in 3 real seconds, 1 bytes read per connection\n",
                Some(880),
            ),
            ("wrk", "unable to connect", None),
        ] {
            assert_eq!(requests(program, text), expected, "{text}");
        }
    }
}
