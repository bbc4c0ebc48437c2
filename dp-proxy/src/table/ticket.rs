//! Small numbers for things that every worker keeps something about.
//!
//! A worker's connections to an address stand in a plain array under the address's number. Numbers are used again when
//! their thing is gone, so that the arrays stay as small as the configuration; a generation tells the new thing from
//! the old one.

use std::collections::HashMap;
use std::hash::Hash;

/// The number of a thing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ticket {
    /// Where it stands in a worker's array.
    pub index: u32,
    /// Which of the things that have stood there.
    pub generation: u32,
}

/// Gives tickets out and takes them back. Only the table's writer holds one.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    free: Vec<Ticket>,
    next: u32,
}

impl Tickets {
    pub(crate) fn take(&mut self) -> Ticket {
        if let Some(old) = self.free.pop() {
            return Ticket { generation: old.generation.wrapping_add(1), ..old };
        }
        let ticket = Ticket { index: self.next, generation: 0 };
        self.next += 1;
        ticket
    }

    pub(crate) fn give_back(&mut self, ticket: Ticket) {
        self.free.push(ticket);
    }
}

/// Tickets under names, each counted: one ticket for all who name the same thing.
#[derive(Debug)]
pub(crate) struct NamedTickets<N> {
    tickets: Tickets,
    named: HashMap<N, (Ticket, u32)>,
}

impl<N> Default for NamedTickets<N> {
    fn default() -> Self {
        Self { tickets: Tickets::default(), named: HashMap::new() }
    }
}

impl<N: Hash + Eq> NamedTickets<N> {
    pub(crate) fn take(&mut self, name: N) -> Ticket {
        let tickets = &mut self.tickets;
        let (ticket, users) = self.named.entry(name).or_insert_with(|| (tickets.take(), 0));
        *users += 1;
        *ticket
    }

    pub(crate) fn give_back(&mut self, name: &N) {
        let Some((ticket, users)) = self.named.get_mut(name) else { return };
        *users -= 1;
        if *users == 0 {
            self.tickets.give_back(*ticket);
            self.named.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_under_a_new_generation() {
        let mut tickets = NamedTickets::default();
        let (a, b) = (tickets.take("a"), tickets.take("b"));
        assert_eq!((a.index, b.index), (0, 1));
        assert_eq!(tickets.take("a"), a, "one ticket for one thing");
        tickets.give_back(&"a");
        assert_eq!(tickets.take("a"), a, "somebody still had it");
        tickets.give_back(&"a");
        tickets.give_back(&"a");
        assert_eq!(tickets.take("c"), Ticket { index: 0, generation: 1 });
    }
}
