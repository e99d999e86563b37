//! Records: what a message looks like in the ring.
//!
//! `length:32 | handles:24 | kind:8`, then so many handles of `index:32 | generation:32`, `role:64`, then the payload. For
//! kind BLOCK the payload is the run of arena pages that holds the message: `page:32 | generation:32`, `bytes:64`. In a lease
//! table there is also kind ELSEWHERE, whose payload names the run that holds the whole record, in the same form.

use crate::error::Error;
use crate::segment::{NameHandle, ObjectId, Run, ShmSlice};

/// Bytes in front of the handles.
pub(super) const RECORD_HEAD: usize = 8;
/// Bytes of a handle.
pub(super) const HANDLE_BYTES: usize = 16;
/// Bytes of the payload that stands for a block.
pub(super) const BLOCK_PAYLOAD: usize = 16;

/// The payload is the message.
pub(super) const INLINE: u32 = 1;
/// The payload names the block that holds the message.
pub(super) const BLOCK: u32 = 2;
/// The payload names the run that holds the record itself: one that is too long for an entry of a lease table.
pub(super) const ELSEWHERE: u32 = 3;

/// The payload that names a run with `bytes` bytes in it.
pub(super) fn block_payload(run: Run, bytes: usize) -> [u8; BLOCK_PAYLOAD] {
    let mut payload = [0; BLOCK_PAYLOAD];
    let word = u64::from(run.page) | u64::from(run.generation) << 32;
    payload[..8].copy_from_slice(&word.to_ne_bytes());
    payload[8..].copy_from_slice(&(bytes as u64).to_ne_bytes());
    payload
}

/// A handle in a message: the object that it is of, and its role.
pub(super) type Handle = (ObjectId, usize);

/// A record about to be written.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub n: u32,
    pub kind: u32,
    pub handles: &'a [Handle],
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Writes the head of a record without handles.
    #[inline]
    pub fn write_head(data: &ShmSlice<'_>, kind: u32, len: usize) {
        data.write(0, &(len as u64 | u64::from(kind) << 32).to_ne_bytes());
    }

    /// Writes it where it was claimed.
    #[inline]
    pub fn write(&self, data: &ShmSlice<'_>) {
        Self::write_head(data, self.kind | (self.handles.len() as u32) << 8, self.payload.len());
        let mut at = RECORD_HEAD;
        for (id, role) in self.handles {
            data.write(at, &(u64::from(id.index) | u64::from(id.generation) << 32).to_ne_bytes());
            data.write(at + 8, &(*role as u64).to_ne_bytes());
            at += HANDLE_BYTES;
        }
        data.write(at, self.payload);
    }
}

/// The head of a record that was read: its numbers fit the record's granules.
pub(super) struct Head {
    pub len: usize,
    pub handles: usize,
    pub kind: u32,
}

impl Head {
    #[inline]
    pub fn read(data: &ShmSlice<'_>) -> Result<Self, Error> {
        let word = data.read_u64(0);
        let head = Self { len: word as u32 as usize, handles: (word >> 40) as usize, kind: (word >> 32) as u32 & 0xff };
        let room = data.len() - RECORD_HEAD;
        if head.handles * HANDLE_BYTES + head.len > room {
            let found = format!("{} B and {} handles", head.len, head.handles);
            return Err(Error::corrupt("message", "length", found, format!("at most {room} B")));
        }
        Ok(head)
    }

    /// Where the payload begins.
    #[inline]
    pub fn payload_at(&self) -> usize {
        RECORD_HEAD + self.handles * HANDLE_BYTES
    }

    /// Names the handles.
    pub fn for_each_handle(&self, data: &ShmSlice<'_>, f: NameHandle<'_>) {
        for k in 0..self.handles {
            let at = RECORD_HEAD + k * HANDLE_BYTES;
            let (id, role) = (data.read_u64(at), data.read_u64(at + 8));
            f(ObjectId { index: id as u32, generation: (id >> 32) as u32 }, role.min(2) as usize);
        }
    }

    /// Bytes of the whole record.
    pub fn record_bytes(&self) -> usize {
        self.payload_at() + self.len
    }

    /// Page, generation and bytes of the block that the record names.
    pub fn block(&self, data: &ShmSlice<'_>) -> Result<(u32, u32, u64), Error> {
        if !matches!(self.kind, BLOCK | ELSEWHERE) || self.len < BLOCK_PAYLOAD {
            let found = format!("{} B of kind {}", self.len, self.kind);
            return Err(Error::corrupt("message", "block", found, format!("{BLOCK_PAYLOAD} B of kind {BLOCK}")));
        }
        let (word, bytes) = (data.read_u64(self.payload_at()), data.read_u64(self.payload_at() + 8));
        Ok((word as u32, (word >> 32) as u32, bytes))
    }
}
