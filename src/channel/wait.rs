//! Waiting for several things at once.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::segment::{Listener, Source, Waitable, Waited, Watched};
use crate::sync::{Pace, Watch, longest_sleep_ns, warm, watch_until};
use crate::sys::clock::Deadline;
use crate::sys::cpu;
use crate::sys::poll::{Bell, readable};

thread_local! {
    /// What won lately, of the calling thread's waits.
    static PACE: Pace = Pace::default();
}

/// How long a wait without a reactor sleeps between two looks.
const POLL: Duration = Duration::from_millis(1);

/// Waits until one or more of `objects` are ready, at most `timeout` (`None` for ever), and gives the places of all that
/// are, in ascending order; an empty list if the time is over first. It takes nothing.
///
/// Ready is: a [`Queue`](crate::Queue) whose `get` would return at once, with an item or because the queue is closed or
/// abandoned; a [`Connection`](crate::Connection) with a message or the end of file; an [`Event`](crate::Event) that is
/// set, or was since the call began; a [`Process`](crate::Process) that has ended; and whatever has a descriptor
/// ([`AsFd`](std::os::fd::AsFd)) that can be read. Others may take what is there before the caller does, so take it with
/// a call that does not block.
///
/// A `timeout` of zero looks and does not block. An empty list of objects can never be ready: it gives an empty list at
/// once, whatever the `timeout`. Signals do not end the wait.
///
/// Queues, connections and events alone are slept on directly, and descriptors alone are polled. For both together a
/// thread of this process, which is started at the first such call, sleeps on the former and tells the caller. Of more
/// than 128 words at once, and on kernels before 5.16, changes are seen a millisecond late.
///
/// # Errors
/// If one of the descriptors is not open. Nothing else can go wrong.
///
/// # If a peer dies
/// A connection whose other end is nowhere open any more is ready, at the latest after the next look (64 ms). A process
/// is ready at once. A wake-up that the caller was given and does not need is passed on, so that nobody else who waits
/// for the same object is left asleep.
///
/// Python: `multiprocessing.connection.wait`.
///
/// ```
/// use kinfolk::{Event, Process, Queue, channel::wait};
/// use std::time::Duration;
///
/// let (queue, event) = (Queue::<u32>::new(0)?, Event::new()?);
/// let child = Process::spawn(|queue: Queue<u32>| queue.put(7).unwrap(), queue.clone())?;
/// assert_eq!(wait(&[&event, &queue], None)?, [1]);
/// event.set();
/// assert_eq!(wait(&[&event, &queue], Some(Duration::ZERO))?, [0, 1]);
/// assert_eq!(wait(&[&child], None)?, [0]);
/// # Ok::<(), kinfolk::Error>(())
/// ```
#[doc(alias = "select")]
pub fn wait(objects: &[&dyn Waitable], timeout: Option<Duration>) -> Result<Vec<usize>, Error> {
    let deadline = timeout.map_or(Deadline::NEVER, Deadline::after);
    let list = List::new(objects);
    let found = list.look()?;
    if !found.is_empty() || deadline.passed() || objects.is_empty() {
        return Ok(found);
    }
    if list.shared.is_empty() {
        return list.poll(&list.descriptors, deadline);
    }
    let peer_cpu = list.peer_cpu();
    if let Some(found) = PACE.with(|pace| warm(pace, peer_cpu, deadline, || list.attempt())) {
        return list.with_descriptors(found);
    }
    if list.descriptors.is_empty() { Ok(list.sleep(deadline)) } else { list.sleep_and_poll(deadline) }
}

/// Something in shared memory, and its place in the caller's list.
struct Shared {
    at: usize,
    watched: Arc<dyn Watched>,
    moment: u32,
}

impl Shared {
    fn is_ready(&self) -> bool {
        self.watched.is_ready(self.moment)
    }
}

/// The caller's list, by how its members are waited for.
struct List<'a> {
    shared: Vec<Shared>,
    descriptors: Vec<BorrowedFd<'a>>,
    /// Places of the descriptors in the caller's list.
    places: Vec<usize>,
}

impl<'a> List<'a> {
    fn new(objects: &[&'a dyn Waitable]) -> Self {
        let mut list = Self { shared: Vec::new(), descriptors: Vec::new(), places: Vec::new() };
        for (at, object) in objects.iter().enumerate() {
            let Source(waited) = object.source();
            match waited {
                Waited::Object(watched) => list.shared.push(Shared { at, moment: watched.moment(), watched }),
                Waited::Descriptor(fd) => {
                    list.descriptors.push(fd);
                    list.places.push(at);
                }
            }
        }
        list
    }

    /// Of those in shared memory, all that are ready.
    fn look_at_shared(&self) -> Vec<usize> {
        self.shared.iter().filter(|shared| shared.is_ready()).map(|shared| shared.at).collect()
    }

    /// The same, if there are any.
    fn attempt(&self) -> Option<Vec<usize>> {
        Some(self.look_at_shared()).filter(|found| !found.is_empty())
    }

    /// All that are ready.
    fn look(&self) -> Result<Vec<usize>, Error> {
        self.with_descriptors(self.look_at_shared())
    }

    /// What was found, and the descriptors that can be read now.
    fn with_descriptors(&self, found: Vec<usize>) -> Result<Vec<usize>, Error> {
        if self.descriptors.is_empty() {
            return Ok(found);
        }
        let polled = self.poll(&self.descriptors, Deadline::after(Duration::ZERO))?;
        Ok(merged(found, polled))
    }

    /// Places of the descriptors that can be read, after waiting for one of `fds`, which begin with the list's own.
    fn poll(&self, fds: &[BorrowedFd<'_>], deadline: Deadline) -> Result<Vec<usize>, Error> {
        let readable = readable(fds, deadline).map_err(|e| Error::os("wait for descriptors", e))?;
        Ok(self.places.iter().zip(readable).filter(|(_, readable)| *readable).map(|(at, _)| *at).collect())
    }

    /// A CPU on which one of those who are waited for may be running; the caller's own, if all of them are here.
    fn peer_cpu(&self) -> Option<u32> {
        let mut cpus = self.shared.iter().map(|shared| shared.watched.peer_cpu());
        cpus.find(|cpu| cpu::is_elsewhere(*cpu)).unwrap_or_else(|| Some(cpu::current()))
    }

    fn bury(&self) {
        self.shared.iter().for_each(|shared| shared.watched.bury());
    }

    /// Waits on the words alone.
    fn sleep(&self, deadline: Deadline) -> Vec<usize> {
        let watches: Vec<Watch<'_>> = self.shared.iter().map(|shared| shared.watched.watch()).collect();
        let ready = |k: usize| self.shared[k].is_ready();
        watch_until(&watches, deadline, || self.attempt(), ready, || self.bury()).unwrap_or_default()
    }

    /// Waits on descriptors, and on a bell that the reactor rings for the words.
    fn sleep_and_poll(&self, deadline: Deadline) -> Result<Vec<usize>, Error> {
        loop {
            let Ok((bell, listeners)) = self.listen() else { return self.look_often(deadline) };
            let fds: Vec<_> = self.descriptors.iter().copied().chain([bell.as_fd()]).collect();
            let polled = self.poll(&fds, deadline)?;
            drop(listeners);
            let found = merged(self.look_at_shared(), polled);
            if !found.is_empty() || deadline.passed() {
                return Ok(found);
            }
            // The bell has rung for what somebody else has taken since.
        }
    }

    fn listen(&self) -> Result<(Arc<Bell>, Vec<Listener>), Error> {
        let bell = Arc::new(Bell::new().map_err(|e| Error::os("wait for objects", e))?);
        let listen = |shared: &Shared| Listener::for_bell(&shared.watched, shared.moment, &bell);
        let listeners = self.shared.iter().map(listen).collect::<Result<_, _>>()?;
        Ok((bell, listeners))
    }

    /// Waits where the reactor cannot be had: there is no room for its thread, or for a descriptor.
    fn look_often(&self, deadline: Deadline) -> Result<Vec<usize>, Error> {
        let mut buried = Deadline::after(Duration::from_nanos(longest_sleep_ns(0)));
        loop {
            let polled = self.poll(&self.descriptors, deadline.min(Deadline::after(POLL)))?;
            let found = merged(self.look_at_shared(), polled);
            if !found.is_empty() || deadline.passed() {
                return Ok(found);
            }
            if buried.passed() {
                self.bury();
                buried = Deadline::after(Duration::from_nanos(longest_sleep_ns(usize::MAX)));
            }
        }
    }
}

fn merged(mut some: Vec<usize>, others: Vec<usize>) -> Vec<usize> {
    some.extend(others);
    some.sort_unstable();
    some
}
