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
    by_id: HashMap<Text, Handle>,
    /// By handle; of one that is free, what it was.
    slots: Vec<Slot>,
    free: Vec<Handle>,
}

#[derive(Debug)]
struct Slot {
    id: Text,
    references: u32,
    present: bool,
}

impl Slots {
    /// The handle of an id.
    pub(super) fn get(&self, id: &str) -> Option<Handle> {
        self.by_id.get(id).copied()
    }

    /// The handle of an id, for one more reference.
    pub(super) fn refer<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>) -> Handle {
        let handle = self.handle(id, slab);
        self.slots[handle.index()].references += 1;
        handle
    }

    /// One reference less.
    pub(super) fn release(&mut self, handle: Handle) {
        self.slots[handle.index()].references -= 1;
        self.free_if_unused(handle);
    }

    /// Puts a resource under its id, in the place of what stood there.
    pub(super) fn put<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>, resource: Arc<T>) -> Handle {
        let handle = self.handle(id, slab);
        self.slots[handle.index()].present = true;
        slab[handle.index()] = Some(resource);
        handle
    }

    /// Takes a resource out; returns it.
    pub(super) fn remove<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>) -> Option<Arc<T>> {
        let handle = self.get(id)?;
        self.slots[handle.index()].present = false;
        let old = slab[handle.index()].take();
        self.free_if_unused(handle);
        old
    }

    fn handle<T>(&mut self, id: &Text, slab: &mut Vector<Option<Arc<T>>>) -> Handle {
        if let Some(handle) = self.get(id) {
            return handle;
        }
        let slot = Slot { id: id.clone(), references: 0, present: false };
        let handle = match self.free.pop() {
            Some(handle) => {
                self.slots[handle.index()] = slot;
                handle
            }
            None => {
                self.slots.push(slot);
                push(slab)
            }
        };
        self.by_id.insert(id.clone(), handle);
        handle
    }

    fn free_if_unused(&mut self, handle: Handle) {
        let slot = &self.slots[handle.index()];
        if !slot.present && slot.references == 0 {
            self.by_id.remove(&slot.id);
            self.free.push(handle);
        }
    }
}

/// One more place in a slab, for nothing as yet.
pub(super) fn push<T>(slab: &mut Vector<Option<Arc<T>>>) -> Handle {
    slab.push_back(None);
    Handle(u32::try_from(slab.len() - 1).expect("a table holds fewer than 2^32 resources"))
}
