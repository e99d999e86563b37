//! The program's own image: naming one of its functions to another process that runs the same image, and proving that
//! what comes back is one.
//!
//! A function travels as the offset of its static [`Record`] from the address at which the image was loaded (which
//! differs from process to process). The offset comes through shared memory, so it is believed only after these checks:
//!
//! 1. the record lies, aligned and whole, in data of the main program that nothing writes to after start-up: a read-only
//!    load segment or the part made read-only after relocation;
//! 2. it begins with the magic words;
//! 3. both its functions lie in an executable segment of the main program;
//! 4. the name it gives itself, and the mark of the image (the build id), are those the sender saw.
//!
//! After 1-3 the record is one that [`Record::new`] made, so calling its functions is sound whatever the sender wrote; 4
//! tells mistakes apart, such as a program that was started through a loader.

use crate::error::{Error, ErrorKind};
use std::mem::{align_of, size_of};
use std::ops::Range;
use std::sync::OnceLock;

/// A function on encoded values: it takes its arguments out of the buffer, and leaves there what it returns; the number is
/// the process row whose process will decode that.
pub type Entry = fn(&mut Vec<u8>, u32) -> Result<(), Error>;

/// What stands in the program's read-only data for each function that can be started in a child.
#[repr(C)]
pub struct Record {
    magic: [u64; 2],
    entry: Entry,
    name: fn() -> &'static str,
}

/// Random; the second word counts changes of [`Record`] and [`Entry`].
const MAGIC: [u64; 2] = [0x9d5c_06e1_b7a3_4f28, 2];

impl Record {
    /// A record, to be promoted to a `static`.
    pub const fn new(entry: Entry, name: fn() -> &'static str) -> Self {
        Self { magic: MAGIC, entry, name }
    }

    /// The function itself.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// The function's type name, for people.
    pub fn name(&self) -> &'static str {
        (self.name)()
    }
}

/// The main program as it was loaded into this process.
#[derive(Debug)]
pub struct Image {
    base: usize,
    /// Load segments by what they allow.
    readable: Vec<Range<usize>>,
    constant: Vec<Range<usize>>,
    executable: Vec<Range<usize>>,
    dynamic: Option<Range<usize>>,
    mark: u64,
}

/// The bits of `p_flags`.
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;

impl Image {
    /// The image of the main program.
    pub fn of_program() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| {
            let mut image = None;
            // SAFETY: `first_object` gets `image` back as its third argument, and nothing else uses it meanwhile.
            unsafe { libc::dl_iterate_phdr(Some(first_object), (&raw mut image).cast()) };
            // Every program has program headers; without them no function is found in it, and each is refused.
            image.unwrap_or_else(|| Image::from_headers(0, &[]))
        })
    }

    fn from_headers(base: usize, headers: &[ProgramHeader]) -> Self {
        let spans = |kind: u32, has: u32, lacks: u32| {
            let fits = move |h: &&ProgramHeader| h.p_type == kind && h.p_flags & has == has && h.p_flags & lacks == 0;
            headers.iter().filter(fits).map(move |h| {
                let start = base.wrapping_add(h.p_vaddr as usize);
                start..start.saturating_add(h.p_memsz as usize)
            })
        };
        let mut image = Self {
            base,
            readable: spans(libc::PT_LOAD, READ, 0).collect(),
            constant: spans(libc::PT_LOAD, READ, WRITE).chain(spans(libc::PT_GNU_RELRO, READ, 0)).collect(),
            executable: spans(libc::PT_LOAD, EXECUTE, 0).collect(),
            dynamic: spans(libc::PT_DYNAMIC, READ, 0).next(),
            mark: 0,
        };
        let build_id = spans(libc::PT_NOTE, READ, 0).find_map(|notes| build_id(image.read_bytes(notes)?));
        image.mark = build_id.unwrap_or_else(|| {
            let geometry = headers.iter().flat_map(|h| [u64::from(h.p_type), h.p_vaddr as _, h.p_memsz as _]);
            fnv(geometry.flat_map(u64::to_le_bytes))
        });
        image
    }

    /// What tells this build of the program from others: a hash of its build id, or else of its program headers.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// The offset under which another process of the same program finds `record`.
    ///
    /// # Errors
    /// [`ErrorKind::ForeignFunction`] if the function is not in the main program but in a shared object.
    pub fn offset_of(&self, record: &'static Record) -> Result<u64, Error> {
        let address = std::ptr::from_ref(record).expose_provenance();
        match self.record_at(address) {
            Ok(_) => Ok(address.wrapping_sub(self.base) as u64),
            Err(why) => {
                Err(foreign(record.name(), &format!("{why}: only functions of the main program can be started")))
            }
        }
    }

    /// The record at `offset`, if it is one, for who knows already that the sender runs this build of the program.
    ///
    /// # Errors
    /// [`ErrorKind::ForeignFunction`].
    pub fn record_of_same(&self, offset: u64) -> Result<&'static Record, Error> {
        let address = self.base.wrapping_add(offset as usize);
        self.record_at(address).map_err(|why| foreign(&format!("function at {offset:#x}"), why))
    }

    /// The record at `offset`, if it is one, and the one that the sender named.
    ///
    /// # Errors
    /// [`ErrorKind::ForeignFunction`], with what was found and what was wanted.
    pub fn record(&self, offset: u64, name: &str, mark: u64) -> Result<&'static Record, Error> {
        if mark != self.mark {
            return Err(foreign(name, &format!("this program's mark is {:016x}, the parent's {mark:016x}", self.mark)));
        }
        let record = self.record_at(self.base.wrapping_add(offset as usize)).map_err(|why| foreign(name, why))?;
        if record.name() != name {
            return Err(foreign(name, &format!("found `{}` in its place", record.name())));
        }
        Ok(record)
    }

    /// Checks 1 to 3.
    fn record_at(&self, address: usize) -> Result<&'static Record, &'static str> {
        const { assert!(size_of::<Record>() == size_of::<[u64; 2]>() + 2 * size_of::<usize>()) };
        if address % align_of::<Record>() != 0 || !within(&self.constant, address, size_of::<Record>()) {
            return Err("its record is not in the main program's constant data");
        }
        let record = std::ptr::with_exposed_provenance::<Record>(address);
        // SAFETY: check 1: the whole record is mapped, aligned, readable, and written by nobody any more. The functions
        // are read as plain words, which any bytes are.
        let (magic, functions) = unsafe {
            let functions = (&raw const (*record).entry).cast::<[usize; 2]>();
            ((&raw const (*record).magic).read(), functions.read())
        };
        if magic != MAGIC {
            return Err("its record does not begin with the magic words");
        }
        if !functions.iter().all(|&f| within(&self.executable, f, 1)) {
            return Err("its code is not in the main program");
        }
        // SAFETY: rules 1-3: constant data of this program that begins with 128 agreed bits, and holds functions of this
        // program behind them, is a `Record`; it stays mapped as long as the program.
        Ok(unsafe { &*record })
    }

    /// The constructors that the C library would run after `own` if `own` returned to it.
    ///
    /// Empty for an image without a dynamic section (linked statically at a fixed address).
    pub fn constructors_after(&self, own: Constructor) -> Vec<Constructor> {
        /// The tags of the array of constructors and of its size in bytes.
        const INIT_ARRAY: usize = 25;
        const INIT_ARRAY_SIZE: usize = 27;
        let words = |span: Range<usize>| {
            let bytes = self.read_bytes(span).unwrap_or_default();
            let word = |b: &[u8]| usize::from_ne_bytes(b.try_into().expect("chunks_exact gives whole words"));
            bytes.chunks_exact(size_of::<usize>()).map(word).collect::<Vec<_>>()
        };
        let dynamic = self.dynamic.clone().map(words).unwrap_or_default();
        let entry = |tag| dynamic.chunks_exact(2).find(|e| e[0] == tag).map(|e| e[1]);
        let (Some(offset), Some(size)) = (entry(INIT_ARRAY), entry(INIT_ARRAY_SIZE)) else { return Vec::new() };
        let start = self.base.wrapping_add(offset);
        let all = words(start..start.saturating_add(size));
        let later = all.iter().skip_while(|&&f| f != own as usize).skip(1);
        let callable = later.filter(|&&f| within(&self.executable, f, 1));
        // SAFETY: words of the constructor array are functions of this signature (the C library calls them so), and
        // these lie in the program's code.
        callable.map(|&f| unsafe { std::mem::transmute::<usize, Constructor>(f) }).collect()
    }

    fn read_bytes(&self, span: Range<usize>) -> Option<&'static [u8]> {
        let len = span.end.checked_sub(span.start)?;
        if !within(&self.readable, span.start, len) {
            return None;
        }
        // SAFETY: the span lies in a readable load segment of the program, which is mapped for good; notes, the dynamic
        // section and the constructor array are written only by the loader, before any code of the program runs.
        Some(unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(span.start), len) })
    }
}

/// A function that the C library calls before `main`, with what `main` gets (musl: with nothing).
pub type Constructor = extern "C" fn(libc::c_int, *const *const libc::c_char, *const *const libc::c_char);

#[cfg(target_pointer_width = "64")]
type ProgramHeader = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type ProgramHeader = libc::Elf32_Phdr;

/// Takes the first object, which is the main program, and stops.
unsafe extern "C" fn first_object(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    image: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library lends a valid `info`, whose headers are an array of `dlpi_phnum` that is mapped for good; the
    // caller of `dl_iterate_phdr` passed an `Option<Image>` that only this function uses meanwhile.
    unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        *image.cast::<Option<Image>>() = Some(Image::from_headers(info.dlpi_addr as usize, headers));
    }
    1
}

fn within(spans: &[Range<usize>], address: usize, len: usize) -> bool {
    spans.iter().any(|s| s.start <= address && address < s.end && len <= s.end - address)
}

/// A hash of the GNU build id, if it is among these notes.
fn build_id(mut notes: &[u8]) -> Option<u64> {
    /// `NT_GNU_BUILD_ID`.
    const BUILD_ID: u32 = 3;
    loop {
        let (header, rest) = notes.split_at_checked(12)?;
        let word = |i: usize| u32::from_ne_bytes(header[i..i + 4].try_into().expect("four bytes"));
        let (name_bytes, value_bytes, kind) = (word(0) as usize, word(4) as usize, word(8));
        let (name, rest) = rest.split_at_checked(name_bytes.checked_next_multiple_of(4)?)?;
        let value = rest.get(..value_bytes)?;
        if kind == BUILD_ID && name.starts_with(b"GNU\0") {
            return Some(fnv(value.iter().copied()));
        }
        notes = rest.get(value_bytes.checked_next_multiple_of(4)?..)?;
    }
}

/// FNV-1a, 64 bits.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn foreign(name: &str, why: &str) -> Error {
    Error::new(ErrorKind::ForeignFunction, format!("find `{name}`"), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(_message: &mut Vec<u8>, _row: u32) -> Result<(), Error> {
        Ok(())
    }

    static RECORD: Record = Record::new(entry, || "entry");

    #[test]
    fn a_record_is_found_again_at_its_offset() {
        let image = Image::of_program();
        let offset = image.offset_of(&RECORD).unwrap();
        let found = image.record(offset, "entry", image.mark()).unwrap();
        assert!(std::ptr::eq(found, &RECORD));
    }

    #[test]
    fn an_offset_from_elsewhere_is_refused() {
        let image = Image::of_program();
        let offset = image.offset_of(&RECORD).unwrap();
        let far =
            [offset + 8, offset + 1, 0, u64::MAX, u64::MAX - 7, 1 << 46, (entry as Entry as usize - image.base) as u64];
        for wrong in far {
            let error = image.record(wrong, "entry", image.mark()).err().expect("refused");
            assert_eq!(error.kind(), ErrorKind::ForeignFunction);
        }
    }

    #[test]
    fn another_name_or_another_build_is_refused() {
        let image = Image::of_program();
        let offset = image.offset_of(&RECORD).unwrap();
        let error = image.record(offset, "exit", image.mark()).err().expect("refused");
        assert_eq!(error.to_string(), "find `exit`: found `entry` in its place");
        assert!(image.record(offset, "entry", image.mark() ^ 1).is_err());
    }

    #[test]
    fn a_record_on_the_heap_is_refused() {
        let record: &'static Record = Box::leak(Box::new(Record::new(entry, || "entry")));
        assert_eq!(Image::of_program().offset_of(record).expect_err("refused").kind(), ErrorKind::ForeignFunction);
    }

    #[test]
    fn broken_notes_are_read_to_their_end() {
        let note = [4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0, 0xab, 0xcd, 0, 0];
        assert_eq!(build_id(&note), Some(fnv([0xab, 0xcd])));
        for cut in 0..18 {
            assert_eq!(build_id(&note[..cut]), None);
        }
        assert_eq!(build_id(&[0xff; 64]), None);
    }

    extern "C" fn early(_: libc::c_int, _: *const *const libc::c_char, _: *const *const libc::c_char) {}
    extern "C" fn late(_: libc::c_int, _: *const *const libc::c_char, _: *const *const libc::c_char) {}

    #[used]
    // SAFETY: the section is an array of functions of this type; the linker puts numbered parts first.
    #[unsafe(link_section = ".init_array.00500")]
    static EARLY: Constructor = early;

    #[used]
    // SAFETY: as above.
    #[unsafe(link_section = ".init_array")]
    static LATE: Constructor = late;

    #[test]
    fn the_constructors_that_are_still_to_run_are_found() {
        let addresses = |after| Image::of_program().constructors_after(after).into_iter().map(|f| f as usize);
        assert!(addresses(early).any(|f| f == LATE as usize));
        assert!(!addresses(late).any(|f| f == EARLY as usize));
        assert_eq!(addresses(stranger_to_the_array).count(), 0);
    }

    extern "C" fn stranger_to_the_array(_: libc::c_int, _: *const *const libc::c_char, _: *const *const libc::c_char) {
        std::process::abort();
    }
}
