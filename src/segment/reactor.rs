//! The thread that sleeps on shared words for those who cannot: event loops, and waits for descriptors and words at once.
//!
//! It is started when the first of them asks, one for each process, and never ends; while nobody asks it sleeps on one
//! private word. Whoever asks registers a [`Listener`]: *a watched object, and whom to tell, once*. Telling removes the
//! registration, so a word on which nobody waits any more is slept on until the next wake-up and not again.
//!
//! # Rules
//! 1. The reactor is a watcher (`sync/watch.rs`). Of the listeners of one word it tells all those who only look, and passes
//!    the wake-up on.
//! 2. Of those who will take it tells the one that waits longest. That one has the *baton*: when it has taken, or has been
//!    dropped, and something is left, the next taker is told; when there is none, the wake-up is passed on.
//! 3. Nobody relies on the baton. A taker that was told and does not move (its executor is busy) is not waited for beyond
//!    the end of a bounded sleep; then the next one is told.
//! 4. Nothing of the program runs under the lock: wakers are called after it was released.
//! 5. A registration keeps the segment mapped, and not the object open: an end of a pipe is closed when the program drops it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use super::waitable::{Place, Watched};
use crate::error::{Error, ErrorKind};
use crate::sync::{InProcess, WaitBlock, Watch, Words, longest_sleep_ns};
use crate::sys::poll::{Bell, start_thread};

/// What a listener does when it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// It takes what is there.
    One,
    /// It looks, and leaves everything to others.
    Nothing,
}

/// Whom to tell.
enum Sink {
    Bell(Arc<Bell>),
    Task(Waker),
}

impl Sink {
    fn tell(self) {
        match self {
            Self::Bell(bell) => bell.ring(),
            Self::Task(waker) => waker.wake(),
        }
    }
}

struct Entry {
    id: u64,
    watched: Weak<dyn Watched>,
    moment: u32,
    taking: Taking,
    sink: Sink,
}

/// What looking at an entry gave.
enum Look {
    Ready,
    NotReady,
    /// The object is not open in this process any more.
    Gone,
}

impl Entry {
    fn waits_for(&self, watched: &Weak<dyn Watched>, moment: u32) -> bool {
        self.moment == moment && Weak::ptr_eq(&self.watched, watched)
    }

    fn look(&self) -> Look {
        match self.watched.upgrade() {
            Some(watched) if watched.is_ready(self.moment) => Look::Ready,
            Some(_) => Look::NotReady,
            None => Look::Gone,
        }
    }
}

/// Everybody who waits on one word.
struct Group {
    place: Place,
    entries: VecDeque<Entry>,
    /// Takers that were told and have neither taken nor been dropped.
    told: usize,
}

/// Why the entries of a group are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// They are about to be slept for, or somebody has handed over the baton.
    Look,
    /// A sleep on the word has ended, perhaps by a wake-up.
    Slept,
    /// As `Slept`, and time has passed.
    Tick,
}

impl Group {
    /// Tells those who are to be told. True if a wake-up of the word has to be passed on.
    fn look(&mut self, cause: Cause, told: &mut Vec<Sink>) -> bool {
        if cause == Cause::Tick {
            // Rule 3.
            self.told = 0;
        }
        let (mut known, mut ready) = (false, false);
        // Whoever waits for the same as the one before is not looked at again.
        let mut looked = None;
        for _ in 0..self.entries.len() {
            let Some(entry) = self.entries.pop_front() else { break };
            if entry.taking == Taking::One && self.told > 0 {
                self.entries.push_back(entry);
                continue;
            }
            if looked.as_ref().is_some_and(|(watched, moment)| entry.waits_for(watched, *moment)) {
                self.entries.push_back(entry);
                continue;
            }
            match entry.look() {
                Look::NotReady => {
                    known = true;
                    looked = Some((entry.watched.clone(), entry.moment));
                    self.entries.push_back(entry);
                }
                Look::Ready => {
                    (known, ready) = (true, true);
                    self.told += usize::from(entry.taking == Taking::One);
                    told.push(entry.sink);
                }
                Look::Gone => told.push(entry.sink),
            }
        }
        // A taker that was told answers for the wake-up; and where nobody can say whether there is anything, there may be.
        cause != Cause::Look && self.told == 0 && (ready || !known)
    }
}

#[derive(Default)]
struct State {
    groups: Vec<Group>,
    next_id: u64,
}

struct Reactor {
    state: Mutex<State>,
    /// Moved when somebody has registered.
    control: WaitBlock,
    /// The process whose thread serves it: a fork copies everything else.
    pid: u32,
}

static CURRENT: Mutex<Option<Arc<Reactor>>> = Mutex::new(None);

impl Reactor {
    /// The reactor of this process.
    fn current() -> Result<Arc<Self>, Error> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        if let Some(reactor) = current.as_ref().filter(|reactor| reactor.pid == pid) {
            return Ok(reactor.clone());
        }
        // What a fork has copied belongs to a thread that is not here.
        std::mem::forget(current.take());
        let reactor = Arc::new(Self { state: Mutex::default(), control: WaitBlock::new(), pid });
        let served = reactor.clone();
        start_thread("kinfolk-reactor", move || served.run())
            .map_err(|e| Error::os("start the reactor's thread", e))?;
        Ok(current.insert(reactor).clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let control = Watch { block: &self.control, asymmetric: false };
        let (mut told, mut round) = (Vec::new(), 0);
        loop {
            let places: Vec<Place> = self.state().groups.iter().map(|group| group.place.clone()).collect();
            let mut words = Words::default();
            words.mark([control].into_iter().chain(places.iter().map(Place::watch)));
            // Registered since the list was made: begin again, with the mark in place.
            let complete = {
                let mut state = self.state();
                for group in &mut state.groups {
                    group.look(Cause::Look, &mut told);
                }
                state.groups.retain(|group| !group.entries.is_empty() || group.told > 0);
                state.groups.iter().all(|group| places.contains(&group.place))
            };
            told.drain(..).for_each(Sink::tell);
            if !complete {
                continue;
            }
            let longest = (!places.is_empty()).then(|| longest_sleep_ns(round));
            let tick = words.sleep(longest);
            round = if tick { round + 1 } else { 0 };
            self.slept(&places, if tick { Cause::Tick } else { Cause::Slept }, &mut told);
            told.drain(..).for_each(Sink::tell);
            if tick {
                self.bury();
            }
        }
    }

    /// After a sleep on the words of `places`.
    fn slept(&self, places: &[Place], cause: Cause, told: &mut Vec<Sink>) {
        let mut state = self.state();
        for place in places {
            let group = state.groups.iter_mut().find(|group| group.place == *place);
            // Those who were waiting there are gone, so nobody here knows what the wake-up was for.
            if group.is_none_or(|group| group.look(cause, told)) {
                place.watch().block.pass_on();
            }
        }
    }

    /// Looks whether those live who are waited for.
    fn bury(&self) {
        let watched: Vec<_> = self.state().groups.iter().filter_map(|g| g.entries.front()?.watched.upgrade()).collect();
        watched.iter().for_each(|watched| watched.bury());
    }

    /// Registers; the number of the registration.
    fn register(&self, place: &Place, entry: impl FnOnce(u64) -> Entry) -> u64 {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        let group = match state.groups.iter_mut().position(|group| group.place == *place) {
            Some(k) => &mut state.groups[k],
            None => {
                state.groups.push(Group { place: place.clone(), entries: VecDeque::new(), told: 0 });
                state.groups.last_mut().expect("just pushed")
            }
        };
        group.entries.push_back(entry(id));
        drop(state);
        self.control.notify_sleepers(&InProcess);
        id
    }

    /// The registration, if nobody was told yet; with it its group.
    fn find<R>(&self, place: &Place, f: impl FnOnce(&mut Group) -> R) -> Option<R> {
        self.state().groups.iter_mut().find(|group| group.place == *place).map(f)
    }
}

/// A registration: somebody is told once when something is ready. Dropping it ends it.
pub(crate) struct Listener {
    reactor: Arc<Reactor>,
    place: Place,
    watched: Weak<dyn Watched>,
    moment: u32,
    taking: Taking,
    id: u64,
}

impl Listener {
    /// Rings `bell` when `watched` is ready, or was since `moment`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn for_bell(watched: &Arc<dyn Watched>, moment: u32, bell: &Arc<Bell>) -> Result<Self, Error> {
        Self::new(watched, moment, Taking::Nothing, Sink::Bell(bell.clone()))
    }

    /// Wakes a task.
    ///
    /// # Errors
    /// As [`for_bell`](Self::for_bell).
    pub fn for_task(watched: &Arc<dyn Watched>, moment: u32, taking: Taking, waker: &Waker) -> Result<Self, Error> {
        Self::new(watched, moment, taking, Sink::Task(waker.clone()))
    }

    fn new(watched: &Arc<dyn Watched>, moment: u32, taking: Taking, sink: Sink) -> Result<Self, Error> {
        let reactor = Reactor::current()?;
        let Some(place) = Place::of(&**watched) else {
            return Err(Error::new(ErrorKind::Gone, "wait for an object", "its segment is not attached any more"));
        };
        let watched = Arc::downgrade(watched);
        let id = reactor.register(&place, |id| Entry { id, watched: watched.clone(), moment, taking, sink });
        Ok(Self { reactor, place, watched, moment, taking, id })
    }

    /// Names another task to wake; false if one was woken already.
    pub fn renew(&self, waker: &Waker) -> bool {
        let waits = self.reactor.find(&self.place, |group| {
            let entry = group.entries.iter_mut().find(|entry| entry.id == self.id)?;
            match &mut entry.sink {
                Sink::Task(old) => Some(std::mem::replace(old, waker.clone())),
                Sink::Bell(_) => None,
            }
        });
        // The old one is dropped here, after the lock.
        waits.flatten().is_some()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.reactor.pid != std::process::id() {
            return; // In a forked child, where nobody may ever unlock the copy of the lock.
        }
        let waiting = |group: &mut Group| {
            let at = group.entries.iter().position(|entry| entry.id == self.id)?;
            group.entries.remove(at)
        };
        if self.reactor.find(&self.place, waiting).flatten().is_some() || self.taking == Taking::Nothing {
            return;
        }
        // It was told, and others were not: rule 2.
        let mut told = Vec::new();
        self.reactor.find(&self.place, |group| {
            group.told = group.told.saturating_sub(1);
            group.look(Cause::Look, &mut told);
        });
        if told.is_empty() && self.watched.upgrade().is_none_or(|watched| watched.is_ready(self.moment)) {
            self.place.watch().block.pass_on();
        }
        told.into_iter().for_each(Sink::tell);
    }
}
