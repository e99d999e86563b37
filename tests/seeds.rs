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
    run_at("0.02", arguments)
}

/// The same, sleeping for another part of the time.
fn run_at(scale: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(example());
    command.args(arguments).args(["--time-scale", scale]).stdin(Stdio::null());
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
fn program_2_processes_have_their_names() {
    assert_eq!(sorted(&run(&["2"]).lines), numbered(10, |i| format!("test process {i}")));
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

/// Where a line is, which has to be there once.
fn place(lines: &[String], line: &str) -> usize {
    let places: Vec<_> = (0..lines.len()).filter(|k| lines[*k] == line).collect();
    assert_eq!(places.len(), 1, "{line} in {lines:?}");
    places[0]
}

#[test]
fn program_4_the_end_of_a_program_waits_for_its_workers() {
    let lines = run(&["4"]).lines;
    let cpus = kinfolk::process::cpu_count();
    let end = place(&lines, "END!!!!!!!!!!!!!!!!!");
    assert!(place(&lines, &format!("The number of CPU is:{cpus}")) < end);
    let children: Vec<_> =
        lines.iter().filter_map(|l| l.strip_prefix("child   p.name:")?.split_once("\tp.id")).collect();
    let mut names: Vec<_> = children.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(names, ["Process-1", "Process-2", "Process-3"]);
    assert!(children.iter().all(|(_, pid)| pid.parse::<u32>().is_ok()));
    let ends: Vec<_> = (1..=3)
        .map(|k| {
            assert!(place(&lines, &format!("两点水{k}【start】")) < place(&lines, &format!("两点水{k}【end】")));
            place(&lines, &format!("两点水{k}【end】"))
        })
        .collect();
    assert_eq!((lines.len(), ends.len()), (11, 3));
}

/// Whether `time` is one such as `Tue Oct 10 11:30:08 2017`.
fn is_time(time: &str) -> bool {
    let parts: Vec<_> = time.split_whitespace().collect();
    let clock = |text: &str| text.len() == 8 && text.split(':').all(|n| n.len() == 2 && n.parse::<u32>().is_ok());
    matches!(parts[..], [_, _, day, at, year] if day.parse::<u32>().is_ok() && clock(at) && year.parse::<u32>().is_ok())
}

#[test]
fn program_5_a_clock_ticks_until_it_has_ended() {
    let lines = run(&["5"]).lines;
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|l| l.strip_prefix("当前时间: ").is_some_and(is_time)), "{lines:?}");
}

#[test]
fn programs_6_to_8_daemons_end_with_the_program_and_others_are_waited_for() {
    let what = |line: &String| {
        let (what, time) = line.split_once('：').unwrap_or((line, ""));
        assert!(time.is_empty() || is_time(time), "{line}");
        what.to_owned()
    };
    let run = |number: &str| run(&[number]).lines.iter().map(what).collect::<Vec<_>>();
    let (begin, end, main) = ("工作开始时间", "工作结果时间", "【EMD】");
    let six = run("6");
    assert!(six == [main, begin, end] || six == [begin, main, end], "{six:?}");
    // A daemon may have begun.
    let seven = run("7");
    assert!(seven.contains(&main.to_owned()) && !seven.contains(&end.to_owned()), "{seven:?}");
    assert_eq!(run("8"), [begin, end, main]);
}

#[test]
fn program_10_all_that_was_written_is_read() {
    let lines = run(&["10"]).lines;
    let values = ["两点水", "三点水", "四点水"];
    let places = values.map(|v| {
        let written = place(&lines, &format!("写进 Queue 的值为：{v}"));
        let read = place(&lines, &format!("从 Queue 读取的值为：{v}"));
        assert!(written < read, "{lines:?}");
        (written, read)
    });
    assert!(places.is_sorted(), "{lines:?}");
    assert_eq!(lines.iter().filter(|l| l.contains("进程的PID:")).count(), 2);
    assert_eq!(lines.len(), 8);
}

#[test]
fn program_11_the_childs_parent_is_the_main_process() {
    let Ran { pid, lines } = run(&["11"]);
    let wanted = [
        format!("主进程的父进程PID: {}", std::process::id()),
        format!("主进程的PID: {pid}"),
        "____________________".to_owned(),
        String::new(),
        format!("父进程的PID: {pid}"),
    ];
    assert_eq!(lines[..5], wanted);
    assert!(lines[5].strip_prefix("当前进程的PID: ").is_some_and(|child| child.parse::<u32>().is_ok_and(|c| c != pid)));
    assert_eq!(lines.len(), 6);
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
fn program_16_two_bars_come_to_their_ends() {
    let Ran { pid, lines } = run(&["16"]);
    assert_eq!(lines[..2], [format!("Parent process {pid}."), "Child process will start.".to_owned()]);
    let begins = |name: &str| lines.iter().filter(|l| l.starts_with(&format!("Run child process {name} ("))).count();
    assert_eq!((begins("test1"), begins("test2")), (1, 1), "{lines:?}");
    let ends = ["test1: 100% 10000000/10000000", "test2: 100% 10000000/10000000", "Child process end."];
    assert_eq!(lines[lines.len() - 3..], ends);
}

#[test]
fn program_18_a_child_waits_for_the_parents_message() {
    let wanted = ["主进程准备发送数据...", "子进程已收到数据...", "有内鬼，终止交易！"];
    // The child prints only after it got what the parent put after printing.
    assert_eq!(run(&["18"]).lines, wanted);
}

#[test]
fn program_19_a_thread_counts() {
    let mut wanted = vec!["thread MainThread is running...".to_owned(), "thread LoopThread is running...".to_owned()];
    wanted.extend((1..=5).map(|n| format!("thread LoopThread >>> {n}")));
    wanted.extend(["thread LoopThread ended.".to_owned(), "thread MainThread ended.".to_owned()]);
    assert_eq!(run(&["19"]).lines, wanted);
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

/// What a worker of a pool printed: which task it begins, and its process id; or which it has ended.
#[derive(Debug)]
enum Step {
    Begins(u32, u32),
    Ends(u32),
}

/// Takes the lines that workers printed: a beginning and an end of each of `tasks`. So many were under way at once at most, of
/// those that began before any ended; and by how many processes all were done.
fn steps(lines: &[&String], tasks: u32, step: impl Fn(&str) -> Option<Step>) -> (usize, usize, usize) {
    let steps: Vec<Step> =
        lines.iter().map(|line| step(line).unwrap_or_else(|| panic!("{line} in {lines:?}"))).collect();
    let (mut begun, mut ended, mut running) = (vec![], vec![], std::collections::BTreeMap::new());
    let (mut most, mut at_once) = (0, 0);
    for step in &steps {
        match step {
            Step::Begins(task, pid) => {
                assert!(!running.values().any(|p| p == pid), "two at once by {pid}: {steps:?}");
                running.insert(*task, *pid);
                begun.push((*task, *pid));
                at_once += usize::from(ended.is_empty());
            }
            Step::Ends(task) => {
                assert!(running.remove(task).is_some(), "{task} had not begun: {steps:?}");
                ended.push(*task);
            }
        }
        most = most.max(running.len());
    }
    let pids: std::collections::BTreeSet<u32> = begun.iter().map(|(_, pid)| *pid).collect();
    for mut all in [begun.iter().map(|(task, _)| *task).collect(), ended] {
        all.sort_unstable();
        assert_eq!(all, (0..tasks).collect::<Vec<u32>>(), "{steps:?}");
    }
    (most, at_once, pids.len())
}

/// Runs the program until the machine is quick enough for its sleeps, which are longer each time.
fn sooner_or_later(program: &str, shows: impl Fn(Ran) -> bool) {
    let found =
        ["0.02", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"].iter().any(|scale| shows(run_at(scale, &[program])));
    assert!(found, "program {program} never showed it");
}

#[test]
fn programs_9_and_9b_as_many_tasks_run_at_once_as_the_pool_has_workers() {
    let begins = |line: &str| {
        let (task, pid) = line.strip_prefix("进程的名称：")?.split_once(" ；进程的PID: ")?;
        Some(Step::Begins(task.parse().ok()?, pid.trim_end().parse().ok()?))
    };
    let ends = |line: &str| {
        let (task, seconds) = line.strip_prefix("进程 ")?.strip_suffix(" 秒")?.split_once(" 运行了 ")?;
        seconds.parse::<f64>().ok()?;
        Some(Step::Ends(task.parse().ok()?))
    };
    let step = |line: &str| begins(line).or_else(|| ends(line));
    for (program, workers) in [("9", 4), ("9b", 5)] {
        sooner_or_later(program, |Ran { pid, lines }| {
            assert_eq!((&lines[0], lines.last().unwrap()), (&format!("主进程的 PID：{pid}"), &"【End】".to_owned()));
            let inner: Vec<_> = lines[1..lines.len() - 1].iter().collect();
            let (most, at_once, pids) = steps(&inner, 6, step);
            assert!(most <= workers && at_once <= workers && pids <= workers, "{lines:?}");
            (at_once, pids) == (workers, workers)
        });
    }
}

#[test]
fn program_17_four_of_thirteen_tasks_run_at_once() {
    let step = |line: &str| {
        if let Some((task, pid)) = line.strip_prefix("Run task ").and_then(|rest| rest.split_once(" (")) {
            return Some(Step::Begins(task.parse().ok()?, pid.strip_suffix(")...")?.parse().ok()?));
        }
        let (task, seconds) = line.strip_prefix("Task ")?.strip_suffix(" seconds.")?.split_once(" runs ")?;
        let (_, hundredths) = seconds.split_once('.')?;
        (hundredths.len() == 2 && seconds.parse::<f64>().is_ok()).then_some(Step::Ends(task.parse().ok()?))
    };
    sooner_or_later("17", |Ran { pid, lines }| {
        let (begin, end) = (format!("Parent process {pid}."), "All subprocesses done.");
        assert_eq!((&lines[0], &**lines.last().unwrap()), (&begin, end));
        let waiting = place(&lines, "Waiting for all subprocesses done...");
        let inner: Vec<_> = (1..lines.len() - 1).filter(|k| *k != waiting).map(|k| &lines[k]).collect();
        let (most, at_once, pids) = steps(&inner, 13, step);
        assert!(most <= 4 && pids <= 4, "{lines:?}");
        // It is the first where the workers have to begin first.
        (waiting, at_once, pids) == (1, 4, 4)
    });
}

#[test]
fn program_25_the_parent_prints_what_five_workers_return() {
    let done = |from: u32| (from..from + 5).map(|i| format!("-->exec done: {i}")).collect::<Vec<_>>();
    let all = |lines: &[String]| sorted(lines) == sorted(&[vec!["end".to_owned()], done(100), done(105)].concat());
    sooner_or_later("25", |Ran { lines, .. }| {
        assert!(all(&lines), "{lines:?}");
        lines[0] == "end" && sorted(&lines[1..6]) == done(100) && sorted(&lines[6..]) == done(105)
    });
}

#[test]
fn program_25b_one_task_is_done_after_the_other() {
    let mut wanted: Vec<_> = (100..110).map(|i| format!("-->exec done: {i}")).collect();
    wanted.push("end".to_owned());
    assert_eq!(run(&["25b"]).lines, wanted);
}

#[test]
fn all_programs_run_one_after_the_other() {
    let lines = run(&["--all"]).lines;
    let titles: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("=== ")?.split_once(':')).map(|(n, _)| n).collect();
    let numbers = "1 2 3 4 5 6 7 8 9 9b 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 25b";
    assert_eq!(titles, numbers.split(' ').collect::<Vec<_>>());
    let hello = numbered(10, |i| format!("hello world {i}"));
    let begin = place(&lines, "=== 24: a lock around print") + 1;
    assert_eq!(sorted(&lines[begin..begin + 10]), hello);
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
