//! The header: written by the creator before anybody else sees the segment, checked by everybody who attaches.

use super::layout::{Geometry, HeaderBlock, MAGIC, VERSION, layout_hash};
use crate::error::{Error, ErrorKind};
use crate::sys::atomic::Ordering::{Acquire, Relaxed, Release};

/// Header flag: committers use no fence.
pub const ASYMMETRIC: u32 = 1;

/// Writes the header of a fresh segment. The magic comes last, so that a half-built segment is none.
pub fn write(header: &HeaderBlock, geometry: &Geometry, id: [u8; 16], flags: u32) {
    let (low, high) = id.split_at(8);
    header.version.store(VERSION, Relaxed);
    header.flags.store(flags, Relaxed);
    header.layout_hash.store(layout_hash(), Relaxed);
    header.size.store(geometry.size, Relaxed);
    for (word, half) in header.id.iter().zip([low, high]) {
        word.store(u64::from_le_bytes(half.try_into().expect("16 bytes split in two")), Relaxed);
    }
    header.rows.store(geometry.rows, Relaxed);
    header.lanes.store(geometry.lanes, Relaxed);
    header.objects.store(geometry.objects, Relaxed);
    header.pages.store(geometry.pages, Relaxed);
    header.rows_at.store(geometry.rows_at, Relaxed);
    header.lanes_at.store(geometry.lanes_at, Relaxed);
    header.pagemap_at.store(geometry.pagemap_at, Relaxed);
    header.objects_at.store(geometry.objects_at, Relaxed);
    header.pages_at.store(geometry.pages_at, Relaxed);
    header.magic.store(MAGIC, Release);
}

/// Checks every word of the header against a file of `file_size` bytes; the geometry, the id and the flags.
pub fn check(header: &HeaderBlock, file_size: u64) -> Result<(Geometry, u128, u32), Error> {
    let refuse = |kind, message: String| Err(Error::new(kind, "open segment", message));
    let magic = header.magic.load(Acquire);
    if magic != MAGIC {
        return refuse(ErrorKind::NotASegment, format!("starts with {magic:#018x}, expected {MAGIC:#018x}"));
    }
    let version = header.version.load(Relaxed);
    if version != VERSION {
        return refuse(ErrorKind::VersionMismatch, format!("version {version}, this library reads {VERSION}"));
    }
    let (hash, wanted) = (header.layout_hash.load(Relaxed), layout_hash());
    if hash != wanted {
        return refuse(ErrorKind::LayoutMismatch, format!("layout {hash:#018x}, this build has {wanted:#018x}"));
    }
    let size = header.size.load(Relaxed);
    if size != file_size {
        return refuse(ErrorKind::SizeMismatch, format!("file has {file_size} B, its header says {size} B"));
    }
    let found = Geometry {
        size,
        rows: header.rows.load(Relaxed),
        lanes: header.lanes.load(Relaxed),
        objects: header.objects.load(Relaxed),
        pages: header.pages.load(Relaxed),
        rows_at: header.rows_at.load(Relaxed),
        lanes_at: header.lanes_at.load(Relaxed),
        pagemap_at: header.pagemap_at.load(Relaxed),
        objects_at: header.objects_at.load(Relaxed),
        pages_at: header.pages_at.load(Relaxed),
    };
    match Geometry::new(size, found.rows, found.lanes) {
        Ok(wanted) if wanted == found => {}
        Ok(wanted) => return refuse(ErrorKind::Corrupt, format!("geometry is {found:?}, expected {wanted:?}")),
        Err(e) => return refuse(ErrorKind::Corrupt, format!("geometry: {e}")),
    }
    let [low, high] = [0, 1].map(|k: usize| u128::from(header.id[k].load(Relaxed)));
    Ok((found, high << 64 | low, header.flags.load(Relaxed)))
}
