//! Snapshots that are on their way to other nodes. The entries behind them must stay in the log until they have arrived,
//! or the receiver would need the next snapshot as soon as it has this one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The transfers under way. Clones share them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Transfers {
    under_way: Arc<Mutex<BTreeMap<u64, usize>>>,
}

/// A transfer; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Transfer {
    transfers: Transfers,
    last_index: u64,
}

impl Transfers {
    /// A snapshot up to this log entry is being sent.
    pub(crate) fn begin(&self, last_index: u64) -> Transfer {
        let mut under_way = self.under_way.lock().expect("no code panics while it holds the transfers");
        *under_way.entry(last_index).or_default() += 1;
        Transfer { transfers: self.clone(), last_index }
    }

    /// The last entry in the oldest snapshot that is being sent.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let under_way = self.under_way.lock().expect("no code panics while it holds the transfers");
        under_way.first_key_value().map(|(last_index, _)| *last_index)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut under_way = self.transfers.under_way.lock().expect("no code panics while it holds the transfers");
        if let Some(count) = under_way.get_mut(&self.last_index) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.last_index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_transfer_counts_until_it_ends() {
        let transfers = Transfers::default();
        assert_eq!(transfers.oldest(), None);
        let (a, b, c) = (transfers.begin(10), transfers.begin(5), transfers.begin(5));
        assert_eq!(transfers.oldest(), Some(5));
        drop(b);
        assert_eq!(transfers.oldest(), Some(5));
        drop(c);
        assert_eq!(transfers.oldest(), Some(10));
        drop(a);
        assert_eq!(transfers.oldest(), None);
    }
}
