//! A store that fails at any one call of an upload, in any way: what was there stays usable, and the next attempt
//! makes it good.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use archive::settings::ArchiveSettings;
use archive::store::{StoreError, When, list_all};
use archive::write::Archive;
use archive::{Layout, Reader, View, Writer};
use bytes::Bytes;
use protocol::crypto::{SigningKey, TrustedKeys};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::between::{Between, Fault};
use crate::servers::Moto;
use crate::writing::{CLUSTER, Cluster, LIMITS, group};

/// Cases at once: moto is one process in Python, and most of a case is the client's patience.
const AT_ONCE: usize = 24;

/// Of uploads in parts that were begun while the answer was spoilt (three attempts each, for two faults), nobody knows.
const LEFT_OVER_MAX: usize = 2 * 3;

/// How long a client waits for a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// An archive in moto, seen past whoever stands between.
struct Shelf {
    between: Between,
    direct: Archive,
    through: Archive,
    cluster: Cluster,
}

impl Shelf {
    /// A base, and a segment that has outgrown it: the next upload writes a segment, a base, the pointer, and takes
    /// away what is old.
    async fn with_a_past(moto: &Moto, prefix: &str, patience: Duration) -> Self {
        let between = Between::start(moto.address).await;
        let key = Arc::new(SigningKey::from_seed([1; 32]));
        let mut settings = ArchiveSettings { ..moto.settings.clone() };
        let store = settings.open().await.unwrap();
        let (trusted, layout) = (TrustedKeys::new([key.public()]), Layout::new(prefix));
        let direct = Archive { store, layout, key, trusted, limits: LIMITS, keep_bases: 1, segments_max: 256 };
        settings.s3.endpoint = between.endpoint.clone();
        settings.s3.timeout.0 = patience;
        let through = Archive { store: settings.open().await.unwrap(), ..direct.clone() };
        let mut cluster = Cluster::new(1);
        let mut writer = Writer::new(&direct, CLUSTER, group());
        cluster.fill(0..3);
        writer.bring(&cluster.config, 1, 5).await.unwrap();
        cluster.put("large", Some(&format!(r#"{{"a":"{}"}}"#, noise(1_600_000))), "default");
        writer.bring(&cluster.config, 1, 5).await.unwrap();
        cluster.put("large", None, "default");
        Self { between, direct, through, cluster }
    }

    fn writer(&self) -> Writer {
        Writer::new(&self.through, CLUSTER, group())
    }

    /// What a proxy finds: never anything but a whole state. With what was refused on the way.
    async fn found(&self) -> (u64, Vec<String>) {
        let Archive { store, layout, trusted, limits, .. } = self.direct.clone();
        let (found, refused) = Reader::new(store, layout, trusted, limits).newest(Some(CLUSTER), &group(), None).await;
        let found = found.expect("something is always there");
        (found.state.position().revision, refused.iter().map(ToString::to_string).collect())
    }

    fn head(&self) -> u64 {
        self.cluster.config.position().revision
    }
}

/// Text that does not compress to under three quarters.
fn noise(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(letters[(state >> 58) as usize])
    };
    (0..bytes).map(letter).collect()
}

/// What kind of call it was.
fn kind(call: &str) -> &'static str {
    let (method, uri) = call.split_once(' ').unwrap();
    let path = uri.split('?').next().unwrap();
    match (method, path) {
        ("GET", _) if uri.contains("uploads") => "list uploads",
        ("GET", path) if path.ends_with("latest") => "get pointer",
        ("GET", path) if path.ends_with(".base") => "get base",
        ("GET", path) if path.ends_with(".delta") => "get segment",
        ("GET", _) => "list",
        ("PUT", path) if path.ends_with("latest") => "put pointer",
        ("PUT", path) if path.ends_with(".base") => "put base",
        ("PUT", path) if path.ends_with(".delta") => "put segment",
        ("DELETE", _) => "delete",
        _ => panic!("{call}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_an_upload_that_is_refused_leaves_what_was_there_usable() {
    sweep(&[Fault::Fails(503), Fault::Fails(403), Fault::Reset]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_an_upload_that_is_done_without_an_answer_leaves_what_was_there_usable() {
    sweep(&[Fault::FailsAfterwards(503), Fault::ResetAfterwards]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_an_upload_that_nothing_answers_leaves_what_was_there_usable() {
    sweep(&[Fault::Silent, Fault::SilentAfterwards]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_an_upload_whose_body_is_spoilt_leaves_what_was_there_usable() {
    sweep(&[Fault::Torn, Fault::Halved, Fault::Mangled]).await;
}

/// Spoils each call of an upload in turn, in each of these ways; the next attempt makes it good.
async fn sweep(faults: &[Fault]) {
    let moto = Arc::new(Moto::start().await);
    let shelf = Shelf::with_a_past(&moto, "whole", Duration::from_secs(10)).await;
    shelf.writer().bring(&shelf.cluster.config, 1, 6).await.unwrap();
    let (calls, _) = shelf.between.heal();
    let kinds: BTreeSet<&str> = calls.iter().map(|call| kind(call)).collect();
    let every = [
        "delete",
        "get base",
        "get pointer",
        "get segment",
        "list",
        "list uploads",
        "put base",
        "put pointer",
        "put segment",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), every, "{calls:#?}");
    assert_eq!(shelf.found().await, (shelf.head(), Vec::new()));

    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut cases = JoinSet::new();
    for (at, call) in calls.iter().enumerate() {
        for fault in faults.iter().copied() {
            if fault == Fault::Mangled && !call.starts_with("PUT") {
                continue;
            }
            let (moto, room, kind) = (moto.clone(), room.clone(), kind(call));
            cases.spawn(async move {
                let _turn = room.acquire_owned().await.unwrap();
                fails_once(&moto, at, kind, fault).await
            });
        }
    }
    let failed = cases.join_all().await.into_iter().filter(|failed| *failed).count();
    // Not all do: an answer may be made up for by the next attempt, and old objects may stay. Where none does, the faults
    // spoil nothing.
    assert!(failed > 0, "no upload failed");
}

/// One upload whose call number `at` is spoilt; whether it failed.
async fn fails_once(moto: &Moto, at: usize, kind: &str, fault: Fault) -> bool {
    let case = format!("{kind} (call {at}), {fault:?}");
    let patience = if fault.is_silent() { PATIENCE } else { Duration::from_secs(10) };
    let mut shelf = Shelf::with_a_past(moto, &format!("case-{at}-{fault:?}"), patience).await;
    let before = shelf.head() - 1;
    let mut writer = shelf.writer();
    shelf.between.spoil(at, fault);
    let result = writer.bring(&shelf.cluster.config, 1, 6).await;
    let (calls, spoilt) = shelf.between.heal();
    assert!(spoilt > 0, "{case}: nothing was spoilt: {calls:?}");

    let (found, refused) = shelf.found().await;
    assert!((before..=shelf.head()).contains(&found), "{case}: {found}");
    match &result {
        Ok(_) => assert_eq!((found, refused), (shelf.head(), Vec::new()), "{case}"),
        // What was put in part or spoilt on its way may lie there and be refused; the pointer leads past it.
        Err(_) if fault == Fault::Mangled => {}
        Err(e) => assert!(refused.is_empty(), "{case}: {e}; {refused:?}"),
    }
    // The same writer makes it good with nothing new to bring, and goes on; then another one does.
    writer.bring(&shelf.cluster.config, 1, 7).await.unwrap_or_else(|e| panic!("{case}, again: {e}"));
    assert_eq!(shelf.found().await, (shelf.head(), Vec::new()), "{case}, again");
    shelf.cluster.fill(10..11);
    writer.bring(&shelf.cluster.config, 1, 8).await.unwrap_or_else(|e| panic!("{case}, next: {e}"));
    assert_eq!(shelf.found().await, (shelf.head(), Vec::new()), "{case}, next");
    shelf.cluster.fill(11..12);
    shelf.writer().bring(&shelf.cluster.config, 1, 9).await.unwrap_or_else(|e| panic!("{case}, another: {e}"));
    assert_eq!(shelf.found().await, (shelf.head(), Vec::new()), "{case}, another");
    result.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_once_is_made_good_by_the_clients_own_attempts() {
    let moto = Moto::start().await;
    for fault in [Fault::Fails(503), Fault::FailsAfterwards(500), Fault::Reset, Fault::ResetAfterwards] {
        // The ninth call is in the middle of the upload.
        for at in [0, 4, 8] {
            let shelf = Shelf::with_a_past(&moto, &format!("once-{at}-{fault:?}"), Duration::from_secs(10)).await;
            shelf.between.spoil_once(at, fault);
            let result = shelf.writer().bring(&shelf.cluster.config, 1, 6).await;
            let (calls, spoilt) = shelf.between.heal();
            assert_eq!(spoilt, 1);
            result.unwrap_or_else(|e| panic!("{}, {fault:?}: {e}", calls[at]));
            assert_eq!(shelf.found().await, (shelf.head(), Vec::new()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_that_fails_leaves_no_object_and_its_parts_are_cleaned_up() {
    let moto = Moto::start().await;
    let direct = moto.settings.open().await.unwrap();
    let between = Between::start(moto.address).await;
    let mut settings = moto.settings.clone();
    settings.s3.endpoint = between.endpoint.clone();
    let store = settings.open().await.unwrap();
    let body = Bytes::from(vec![7u8; 33 << 20]);
    store.put("m/whole", body.clone(), When::Absent).await.unwrap();
    let (calls, _) = between.heal();
    assert_eq!(calls.len(), 5, "to begin, three parts, to end: {calls:?}");

    for fault in [Fault::Fails(503), Fault::Reset, Fault::FailsAfterwards(500), Fault::Torn] {
        for at in 0..calls.len() {
            let key = format!("m/{at}-{fault:?}");
            between.spoil(at, fault);
            let result = store.put(&key, body.clone(), When::Absent).await;
            let (_, spoilt) = between.heal();
            assert!(spoilt > 0, "{key}");
            let there = direct.get(&key, 64 << 20, None).await;
            match result {
                Ok(_) => assert!(there.unwrap().unwrap().body == body, "{key}"),
                // Ended, and nobody told us: it is whole.
                Err(_) if there.is_ok() => assert!(there.unwrap().unwrap().body == body, "{key}"),
                Err(e) => {
                    assert_eq!(there, Err(StoreError::Missing), "{key}: {e}");
                }
            }
        }
    }
    // The others were given up at once.
    let left = direct.clean("m/", Duration::ZERO).await.unwrap();
    assert!((1..=LEFT_OVER_MAX).contains(&left), "{left} uploads were left over");
    assert_eq!(direct.clean("m/", Duration::ZERO).await, Ok(0), "they are gone");
    let listed = list_all(&*direct, "m/", 100).await.unwrap();
    assert!(listed.iter().all(|object| object.bytes == body.len() as u64), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_upload_of_all_may_fail_anywhere() {
    let moto = Moto::start().await;
    for fault in [Fault::Fails(500), Fault::ResetAfterwards, Fault::Halved, Fault::Mangled] {
        for at in 0.. {
            let between = Between::start(moto.address).await;
            let shelf = Shelf::with_a_past(&moto, &format!("past-{fault:?}-{at}"), Duration::from_secs(10)).await;
            let mut settings = moto.settings.clone();
            settings.s3.endpoint = between.endpoint.clone();
            let through = Archive {
                store: settings.open().await.unwrap(),
                layout: Layout::new(&format!("first-{fault:?}-{at}")),
                ..shelf.direct.clone()
            };
            let mut writer = Writer::new(&through, CLUSTER, View::Whole);
            between.spoil(at, fault);
            let first = writer.bring(&shelf.cluster.config, 1, 5).await;
            let (_, spoilt) = between.heal();
            if spoilt == 0 {
                first.unwrap();
                assert!(at > 3, "{at} calls");
                break;
            }
            writer.bring(&shelf.cluster.config, 1, 5).await.unwrap_or_else(|e| panic!("call {at}, {fault:?}: {e}"));
            let Archive { layout, trusted, limits, .. } = through.clone();
            let reader = Reader::new(shelf.direct.store.clone(), layout, trusted, limits);
            let (found, refused) = reader.newest(Some(CLUSTER), &View::Whole, None).await;
            assert_eq!(found.unwrap().state.digest(), shelf.cluster.config.digest(), "call {at}, {fault:?}");
            assert!(refused.is_empty(), "call {at}, {fault:?}: {refused:?}");
        }
    }
}
