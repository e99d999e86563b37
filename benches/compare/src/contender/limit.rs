//! The least that moving a message can cost: one cache line each way, with its sequence number in it.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use crate::play::{Game, Pair, Peer, Port, Running, Small, answer, large};

const SLOTS: usize = 1024;

#[repr(align(64))]
struct Slot {
    sequence: AtomicU64,
    message: UnsafeCell<Small>,
}

/// One direction. A slot is written again a lap later, when the other side has long read it: it published how far it is.
#[repr(align(128))]
struct Lane {
    slots: [Slot; SLOTS],
    read: Apart,
}

#[repr(align(128))]
struct Apart(AtomicU64);

// SAFETY: a message is written before its sequence number and read after it, and written again after `read` passed it.
unsafe impl Sync for Lane {}

fn lane() -> Arc<Lane> {
    let slot = || Slot { sequence: AtomicU64::new(0), message: UnsafeCell::new([0; 7]) };
    Arc::new(Lane { slots: std::array::from_fn(|_| slot()), read: Apart(AtomicU64::new(0)) })
}

struct Side {
    out: Arc<Lane>,
    inward: Arc<Lane>,
    sent: u64,
    room: u64,
    received: u64,
}

impl Port for Side {
    #[inline]
    fn send(&mut self, message: Small) {
        while self.sent == self.room {
            self.room = self.out.read.0.load(Acquire) + SLOTS as u64;
            std::hint::spin_loop();
        }
        let slot = &self.out.slots[self.sent as usize % SLOTS];
        self.sent += 1;
        // SAFETY: the reader has passed the slot's former message, and looks at this one after the store below.
        unsafe { *slot.message.get() = message };
        slot.sequence.store(self.sent, Release);
    }

    #[inline]
    fn recv(&mut self) -> Small {
        let slot = &self.inward.slots[self.received as usize % SLOTS];
        self.received += 1;
        while slot.sequence.load(Acquire) != self.received {
            std::hint::spin_loop();
        }
        // SAFETY: written before the sequence number, and not again before `read` says that it was read.
        let message = unsafe { *slot.message.get() };
        if self.received % (SLOTS as u64 / 8) == 0 {
            self.inward.read.0.store(self.received, Release);
        }
        message
    }
}

pub fn start(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    let (out, inward) = (lane(), lane());
    let side = |out: &Arc<Lane>, inward: &Arc<Lane>| Side {
        out: out.clone(),
        inward: inward.clone(),
        sent: 0,
        room: SLOTS as u64,
        received: 0,
    };
    let (here, other) = (side(&out, &inward), side(&inward, &out));
    let thread = std::thread::spawn(move || answer(other, large(game), there));
    Running::new(here, Peer::Thread(thread), game)
}
