//! What pool and workers send each other: a head of fixed size, and behind it what postcard makes of arguments and results.

use super::board::Ticket;

/// In the word of the count: [`TaskHead::measured`].
const MEASURED: u64 = 1 << 63;

/// Bytes of a head, of both kinds, so that a worker can write a result over its task.
pub(super) const HEAD: usize = 32;

/// The head of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskHead {
    pub ticket: Ticket,
    /// Where the function is in the program.
    pub function: u64,
    /// For how many arguments it is to be called.
    pub count: u64,
    /// Whether the answer is to say how long it ran: to look at the clock twice costs as much as a short task.
    pub measured: bool,
}

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The function returned: its result.
    Returned = 1,
    /// It panicked: the panic.
    Panicked = 2,
    /// Its result could not be sent, or its arguments not be read: a text.
    Unsendable = 3,
    /// The worker, whose number stands in the slot's place, can begin.
    Ready = 4,
    /// No worker can begin or go on, since the pool's initializer failed or its memory is spoilt: a text.
    Hopeless = 5,
    /// The parent to itself: the worker in the slot's place is dead, and all that it sent came before this.
    Died = 6,
    /// The parent to itself: look again.
    Look = 7,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerHead {
    pub word: Word,
    pub ticket: Ticket,
    /// How long the function ran; 0 if that was not asked for.
    pub nanos: u64,
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl TaskHead {
    /// Writes it where the first [`HEAD`] bytes are.
    #[inline]
    pub fn write(self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.ticket.generation.to_le_bytes());
        to[8..16].copy_from_slice(&u64::from(self.ticket.slot).to_le_bytes());
        to[16..24].copy_from_slice(&self.function.to_le_bytes());
        let measured = if self.measured { MEASURED } else { 0 };
        to[24..32].copy_from_slice(&(self.count & !MEASURED | measured).to_le_bytes());
    }

    #[inline]
    pub fn read(from: &[u8]) -> Option<Self> {
        let slot = u32::try_from(number(from, 8)?).ok()?;
        let ticket = Ticket { generation: number(from, 0)?, slot };
        let (function, count) = (number(from, 16)?, number(from, 24)?);
        Some(Self { ticket, function, count: count & !MEASURED, measured: count & MEASURED != 0 })
    }
}

impl AnswerHead {
    /// A head that is about no task but about this worker.
    pub fn of_worker(word: Word, serial: u64) -> Self {
        Self { word, ticket: Ticket { slot: 0, generation: serial }, nanos: 0 }
    }

    /// Writes it where the first [`HEAD`] bytes are.
    #[inline]
    pub fn write(self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.ticket.generation.to_le_bytes());
        to[8..16].copy_from_slice(&(u64::from(self.ticket.slot) | (self.word as u64) << 32).to_le_bytes());
        to[16..24].copy_from_slice(&self.nanos.to_le_bytes());
    }

    #[inline]
    pub fn read(from: &[u8]) -> Option<Self> {
        let second = number(from, 8)?;
        let word = match second >> 32 {
            1 => Word::Returned,
            2 => Word::Panicked,
            3 => Word::Unsendable,
            4 => Word::Ready,
            5 => Word::Hopeless,
            6 => Word::Died,
            7 => Word::Look,
            _ => return None,
        };
        let ticket = Ticket { generation: number(from, 0)?, slot: second as u32 };
        (from.len() >= HEAD).then_some(Self { word, ticket, nanos: number(from, 16)? })
    }

    /// The whole message: the head, and `rest` behind it.
    pub fn with(self, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEAD];
        self.write(&mut bytes);
        bytes.extend_from_slice(rest);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_were_written() {
        let ticket = Ticket { slot: 7, generation: 1 << 39 };
        let mut bytes = [0; HEAD];
        for measured in [false, true] {
            let task = TaskHead { ticket, function: u64::MAX, count: 3, measured };
            task.write(&mut bytes);
            assert_eq!(TaskHead::read(&bytes), Some(task));
        }
        assert_eq!(TaskHead::read(&bytes[..HEAD - 1]), None);
        for word in [Word::Returned, Word::Panicked, Word::Unsendable, Word::Ready, Word::Hopeless, Word::Died] {
            let answer = AnswerHead { word, ticket, nanos: 9 };
            assert_eq!(AnswerHead::read(&answer.with(b"x")), Some(answer));
        }
        assert_eq!(AnswerHead::read(&[0; HEAD]), None);
    }
}
