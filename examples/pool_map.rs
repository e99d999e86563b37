//! Counts the words of files by a pool, and shows how far it is.
//!
//! ```text
//! cargo run --example pool_map                 this library's own sources
//! cargo run --example pool_map -- FILE...      other files
//! ```
//!
//! Each file is a task: a worker reads it and returns how often it has each word, and the parent adds that up. A file that
//! cannot be read is an error of its own among the results, and spoils nothing else.

use std::collections::HashMap;
use std::error::Error;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kinfolk::Pool;

type Words = HashMap<String, u64>;

/// The words of a file, or why there are none. Words are what lies between anything but letters and digits.
fn count(path: PathBuf) -> Result<Words, String> {
    let text = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut words = Words::new();
    for word in String::from_utf8_lossy(&text).split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    Ok(words)
}

/// All Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if files.is_empty() {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files)?;
    }
    let begin = Instant::now();
    let pool = Pool::builder().build()?;

    let bar = ProgressBar::new(files.len() as u64);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} files [{elapsed}<{eta}]")?);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let moved = bar.clone();
    // With the feature `progress` this is `progress_bar(&bar)`.
    let mapping = pool.mapping().on_progress(move |done| moved.inc(done as u64));

    let (mut all, mut unread) = (Words::new(), 0);
    // In any order, and few ahead: so no more than a few files' words are in memory.
    for counted in mapping.imap_unordered(count, files.iter().cloned()) {
        match counted? {
            Ok(words) => words.into_iter().for_each(|(word, times)| *all.entry(word).or_default() += times),
            Err(why) => {
                unread += 1;
                bar.suspend(|| eprintln!("{why}"));
            }
        }
    }
    assert_eq!(bar.position(), files.len() as u64);
    bar.finish_and_clear();
    pool.close();
    pool.join()?;

    let total: u64 = all.values().sum();
    println!("{total} words, {} different ones, in {} files", all.len(), files.len() - unread);
    let mut words: Vec<_> = all.into_iter().collect();
    words.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
    words.iter().take(10).for_each(|(word, times)| println!("{times:>8}  {word}"));
    eprintln!("by {} workers in {:?}", pool.processes(), begin.elapsed());
    if unread == 0 { Ok(()) } else { Err(format!("{unread} files could not be read").into()) }
}
