//! Values that carry handles: a container names the objects of the handles in its values, so that they stay.
//!
//! A value with handles is *marked*, and begins with their list: how many, then index and generation, role of each. A
//! handle in a container is counted nowhere. Whoever takes such a value out opens its objects first, with the container's
//! lock held; whoever reads it opens them, and then looks whether the value is still there: so it was when they were opened.
//! What was opened is given up when the value has been decoded, or when its reader has died.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::Error;
use crate::segment::{Arrived, Inner, Object, ObjectId, into_kept};

/// How often a container is looked through for handles, as long as it is rebuilt meanwhile.
pub(super) const LOOKS: u32 = 1 << 16;

/// Objects, and as what a value has them.
pub(super) type Handles = Vec<(ObjectId, usize)>;

/// What a value with handles begins with: how many, and each.
pub(super) fn handle_list(handles: &[(ObjectId, usize)]) -> Vec<u8> {
    let mut bytes = (handles.len() as u64).to_ne_bytes().to_vec();
    for (id, role) in handles {
        bytes.extend_from_slice(&id.index.to_ne_bytes());
        bytes.extend_from_slice(&id.generation.to_ne_bytes());
        bytes.extend_from_slice(&(*role as u64).to_ne_bytes());
    }
    bytes
}

/// The handles that a marked value begins with, and the rest of it.
pub(super) fn split_handles(value: &[u8]) -> Result<(Handles, &[u8]), Error> {
    let bad = || Error::corrupt("value", "handles", value.len(), "as many bytes as they have");
    let number = |at: usize| value.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let count = usize::try_from(number(0).ok_or_else(bad)?).map_err(|_| bad())?;
    let end = count.checked_mul(16).and_then(|b| b.checked_add(8)).filter(|end| *end <= value.len()).ok_or_else(bad)?;
    let handles = (8..end).step_by(16).filter_map(|at| {
        let (id, role) = (number(at)?.to_ne_bytes(), number(at + 8)?);
        let half = |k: usize| u32::from_ne_bytes(id[k..k + 4].try_into().expect("half of eight bytes"));
        Some((ObjectId { index: half(0), generation: half(4) }, role.min(2) as usize))
    });
    Ok((handles.collect(), &value[end..]))
}

/// Opens what a marked value carries, before it is taken out: so nobody finds an object that neither a container names nor
/// anybody has open, and if the caller dies, it is given up with all that the caller had open.
pub(super) fn open_listed(segment: &Inner, value: &[u8], arrived: &mut Arrived) -> Result<(), Error> {
    for (id, role) in split_handles(value)?.0 {
        arrived.open(segment, id, role);
    }
    Ok(())
}

/// Decodes a value that stands behind its handles, if it has any.
pub(super) fn decode_value<V: DeserializeOwned + 'static>(bytes: &[u8], marked: bool) -> Result<V, Error> {
    let bytes = if marked { split_handles(bytes)?.1 } else { bytes };
    if codec::is_bytes::<V>() {
        return Ok(codec::from_bytes(bytes.to_vec()).expect("a Vec<u8> is a V here"));
    }
    codec::decode(bytes)
}

/// Decodes what `read` appends to a buffer, if it finds something. It says whether that is marked; with it comes what else it
/// says, and that lives until then.
#[inline]
pub(super) fn received<V: DeserializeOwned + 'static, N>(
    read: impl FnOnce(&mut Vec<u8>) -> Result<Option<(bool, N)>, Error>,
) -> Result<Option<(V, N)>, Error> {
    let received = codec::received(|buffer| match read(buffer) {
        Ok(Some((true, news))) => {
            let rest = split_handles(buffer).map(|(_, rest)| buffer.len() - rest.len());
            rest.map(|at| drop(buffer.drain(..at))).map_err(Some)?;
            Ok(news)
        }
        Ok(Some((false, news))) => Ok(news),
        Ok(None) => Err(None),
        Err(e) => Err(Some(e)),
    });
    match received {
        Ok((value, news)) => Ok(Some((value, news))),
        Err(Ok(None)) => Ok(None),
        Err(Ok(Some(e)) | Err(e)) => Err(e),
    }
}

/// Gives `f` what `head` writes and the encoding of a value behind it, and whether handles stand before both. `f` says
/// whether the value is in now.
#[inline]
pub(super) fn with_encoded<T: Serialize, R>(
    object: &Object,
    head: impl FnOnce(&mut Vec<u8>),
    value: &T,
    f: impl FnOnce(&[u8], bool) -> Result<(bool, R), Error>,
) -> Result<R, Error> {
    codec::with_scratch(|buffer| {
        head(buffer);
        let (encoded, mut passed) = into_kept(object.segment(), || codec::encode(value, buffer));
        encoded?;
        if passed.count() == 0 {
            return f(buffer, false).map(|(_, r)| r);
        }
        let handles = passed.named(object.segment());
        let done = if handles.is_empty() {
            f(buffer, false)
        } else {
            let mut marked = handle_list(&handles);
            marked.extend_from_slice(buffer);
            f(&marked, true)
        };
        if let Ok((true, _)) = done {
            passed.sent_in(object);
        }
        done.map(|(_, r)| r)
    })
}
