//! The functions that workers run: a task's, and that of a chunk of them, found by their place in the program.

use std::any::type_name;
use std::cell::Cell;
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{HEAD, TaskHead, Word};
use super::worker::{self, Outfit};
use crate::channel::{Came, LARGE, Queue};
use crate::codec;
use crate::error::{Error, ErrorKind};
use crate::process::{Panic, last_panic, the_function};
use crate::segment::Passed;
use crate::sys::image::{Image, Record};

/// What a task's function may be, and what it takes and gives.
pub trait Function<A, R>: Fn(A) -> R + Copy + Send + 'static {}

impl<F: Fn(A) -> R + Copy + Send + 'static, A, R> Function<A, R> for F {}

/// The most items of a chunk.
pub(super) const MOST_ITEMS: u64 = 1 << 20;

/// Where the task of one call of `F` is in the program.
pub(super) fn of_task<F: Function<A, R>, A: DeserializeOwned + 'static, R: Serialize + 'static>(
    _function: F,
) -> Result<u64, Error> {
    const { only_functions::<F>() };
    let record: &'static Record = const { &Record::new(run_task::<F, A, R>, type_name::<F>) };
    Image::of_program().offset_of(record)
}

/// Where the task of many calls of `F` is in the program.
pub(super) fn of_chunk<F: Function<A, R>, A: DeserializeOwned + 'static, R: Serialize + 'static>(
    _function: F,
) -> Result<u64, Error> {
    const { only_functions::<F>() };
    let record: &'static Record = const { &Record::new(run_chunk::<F, A, R>, type_name::<F>) };
    Image::of_program().offset_of(record)
}

const fn only_functions<F>() {
    assert!(
        size_of::<F>() == 0,
        "a pool takes a function, or a closure that captures nothing: pass data as the argument"
    );
}

/// What a worker's thread has at hand besides the message itself.
#[derive(Default)]
pub(super) struct Desk {
    /// The handles in the arguments are open as long as this is there.
    pub came: Cell<Option<Came>>,
    /// The handles in the result.
    pub passed: Cell<Passed>,
    /// Whether the function returned.
    pub word: Cell<Option<Word>>,
    /// Where results go.
    pub results: Cell<Option<Queue<Vec<u8>>>>,
    /// The arguments, if they are [large](crate::channel::LARGE); they are not in the message's buffer then. Its memory, if no
    /// argument has it.
    pub large: Cell<Vec<u8>>,
    /// The result, if that is bytes as they are, and large: it belongs behind what is in the buffer.
    pub large_result: Cell<Vec<u8>>,
}

thread_local! {
    pub(super) static DESK: Desk = Desk::default();
}

/// Takes the arguments out of a message, calls the function, and writes what becomes of it over them.
fn run_task<F: Function<A, R>, A: DeserializeOwned + 'static, R: Serialize + 'static>(
    buffer: &mut Vec<u8>,
    _: u32,
) -> Result<(), Error> {
    // SAFETY: only `of_task` names this function, and it was given a value of `F`; it checks that `F` has no bytes.
    let function: F = unsafe { the_function() };
    let large = DESK.with(|desk| desk.large.take());
    let args: A = if large.is_empty() {
        codec::decode_last(&buffer[HEAD..])?
    } else if codec::is_bytes::<A>() {
        codec::from_bytes(large).expect("a Vec<u8> is an A here")
    } else {
        let args = codec::decode(&large)?;
        DESK.with(|desk| desk.large.set(large));
        args
    };
    buffer.truncate(HEAD);
    DESK.with(|desk| drop(desk.came.take()));
    match catch_unwind(AssertUnwindSafe(|| function(args))) {
        Ok(result) => {
            match codec::into_bytes(result) {
                Ok(bytes) if bytes.len() >= LARGE => DESK.with(|desk| desk.large_result.set(bytes)),
                Ok(bytes) => buffer.extend_from_slice(&bytes),
                Err(result) => encode_result(buffer, |buffer| codec::append_last(&result, buffer))?,
            }
            note(Word::Returned);
        }
        Err(payload) => write_panic(buffer, &*payload),
    }
    Ok(())
}

/// The same for as many arguments as the message has; each result has a byte in front that says whether it is one.
fn run_chunk<F: Function<A, R>, A: DeserializeOwned + 'static, R: Serialize + 'static>(
    buffer: &mut Vec<u8>,
    _: u32,
) -> Result<(), Error> {
    // SAFETY: only `of_chunk` names this function, and it was given a value of `F`; it checks that `F` has no bytes.
    let function: F = unsafe { the_function() };
    let count = TaskHead::read(buffer).map_or(0, |head| head.count).min(MOST_ITEMS);
    let large = DESK.with(|desk| desk.large.take());
    let mut rest = if large.is_empty() { &buffer[HEAD..] } else { &large[..] };
    let mut next = || {
        let (item, behind) = codec::decode_one::<A>(rest)?;
        rest = behind;
        Ok(item)
    };
    // One item needs no memory.
    let first = if count > 0 { Some(next()?) } else { None };
    let others: Vec<A> = (1..count).map(|_| next()).collect::<Result<_, Error>>()?;
    buffer.truncate(HEAD);
    DESK.with(|desk| desk.large.set(large));
    DESK.with(|desk| drop(desk.came.take()));
    for item in first.into_iter().chain(others) {
        let begin = buffer.len();
        buffer.push(Word::Returned as u8);
        // With the codec and the drop of the result, so that a panic of these is the item's, too.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let result = function(item);
            encode_result(buffer, |buffer| codec::encode(&result, buffer))
        }));
        let failure = match ran {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => (Word::Unsendable, postcard::to_stdvec(&error.to_string())),
            Err(payload) => (Word::Panicked, postcard::to_stdvec(&last_panic(&*payload))),
        };
        buffer.truncate(begin);
        buffer.push(failure.0 as u8);
        buffer.extend_from_slice(&failure.1.unwrap_or_default());
    }
    note(Word::Returned);
    Ok(())
}

/// What a worker runs whose pool has an initializer.
pub(super) fn initialized<F: Fn(I) + Copy + Send + 'static, I>((outfit, args): (Outfit, I)) {
    // SAFETY: only `PoolBuilder::initializer` names this function, and it was given a value of `F`, whose size it checks.
    let function: F = unsafe { the_function() };
    worker::run_after(outfit, || function(args));
}

fn note(word: Word) {
    DESK.with(|desk| desk.word.set(Some(word)));
}

/// Runs `encode` so that the handles which it writes go with the message, as those that went into it before.
fn encode_result(buffer: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
    let results = DESK.with(|desk| desk.results.take());
    let Some(results) = results else {
        return Err(Error::new(ErrorKind::InvalidInput, "run task", "this thread is no worker's"));
    };
    let (encoded, passed) = results.encoding(|| catch_unwind(AssertUnwindSafe(|| encode(buffer))));
    DESK.with(|desk| {
        desk.results.set(Some(results));
        if matches!(encoded, Ok(Ok(()))) {
            desk.passed.set(desk.passed.take().and(passed));
        }
    });
    encoded.unwrap_or_else(|payload| resume_unwind(payload))
}

/// Writes a panic where the result would be.
pub(super) fn write_panic(buffer: &mut Vec<u8>, payload: &(dyn std::any::Any + Send)) {
    let panic: Panic = last_panic(payload);
    buffer.truncate(HEAD);
    buffer.extend_from_slice(&postcard::to_stdvec(&panic).unwrap_or_default());
    note(Word::Panicked);
}
