//! What every store must do, held against each of them.

use std::sync::Arc;
use std::time::Duration;

use archive::settings::ArchiveSettings;
use archive::store::{ObjectStore, StoreError, Version, When, list_all};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::servers::{Checking, Moto, settings};

const MAX: u64 = 64 << 20;

async fn objects(store: &dyn ObjectStore) {
    // What is not there is missing, and taking it away is no error.
    assert_eq!(store.get("a/none", MAX, None).await, Err(StoreError::Missing));
    assert_eq!(store.delete("a/none").await, Ok(()));
    assert_eq!(store.list("a/", None).await.unwrap().objects, []);
    assert_eq!(store.folders("a/").await, Ok(Vec::new()));

    // What was put comes back, with a version that changes with it.
    let first = store.put("a/1/x", Bytes::from_static(b"one"), When::Always).await.unwrap();
    let got = store.get("a/1/x", MAX, None).await.unwrap().unwrap();
    assert_eq!((&got.body[..], &got.version), (&b"one"[..], &first));
    let second = store.put("a/1/x", Bytes::from_static(b"other"), When::Always).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.get("a/1/x", MAX, Some(&second)).await, Ok(None), "it is as it was seen");
    assert_eq!(&store.get("a/1/x", MAX, Some(&first)).await.unwrap().unwrap().body[..], b"other");

    // No more than the bound is read.
    assert_eq!(store.get("a/1/x", 4, None).await, Err(StoreError::TooLarge { max: 4 }));
    assert!(store.get("a/1/x", 5, None).await.is_ok());

    // Folders and listings, in order.
    for key in ["a/2/y", "a/10/z", "b/1/x"] {
        store.put(key, Bytes::from_static(b"."), When::Always).await.unwrap();
    }
    assert_eq!(store.folders("a/").await.unwrap(), ["1", "10", "2"]);
    let keys = |objects: Vec<archive::store::Listed>| objects.into_iter().map(|o| (o.key, o.bytes)).collect::<Vec<_>>();
    let listed = keys(list_all(store, "a/", 10).await.unwrap());
    assert_eq!(listed, [("a/1/x".to_owned(), 5), ("a/10/z".to_owned(), 1), ("a/2/y".to_owned(), 1)]);
    assert_eq!(list_all(store, "a/", 2).await, Err(StoreError::TooLarge { max: 2 }));

    // A large object goes up in parts.
    let large = Bytes::from((0..40_000_000u32).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    store.put("a/large", large.clone(), When::Always).await.unwrap();
    assert!(store.get("a/large", MAX, None).await.unwrap().unwrap().body == large);

    store.delete("a/1/x").await.unwrap();
    assert_eq!(store.get("a/1/x", MAX, None).await, Err(StoreError::Missing));
    for bad in ["", "/a", "a/", "a//b", "a/../b", "a/./b", "a/\0"] {
        assert_eq!(store.get(bad, MAX, None).await, Err(StoreError::Key(bad.to_owned())), "{bad:?}");
    }
}

/// Left-overs of uploads that were never finished are looked for; nothing younger than the bound is taken.
async fn cleaning(store: &dyn ObjectStore) {
    store.put("a/1/x", Bytes::from_static(b"kept"), When::Always).await.unwrap();
    assert_eq!(store.clean("a/", Duration::from_secs(3600)).await, Ok(0));
    assert!(store.get("a/1/x", MAX, None).await.is_ok());
}

async fn conditions(store: Arc<dyn ObjectStore>) {
    // Only if there is none.
    let body = || Bytes::from_static(b"x");
    let version = store.put("c/new", body(), When::Absent).await.unwrap();
    assert_eq!(store.put("c/new", body(), When::Absent).await, Err(StoreError::Lost));
    // Only in place of what was seen.
    let next = store.put("c/new", Bytes::from_static(b"y"), When::Is(version.clone())).await.unwrap();
    assert_eq!(store.put("c/new", body(), When::Is(version)).await, Err(StoreError::Lost));
    assert_eq!(store.get("c/new", MAX, None).await.unwrap().unwrap().version, next);
    store.delete("c/new").await.unwrap();
    assert_eq!(store.put("c/new", body(), When::Is(next)).await, Err(StoreError::Lost));
    // A large one, too.
    let large = Bytes::from(vec![1u8; 20 << 20]);
    store.put("c/large", large.clone(), When::Absent).await.unwrap();
    assert_eq!(store.put("c/large", large, When::Absent).await, Err(StoreError::Lost));
    // Of many who race, one wins.
    for round in 0..3 {
        let key = format!("c/race-{round}");
        let winners = race(&store, &key, None).await;
        assert_eq!(winners, 1, "round {round}");
        let seen = store.get(&key, MAX, None).await.unwrap().unwrap().version;
        assert_eq!(race(&store, &key, Some(seen)).await, 1, "round {round}");
    }
}

async fn race(store: &Arc<dyn ObjectStore>, key: &str, seen: Option<Version>) -> usize {
    let mut racers = JoinSet::new();
    for i in 0..16 {
        let (store, key, seen) = (store.clone(), key.to_owned(), seen.clone());
        racers.spawn(async move {
            let when = seen.map_or(When::Absent, When::Is);
            match store.put(&key, Bytes::from(format!("racer {i} {when:?}")), when).await {
                Ok(_) => 1,
                Err(StoreError::Lost) => 0,
                Err(e) => panic!("{e}"),
            }
        });
    }
    racers.join_all().await.into_iter().sum()
}

#[tokio::test]
async fn a_directory() {
    let root = tempfile::tempdir().unwrap();
    let settings = ArchiveSettings { directory: root.path().join("archive"), ..ArchiveSettings::default() };
    let store = settings.open().await.unwrap();
    objects(&*store).await;
    cleaning(&*store).await;
    conditions(store.clone()).await;
    // What a crash left half written is no object, and is cleaned up once it is old.
    std::fs::write(root.path().join("archive/c/x.tmp"), "half").unwrap();
    assert!(list_all(&*store, "c/", 100).await.unwrap().iter().all(|object| !object.key.contains("tmp")));
    assert_eq!(store.clean("c/", Duration::from_secs(3600)).await, Ok(0));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(store.clean("c/", Duration::ZERO).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_checks_signatures() {
    let server = Checking::start().await;
    objects(&*server.settings.open().await.unwrap()).await;
    let mut wrong = server.settings.clone();
    wrong.s3.secret_access_key = "another".to_owned();
    let wrong = wrong.open().await.unwrap();
    let denied = wrong.get("a/2/y", MAX, None).await.unwrap_err();
    assert!(matches!(&denied, StoreError::Denied(why) if why.contains("SignatureDoesNotMatch")), "{denied}");
    assert!(!denied.to_string().contains("another"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_exact_about_conditions() {
    let server = Moto::start().await;
    let store = server.settings.open().await.unwrap();
    objects(&*store).await;
    cleaning(&*store).await;
    conditions(store).await;
}

#[tokio::test]
async fn a_store_that_is_not_there_fails_in_time() {
    let mut settings = settings("http://127.0.0.1:9".to_owned());
    settings.s3.timeout.0 = Duration::from_millis(300);
    let store = settings.open().await.unwrap();
    let began = tokio::time::Instant::now();
    let error = store.get("a/b", MAX, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_) | StoreError::Timeout(_)), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}
