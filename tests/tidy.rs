//! The rules of the code that no compiler checks. Each failure says the rule and what to do instead.
//!
//! A check is a function from a file to its complaints; the tests at the end show for each that it can fail.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom, lowest layer first: a layer and the layers below it that it may name. `error` is everybody's.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("sys", &["error"]),
    ("sync", &["error", "sys"]),
    ("ring", &["error", "sys"]),
    ("store", &["error", "sys", "sync"]),
    ("segment", &["error", "sys", "sync", "ring", "store"]),
    ("codec", &["error", "segment"]),
    ("channel", &["error", "sys", "sync", "ring", "store", "segment", "codec"]),
    ("shared", &["error", "sys", "sync", "ring", "store", "segment", "codec"]),
    ("process", &["error", "sys", "sync", "ring", "store", "segment", "codec", "channel", "shared"]),
    ("future", &["error", "sys", "sync", "ring", "store", "segment", "codec", "channel", "shared", "process"]),
    ("pool", &["error", "sys", "sync", "ring", "store", "segment", "codec", "channel", "shared", "process"]),
    ("manager", &["error", "sys", "sync", "ring", "store", "segment", "codec", "channel", "shared", "process", "pool"]),
];

/// Files outside `src/sys/` that contain `unsafe`, and what for.
const UNSAFE: &[(&str, &str)] = &[
    ("src/channel/models.rs", "cells that loom watches"),
    ("src/pool/function.rs", "makes values of function types without size"),
    ("src/process/child.rs", "takes over descriptors that the parent named"),
    ("src/process/entry.rs", "stands in .init_array, edits the environment and closes what was inherited before main"),
    ("src/process/fork.rs", "forks on its caller's promise"),
    (
        "src/process/forkserver/serving.rs",
        "takes over descriptors that the owner named, forks in a process with one thread",
    ),
    ("src/process/function.rs", "makes a value of a function type without size"),
    ("src/ring/models.rs", "cells that loom watches"),
    ("src/ring/models/sides.rs", "cells that loom watches"),
    ("src/ring/view.rs", "indexes the three arrays by masked positions"),
    ("src/ring/models/bytes.rs", "cells that loom watches"),
    ("src/ring/models/spsc.rs", "cells that loom watches"),
    ("src/ring/spsc.rs", "indexes the slots by masked positions"),
    ("src/segment/ends.rs", "keeps references to an entry and to rings beside the handle that keeps them valid"),
    ("src/segment/layout.rs", "says which types may be looked at in place"),
    ("src/segment/mod.rs", "turns checked offsets into references to atomics"),
    ("src/segment/pinned.rs", "keeps such references beside the handle that keeps them valid"),
    ("src/segment/shm.rs", "copies to and from shared bytes"),
    ("src/segment/storage.rs", "turns checked places into references to atomics, and copies to and from them"),
    ("src/shared/raw_lock.rs", "hands on the promise that a pthread mutex in the segment is one"),
    ("src/sync/models.rs", "cells that loom watches"),
    ("src/sync/models/barrier.rs", "cells that loom watches"),
    ("src/sync/models/event.rs", "cells that loom watches"),
    ("src/sync/models/once.rs", "cells that loom watches"),
    ("src/sync/models/rlock.rs", "cells that loom watches"),
    ("src/sync/models/rwlock.rs", "cells that loom watches"),
];

/// Longest file, in lines.
const MAX_LINES: usize = 500;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[
    ("src/ring/models.rs", "one fixture and its models, each beside its broken twin"),
    ("tests/process.rs", "scenarios that share one way to meet"),
    ("tests/tidy.rs", "the rules, their lists, and the proofs that each can fail"),
    ("tests/spsc.rs", "one set of scenarios for two channels, which share their ways to push and pop"),
];

/// Files of `src/` that may sleep for a fixed time, and why nothing can wake them.
const SLEEPS: &[(&str, &str)] = &[
    ("src/process/exit.rs", "at exit, a lock whose owner may have been stopped for good is tried for half a second"),
    ("src/process/handle.rs", "a child that has ended, but that a debugger still holds, cannot be waited for"),
];

/// A file of the project.
struct File {
    /// Path from the top, with slashes.
    path: String,
    text: String,
    /// The text without comments and without what stands in literals, line by line as it was.
    code: String,
}

impl File {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { path: path.into(), code: code_of(&text), text }
    }

    fn is_src(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// The layer that the file belongs to.
    fn layer(&self) -> Option<&'static str> {
        let name = self.path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
        LAYERS.iter().map(|(layer, _)| *layer).find(|layer| *layer == name)
    }

    /// Number and contents of each line of code.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(k, line)| (k + 1, line))
    }
}

/// Blanks comments and the contents of literals, keeping the lines.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |k: usize| chars.get(k).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut code, mut k) = (String::with_capacity(text.len()), 0);
    while k < chars.len() {
        let start = k;
        let raw =
            at(k) == 'r' && (k == 0 || !is_word(at(k - 1)) || (at(k - 1) == 'b' && (k < 2 || !is_word(at(k - 2)))));
        let hashes = chars[k + 1..].iter().take_while(|c| **c == '#').count();
        if at(k) == '/' && at(k + 1) == '/' {
            k += chars[k..].iter().take_while(|c| **c != '\n').count();
        } else if at(k) == '/' && at(k + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(k), at(k + 1)) {
                    ('/', '*') => (depth, k) = (depth + 1, k + 2),
                    ('*', '/') => (depth, k) = (depth - 1, k + 2),
                    _ => k += 1,
                }
                if depth == 0 || k >= chars.len() {
                    break;
                }
            }
        } else if raw && at(k + 1 + hashes) == '"' {
            k += hashes + 2;
            while k < chars.len() && !(at(k) == '"' && (1..=hashes).all(|h| at(k + h) == '#')) {
                k += 1;
            }
            k += 1 + hashes;
        } else if at(k) == '"' {
            k += 1;
            while k < chars.len() && at(k) != '"' {
                k += if at(k) == '\\' { 2 } else { 1 };
            }
            k += 1;
        } else if at(k) == '\'' && (at(k + 1) == '\\' || at(k + 2) == '\'') {
            k += if at(k + 1) == '\\' { 3 } else { 2 };
            while k < chars.len() && at(k) != '\'' {
                k += 1;
            }
            k += 1;
        } else {
            code.push(at(k));
            k += 1;
            continue;
        }
        let skipped = &chars[start..k.min(chars.len())];
        code.push(' ');
        code.extend(skipped.iter().filter(|c| **c == '\n'));
    }
    code
}

/// The identifiers of a line of code.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// What `crate::` is followed by, in all of the code; `{a::b, c}` gives `a` and `c`.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let mut first = |text: &str| found.extend(words(text).next().map(|word| (line, word.to_owned())));
        match rest.strip_prefix('{') {
            None => first(rest),
            Some(group) => {
                let (mut depth, mut start) = (0, 0);
                for (k, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        ',' | '}' if depth == 0 => {
                            first(&group[start..k]);
                            start = k + 1;
                            if c == '}' {
                                break;
                            }
                        }
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

type Complaints = Vec<(usize, String)>;

/// Rule: imports point down, along the table.
fn layers(file: &File) -> Complaints {
    let Some(layer) = file.layer() else { return Vec::new() };
    let below = LAYERS.iter().find(|(name, _)| *name == layer).map_or(&[][..], |(_, below)| below);
    let wrong = |name: &str| name != layer && !below.contains(&name);
    let complain = |(line, name): (usize, String)| {
        let message = format!(
            "`{layer}` names `crate::{name}`. Layers import only what is below them, by its layer's name (`{layer}` \
             may name {below:?}): move what is shared down, or let the upper layer register a function in the lower"
        );
        (line, message)
    };
    crate_paths(&file.code).into_iter().filter(|(_, name)| wrong(name)).map(complain).collect()
}

/// Rule: `unsafe` only in `src/sys/` and the listed files.
fn unsafe_code(file: &File) -> Complaints {
    if !file.is_src() || file.path.starts_with("src/sys/") || UNSAFE.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    let message = "`unsafe` outside the files that may have it. Use a safe door of `sys` or `segment`, or add the file \
                   to UNSAFE in tests/tidy.rs with its reason, and to ARCHITECTURE.md";
    lines_with(file, |line| words(line).any(|w| w == "unsafe"), message)
}

/// Rule: the operating system is below `src/sys/`.
fn system_crates(file: &File) -> Complaints {
    if !file.is_src() || file.path.starts_with("src/sys/") {
        return Vec::new();
    }
    let message =
        "`libc`, `rustix` or `nix` outside src/sys/. Give `sys` a function that says what is wanted, and call that";
    lines_with(file, |line| words(line).any(|w| ["libc", "rustix", "nix"].contains(&w)), message)
}

/// Rule: `cfg(loom)` only in `src/sys/`, in files called `models.rs` and in the folders beside them.
fn loom(file: &File) -> Complaints {
    let is_model = file.path.ends_with("/models.rs") || file.path.contains("/models/");
    if !file.is_src() || file.path.starts_with("src/sys/") || is_model {
        return Vec::new();
    }
    let message = "`loom` outside src/sys/ and models. Import atomics, fences and the futex from `crate::sys`, which \
                   is loom's under loom; put models into the layer's models.rs or into its folder";
    lines_with(file, |line| words(line).any(|w| w == "loom"), message)
}

/// Rule: shared words are `crate::sys::atomic`'s, and nothing is ordered by a SeqCst access.
fn sequential(file: &File) -> Complaints {
    if !file.is_src() || file.path == "src/sys/atomic.rs" {
        return Vec::new();
    }
    let message = "`SeqCst` outside a fence: loom does not model it, and it hides which order is needed. Use Acquire \
                   and Release, or `fence(SeqCst)` with a proof";
    lines_with(file, |line| words(line).any(|w| w == "SeqCst") && !line.contains("fence("), message)
}

/// Rule: no sleeping for a fixed time.
fn sleeps(file: &File) -> Complaints {
    if !file.is_src() || SLEEPS.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    let message = "`thread::sleep` in the library. Wait on a word (`sync::wait_until`) or on a descriptor, with a \
                   deadline; where nothing can wake the waiter, add the file to SLEEPS in tests/tidy.rs with a reason";
    lines_with(file, |line| line.contains("thread::sleep"), message)
}

/// Rule: a file is short enough to be read.
fn length(file: &File) -> Complaints {
    let lines = file.text.lines().count();
    if lines <= MAX_LINES || LONG.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    let message = format!(
        "{lines} lines, more than {MAX_LINES}. Split it by what changes together, or add it to LONG in tests/tidy.rs \
         with the reason why it must be read as one"
    );
    vec![(lines, message)]
}

/// Rule: nothing unfinished.
fn unfinished(file: &File) -> Complaints {
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let holes = [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("#[ign", "ore")];
    // The body of another test, which runs it as a program of its own.
    let program = concat!("#[ign", "ore = \"run by another test\"]");
    let message = "something unfinished. Finish it, or say in the docs what is not there";
    let is_marked = |line: &str| {
        words(line).any(|w| marks.contains(&w))
            || holes.iter().any(|hole| line.contains(hole) && line.trim() != program)
    };
    let marked = file.text.lines().enumerate().filter(|(_, line)| is_marked(line));
    marked.map(|(k, _)| (k + 1, message.to_owned())).collect()
}

/// Rule: nothing depends on where it was written.
fn machine_paths(file: &File) -> Complaints {
    let places = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let message =
        "a path of somebody's machine. Take it from the environment, or use a path from the top of the project";
    // At the root of the file system, not somewhere in an address.
    let is_path = |line: &str, at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '.');
    let names_one = |line: &str| places.iter().any(|place| line.match_indices(place).any(|(at, _)| is_path(line, at)));
    let named = file.text.lines().enumerate().filter(|(_, line)| names_one(line));
    named.map(|(k, _)| (k + 1, message.to_owned())).collect()
}

/// Rule: a file says what it is for.
fn introduced(file: &File) -> Complaints {
    let introduced =
        file.text.lines().find(|line| !line.starts_with("#![")).is_some_and(|line| line.starts_with("//!"));
    let message = "no `//!` at the top. Say in a sentence what the file is for";
    if introduced || file.path.contains("/compile_fail/") { Vec::new() } else { vec![(1, message.to_owned())] }
}

fn lines_with(file: &File, is_wrong: impl Fn(&str) -> bool, message: &str) -> Complaints {
    file.lines().filter(|(_, line)| is_wrong(line)).map(|(k, _)| (k, message.to_owned())).collect()
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The project's files whose names end in one of `endings`.
fn files(endings: &[&str]) -> Vec<File> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![top().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                let foreign = name == "target" || name == "target-loom" || (name.starts_with('.') && name != ".ci");
                folders.extend((!foreign).then_some(path));
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 3, "this test must run where the sources are");
    found.sort();
    let relative = |path: &PathBuf| path.strip_prefix(top()).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| File::new(relative(path), fs::read_to_string(path).unwrap())).collect()
}

fn check(files: &[File], rule: fn(&File) -> Complaints) {
    let mut report = String::new();
    for file in files {
        for (line, message) in rule(file) {
            writeln!(report, "{}:{line}: {message}", file.path).unwrap();
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn imports_point_down() {
    check(&files(&[".rs"]), layers);
}

#[test]
fn every_folder_of_the_library_is_a_layer() {
    for file in files(&[".rs"]).iter().filter(|f| f.is_src() && f.path != "src/lib.rs") {
        assert!(file.layer().is_some(), "{}: in no layer. Add its folder to LAYERS in tests/tidy.rs", file.path);
    }
}

#[test]
fn unsafe_stands_where_it_may() {
    let files = files(&[".rs"]);
    check(&files, unsafe_code);
    for (path, _) in UNSAFE {
        let file = files.iter().find(|f| f.path == *path);
        let needed = file.is_some_and(|f| f.lines().any(|(_, line)| words(line).any(|w| w == "unsafe")));
        assert!(needed, "{path} has no `unsafe` any more. Take it off UNSAFE in tests/tidy.rs");
    }
}

#[test]
fn only_sys_knows_the_operating_system() {
    check(&files(&[".rs"]), system_crates);
}

#[test]
fn only_sys_and_models_know_loom() {
    check(&files(&[".rs"]), loom);
}

#[test]
fn sequential_consistency_is_a_fences() {
    check(&files(&[".rs"]), sequential);
}

#[test]
fn the_library_never_sleeps_for_a_fixed_time() {
    check(&files(&[".rs"]), sleeps);
}

#[test]
fn files_are_short() {
    let files = files(&[".rs"]);
    check(&files, length);
    for (path, _) in LONG {
        let long = files.iter().any(|f| f.path == *path && f.text.lines().count() > MAX_LINES);
        assert!(long, "{path} is short now. Take it off LONG in tests/tidy.rs");
    }
}

#[test]
fn nothing_is_unfinished() {
    check(&files(&[".rs", ".md", ".toml", "run"]), unfinished);
}

#[test]
fn nothing_names_a_place_on_a_machine() {
    check(&files(&[".rs", ".md", ".toml", "run"]), machine_paths);
}

#[test]
fn every_file_says_what_it_is_for() {
    check(&files(&[".rs"]), introduced);
}

mod the_checks_can_fail {
    use super::*;

    /// Whether `rule` complains about `text` as the file `path`, in exactly these lines.
    #[track_caller]
    fn complains(rule: fn(&File) -> Complaints, path: &str, text: &str, lines: &[usize]) {
        let found: Vec<usize> = rule(&File::new(path, text)).into_iter().map(|(line, _)| line).collect();
        assert_eq!(found, lines, "{path}: {text}");
    }

    #[test]
    fn an_import_that_points_up_or_across() {
        complains(layers, "src/sync/x.rs", "use crate::sys::futex;\nuse crate::segment::Segment;", &[2]);
        complains(layers, "src/sync/x.rs", "fn f() { crate::ring::g() }", &[1]);
        complains(layers, "src/channel/x.rs", "use crate::{segment::{A, B},\n shared::C, error::D};", &[1]);
        complains(layers, "src/shared/x.rs", "use crate::channel::Queue;", &[1]);
        complains(layers, "src/error.rs", "use crate::sys::clock;", &[1]);
        complains(layers, "src/segment/x.rs", "use crate::Queue;", &[1]);
        complains(layers, "src/process/x.rs", "use crate::{channel::Q, shared::M, sys::fd};", &[]);
        complains(layers, "src/sync/x.rs", "//! [`Mutex`](crate::Mutex)\nconst A: &str = \"crate::pool\";", &[]);
        complains(layers, "src/lib.rs", "pub use crate::channel::Queue;", &[]);
    }

    #[test]
    fn unsafe_code_in_a_layer_without_a_reason() {
        complains(unsafe_code, "src/channel/queue.rs", "fn f() {\n    unsafe { g() }\n}", &[2]);
        complains(unsafe_code, "src/sys/fd.rs", "unsafe { g() }", &[]);
        complains(unsafe_code, "src/channel/queue.rs", "// unsafe\n#![deny(unsafe_op_in_unsafe_fn)]", &[]);
    }

    #[test]
    fn a_system_call_above_sys() {
        complains(system_crates, "src/process/spawn.rs", "use nix::unistd::Pid;", &[1]);
        complains(system_crates, "src/segment/mod.rs", "\nlet fd = rustix::fs::open();", &[2]);
        complains(system_crates, "src/segment/mod.rs", "use std::os::unix::fs; mod libc_code {}", &[]);
    }

    #[test]
    fn loom_in_the_code_that_it_models() {
        complains(loom, "src/ring/stamped.rs", "#[cfg(loom)]\nuse loom::thread;", &[1, 2]);
        complains(loom, "src/ring/models.rs", "#![cfg(all(test, loom))]", &[]);
        complains(loom, "src/sync/models/event.rs", "use loom::thread;", &[]);
    }

    #[test]
    fn a_sequentially_consistent_access() {
        complains(sequential, "src/sync/wait.rs", "word.load(SeqCst);\nfence(Ordering::SeqCst);", &[1]);
        complains(sequential, "src/sync/wait.rs", "compiler_fence(SeqCst);", &[]);
    }

    #[test]
    fn a_sleep() {
        complains(sleeps, "src/process/spawn.rs", "use std::thread;\nthread::sleep(GRACE);", &[2]);
        complains(sleeps, "tests/x.rs", "thread::sleep(GRACE);", &[]);
    }

    #[test]
    fn a_long_file() {
        complains(length, "src/sync/x.rs", &"\n".repeat(MAX_LINES + 1), &[MAX_LINES + 1]);
        complains(length, "src/sync/x.rs", &"\n".repeat(MAX_LINES), &[]);
    }

    #[test]
    fn something_unfinished() {
        complains(unfinished, "src/x.rs", concat!("\n// TO", "DO: later"), &[2]);
        complains(unfinished, "src/x.rs", concat!("to", "do!()"), &[1]);
        complains(unfinished, "tests/x.rs", concat!("#[ign", "ore = \"slow\"]"), &[1]);
        complains(unfinished, "tests/x.rs", concat!("    #[ign", "ore = \"run by another test\"]"), &[]);
        complains(unfinished, "src/x.rs", "fn todos() {}", &[]);
    }

    #[test]
    fn a_place_on_a_machine() {
        complains(machine_paths, "README.md", concat!("see /ho", "me/me/kinfolk"), &[1]);
        complains(machine_paths, "README.md", concat!("/proc/self/exe, https://example.org/ho", "me/page"), &[]);
    }

    #[test]
    fn a_file_without_a_first_sentence() {
        complains(introduced, "src/x.rs", "use std::io;", &[1]);
        complains(introduced, "src/sync/models.rs", "#![cfg(all(test, loom))]\n//! Models.", &[]);
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "a /* b /* c */ d */ e // f\n'\\'' 'g' \"h\\\"i\" r#\"j\"k\"# br\"l\" 'life: b'm' \"\n\" z";
        let code = code_of(text);
        assert_eq!(words(&code).collect::<Vec<_>>(), ["a", "e", "b", "life", "b", "z"]);
        assert_eq!(code.matches('\n').count(), text.matches('\n').count());
    }
}
