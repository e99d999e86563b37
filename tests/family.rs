//! The segment that every process has without asking: its size, and who may set it.

mod support;

use kinfolk::{ErrorKind, Process, Segment};

/// Runs `f` in a child whose environment says how large its own family's segment is to be.
fn with_bytes(bytes: &str, test: &str) -> std::process::Output {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("KINFOLK_SEGMENT_BYTES", bytes)
        .output()
        .unwrap()
}

#[test]
#[ignore = "run by another test"]
fn tells_the_size_of_its_family() {
    match Segment::family() {
        Ok(segment) => println!("size={}", rustix::fs::fstat(&segment).unwrap().st_size),
        Err(e) => println!("error={:?}", e.kind()),
    }
}

#[test]
fn the_environment_sizes_the_family_segment() {
    let says = |bytes| String::from_utf8(with_bytes(bytes, "tells_the_size_of_its_family").stdout).unwrap();
    assert!(says("16M").contains(&format!("size={}", 16 << 20)));
    assert!(says("64x").contains("error=InvalidInput"));
    assert!(says("4096").contains("error=InvalidInput"));
}

#[test]
#[ignore = "run by another test"]
fn makes_its_family_itself() {
    let made = Segment::builder().size(32 << 20).processes(8).lanes(40).make_family().unwrap();
    assert_eq!(rustix::fs::fstat(&made).unwrap().st_size, 32 << 20);
    let again = Segment::builder().make_family().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InvalidInput);
    // Seven children fit beside this process, and the eighth is refused until one has gone.
    let nap = |()| -> () { std::thread::park() };
    let children: Vec<_> = (0..7).map(|_| Process::builder().daemon(true).spawn(nap, ()).unwrap()).collect();
    assert_eq!(Process::builder().daemon(true).spawn(nap, ()).unwrap_err().kind(), ErrorKind::TooManyProcesses);
    children[3].kill().unwrap();
    assert!(children.into_iter().nth(3).unwrap().join().is_err());
    assert_eq!(Process::spawn(|n: u32| n + 1, 1).unwrap().join().unwrap(), 2);
    println!("made");
}

#[test]
fn the_builder_sizes_the_family_segment_and_its_tables() {
    let output = with_bytes("1G", "makes_its_family_itself");
    assert!(String::from_utf8_lossy(&output.stdout).contains("made"), "{output:?}");
}
