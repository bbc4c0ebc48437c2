//! A persistent radix tree over bytes: where hosts and paths are found.
//!
//! Clones share everything. A change copies the nodes on the way to its key when somebody else holds them, and changes
//! them in place when nobody does: so a bulk build costs no copies, and an edit of a published tree costs one path.
//! Nothing here recurses: a key of many thousand bytes, each with a node of its own, is no danger to a stack.

use std::mem;
use std::sync::Arc;

/// A map from byte strings to values, made to find every key that a text starts with.
#[derive(Clone, Debug)]
pub(crate) struct Radix<V: Clone> {
    root: Arc<Node<V>>,
}

/// What stands behind one run of bytes.
#[derive(Debug)]
struct Node<V: Clone> {
    /// The run that leads here, then the first byte of every child's run, ascending. One allocation for both.
    bytes: Box<[u8]>,
    label_bytes: u32,
    value: Option<V>,
    /// In the order of their first bytes.
    children: Vec<Arc<Self>>,
}

impl<V: Clone> Default for Radix<V> {
    fn default() -> Self {
        Self { root: Arc::new(Node::new(&[], None, Vec::new())) }
    }
}

impl<V: Clone> Radix<V> {
    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.value.is_none() && self.root.children.is_empty()
    }

    /// Calls `take` with the value of every key that `text` starts with, from the shortest to the longest, and the
    /// number of bytes of that key.
    pub(crate) fn each_prefix<'t>(&'t self, text: &[u8], mut take: impl FnMut(&'t V, usize)) {
        let mut node = &*self.root;
        let mut used = 0;
        loop {
            if let Some(value) = &node.value {
                take(value, used);
            }
            let Some(first) = text.get(used) else { return };
            let Some(child) = node.child_at(*first) else { return };
            let child = &*node.children[child];
            let label = child.label();
            if !text[used..].starts_with(label) {
                return;
            }
            used += label.len();
            node = child;
        }
    }

    /// Changes the value under `key`. A key that is left without a value is gone.
    pub(crate) fn update(&mut self, key: &[u8], change: impl FnOnce(&mut Option<V>)) {
        let (there, value) = self.descend(key);
        if there {
            change(value.expect("the key is there"));
            self.prune(key);
            return;
        }
        let mut value = None;
        change(&mut value);
        if let Some(value) = value {
            self.insert(key, value);
        }
    }

    /// Every key with its value, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Vec<u8>, &V)> {
        let mut open = vec![(Vec::new(), &*self.root)];
        std::iter::from_fn(move || {
            loop {
                let (key, node) = open.pop()?;
                for child in node.children.iter().rev() {
                    let mut key: Vec<u8> = key.clone();
                    key.extend_from_slice(child.label());
                    open.push((key, child));
                }
                if let Some(value) = &node.value {
                    return Some((key, value));
                }
            }
        })
    }

    /// The place of `key`, made our own on the way, if there is a node for it.
    fn descend(&mut self, key: &[u8]) -> (bool, Option<&mut Option<V>>) {
        if !self.has_node(key) {
            return (false, None);
        }
        let mut node = Arc::make_mut(&mut self.root);
        let mut used = 0;
        while used < key.len() {
            let child = node.child_at(key[used]).expect("the way was walked before");
            node = Arc::make_mut(&mut node.children[child]);
            used += node.label_bytes as usize;
        }
        (true, Some(&mut node.value))
    }

    fn has_node(&self, key: &[u8]) -> bool {
        let mut node = &*self.root;
        let mut used = 0;
        while used < key.len() {
            let Some(child) = node.child_at(key[used]) else { return false };
            node = &node.children[child];
            if !key[used..].starts_with(node.label()) {
                return false;
            }
            used += node.label_bytes as usize;
        }
        true
    }

    /// Puts a value where no node is yet.
    fn insert(&mut self, key: &[u8], value: V) {
        let mut node = Arc::make_mut(&mut self.root);
        let mut rest = key;
        loop {
            let Some(child) = rest.first().and_then(|first| node.child_at(*first)) else {
                node.adopt(Arc::new(Node::new(rest, Some(value), Vec::new())));
                return;
            };
            let common = common_bytes(node.children[child].label(), rest);
            if common < node.children[child].label_bytes as usize {
                // The run forks: what stood here moves behind a new node that holds the common part.
                let fork = Arc::make_mut(&mut node.children[child]);
                let old = Arc::new(fork.take_below(common));
                fork.adopt(old);
                if common == rest.len() {
                    fork.value = Some(value);
                } else {
                    fork.adopt(Arc::new(Node::new(&rest[common..], Some(value), Vec::new())));
                }
                return;
            }
            rest = &rest[common..];
            node = Arc::make_mut(&mut node.children[child]);
        }
    }

    /// Takes the node of `key` out, or merges it with its only child, when it holds no value. The same may then go for
    /// the node above it, and for no other: every other node on the way has a value or two children.
    fn prune(&mut self, key: &[u8]) {
        let mut node = Arc::make_mut(&mut self.root);
        let mut used = 0;
        while used < key.len() {
            let child = node.child_at(key[used]).expect("the way was walked before");
            used += node.children[child].label_bytes as usize;
            if used < key.len() {
                node = Arc::make_mut(&mut node.children[child]);
                continue;
            }
            let target = Arc::make_mut(&mut node.children[child]);
            if target.value.is_some() {
                return;
            }
            if target.children.is_empty() {
                node.orphan(child);
                if !node.label().is_empty() {
                    node.merge_only_child();
                }
            } else {
                target.merge_only_child();
            }
            return;
        }
    }
}

impl<V: Clone> Node<V> {
    fn new(label: &[u8], value: Option<V>, children: Vec<Arc<Self>>) -> Self {
        let mut node = Self { bytes: Box::default(), label_bytes: 0, value, children };
        node.set_bytes(label);
        node
    }

    fn label(&self) -> &[u8] {
        &self.bytes[..self.label_bytes as usize]
    }

    /// Which child's run starts with `byte`.
    fn child_at(&self, byte: u8) -> Option<usize> {
        let firsts = &self.bytes[self.label_bytes as usize..];
        match firsts.len() {
            0..=8 => firsts.iter().position(|first| *first == byte),
            _ => firsts.binary_search(&byte).ok(),
        }
    }

    /// Lays out `bytes` anew for this label and the children as they are.
    fn set_bytes(&mut self, label: &[u8]) {
        let mut bytes = Vec::with_capacity(label.len() + self.children.len());
        bytes.extend_from_slice(label);
        bytes.extend(self.children.iter().map(|child| child.label()[0]));
        self.label_bytes = u32::try_from(label.len()).expect("a pattern is far shorter than 4 GiB");
        self.bytes = bytes.into();
    }

    fn adopt(&mut self, child: Arc<Self>) {
        let first = child.label()[0];
        let at = self.children.partition_point(|other| other.label()[0] < first);
        // Most nodes never get a second child: room for one more at a time costs less than doubling would keep empty.
        self.children.reserve_exact(1);
        self.children.insert(at, child);
        let label = mem::take(&mut self.bytes);
        self.set_bytes(&label[..self.label_bytes as usize]);
    }

    fn orphan(&mut self, child: usize) {
        self.children.remove(child);
        let label = mem::take(&mut self.bytes);
        self.set_bytes(&label[..self.label_bytes as usize]);
    }

    /// Cuts the run after `kept` bytes; what was behind the cut, with value and children, is returned.
    fn take_below(&mut self, kept: usize) -> Self {
        let bytes = mem::take(&mut self.bytes);
        let label = &bytes[..self.label_bytes as usize];
        let below = Self::new(&label[kept..], self.value.take(), mem::take(&mut self.children));
        self.set_bytes(&label[..kept]);
        below
    }

    /// Takes its only child's place as well, when it has no value of its own.
    fn merge_only_child(&mut self) {
        if self.value.is_some() || self.children.len() != 1 {
            return;
        }
        let mut child = self.children.pop().expect("there is one");
        let child = Arc::make_mut(&mut child);
        let label = [self.label(), child.label()].concat();
        self.value = child.value.take();
        self.children = mem::take(&mut child.children);
        self.set_bytes(&label);
    }
}

impl<V: Clone> Clone for Node<V> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            label_bytes: self.label_bytes,
            value: self.value.clone(),
            children: self.children.clone(),
        }
    }
}

/// Level by level: the compiler's own way would go as deep as the longest key.
impl<V: Clone> Drop for Node<V> {
    fn drop(&mut self) {
        let mut open = mem::take(&mut self.children);
        while let Some(child) = open.pop() {
            if let Some(mut child) = Arc::into_inner(child) {
                open.append(&mut child.children);
            }
        }
    }
}

fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys over a small alphabet, so that they often share their beginnings.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'/']), 0..6)
    }

    fn well_formed<V: Clone>(node: &Node<V>, is_root: bool) {
        assert!(is_root || node.value.is_some() || node.children.len() > 1, "a node without a purpose");
        let firsts: Vec<u8> = node.children.iter().map(|child| child.label()[0]).collect();
        assert_eq!(&node.bytes[node.label_bytes as usize..], firsts);
        assert!(firsts.is_sorted_by(|a, b| a < b));
        node.children.iter().for_each(|child| well_formed(child, false));
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_its_clones_keep_what_they_saw(steps in prop::collection::vec((key(), prop::option::of(any::<u8>())), 0..60), asked in key()) {
            let mut tree = Radix::default();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (key, value) in steps {
                kept.push((tree.clone(), model.clone()));
                tree.update(&key, |slot| *slot = value);
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
                well_formed(&tree.root, true);
            }
            kept.push((tree, model));
            for (tree, model) in kept {
                prop_assert_eq!(tree.iter().map(|(k, v)| (k, *v)).collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(tree.is_empty(), model.is_empty());
                let mut found = Vec::new();
                tree.each_prefix(&asked, |value, used| found.push((used, *value)));
                let expected: Vec<_> = model.iter().filter(|(k, _)| asked.starts_with(k)).map(|(k, v)| (k.len(), *v)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_chain_as_long_as_any_pattern_overflows_no_stack() {
        let mut tree = Radix::default();
        // A uri has 4,096 bytes at most; a drop or a walk that recursed would need more stack than there is.
        let long = vec![b'x'; 20_000];
        // From the longest down: each new key forks the first run, so that building does not walk the chain.
        for bytes in (1..=long.len()).rev() {
            tree.update(&long[..bytes], |slot| *slot = Some(bytes));
        }
        let other = tree.clone();
        tree.update(&long, |slot| *slot = None);
        let mut last = 0;
        other.each_prefix(&long, |value, _| last = *value);
        assert_eq!(last, long.len());
    }
}
