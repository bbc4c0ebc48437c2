//! Snapshots in memory. Like files they are there whole or not at all, and outlive the node.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex};

use super::{SnapshotHandle, SnapshotSource, SnapshotStore, SnapshotWriter};

type Shared = Arc<Mutex<BTreeMap<u64, Arc<[u8]>>>>;

/// Snapshots in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SnapshotMemory {
    snapshots: Shared,
}

impl SnapshotStore for SnapshotMemory {
    fn begin(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        Ok(Box::new(Unfinished { bytes: Vec::new(), snapshots: self.snapshots.clone() }))
    }

    fn list(&self) -> io::Result<Vec<SnapshotHandle>> {
        let snapshots = self.snapshots.lock().expect("no code panics while it holds the snapshots");
        let handle = |(index, bytes): (&u64, &Arc<[u8]>)| {
            SnapshotHandle::new(InMemory { last_index: *index, bytes: bytes.clone() })
        };
        Ok(snapshots.iter().rev().map(handle).collect())
    }

    fn retain(&self, keep: usize) -> io::Result<()> {
        let mut snapshots = self.snapshots.lock().expect("no code panics while it holds the snapshots");
        while snapshots.len() > keep {
            snapshots.pop_first();
        }
        Ok(())
    }
}

struct Unfinished {
    bytes: Vec<u8>,
    snapshots: Shared,
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for Unfinished {
    fn commit(self: Box<Self>, last_index: u64) -> io::Result<SnapshotHandle> {
        let bytes: Arc<[u8]> = self.bytes.into();
        let mut snapshots = self.snapshots.lock().expect("no code panics while it holds the snapshots");
        snapshots.insert(last_index, bytes.clone());
        Ok(SnapshotHandle::new(InMemory { last_index, bytes }))
    }
}

struct InMemory {
    last_index: u64,
    bytes: Arc<[u8]>,
}

impl SnapshotSource for InMemory {
    fn name(&self) -> String {
        format!("memory:{}", self.last_index)
    }

    fn last_index(&self) -> u64 {
        self.last_index
    }

    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.bytes.clone())))
    }
}
