//! Values to bytes and back: postcard, and byte vectors as they are.

use std::any::Any;
use std::cell::Cell;

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::segment::take_refusal;

/// A scratch buffer larger than this is given back after use,
const KEEP_BYTES: usize = 1 << 20;
/// unless a quarter of it was used, up to this: who sends one large message sends the next one too, and new memory is dear.
const KEEP_LARGE_BYTES: usize = 16 << 20;

/// Whether a buffer is kept that was used so far, and is always kept up to `small` bytes.
#[inline]
pub(crate) fn is_kept(buffer: &Vec<u8>, small: usize) -> bool {
    let capacity = buffer.capacity();
    capacity <= small || (capacity <= KEEP_LARGE_BYTES && buffer.len() >= capacity / 4)
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `f` with a buffer that keeps its memory between calls. A call inside `f` gets a fresh one.
#[inline(always)]
pub(crate) fn with_scratch<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buffer = SCRATCH.take();
    buffer.clear();
    let result = f(&mut buffer);
    if is_kept(&buffer, KEEP_BYTES) {
        SCRATCH.set(buffer);
    }
    result
}

/// Gives `f` the encoding of a key, which equal keys have in common: of a `K`, or of what it is borrowed as. No handle can
/// be part of it.
#[inline]
pub(crate) fn with_key<K: 'static, Q: Serialize + ?Sized, R>(
    key: &Q,
    f: impl FnOnce(&[u8]) -> Result<R, Error>,
) -> Result<R, Error> {
    thread_local! {
        static KEY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut buffer = KEY.take();
    buffer.clear();
    let result = encode(key, &mut buffer).and_then(|()| {
        // A `Vec<u8>` is its own encoding: without the length, which postcard puts in front in parts of seven bits.
        let at = if is_bytes::<K>() { buffer.iter().position(|byte| *byte < 0x80).map_or(0, |k| k + 1) } else { 0 };
        f(&buffer[at..])
    });
    if is_kept(&buffer, KEEP_BYTES) {
        KEY.set(buffer);
    }
    result
}

/// The bytes of a value that is its own encoding: a `Vec<u8>`, for which postcard would go byte by byte.
#[inline]
pub(crate) fn as_bytes<T: 'static>(value: &T) -> Option<&[u8]> {
    (value as &dyn Any).downcast_ref::<Vec<u8>>().map(Vec::as_slice)
}

/// A slice of so many bytes is appended one by one.
const SHORT: usize = 10;

/// Appends to a buffer, whole slices at a time.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // Numbers come in a few bytes each, for which a call of memcpy costs more than the loop.
        if bytes.len() <= SHORT {
            self.0.extend(bytes.iter().copied())
        } else {
            self.0.extend_from_slice(bytes)
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Encodes into `buffer`.
#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, buffer: &mut Vec<u8>) -> Result<(), Error> {
    postcard::serialize_with_flavor(value, Append(buffer)).map_err(|e| {
        let codec = || Error::new(ErrorKind::Codec, format!("encode {}", std::any::type_name::<T>()), e.to_string());
        take_refusal().filter(|_| e == postcard::Error::SerdeSerCustom).unwrap_or_else(codec)
    })
}

/// Gives `f` the bytes of a value's encoding in a message in `segment`, and the handles in it.
pub(crate) fn measure<T: Serialize + 'static, R>(
    segment: &crate::segment::Inner,
    value: &T,
    f: impl FnOnce(usize, usize) -> R,
) -> Result<R, Error> {
    if let Some(bytes) = as_bytes(value) {
        return Ok(f(bytes.len(), 0));
    }
    with_scratch(|buffer| {
        let (encoded, passed) = crate::segment::into_nothing(segment, || encode(value, buffer));
        encoded.map(|()| f(buffer.len(), passed.count()))
    })
}

/// Decodes a whole message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let fail =
        |message: String| Error::new(ErrorKind::Codec, format!("decode {}", std::any::type_name::<T>()), message);
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(fail(format!("{} of {} B are left over", rest.len(), bytes.len()))),
        Err(e) => {
            let refusal = take_refusal().filter(|_| e == postcard::Error::SerdeDeCustom);
            Err(refusal.unwrap_or_else(|| fail(format!("{e} in {} B", bytes.len()))))
        }
    }
}

/// Decodes a value at the beginning of `bytes`; what is behind it.
pub(crate) fn decode_one<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    postcard::take_from_bytes(bytes).map_err(|e| {
        let fail = || {
            let doing = format!("decode {}", std::any::type_name::<T>());
            Error::new(ErrorKind::Codec, doing, format!("{e} in {} B", bytes.len()))
        };
        take_refusal().filter(|_| e == postcard::Error::SerdeDeCustom).unwrap_or_else(fail)
    })
}

/// Appends the encoding of a value that nothing stands behind: bytes as they are.
#[inline]
pub(crate) fn append_last<T: Serialize + 'static>(value: &T, buffer: &mut Vec<u8>) -> Result<(), Error> {
    match as_bytes(value) {
        Some(bytes) => {
            buffer.extend_from_slice(bytes);
            Ok(())
        }
        None => encode(value, buffer),
    }
}

/// Decodes what [`append_last`] wrote.
#[inline]
pub(crate) fn decode_last<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, Error> {
    if is_bytes::<T>() { Ok(from_bytes(bytes.to_vec()).expect("a Vec<u8> is a T here")) } else { decode(bytes) }
}

/// Whether `T` is its own encoding.
#[inline]
pub(crate) fn is_bytes<T: 'static>() -> bool {
    std::any::TypeId::of::<T>() == std::any::TypeId::of::<Vec<u8>>()
}

/// The value whose encoding is `bytes` itself.
#[inline]
pub(crate) fn from_bytes<T: 'static>(bytes: Vec<u8>) -> Option<T> {
    let mut slot = Some(bytes);
    (&mut slot as &mut dyn Any).downcast_mut::<Option<T>>().and_then(Option::take)
}

/// The encoding of a value that is its own.
#[inline]
pub(crate) fn into_bytes<T: 'static>(value: T) -> Result<Vec<u8>, T> {
    if !is_bytes::<T>() {
        return Err(value);
    }
    let mut slot = Some(value);
    let bytes = (&mut slot as &mut dyn Any).downcast_mut::<Option<Vec<u8>>>().and_then(Option::take);
    Ok(bytes.expect("a T is a Vec<u8> here"))
}

/// Receives bytes with `recv` and decodes them; with them comes what `recv` says. `Err(Err(_))` if they are no `T`.
#[inline]
pub(crate) fn received<T, N, E>(recv: impl FnOnce(&mut Vec<u8>) -> Result<N, E>) -> Result<(T, N), Result<E, Error>>
where
    T: DeserializeOwned + 'static,
{
    if is_bytes::<T>() {
        let mut bytes = Vec::new();
        let news = recv(&mut bytes).map_err(Ok)?;
        return Ok((from_bytes(bytes).expect("a Vec<u8> is a T here"), news));
    }
    with_scratch(|buffer| {
        let news = recv(buffer).map_err(Ok)?;
        Ok((decode(buffer).map_err(Err)?, news))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_vectors_are_their_own_encoding_and_others_are_not() {
        assert_eq!(as_bytes(&vec![1u8, 2]), Some(&[1u8, 2][..]));
        assert_eq!(as_bytes(&vec![1u16, 2]), None);
        assert!(is_bytes::<Vec<u8>>() && !is_bytes::<String>());
        assert_eq!(from_bytes::<Vec<u8>>(vec![3]), Some(vec![3]));
        assert_eq!(from_bytes::<String>(vec![3]), None);
    }

    #[test]
    fn left_over_bytes_are_an_error() {
        let mut bytes = Vec::new();
        encode(&(7u32, "x"), &mut bytes).unwrap();
        assert_eq!(decode::<(u32, String)>(&bytes).unwrap(), (7, "x".to_owned()));
        bytes.push(0);
        assert_eq!(decode::<(u32, String)>(&bytes).unwrap_err().kind(), ErrorKind::Codec);
    }

    #[test]
    fn a_buffer_inside_a_buffer_is_another_one() {
        with_scratch(|outer| {
            outer.push(1);
            with_scratch(|inner| inner.push(2));
            assert_eq!(outer, &[1]);
        });
    }
}
