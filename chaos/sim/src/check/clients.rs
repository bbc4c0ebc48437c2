//! What clients were told, held against the history (laws 1, 2).

use super::Checker;
use crate::client::{Event, Told};
use crate::hosts::World;
use crate::truth;

impl Checker {
    pub(super) fn check_event(&mut self, world: &mut World, event: Event) -> Result<(), String> {
        match event {
            Event::Write { name, keys, if_match, durable, floor, told } => {
                let made = self.truth().made_by(&name);
                match told {
                    Told::Done(revision) => {
                        world.tally.count("acknowledged");
                        if !made.contains(&revision) {
                            return Err(format!("{name} was acknowledged as revision {revision}, it made {made:?}"));
                        }
                        if revision <= floor {
                            return Err(format!("{name} got revision {revision}, clients had seen {floor} before"));
                        }
                        let changed = &self.truth().revisions[usize::try_from(revision).expect("it fits")].keys;
                        if let Some(missing) = keys.iter().find(|key| !changed.contains(key)) {
                            return Err(format!("{name} was acknowledged as {revision}, which leaves {missing} out"));
                        }
                        if durable {
                            world.tally.count("acknowledged_by_the_record");
                            self.is_recorded(revision)?;
                        }
                        if let Some(expected) = if_match {
                            world.tally.count("compare_and_set");
                            let before = self.truth().at(&keys[0], revision - 1).map(|(modified, _)| modified);
                            if before != Some(expected) {
                                return Err(format!("{name} asked for {expected} and replaced {before:?}"));
                            }
                        }
                    }
                    Told::Refused(revision) => {
                        world.tally.count("refused");
                        if revision < floor {
                            return Err(format!(
                                "{name} was refused as of {revision}, clients had seen {floor} before"
                            ));
                        }
                        self.never.push(name);
                    }
                    Told::NotApplied => {
                        world.tally.count("not_applied");
                        self.never.push(name);
                    }
                    Told::Unknown => world.tally.count("unknown"),
                }
                if made.len() > 1 {
                    return Err("a request took effect twice".to_owned());
                }
            }
            Event::Read { key, stale, floor, revision, found } => {
                world.tally.count(if stale { "stale_reads" } else { "reads" });
                if !stale && revision < floor {
                    return Err(format!("a read of {key} is of {revision}, clients had seen {floor} before"));
                }
                let expected = self
                    .truth()
                    .at(&key, revision)
                    .map(|(modified, body)| (modified, truth::mark(body).unwrap_or_default().to_owned()));
                if expected != found {
                    return Err(format!("a read of {key} as of {revision} found {found:?}, there was {expected:?}"));
                }
            }
        }
        Ok(())
    }
}
