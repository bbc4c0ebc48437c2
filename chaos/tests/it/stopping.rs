//! SIGTERM: in order, so that nobody notices.

use std::time::Duration;

use chaos::cluster::{Cluster, READY_MAX};
use chaos::layout::Layout;

use super::admin_load::AdminLoad;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_hands_over_first() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 1, &[]).await.unwrap();
    let load = AdminLoad::start(&cluster, 2);
    for _ in 0..3 {
        load.progress(30, READY_MAX).await;
        let leader = cluster.leader().await.unwrap();
        let status = cluster.cp(leader).terminate(Duration::from_secs(15)).await.unwrap();
        assert!(status.success(), "{status}: {}", cluster.cp(leader).log_end());
        let printed = cluster.cp(leader).printed();
        let at = |what: &str| printed.rfind(what).unwrap_or_else(|| panic!("{what:?} is not in\n{printed}"));
        // It falls silent, and asks its heir when the others may vote: unless one of them has found by itself, in that
        // moment, that nobody leads. Either way somebody else has the term before it ends.
        let end = &printed[at("stopping signal")..at("the node has stopped")];
        assert!(end.contains("leadership is being handed over") || end.contains("there is no leader"), "{printed}");
        assert!(!printed.contains("could not be handed over"), "{printed}");
        load.progress(30, READY_MAX).await;
        cluster.cp(leader).run().unwrap();
        cluster.cp(leader).ready().await.unwrap();
    }
    let promises = load.stop().await;
    assert_eq!(promises.unknown, [""; 0], "a request was left without an answer");
    cluster.agree(READY_MAX).await.unwrap();
    promises.check(&mut cluster.cp(1).api()).await;
}
