//! iceoryx2's publish and subscribe, polled, between two processes.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use kinfolk::Process;

use crate::play::{self, Game, LARGE, Pair, Peer, Port, Running, Small, answer, large};

/// Messages on their way, at most.
const BUFFER: usize = 64;
const LARGE_BUFFER: usize = 4;

type Service = ipc::Service;

struct Topics {
    out: Publisher<Service, Small, ()>,
    inward: Subscriber<Service, Small, ()>,
    large_out: Option<Publisher<Service, [u8], ()>>,
    large_in: Option<Subscriber<Service, [u8], ()>>,
    /// Keeps the services.
    _node: Node<Service>,
}

impl Topics {
    /// The side numbered 0 or 1 of a pair of topics.
    fn new(name: &str, side: usize) -> Self {
        let node = NodeBuilder::new().create::<Service>().expect("make a node");
        let topic = |k: usize| {
            let name = format!("kinfolk-compare/{name}/{k}");
            let service = node.service_builder(&name.as_str().try_into().expect("a name"));
            service
                .publish_subscribe::<Small>()
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(BUFFER)
                .open_or_create()
                .expect("make a topic")
        };
        let out = topic(side).publisher_builder().create().expect("make a publisher");
        let inward = topic(1 - side).subscriber_builder().create().expect("make a subscriber");
        let name = format!("kinfolk-compare/{name}/large");
        let large = node
            .service_builder(&name.as_str().try_into().expect("a name"))
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(LARGE_BUFFER)
            .open_or_create()
            .expect("make a topic");
        let publisher = || large.publisher_builder().initial_max_slice_len(LARGE).create().expect("make a publisher");
        let subscriber = || large.subscriber_builder().create().expect("make a subscriber");
        let (large_out, large_in) = if side == 0 { (Some(publisher()), None) } else { (None, Some(subscriber())) };
        Self { out, inward, large_out, large_in, _node: node }
    }
}

impl Port for Topics {
    #[inline]
    fn send(&mut self, message: Small) {
        // With the blocking strategy a full subscriber holds the publisher up; nothing is lost.
        while self.out.send_copy(message).expect("publish") == 0 {
            std::hint::spin_loop();
        }
    }

    #[inline]
    fn recv(&mut self) -> Small {
        loop {
            if let Some(sample) = self.inward.receive().expect("receive") {
                return *sample;
            }
            std::hint::spin_loop();
        }
    }

    fn send_large(&mut self, number: u64, wanted: u64, whole: bool) {
        let publisher = self.large_out.as_ref().expect("the first side publishes");
        let mut sample = loop {
            if let Ok(sample) = publisher.loan_slice_uninit(LARGE) {
                break sample;
            }
            std::hint::spin_loop();
        };
        // SAFETY: bytes; what is not written is left over from other messages.
        play::fill(unsafe { sample.payload_mut().assume_init_mut() }, number, wanted, whole);
        // SAFETY: as above.
        while unsafe { sample.assume_init() }.send().expect("publish") == 0 {
            panic!("nobody has subscribed");
        }
    }

    fn recv_large(&mut self, whole: bool) -> (u64, u64) {
        let subscriber = self.large_in.as_ref().expect("the second side subscribes");
        loop {
            if let Some(sample) = subscriber.receive().expect("receive") {
                return play::read(&sample, whole);
            }
            std::hint::spin_loop();
        }
    }
}

fn other((name, large, cpu): (String, Option<bool>, usize)) {
    let mut port = Topics::new(&name, 1);
    // Says that it is there: what is published before anybody subscribes is lost.
    port.send(play::small(0, play::PLAIN));
    answer(port, large, cpu);
}

pub fn start(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    set_log_level(LogLevel::Error);
    let name = format!("{}-{}", std::process::id(), STARTED.fetch_add(1, Relaxed));
    let mut here = Topics::new(&name, 0);
    let peer = Process::spawn(other, (name, large(game), there)).expect("start the other side");
    here.recv();
    Running::new(here, Peer::Process(peer), game)
}
