//! How the models of the lock-free protocols are run: every interleaving, a death at every access, a step left out.
#![cfg(all(test, loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool as Flag, Ordering::Relaxed};

use super::atomic::with_broken;

/// Checks every interleaving of `f`'s threads with at most so many preemptions, unless `LOOM_MAX_PREEMPTIONS` says
/// otherwise.
pub fn model_with(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 20_000;
    builder.check(f);
}

/// Checks those with at most two.
pub fn model(f: impl Fn() + Send + Sync + 'static) {
    model_with(2, f);
}

/// Runs `f` with a victim that dies before its access 0, 1, 2 ... until no victim dies any more.
pub fn at_every_step(f: impl Fn(u32, &Flag) + Copy + Send + Sync + 'static) {
    for step in 0.. {
        let died = Arc::new(Flag::new(false));
        let seen = died.clone();
        model(move || f(step, &seen));
        if !died.load(Relaxed) {
            assert!(step > 3, "the victim was never in danger");
            return;
        }
    }
}

/// A step left out makes this model fail.
pub fn twin(step: &'static str, f: fn()) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failed = with_broken(step, f);
    std::panic::set_hook(hook);
    assert!(failed, "the model does not notice that `{step}` is left out");
}
