//! The one future of this module: an attempt is made until it gives something.
//!
//! # Rules
//! 1. The attempt comes first, in every poll. Only when it has failed is a listener registered; the reactor looks once
//!    more after it has seen the registration, so what came in between is not missed (`segment/reactor.rs`).
//! 2. What the attempt gave is returned by the same poll. So a future that is dropped holds nothing.
//! 3. The listener is dropped after the attempt that it was told for: it hands the baton on if something is left.
//! 4. A task whose attempts succeed again and again lets others run, every so often.

use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::Error;
use crate::segment::{Listener, Taking, Watched};

/// How many attempts of a thread may succeed at once before one of them waits for its turn.
const TURN: u32 = 128;

thread_local! {
    static SUCCEEDED: Cell<u32> = const { Cell::new(0) };
}

/// Lets the other tasks of the executor run, once.
#[cfg(any(feature = "tokio", feature = "async-io"))]
pub(super) async fn pause() {
    let mut paused = false;
    poll_fn(|cx| if std::mem::replace(&mut paused, true) { Poll::Ready(()) } else { again(cx) }).await
}

fn again<R>(cx: &mut Context<'_>) -> Poll<R> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// What is watched. (A type of its own, without the lifetime that the compiler forgets in a future: so that this one can
/// be sent to another thread.)
#[derive(Clone)]
pub(super) struct Target(pub Arc<dyn Watched>);

/// What is attempted until it succeeds.
trait Step {
    type Output;

    /// Does it, if it can be done now.
    fn attempt(&mut self) -> Option<Self::Output>;

    /// What is watched while it cannot.
    fn watched(&mut self) -> Result<Target, Error>;
}

async fn run<S: Step>(step: &mut S, taking: Taking, moment: u32) -> Result<S::Output, Error> {
    let mut listener: Option<Listener> = None;
    poll_fn(|cx| {
        // Rule 4.
        let succeeded = SUCCEEDED.get();
        if succeeded >= TURN {
            SUCCEEDED.set(0);
            return again(cx);
        }
        if let Some(r) = step.attempt() {
            SUCCEEDED.set(succeeded + 1);
            return Poll::Ready(Ok(r));
        }
        SUCCEEDED.set(0);
        if listener.as_ref().is_some_and(|listener| listener.renew(cx.waker())) {
            return Poll::Pending;
        }
        match step.watched().and_then(|watched| Listener::for_task(&watched.0, moment, taking, cx.waker())) {
            Ok(new) => listener = Some(new),
            Err(e) => return Poll::Ready(Err(e)),
        }
        Poll::Pending
    })
    .await
}

/// Ends with what `attempt` gives; waits meanwhile until what `watched` gives is ready, or was since `moment`.
///
/// # Errors
/// If nothing can be watched.
pub(super) async fn until<R>(
    taking: Taking,
    moment: u32,
    attempt: impl FnMut() -> Option<R>,
    watched: impl FnMut() -> Target,
) -> Result<R, Error> {
    struct Calls<A, W>(A, W);
    impl<R, A: FnMut() -> Option<R>, W: FnMut() -> Target> Step for Calls<A, W> {
        type Output = R;

        fn attempt(&mut self) -> Option<R> {
            self.0()
        }

        fn watched(&mut self) -> Result<Target, Error> {
            Ok(self.1())
        }
    }
    run(&mut Calls(attempt, watched), taking, moment).await
}

/// Puts or sends a value when there is room.
///
/// `attempt` gives the value back if there is none, and otherwise the answer. `room` tells, once, what is watched for room
/// for the value.
///
/// # Errors
/// The value, if no room can be watched.
pub(super) async fn until_room<T, R>(
    value: T,
    attempt: impl FnMut(T) -> Result<R, T>,
    room: impl FnMut(&T) -> Result<Target, Error>,
) -> Result<R, (T, Error)> {
    struct Put<T, A, W> {
        /// Here, unless it was put.
        value: Option<T>,
        watched: Option<Target>,
        attempt: A,
        room: W,
    }
    impl<T, R, A: FnMut(T) -> Result<R, T>, W: FnMut(&T) -> Result<Target, Error>> Step for Put<T, A, W> {
        type Output = R;

        fn attempt(&mut self) -> Option<R> {
            let put = (self.attempt)(self.value.take()?);
            put.map_err(|back| self.value = Some(back)).ok()
        }

        fn watched(&mut self) -> Result<Target, Error> {
            if self.watched.is_none() {
                let value = self.value.as_ref().expect("the attempt gave it back");
                self.watched = Some((self.room)(value)?);
            }
            Ok(self.watched.clone().expect("just found"))
        }
    }
    let mut put = Put { value: Some(value), watched: None, attempt, room };
    let ended = run(&mut put, Taking::One, 0).await;
    ended.map_err(|e| (put.value.expect("the attempt gave it back"), e))
}
