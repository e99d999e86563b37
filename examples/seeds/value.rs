//! A value of one of several types, as Python's lists hold them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value, printed as Python prints it inside a list.
#[derive(Debug, Serialize, Deserialize)]
pub enum Value {
    None,
    Int(i64),
    Str(String),
    List(Vec<Value>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::List(texts.into_iter().map(Self::Str).collect())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Int(number) => number.fmt(f),
            Self::Str(text) => write!(f, "'{}'", text.replace('\\', r"\\").replace('\'', r"\'")),
            Self::List(values) => {
                f.write_str("[")?;
                for (k, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if k == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}
