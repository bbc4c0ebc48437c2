//! Steady traffic through proxies, in which every request counts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::http::Client;

/// The pause between two requests on one connection: steady traffic, not a race for the machine.
const PAUSE: Duration = Duration::from_millis(2);

/// The most failures that are kept word by word.
const FAILURES_KEPT: usize = 20;

/// Traffic that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    workers: JoinSet<LoadReport>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Requests that were answered as they should be.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// The first failures in words.
    pub failures: Vec<String>,
    /// The longest that an answer took.
    pub slowest: Duration,
}

impl Load {
    /// Starts `connections` to each address; each asks for the paths in turn and wants a 200 that begins with `expected`.
    #[must_use]
    pub fn start(addresses: &[String], connections: usize, paths: &[String], expected: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        let paths: Arc<[String]> = paths.into();
        for address in addresses {
            for first in 0..connections {
                let client = Client::new(address);
                workers.spawn(work(client, paths.clone(), first, expected.to_owned(), stopped.clone()));
            }
        }
        Self { stop, workers }
    }

    /// Lets requests under way end, and tells what became of all.
    pub async fn stop(self) -> LoadReport {
        self.stop.send_replace(true);
        let mut total = LoadReport::default();
        for report in self.workers.join_all().await {
            total.answered += report.answered;
            total.failed += report.failed;
            total.failures.extend(report.failures);
            total.slowest = total.slowest.max(report.slowest);
        }
        total.failures.truncate(FAILURES_KEPT);
        total
    }
}

async fn work(
    mut client: Client,
    paths: Arc<[String]>,
    first: usize,
    expected: String,
    stopped: watch::Receiver<bool>,
) -> LoadReport {
    let mut report = LoadReport::default();
    for path in paths.iter().cycle().skip(first) {
        if *stopped.borrow() {
            break;
        }
        let began = Instant::now();
        match ask(&mut client, path, &expected).await {
            Ok(()) => report.answered += 1,
            Err(why) => {
                report.failed += 1;
                if report.failures.len() < FAILURES_KEPT {
                    report.failures.push(format!("{why:#}"));
                }
            }
        }
        report.slowest = report.slowest.max(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    report
}

async fn ask(client: &mut Client, path: &str, expected: &str) -> Result<()> {
    let reply = client.get(path).await?.expect(&[200])?;
    anyhow::ensure!(reply.body.starts_with(expected.as_bytes()), "{path}: {}", reply.text());
    Ok(())
}
