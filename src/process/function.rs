//! Which function a child runs: one static record per function, found in the child by its offset in the program.

use crate::error::{Error, ErrorKind};
use crate::segment::{take_refusal, with_recipient};
use crate::sys::image::{Image, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::any::type_name;
use std::mem::size_of;
use std::ptr::NonNull;

/// A function as it travels to the child, which runs the same program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FunctionId {
    offset: u64,
    name: String,
    /// The build of the program that the offset is for.
    mark: u64,
}

impl FunctionId {
    /// The function `F`, of which the caller has a value.
    pub(super) fn of<F, A, R>(_function: F) -> Result<Self, Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        const {
            assert!(
                size_of::<F>() == 0,
                "Process::spawn takes a function, or a closure that captures nothing: pass data as the argument"
            );
        }
        let record: &'static Record = const { &Record::new(call::<F, A, R>, type_name::<F>) };
        let image = Image::of_program();
        Ok(Self { offset: image.offset_of(record)?, name: record.name().to_owned(), mark: image.mark() })
    }

    /// A function that a fork has, and does not look for.
    pub(super) fn of_fork<F>() -> Self {
        Self { offset: 0, name: type_name::<F>().to_owned(), mark: 0 }
    }

    /// The function in this process.
    pub(super) fn find(&self) -> Result<&'static Record, Error> {
        Image::of_program().record(self.offset, &self.name, self.mark)
    }
}

/// A value of a function's type, of which there is only one.
///
/// # Safety
/// `F` has no bytes, and a value of `F` was seen in a process of this program that asks for the call.
pub(crate) unsafe fn the_function<F: Copy + Send + 'static>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: `F` has no bytes to be wrong, and any aligned address holds a value of size 0. The caller knows that somebody
    // had a value of `F`, of which this is a copy (`F: Copy`), sent (`F: Send`) to a process that runs the same program.
    unsafe { NonNull::<F>::dangling().as_ptr().read() }
}

/// Decodes the arguments, calls `F`, and encodes what it returns for the process in row `recipient`.
fn call<F, A, R>(buffer: &mut Vec<u8>, recipient: u32) -> Result<(), Error>
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    // SAFETY: only `FunctionId::of` names this function, and it was given a value of `F`; it checks that `F` has no bytes.
    let function: F = unsafe { the_function() };
    let decoded = decode(buffer, "arguments")?;
    // Its memory is not needed while the function runs.
    drop(std::mem::take(buffer));
    let result = function(decoded);
    *buffer = encode_for(recipient, &result, "result")?;
    Ok(())
}

/// Encodes `value` for the process in row `recipient`: handles inside are opened on its behalf.
pub(super) fn encode_for<T: Serialize>(recipient: u32, value: &T, what: &str) -> Result<Vec<u8>, Error> {
    with_recipient(recipient, || postcard::to_stdvec(value)).map_err(|e| {
        let codec = || Error::new(ErrorKind::Codec, format!("encode {what} `{}`", type_name::<T>()), e.to_string());
        take_refusal().filter(|_| e == postcard::Error::SerdeSerCustom).unwrap_or_else(codec)
    })
}

/// Decodes a value that must take up all the bytes.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Error> {
    let error = |message| Error::new(ErrorKind::Codec, format!("decode {what} `{}`", type_name::<T>()), message);
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(error(format!("{} of {} bytes are left over", rest.len(), bytes.len()))),
        Err(e) => {
            let refusal = take_refusal().filter(|_| e == postcard::Error::SerdeDeCustom);
            Err(refusal.unwrap_or_else(|| error(e.to_string())))
        }
    }
}
