//! What the pointers of an archive name, seen where they arrive: at the object store. A pointer may be moved only to what is
//! there already, and never backwards.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;

use archive::layout::Part;
use archive::{Layout, Pointer, View};
use protocol::crypto::TrustedKeys;
use protocol::snapshot::ClusterId;
use protocol::{Position, Revision};

use crate::check::Breach;

/// The last part of a pointer's key.
const NAME: &str = "/latest";

/// All pointers of a store so far.
#[derive(Debug)]
pub struct Pointers {
    trusted: TrustedKeys,
    highest: BTreeMap<String, Position>,
    breaches: Vec<Breach>,
}

impl Pointers {
    /// None yet. One that none of these keys has signed is no pointer.
    #[must_use]
    pub fn new(trusted: TrustedKeys) -> Self {
        Self { trusted, highest: BTreeMap::new(), breaches: Vec::new() }
    }

    /// Whether this is the key of a pointer.
    #[must_use]
    pub fn is_one(key: &str) -> bool {
        key.ends_with(NAME)
    }

    /// `body` was put under `key` in a store that has its objects in the directory `objects`.
    pub fn put(&mut self, objects: &Path, key: &str, body: &[u8]) {
        let Some((layout, cluster, view)) = place(key) else { return };
        // What was torn or forged on its way is nobody's pointer; whoever reads it refuses it.
        let Ok(pointer) = Pointer::open(body, cluster, &view.text(), &self.trusted) else { return };
        let at = pointer.position;
        let object = |part, revision: Revision| layout.object(cluster, &view, at.epoch, part, revision);
        let named = pointer.segments.iter().map(|segment| object(Part::Segment, segment.position.revision));
        let named = std::iter::once(object(Part::Base, pointer.base.revision)).chain(named);
        for missing in named.filter(|object| !objects.join(object).is_file()) {
            self.breaches.push(Breach {
                law: "pointer-names-what-is-there",
                what: format!("{key} was put at {at} and names {missing}, which is not there"),
            });
        }
        let before = self.highest.get(key).copied().unwrap_or_default();
        match before.compare(&at) {
            Ok(Ordering::Greater) => self.breaches.push(Breach {
                law: "pointer-never-goes-back",
                what: format!("{key} was at {before}, and was put at {at}"),
            }),
            _ => drop(self.highest.insert(key.to_owned(), at)),
        }
    }

    /// What was wrong so far.
    #[must_use]
    pub fn breaches(&self) -> &[Breach] {
        &self.breaches
    }
}

/// What `<prefix>/<cluster>/<view>/latest` stands for.
fn place(key: &str) -> Option<(Layout, ClusterId, View)> {
    let mut parts = key.strip_suffix(NAME)?.rsplitn(3, '/');
    let (view, cluster, prefix) = (parts.next()?, parts.next()?, parts.next()?);
    let view = match view.strip_prefix("group-") {
        Some(group) => View::Group(group.into()),
        None => View::Whole,
    };
    Some((Layout::new(prefix), cluster.parse().ok()?, view))
}

#[cfg(test)]
mod tests {
    use archive::pointer::SegmentRef;
    use protocol::crypto::SigningKey;
    use protocol::{Digest, Epoch};

    use super::*;

    #[test]
    fn a_pointer_to_what_is_not_there_and_one_that_goes_back_are_found() {
        let objects = tempfile::tempdir().unwrap();
        let (key, other) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let (cluster, view, layout) = (ClusterId([7; 16]), View::Group("default".into()), Layout::new("holdfast"));
        let at = |revision| Position { epoch: Epoch::default(), revision };
        let pointer = |revision| Pointer {
            cluster,
            view: view.text(),
            position: at(revision),
            digest: Digest::default(),
            base: at(1),
            base_changed_at: at(1),
            base_bytes: 1,
            segments: vec![SegmentRef { prev: at(1), position: at(revision), bytes: 1 }],
            written: 0,
        };
        let there = |part, revision| {
            let path = objects.path().join(layout.object(cluster, &view, Epoch::default(), part, revision));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let name = layout.pointer(cluster, &view);
        let mut pointers = Pointers::new(TrustedKeys::new([key.public()]));
        let laws = |pointers: &Pointers| pointers.breaches().iter().map(|breach| breach.law).collect::<Vec<_>>();
        there(Part::Base, 1);
        there(Part::Segment, 3);
        pointers.put(objects.path(), &name, &pointer(3).seal(&key));
        pointers.put(objects.path(), &name, &pointer(9).seal(&other));
        pointers.put(objects.path(), &name, b"torn");
        assert_eq!(laws(&pointers), [""; 0], "{:?}", pointers.breaches());
        pointers.put(objects.path(), &name, &pointer(5).seal(&key));
        assert_eq!(laws(&pointers), ["pointer-names-what-is-there"]);
        pointers.put(objects.path(), &name, &pointer(3).seal(&key));
        assert_eq!(laws(&pointers), ["pointer-names-what-is-there", "pointer-never-goes-back"]);
    }
}
