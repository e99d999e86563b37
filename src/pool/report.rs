//! What a pool's owner and the processes that use the pool send each other: heads of fixed size, and errors as bytes.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::TaskError;
use super::ledger::Call;
use super::message::HEAD;
use crate::channel::Sender;
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::process::JoinError;

/// Bytes of the head of a request.
pub(super) const REQUEST_HEAD: usize = 56;
/// Bytes of the head of a reply: as many as of a worker's answer, so that no result becomes too long on its way.
pub(super) const REPLY_HEAD: usize = HEAD;

/// A task may run for ever.
const ENDLESS: u64 = u64::MAX;

/// What a user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It begins: a [`Hello`] follows.
    Hello = 1,
    /// A task: the arguments follow.
    Task = 2,
    /// A task is to be taken back, whose number is the count.
    Cancel = 3,
    /// It wants nothing any more.
    Leave = 4,
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub wish: Wish,
    /// The task's number, by which the reply names it.
    pub number: u32,
    /// The number of the user's pipe of replies.
    pub user: u64,
    pub call: Call,
    pub retries: u32,
    pub timeout: Option<Duration>,
}

/// How a user begins.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    /// Where its replies go.
    pub replies: Sender<Vec<u8>>,
    /// The build of its program.
    pub mark: u64,
}

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A task's result follows, as its worker sent it.
    Returned = 1,
    /// A [`Report`] follows, why a task has no result.
    Failed = 2,
    /// There will be no more replies; a [`Report`] follows, why.
    Over = 3,
}

/// The head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub outcome: Outcome,
    pub number: u32,
    pub nanos: u64,
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(8 * at..8 * at + 8)?.try_into().ok()?))
}

fn write(to: &mut [u8], words: &[u64]) {
    for (to, word) in to.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
}

impl Request {
    /// A request that is about no function.
    pub fn plain(wish: Wish, user: u64, number: u32) -> Self {
        Self { wish, number, user, call: Call { function: 0, count: 0, measured: false }, retries: 0, timeout: None }
    }

    /// Writes it where the first [`REQUEST_HEAD`] bytes are.
    pub fn write(&self, to: &mut [u8]) {
        let Self { wish, number, user, call, retries, timeout } = *self;
        let nanos = timeout.map_or(ENDLESS, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(ENDLESS));
        let count = u64::from(call.count) | u64::from(call.measured) << 32;
        let words = [wish as u64, number.into(), user, call.function, count, retries.into(), nanos];
        write(&mut to[..REQUEST_HEAD], &words);
    }

    pub fn read(from: &[u8]) -> Option<Self> {
        let word = |at| word(from, at);
        let wish = match word(0)? {
            1 => Wish::Hello,
            2 => Wish::Task,
            3 => Wish::Cancel,
            4 => Wish::Leave,
            _ => return None,
        };
        Some(Self {
            wish,
            number: u32::try_from(word(1)?).ok()?,
            user: word(2)?,
            call: Call { function: word(3)?, count: word(4)? as u32, measured: word(4)? >> 32 & 1 != 0 },
            retries: u32::try_from(word(5)?).ok()?,
            timeout: Some(word(6)?).filter(|nanos| *nanos != ENDLESS).map(Duration::from_nanos),
        })
    }
}

impl Reply {
    /// Writes it where the first [`REPLY_HEAD`] bytes are.
    pub fn write(self, to: &mut [u8]) {
        write(&mut to[..REPLY_HEAD], &[self.outcome as u64, self.number.into(), self.nanos]);
    }

    pub fn read(from: &[u8]) -> Option<Self> {
        let outcome = match word(from, 0)? {
            1 => Outcome::Returned,
            2 => Outcome::Failed,
            3 => Outcome::Over,
            _ => return None,
        };
        let reply = Self { outcome, number: u32::try_from(word(from, 1)?).ok()?, nanos: word(from, 2)? };
        (from.len() >= REPLY_HEAD).then_some(reply)
    }
}

/// Kinds of errors by their number.
const KINDS: [ErrorKind; 23] = [
    ErrorKind::Os,
    ErrorKind::OutOfSpace,
    ErrorKind::TooManyProcesses,
    ErrorKind::TooManyFiles,
    ErrorKind::TooManyThreads,
    ErrorKind::TooManyObjects,
    ErrorKind::TooManyRefs,
    ErrorKind::NotASegment,
    ErrorKind::VersionMismatch,
    ErrorKind::LayoutMismatch,
    ErrorKind::SizeMismatch,
    ErrorKind::NotSealed,
    ErrorKind::TypeMismatch,
    ErrorKind::Gone,
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::PermissionDenied,
    ErrorKind::Corrupt,
    ErrorKind::Stalled,
    ErrorKind::Codec,
    ErrorKind::ForeignFunction,
    ErrorKind::InvalidInput,
    ErrorKind::Unsupported,
];

/// An [`Error`] as it travels: its kind, what was being done, and why it failed.
#[derive(Serialize, Deserialize)]
pub(super) struct Fault(u32, String, String);

impl Fault {
    fn of(error: &Error) -> Self {
        let number = KINDS.iter().position(|kind| *kind == error.kind()).unwrap_or(0);
        let text = error.to_string();
        // As it is shown; without a colon it would be read so, too.
        let (doing, message) = text.split_once(": ").unwrap_or(("", &text));
        Self(number as u32, doing.to_owned(), message.to_owned())
    }

    fn into_error(self) -> Error {
        let kind = KINDS.get(self.0 as usize).copied().unwrap_or(ErrorKind::Os);
        Error::new(kind, self.1, self.2)
    }

    fn shared(self) -> Arc<Error> {
        Arc::new(self.into_error())
    }
}

/// How a worker ended, as it travels.
#[derive(Serialize, Deserialize)]
pub(super) enum End {
    Panicked(String, String, Option<String>),
    StackOverflow,
    Signaled(i32, bool),
    Exited(i32),
    Decode(Fault),
    Failed(Fault),
}

impl End {
    fn of(status: &JoinError) -> Self {
        match status {
            JoinError::Panicked { message, location, backtrace } => {
                Self::Panicked(message.clone(), location.clone(), backtrace.clone())
            }
            JoinError::StackOverflow => Self::StackOverflow,
            JoinError::Signaled { signal, core_dumped } => Self::Signaled(*signal, *core_dumped),
            JoinError::Exited { code } => Self::Exited(*code),
            JoinError::Decode(error) => Self::Decode(Fault::of(error)),
            JoinError::Failed(error) => Self::Failed(Fault::of(error)),
        }
    }

    fn into_status(self) -> JoinError {
        match self {
            Self::Panicked(message, location, backtrace) => JoinError::Panicked { message, location, backtrace },
            Self::StackOverflow => JoinError::StackOverflow,
            Self::Signaled(signal, core_dumped) => JoinError::Signaled { signal, core_dumped },
            Self::Exited(code) => JoinError::Exited { code },
            Self::Decode(fault) => JoinError::Decode(fault.into_error()),
            Self::Failed(fault) => JoinError::Failed(fault.into_error()),
        }
    }
}

/// A [`TaskError`] as it travels.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    Panicked(String, String, Option<String>),
    WorkerDied(u32, End),
    TimedOut(Duration),
    Cancelled,
    Terminated,
    Closed,
    Broken(String),
    OwnerGone(u32),
    Arguments(Fault),
    Result(Fault),
    Callback(String),
    Timeout,
    Full,
    Taken,
    Failed(Fault),
}

impl From<&TaskError> for Report {
    fn from(error: &TaskError) -> Self {
        match error {
            TaskError::Panicked { message, location, backtrace } => {
                Self::Panicked(message.clone(), location.clone(), backtrace.clone())
            }
            TaskError::WorkerDied { pid, status } => Self::WorkerDied(*pid, End::of(status)),
            TaskError::TimedOut { timeout } => Self::TimedOut(*timeout),
            TaskError::Cancelled => Self::Cancelled,
            TaskError::Terminated => Self::Terminated,
            TaskError::Closed => Self::Closed,
            TaskError::Broken { reason } => Self::Broken(reason.clone()),
            TaskError::OwnerGone { pid } => Self::OwnerGone(*pid),
            TaskError::Arguments(error) => Self::Arguments(Fault::of(error)),
            TaskError::Result(error) => Self::Result(Fault::of(error)),
            TaskError::Callback { message } => Self::Callback(message.clone()),
            TaskError::Timeout => Self::Timeout,
            TaskError::Full => Self::Full,
            TaskError::Taken => Self::Taken,
            TaskError::Failed(error) => Self::Failed(Fault::of(error)),
        }
    }
}

impl From<Report> for TaskError {
    fn from(report: Report) -> Self {
        match report {
            Report::Panicked(message, location, backtrace) => Self::Panicked { message, location, backtrace },
            Report::WorkerDied(pid, end) => Self::WorkerDied { pid, status: Arc::new(end.into_status()) },
            Report::TimedOut(timeout) => Self::TimedOut { timeout },
            Report::Cancelled => Self::Cancelled,
            Report::Terminated => Self::Terminated,
            Report::Closed => Self::Closed,
            Report::Broken(reason) => Self::Broken { reason },
            Report::OwnerGone(pid) => Self::OwnerGone { pid },
            Report::Arguments(fault) => Self::Arguments(fault.shared()),
            Report::Result(fault) => Self::Result(fault.shared()),
            Report::Callback(message) => Self::Callback { message },
            Report::Timeout => Self::Timeout,
            Report::Full => Self::Full,
            Report::Taken => Self::Taken,
            Report::Failed(fault) => Self::Failed(fault.shared()),
        }
    }
}

/// Appends an error.
pub(super) fn write_error(error: &TaskError, buffer: &mut Vec<u8>) {
    // Strings and numbers can be encoded.
    let _ = codec::encode(&Report::from(error), buffer);
}

/// Reads an error.
pub(super) fn read_error(bytes: &[u8]) -> TaskError {
    codec::decode::<Report>(bytes).map_or_else(|error| TaskError::Result(Arc::new(error)), TaskError::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heads_are_read_as_they_were_written() {
        for (wish, timeout) in [
            (Wish::Hello, None),
            (Wish::Task, Some(Duration::from_millis(3))),
            (Wish::Cancel, None),
            (Wish::Leave, Some(Duration::ZERO)),
        ] {
            let call = Call { function: u64::MAX, count: 1 << 30, measured: wish == Wish::Task };
            let request = Request { wish, number: u32::MAX, user: 7 << 32, call, retries: 5, timeout };
            let mut bytes = [0; REQUEST_HEAD];
            request.write(&mut bytes);
            let read = Request::read(&bytes).unwrap();
            assert_eq!((read.wish, read.number, read.user), (wish, u32::MAX, 7 << 32));
            assert_eq!((read.call.function, read.call.count), (u64::MAX, 1 << 30));
            assert_eq!((read.call.measured, read.retries, read.timeout), (call.measured, 5, timeout));
            assert!(Request::read(&bytes[..REQUEST_HEAD - 1]).is_none());
        }
        for outcome in [Outcome::Returned, Outcome::Failed, Outcome::Over] {
            let reply = Reply { outcome, number: 3, nanos: u64::MAX };
            let mut bytes = [0; REPLY_HEAD];
            reply.write(&mut bytes);
            assert_eq!(Reply::read(&bytes), Some(reply));
            assert_eq!(Reply::read(&bytes[..REPLY_HEAD - 1]), None);
        }
    }

    #[test]
    fn errors_arrive_as_they_were_sent() {
        let fault = |kind| Arc::new(Error::new(kind, "do", "this: that"));
        let text = |text: &str| text.to_owned();
        let panicked = JoinError::Panicked { message: text("m"), location: text("l"), backtrace: None };
        let statuses = [
            panicked,
            JoinError::StackOverflow,
            JoinError::Signaled { signal: 9, core_dumped: true },
            JoinError::Exited { code: 3 },
            JoinError::Decode(Error::new(ErrorKind::Codec, "a", "b")),
            JoinError::Failed(Error::new(ErrorKind::Os, "a", "b")),
        ];
        let mut errors: Vec<TaskError> =
            statuses.into_iter().map(|status| TaskError::WorkerDied { pid: 7, status: Arc::new(status) }).collect();
        errors.extend([
            TaskError::Panicked { message: text("m"), location: text("l"), backtrace: Some(text("b")) },
            TaskError::TimedOut { timeout: Duration::from_micros(5) },
            TaskError::Cancelled,
            TaskError::Terminated,
            TaskError::Closed,
            TaskError::Broken { reason: text("r") },
            TaskError::OwnerGone { pid: 9 },
            TaskError::Callback { message: text("m") },
            TaskError::Timeout,
            TaskError::Full,
            TaskError::Taken,
        ]);
        for kind in KINDS {
            errors.extend([TaskError::Arguments(fault(kind)), TaskError::Result(fault(kind))]);
            errors.push(TaskError::Failed(fault(kind)));
        }
        for error in errors {
            let mut bytes = Vec::new();
            write_error(&error, &mut bytes);
            assert_eq!(format!("{:?}", read_error(&bytes)), format!("{error:?}"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_head(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read_error(&bytes);
            let _ = Reply::read(&bytes);
            let _ = Request::read(&bytes);
        }
    }
}
