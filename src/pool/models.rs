#![cfg(all(test, loom))]
//! Who leads and who follows (`lead.rs`) under loom, on a queue that is a word: every interleaving (to a preemption bound), in
//! which nobody may sleep for ever. Each step that a twin leaves out must make a model fail.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::lead::{Lead, Source};
use crate::sys::atomic::AtomicU32;
use crate::sys::atomic::Ordering::{AcqRel, Acquire, Release};
use crate::sys::clock::{Deadline, TimeUp, with_time_up};
use crate::sys::futex;
use crate::sys::models::{model as two_preemptions, model_with, twin};
use crate::sys::monitor::Mutex;

/// Four preemptions: some of what is left out takes three to be noticed.
fn model(f: impl Fn() + Send + Sync + 'static) {
    model_with(4, f);
}

/// A message without meaning. The others are bits, too.
const LOOK: u32 = 1;
const A: u32 = 2;
const B: u32 = 4;

/// A queue with room for a nudge if it is empty, and what was read from it or became so otherwise.
struct Queue {
    messages: AtomicU32,
    done: AtomicU32,
}

impl Queue {
    fn put(&self, messages: u32) {
        self.messages.fetch_or(messages, Release);
        futex::wake(&self.messages, 1);
    }

    fn is_done(&self, what: u32) -> bool {
        self.done.load(Acquire) & what != 0
    }
}

impl Source for Queue {
    type Desk = ();

    fn read(&self, desk: &mut (), deadline: Deadline, _: &dyn Fn() -> bool) -> bool {
        loop {
            if self.try_read(desk) {
                return true;
            }
            match deadline.left_ns() {
                Some(0) => return false,
                left => futex::wait(&self.messages, 0, left),
            };
        }
    }

    fn try_read(&self, (): &mut ()) -> bool {
        match self.messages.swap(0, AcqRel) {
            0 => return false,
            LOOK => {}
            messages => {
                self.done.fetch_or(messages, Release);
            }
        }
        true
    }

    fn nudge(&self) {
        if self.messages.load(Acquire) == 0 {
            self.put(LOOK);
        }
    }
}

/// A queue whose messages come when whoever has this reads, and not before.
struct Asked<'a>(&'a Queue, u32);

impl Source for Asked<'_> {
    type Desk = ();

    fn read(&self, desk: &mut (), deadline: Deadline, is_done: &dyn Fn() -> bool) -> bool {
        self.0.put(self.1);
        self.0.read(desk, deadline, is_done)
    }

    fn try_read(&self, desk: &mut ()) -> bool {
        self.0.try_read(desk)
    }

    fn nudge(&self) {
        self.0.nudge();
    }
}

struct Pool {
    lead: Lead<(), ()>,
    queue: Queue,
}

impl Pool {
    fn new(messages: u32) -> Arc<Self> {
        let queue = Queue { messages: AtomicU32::new(messages), done: AtomicU32::new(0) };
        Arc::new(Self { lead: Lead::new((), ()), queue })
    }

    fn wait_for(&self, what: u32, deadline: Deadline) -> bool {
        self.lead.wait_until(&self.queue, &|| self.queue.is_done(what), deadline)
    }

    /// Something changes that is no message.
    fn change(&self, what: u32) {
        self.queue.done.fetch_or(what, Release);
        self.lead.look_again(&self.queue);
    }

    /// The pool's own thread, whom nobody has come before for a while.
    fn stand_by(&self, what: u32) {
        let is_done = || self.queue.is_done(what);
        self.lead.stand_by(&self.queue, self.lead.hall(), &is_done, Duration::ZERO, Deadline::NEVER);
    }
}

fn beside<R: 'static>(pool: &Arc<Pool>, f: impl FnOnce(&Pool) -> R + 'static) -> thread::JoinHandle<R> {
    let pool = pool.clone();
    thread::spawn(move || f(&pool))
}

/// Whoever reads the result of another, and goes on reading, tells him: only then his own comes.
fn one_result_two_waiters() {
    model(|| {
        let pool = Pool::new(B);
        let other = beside(&pool, |pool| {
            assert!(pool.wait_for(B, Deadline::NEVER));
            pool.queue.put(A);
        });
        assert!(pool.wait_for(A, Deadline::NEVER));
        other.join().unwrap();
    });
}

/// Whoever has his result leaves the lead to the other, whose result comes later.
fn two_results_two_waiters() {
    model(|| {
        let pool = Pool::new(A);
        let other = beside(&pool, |pool| assert!(pool.wait_for(B, Deadline::NEVER)));
        assert!(pool.wait_for(A, Deadline::NEVER));
        pool.queue.put(B);
        other.join().unwrap();
    });
}

/// As before, but the first only reads what is there.
fn one_reads_what_is_there() {
    model(|| {
        let pool = Pool::new(A);
        let other = beside(&pool, |pool| assert!(pool.wait_for(B, Deadline::NEVER)));
        pool.lead.read_what_is_there(&pool.queue);
        pool.queue.put(B);
        other.join().unwrap();
    });
}

/// One whose results come only when he leads himself waits twice, beside the pool's own thread.
fn the_own_thread_gives_way() {
    model(|| {
        let pool = Pool::new(0);
        let own = beside(&pool, |pool| pool.stand_by(B));
        for what in [A, B] {
            let queue = &pool.queue;
            assert!(pool.lead.wait_until(&Asked(queue, what), &|| queue.is_done(what), Deadline::NEVER));
        }
        own.join().unwrap();
    });
}

/// The pool's own thread has to read what comes when another, who led, has gone.
fn the_own_thread_follows_the_last() {
    model(|| {
        let pool = Pool::new(A);
        let own = beside(&pool, |pool| {
            while !pool.queue.is_done(B) {
                pool.stand_by(B);
            }
        });
        assert!(pool.wait_for(A, Deadline::NEVER));
        pool.queue.put(B);
        own.join().unwrap();
    });
}

/// What two wait for comes about without a message, first for one, and then for the other; one of them leads.
fn changes_are_told() {
    two_preemptions(|| {
        let pool = Pool::new(0);
        let first = beside(&pool, |pool| assert!(pool.wait_for(A, Deadline::NEVER)));
        let second = beside(&pool, |pool| assert!(pool.wait_for(B, Deadline::NEVER)));
        pool.change(A);
        first.join().unwrap();
        pool.change(B);
        second.join().unwrap();
    });
}

/// A change while there is no room for a nudge, and the leader is just about to make some.
fn a_change_beside_a_full_queue() {
    model(|| {
        let pool = Pool::new(LOOK);
        let other = beside(&pool, |pool| assert!(pool.wait_for(B, Deadline::NEVER)));
        pool.change(B);
        other.join().unwrap();
    });
}

/// One whose time is over while he leads or follows, and another whose result comes after that.
fn one_gives_up(time_up: TimeUp) {
    model(move || {
        let pool = Pool::new(0);
        let other = beside(&pool, move |pool| {
            let soon = Deadline::after(Duration::from_secs(1));
            assert!(!with_time_up(time_up, || pool.wait_for(A, soon)));
            pool.queue.put(B);
        });
        assert!(pool.wait_for(B, Deadline::NEVER));
        other.join().unwrap();
    });
}

fn one_gives_up_at_any_time() {
    [TimeUp::AtLook(0), TimeUp::Asleep(0)].into_iter().for_each(one_gives_up);
}

/// The pool's own thread sleeps as long as nothing is under way.
fn a_task_rouses() {
    model(|| {
        let pool = Pool::new(0);
        let under_way = Arc::new(Mutex::new(false));
        let own = {
            let (pool, under_way) = (pool.clone(), under_way.clone());
            thread::spawn(move || {
                while !*under_way.lock() {
                    pool.lead.rest(pool.lead.hall(), &|| !*under_way.lock());
                }
            })
        };
        *under_way.lock() = true;
        pool.lead.rouse();
        own.join().unwrap();
    });
}

#[test]
fn models_pool_a_leader_tells_whose_result_it_has_read() {
    one_result_two_waiters();
}

#[test]
fn models_pool_the_lead_is_left_to_who_follows() {
    two_results_two_waiters();
    one_reads_what_is_there();
}

#[test]
fn models_pool_the_own_thread_gives_way() {
    the_own_thread_gives_way();
}

#[test]
fn models_pool_the_own_thread_leads_after_the_last() {
    the_own_thread_follows_the_last();
}

#[test]
fn models_pool_changes_are_told() {
    changes_are_told();
    a_change_beside_a_full_queue();
}

#[test]
fn models_pool_one_that_gives_up_leaves_the_lead_to_others() {
    one_gives_up_at_any_time();
}

#[test]
fn models_pool_a_task_rouses_the_own_thread() {
    a_task_rouses();
}

#[test]
fn models_pool_a_leader_that_keeps_results_to_itself_is_noticed() {
    twin("lead: tell nobody", one_result_two_waiters);
    twin("lead: tell without the fence", one_result_two_waiters);
}

#[test]
fn models_pool_a_hand_over_that_nobody_hears_of_is_noticed() {
    twin("lead: hand over to nobody", two_results_two_waiters);
    twin("lead: hand over without the fence", two_results_two_waiters);
    twin("lead: hand over to nobody", one_reads_what_is_there);
    twin("lead: hand over to nobody", one_gives_up_at_any_time);
    twin("lead: hand over without the fence", one_gives_up_at_any_time);
}

#[test]
fn models_pool_waking_past_the_hall_is_noticed() {
    twin("lead: wake past the hall", one_result_two_waiters);
    twin("lead: wake past the hall", two_results_two_waiters);
    twin("lead: wake past the hall", a_task_rouses);
}

#[test]
fn models_pool_following_without_looking_is_noticed() {
    twin("lead: follow without the fence", two_results_two_waiters);
    twin("lead: try only once", two_results_two_waiters);
    twin("lead: try only once", one_gives_up_at_any_time);
}

#[test]
fn models_pool_an_own_thread_that_keeps_the_lead_is_noticed() {
    twin("lead: ask nobody to give way", the_own_thread_gives_way);
    twin("lead: say late that the own thread leads", the_own_thread_gives_way);
    twin("lead: let everybody say that the own thread leads no more", the_own_thread_gives_way);
}

#[test]
fn models_pool_an_own_thread_that_nobody_tells_is_noticed() {
    twin("lead: forget who stands by", the_own_thread_follows_the_last);
    twin("lead: stand by without the fence", the_own_thread_follows_the_last);
    twin("lead: stand by without a second try", the_own_thread_follows_the_last);
    twin("lead: hand over without the fence", the_own_thread_follows_the_last);
}

#[test]
fn models_pool_a_change_that_the_leader_does_not_hear_of_is_noticed() {
    twin("lead: look again without the leader", changes_are_told);
    twin("lead: wake past the hall", changes_are_told);
    twin("lead: nudge without the fence", a_change_beside_a_full_queue);
    twin("lead: tell without the fence", a_change_beside_a_full_queue);
}
