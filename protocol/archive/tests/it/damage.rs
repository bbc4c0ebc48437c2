//! Whatever becomes of what lies in an archive: it is refused with its own reason, and the next is tried (law 10).

use std::path::PathBuf;
use std::sync::Arc;

use archive::pointer::Pointer;
use archive::read::Limits;
use archive::{Reader, Refused, View, Writer};
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::snapshot::ClusterId;

use crate::writing::{CLUSTER, Cluster, LIMITS, Place, epoch, group};

/// Two bases and a few segments behind each.
async fn archive() -> (Place, Cluster, u64) {
    let (place, mut cluster) = (Place::new(), Cluster::new(1));
    cluster.fill(0..10);
    let mut writer = place.writer(group());
    writer.bring(&cluster.config, 1, 5).await.unwrap();
    for i in 10..267 {
        cluster.fill(i..i + 1);
        writer.bring(&cluster.config, 1, 5).await.unwrap();
    }
    let base = cluster.config.position().revision;
    for i in 267..270 {
        cluster.fill(i..i + 1);
        writer.bring(&cluster.config, 1, 5).await.unwrap();
    }
    (place, cluster, base)
}

impl Place {
    fn file(&self, revision: u64, extension: &str) -> PathBuf {
        let folder = self.archive.layout.epoch(CLUSTER, &group(), epoch(1));
        self.root.path().join(format!("{folder}{revision:020}.{extension}"))
    }

    fn pointer_file(&self) -> PathBuf {
        self.root.path().join(self.archive.layout.pointer(CLUSTER, &group()))
    }

    async fn look(&self) -> (Option<u64>, Vec<Refused>) {
        let (found, refused) = self.reader().newest(Some(CLUSTER), &group(), None).await;
        (found.map(|found| found.state.position().revision), refused)
    }
}

fn reasons(refused: &[Refused]) -> Vec<&'static str> {
    refused.iter().map(|refused| refused.reason.name()).collect()
}

#[tokio::test]
async fn a_damaged_base_costs_nothing_while_the_way_from_the_one_before_it_is_whole() {
    let (place, cluster, base) = archive().await;
    let newest = cluster.config.position().revision;
    let file = place.file(base, "base");
    let good = std::fs::read(&file).unwrap();
    for (bytes, reason) in [
        (good[..good.len() / 2].to_vec(), "truncated"),
        (
            {
                let mut bad = good.clone();
                bad[good.len() / 2] ^= 1;
                bad
            },
            "damaged",
        ),
        (b"something else".to_vec(), "damaged"),
        (
            {
                let mut bad = good.clone();
                bad.push(0);
                bad
            },
            "damaged",
        ),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let (found, refused) = place.look().await;
        assert_eq!(found, Some(newest), "{refused:?}");
        assert!(reasons(&refused).iter().all(|found| *found == reason), "{refused:?}, not {reason}");
        assert!(refused.iter().all(|refused| refused.object.ends_with(".base")), "{refused:?}");
    }
    std::fs::remove_file(&file).unwrap();
    let (found, refused) = place.look().await;
    assert_eq!((found, reasons(&refused)), (Some(newest), vec!["missing"]), "listed or not, the next one is tried");
}

#[tokio::test]
async fn every_flipped_byte_and_every_cut_of_pointer_and_segment_is_refused() {
    let (place, cluster, base) = archive().await;
    let newest = cluster.config.position().revision;
    for (file, expected) in [(place.pointer_file(), newest), (place.file(newest, "delta"), newest - 1)] {
        let good = std::fs::read(&file).unwrap();
        let step = (good.len() / 40).max(1);
        for at in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            for bytes in [bad, good[..at].to_vec()] {
                std::fs::write(&file, bytes).unwrap();
                let (found, refused) = place.look().await;
                assert_eq!(found, Some(expected), "byte {at} of {}: {refused:?}", file.display());
                assert!(!refused.is_empty(), "byte {at} of {}", file.display());
            }
        }
        std::fs::write(&file, good).unwrap();
    }
    assert!(base < newest);
    assert_eq!(place.look().await.0, Some(newest));
}

#[tokio::test]
async fn what_somebody_else_made_is_refused_with_its_own_reason() {
    let (place, mut cluster, _) = archive().await;
    let newest = cluster.config.position().revision;
    // The right form under a wrong key.
    cluster.fill(500..510);
    let mut forger = place.archive.clone();
    forger.key = Arc::new(SigningKey::from_seed([9; 32]));
    forger.trusted = TrustedKeys::new([forger.key.public()]);
    let forged = tempfile::tempdir().unwrap();
    forger.store = Arc::new(archive::store::directory::Directory::new(forged.path()));
    Writer::new(&forger, CLUSTER, group()).bring(&cluster.config, 1, 9).await.unwrap();
    let key = |revision| place.file(revision, "base").strip_prefix(place.root.path()).unwrap().to_owned();
    let ahead = cluster.config.position().revision;
    std::fs::copy(forged.path().join(key(ahead)), place.file(ahead, "base")).unwrap();
    std::fs::copy(forged.path().join(place.archive.layout.pointer(CLUSTER, &group())), place.pointer_file()).unwrap();
    let (found, refused) = place.look().await;
    assert_eq!(found, Some(newest));
    assert_eq!(reasons(&refused), ["signature", "signature"], "{refused:?}");

    // Another cluster's, another view's, and an older one under a newer name; all rightly signed.
    let other = ClusterId([8; 16]);
    let shelf = Place::new();
    let mut foreign = shelf.archive.clone();
    foreign.layout = place.archive.layout.clone();
    Writer::new(&foreign, other, group()).bring(&cluster.config, 1, 9).await.unwrap();
    Writer::new(&foreign, CLUSTER, View::Whole).bring(&cluster.config, 1, 9).await.unwrap();
    let position = cluster.config.position();
    for (cluster, view, reason) in [(other, group(), "cluster"), (CLUSTER, View::Whole, "view")] {
        let base = foreign.layout.object(cluster, &view, position.epoch, archive::layout::Part::Base, ahead);
        std::fs::copy(shelf.root.path().join(base), place.file(ahead, "base")).unwrap();
        let pointer = foreign.layout.pointer(cluster, &view);
        std::fs::copy(shelf.root.path().join(pointer), place.pointer_file()).unwrap();
        let (found, refused) = place.look().await;
        assert_eq!(found, Some(newest));
        assert_eq!(reasons(&refused), [reason, reason], "{refused:?}");
    }
    std::fs::copy(place.file(11, "delta"), place.file(ahead, "delta")).unwrap();
    std::fs::copy(place.file(10, "base"), place.file(ahead, "base")).unwrap();
    let (found, refused) = place.look().await;
    assert_eq!(found, Some(newest), "{refused:?}");
    assert_eq!(reasons(&refused), ["view", "position"], "{refused:?}");
}

#[tokio::test]
async fn what_follows_from_what_is_there_and_is_signed_by_nobody_we_trust_is_refused() {
    let (place, mut cluster, _) = archive().await;
    let newest = cluster.config.position().revision;
    let signed = std::fs::read(place.pointer_file()).unwrap();
    let mut forger = place.archive.clone();
    forger.key = Arc::new(SigningKey::from_seed([9; 32]));
    forger.trusted = TrustedKeys::new([place.archive.key.public(), forger.key.public()]);
    // The rightful pointer's words under a wrong key, over rightful objects.
    let pointer = Pointer::open(&signed, CLUSTER, &group().text(), &place.archive.trusted).unwrap();
    std::fs::write(place.pointer_file(), pointer.seal(&forger.key)).unwrap();
    let (found, refused) = place.look().await;
    assert_eq!((found, reasons(&refused)), (Some(newest), vec!["signature"]), "{refused:?}");
    // A step that goes on from the very end, and a pointer that leads there.
    std::fs::write(place.pointer_file(), &signed).unwrap();
    cluster.fill(500..501);
    let ahead = cluster.config.position().revision;
    Writer::new(&forger, CLUSTER, group()).bring(&cluster.config, 1, 9).await.unwrap();
    assert!(place.file(ahead, "delta").exists(), "the forger goes on with a step");
    let (found, refused) = place.look().await;
    assert_eq!((found, reasons(&refused)), (Some(newest), vec!["signature", "signature"]), "{refused:?}");
    // The step alone.
    std::fs::write(place.pointer_file(), &signed).unwrap();
    let (found, refused) = place.look().await;
    assert_eq!((found, reasons(&refused)), (Some(newest), vec!["signature"]), "{refused:?}");
}

#[tokio::test]
async fn what_unpacks_to_more_than_the_bound_is_refused_before_it_is_unpacked() {
    let (place, mut cluster) = (Place::new(), Cluster::new(1));
    cluster.put("bomb", Some(&format!(r#"{{"a":"{}"}}"#, "x".repeat(4 << 20))), "default");
    place.writer(group()).bring(&cluster.config, 1, 5).await.unwrap();
    let archive = place.archive.clone();
    let small = |limits| Reader::new(archive.store.clone(), archive.layout.clone(), archive.trusted.clone(), limits);
    let bounded = Limits { unpacked_max: 1 << 20, ..LIMITS };
    let (found, refused) = small(bounded).newest(Some(CLUSTER), &group(), None).await;
    assert!(found.is_none());
    assert!(reasons(&refused).iter().all(|reason| *reason == "too_large") && !refused.is_empty(), "{refused:?}");
    let bounded = Limits { object_max: 100, ..LIMITS };
    let (found, refused) = small(bounded).newest(Some(CLUSTER), &group(), None).await;
    assert!(found.is_none());
    assert!(reasons(&refused).iter().all(|reason| *reason == "too_large") && !refused.is_empty(), "{refused:?}");
    // The same as a step of its own.
    let mut writer = place.writer(View::Whole);
    let mut other = Cluster::new(1);
    other.fill(0..1);
    writer.bring(&other.config, 1, 5).await.unwrap();
    other.put("bomb", Some(&format!(r#"{{"a":"{}"}}"#, "x".repeat(4 << 20))), "default");
    writer.bring(&other.config, 1, 5).await.unwrap();
    let bounded = Limits { unpacked_max: 1 << 20, ..LIMITS };
    let (found, refused) = small(bounded).newest(Some(CLUSTER), &View::Whole, None).await;
    assert_eq!(found.unwrap().state.position().revision, 1);
    assert!(reasons(&refused).contains(&"too_large"), "{refused:?}");
}

#[tokio::test]
async fn a_pointer_that_leads_nowhere_and_one_that_is_behind_are_made_good_by_the_listing() {
    let (place, cluster, _) = archive().await;
    let newest = cluster.config.position().revision;
    let bytes = std::fs::read(place.pointer_file()).unwrap();
    let mut pointer = Pointer::open(&bytes, CLUSTER, &group().text(), &place.archive.trusted).unwrap();
    let dropped = pointer.segments.pop().unwrap();
    pointer.position = dropped.prev;
    std::fs::write(place.pointer_file(), pointer.seal(&place.archive.key)).unwrap();
    assert_eq!(place.look().await.0, Some(newest));
    std::fs::remove_file(place.pointer_file()).unwrap();
    let (found, refused) = place.look().await;
    assert_eq!((found, reasons(&refused)), (Some(newest), vec!["missing"]));
}

#[tokio::test]
async fn two_lives_with_one_number_are_told_apart_by_who_claimed_it() {
    let (place, mut ours) = (Place::new(), Cluster::new(2));
    ours.fill(0..5);
    place.writer(group()).bring(&ours.config, 1, 5).await.unwrap();
    let folder = place.archive.layout.epoch(CLUSTER, &group(), epoch(2));
    let other = protocol::Epoch { number: 2, restore: protocol::position::RestoreId([0xee; 16]) };
    let copy = place.root.path().join(place.archive.layout.epoch(CLUSTER, &group(), other));
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::copy(
        place.root.path().join(&folder).join(format!("{:020}.base", 5)),
        copy.join(format!("{:020}.base", 6)),
    )
    .unwrap();
    let claim = place.root.path().join(place.archive.layout.claim(CLUSTER, 2));
    std::fs::create_dir_all(claim.parent().unwrap()).unwrap();
    std::fs::write(claim, epoch(2).restore.to_string()).unwrap();
    let (found, refused) = place.look().await;
    assert_eq!((found, reasons(&refused)), (Some(5), vec!["epoch"]), "{refused:?}");
}
