//! ipc-channel, between two processes.

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use kinfolk::Process;

use crate::play::{self, Game, LARGE, Pair, Peer, Port, Running, Small, answer, large};

struct Ipc {
    out: IpcBytesSender,
    inward: IpcBytesReceiver,
    buffer: Vec<u8>,
}

impl Ipc {
    fn new(out: IpcBytesSender, inward: IpcBytesReceiver) -> Self {
        Self { out, inward, buffer: vec![0; LARGE] }
    }
}

impl Port for Ipc {
    #[inline]
    fn send(&mut self, message: Small) {
        self.out.send(bytemuck::bytes_of(&message)).expect("send over ipc-channel");
    }

    #[inline]
    fn recv(&mut self) -> Small {
        let bytes = self.inward.recv().expect("receive from ipc-channel");
        bytemuck::pod_read_unaligned(&bytes)
    }

    fn send_large(&mut self, number: u64, wanted: u64, whole: bool) {
        play::fill(&mut self.buffer, number, wanted, whole);
        self.out.send(&self.buffer).expect("send over ipc-channel");
    }

    fn recv_large(&mut self, whole: bool) -> (u64, u64) {
        play::read(&self.inward.recv().expect("receive from ipc-channel"), whole)
    }
}

type Ends = (IpcBytesSender, IpcBytesReceiver);

fn other((server, large, cpu): (String, Option<bool>, usize)) {
    let (its_out, inward) = ipc::bytes_channel().expect("make an ipc-channel");
    let (out, its_in) = ipc::bytes_channel().expect("make an ipc-channel");
    let hello = IpcSender::<Ends>::connect(server).expect("find the server");
    hello.send((its_out, its_in)).expect("hand the ends over");
    answer(Ipc::new(out, inward), large, cpu);
}

pub fn start(game: Game, [_, there]: [usize; 2]) -> Box<dyn Pair> {
    let (server, name) = IpcOneShotServer::<Ends>::new().expect("make a server");
    let peer = Process::spawn(other, (name, large(game), there)).expect("start the other side");
    let (_, (out, inward)) = server.accept().expect("the other side connects");
    Running::new(Ipc::new(out, inward), Peer::Process(peer), game)
}
