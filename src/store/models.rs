//! A shard under loom: readers beside writers that use freed memory again, and deaths at every access of a change.
//!
//! What counts is in the values: each is one number twice, so that a torn one is noticed, and says whose it is.
#![cfg(all(test, loom))]

mod deaths;
mod readers;

use std::sync::Arc;

use loom::thread;

use super::change::Changing;
use super::entry::{Draft, Entry};
use super::heap::RETIRED;
use super::trial::Trial;
use crate::error::Error;
use crate::sync::Lane;
use crate::sys::atomic::Ordering::Relaxed;
use crate::sys::clock::Deadline;
use crate::sys::models::model_with;

const WRITER: Lane = 1;
const OTHER: Lane = 2;
const READER: Lane = 3;
/// Entries that fill the first table, of 8 slots.
const FULL: u8 = 7;

fn hash(key: &[u8]) -> u64 {
    // In the first slot, and with a tag of its own.
    u64::from(key[0]) << 32
}

/// The number `n` twice, as the value of `key`.
fn value(key: u8, n: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[key, n]);
    bytes[8..10].copy_from_slice(&[key, n]);
    bytes
}

/// The number in a value of `key`.
fn number_in(key: u8, bytes: &[u8]) -> u8 {
    let n = bytes[1];
    assert_eq!(bytes, value(key, n), "a torn value, or another key's");
    n
}

fn changing<R>(
    trial: &Trial,
    lane: Lane,
    f: impl FnOnce(&mut Changing<'_, '_, Trial>) -> Result<R, Error>,
) -> Result<R, Error> {
    let shard = trial.shard();
    // Whoever is dead unlocks nothing: the atomics see to it.
    let mut changing = shard.lock(lane, Deadline::NEVER)?.expect("a lock that is had");
    f(&mut changing)
}

fn set(trial: &Trial, lane: Lane, key: u8, n: u8) {
    put(trial, lane, key, &value(key, n)).unwrap();
}

fn put(trial: &Trial, lane: Lane, key: u8, value: &[u8]) -> Result<(), Error> {
    let (keys, hash_of) = ([key], hash(&[key]));
    let draft = Draft::new(trial, lane, &keys, value, false)?;
    changing(trial, lane, |changing| match changing.find(hash_of, &keys)? {
        Some(spot) => changing.replace(spot, draft),
        None => changing.insert(hash_of, draft, trial.shard().changes(), &hash),
    })
}

fn remove(trial: &Trial, lane: Lane, key: u8) -> bool {
    changing(trial, lane, |changing| match changing.find(hash(&[key]), &[key])? {
        Some(spot) => changing.remove(spot).map(|()| true),
        None => Ok(false),
    })
    .unwrap()
}

/// Replaces an entry and finds out anew what is free, without giving the lock back.
fn set_and_collect(trial: &Trial, lane: Lane, key: u8, n: u8) {
    let (keys, value) = ([key], value(key, n));
    let draft = Draft::new(trial, lane, &keys, &value, false).unwrap();
    let done = changing(trial, lane, |changing| {
        let spot = changing.find(hash(&keys), &keys)?.expect("an entry to replace");
        changing.replace(spot, draft)?;
        changing.shard.heap.collect(changing.named()?)
    });
    done.unwrap();
}

fn get(trial: &Trial, lane: Lane, key: u8) -> Option<u8> {
    read(trial, lane, key).unwrap()
}

fn read(trial: &Trial, lane: Lane, key: u8) -> Result<Option<u8>, Error> {
    let read = |entry: Entry<'_, Trial>| {
        let mut found = Vec::new();
        entry.read_value(&mut found).map(|()| number_in(key, &found))
    };
    trial.shard().get(lane, hash(&[key]), &[key], read)
}

/// Everything is counted anew: no run but those that are named, no byte that nobody knows.
fn count(trial: &Trial, lane: Lane) {
    let counted = changing(trial, lane, |changing| changing.count_and_collect()).unwrap();
    let (mut found, mut named) = (trial.runs(), counted.runs);
    found.sort_unstable();
    named.sort_unstable();
    assert_eq!(found, named, "runs that are there, and runs that are named");
    assert_eq!((counted.lost, counted.retired), (0, 0));
}
