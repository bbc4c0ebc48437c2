//! So much is made and deleted while a proxy reaches no node and a reader of a feed is away that no node knows any more what is
//! gone since: the horizon of its tombstones is behind where they stood, and both must be sent the whole state. The proxy serves
//! all the time, also while it takes that in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use protocol::state::TOMBSTONES_MAX;
use serde_json::{Value, json};

use super::Running;
use crate::arena::Arena;
use crate::cluster::{Api, Dp};
use crate::patience::until;
use crate::scenario::Sometimes;
use crate::wires::{End, Wire};

/// More than a view keeps tombstones of.
const BURIED: usize = TOMBSTONES_MAX + 500;
/// Operations of one transaction: its work holds nobody up for long.
const AT_ONCE: usize = 500;
/// How long it may take until one of these is acknowledged, however often it is asked for.
const ANSWERED_MAX: Duration = Duration::from_secs(20);
/// How long the proxy may take to have the whole state, once it reaches a node.
const FULL_MAX: Duration = Duration::from_secs(10);
/// What a proxy says when it has taken one.
const TAKEN: &str = "took a configuration in full";

struct Away {
    proxy: u16,
    /// How often it had taken one before.
    taken: usize,
}

pub(super) async fn start(arena: &mut Arena) -> Result<Box<dyn Running>> {
    let dp = arena.cluster.dps.last().context("no proxy")?;
    let (proxy, taken) = (dp.number, taken(dp));
    let feeds = arena.cluster.cps.iter().map(|cp| End::Feed(cp.number));
    let ways: Vec<_> = feeds.flat_map(|feed| [(feed, End::Proxy(proxy)), (End::Proxy(proxy), feed)]).collect();
    arena.wires.set(&ways, Wire { cut: true, ..Wire::default() }).await?;
    arena.away.send_replace(true);
    let leader = arena.cluster.leader().await?;
    let mut api = arena.cluster.cp(leader).api();
    let put = |id: String| json!({"op": "put", "kind": "protos", "id": id, "value": {"content": "c"}});
    let delete = |id: String| json!({"op": "delete", "kind": "protos", "id": id});
    write(&mut api, "made", put).await.context("what is to be deleted is made")?;
    write(&mut api, "deleted", delete).await.context("it is deleted")?;
    Ok(Box::new(Away { proxy, taken }))
}

fn taken(dp: &Dp) -> usize {
    dp.printed().matches(TAKEN).count()
}

/// One operation on each of what is buried. A busy machine may take too long for one answer: it is asked again.
async fn write(api: &mut Api, what: &str, operation: impl Fn(String) -> Value) -> Result<()> {
    let ids: Vec<usize> = (0..BURIED).collect();
    for (number, some) in ids.chunks(AT_ONCE).enumerate() {
        // With long ids, steps of the feed become too large to be kept for those who come for them late.
        let operations: Vec<Value> = some.iter().map(|id| operation(format!("buried-{id:053}"))).collect();
        let (body, request) = (json!({"operations": operations}).to_string(), format!("{what}-{number}"));
        until("a transaction of many", ANSWERED_MAX, async || {
            let headers = [("idempotency-key", &*request)];
            api.call("POST", "/v1/transactions", &headers, body.clone()).await?.expect(&[200])
        })
        .await?;
    }
    Ok(())
}

impl Running for Away {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            arena.wires.heal().await?;
            arena.away.send_replace(false);
            let dp = arena.cluster.dp(self.proxy);
            until("the proxy is sent the whole state", FULL_MAX, async || {
                ensure!(taken(dp) > self.taken);
                Ok(())
            })
            .await?;
            arena.saw(Sometimes::FullAtProxy);
            Ok(())
        }
        .boxed_local()
    }
}
