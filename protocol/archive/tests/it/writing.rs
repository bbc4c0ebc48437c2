//! A configuration is written, grows, and is found again: by whoever restores it, and by a group's proxies.

use std::sync::Arc;

use archive::read::{Have, Limits, Polled};
use archive::store::directory::Directory;
use archive::store::{ObjectStore, list_all};
use archive::write::{Archive, WriteError};
use archive::{Layout, Reader, View, Writer};
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::delta::{Cause, Change};
use protocol::entry::Stamp;
use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;
use protocol::{ConfigState, Delta, Entry, Epoch, Position, ResourceKey};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const LIMITS: Limits = Limits { object_max: 64 << 20, unpacked_max: 256 << 20 };

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch { number, restore: RestoreId([u8::try_from(number).unwrap(); 16]) }
}

/// A configuration that changes.
pub(crate) struct Cluster {
    pub(crate) config: ConfigState,
}

impl Cluster {
    pub(crate) fn new(number: u64) -> Self {
        let mut config = ConfigState::serving();
        config.begin_epoch(epoch(number));
        Self { config }
    }

    /// One commit.
    pub(crate) fn put(&mut self, id: &str, body: Option<&str>, group: &str) {
        let position = self.config.position().next();
        let stamp = Stamp { revision: position.revision, time: 1 };
        let entry = body.map(|body| Arc::new(Entry::new(body, group, stamp)));
        let changes = vec![Change { key: ResourceKey::new("routes", id), entry }];
        let digest = self.config.digest_after(&changes);
        let cause = Some(Cause { author: "a".into(), request: "r".into(), time: 1 });
        let delta = Delta { prev: self.config.changed_at(), position, changes, digest, cause };
        self.config.evolve(&delta).unwrap();
    }

    pub(crate) fn fill(&mut self, ids: std::ops::Range<u32>) {
        for i in ids {
            self.put(&format!("r{i}"), Some(&format!(r#"{{"uri":"/path/{i}/{}"}}"#, "x".repeat(64))), "default");
        }
    }
}

/// An archive in a directory.
pub(crate) struct Place {
    pub(crate) root: tempfile::TempDir,
    pub(crate) archive: Archive,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(Directory::new(root.path()));
        let key = Arc::new(SigningKey::from_seed([1; 32]));
        let trusted = TrustedKeys::new([key.public()]);
        let layout = Layout::new("p");
        Self {
            root,
            archive: Archive { store, layout, key, trusted, limits: LIMITS, keep_bases: 2, segments_max: 256 },
        }
    }

    pub(crate) fn reader(&self) -> Reader {
        let Archive { store, layout, trusted, limits, .. } = self.archive.clone();
        Reader::new(store, layout, trusted, limits)
    }

    pub(crate) fn writer(&self, view: View) -> Writer {
        Writer::new(&self.archive, CLUSTER, view)
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        list_all(&*self.archive.store, "p/", 1000).await.unwrap().into_iter().map(|o| o.key).collect()
    }
}

pub(crate) fn group() -> View {
    View::Group("default".into())
}

#[tokio::test]
async fn what_is_brought_is_found_whole_and_by_view() {
    let (place, mut cluster) = (Place::new(), Cluster::new(1));
    let (mut whole, mut view) = (place.writer(View::Whole), place.writer(group()));
    cluster.fill(0..50);
    cluster.put("secret", Some(r#"{"a":1}"#), "other");
    for writer in [&mut whole, &mut view] {
        assert_eq!(writer.bring(&cluster.config, 1, 5).await.unwrap().bases, 1);
        assert_eq!(writer.bring(&cluster.config, 1, 5).await.unwrap(), archive::write::Done::default());
    }
    // An edit costs a segment, not the whole; what another group sees costs this one nothing.
    cluster.put("r7", None, "default");
    cluster.put("secret", Some(r#"{"a":2}"#), "other");
    let done = whole.bring(&cluster.config, 2, 6).await.unwrap();
    assert_eq!((done.segments, done.bases), (1, 0));
    assert!(done.bytes < 1500, "{done:?}");
    assert_eq!(view.bring(&cluster.config, 1, 6).await.unwrap().segments, 1);
    cluster.put("secret", Some(r#"{"a":3}"#), "other");
    assert_eq!(view.bring(&cluster.config, 1, 7).await.unwrap().segments, 0);

    let (found, refused) = place.reader().newest(None, &View::Whole, None).await;
    assert!(refused.is_empty(), "{refused:?}");
    let found = found.unwrap();
    assert_eq!(found.state.position().revision, cluster.config.position().revision - 1);
    assert_eq!((found.level, found.cluster), (2, CLUSTER));
    assert!(found.chain.is_some());
    assert_eq!(whole.bring(&cluster.config, 2, 6).await.unwrap().segments, 1);
    let found = place.reader().newest(None, &View::Whole, None).await.0.unwrap();
    assert_eq!(found.state.digest(), cluster.config.digest());
    assert_eq!(found.chain, Some(cluster.config.chain()));
    let entry = |state: &ConfigState| state.get(&ResourceKey::new("routes", "r9")).unwrap().clone();
    assert_eq!(entry(&found.state), entry(&cluster.config), "with its original metadata");
    let found = place.reader().newest(Some(CLUSTER), &group(), None).await.0.unwrap();
    assert_eq!(found.state.digest(), cluster.config.view("default").digest().total());
    assert!(found.state.get(&ResourceKey::new("routes", "secret")).is_none());
}

#[tokio::test]
async fn a_reader_that_polls_fetches_only_what_it_lacks_and_never_goes_back() {
    let (place, mut cluster) = (Place::new(), Cluster::new(1));
    let mut writer = place.writer(group());
    cluster.fill(0..20);
    writer.bring(&cluster.config, 1, 5).await.unwrap();
    let reader = place.reader();
    let mut state = reader.newest(None, &group(), None).await.0.unwrap().state;
    let mut seen = None;
    assert!(matches!(reader.poll(CLUSTER, &group(), &state, &mut seen).await.unwrap(), Polled::Nothing));
    let old = std::fs::read(place.root.path().join(place.archive.layout.pointer(CLUSTER, &group()))).unwrap();
    cluster.fill(20..22);
    writer.bring(&cluster.config, 1, 6).await.unwrap();
    cluster.fill(22..23);
    writer.bring(&cluster.config, 1, 6).await.unwrap();
    // The base may be gone: it is not asked for.
    for key in place.keys().await.iter().filter(|key| key.ends_with(".base")) {
        std::fs::remove_file(place.root.path().join(key)).unwrap();
    }
    let Polled::Found(found) = reader.poll(CLUSTER, &group(), &state, &mut seen).await.unwrap() else { panic!() };
    assert_eq!(found.steps.unwrap().len(), 2);
    assert_eq!(found.state.digest(), cluster.config.view("default").digest().total());
    state = found.state;
    // An older pointer, put there by whoever can, is refused with its own reason.
    std::fs::write(place.root.path().join(place.archive.layout.pointer(CLUSTER, &group())), old).unwrap();
    let refused = reader.poll(CLUSTER, &group(), &state, &mut seen).await.unwrap_err();
    assert_eq!(refused.reason.name(), "older");
    let (found, refused) = reader.newest(Some(CLUSTER), &group(), Have::of(&state)).await;
    assert!(found.is_none());
    assert_eq!(refused[0].reason.name(), "older");
}

#[tokio::test]
async fn another_leader_goes_on_where_the_last_one_was() {
    let (place, mut cluster) = (Place::new(), Cluster::new(1));
    cluster.fill(0..50);
    let mut first = place.writer(View::Whole);
    first.bring(&cluster.config, 1, 5).await.unwrap();
    let behind = cluster.config.clone();
    cluster.fill(50..60);
    let mut second = place.writer(View::Whole);
    let done = second.bring(&cluster.config, 1, 6).await.unwrap();
    assert_eq!((done.segments, done.bases), (1, 0), "it goes on with a segment");
    // A writer that has not caught up, and one that was the leader before, do no harm.
    let error = place.writer(View::Whole).bring(&behind, 1, 6).await.unwrap_err();
    assert_eq!(error.name(), "ahead");
    cluster.fill(60..61);
    let mut late = Cluster { config: behind };
    late.fill(100..101);
    let error = first.bring(&late.config, 1, 7).await.unwrap_err();
    assert!(matches!(error, WriteError::Ahead { .. }), "{error}");
    second.bring(&cluster.config, 1, 7).await.unwrap();
    let found = place.reader().newest(None, &View::Whole, None).await.0.unwrap();
    assert_eq!(found.state.digest(), cluster.config.digest());
}

#[tokio::test]
async fn a_base_follows_when_the_segments_have_outgrown_it_and_old_ones_go() {
    let (place, mut cluster) = (Place::new(), Cluster::new(1));
    let mut writer = place.writer(View::Whole);
    cluster.fill(0..3);
    let (mut bases, mut removed) = (0, 0);
    for i in 0..520 {
        cluster.fill(i..i + 1);
        let done = writer.bring(&cluster.config, 1, 5).await.unwrap();
        bases += done.bases;
        removed += done.removed;
    }
    assert_eq!(bases, 3, "the first, and one after each 256 segments");
    assert!(removed >= 256, "{removed}");
    let left = place.keys().await.iter().filter(|key| key.ends_with(".base")).count();
    assert_eq!(left, 2);
    let found = place.reader().newest(None, &View::Whole, None).await.0.unwrap();
    assert_eq!(found.state.digest(), cluster.config.digest());
}

#[tokio::test]
async fn a_new_life_of_the_cluster_stands_above_every_position_of_the_old() {
    let (place, mut old) = (Place::new(), Cluster::new(1));
    old.fill(0..50);
    place.writer(group()).bring(&old.config, 1, 5).await.unwrap();
    let mut new = Cluster::new(2);
    new.fill(0..5);
    place.writer(group()).bring(&new.config, 1, 6).await.unwrap();
    let have = Have::of(&place.reader().newest(None, &group(), None).await.0.unwrap().state).unwrap();
    assert_eq!(have.position, Position { epoch: epoch(2), revision: 5 });
    // The old one's leader, wherever it was, can write no more.
    old.fill(50..51);
    let error = place.writer(group()).bring(&old.config, 1, 7).await.unwrap_err();
    assert_eq!(error.name(), "ahead");
}
