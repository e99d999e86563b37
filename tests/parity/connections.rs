//! `_TestConnection`, `_TestPoll`, `_TestPicklingConnections`.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use kinfolk::channel::Fd;
use kinfolk::{Connection, ErrorKind, Process, Receiver, RecvError, SendError, Sender, pipe, pipe_oneway};

use super::{DELTA, guard};

/// Tells the echo to stop.
const SENTINEL: &[u8] = b"";

/// What stands for Python's `[1, 2.25, None]`, or for `None`.
type Object = Option<(i32, f64, Option<()>)>;

fn echo(end: Connection<Object, Object>) {
    loop {
        match end.recv_bytes(None).unwrap() {
            message if message == SENTINEL => return,
            message => end.send_bytes(&message).unwrap(),
        }
    }
}

#[test]
fn objects_and_bytes_come_back_from_an_echo_and_then_the_end_of_file() {
    let _guard = guard();
    let (connection, childs) = pipe::<Object, Object>().unwrap();
    let child = Process::builder().daemon(true).spawn(echo, childs.clone()).unwrap();
    let sequence = Some((1, 2.25, None));
    connection.send(sequence).unwrap();
    assert_eq!(connection.recv().unwrap(), sequence);
    let message = b"hello world";
    connection.send_bytes(message).unwrap();
    assert_eq!(connection.recv_bytes(None).unwrap(), message);

    // Into a buffer, at its start and further on; and into one that is too short.
    let mut buffer = [0; 40];
    connection.send_bytes(&[9; 16]).unwrap();
    assert_eq!(connection.recv_bytes_into(&mut buffer).unwrap(), 16);
    assert!(buffer[..16] == [9; 16] && buffer[16..] == [0; 24]);
    connection.send_bytes(&[8; 16]).unwrap();
    assert_eq!(connection.recv_bytes_into(&mut buffer[12..]).unwrap(), 16);
    assert!(buffer[..12] == [9; 12] && buffer[12..28] == [8; 16] && buffer[28..] == [0; 12]);
    let long = message.repeat(10);
    connection.send_bytes(&long).unwrap();
    assert!(matches!(connection.recv_bytes_into(&mut buffer), Err(RecvError::BufferTooShort(all)) if all == long));

    assert!(!connection.poll(Some(Duration::ZERO)).unwrap());
    let begin = Instant::now();
    assert!(!connection.poll(Some(DELTA)).unwrap());
    assert!(begin.elapsed() >= DELTA);
    connection.send(None).unwrap();
    assert!(connection.poll(None).unwrap());
    assert_eq!(connection.recv().unwrap(), None);

    let really_big = vec![b'X'; 16 << 20];
    connection.send_bytes(&really_big).unwrap();
    assert!(connection.recv_bytes(None).unwrap() == really_big);
    connection.send_bytes(SENTINEL).unwrap();
    childs.close();
    assert!(matches!(connection.recv(), Err(RecvError::Disconnected(None))));
    assert!(matches!(connection.recv_bytes(None), Err(RecvError::Disconnected(None))));
    child.join().unwrap();
}

#[test]
fn a_one_way_pipe_is_read_at_one_end_and_written_at_the_other() {
    let (reader, writer) = pipe_oneway::<i32>().unwrap();
    writer.send(1).unwrap();
    assert_eq!(reader.recv().unwrap(), 1);
    // The wrong direction is no error here: it does not compile (see the documentation of the two types).
    let _: (&Receiver<i32>, &Sender<i32>) = (&reader, &writer);
}

#[test]
fn a_childs_end_may_be_closed_here_as_soon_as_the_child_is_started() {
    let _guard = guard();
    let (connection, childs) = pipe().unwrap();
    let child = Process::builder().daemon(true).spawn(echo, childs.clone()).unwrap();
    childs.close();
    connection.send_bytes(b"hello").unwrap();
    assert_eq!(connection.recv_bytes(None).unwrap(), b"hello");
    connection.send_bytes(SENTINEL).unwrap();
    connection.close();
    child.join().unwrap();
}

#[test]
fn any_part_of_a_buffer_is_sent() {
    let message: Vec<u8> = (b'a'..=b'z').collect();
    let (a, b) = pipe::<(), ()>().unwrap();
    for part in [0..26, 5..26, 7..15, 26..26] {
        a.send_bytes(&message[part.clone()]).unwrap();
        assert_eq!(b.recv_bytes(None).unwrap(), &message[part]);
    }
    // Python's `ValueError`s: parts that the buffer does not have.
    for (start, end) in [(27, 27), (22, 27), (26, 27), (27, 26), (4, 3)] {
        assert_eq!(message.get(start..end), None);
    }
}

/// Writes `text` into the file that comes.
fn write_into((files, text): (Receiver<Fd>, String)) {
    let mut file = File::from(files.recv().unwrap());
    file.write_all(text.as_bytes()).unwrap();
}

fn unnamed_file() -> File {
    let place = std::env::temp_dir();
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    File::from(rustix::fs::open(place, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap())
}

fn text_of(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_child_writes_into_a_file_that_was_sent_to_it() {
    let _guard = guard();
    let (receiver, sender) = pipe_oneway().unwrap();
    let child = Process::builder().daemon(true).spawn(write_into, (receiver, "foo".into())).unwrap();
    let file = unnamed_file();
    sender.send(file.try_clone().unwrap().into()).unwrap();
    child.join().unwrap();
    assert_eq!(text_of(file), "foo");
}

#[test]
fn a_descriptor_above_256_arrives_where_all_below_are_taken() {
    let _guard = guard();
    fn crowded(args: (Receiver<Fd>, String)) {
        let null = File::open("/dev/null").unwrap();
        let taken: Vec<File> = (0..256).map(|_| null.try_clone().unwrap()).collect();
        write_into(args);
        drop(taken);
    }
    let (receiver, sender) = pipe_oneway().unwrap();
    let child = Process::builder().daemon(true).spawn(crowded, (receiver, "bar".into())).unwrap();
    let file = unnamed_file();
    let high = rustix::io::fcntl_dupfd_cloexec(&file, 257).unwrap();
    assert!(high.as_raw_fd() > 256);
    sender.send(high.into()).unwrap();
    child.join().unwrap();
    assert_eq!(text_of(file), "bar");
}

#[test]
fn a_message_whose_descriptor_is_missing_is_an_error() {
    let _guard = guard();
    // The same bytes twice, from another process: the first takes the descriptor.
    fn twice((from, to): (Receiver<Fd>, Sender<Fd>)) {
        let bytes = from.recv_bytes(None).unwrap();
        to.send_bytes(&bytes).unwrap();
        to.send_bytes(&bytes).unwrap();
    }
    let (receiver, sender) = pipe_oneway().unwrap();
    let (copies, to) = pipe_oneway::<Fd>().unwrap();
    sender.send(unnamed_file().into()).unwrap();
    let child = Process::spawn(twice, (receiver, to)).unwrap();
    copies.recv().unwrap();
    assert!(matches!(copies.recv(), Err(RecvError::Decode(e)) if e.kind() == ErrorKind::Gone));
    child.join().unwrap();
}

#[test]
fn ends_are_closed_at_the_end_of_their_scope() {
    let (outer_a, outer_b) = pipe::<u32, u32>().unwrap();
    {
        let (a, b) = (outer_a.clone(), outer_b);
        a.send(1729).unwrap();
        assert_eq!(b.recv().unwrap(), 1729);
        assert!(!a.is_closed() && !b.is_closed());
    }
    // What Python calls closed is not there any more; the other end sees it.
    assert!(outer_a.is_closed());
    assert!(matches!(outer_a.recv(), Err(RecvError::Disconnected(None))));
    assert!(matches!(outer_a.send(1), Err(SendError::Disconnected(1, None))));
}

#[test]
fn poll_sees_an_empty_message_and_leaves_it() {
    let (a, b) = pipe::<(), ()>().unwrap();
    assert!(!a.poll(Some(Duration::ZERO)).unwrap());
    b.send_bytes(b"").unwrap();
    assert!(a.poll(Some(Duration::ZERO)).unwrap());
    assert!(a.poll(Some(Duration::ZERO)).unwrap());
    assert_eq!(a.try_recv_bytes(None).unwrap(), b"");
}

#[test]
fn short_and_empty_messages_keep_their_boundaries() {
    const STRINGS: [&[u8]; 8] = [b"hello", b"", b"a", b"b", b"", b"bye", b"", b"lop"];
    let _guard = guard();
    let (a, b) = pipe::<(), ()>().unwrap();
    let send = |end: Connection<(), ()>| {
        for string in STRINGS {
            // One by one, each when the one before has been received.
            end.recv().unwrap();
            end.send_bytes(string).unwrap();
        }
    };
    let child = Process::spawn(send, b).unwrap();
    for string in STRINGS {
        assert!(!a.poll(Some(Duration::ZERO)).unwrap());
        a.send(()).unwrap();
        assert!(a.poll(None).unwrap());
        assert_eq!(a.recv_bytes(None).unwrap(), string);
    }
    child.join().unwrap();
}

#[test]
fn who_polls_takes_no_part_of_a_message_from_others() {
    let _guard = guard();
    let (reader, writer) = pipe_oneway::<()>().unwrap();
    let poll = |reader: Receiver<()>| reader.poll(None).unwrap();
    let child = Process::spawn(poll, reader.clone()).unwrap();
    writer.send_bytes(b"first").unwrap();
    writer.send_bytes(b"second").unwrap();
    writer.close();
    assert!(child.join().unwrap());
    assert_eq!(reader.recv_bytes(None).unwrap(), b"first");
    assert_eq!(reader.recv_bytes(None).unwrap(), b"second");
}

#[test]
fn two_messages_are_never_merged() {
    let _guard = guard();
    let (a, b) = pipe::<(), ()>().unwrap();
    assert!(!a.poll(Some(Duration::ZERO)).unwrap());
    assert!(!a.poll(Some(DELTA)).unwrap());
    let send = |end: Connection<(), ()>| {
        for message in [&b"a"[..], b"b", b"cd"] {
            end.send_bytes(message).unwrap();
        }
    };
    let child = Process::spawn(send, b).unwrap();
    assert_eq!(a.recv_bytes(None).unwrap(), b"a");
    let second = Some(Duration::from_secs(10));
    assert!(a.poll(second).unwrap() && a.poll(second).unwrap());
    assert_eq!(a.recv_bytes(None).unwrap(), b"b");
    assert!(a.poll(second).unwrap() && a.poll(second).unwrap() && a.poll(Some(Duration::ZERO)).unwrap());
    assert_eq!(a.recv_bytes(None).unwrap(), b"cd");
    child.join().unwrap();
}

#[test]
fn connections_and_sockets_go_through_connections() {
    /// What the listener sends.
    #[derive(serde::Serialize, serde::Deserialize)]
    enum Told {
        End(Connection<String, String>),
        Address(SocketAddr),
        Socket(Fd),
    }
    fn listener(told: Connection<Told, Connection<String, String>>) {
        // An end that came, and goes on to whoever asks.
        told.send(Told::End(told.recv().unwrap())).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        told.send(Told::Address(listener.local_addr().unwrap())).unwrap();
        let (stream, _) = listener.accept().unwrap();
        told.send(Told::Socket(stream.into())).unwrap();
        // The socket has to be fetched before this process ends.
        assert!(matches!(told.recv(), Err(RecvError::Disconnected(None))));
    }
    fn remote((end, jobs): (Connection<String, String>, Receiver<(SocketAddr, String)>)) {
        end.send("THIS CONNECTION WAS PASSED ON".into()).unwrap();
        let (address, text) = jobs.recv().unwrap();
        TcpStream::connect(address).unwrap().write_all(text.to_uppercase().as_bytes()).unwrap();
    }
    let _guard = guard();
    let (told, childs) = pipe().unwrap();
    let listening = Process::builder().daemon(true).spawn(listener, childs).unwrap();
    let (near, far) = pipe::<String, String>().unwrap();
    let (taken, jobs) = pipe_oneway().unwrap();
    let distant = Process::builder().daemon(true).spawn(remote, (far, taken)).unwrap();

    told.send(near).unwrap();
    let Told::End(end) = told.recv().unwrap() else { panic!("the end comes first") };
    assert_eq!(end.recv().unwrap(), "THIS CONNECTION WAS PASSED ON");
    let Told::Address(address) = told.recv().unwrap() else { panic!("then the address") };
    jobs.send((address, "This connection uses a normal socket".into())).unwrap();
    let Told::Socket(socket) = told.recv().unwrap() else { panic!("then the socket") };
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text).unwrap();
    assert_eq!(text, "THIS CONNECTION USES A NORMAL SOCKET");
    drop(told);
    listening.join().unwrap();
    distant.join().unwrap();
}

#[test]
fn a_reading_end_and_a_writing_end_go_through_a_connection() {
    /// Either end of a one-way pipe.
    #[derive(serde::Serialize, serde::Deserialize)]
    enum End {
        Write(Sender<String>),
        Read(Receiver<String>),
    }
    fn use_ends(connection: Connection<String, End>) {
        let End::Write(writer) = connection.recv().unwrap() else { panic!("the writing end comes first") };
        writer.send("all is well".into()).unwrap();
        drop(writer);
        let End::Read(reader) = connection.recv().unwrap() else { panic!("then the reading end") };
        connection.send(reader.recv().unwrap().repeat(2)).unwrap();
    }
    let _guard = guard();
    let (connection, childs) = pipe().unwrap();
    let child = Process::builder().daemon(true).spawn(use_ends, childs).unwrap();
    let (reader, writer) = pipe_oneway().unwrap();
    connection.send(End::Write(writer)).unwrap();
    assert_eq!(reader.recv().unwrap(), "all is well");
    drop(reader);
    let (reader, writer) = pipe_oneway().unwrap();
    connection.send(End::Read(reader)).unwrap();
    writer.send("foobar".into()).unwrap();
    drop(writer);
    assert_eq!(connection.recv().unwrap(), "foobarfoobar");
    child.join().unwrap();
}
