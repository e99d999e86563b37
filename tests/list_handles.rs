//! Lists of handles: what they name stays, and is given up with them.

use std::time::Duration;

use kinfolk::{ErrorKind, List, Process, Queue, Segment};
use support::watchdog::watchdog;

mod support;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn what_a_list_carries_stays() {
    let _guard = watchdog(LIMIT);
    let segment = Segment::anonymous(64 << 20).unwrap();
    let used = segment.stats().used_bytes;
    let list: List<(u32, Option<Queue<u32>>)> = List::new_in(&segment).unwrap();
    for k in 0..50 {
        let queue = Queue::builder().bytes(4096).segment(&segment).build().unwrap();
        queue.put(k).unwrap();
        list.push((k, (k % 5 == 0).then_some(queue))).unwrap();
    }
    // Nobody has the queues open; every way out of the list gives them back, or up.
    let open = |(k, queue): (u32, Option<Queue<u32>>)| queue.is_none_or(|queue| queue.get().unwrap() == k);
    assert!(list.iter().all(|item| open(item.unwrap())));
    for k in (0..50).step_by(5) {
        list.get(k).unwrap().1.unwrap().put(k).unwrap();
    }
    assert!(open(list.pop_at(0).unwrap()));
    assert_eq!(list.get(4).unwrap().0, 5);
    list.set(4, (5, None)).unwrap();
    list.swap(0, 9).unwrap();
    assert!(open(list.swap_remove(0).unwrap()));
    assert_eq!(list.get(14).unwrap().0, 15);
    list.update(14, |(k, queue)| (k + 1, queue)).unwrap();
    list.retain(|(k, _)| *k != 20).unwrap();
    assert!(list.to_vec().unwrap().into_iter().skip(15).all(open));
    list.set_slice(20..25, &[]).unwrap();
    list.truncate(30).unwrap();
    list.repeat(2).unwrap();
    list.clear().unwrap();
    drop(list);
    assert_eq!(segment.stats().used_bytes, used, "{}", segment.inspect());
}

#[test]
fn a_child_takes_what_the_list_carries() {
    let _guard = watchdog(LIMIT);
    let list: List<Queue<u32>> = List::new().unwrap();
    let queue = Queue::new(0).unwrap();
    queue.put(7).unwrap();
    let weak = queue.id();
    list.push(queue).unwrap();
    let take = |list: List<Queue<u32>>| {
        let queue = list.pop().unwrap();
        assert_eq!(queue.get().unwrap(), 7);
        list.push(queue).unwrap();
    };
    Process::spawn(take, list.clone()).unwrap().join().unwrap();
    assert!(list.get(0).unwrap().is_empty());
    // Killed while it holds what it has taken out: that is given up.
    let taken: List<bool> = List::new().unwrap();
    let keep = |(list, taken): (List<Queue<u32>>, List<bool>)| {
        let _queue = list.pop().unwrap();
        taken.push(true).unwrap();
        std::thread::park();
    };
    let child = Process::builder().daemon(true).spawn(keep, (list.clone(), taken.clone())).unwrap();
    taken.wait_changed(0).unwrap();
    let segment = Segment::family().unwrap();
    assert!(Queue::<u32>::open(&segment, weak).is_ok());
    child.kill().unwrap();
    child.join().unwrap_err();
    assert_eq!(Queue::<u32>::open(&segment, weak).err().unwrap().kind(), ErrorKind::Gone);
}

#[derive(serde::Serialize, serde::Deserialize, Debug)]
enum Tree {
    Leaf(i32),
    Branch(List<Tree>),
}

#[test]
fn a_list_may_contain_lists_and_itself() {
    let _guard = watchdog(LIMIT);
    let outer: List<Tree> = List::new().unwrap();
    let inner = List::from_slice(&[Tree::Leaf(1)]).unwrap();
    outer.push(Tree::Branch(inner.clone())).unwrap();
    outer.push(Tree::Branch(outer.clone())).unwrap();
    inner.push(Tree::Leaf(2)).unwrap();
    let text = format!("[<object {}>, <object {}>]", inner.id().index, outer.id().index);
    assert_eq!(outer.to_string(), text);
    assert_eq!(format!("{outer:?}"), "[Branch(List(2 elements)), Branch(List(2 elements))]");
    assert_eq!((inner.to_string(), format!("{inner:?}")), ("[1, 2]".into(), "[Leaf(1), Leaf(2)]".into()));
    drop(inner);
    let Tree::Branch(again) = outer.get(1).unwrap() else { panic!("another element") };
    assert_eq!((again.id(), again.len().unwrap()), (outer.id(), 2));
    let child = Process::spawn(
        |outer: List<Tree>| {
            let Tree::Branch(inner) = outer.get(0).unwrap() else { panic!("another element") };
            inner.push(Tree::Leaf(3)).unwrap();
        },
        outer.clone(),
    );
    child.unwrap().join().unwrap();
    assert_eq!(format!("{again:?}"), "[Branch(List(3 elements)), Branch(List(2 elements))]");
    let id = outer.id();
    drop((again, outer));
    let gone = List::<Tree>::open(&Segment::family().unwrap(), id).err().map(|e| e.kind());
    assert_eq!(gone, Some(ErrorKind::Gone), "a list that only it itself contains");
}
