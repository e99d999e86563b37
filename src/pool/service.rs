//! The owner's thread that reads what other processes want of the pool, from the first [`PoolHandle`] on.
//!
//! A user's task is submitted as one of the owner's own would be; its sink is the [`User`], who sends the outcome on. Handles in
//! arguments and results are named by each message on the way, and kept open from one to the next, but nothing is decoded.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::client::{Client, Reach};
use super::error::TaskError;
use super::handle::PoolHandle;
use super::ledger::{Again, Draft, Sink, Terms};
use super::owner::{Owner, locked};
use super::report::{Hello, REQUEST_HEAD, Request, Wish};
use super::user::User;
use super::via::{Source, Via};
use crate::channel::{Came, Connection, RawRefused, Receiver};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::segment::Segment;
use crate::shared::RawValue;
use crate::sys::clock::Deadline;
use crate::sys::image::Image;
use crate::sys::poll::start_thread;

/// Bytes of the ring of requests.
const REQUEST_BYTES: usize = 256 << 10;
/// A death is known of one object after the other: so long after the first, users are looked after once more.
const AGAIN: Duration = Duration::from_millis(64);
/// Requests that are answered when the pool ends; whoever comes later finds that it has.
const MOST_LATE: usize = 1 << 16;

/// What a pool has for its handles, once there is one.
#[derive(Default)]
pub(super) struct Desk(Mutex<Option<Open>>);

struct Open {
    handle: PoolHandle,
    leave: Arc<AtomicBool>,
}

impl Desk {
    /// A handle of the pool; the first one starts the thread.
    pub fn handle(&self, owner: &Arc<Owner>, source: &Source, segment: &Segment) -> Result<PoolHandle, Error> {
        let mut desk = locked(&self.0);
        if let Some(open) = &*desk {
            return Ok(open.handle.clone());
        }
        let (receiver, requests) = Connection::builder().bytes(REQUEST_BYTES).segment(segment).build_oneway()?;
        let over = RawValue::new_in(segment, 0)?;
        let leave = Arc::new(AtomicBool::new(false));
        let (owner, users) = (Arc::clone(owner), HashMap::new());
        let service = Service { owner, requests: receiver, over: over.clone(), leave: Arc::clone(&leave), users };
        start_thread("kinfolk-users", move || service.serve()).map_err(|e| Error::os("start the pool's threads", e))?;
        let reach = Reach { requests, over, pid: std::process::id(), mark: Image::of_program().mark() };
        let via = Via::Far(Arc::new(Client::new(reach)));
        let handle = PoolHandle::new(Source { via, ..source.clone() });
        Ok(desk.insert(Open { handle, leave }).handle.clone())
    }

    /// Ends the thread, when it has told all users that the pool has ended.
    pub fn close(&self) {
        if let Some(Open { handle, leave }) = locked(&self.0).take() {
            leave.store(true, Release);
            handle.wake_owner();
        }
    }
}

struct Service {
    owner: Arc<Owner>,
    requests: Receiver<Vec<u8>>,
    over: RawValue<u32>,
    leave: Arc<AtomicBool>,
    /// By the numbers of their pipes.
    users: HashMap<u64, Arc<User>>,
}

impl Service {
    fn serve(mut self) {
        let why = self.read_requests();
        for user in self.users.values() {
            user.end(why.clone());
        }
        // Whoever has just sent something sees this, or that nobody has the pipe any more.
        self.over.store(1);
    }

    /// Reads requests until the pool has ended, or they cannot be read; which of these.
    fn read_requests(&mut self) -> TaskError {
        let mut buffer = Vec::new();
        let (mut departures, mut looks) = (self.requests.departures(), 0);
        loop {
            let (leave, requests) = (&self.leave, &self.requests);
            let stop = || leave.load(Acquire) || requests.departures() != departures;
            let until = if looks > 0 { Deadline::after(AGAIN) } else { Deadline::NEVER };
            let dealt = match requests.get_encoded(&mut buffer, until, stop) {
                Ok(came) => self.deal(&buffer, came),
                Err(RawRefused::Failed(error)) => Err(error),
                // The end, or somebody has gone.
                Err(refused) => {
                    looks = if matches!(refused, RawRefused::Stopped) { 2 } else { looks - 1 };
                    departures = self.requests.departures();
                    self.forget_the_gone();
                    Ok(())
                }
            };
            if let Err(error) = dealt {
                return TaskError::failed(error);
            }
            // Also if there is always another one.
            if self.leave.load(Acquire) {
                break;
            }
        }
        for _ in 0..MOST_LATE {
            let Ok(came) = self.requests.try_get_encoded(&mut buffer) else { break };
            if let Err(error) = self.deal(&buffer, came) {
                return TaskError::failed(error);
            }
        }
        self.owner.refusal().unwrap_or(TaskError::Terminated)
    }

    /// Gives up users whose replies nobody would get, with their pipes.
    fn forget_the_gone(&mut self) {
        self.users.retain(|_, user| {
            let is_there = user.is_there();
            if !is_there {
                user.leave();
            }
            is_there
        });
    }

    fn deal(&mut self, message: &[u8], came: Came) -> Result<(), Error> {
        let request = Request::read(message)
            .ok_or_else(|| Error::corrupt("request", "head", format!("of {} B", message.len()), "a request's"))?;
        let rest = &message[REQUEST_HEAD..];
        if request.wish == Wish::Hello {
            self.forget_the_gone();
            return self.meet(rest, came);
        }
        // One that was given up is told by the end of its pipe.
        let Some(user) = self.users.get(&request.user).cloned() else { return Ok(()) };
        match request.wish {
            Wish::Hello => {}
            Wish::Task => self.submit(&user, &request, rest, came),
            Wish::Cancel => {
                let ticket = user.ticket(request.call.count);
                if user.begin(request.number) {
                    let is_out = ticket.is_some_and(|ticket| self.owner.cancel(ticket));
                    user.answer(request.number, Ok(&[u8::from(is_out)]), 0);
                }
            }
            Wish::Leave => {
                self.users.remove(&request.user);
                user.leave();
            }
        }
        Ok(())
    }

    fn meet(&mut self, hello: &[u8], came: Came) -> Result<(), Error> {
        let hello = codec::decode::<Hello>(hello);
        drop(came);
        let Hello { replies, mark } = match hello {
            Ok(hello) => hello,
            // It has died since, and its pipe with it.
            Err(error) if error.kind() == ErrorKind::Gone => return Ok(()),
            Err(error) => return Err(error),
        };
        let id = replies.id();
        let user = User::new(&self.owner, replies);
        let mine = Image::of_program().mark();
        if mark != mine {
            let message = format!("the program's mark is {mark:016x}, the pool's {mine:016x}");
            user.end(TaskError::failed(Error::new(ErrorKind::ForeignFunction, "use pool", message)));
            return Ok(());
        }
        self.users.insert(u64::from(id.index) | u64::from(id.generation) << 32, user);
        Ok(())
    }

    fn submit(&self, user: &Arc<User>, request: &Request, args: &[u8], came: Came) {
        let number = request.number;
        if !user.begin(number) {
            return;
        }
        let sink: Arc<dyn Sink> = Arc::clone(user) as _;
        // The pool's own thread reads the result: nobody here waits for it.
        let (call, index) = (request.call, number as usize);
        let mut draft =
            Draft { call, sink: &sink, index, calls_back: true, terms: None, large: &[], until: Deadline::NEVER };
        let (retries, timeout) = (request.retries, request.timeout);
        let submitted = if retries > 0 {
            let kept = Arc::new((args.to_vec(), came));
            let once_more = Arc::clone(&kept);
            let again: Again = Arc::new(move |buffer| write(&once_more.0, &once_more.1, buffer));
            draft.terms = Terms::unless_usual(retries, timeout, Some(again));
            self.owner.submit(&mut draft, |buffer| write(&kept.0, &kept.1, buffer))
        } else {
            draft.terms = Terms::unless_usual(0, timeout, None);
            self.owner.submit(&mut draft, |buffer| write(args, &came, buffer))
        };
        match submitted {
            Ok(ticket) => user.began(number, ticket),
            Err(error) => user.answer(number, Err(error), 0),
        }
    }
}

/// Writes arguments as they came, and names the handles in them.
fn write(args: &[u8], came: &Came, buffer: &mut Vec<u8>) -> Result<(), Error> {
    buffer.extend_from_slice(args);
    came.pass_on();
    Ok(())
}
