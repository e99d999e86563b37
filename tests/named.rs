//! Segments with names: whole or not there, one of each name, and nothing that somebody else put in their place.

mod support;

use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kinfolk::{Barrier, ErrorKind, Mutex, Process, Queue, Segment};
use support::random::Random;
use support::watchdog;
use support::watchdog::Watchdog;

const SIZE: u64 = 4 << 20;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(120))
}

/// A name that nobody else uses, free again at the end of the test.
struct Name(String);

impl Name {
    fn new(text: &str) -> Self {
        Self(format!("test-{}-{text}", std::process::id()))
    }

    fn path(&self) -> PathBuf {
        let user = fs::metadata("/proc/self").unwrap().uid();
        Path::new(&format!("/dev/shm/kinfolk-{user}")).join(&self.0)
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Segment::unlink(self);
    }
}

#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T, kinfolk::Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// The number that names the segment, as text.
fn id(segment: &Segment) -> String {
    let text = format!("{segment:?}");
    text.split(", ").find_map(|part| part.split(['(', ' ']).find(|word| word.len() == 32)).unwrap().to_owned()
}

#[test]
fn a_name_is_made_once_found_until_it_is_unlinked_and_then_free() {
    let name = Name::new("life");
    assert_eq!(kind(Segment::open(&name)), ErrorKind::NotFound);
    assert_eq!(kind(Segment::unlink(&name)), ErrorKind::NotFound);
    let first = Segment::create(&name, SIZE).unwrap();
    let found = fs::metadata(name.path()).unwrap();
    assert_eq!((found.mode() & 0o7777, found.len()), (0o600, SIZE));
    assert_eq!(fs::metadata(name.path().parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    let error = Segment::create(&name, SIZE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains(&*name), "{error}");
    assert!(Segment::names().unwrap().contains(&name.0));
    let same = Segment::open_or_create(&name, 16 << 20).unwrap();
    assert_eq!(rustix::fs::fstat(&same).unwrap().st_size as u64, SIZE, "one that is there keeps its size");
    assert_eq!((same.name(), id(&same)), (Some(&*name), id(&first)));
    Segment::unlink(&name).unwrap();
    assert_eq!(kind(Segment::unlink(&name)), ErrorKind::NotFound);
    assert_eq!(kind(Segment::open(&name)), ErrorKind::NotFound);
    assert!(!Segment::names().unwrap().contains(&name.0));
    // Who has it keeps it, beside another one of that name.
    let other = Segment::open_or_create(&name, SIZE).unwrap();
    assert_ne!(id(&other), id(&first));
    let (one, two) = (Mutex::new_in(&first, 1u32).unwrap(), Mutex::new_in(&other, 2u32).unwrap());
    assert_eq!((*one.lock().unwrap(), *two.lock().unwrap()), (1, 2));
    assert_eq!(Segment::anonymous(SIZE).unwrap().name(), None);
}

#[test]
fn a_segment_opened_twice_in_a_process_is_one_attachment() {
    let name = Name::new("twice");
    let first = Segment::create(&name, SIZE).unwrap();
    let again: Vec<Segment> = (0..3).map(|_| Segment::open(&name).unwrap()).collect();
    let elsewhere = std::thread::spawn({
        let name = name.0.clone();
        move || Segment::open(&name).unwrap()
    });
    drop(first);
    assert_eq!(elsewhere.join().unwrap().stats().processes, 1);
    drop(again);
    // The last handle is gone; what is in the file stays.
    let anew = Segment::open(&name).unwrap();
    assert_eq!((anew.stats().processes, anew.stats().deaths), (1, 0));
}

#[test]
fn odd_names_are_names_and_impossible_ones_are_refused() {
    for odd in ["a:b", "line\nbreak", "tab\t ", "\u{1f98a}-ü", "...", "-", "%s"] {
        let name = Name::new(odd);
        drop(Segment::create(&name, SIZE).unwrap());
        assert!(Segment::names().unwrap().contains(&name.0));
        assert_eq!(Segment::open(&name).unwrap().name(), Some(&*name));
        Segment::unlink(&name).unwrap();
    }
    let (fits, long) = (Name(format!("{:x<200}", Name::new("").0)), "y".repeat(201));
    drop(Segment::create(&fits, SIZE).unwrap());
    for wrong in ["", ".", "..", "a/b", "/a", "../a", "a\0b", &*long] {
        let errors = [
            Segment::create(wrong, SIZE).unwrap_err(),
            Segment::open(wrong).unwrap_err(),
            Segment::open_or_create(wrong, SIZE).unwrap_err(),
            Segment::unlink(wrong).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong:?}");
            assert!(error.to_string().contains(&format!("{wrong:?}")), "{error}");
        }
    }
    let name = Name::new("size");
    assert_eq!(kind(Segment::create(&name, 0)), ErrorKind::InvalidInput);
    assert_eq!(kind(Segment::create(&name, u64::MAX)), ErrorKind::InvalidInput);
    assert_eq!(kind(Segment::open(&name)), ErrorKind::NotFound);
}

#[test]
fn of_eight_processes_that_open_or_create_one_makes_it_and_all_have_it() {
    let _guard = guard();
    let meet = Barrier::new(8).unwrap();
    let ids = Queue::new(0).unwrap();
    type Args = (Barrier, Queue<String>, String);
    fn run((meet, ids, name): Args) {
        for round in 0..20 {
            let name = format!("{name}-{round}");
            meet.wait().unwrap();
            let segment = Segment::open_or_create(&name, SIZE).unwrap();
            ids.put(id(&segment)).unwrap();
            meet.wait().unwrap();
            // Registered eight times, each with a lock of its own to prove its life.
            assert_eq!(segment.stats().processes, 8);
            assert_eq!(segment.sweep(), 0);
            let turn = meet.wait().unwrap();
            if turn == 0 {
                Segment::unlink(&name).unwrap();
            }
        }
    }
    let name = Name::new("race");
    let args: Args = (meet, ids.clone(), name.0.clone());
    let children: Vec<_> = (0..8).map(|_| Process::spawn(run, args.clone()).unwrap()).collect();
    for _ in 0..20 {
        let all: Vec<String> = (0..8).map(|_| ids.get().unwrap()).collect();
        assert!(all.iter().all(|id| *id == all[0]), "{all:?}");
    }
    children.into_iter().for_each(|child| child.join().unwrap());
}

#[test]
fn of_eight_processes_that_create_one_succeeds() {
    let _guard = guard();
    let meet = Barrier::new(8).unwrap();
    fn run((meet, name): (Barrier, String)) -> Vec<bool> {
        let one = |round| {
            meet.wait().unwrap();
            let made = Segment::create(&format!("{name}-{round}"), SIZE);
            assert!(made.as_ref().is_ok() || made.as_ref().is_err_and(|e| e.kind() == ErrorKind::AlreadyExists));
            made.is_ok()
        };
        (0..10).map(one).collect()
    }
    let name = Name::new("contest");
    let start = |_| Process::spawn(run, (meet.clone(), name.0.clone())).unwrap();
    let children: Vec<_> = (0..8).map(start).collect();
    let won: Vec<Vec<bool>> = children.into_iter().map(|child| child.join().unwrap()).collect();
    for round in 0..10 {
        assert_eq!(won.iter().filter(|won| won[round]).count(), 1);
        Segment::unlink(&format!("{}-{round}", &*name)).unwrap();
    }
}

#[test]
fn a_name_is_whole_or_not_there_whenever_its_maker_is_killed() {
    let _guard = guard();
    fn make_for_ever((go, name): (Queue<()>, String)) {
        go.put(()).unwrap();
        loop {
            drop(Segment::create(&name, SIZE).unwrap());
            Segment::unlink(&name).unwrap();
        }
    }
    let name = Name::new("killed");
    let mut random = Random::new(11);
    let (mut whole, rounds) = (0, 60);
    for _ in 0..rounds {
        let go = Queue::new(0).unwrap();
        let child = Process::builder().daemon(true).spawn(make_for_ever, (go.clone(), name.0.clone())).unwrap();
        go.get().unwrap();
        random.moment();
        child.kill().unwrap();
        child.join().unwrap_err();
        match Segment::open(&name) {
            Ok(segment) => {
                whole += 1;
                let queue = Queue::builder().segment(&segment).build().unwrap();
                queue.put(vec![7u8; 100_000]).unwrap();
                assert_eq!(queue.get().unwrap().len(), 100_000);
                assert_eq!(segment.stats().processes, 1, "the maker, if it was one, was found dead");
                Segment::unlink(&name).unwrap();
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound),
        }
        let left = Segment::names().unwrap();
        assert!(!left.iter().any(|other| other.starts_with(&name.0)), "{left:?}");
    }
    println!("{whole} of {rounds} makers had given the name");
}

#[test]
fn a_name_outlives_every_process_and_the_next_finds_what_a_death_left() {
    let _guard = guard();
    let name = Name::new("heir");
    fn dies_with_the_lock((name, told): (String, Queue<(u32, u32)>)) {
        let segment = Segment::create(&name, SIZE).unwrap();
        let lock = Mutex::new_in(&segment, 5u64).unwrap();
        let _held = lock.lock().unwrap();
        told.put((lock.id().index, lock.id().generation)).unwrap();
        std::thread::park();
    }
    let told = Queue::new(0).unwrap();
    let child = Process::builder().daemon(true).spawn(dies_with_the_lock, (name.0.clone(), told.clone())).unwrap();
    let (index, generation) = told.get().unwrap();
    let before = Segment::open(&name).unwrap();
    let lock = Mutex::<u64>::open(&before, kinfolk::segment::ObjectId { index, generation }).unwrap();
    drop(before);
    child.kill().unwrap();
    child.join().unwrap_err();
    assert!(matches!(lock.lock(), Err(kinfolk::LockError::OwnerDied(_))));
    drop(lock);
    let after = Segment::open(&name).unwrap();
    assert_eq!((after.stats().processes, after.stats().deaths, after.stats().objects), (1, 1, 0));
}

#[test]
fn what_is_no_segment_of_this_user_alone_is_refused() {
    let name = Name::new("hostile");
    let path = name.path();
    let good = Segment::create(&Name::new("good"), SIZE).unwrap();
    let mut bytes = vec![0; SIZE as usize];
    rustix::io::pread(&good, &mut bytes, 0).unwrap();
    let put = |bytes: &[u8], mode: u32| {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    let refused = |wanted: ErrorKind, says: &str| {
        for error in [Segment::open(&name).unwrap_err(), Segment::open_or_create(&name, SIZE).unwrap_err()] {
            assert_eq!(error.kind(), wanted, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(kind(Segment::create(&name, SIZE)), ErrorKind::AlreadyExists);
    };
    put(&bytes, 0o600);
    drop(Segment::open(&name).unwrap());
    for mode in [0o644, 0o660, 0o606, 0o700, 0o4600] {
        put(&bytes, mode);
        refused(ErrorKind::PermissionDenied, &format!("mode {mode:03o}, expected"));
    }
    put(&[], 0o600);
    refused(ErrorKind::NotASegment, "file has 0 B");
    put(&bytes[..4095], 0o600);
    refused(ErrorKind::NotASegment, "4095 B");
    put(&vec![0x55; SIZE as usize], 0o600);
    refused(ErrorKind::NotASegment, "starts with");
    put(&bytes[..bytes.len() / 2], 0o600);
    refused(ErrorKind::SizeMismatch, "its header says");
    let mut long = bytes.clone();
    long.push(0);
    put(&long, 0o600);
    refused(ErrorKind::SizeMismatch, "its header says");
    let mut damaged = bytes.clone();
    damaged[48] ^= 3;
    put(&damaged, 0o600);
    refused(ErrorKind::Corrupt, "geometry");
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        put(&bytes, 0o600);
        chown(&path, Some(4711), None).unwrap();
        refused(ErrorKind::PermissionDenied, "user 4711's");
    }
    fs::remove_file(&path).unwrap();
    let target = Name::new("target");
    drop(Segment::create(&target, SIZE).unwrap());
    for to in [target.path(), PathBuf::from("/nowhere")] {
        symlink(to, &path).unwrap();
        refused(ErrorKind::NotASegment, "symbolic link");
        fs::remove_file(&path).unwrap();
    }
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(ErrorKind::NotASegment, "no regular file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(ErrorKind::NotASegment, "a directory");
    fs::remove_dir(&path).unwrap();
}

#[test]
fn a_named_file_is_refused_as_one_without_a_name() {
    let name = Name::new("unsealed");
    let segment = Segment::create(&name, SIZE).unwrap();
    let copy = segment.as_fd().try_clone_to_owned().unwrap();
    assert_eq!(kind(Segment::from_fd(copy)), ErrorKind::NotSealed);
}

/// Runs the test `test` of this file in a process whose directory of segments is `folder`.
fn in_folder(folder: &Path, test: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("KINFOLK_SHM_DIR", folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "run by another test"]
fn tells_what_its_directory_is_good_for() {
    println!("names={:?}", Segment::names().map_err(|e| e.kind()));
    println!("create={:?}", Segment::create("one", SIZE).map(|segment| segment.name().map(str::to_owned)));
    println!("opened={:?}", Segment::open("one").map(|_| ()));
    println!("then={:?}", Segment::names().map_err(|e| e.kind()));
}

#[test]
fn a_directory_that_is_not_this_users_alone_is_refused() {
    let name = format!("kinfolk-test-{}-{}", std::process::id(), line!());
    let top = std::env::temp_dir().join(name);
    fs::create_dir(&top).unwrap();
    let says = |folder: &Path| in_folder(folder, "tells_what_its_directory_is_good_for");
    // Made when it is needed, and only then.
    let fresh = top.join("fresh");
    let text = says(&fresh);
    assert!(text.contains("names=Ok([])") && text.contains("then=Ok([\"one\"])"), "{text}");
    assert!(text.contains("create=Ok(Some(\"one\"))") && text.contains("opened=Ok(())"), "{text}");
    assert_eq!(fs::metadata(&fresh).unwrap().mode() & 0o7777, 0o700);
    // It is there, so it cannot be made again.
    let text = says(&fresh);
    assert!(text.contains("names=Ok([\"one\"])") && text.contains("create=Err(Error(AlreadyExists"), "{text}");
    for mode in [0o755, 0o770, 0o1777, 0o500] {
        fs::set_permissions(&fresh, Permissions::from_mode(mode)).unwrap();
        let text = says(&fresh);
        assert!(text.contains("names=Err(PermissionDenied)"), "{mode:o}: {text}");
        assert!(text.contains("create=Err(Error(PermissionDenied"), "{mode:o}: {text}");
        assert!(text.contains("opened=Err(Error(PermissionDenied"), "{mode:o}: {text}");
    }
    fs::set_permissions(&fresh, Permissions::from_mode(0o700)).unwrap();
    let link = top.join("link");
    symlink(&fresh, &link).unwrap();
    let file = top.join("file");
    fs::write(&file, "text").unwrap();
    for other in [&link, &file] {
        let text = says(other);
        assert!(text.contains("names=Err(NotASegment)") && text.contains("create=Err(Error(NotASegment"), "{text}");
    }
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        chown(&fresh, Some(4711), None).unwrap();
        assert!(says(&fresh).contains("create=Err(Error(PermissionDenied"));
    }
    fs::remove_dir_all(&top).unwrap();
}
