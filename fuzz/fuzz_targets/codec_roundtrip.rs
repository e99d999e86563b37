//! Arbitrary values through a queue and a connection come out as they went in; arbitrary bytes in a message are a value or
//! an error. Either way nothing of the segment stays in use.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use kinfolk::{
    Connection, ErrorKind, Event, GetError, Lock, Mutex, PutError, Queue, RecvError, Segment, SendError, pipe,
};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeTuple};

#[derive(Arbitrary, Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Value {
    Unit,
    Bool(bool),
    Small(i8, u8),
    Number(i64),
    Large(u128, i128),
    Float(Bits),
    Letter(char),
    Text(String),
    Bytes(Vec<u8>),
    Some(Option<Box<Value>>),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
    Result(Result<u16, String>),
    Fields {
        first: Box<(Value, Value)>,
        second: [u8; 3],
    },
    /// Repeated, so that it needs a block of its own.
    Long {
        byte: u8,
        times: u16,
    },
    Handle(Handle),
}

/// A float, equal if its bits are.
#[derive(Arbitrary, Debug, Clone, Copy, PartialEq)]
struct Bits(u64);

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from_bits(self.0))
    }
}

impl<'de> Deserialize<'de> for Bits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(f64::deserialize(deserializer)?.to_bits()))
    }
}

/// A handle in the plan is a number, and an object in the message.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Handle {
    Lock(Lock),
    Number(Mutex<u64>),
    Event(Event),
    Queue(Queue<u8>),
    Itself(Box<Queue<Message>>),
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lock(a), Self::Lock(b)) => a.id() == b.id(),
            (Self::Number(a), Self::Number(b)) => a.id() == b.id(),
            (Self::Event(a), Self::Event(b)) => a.id() == b.id(),
            (Self::Queue(a), Self::Queue(b)) => a.id() == b.id(),
            (Self::Itself(a), Self::Itself(b)) => a.id() == b.id(),
            _ => false,
        }
    }
}

impl<'a> Arbitrary<'a> for Handle {
    fn arbitrary(u: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        // No memory left is an input of its own, and no error of the target.
        let made = match u.int_in_range(0..=4)? {
            0 => Lock::new(()).map(Self::Lock),
            1 => Mutex::new(7).map(Self::Number),
            2 => Event::new().map(Self::Event),
            3 => Queue::builder().bytes(4096).build().map(Self::Queue),
            _ => {
                return Ok(Self::Itself(Box::new(
                    ENDS.with_borrow(|ends| ends.as_ref().expect("made first").queue.clone()),
                )));
            }
        };
        made.map_err(|_| arbitrary::Error::IncorrectFormat)
    }
}

/// What a message holds: a value, or bytes that stand where a value is expected.
#[derive(Arbitrary, Debug, Clone, PartialEq)]
enum Message {
    Value(Value),
    Raw(Vec<u8>),
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Raw(bytes) => {
                let mut tuple = serializer.serialize_tuple(bytes.len())?;
                bytes.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
                tuple.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::Value)
    }
}

struct Ends {
    queue: Queue<Message>,
    here: Connection<Message, Message>,
    there: Connection<Message, Message>,
    used: usize,
}

thread_local! {
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

fn ends() -> Ends {
    let segment = Segment::builder().size(8 << 20).make_family().expect("the first of this process");
    let queue = Queue::builder().bytes(4096).build().expect("a queue");
    let (here, there) = pipe().expect("a pipe");
    Ends { queue, here, there, used: segment.stats().used_bytes }
}

/// What came out for what went in.
fn compare(sent: &Message, got: Result<Message, Option<ErrorKind>>) {
    match (sent, got) {
        (Message::Value(_), Ok(got)) => assert_eq!(*sent, got),
        // Bytes that look like a handle may name what is not there.
        (Message::Raw(_), Ok(_) | Err(Some(_))) => {}
        (_, Err(e)) => panic!("{e:?} for {sent:?}"),
    }
}

/// The only reasons for which a value may not go.
fn may_fail(kind: ErrorKind) {
    assert!(matches!(kind, ErrorKind::OutOfSpace | ErrorKind::InvalidInput), "{kind:?}");
}

fn expand(message: &mut Message) {
    fn value(v: &mut Value) {
        match v {
            Value::Long { byte, times } => *v = Value::Bytes(vec![*byte; usize::from(*times) * 8]),
            Value::Some(Some(inner)) => value(inner),
            Value::List(list) => list.iter_mut().for_each(value),
            Value::Map(map) => map.values_mut().for_each(value),
            Value::Fields { first, .. } => {
                value(&mut first.0);
                value(&mut first.1);
            }
            _ => {}
        }
    }
    match message {
        Message::Value(v) => value(v),
        // A type that contains itself is decoded as deep as the bytes say.
        Message::Raw(bytes) => bytes.truncate(512),
    }
}

fn exchange(messages: &[Message]) {
    ENDS.with_borrow(|ends| {
        let Ends { queue, here, there, .. } = ends.as_ref().expect("made first");
        for message in messages {
            match queue.try_put(message.clone()) {
                Ok(()) => compare(
                    message,
                    queue.try_get().map_err(|e| match e {
                        GetError::Decode(e) => Some(e.kind()),
                        _ => None,
                    }),
                ),
                Err(PutError::Failed(back, e)) => {
                    assert_eq!(back, *message, "the value comes back");
                    may_fail(e.kind());
                }
                Err(e) => panic!("{e}"),
            }
            assert!(queue.is_empty());
            for (from, to) in [(here, there), (there, here)] {
                match from.try_send(message.clone()) {
                    Ok(()) => compare(
                        message,
                        to.try_recv().map_err(|e| match e {
                            RecvError::Decode(e) => Some(e.kind()),
                            _ => None,
                        }),
                    ),
                    Err(SendError::Failed(back, e)) => {
                        assert_eq!(back, *message, "the value comes back");
                        may_fail(e.kind());
                    }
                    Err(e) => panic!("{e}"),
                }
            }
        }
    });
}

fuzz_target!(|data: &[u8]| {
    ENDS.with_borrow_mut(|slot| {
        slot.get_or_insert_with(ends);
    });
    if let Ok(mut messages) = Vec::<Message>::arbitrary_take_rest(arbitrary::Unstructured::new(data)) {
        messages.iter_mut().for_each(expand);
        exchange(&messages);
    }
    let used = ENDS.with_borrow(|ends| ends.as_ref().expect("made first").used);
    assert_eq!(Segment::family().expect("made first").stats().used_bytes, used, "something stays in use");
});
