//! Handles for asynchronous code: the same names, and what blocks elsewhere is awaited here.
//!
//! [`Queue`], [`Connection`] and [`Event`] work under any executor and need no feature. A call that can go on at once does,
//! without registering anything anywhere. One that cannot registers with a thread of this process that sleeps on the words
//! of all that is awaited, and wakes the task; the thread is started when the first task has to wait.
//!
//! The features `tokio` and `async-io` add `kinfolk::tokio` and `kinfolk::async_io`: these handles, and a `Process` whose
//! `join` is awaited, which needs the event loop of the one or the other.
//!
//! A handle here is a face of the blocking one: make it with `from`, and get that one back with `into_inner`. Both may be
//! used at once, in this process and in others. Time-outs are the executor's.
//!
//! # Dropping a future
//! Nothing is lost: an item is taken, or put, in the very step in which its future ends. A value whose `put` or `send` is
//! dropped before goes with the future. If a task was woken for an item and its future is dropped, another is woken.
//!
//! # If a peer dies
//! As with the blocking calls. The thread looks after the dead for all that is awaited, every 64 ms at the latest.
//!
//! ```
//! use kinfolk::{Process, future};
//!
//! async fn sum(queue: future::Queue<u32>) -> Result<u32, kinfolk::GetError> {
//!     Ok(queue.get().await? + queue.get().await?)
//! }
//!
//! let queue = kinfolk::Queue::new(0)?;
//! let put = |queue: kinfolk::Queue<u32>| [1, 2].into_iter().for_each(|n| queue.put(n).unwrap());
//! let child = Process::spawn(put, queue.clone())?;
//! # fn block_on<F: Future>(future: F) -> F::Output {
//! #     struct Unpark(std::thread::Thread);
//! #     impl std::task::Wake for Unpark {
//! #         fn wake(self: std::sync::Arc<Self>) {
//! #             self.0.unpark();
//! #         }
//! #     }
//! #     let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
//! #     let mut future = std::pin::pin!(future);
//! #     loop {
//! #         match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
//! #             std::task::Poll::Ready(output) => return output,
//! #             std::task::Poll::Pending => std::thread::park(),
//! #         }
//! #     }
//! # }
//! // With the `block_on` of your executor.
//! assert_eq!(block_on(sum(queue.into()))?, 3);
//! child.join()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "async-io")]
pub mod async_io;
mod connection;
mod event;
#[cfg(any(feature = "tokio", feature = "async-io"))]
mod process;
mod queue;
#[cfg(feature = "tokio")]
pub mod tokio;
mod until;

pub use connection::Connection;
pub use event::Event;
pub use queue::Queue;
