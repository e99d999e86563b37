//! Values as Python would print them: any serde value, without knowing its type.
//!
//! | value | text |
//! |---|---|
//! | `None`, `()`, `Some(x)` | `None`, `None`, that of `x` |
//! | `true`, `1`, `1.0`, `1e20` | `True`, `1`, `1.0`, `1e+20` |
//! | `"it's"`, `'c'`, bytes | `"it's"`, `'c'`, `b'\x00'` |
//! | sequence, tuple, map | `[1, 2]`, `(1, 2)`, `{1: 2}` |
//! | struct, tuple struct | `Point(x=1, y=2)`, `Pair(1, 2)` |
//! | variant of an enum | what is in it; its name if there is nothing in it |
//! | handle | `<object 7>`, with the number of its [`id`](crate::segment::ObjectId) |

use std::cell::Cell;
use std::fmt::{self, Display, Write};

use serde::ser::{self, Serialize, Serializer};

use crate::segment::{TICKET, into_text};

/// Displays a value as Python would print it.
pub(super) struct Repr<'a, T: ?Sized>(pub &'a T);

impl<T: Serialize + ?Sized> Display for Repr<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A handle is serialised only into a message.
        into_text(|| self.0.serialize(&mut Writer { out: f, in_ticket: false })).map_err(|_| fmt::Error)
    }
}

/// The text of a value, of at most so many characters; then it ends with `...`. What is longer is not looked at.
pub(super) fn short<T: Serialize + ?Sized>(value: &T, most: usize) -> String {
    struct Cut {
        text: String,
        left: usize,
    }
    impl Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
                self.text.push(c);
            }
            Ok(())
        }
    }
    let mut cut = Cut { text: String::new(), left: most };
    match write!(cut, "{}", Repr(value)) {
        Err(_) if cut.left == 0 => cut.text.push_str("..."),
        Err(_) => cut.text.push_str("<no text>"),
        Ok(()) => {}
    }
    cut.text
}

/// Runs `f`, and says whether it runs inside of another call of this thread: a container may contain itself.
pub(super) fn as_text(f: impl FnOnce(bool) -> fmt::Result) -> fmt::Result {
    thread_local! {
        static INSIDE: Cell<bool> = const { Cell::new(false) };
    }
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }
    let restore = Restore(INSIDE.replace(true));
    f(restore.0)
}

/// What a serialiser needs: an error of its own type.
#[derive(Debug)]
struct Failed;

impl Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no text")
    }
}

impl std::error::Error for Failed {}

impl ser::Error for Failed {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

impl From<fmt::Error> for Failed {
    fn from(_: fmt::Error) -> Self {
        Self
    }
}

struct Writer<'w> {
    out: &'w mut dyn Write,
    /// The fields of a handle's ticket go by; only the number is printed.
    in_ticket: bool,
}

/// Something with parts: what comes after the next one.
struct Parts<'w, 'o> {
    writer: &'w mut Writer<'o>,
    first: bool,
    end: &'static str,
}

impl<'o> Writer<'o> {
    fn begin<'w>(&'w mut self, begin: &str, end: &'static str) -> Result<Parts<'w, 'o>, Failed> {
        self.out.write_str(begin)?;
        Ok(Parts { writer: self, first: true, end })
    }

    fn quoted(&mut self, text: &str) -> Result<(), Failed> {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.out.write_char(quote)?;
        for c in text.chars() {
            match c {
                '\n' => self.out.write_str("\\n")?,
                '\r' => self.out.write_str("\\r")?,
                '\t' => self.out.write_str("\\t")?,
                '\\' => self.out.write_str("\\\\")?,
                c if c == quote => write!(self.out, "\\{c}")?,
                c if c < ' ' || c == '\x7f' => write!(self.out, "\\x{:02x}", c as u32)?,
                c => self.out.write_char(c)?,
            }
        }
        self.out.write_char(quote)?;
        Ok(())
    }

    /// As Python: the shortest digits that give the number again, in powers of ten from 1e16 on and below 1e-4.
    fn float(&mut self, plain: String, text: String, number: f64) -> Result<(), Failed> {
        let size = number.abs();
        if number.is_nan() {
            self.out.write_str("nan")?;
        } else if number.is_infinite() {
            self.out.write_str(if number > 0.0 { "inf" } else { "-inf" })?;
        } else if size != 0.0 && !(1e-4..1e16).contains(&size) {
            let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
            write!(self.out, "{digits}e{sign}{power:0>2}")?;
        } else {
            self.out.write_str(&plain)?;
        }
        Ok(())
    }
}

impl Parts<'_, '_> {
    fn part<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Failed> {
        let comma = if std::mem::take(&mut self.first) { "" } else { ", " };
        write!(self.writer.out, "{comma}{name}")?;
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Failed> {
        Ok(self.writer.out.write_str(self.end)?)
    }
}

/// Methods that print their argument as it is.
macro_rules! plain {
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, value: $type) -> Result<(), Failed> {
            Ok(write!(self.out, "{value}")?)
        }
    )*};
}

impl<'w, 'o> Serializer for &'w mut Writer<'o> {
    type Ok = ();
    type Error = Failed;
    type SerializeSeq = Parts<'w, 'o>;
    type SerializeTuple = Parts<'w, 'o>;
    type SerializeTupleStruct = Parts<'w, 'o>;
    type SerializeTupleVariant = Parts<'w, 'o>;
    type SerializeMap = Parts<'w, 'o>;
    type SerializeStruct = Parts<'w, 'o>;
    type SerializeStructVariant = Parts<'w, 'o>;

    plain! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    }

    fn serialize_bool(self, value: bool) -> Result<(), Failed> {
        Ok(self.out.write_str(if value { "True" } else { "False" })?)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Failed> {
        self.float(format!("{value:?}"), format!("{value:e}"), f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Failed> {
        self.float(format!("{value:?}"), format!("{value:e}"), value)
    }

    fn serialize_char(self, value: char) -> Result<(), Failed> {
        self.quoted(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Failed> {
        self.quoted(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Failed> {
        self.out.write_str("b'")?;
        for byte in value {
            match byte {
                b'\\' | b'\'' => write!(self.out, "\\{}", char::from(*byte))?,
                b' '..=b'~' => self.out.write_char(char::from(*byte))?,
                byte => write!(self.out, "\\x{byte:02x}")?,
            }
        }
        Ok(self.out.write_char('\'')?)
    }

    fn serialize_none(self) -> Result<(), Failed> {
        Ok(self.out.write_str("None")?)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Failed> {
        self.serialize_none()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), Failed> {
        Ok(write!(self.out, "{name}()")?)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Failed> {
        Ok(self.out.write_str(variant)?)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), Failed> {
        let mut parts = self.begin(name, ")")?;
        parts.part("(", value)?;
        parts.end()
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'w, 'o>, Failed> {
        self.begin("[", "]")
    }

    fn serialize_tuple(self, len: usize) -> Result<Parts<'w, 'o>, Failed> {
        self.begin("(", if len == 1 { ",)" } else { ")" })
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Parts<'w, 'o>, Failed> {
        self.out.write_str(name)?;
        self.begin("(", ")")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Parts<'w, 'o>, Failed> {
        self.serialize_tuple(len)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'w, 'o>, Failed> {
        self.begin("{", "}")
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts<'w, 'o>, Failed> {
        if name == TICKET {
            self.in_ticket = true;
            return self.begin("<object ", ">");
        }
        // The number of an object, as part of a ticket.
        if self.in_ticket {
            return self.begin("", "");
        }
        self.out.write_str(name)?;
        self.begin("(", ")")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Parts<'w, 'o>, Failed> {
        self.serialize_struct(variant, len)
    }
}

/// Sequences, and what is printed as one.
macro_rules! sequence {
    ($($part:ident: $method:ident),*) => {$(
        impl ser::$part for Parts<'_, '_> {
            type Ok = ();
            type Error = Failed;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
                self.part("", value)
            }

            fn end(self) -> Result<(), Failed> {
                self.end()
            }
        }
    )*};
}

sequence! {
    SerializeSeq: serialize_element, SerializeTuple: serialize_element, SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
}

/// Structs, and what is printed as one.
macro_rules! with_names {
    ($($part:ident),*) => {$(
        impl ser::$part for Parts<'_, '_> {
            type Ok = ();
            type Error = Failed;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Failed> {
                match (self.writer.in_ticket, name) {
                    (false, _) => self.part(&format!("{name}="), value),
                    (true, "id" | "index") => value.serialize(&mut *self.writer),
                    (true, _) => Ok(()),
                }
            }

            fn end(self) -> Result<(), Failed> {
                // A ticket's end; that of the number in it has none.
                self.writer.in_ticket &= self.end.is_empty();
                self.end()
            }
        }
    )*};
}

with_names! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Parts<'_, '_> {
    type Ok = ();
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        self.part("", key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        self.writer.out.write_str(": ")?;
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Failed> {
        self.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::{Repr, short};

    fn repr(value: impl Serialize) -> String {
        Repr(&value).to_string()
    }

    #[derive(Serialize)]
    struct Point {
        x: i32,
        y: Option<f64>,
    }

    #[derive(Serialize)]
    enum Any {
        None,
        Int(i64),
        Pair(u8, u8),
        Named { a: bool },
    }

    #[derive(Serialize)]
    struct Meters(f32);

    #[test]
    fn values_look_as_in_python() {
        assert_eq!(repr((1, "x", true, None::<u8>, Some(2))), "(1, 'x', True, None, 2)");
        assert_eq!(repr((1,)), "(1,)");
        assert_eq!(repr(vec![0.25, 1.0, -0.0]), "[0.25, 1.0, -0.0]");
        assert_eq!(repr([1e16, 1.5e-7, 1e300, 1e15]), "(1e+16, 1.5e-07, 1e+300, 1000000000000000.0)");
        assert_eq!(repr([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]), "(nan, inf, -inf)");
        assert_eq!(repr(BTreeMap::from([(1, "a"), (2, "b")])), "{1: 'a', 2: 'b'}");
        assert_eq!(repr(()), "None");
        assert_eq!(repr('c'), "'c'");
    }

    #[test]
    fn text_is_quoted_as_python_does() {
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("\"it's\""), "'\"it\\'s\"'");
        assert_eq!(repr("a\n\t\\\x01é"), "'a\\n\\t\\\\\\x01é'");
    }

    #[test]
    fn structs_are_calls_and_variants_what_is_in_them() {
        assert_eq!(repr(Point { x: 1, y: None }), "Point(x=1, y=None)");
        assert_eq!(repr(vec![Any::None, Any::Int(3), Any::Pair(1, 2)]), "[None, 3, (1, 2)]");
        assert_eq!(repr(Any::Named { a: false }), "Named(a=False)");
        assert_eq!(repr(Meters(0.1)), "Meters(0.1)");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(short(&vec![1u8; 1 << 20], 9), "[1, 1, 1,...");
        assert_eq!(short("abc", 5), "'abc'");
        assert_eq!(short("abcd", 5), "'abcd...");
    }
}
