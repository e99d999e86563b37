//! The example program `seeds` shows what the Python programs show.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

/// No program takes a second; a machine that is busy with other things may.
const LIMIT: Duration = Duration::from_secs(60);

/// The example, which `cargo test` has built beside this test; `cargo test --test seeds` alone has not.
fn example() -> &'static Path {
    static EXAMPLE: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
        let path = profile.join("examples/seeds");
        if !path.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--package", "kinfolk", "--example", "seeds", "--target-dir"]);
            build.arg(profile.parent().unwrap());
            if !profile.ends_with("debug") {
                build.arg("--profile").arg(profile.file_name().unwrap());
            }
            assert!(build.status().unwrap().success() && path.exists(), "{} cannot be built", path.display());
        }
        path
    })
}

/// What a run printed, and the process id it had.
struct Ran {
    pid: u32,
    lines: Vec<String>,
}

/// Runs the example to its end and to the end of all its children, which hold the same output.
fn run(arguments: &[&str]) -> Ran {
    let mut command = Command::new(example());
    command.args(arguments).args(["--time-scale", "0.02"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (send, received) = mpsc::channel();
    let read_to_end = |mut from: Box<dyn Read + Send>, send: mpsc::Sender<(bool, String)>, is_error| {
        std::thread::spawn(move || {
            let mut text = String::new();
            from.read_to_string(&mut text).expect("UTF-8");
            let _ = send.send((is_error, text));
        })
    };
    read_to_end(Box::new(child.stdout.take().unwrap()), send.clone(), false);
    read_to_end(Box::new(child.stderr.take().unwrap()), send, true);
    let (mut output, mut errors) = (String::new(), String::new());
    for _ in 0..2 {
        match received.recv_timeout(LIMIT) {
            Ok((true, text)) => errors = text,
            Ok((false, text)) => output = text,
            Err(_) => {
                child.kill().unwrap();
                panic!("seeds {arguments:?} did not end within {LIMIT:?}");
            }
        }
    }
    let pid = child.id();
    let status = child.wait().unwrap();
    assert!(status.success(), "seeds {arguments:?}: {status}\n{output}{errors}");
    assert_eq!(errors, "", "seeds {arguments:?} complained");
    Ran { pid, lines: output.lines().map(str::to_owned).collect() }
}

fn sorted(lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    lines.sort();
    lines
}

/// The lines `text(0)` to `text(count - 1)`, sorted.
fn numbered(count: u32, text: impl Fn(u32) -> String) -> Vec<String> {
    sorted(&(0..count).map(text).collect::<Vec<_>>())
}

#[test]
fn program_1_ten_processes_print_whole_lines() {
    assert_eq!(sorted(&run(&["1"]).lines), numbered(10, |i| format!("pool_id: {i}")));
}

#[test]
fn program_3_items_outlive_their_producers() {
    let lines = run(&["3"]).lines;
    assert_eq!(lines.len(), 8, "{lines:?}");
    assert_eq!(sorted(&lines[..3]), numbered(3, |i| format!("child process {i} start put data")));
    assert_eq!(lines[3], "main process get queue data");
    assert_eq!(sorted(&lines[4..7]), numbered(3, |i| format!("i am {i} communicate throught queue")));
    assert_eq!(lines[7], "end test");
}

#[test]
fn program_12_a_queue_is_emptied_into_a_list() {
    let lines = run(&["12"]).lines;
    assert!(lines == ["['XeanYu', 'XY']"] || lines == ["['XY', 'XeanYu']"], "{lines:?}");
}

#[test]
fn program_13_father_and_son_talk() {
    assert_eq!(run(&["13"]).lines, ["From Son:Hello Father", "From Father:Hi my son!"]);
}

/// The original is wrong in more than half of its runs. `KINFOLK_SUMS=1000` makes a thousand runs, in a minute.
#[test]
fn program_15_the_sum_is_right_every_time() {
    let runs = std::env::var("KINFOLK_SUMS").map_or(20, |runs| runs.parse().expect("KINFOLK_SUMS: a number"));
    for _ in 0..runs {
        let lines = run(&["15"]).lines;
        let mut sums: Vec<u64> = lines.iter().map(|line| line.parse().unwrap()).collect();
        assert_eq!((sums.len(), sums.pop()), (11, sums.iter().max().copied()), "{lines:?}");
        // Each added its own number, between 10 and 100, to what the one before had made of it.
        sums.push(0);
        sums.sort_unstable();
        assert!(sums.windows(2).all(|pair| (10..=100).contains(&(pair[1] - pair[0]))), "{lines:?}");
    }
}

#[test]
fn program_14_all_children_append_to_one_list() {
    let lines = run(&["14"]).lines;
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let items = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).expect("a list");
    let items: Vec<_> = items.split(", ").map(str::to_owned).collect();
    assert_eq!(sorted(&items), ["0", "1", "2", "3", "4"], "{line}");
}

#[test]
fn program_18_a_child_waits_for_the_parents_message() {
    let wanted = ["主进程准备发送数据...", "子进程已收到数据...", "有内鬼，终止交易！"];
    // The child prints only after it got what the parent put after printing.
    assert_eq!(run(&["18"]).lines, wanted);
}

#[test]
fn program_20_the_childs_parent_is_the_main_process() {
    let Ran { pid, lines } = run(&["20"]);
    let module = "module name: seeds::sharing";
    let (main, here) = (pid, std::process::id());
    let child = lines.iter().rev().find_map(|l| l.strip_prefix("process id: ")).unwrap_or("a process id").to_owned();
    let wanted = [
        "\x1b[32;1mmain process line\x1b[0m".to_owned(),
        module.to_owned(),
        format!("parent process: {here}"),
        format!("process id: {main}"),
        String::new(),
        String::new(),
        String::new(),
        "\x1b[31;1mfunction f\x1b[0m".to_owned(),
        module.to_owned(),
        format!("parent process: {main}"),
        format!("process id: {child}"),
        String::new(),
        String::new(),
        String::new(),
        "hello bob".to_owned(),
    ];
    assert_eq!(lines, wanted);
    assert!(child.parse::<u32>().is_ok_and(|child| child != main), "{child}");
}

#[test]
fn programs_21_and_22_a_mixed_list_arrives() {
    assert_eq!(run(&["21"]).lines, ["[42, None, 'hello']"]);
    assert_eq!(run(&["22"]).lines, ["[42, None, 'hello']"]);
}

#[test]
fn program_23_a_dictionary_has_keys_of_many_types_and_a_list_grows() {
    let list = |ones: usize| format!("[0, 1, 2, 3, 4{}]", ", 1".repeat(ones));
    let lines = run(&["23"]).lines;
    assert_eq!(lines.len(), 12, "{lines:?}");
    // Each child prints after its own 1, and may see those of others.
    for line in &lines[..10] {
        assert!((1..=10).any(|ones| *line == list(ones)), "{lines:?}");
    }
    assert!(lines[..10].contains(&list(10)), "the last to append sees all: {lines:?}");
    assert_eq!(lines[10..], ["{1: '1', '2': 2, 0.25: None}".to_owned(), list(10)]);
}

#[test]
fn program_24_children_that_nobody_joins_finish_first() {
    assert_eq!(sorted(&run(&["24"]).lines), numbered(10, |i| format!("hello world {i}")));
}

#[test]
fn all_programs_run_one_after_the_other() {
    let lines = run(&["--all"]).lines;
    let titles: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("=== ")?.split_once(':')).map(|(n, _)| n).collect();
    assert_eq!(titles, ["1", "3", "12", "13", "14", "15", "18", "20", "21", "22", "23", "24"]);
    let hello = numbered(10, |i| format!("hello world {i}"));
    assert_eq!(sorted(&lines[lines.len() - 10..]), hello);
}

#[test]
fn what_is_no_program_is_refused_with_the_list_of_those_that_are() {
    for wrong in [&["7777"][..], &[], &["1", "--time-scale", "fast"], &["1", "--time-scale"]] {
        let output = Command::new(example()).args(wrong).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(said.contains("usage: seeds") && said.contains("a pipe between father and son"), "{wrong:?}: {said}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}
