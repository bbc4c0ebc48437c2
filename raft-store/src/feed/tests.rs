//! The contract of the feed: ordered, unique, reliable, resumable, conflated for slow readers, and never backwards.

use proptest::prelude::*;
use protocol::command::{Action, Command, Draft, Write};
use protocol::position::RestoreId;
use protocol::{Epoch, ResourceKey};

use super::*;
use crate::machine::State;

fn epoch() -> Epoch {
    Epoch { number: 1, restore: RestoreId([1; 16]) }
}

struct Publisher {
    state: State,
    feed: Feed,
}

impl Publisher {
    fn new() -> Self {
        let state = State::new(epoch());
        let feed = Feed::new(state.config.clone());
        Self { state, feed }
    }

    /// Writes or removes a route in a group, and publishes it.
    fn change(&mut self, n: u8, group: &str, body: Option<&str>) {
        let key = ResourceKey::new("routes", &format!("r{n}"));
        let write = match body {
            Some(body) => {
                let draft = Draft {
                    body: body.into(),
                    references: vec![],
                    claims: vec![],
                    groups: vec![group.into()],
                    ttl_seconds: None,
                };
                Write::Put { key, draft, if_match: None, only_new: false }
            }
            None => Write::Delete { key, if_match: None, force: false },
        };
        let command = Command {
            origin: None,
            idempotency: None,
            request: "r".into(),
            author: "a".into(),
            time: 1,
            based_on: vec![],
            action: Action::Write(write),
        };
        let effect = self.state.apply(&command).unwrap();
        let steps = effect.change.map(|change| change.views).unwrap_or_default();
        self.feed.publish(self.state.config.clone(), steps);
    }
}

/// A proxy's side: takes what a reader gives, and checks it on the way.
struct Follower {
    config: ConfigState,
    reader: Reader,
    steps: usize,
    fulls: usize,
}

impl Follower {
    fn new(feed: &Feed, group: &str) -> Self {
        let config = ConfigState::following();
        let reader = feed.read(group.into(), config.position(), config.changed_at());
        Self { config, reader, steps: 0, fulls: 0 }
    }

    /// Comes back with what it holds, to a feed that may be another node's.
    fn reconnect(&mut self, feed: &Feed, group: &str) {
        self.reader = feed.read(group.into(), self.config.position(), self.config.changed_at());
    }

    async fn take(&mut self) -> Item {
        let item = self.reader.next().await.expect("the feed goes on");
        match &item {
            Item::Step(step) => {
                let delta: Delta = codec::open(&step.frame).unwrap();
                self.config.evolve(&delta).unwrap();
                self.steps += 1;
            }
            Item::Bookmark { position, digest } => {
                self.config.bookmark(*position).unwrap();
                assert_eq!(self.config.digest(), *digest, "a bookmark is truthful");
            }
            Item::Full(state) => {
                let view = state.view("default");
                let entries = state.iter().filter(|(_, e)| e.is_in("default")).map(|(k, e)| (k.clone(), e.clone()));
                let base = ConfigState::following();
                let (position, changed_at) = (state.position(), view.changed_at());
                self.config = ConfigState::from_entries(base, position, changed_at, state.chain(), entries);
                self.fulls += 1;
            }
            Item::Behind { .. } => {}
        }
        item
    }

    async fn catch_up(&mut self, feed: &Feed) {
        while self.config.position() != feed.position() {
            self.take().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_arrives_once_and_in_order() {
    let mut publisher = Publisher::new();
    let mut follower = Follower::new(&publisher.feed, "default");
    assert!(matches!(follower.take().await, Item::Bookmark { .. }), "the first item says where the view is");
    for n in 0..20 {
        publisher.change(n % 5, "default", Some(&format!("{{\"n\":{n}}}")));
        let Item::Step(step) = follower.take().await else { panic!("a change is a step") };
        assert_eq!(step.position.revision, u64::from(n) + 1);
    }
    assert_eq!((follower.steps, follower.fulls), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn a_change_in_another_group_only_moves_the_bookmark() {
    let mut publisher = Publisher::new();
    let mut follower = Follower::new(&publisher.feed, "default");
    follower.take().await;
    publisher.change(1, "edge", Some("{}"));
    let item = follower.take().await;
    assert!(matches!(item, Item::Bookmark { position, .. } if position.revision == 1), "{item:?}");
    assert!(follower.config.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_up_to_date_reader_waits() {
    let mut publisher = Publisher::new();
    let mut follower = Follower::new(&publisher.feed, "default");
    follower.take().await;
    let second = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(second, follower.reader.next()).await.is_err());
    publisher.change(1, "default", Some("{}"));
    assert!(tokio::time::timeout(second, follower.reader.next()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_skips_what_was_overtaken() {
    let mut publisher = Publisher::new();
    let mut follower = Follower::new(&publisher.feed, "default");
    follower.take().await;
    for n in 0..STEPS_MAX + 50 {
        publisher.change(1, "default", Some(&format!("{{\"n\":{n}}}")));
    }
    follower.catch_up(&publisher.feed).await;
    assert_eq!((follower.steps, follower.fulls), (1, 0), "one step over everything");
    assert_eq!(follower.config.digest(), publisher.state.config.view("default").digest().total());
}

#[tokio::test(start_paused = true)]
async fn readers_that_stand_alike_share_one_encoding() {
    let mut publisher = Publisher::new();
    publisher.change(1, "default", Some("{}"));
    let from = publisher.feed.position();
    for n in 0..STEPS_MAX + 1 {
        publisher.change(2, "default", Some(&format!("{{\"n\":{n}}}")));
    }
    let frame = || async {
        match publisher.feed.read("default".into(), from, from).next().await {
            Some(Item::Step(step)) => step.frame.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert!(Arc::ptr_eq(&frame().await, &frame().await));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_ahead_is_told_so() {
    let mut publisher = Publisher::new();
    publisher.change(1, "default", Some("{}"));
    let ahead = Position { revision: 9, ..publisher.feed.position() };
    let item = publisher.feed.read("default".into(), ahead, ahead).next().await;
    assert!(matches!(item, Some(Item::Behind { position }) if position.revision == 1), "{item:?}");
    let mut foreign = publisher.feed.position();
    foreign.epoch.restore = RestoreId([9; 16]);
    let item = publisher.feed.read("default".into(), foreign, foreign).next().await;
    assert!(matches!(item, Some(Item::Behind { .. })), "{item:?}");
}

#[tokio::test(start_paused = true)]
async fn a_state_from_a_snapshot_is_served_like_any_other() {
    let mut publisher = Publisher::new();
    let mut follower = Follower::new(&publisher.feed, "default");
    publisher.change(1, "default", Some("{}"));
    follower.catch_up(&publisher.feed).await;
    let mut other = Publisher { state: publisher.state.clone(), feed: Feed::new(State::new(epoch()).config) };
    other.change(2, "default", Some("{}"));
    publisher.feed.replace(other.state.config.clone());
    follower.catch_up(&publisher.feed).await;
    assert_eq!((follower.steps, follower.fulls), (2, 0));
    assert_eq!(follower.config.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_position_is_woken_when_it_is_reached() {
    let mut publisher = Publisher::new();
    let target = Position { revision: 2, ..publisher.feed.position() };
    let feed = publisher.feed.clone();
    let waiting = tokio::spawn(async move { feed.reached(target).await });
    publisher.change(1, "default", Some("{}"));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    publisher.change(1, "default", Some("{\"x\":1}"));
    waiting.await.unwrap();
}

proptest! {
    /// Changes, reconnects to one of two nodes (of which one lags) and reads in any order: the follower's state is always
    /// one that was published, and in the end the newest.
    #[test]
    fn law_a_follower_passes_only_through_published_states(
        script in prop::collection::vec((0u8..6, 0u8..4, prop::option::weighted(0.7, 0u8..9), any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut publisher = Publisher::new();
            let lagging = Feed::new(publisher.state.config.clone());
            let mut published = vec![publisher.state.config.clone()];
            let mut follower = Follower::new(&publisher.feed, "default");
            for (what, n, body, edge) in script {
                match what {
                    0..3 => {
                        let group = if edge { "edge" } else { "default" };
                        let body = body.map(|b| format!("{{\"b\":{b}}}"));
                        publisher.change(n, group, body.as_deref());
                        published.push(publisher.state.config.clone());
                    }
                    3 => lagging.replace(published[published.len() / 2].clone()),
                    4 => follower.reconnect(if edge { &lagging } else { &publisher.feed }, "default"),
                    _ => {
                        let wait = tokio::time::timeout(std::time::Duration::from_millis(1), follower.take());
                        let _ = wait.await;
                    }
                }
                let at = follower.config.position();
                if at != Position::default() {
                    let state = published.iter().find(|state| state.position() == at).expect("a published position");
                    prop_assert_eq!(follower.config.digest(), state.view("default").digest().total());
                }
            }
            follower.reconnect(&publisher.feed, "default");
            follower.catch_up(&publisher.feed).await;
            prop_assert_eq!(follower.config.digest(), publisher.state.config.view("default").digest().total());
            Ok(())
        })?;
    }
}
