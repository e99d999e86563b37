//! A pool as other processes use it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::calls::calls;
use super::client::{Client, Reach};
use super::via::{Source, Via};
use super::{Function, Imap, Job, Mapping, Task, TaskError};
use crate::channel::Sender;
use crate::shared::RawValue;

/// A pool that any process may use which runs the same program: what [`Pool::handle`](super::Pool::handle) gives.
///
/// It is a value: it goes to children as an argument and through queues and pipes, it may lie in a dictionary or a list, and
/// be [published](crate::Manager::publish) in the manager whose pool it is of. Clones share what they have; many threads may
/// use one at once. It does what a [`Pool`](super::Pool) does, with the same tasks, mappings and errors. A task goes to the
/// pool's owner, who has it done as if it were its own, and sends the result back: so it costs two more hops than one of the
/// owner.
///
/// `close`, `terminate` and `join` are the owner's alone: they would end the tasks of all others.
///
/// A task that uses the handle of its own pool keeps a worker busy while it waits: if all workers do so, they wait for ever.
///
/// # If a peer dies
/// *The owner*, or it drops the pool: everything under way ends with [`TaskError::OwnerGone`] or
/// [`TaskError::Terminated`], at the latest after the next look (64 ms); what is asked for later, too.
/// *A worker*: as for the owner's tasks, [`TaskError::WorkerDied`].
/// *A user*: what it had sent is done, or dropped if nobody has begun it; all that was kept for it is given back when the owner
/// notices (64 ms). A user that is stopped, or takes no results, holds up nobody else.
///
/// A user must be the same build of the program as the owner, since a function travels as its place in the program: another
/// gets [`TaskError::Failed`], of the kind [`ForeignFunction`](crate::ErrorKind::ForeignFunction).
///
/// Python: `multiprocessing.Manager().Pool()`, a `PoolProxy`.
///
/// ```
/// use kinfolk::pool::PoolHandle;
/// use kinfolk::{Pool, Process};
///
/// let pool = Pool::new(2)?;
/// let sum = |pool: PoolHandle| pool.map(|n: u64| n * n, 0..5).unwrap().into_iter().sum::<u64>();
/// assert_eq!(Process::spawn(sum, pool.handle()?)?.join()?, 30);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "PoolProxy")]
#[doc(alias = "SyncManager.Pool")]
#[derive(Clone)]
pub struct PoolHandle {
    source: Source,
}

/// A handle as it travels.
#[derive(Serialize, Deserialize)]
#[serde(rename = "kinfolk pool")]
struct Wire<S, V> {
    requests: S,
    over: V,
    pid: u32,
    mark: u64,
    processes: u64,
    retries: u32,
    timeout: Option<Duration>,
}

impl PoolHandle {
    pub(super) fn new(source: Source) -> Self {
        Self { source }
    }

    fn reach(&self) -> &Reach {
        match &self.source.via {
            Via::Far(client) => &client.reach,
            Via::Own(_) => unreachable!("a handle is made with a client"),
        }
    }

    pub(super) fn wake_owner(&self) {
        self.reach().requests.wake_all();
    }

    /// How many workers the pool has.
    pub fn processes(&self) -> usize {
        self.source.processes
    }

    /// The process that has the pool.
    pub fn owner_pid(&self) -> u32 {
        self.reach().pid
    }

    /// Has `function` called with `args` in a worker. Waits only if this process has 4096 tasks under way, or the owner is
    /// behind with reading what it is asked.
    ///
    /// # Errors
    /// [`TaskError::OwnerGone`], [`Terminated`](TaskError::Terminated), [`Arguments`](TaskError::Arguments), and
    /// [`Failed`](TaskError::Failed) for a function of a shared object, or in another build of the program. What the owner
    /// refuses, as [`TaskError::Closed`], is the outcome of the task.
    ///
    /// Python: `apply_async(f, args)`.
    pub fn apply_async<F, A, R>(&self, function: F, args: A) -> Result<Task<R>, TaskError>
    where
        F: Function<A, R>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.job(function, args).submit()
    }

    calls!();
}

impl fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolHandle({} processes of process {})", self.processes(), self.owner_pid())
    }
}

impl Serialize for PoolHandle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Source { processes, retries, timeout, .. } = self.source;
        let Reach { requests, over, pid, mark } = self.reach();
        let (pid, mark, processes) = (*pid, *mark, processes as u64);
        Wire { requests, over, pid, mark, processes, retries, timeout }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PoolHandle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::<Sender<Vec<u8>>, RawValue<u32>>::deserialize(deserializer)?;
        let Wire { requests, over, pid, mark, processes, retries, timeout } = wire;
        let via = Via::Far(Arc::new(Client::new(Reach { requests, over, pid, mark })));
        // Others may have written it: whoever multiplies it must not overflow.
        let processes = processes.clamp(1, 1000) as usize;
        Ok(Self::new(Source { via, processes, retries, timeout }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pool;
    use super::super::client::Client;
    use super::super::report::{Hello, Outcome, REPLY_HEAD, REQUEST_HEAD, Reply, Request, Wish};
    use super::*;
    use crate::channel::{Connection, Receiver};
    use crate::codec;
    use crate::error::ErrorKind;
    use crate::segment::{Passed, Segment};
    use crate::sys::clock::Deadline;
    use proptest::prelude::*;

    fn handle_of(requests: Sender<Vec<u8>>, mark: u64) -> PoolHandle {
        let over = RawValue::new_in(&requests.segment(), 0).unwrap();
        let reach = Reach { requests, over, pid: std::process::id(), mark };
        let via = Via::Far(Arc::new(Client::new(reach)));
        PoolHandle::new(Source { via, processes: 2, retries: 0, timeout: None })
    }

    fn my_mark() -> u64 {
        crate::sys::image::Image::of_program().mark()
    }

    /// The owner's part, played by a test.
    struct Played {
        handle: PoolHandle,
        requests: Receiver<Vec<u8>>,
    }

    impl Played {
        fn new(segment: &Segment) -> Self {
            let (requests, sender) = Connection::builder().segment(segment).build_oneway().unwrap();
            Self { handle: handle_of(sender, my_mark()), requests }
        }

        fn next(&self) -> (Request, Vec<u8>) {
            let mut message = Vec::new();
            let came = self.requests.get_encoded(&mut message, Deadline::NEVER, || false).unwrap();
            drop(came);
            (Request::read(&message).unwrap(), message.split_off(REQUEST_HEAD))
        }

        /// The user's pipe.
        fn met(&self) -> Sender<Vec<u8>> {
            let mut message = Vec::new();
            let _came = self.requests.get_encoded(&mut message, Deadline::NEVER, || false).unwrap();
            assert_eq!(Request::read(&message).unwrap().wish, Wish::Hello);
            codec::decode::<Hello>(&message[REQUEST_HEAD..]).unwrap().replies
        }
    }

    fn put(to: &Sender<Vec<u8>>, bytes: &[u8]) -> bool {
        to.put_encoded(bytes, &mut Passed::default(), Deadline::NEVER, || false).is_ok()
    }

    fn square(n: u64) -> u64 {
        n * n
    }

    fn endless(_: ()) {
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn another_build_of_the_program_is_refused_on_both_sides() {
        let segment = Segment::anonymous(64 << 20).unwrap();
        let (_receiver, sender) = Connection::builder().segment(&segment).build_oneway::<Vec<u8>>().unwrap();
        match handle_of(sender, my_mark() ^ 1).apply(square, 1) {
            Err(TaskError::Failed(error)) => assert_eq!(error.kind(), ErrorKind::ForeignFunction),
            other => panic!("{other:?}"),
        }
        let pool = Pool::builder().processes(1).segment(&segment).build().unwrap();
        let requests = &pool.handle().unwrap().reach().requests.clone();
        let (replies, sender) = Connection::builder().segment(&segment).build_oneway::<Vec<u8>>().unwrap();
        let mut message = vec![0; REQUEST_HEAD];
        Request::plain(Wish::Hello, 0, 0).write(&mut message);
        let hello = Hello { replies: sender, mark: my_mark() ^ 1 };
        let (encoded, mut passed) = requests.encoding(|| codec::encode(&hello, &mut message));
        encoded.unwrap();
        requests.put_encoded(&message, &mut passed, Deadline::NEVER, || false).unwrap();
        drop(hello);
        let mut reply = Vec::new();
        drop(replies.get_encoded(&mut reply, Deadline::NEVER, || false).unwrap());
        assert_eq!(Reply::read(&reply).unwrap().outcome, Outcome::Over);
        match super::super::report::read_error(&reply[REPLY_HEAD..]) {
            TaskError::Failed(error) => assert_eq!(error.kind(), ErrorKind::ForeignFunction),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_user_that_the_owner_gives_up_is_told() {
        let played = Played::new(&Segment::anonymous(64 << 20).unwrap());
        let task = played.handle.apply_async(square, 1).unwrap();
        drop(played.met());
        assert!(matches!(task.get(), Err(TaskError::OwnerGone { .. })));
        assert!(matches!(played.handle.apply(square, 1), Err(TaskError::OwnerGone { .. })));
    }

    #[test]
    fn an_owner_that_drops_the_pipe_is_noticed_with_the_hello_unread() {
        let played = Played::new(&Segment::anonymous(64 << 20).unwrap());
        let task = played.handle.apply_async(square, 1).unwrap();
        drop(played.requests);
        assert!(matches!(task.get(), Err(TaskError::OwnerGone { .. })));
    }

    #[test]
    fn an_end_that_is_marked_counts_though_somebody_has_the_pipe() {
        let played = Played::new(&Segment::anonymous(64 << 20).unwrap());
        let task = played.handle.apply_async(square, 1).unwrap();
        played.handle.reach().over.store(1);
        assert!(matches!(task.get(), Err(TaskError::OwnerGone { .. })));
        assert!(matches!(played.handle.apply(square, 1), Err(TaskError::OwnerGone { .. })));
    }

    #[test]
    fn a_request_that_cannot_be_read_ends_the_service_and_not_the_pool() {
        let segment = Segment::anonymous(64 << 20).unwrap();
        let pool = Pool::builder().processes(1).segment(&segment).build().unwrap();
        let handle = pool.handle().unwrap();
        assert_eq!(handle.apply(square, 3).unwrap(), 9);
        let task = handle.apply_async(endless, ()).unwrap();
        assert!(put(&handle.reach().requests, &[7; 100]));
        match task.get() {
            Err(TaskError::Failed(error)) => assert_eq!(error.kind(), ErrorKind::Corrupt),
            other => panic!("{other:?}"),
        }
        assert!(handle.apply(square, 3).is_err());
        assert_eq!(pool.stats().submitted, 2);
        pool.terminate();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_reply_is_an_outcome_or_an_error(
            outcome in 0..5u64, number in 0..3u64, body in proptest::collection::vec(any::<u8>(), 0..40), cut in 0..80usize
        ) {
            thread_local! {
                static SEGMENT: Segment = Segment::anonymous(64 << 20).unwrap();
            }
            let played = SEGMENT.with(Played::new);
            let task = played.handle.apply_async(|n: u64| vec![n; 3], 1).unwrap();
            let replies = played.met();
            let (request, _) = played.next();
            prop_assert_eq!((request.wish, request.number), (Wish::Task, 0));
            let mut message: Vec<u8> = [outcome, number, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
            message.extend(body);
            message.truncate(cut.max(1));
            put(&replies, &message);
            // Whatever it was, this is the end.
            drop(replies);
            if let Ok(result) = task.get() {
                prop_assert!(outcome == 1 && number == 0, "{:?}", result);
            }
        }

        #[test]
        fn any_request_of_a_user_is_answered_or_dropped(
            wish in 2..4u64, function in any::<u64>(), count in any::<u64>(), retries in 0..3u64, nanos in any::<u64>(),
            body in proptest::collection::vec(any::<u8>(), 0..40)
        ) {
            use std::sync::OnceLock;
            static POOL: OnceLock<Pool> = OnceLock::new();
            let segment = || Segment::anonymous(64 << 20).unwrap();
            let pool = POOL.get_or_init(|| Pool::builder().processes(1).segment(&segment()).build().unwrap());
            let handle = pool.handle().unwrap();
            prop_assert_eq!(handle.apply(square, 3).unwrap(), 9);
            let Via::Far(client) = &handle.source.via else { unreachable!() };
            let user = client.user().unwrap();
            let mut message: Vec<u8> =
                [wish, 1 << 20, user, function, count, retries, nanos].iter().flat_map(|word| word.to_le_bytes()).collect();
            message.extend(body);
            prop_assert!(put(&handle.reach().requests, &message));
            // The reply, if there is one, is of no task here.
            prop_assert_eq!(handle.apply(square, 4).unwrap(), 16);
        }
    }
}
