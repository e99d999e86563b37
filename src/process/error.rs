//! Why a child gave no result.

use crate::error::Error;
use thiserror::Error as ThisError;

/// Why [`Process::join`](super::Process::join) has no result to give.
///
/// Python: `exitcode` tells most of it; a panic's message goes to the child's standard error only.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum JoinError {
    /// The function panicked. The child has printed the panic to its standard error, and ended with exit code 1 (or with
    /// SIGABRT in a program that aborts on panics).
    #[error("the process panicked at {location}: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
        /// Where, as `file:line:column`.
        location: String,
        /// The calls that led there, innermost first, if the environment variable `RUST_BACKTRACE` asked for them.
        backtrace: Option<String>,
    },
    /// The function used up its thread's stack. The child has said so on its standard error, and ended by SIGABRT.
    #[error("the process overflowed its stack")]
    StackOverflow,
    /// A signal ended the process before the function had returned.
    #[error("the process was killed by {}{}", Signal(*signal), if *core_dumped { " (core dumped)" } else { "" })]
    Signaled {
        /// The signal's number, 9 for SIGKILL.
        signal: i32,
        /// Whether a core file was written.
        core_dumped: bool,
    },
    /// The process exited before the function had returned: it called [`std::process::exit`], say.
    #[error("the process exited with code {code} before its function returned")]
    Exited {
        /// The exit code, 0 to 255.
        code: i32,
    },
    /// The function returned, but its result cannot be decoded here.
    #[error("the result cannot be read: {0}")]
    Decode(#[source] Error),
    /// The child could not begin or could not hand over its result, or it could not be waited for.
    #[error("the process failed: {0}")]
    Failed(#[source] Error),
}

/// A signal by its name, as far as it has one.
struct Signal(i32);

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match crate::sys::identity::signal_name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}
