//! The atomics of everything shared: `core`'s, or loom's with a death in front of every access.
//!
//! Shared words are imported from here and from nowhere else. Under loom each access first passes a *kill point*: a
//! model gives a thread a budget of accesses ([`with_budget`]), and when it is spent the thread ends there, exactly as
//! SIGKILL would end it, with everything it wrote still in place.

#[cfg(not(all(test, loom)))]
pub use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(all(test, loom))]
pub use modelled::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64, Killed, Ordering, broken, fence, is_dead, kill_point, with_broken,
    with_budget,
};

/// Whether this is a model: then what is large is small, since every access is a point where anything may happen.
pub const MODELLED: bool = cfg!(all(test, loom));

/// Whether a model wants this step of a protocol left out, to prove that it would notice. Never, outside models.
#[cfg(not(all(test, loom)))]
#[inline(always)]
pub const fn broken(_step: &str) -> bool {
    false
}

/// Whether the modelled thread is dead. Outside of models it never is.
#[cfg(all(test, not(loom)))]
pub const fn is_dead() -> bool {
    false
}

/// Orders a read-modify-write before the loads that follow it (the store-load order of Dekker's algorithm).
///
/// A locked instruction is a full barrier on x86-64, so there it only stops the compiler.
#[inline(always)]
pub fn rmw_fence() {
    #[cfg(all(target_arch = "x86_64", not(all(test, loom))))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(all(test, loom)))))]
    fence(Ordering::SeqCst);
}

/// Stores a value that others may be storing, the same one, by a read-modify-write.
///
/// Every memory puts the two in an order that all see. loom does so only if one of them reads the other, hence a swap there.
#[inline(always)]
pub fn store_beside(word: &AtomicU64, value: u64, order: Ordering) {
    #[cfg(not(all(test, loom)))]
    word.store(value, order);
    #[cfg(all(test, loom))]
    word.swap(value, order);
}

/// Tells the CPU that this is a spin loop; under loom, lets another thread of the model run.
#[inline(always)]
pub fn spin_loop() {
    #[cfg(not(all(test, loom)))]
    core::hint::spin_loop();
    #[cfg(all(test, loom))]
    loom::thread::yield_now();
}

/// Dies here in a model, if its budget is spent. Outside of models nobody does.
#[cfg(all(test, not(loom)))]
pub const fn kill_point() {}

#[cfg(all(test, loom))]
mod modelled {
    use core::cell::Cell;
    pub use loom::sync::atomic::Ordering;

    loom::thread_local! {
        static BUDGET: Cell<Option<u32>> = Cell::new(None);
        static DEAD: Cell<bool> = Cell::new(false);
    }

    /// The payload of the unwinding that stands for SIGKILL in a model.
    pub struct Killed;

    /// Runs `f`; the modelled thread dies before its shared access number `budget` (counted from 0).
    pub fn with_budget<R>(budget: u32, f: impl FnOnce() -> R) -> Result<R, Killed> {
        BUDGET.with(|b| b.set(Some(budget)));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        BUDGET.with(|b| b.set(None));
        DEAD.with(|d| d.set(false));
        match ended {
            Ok(value) => Ok(value),
            Err(payload) if payload.is::<Killed>() => Err(Killed),
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    /// Dies here if the budget is spent. Models call it between the steps of their own payload.
    pub fn kill_point() {
        let die = BUDGET.with(|b| match b.get() {
            Some(0) => true,
            Some(n) => {
                b.set(Some(n - 1));
                false
            }
            None => false,
        });
        if die {
            BUDGET.with(|b| b.set(None));
            DEAD.with(|d| d.set(true));
            std::panic::resume_unwind(Box::new(Killed));
        }
    }

    /// Whether the modelled thread is dead. What is dropped while it unwinds changes no shared word any more.
    pub fn is_dead() -> bool {
        DEAD.with(Cell::get)
    }

    std::thread_local! {
        // All threads of a model run on one thread of the system.
        static BROKEN: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether this step is the one to leave out.
    pub fn broken(step: &str) -> bool {
        BROKEN.with(Cell::get) == Some(step)
    }

    /// Runs `f`, a whole model, with one step of a protocol left out; true if the model failed, as it must.
    pub fn with_broken(step: &'static str, f: impl FnOnce()) -> bool {
        BROKEN.with(|b| b.set(Some(step)));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        BROKEN.with(|b| b.set(None));
        failed
    }

    /// A fence; not an access, so no kill point of its own.
    pub fn fence(order: Ordering) {
        loom::sync::atomic::fence(order);
    }

    macro_rules! modelled {
        ($name:ident, $int:ty) => {
            /// An atomic word with a kill point in front of every access.
            #[derive(Debug)]
            pub struct $name {
                word: loom::sync::atomic::$name,
                /// What the modelled futex sleeps on, and how many sleep.
                pub(in crate::sys) sleepers: (loom::sync::Mutex<u32>, loom::sync::Condvar),
            }

            impl $name {
                pub fn new(value: $int) -> Self {
                    Self {
                        word: loom::sync::atomic::$name::new(value),
                        sleepers: (loom::sync::Mutex::new(0), loom::sync::Condvar::new()),
                    }
                }

                /// The value, without a kill point: for assertions and for the modelled kernel.
                pub fn peek(&self) -> $int {
                    self.word.load(Ordering::Acquire)
                }

                pub fn load(&self, order: Ordering) -> $int {
                    kill_point();
                    self.word.load(order)
                }

                pub fn store(&self, value: $int, order: Ordering) {
                    kill_point();
                    if !is_dead() {
                        self.word.store(value, order);
                    }
                }

                pub fn swap(&self, value: $int, order: Ordering) -> $int {
                    kill_point();
                    if is_dead() { 0 } else { self.word.swap(value, order) }
                }

                pub fn compare_exchange(
                    &self,
                    current: $int,
                    new: $int,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$int, $int> {
                    kill_point();
                    if is_dead() { Ok(current) } else { self.word.compare_exchange(current, new, success, failure) }
                }

                pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                    kill_point();
                    if is_dead() { 0 } else { self.word.fetch_add(value, order) }
                }

                pub fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                    kill_point();
                    if is_dead() { 0 } else { self.word.fetch_sub(value, order) }
                }

                pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                    kill_point();
                    if is_dead() { 0 } else { self.word.fetch_or(value, order) }
                }

                pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                    kill_point();
                    if is_dead() { 0 } else { self.word.fetch_and(value, order) }
                }

                pub fn fetch_xor(&self, value: $int, order: Ordering) -> $int {
                    kill_point();
                    self.word.fetch_xor(value, order)
                }
            }
        };
    }

    modelled!(AtomicU8, u8);
    modelled!(AtomicU16, u16);
    modelled!(AtomicU32, u32);
    modelled!(AtomicU64, u64);
}
