//! How a segment travels: a handle that goes to a process which may not have the handle's segment takes it along.
//!
//! The receiver attaches the segment if it is not attached yet: by its name, if it has one, or from its memory file, which
//! the sender keeps (`office.rs`). The sender also keeps the handle until the receiver has opened its own, so that the object
//! is there when the message is read. What the receiver decodes keeps the segment attached.

use std::sync::PoisonError;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::Segment;
use super::named::ATTACHING;
use super::object::Object;
use super::office::{self, OfficeTicket};
use super::passing::refuse;
use crate::error::{Error, ErrorKind};

/// What the receiver attaches a segment by.
#[derive(Serialize, Deserialize)]
pub(super) struct Carrier {
    name: Option<String>,
    kept: OfficeTicket,
}

impl Carrier {
    /// For the segment, and the handle that goes with it.
    pub fn of(segment: &Segment, object: Option<&Object>) -> Result<Self, Error> {
        Ok(Self { name: segment.name().map(str::to_owned), kept: office::keep_segment(segment, object)? })
    }

    /// The segment with this id, attached if it was not.
    pub fn attach(&self, id: u128) -> Result<Segment, Error> {
        if let Ok(segment) = Segment::attached(id) {
            return Ok(segment);
        }
        let has_id = |segment: &Segment| segment.inner().id() == id;
        // By its name it is opened also when the sender has ended.
        let named = self.name.as_ref().map(|name| Segment::open(name));
        if let Some(Ok(segment)) = named.as_ref().filter(|opened| opened.as_ref().is_ok_and(has_id)) {
            return Ok(segment.clone());
        }
        let attached = self.attach_kept(id);
        match (attached, named) {
            // Nobody has it any more, and its name is gone.
            (Err(e), Some(Err(by_name))) if e.kind() == ErrorKind::Gone => Err(by_name),
            (attached, _) => attached,
        }
    }

    fn attach_kept(&self, id: u128) -> Result<Segment, Error> {
        const DOING: &str = "attach the segment of a handle";
        let fd = office::fetch(&self.kept, DOING)?;
        let _one_at_a_time = ATTACHING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(segment) = Segment::attached(id) {
            return Ok(segment);
        }
        let segment = Segment::from_kept(fd, self.name.clone())?;
        if segment.inner().id() != id {
            let found = format!("segment {:032x} from process {}", segment.inner().id(), self.kept.pid());
            return Err(Error::new(ErrorKind::Corrupt, DOING, format!("{found}, expected {id:032x}")));
        }
        Ok(segment)
    }

    /// The receiver has what it needs, or does not want it: the sender need not keep it any longer.
    pub fn release(&self) {
        office::release(&self.kept);
    }
}

/// How a segment looks in a message.
#[derive(Serialize, Deserialize)]
struct Ticket {
    id: u128,
    carrier: Carrier,
}

/// A segment travels in messages and in a child's arguments; the receiver has it attached as long as it has a handle of the
/// segment, or of something in it. The sender need not keep it, but must live until the message has been decoded, unless
/// the segment has a name: see [`channel::Fd`](crate::channel::Fd).
impl Serialize for Segment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let carrier = Carrier::of(self, None).map_err(|e| refuse(e, ser::Error::custom))?;
        Ticket { id: self.inner().id(), carrier }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Segment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        let attached = ticket.carrier.attach(ticket.id).map_err(|e| refuse(e, de::Error::custom));
        ticket.carrier.release();
        attached
    }
}
