//! Deadlines for connections, cheap enough to be set with every read and write.
//!
//! Every connection has an alarm that lives as long as it does. Setting one writes a number; only an alarm that is set
//! *earlier* than where it hangs on the wheel moves. One that was put off is looked at when its old place comes up, and
//! hung further on. So a request costs no entry of its own, no allocation and no timer of the runtime; alarms go off up
//! to one tick late.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How exact alarms are.
const TICK: Duration = Duration::from_millis(10);

/// Places on the wheel: one turn takes ten seconds. An alarm for later is passed once per turn.
const PLACES: usize = 1024;

/// No entry; the end of a list.
const NONE: u32 = u32::MAX;

/// Never.
const NEVER: u64 = u64::MAX;

/// In place of a time that a clock cannot say: a century.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The alarms of one worker.
#[derive(Debug)]
pub(crate) struct Wheel {
    inner: RefCell<Inner>,
    /// Wakes the driver when an alarm comes earlier than it sleeps.
    earlier: Notify,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    /// Everything up to this tick was looked at.
    done: u64,
    /// Until when the driver sleeps.
    asleep_until: u64,
    entries: Vec<Entry>,
    /// The first unused entry; they are linked by `next`.
    free: u32,
    /// The first entry of every place.
    places: Vec<u32>,
    /// Entries that hang somewhere.
    hanging: usize,
}

#[derive(Debug)]
struct Entry {
    /// When it goes off.
    due: u64,
    /// The tick at whose place it hangs; [`NEVER`]: nowhere.
    hangs: u64,
    prev: u32,
    next: u32,
    waker: Option<Waker>,
}

/// One alarm.
#[derive(Debug)]
pub(crate) struct Alarm {
    wheel: Rc<Wheel>,
    entry: u32,
}

impl Wheel {
    pub(crate) fn new() -> Rc<Self> {
        let inner = Inner {
            start: Instant::now(),
            done: 0,
            asleep_until: NEVER,
            entries: Vec::new(),
            free: NONE,
            places: vec![NONE; PLACES],
            hanging: 0,
        };
        Rc::new(Self { inner: RefCell::new(inner), earlier: Notify::new() })
    }

    /// A new alarm, which is off.
    pub(crate) fn alarm(self: &Rc<Self>) -> Alarm {
        Alarm { entry: self.inner.borrow_mut().take_entry(), wheel: self.clone() }
    }

    /// Turns the wheel, for ever. Nobody else may.
    pub(crate) async fn turn(self: Rc<Self>) {
        loop {
            let next = {
                let mut inner = self.inner.borrow_mut();
                inner.asleep_until = inner.next_place();
                (inner.asleep_until != NEVER).then(|| inner.time_of(inner.asleep_until))
            };
            match next {
                Some(next) => tokio::select! {
                    () = sleep_until(next) => {}
                    () = self.earlier.notified() => {}
                },
                None => self.earlier.notified().await,
            }
            let due = {
                let mut inner = self.inner.borrow_mut();
                let now = inner.now();
                inner.advance(now)
            };
            due.into_iter().for_each(Waker::wake);
        }
    }
}

impl Alarm {
    /// Goes off after `after`, and not before.
    pub(crate) fn set(&self, after: Duration) {
        let mut inner = self.wheel.inner.borrow_mut();
        // One tick more: the current one has partly passed.
        let ticks = u64::try_from(after.as_millis() / TICK.as_millis()).unwrap_or(NEVER).saturating_add(2);
        let due = inner.now().saturating_add(ticks).min(NEVER - 1);
        inner.entries[self.entry as usize].due = due;
        if inner.entries[self.entry as usize].hangs > due {
            inner.unhang(self.entry);
            inner.hang(self.entry, due);
            if due < inner.asleep_until {
                self.wheel.earlier.notify_one();
            }
        }
    }

    /// Is off from now on.
    pub(crate) fn clear(&self) {
        self.wheel.inner.borrow_mut().entries[self.entry as usize].due = NEVER;
    }

    /// Whether it is on, gone off or not.
    pub(crate) fn is_set(&self) -> bool {
        self.wheel.inner.borrow().entries[self.entry as usize].due != NEVER
    }

    /// Ready when it has gone off; else the task is woken when it does.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.wheel.inner.borrow_mut();
        let due = inner.entries[self.entry as usize].due;
        if due == NEVER {
            return Poll::Pending;
        }
        if due <= inner.done {
            return Poll::Ready(());
        }
        let waker = &mut inner.entries[self.entry as usize].waker;
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.wheel.inner.borrow_mut().give_back(self.entry);
    }
}

impl Inner {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis() / TICK.as_millis()).unwrap_or(NEVER)
    }

    fn time_of(&self, tick: u64) -> Instant {
        let millis = tick.saturating_mul(u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX));
        // What no clock can say is never.
        self.start.checked_add(Duration::from_millis(millis)).unwrap_or(self.start + FAR)
    }

    fn take_entry(&mut self) -> u32 {
        let fresh = Entry { due: NEVER, hangs: NEVER, prev: NONE, next: NONE, waker: None };
        if self.free == NONE {
            self.entries.push(fresh);
            return u32::try_from(self.entries.len() - 1).expect("there are fewer than 2^32 connections");
        }
        let entry = self.free;
        self.free = self.entries[entry as usize].next;
        self.entries[entry as usize] = fresh;
        entry
    }

    fn give_back(&mut self, entry: u32) {
        self.unhang(entry);
        let free = self.free;
        let slot = &mut self.entries[entry as usize];
        slot.waker = None;
        slot.due = NEVER;
        slot.next = free;
        self.free = entry;
    }

    fn hang(&mut self, entry: u32, tick: u64) {
        let place = place_of(tick);
        let first = self.places[place];
        let slot = &mut self.entries[entry as usize];
        (slot.hangs, slot.prev, slot.next) = (tick, NONE, first);
        if first != NONE {
            self.entries[first as usize].prev = entry;
        }
        self.places[place] = entry;
        self.hanging += 1;
    }

    fn unhang(&mut self, entry: u32) {
        let Entry { hangs, prev, next, .. } = self.entries[entry as usize];
        if hangs == NEVER {
            return;
        }
        match prev {
            NONE => self.places[place_of(hangs)] = next,
            prev => self.entries[prev as usize].next = next,
        }
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        self.entries[entry as usize].hangs = NEVER;
        self.hanging -= 1;
    }

    /// The next tick at whose place something hangs.
    fn next_place(&self) -> u64 {
        if self.hanging == 0 {
            return NEVER;
        }
        let turn = self.done + 1..=self.done + PLACES as u64;
        turn.clone().find(|tick| self.places[place_of(*tick)] != NONE).unwrap_or(*turn.end())
    }

    /// Looks at everything up to `now`; returns who must be woken.
    fn advance(&mut self, now: u64) -> Vec<Waker> {
        let mut due = Vec::new();
        // After a long sleep one turn sees every place.
        let from = (self.done + 1).max(now.saturating_sub(PLACES as u64 - 1));
        self.done = self.done.max(now);
        for tick in from..=now {
            let mut entry = self.places[place_of(tick)];
            while entry != NONE {
                let slot = &mut self.entries[entry as usize];
                let next = slot.next;
                if slot.hangs <= now {
                    let (at, waker) = (slot.due, if slot.due <= now { slot.waker.take() } else { None });
                    self.unhang(entry);
                    due.extend(waker);
                    if at != NEVER && at > now {
                        self.hang(entry, at);
                    }
                }
                entry = next;
            }
        }
        due
    }
}

fn place_of(tick: u64) -> usize {
    usize::try_from(tick % PLACES as u64).expect("below the number of places")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use super::*;

    /// Runs a worker's worth of tasks on a clock that stands still while somebody runs.
    fn on_a_worker(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let options = tokio::runtime::LocalOptions::default();
        let runtime = runtime.enable_time().start_paused(true).build_local(options).unwrap();
        runtime.block_on(test);
    }

    async fn goes_off(alarm: &Alarm) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| alarm.poll(cx)).await;
        start.elapsed()
    }

    #[test]
    fn alarms_go_off_in_time_and_never_early() {
        on_a_worker(async {
            let wheel = Wheel::new();
            tokio::task::spawn_local(wheel.clone().turn());
            for millis in [1, 10, 55, 1000, 10_239, 10_240, 10_241, 25_000, 3_600_000] {
                let after = Duration::from_millis(millis);
                let alarm = wheel.alarm();
                alarm.set(after);
                let taken = goes_off(&alarm).await;
                assert!(taken >= after && taken <= after + TICK * 4, "{millis} ms took {taken:?}");
                assert!(alarm.is_set(), "it stays off the hook until it is set or cleared");
            }
        });
    }

    #[test]
    fn an_alarm_that_is_put_off_waits_and_one_that_is_pulled_in_does_not() {
        on_a_worker(async {
            let wheel = Wheel::new();
            tokio::task::spawn_local(wheel.clone().turn());
            let (alarm, other) = (Rc::new(wheel.alarm()), wheel.alarm());
            other.set(Duration::from_secs(60));
            alarm.set(Duration::from_secs(60));
            let off = Rc::new(Cell::new(None));
            let waiting = tokio::task::spawn_local({
                let (alarm, off) = (alarm.clone(), off.clone());
                async move { off.set(Some(goes_off(&alarm).await)) }
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
            alarm.set(Duration::from_secs(2));
            tokio::time::sleep(Duration::from_secs(1)).await;
            for _ in 0..10 {
                alarm.set(Duration::from_secs(2));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(off.get(), None, "it was put off every second");
            waiting.await.unwrap();
            let off = off.get().unwrap();
            assert!(off > Duration::from_secs(12) && off < Duration::from_secs(14), "{off:?}");
            alarm.clear();
            let cleared = tokio::time::timeout(Duration::from_secs(100), goes_off(&alarm)).await;
            assert!(cleared.is_err(), "a cleared alarm never goes off");
        });
    }

    #[test]
    fn entries_are_used_again_and_an_idle_wheel_sleeps() {
        on_a_worker(async {
            let wheel = Wheel::new();
            tokio::task::spawn_local(wheel.clone().turn());
            for round in 0..3 {
                let alarms: Vec<_> = (0..100).map(|_| wheel.alarm()).collect();
                for (n, alarm) in alarms.iter().enumerate() {
                    alarm.set(Duration::from_millis(n as u64 * 7));
                }
                if round == 1 {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                drop(alarms);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let inner = wheel.inner.borrow();
            assert_eq!((inner.entries.len(), inner.hanging, inner.next_place()), (100, 0, NEVER));
        });
    }
}
