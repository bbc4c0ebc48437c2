//! The leader dies again and again while writes come in; proxies follow.

use std::time::Duration;

use chaos::cluster::{Cluster, Dp};
use chaos::layout::Layout;

use super::admin_load::AdminLoad;

const KILLS: usize = 20;

/// A step that a proxy took, as its log tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Step {
    prev: u64,
    to: u64,
    changes: u64,
}

fn steps(dp: &Dp) -> Vec<Step> {
    let read = |line: &str| {
        let field = |name: &str| line.split(&format!("{name}=")).nth(1)?.split_whitespace().next().map(str::to_owned);
        let revision = |name| field(name)?.rsplit('-').next()?.parse().ok();
        Some(Step { prev: revision("prev")?, to: revision("position")?, changes: field("changes")?.parse().ok()? })
    };
    let printed = dp.printed();
    // A proxy that is sent a step it cannot take asks again and loses nothing; but nobody should send it one.
    let missing = printed.lines().position(|line| line.contains("a step is missing"));
    if let Some(at) = missing {
        let around: Vec<&str> = printed.lines().skip(at.saturating_sub(60)).take(80).collect();
        panic!("{}: a step went missing on a stream:\n{}", dp.name(), around.join("\n"));
    }
    printed.lines().filter(|line| line.contains("a step prev=")).map(|line| read(line).expect(line)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_and_proxies_see_every_revision_in_order() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 0, &[]).await.unwrap();
    for number in 1..=2 {
        cluster.add_dp_with(number, &["log.filter=info,dp_proxy=debug,h2=warn"]).await.unwrap();
    }
    let load = AdminLoad::start(&cluster, 4);
    let mut elections = 0;
    for _ in 0..KILLS {
        load.progress(20, Duration::from_secs(30)).await;
        let leader = cluster.leader().await.unwrap();
        let term = cluster.cp(leader).api().status().await.unwrap().term;
        cluster.cp(leader).kill().await.unwrap();
        load.progress(20, Duration::from_secs(30)).await;
        let next = cluster.leader().await.unwrap();
        assert_ne!(next, leader, "a dead node leads");
        elections += u64::from(cluster.cp(next).api().status().await.unwrap().term > term);
        cluster.cp(leader).run().unwrap();
        cluster.cp(leader).ready().await.unwrap();
    }
    let promises = load.stop().await;
    println!(
        "{} writes acknowledged, {} unknown, {} refused, {elections} elections",
        promises.acknowledged,
        promises.unknown.len(),
        promises.refused
    );
    assert_eq!(elections, KILLS as u64, "every kill took the leader");
    let (position, _) = cluster.agree(Duration::from_secs(30)).await.unwrap();
    for number in 1..=3 {
        promises.check(&mut cluster.cp(number).api()).await;
    }
    let head: u64 = position.rsplit('-').next().unwrap().parse().unwrap();
    for dp in &cluster.dps {
        let steps = steps(dp);
        assert_eq!(steps.last().map(|step| step.to), Some(head), "{}", dp.name());
        for pair in steps.windows(2) {
            assert_eq!(pair[1].prev, pair[0].to, "{}: {pair:?}", dp.name());
            assert!(pair[1].to > pair[0].to, "{}: {pair:?}", dp.name());
        }
        // A span of commits is one step for a proxy that was away meanwhile; otherwise each commit is a step.
        let revisions: u64 = steps.iter().map(|step| step.to - step.prev).sum();
        assert_eq!(revisions, head, "{} has seen every revision", dp.name());
        let single = steps.iter().filter(|step| step.to == step.prev + 1).count();
        assert!(single as u64 > head / 4, "{} took {single} of {head} revisions one by one", dp.name());
    }
}
