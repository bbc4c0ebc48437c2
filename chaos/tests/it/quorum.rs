//! Without a quorum every answer comes in time, and says what it knows.

use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, READY_MAX};
use chaos::http::Reply;
use chaos::layout::Layout;
use chaos::patience::until;
use serde_json::json;

use super::admin_load::anyhow_ensure;

/// What the Admin API promises: no answer takes longer, whatever has failed.
const ANSWER_MAX: Duration = Duration::from_secs(2);

fn body(n: u64) -> String {
    json!({"uri": format!("/r{n}"), "upstream": {"nodes": {"127.0.0.1:1": 1}}}).to_string()
}

fn check_not_applied(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").is_some(), "{:?}", reply.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_503_before_a_proposal_and_504_after_one_and_nothing_hangs() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 1, &[]).await.unwrap();
    cluster.cp(1).api().call("PUT", "/apisix/admin/routes/r0", &[], body(0)).await.unwrap().expect(&[201]).unwrap();
    cluster.dp(1).ready().await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let others: Vec<u16> = (1..=3).filter(|number| *number != leader).collect();
    for other in &others {
        cluster.cp(*other).process().unwrap().pause().unwrap();
    }
    // At first the leader does not know that it is alone: what it proposes now may still be committed. Later it knows,
    // and proposes nothing more.
    let mut unknown = Vec::new();
    let mut refused = 0;
    for n in 1.. {
        let id = format!("request-{n}");
        let headers = [("idempotency-key", id.as_str())];
        let began = Instant::now();
        let path = format!("/apisix/admin/routes/r{n}");
        let reply = cluster.cp(leader).api().call("PUT", &path, &headers, body(n)).await.unwrap();
        assert!(began.elapsed() < ANSWER_MAX, "{} after {:?}", reply.status, began.elapsed());
        match reply.status {
            504 => {
                let answer = reply.json().unwrap();
                assert!(answer.to_string().contains("unknown"), "{answer}");
                assert_eq!(
                    reply.header("x-request-id").or(answer["request_id"].as_str()),
                    Some(id.as_str()),
                    "{answer}"
                );
                unknown.push(n);
            }
            _ => {
                check_not_applied(&reply);
                refused += 1;
            }
        }
        if refused == 5 {
            break;
        }
    }
    assert!(!unknown.is_empty(), "nothing was proposed without a quorum: the 504 was not seen");
    // Reads that must be fresh cannot be; reads that may be stale can.
    let mut api = cluster.cp(leader).api();
    let began = Instant::now();
    let fresh = api.call("GET", "/apisix/admin/routes/r0", &[], String::new()).await.unwrap();
    assert!(began.elapsed() < ANSWER_MAX);
    check_not_applied(&fresh);
    let stale = api.call("GET", "/apisix/admin/routes/r0?consistency=stale", &[], String::new()).await.unwrap();
    assert_eq!(stale.status, 200, "{}", stale.text());
    // Traffic does not care.
    assert_eq!(cluster.dp(1).client().get("/r0").await.unwrap().status, 502, "the route is there, its upstream is not");
    for other in &others {
        cluster.cp(*other).process().unwrap().resume().unwrap();
    }
    // The same request again, under its id, is safe whatever became of it.
    for n in &unknown {
        let (id, path) = (format!("request-{n}"), format!("/apisix/admin/routes/r{n}"));
        let reply = until("a retry is answered", READY_MAX, async || {
            let headers = [("idempotency-key", id.as_str())];
            cluster.cps[usize::from(others[0]) - 1]
                .api()
                .call("PUT", &path, &headers, body(*n))
                .await?
                .expect(&[200, 201])
        });
        let reply = reply.await.unwrap();
        assert_eq!(reply.status, 201, "it was created once: {}", reply.text());
    }
    let (position, _) = cluster.agree(READY_MAX).await.unwrap();
    assert_eq!(position, format!("1-{}", 1 + unknown.len()), "each was carried out once, and no refused one ever");
    for number in 1..=3 {
        let ready = until("ready again", READY_MAX, async || {
            let api = cluster.cps[number - 1].api().status().await?;
            anyhow_ensure(api.leader.is_some(), "no leader")
        });
        ready.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_without_a_leader_answers_in_time() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 0, &[]).await.unwrap();
    cluster.cp(2).kill().await.unwrap();
    cluster.cp(3).kill().await.unwrap();
    for n in 0..5 {
        let began = Instant::now();
        let path = format!("/apisix/admin/routes/r{n}");
        let reply = cluster.cp(1).api().call("PUT", &path, &[], body(n)).await.unwrap();
        assert!(began.elapsed() < ANSWER_MAX, "{} after {:?}", reply.status, began.elapsed());
        assert!([503, 504].contains(&reply.status), "{}: {}", reply.status, reply.text());
    }
    let reply = cluster.cp(1).api().call("PUT", "/apisix/admin/routes/r9", &[], body(9)).await.unwrap();
    check_not_applied(&reply);
    let status = cluster.cp(1).addresses.status.clone();
    until("it is not ready", READY_MAX, async || {
        let reply = chaos::http::Client::new(&status).get("/status/ready").await?;
        anyhow_ensure(reply.status == 503, &reply.text())
    })
    .await
    .unwrap();
    let alive = chaos::http::Client::new(&status).get("/status").await.unwrap();
    assert_eq!(alive.status, 200, "it is alive all the same");
}
