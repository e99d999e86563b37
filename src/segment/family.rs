//! The segment that every process family has, and how segments are sized.

use std::sync::Mutex;

use super::Segment;
use super::layout::Geometry;
use crate::error::{Error, ErrorKind};

/// Size of the family segment unless somebody says otherwise: sparse, so it costs what is used of it.
const DEFAULT_BYTES: u64 = 1 << 30;

/// The environment variable that sizes the family segment.
const BYTES_VARIABLE: &str = "KINFOLK_SEGMENT_BYTES";

static FAMILY: Mutex<Option<Segment>> = Mutex::new(None);

fn family() -> std::sync::MutexGuard<'static, Option<Segment>> {
    FAMILY.lock().unwrap_or_else(|e| e.into_inner())
}

pub(super) fn get() -> Result<Segment, Error> {
    let mut family = family();
    if let Some(segment) = &*family {
        return Ok(segment.clone());
    }
    let mut builder = SegmentBuilder::default();
    if let Ok(text) = std::env::var(BYTES_VARIABLE) {
        builder = builder.size(parse_bytes(&text)?);
    }
    let segment = builder.anonymous()?;
    Ok(family.insert(segment).clone())
}

/// Keeps other threads from making the segment.
pub(super) fn hold() -> impl Sized {
    family()
}

pub(super) fn set(segment: Segment) -> Result<(), Error> {
    let mut family = family();
    if family.is_some() {
        let message = "this process family has one already; set it up before anything is shared";
        return Err(Error::new(ErrorKind::InvalidInput, "make family segment", message));
    }
    *family = Some(segment);
    Ok(())
}

fn parse_bytes(text: &str) -> Result<u64, Error> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| {
        let message = format!("{text:?}, expected a number of bytes, or one with a suffix K, M or G");
        Error::new(ErrorKind::InvalidInput, format!("read {BYTES_VARIABLE}"), message)
    })
}

/// Sizes and limits of a new segment.
#[derive(Clone, Debug)]
pub struct SegmentBuilder {
    size: u64,
    processes: u32,
    lanes: u32,
}

impl Default for SegmentBuilder {
    fn default() -> Self {
        Self { size: DEFAULT_BYTES, processes: 256, lanes: 1022 }
    }
}

impl SegmentBuilder {
    /// Bytes of the whole segment (1 GiB by default). They are address space; memory is committed as it is used.
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = bytes;
        self
    }

    /// How many processes may have it open at once (256 by default, at most 1024).
    pub fn processes(mut self, count: u32) -> Self {
        self.processes = count;
        self
    }

    /// How many threads of all processes may use it at once (1022 by default, at most 1022).
    pub fn lanes(mut self, count: u32) -> Self {
        self.lanes = count;
        self
    }

    pub(super) fn geometry(&self) -> Result<Geometry, Error> {
        Geometry::new(self.size, self.processes, self.lanes)
    }

    /// Makes the segment, without a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for sizes out of range, [`OutOfSpace`](ErrorKind::OutOfSpace) if the system has no
    /// memory, [`Unsupported`](ErrorKind::Unsupported) if its locks do not prove deaths.
    pub fn anonymous(self) -> Result<Segment, Error> {
        Segment::make_anonymous(self.geometry()?)
    }

    /// Makes the segment of this process family, before anything else is shared.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if there is one already; else as [`anonymous`](Self::anonymous).
    pub fn make_family(self) -> Result<Segment, Error> {
        let segment = self.anonymous()?;
        set(segment.clone())?;
        Ok(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_bytes("4096").unwrap(), 4096);
        assert_eq!(parse_bytes("3M").unwrap(), 3 << 20);
        assert_eq!(parse_bytes("2g").unwrap(), 2 << 30);
        for wrong in ["", "M", "4KM", "-1", "1e3", "99999999999G"] {
            assert_eq!(parse_bytes(wrong).unwrap_err().kind(), ErrorKind::InvalidInput, "{wrong}");
        }
    }
}
