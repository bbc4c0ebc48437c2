//! Handles for resources that others refer to by id, also for those that do not exist yet.
//!
//! A route may be compiled before its upstream comes, and outlive it. So a handle belongs to an id as long as there is
//! either the resource or a reference to it; what stands under the handle comes and goes without anybody who refers to
//! it being compiled again.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::Vector;
use protocol::Text;

use super::Handle;

/// The handles of one kind.
#[derive(Debug, Default)]
pub(super) struct Slots {
    by_id: HashMap<Text, Slot>,
    free: Vec<Handle>,
}

#[derive(Debug)]
struct Slot {
    handle: Handle,
    references: u32,
    present: bool,
}

impl Slots {
    /// The handle of an id.
    pub(super) fn get(&self, id: &str) -> Option<Handle> {
        self.by_id.get(id).map(|slot| slot.handle)
    }

    /// The handle of an id, for one more reference.
    pub(super) fn refer<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>) -> Handle {
        let slot = self.slot(id, slab);
        slot.references += 1;
        slot.handle
    }

    /// One reference less.
    pub(super) fn release(&mut self, id: &Text) {
        if let Some(slot) = self.by_id.get_mut(id) {
            slot.references -= 1;
            self.free_if_unused(id);
        }
    }

    /// Puts a resource under its id; returns what stood there.
    pub(super) fn put<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>, resource: Arc<T>) -> Option<Arc<T>> {
        let slot = self.slot(id, slab);
        slot.present = true;
        slab.get_mut(slot.handle.index()).and_then(|place| place.replace(resource))
    }

    /// Takes a resource out; returns it.
    pub(super) fn remove<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>) -> Option<Arc<T>> {
        let slot = self.by_id.get_mut(id)?;
        slot.present = false;
        let old = slab.get_mut(slot.handle.index()).and_then(Option::take);
        self.free_if_unused(id);
        old
    }

    fn slot<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>) -> &mut Slot {
        let free = &mut self.free;
        self.by_id.entry(id.clone()).or_insert_with(|| {
            let handle = free.pop().unwrap_or_else(|| {
                slab.push_back(None);
                Handle(u32::try_from(slab.len() - 1).expect("a table holds fewer than 2^32 resources"))
            });
            Slot { handle, references: 0, present: false }
        })
    }

    fn free_if_unused(&mut self, id: &Text) {
        if let Some(slot) = self.by_id.get(id).filter(|slot| !slot.present && slot.references == 0) {
            self.free.push(slot.handle);
            self.by_id.remove(id);
        }
    }
}
