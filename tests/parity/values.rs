//! `_TestValue`, `_TestArray`, `_TestSharedCTypes`: what a child writes is seen, with and without the lock.

use bytemuck::{Pod, Zeroable};
use kinfolk::{Array, LockError, Process, RLock, RawArray, RawValue, Value};

use super::guard;

/// Python's `i`, `d`, `h`, `q` and `c`.
type Codes<A, B, C, D, E> = (A, B, C, D, E);
type Values = Codes<Value<i32>, Value<f64>, Value<i16>, Value<i64>, Value<u8>>;
type RawValues = Codes<RawValue<i32>, RawValue<f64>, RawValue<i16>, RawValue<i64>, RawValue<u8>>;

fn write((i, d, h, q, c): RawValues) {
    i.set(24234).unwrap();
    d.set(-4.25).unwrap();
    h.set(234).unwrap();
    q.set(1 << 34).unwrap();
    c.set(b'y').unwrap();
}

fn read((i, d, h, q, c): &RawValues) -> (i32, f64, i16, i64, u8) {
    (i.get().unwrap(), d.get().unwrap(), h.get().unwrap(), q.get().unwrap(), c.get().unwrap())
}

fn raw_of((i, d, h, q, c): &Values) -> RawValues {
    (i.raw().clone(), d.raw().clone(), h.raw().clone(), q.raw().clone(), c.raw().clone())
}

const BEFORE: (i32, f64, i16, i64, u8) = (4343, 3.625, -232, 1 << 33, b'x');
const AFTER: (i32, f64, i16, i64, u8) = (24234, -4.25, 234, 1 << 34, b'y');

#[test]
fn what_a_child_writes_into_values_is_seen() {
    let _guard = guard();
    let (i, d, h, q, c) = BEFORE;
    let values: Values = (
        Value::new(i).unwrap(),
        Value::new(d).unwrap(),
        Value::new(h).unwrap(),
        Value::new(q).unwrap(),
        Value::new(c).unwrap(),
    );
    assert_eq!(read(&raw_of(&values)), BEFORE);
    let child = |values: Values| {
        let _held = values.0.lock().unwrap();
        write(raw_of(&values));
    };
    Process::builder().daemon(true).spawn(child, values.clone()).unwrap().join().unwrap();
    assert_eq!(read(&raw_of(&values)), AFTER);
}

#[test]
fn what_a_child_writes_into_raw_values_is_seen() {
    let _guard = guard();
    let (i, d, h, q, c) = BEFORE;
    let values: RawValues = (
        RawValue::new(i).unwrap(),
        RawValue::new(d).unwrap(),
        RawValue::new(h).unwrap(),
        RawValue::new(q).unwrap(),
        RawValue::new(c).unwrap(),
    );
    assert_eq!(read(&values), BEFORE);
    Process::builder().daemon(true).spawn(write, values.clone()).unwrap().join().unwrap();
    assert_eq!(read(&values), AFTER);
}

/// `hasattr(x, 'get_lock')`: a method that the type has itself comes before this one.
trait WithoutLock {
    fn lock(&self) -> &'static str {
        "no lock"
    }
}
impl<T> WithoutLock for RawValue<T> {}
impl<T> WithoutLock for RawArray<T> {}

#[test]
fn a_value_has_a_lock_and_a_raw_one_has_none() {
    let _guard = guard();
    let value = Value::new(5i32).unwrap();
    let held = value.lock().unwrap();
    assert_eq!((held.get().unwrap(), value.raw().get().unwrap()), (5, 5));
    let others = |value: Value<i32>| matches!(value.try_lock(), Err(LockError::WouldBlock));
    assert!(Process::spawn(others, value.clone()).unwrap().join().unwrap(), "two have the lock of a value");
    drop(held);

    let raw = RawValue::new(5i32).unwrap();
    assert_eq!(raw.lock(), "no lock");
    // A lock of one's own stands beside it, and may stand beside many.
    let own = RLock::new().unwrap();
    let held = own.lock().unwrap();
    raw.add(1);
    drop(held);
    // Python: `synchronized(raw)`.
    assert_eq!(raw.synchronized().lock().unwrap().get().unwrap(), 6);
}

/// Each element becomes the sum of those up to it.
fn sums(array: &RawArray<i32>) {
    for i in 1..array.len() {
        array.set(i, array.get(i).unwrap() + array.get(i - 1).unwrap()).unwrap();
    }
}

/// Writes, reads and adds up; `in_child` adds up in a child.
fn adds_up(array: &RawArray<i32>, mut expected: Vec<i32>, in_child: impl FnOnce()) {
    assert_eq!(array.len(), expected.len());
    assert_eq!(array.get(3).unwrap(), expected[3]);
    assert_eq!(array.slice(2..7).unwrap(), expected[2..7]);
    expected[4..8].copy_from_slice(&[1, 2, 3, 4]);
    array.write_slice(4, &[1, 2, 3, 4]).unwrap();
    assert_eq!(array.to_vec().unwrap(), expected);
    for i in 1..expected.len() {
        expected[i] += expected[i - 1];
    }
    in_child();
    assert_eq!(array.to_vec().unwrap(), expected);
}

const SEQUENCE: [i32; 10] = [680, 626, 934, 821, 150, 233, 548, 982, 714, 831];

#[test]
fn an_array_is_read_and_written_by_index_and_by_slice() {
    let _guard = guard();
    let array = Array::from_slice(&SEQUENCE).unwrap();
    let child = |array: Array<i32>| sums(&array.lock().unwrap());
    adds_up(&array, SEQUENCE.to_vec(), || {
        Process::builder().daemon(true).spawn(child, array.clone()).unwrap().join().unwrap();
    });
}

#[test]
fn a_raw_array_is_read_and_written_by_index_and_by_slice() {
    let _guard = guard();
    let array = RawArray::from_slice(&SEQUENCE).unwrap();
    let child = |array: RawArray<i32>| sums(&array);
    adds_up(&array, SEQUENCE.to_vec(), || {
        Process::builder().daemon(true).spawn(child, array.clone()).unwrap().join().unwrap();
    });
}

#[test]
fn an_array_made_by_size_is_zeroed_also_where_others_were() {
    let all: Vec<i32> = (0..10).collect();
    for _ in 0..3 {
        let array = Array::<i32>::new(10).unwrap();
        assert_eq!(array.len(), 10);
        assert_eq!(array.to_vec().unwrap(), [0; 10]);
        array.copy_from_slice(&all).unwrap();
        assert_eq!(array.to_vec().unwrap(), all);
    }
}

#[test]
fn an_array_has_a_lock_and_a_raw_one_has_none() {
    let _guard = guard();
    let all: Vec<i32> = (0..10).collect();
    let array = Array::from_slice(&all).unwrap();
    let held = array.lock().unwrap();
    assert_eq!((held.to_vec().unwrap(), array.raw().to_vec().unwrap()), (all.clone(), all.clone()));
    let others = |array: Array<i32>| matches!(array.try_lock(), Err(LockError::WouldBlock));
    assert!(Process::spawn(others, array.clone()).unwrap().join().unwrap(), "two have the lock of an array");
    drop(held);
    let raw = RawArray::from_slice(&all).unwrap();
    assert_eq!(raw.lock(), "no lock");
    assert_eq!(raw.synchronized().lock().unwrap().get(9).unwrap(), 9);
}

/// Python's `_Foo`, a ctypes structure.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
struct Foo {
    x: i32,
    reserved: i32,
    y: f64,
    z: i64,
}

type Many = (RawValue<i32>, RawValue<f64>, RawValue<i64>, RawValue<Foo>, RawArray<f64>, RawArray<u8>);

fn many() -> Many {
    let tens: Vec<f64> = (0..10).map(f64::from).collect();
    let string = RawArray::new(20).unwrap();
    string.write_slice(0, b"hello").unwrap();
    (
        RawValue::new(7).unwrap(),
        RawValue::new(1.0 / 3.0).unwrap(),
        RawValue::new(1 << 33).unwrap(),
        RawValue::new(Foo { x: 3, reserved: 0, y: 2.0, z: 0 }).unwrap(),
        RawArray::from_slice(&tens).unwrap(),
        string,
    )
}

/// The characters in front of the first that is 0. Python: `.value` of an array of `c`.
fn text(string: &RawArray<u8>) -> Vec<u8> {
    string.to_vec().unwrap().into_iter().take_while(|c| *c != 0).collect()
}

fn double((x, y, z, record, array, string): &Many) {
    x.update(|x| x * 2).unwrap();
    y.update(|y| y * 2.0).unwrap();
    z.update(|z| z * 2).unwrap();
    record.update(|record| Foo { x: record.x * 2, y: record.y * 2.0, ..record }).unwrap();
    for i in 0..array.len() {
        array.at(i).unwrap().update(|n| n * 2.0).unwrap();
    }
    string.write_slice(0, &text(string).repeat(2)).unwrap();
}

fn is_doubled((x, y, z, record, array, string): &Many) {
    assert_eq!((x.load(), y.load(), z.load()), (14, 2.0 / 3.0, 1 << 34));
    assert_eq!(record.get().unwrap(), Foo { x: 6, reserved: 0, y: 4.0, z: 0 });
    assert_eq!(array.to_vec().unwrap(), (0..10).map(|i| f64::from(i * 2)).collect::<Vec<_>>());
    assert_eq!(text(string), b"hellohello");
}

#[test]
fn structures_numbers_and_characters_are_doubled_by_a_child() {
    let _guard = guard();
    let many = many();
    let child = |many: Many| double(&many);
    Process::builder().daemon(true).spawn(child, many.clone()).unwrap().join().unwrap();
    is_doubled(&many);
}

#[test]
fn structures_numbers_and_characters_are_doubled_under_their_locks() {
    let _guard = guard();
    let many = many();
    let child = |(x, y, z, record, array, string): Many| {
        let handles = (x.synchronized(), y.synchronized(), z.synchronized(), record.synchronized());
        let arrays = (array.synchronized(), string.synchronized());
        let (ours, others) = ((&handles.0, &handles.1, &handles.2, &handles.3), (&arrays.0, &arrays.1));
        let _held = (ours.0.lock(), ours.1.lock(), ours.2.lock(), ours.3.lock(), others.0.lock(), others.1.lock());
        double(&(x, y, z, record, array, string));
    };
    Process::builder().daemon(true).spawn(child, many.clone()).unwrap().join().unwrap();
    is_doubled(&many);
    assert_eq!(many.3.synchronized().depth(), 0);
}

#[test]
fn a_copy_of_what_a_value_holds_is_independent() {
    let record = Value::new(Foo { x: 2, reserved: 0, y: 5.0, z: 1 << 33 }).unwrap();
    let copy = Value::new(record.get().unwrap()).unwrap();
    record.set(Foo { x: 0, reserved: 0, y: 0.0, z: 0 }).unwrap();
    assert_eq!(copy.get().unwrap(), Foo { x: 2, reserved: 0, y: 5.0, z: 1 << 33 });
    // A clone of the handle is the same value.
    assert_eq!(record.clone().get().unwrap().x, 0);
}
