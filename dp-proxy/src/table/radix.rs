//! A persistent radix tree over bytes: where hosts and paths are found.
//!
//! Clones share everything. A change copies the nodes on the way to its key when somebody else holds them, and changes
//! them in place when nobody does: so a bulk build costs no copies, and an edit of a published tree costs one path.
//! Nothing here recurses: a key of many thousand bytes, each with a node of its own, is no danger to a stack.

use std::mem;
use std::sync::Arc;

use smallvec::SmallVec;

/// A map from byte strings to values, made to find every key that a text starts with.
#[derive(Clone, Debug)]
pub(crate) struct Radix<V: Clone> {
    /// `None`: nothing was ever in it.
    root: Option<Arc<Node<V>>>,
}

/// What stands behind one run of bytes.
#[derive(Clone, Debug)]
struct Node<V: Clone> {
    /// The run that leads here, then the first byte of every child's run, ascending: a walk looks at nothing else.
    bytes: SmallVec<[u8; BYTES_INLINE]>,
    value: Option<V>,
    /// In the order of their first bytes.
    children: Box<[Arc<Self>]>,
}

/// Bytes that need no allocation of their own. A table has a node or two for every route, and most are no longer.
const BYTES_INLINE: usize = 16;

impl<V: Clone> Default for Radix<V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<V: Clone> Radix<V> {
    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.as_ref().is_none_or(|root| root.value.is_none() && root.children.is_empty())
    }

    /// Calls `take` with the value of every key that `text` starts with, from the shortest to the longest, and the
    /// number of bytes of that key.
    pub(crate) fn each_prefix<'t>(&'t self, text: &[u8], mut take: impl FnMut(&'t V, usize)) {
        let Some(mut node) = self.root.as_deref() else { return };
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
        let mut node = Arc::make_mut(self.root.get_or_insert_with(|| Arc::new(Node::leaf(&[], None))));
        let mut rest = key;
        loop {
            let Some(first) = rest.first() else {
                change(&mut node.value);
                if node.value.is_none() {
                    self.prune(key);
                }
                return;
            };
            let child = node.child_at(*first);
            let common = child.map_or(0, |child| common_bytes(node.children[child].label(), rest));
            match child {
                Some(child) if common == node.children[child].label().len() => {
                    rest = &rest[common..];
                    node = Arc::make_mut(&mut node.children[child]);
                }
                _ => {
                    let mut value = None;
                    change(&mut value);
                    if value.is_some() {
                        node.branch(child, common, rest, value);
                    }
                    return;
                }
            }
        }
    }

    /// Every key with its value, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Vec<u8>, &V)> {
        let mut open: Vec<_> = self.root.iter().map(|root| (Vec::new(), &**root)).collect();
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

    /// Takes the node of `key` out, or merges it with its only child, when it holds no value. The same may then go for
    /// the node above it, and for no other: every other node on the way has a value or two children.
    fn prune(&mut self, key: &[u8]) {
        let Some(root) = &mut self.root else { return };
        let mut node = Arc::make_mut(root);
        let mut used = 0;
        while used < key.len() {
            let child = node.child_at(key[used]).expect("the way was walked before");
            used += node.children[child].label().len();
            if used < key.len() {
                node = Arc::make_mut(&mut node.children[child]);
                continue;
            }
            let target = Arc::make_mut(&mut node.children[child]);
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
    fn leaf(label: &[u8], value: Option<V>) -> Self {
        Self { bytes: SmallVec::from_slice(label), value, children: Box::default() }
    }

    fn label_bytes(&self) -> usize {
        self.bytes.len() - self.children.len()
    }

    fn label(&self) -> &[u8] {
        &self.bytes[..self.label_bytes()]
    }

    /// The first byte of every child's run.
    fn firsts(&self) -> &[u8] {
        &self.bytes[self.label_bytes()..]
    }

    /// Which child's run starts with `byte`.
    fn child_at(&self, byte: u8) -> Option<usize> {
        let firsts = self.firsts();
        match firsts.len() {
            0..=8 => firsts.iter().position(|first| *first == byte),
            _ => firsts.binary_search(&byte).ok(),
        }
    }

    /// Puts a value behind `rest`, which leads to no node yet. Of the run of that child it shares so many bytes, and not
    /// all of them; `None`: no child's run starts as it does.
    fn branch(&mut self, child: Option<usize>, common: usize, rest: &[u8], value: Option<V>) {
        let Some(child) = child else {
            self.adopt(Arc::new(Self::leaf(rest, value)));
            return;
        };
        // The run forks: what stood here moves behind a new node that holds the common part.
        let fork = Arc::make_mut(&mut self.children[child]);
        let below = fork.take_below(common);
        fork.adopt(Arc::new(below));
        if common == rest.len() {
            fork.value = value;
        } else {
            fork.adopt(Arc::new(Self::leaf(&rest[common..], value)));
        }
    }

    fn adopt(&mut self, child: Arc<Self>) {
        let first = child.label()[0];
        let at = self.firsts().partition_point(|other| *other < first);
        self.bytes.insert(self.label_bytes() + at, first);
        let mut children = mem::take(&mut self.children).into_vec();
        // Most nodes never get a second child: room for one more at a time costs less than doubling would keep empty.
        children.reserve_exact(1);
        children.insert(at, child);
        self.children = children.into();
    }

    fn orphan(&mut self, child: usize) {
        self.bytes.remove(self.label_bytes() + child);
        let mut children = mem::take(&mut self.children).into_vec();
        children.remove(child);
        self.children = children.into();
    }

    /// Cuts the run after `kept` bytes; what was behind the cut, with value and children, is returned.
    fn take_below(&mut self, kept: usize) -> Self {
        let below = Self {
            bytes: SmallVec::from_slice(&self.bytes[kept..]),
            value: self.value.take(),
            children: mem::take(&mut self.children),
        };
        self.bytes = SmallVec::from_slice(&self.bytes[..kept]);
        below
    }

    /// Takes its only child's place as well, when it has no value of its own.
    fn merge_only_child(&mut self) {
        if self.value.is_some() || self.children.len() != 1 {
            return;
        }
        let mut children = mem::take(&mut self.children);
        let child = Arc::make_mut(&mut children[0]);
        // Behind the label stands the child's first byte, which its own label starts with.
        self.bytes.pop();
        self.bytes.extend_from_slice(&child.bytes);
        self.value = child.value.take();
        self.children = mem::take(&mut child.children);
    }
}

/// Level by level: the compiler's own way would go as deep as the longest key.
impl<V: Clone> Drop for Node<V> {
    fn drop(&mut self) {
        let mut open = mem::take(&mut self.children).into_vec();
        while let Some(child) = open.pop() {
            if let Some(mut child) = Arc::into_inner(child) {
                open.extend(mem::take(&mut child.children));
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
        assert_eq!(node.firsts(), firsts);
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
                tree.root.iter().for_each(|root| well_formed(root, true));
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
