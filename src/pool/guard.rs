//! Code of users' types that runs in threads which work for others: a panic of it is an error of its own task.

use std::any::Any;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind};

/// Runs code of a value's type that encodes or decodes it; its panic is an error.
pub(super) fn guarded<R>(doing: &'static str, f: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        let message = format!("the type's code panicked: {}", text_of(&*payload));
        discard(payload);
        Err(Error::new(ErrorKind::Codec, doing, message))
    })
}

/// Runs code whose panic concerns nobody here, such as the drop of a result that nobody wants: the panic's hook has told of
/// it.
pub(super) fn contained<R>(f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).map_err(discard).ok()
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a value that is not text")
}

/// Drops what a panic carried, which may panic in turn.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        forget(another);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_or_nothing() {
        let error = guarded::<()>("encode", || panic!("of {}", "a type")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().contains("of a type"), "{error}");
        assert_eq!(guarded("encode", || Ok(1)).unwrap(), 1);
        struct Nasty;
        impl Drop for Nasty {
            fn drop(&mut self) {
                panic!("a panic's value");
            }
        }
        assert_eq!(contained(|| std::panic::panic_any(Nasty)), None::<()>);
        assert_eq!(contained(|| 2), Some(2));
    }
}
