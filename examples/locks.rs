//! A tour of the lock family between processes, with one death in it.
//!
//! `cargo run --example locks`

use std::time::Duration;

use kinfolk::{
    Barrier, BarrierError, Condvar, Event, LockError, Mutex, Once, Process, RLock, RwLock, Semaphore, process,
};

type Answer = Result<(), Box<dyn std::error::Error>>;

fn main() -> Answer {
    mutex()?;
    rlock()?;
    rwlock()?;
    semaphore()?;
    condvar()?;
    event()?;
    barrier()?;
    once()
}

/// A mutex has its data inside, and a death does not jam it.
fn mutex() -> Answer {
    let account = Mutex::new([100i64, 0])?;
    fn dies_in_the_middle(account: Mutex<[i64; 2]>) {
        let mut guard = account.lock().unwrap();
        guard[0] -= 30;
        std::process::abort();
    }
    let child = Process::builder().name("careless").spawn(dies_in_the_middle, account.clone())?;
    let pid = child.pid();
    let ended = child.join().unwrap_err();
    match account.lock() {
        Err(LockError::OwnerDied(mut guard)) => {
            println!("mutex: careless (pid {pid}) died with it ({ended}); the account holds {:?}", *guard);
            guard.mark_consistent();
        }
        other => panic!("{other:?}"),
    }
    println!("mutex: the next one is not told any more: {:?}", *account.lock().unwrap());
    Ok(())
}

/// An `RLock` may be taken again by whoever has it.
fn rlock() -> Answer {
    let lock = RLock::new()?;
    let outer = lock.lock().unwrap();
    let inner = lock.lock().unwrap();
    println!("rlock: taken {} times by {}", lock.depth(), lock.holder().unwrap());
    let tries = |lock: RLock| lock.try_lock().is_ok();
    println!("rlock: another process gets it: {}", Process::spawn(tries, lock.clone())?.join()?);
    drop((inner, outer));
    Ok(())
}

/// Many may read at once, one may write.
fn rwlock() -> Answer {
    let limits = RwLock::new([1u32, 10])?;
    let reads = |limits: RwLock<[u32; 2]>| {
        let guard = limits.read().unwrap();
        guard[0] + guard[1]
    };
    let mine = limits.read().unwrap();
    println!(
        "rwlock: a child reads {} while this process reads {:?}",
        Process::spawn(reads, limits.clone())?.join()?,
        *mine
    );
    drop(mine);
    limits.write().unwrap()[1] = 20;
    println!("rwlock: written, it says {:?}", *limits.read().unwrap());
    Ok(())
}

/// Permits come back, also from the dead.
fn semaphore() -> Answer {
    let desks = Semaphore::new(2)?;
    fn sits_for_ever(desks: Semaphore) {
        std::mem::forget(desks.acquire().unwrap());
        std::process::abort();
    }
    let taken = desks.acquire()?;
    let _ = Process::spawn(sits_for_ever, desks.clone())?.join();
    println!("semaphore: one desk is ours, the other came back from the dead: {} free", desks.value());
    drop(taken);
    Ok(())
}

/// A condition is waited for with the lock given up.
fn condvar() -> Answer {
    let (stock, news) = (Mutex::new(0u32)?, Condvar::new()?);
    let delivers = |(stock, news): (Mutex<u32>, Condvar)| {
        for _ in 0..3 {
            *stock.lock().unwrap() += 1;
            news.notify_all();
        }
    };
    let child = Process::spawn(delivers, (stock.clone(), news.clone()))?;
    let guard = news.wait_for(stock.lock().unwrap(), |stock| *stock == 3).unwrap();
    println!("condvar: {} pieces have come", *guard);
    drop(guard);
    Ok(child.join()?)
}

/// One sets it, all go on.
fn event() -> Answer {
    let start = Event::new()?;
    let waits = |start: Event| start.wait_timeout(Duration::from_secs(10));
    let children = [Process::spawn(waits, start.clone())?, Process::spawn(waits, start.clone())?];
    start.set();
    for child in children {
        println!("event: seen by a child: {}", child.join()?);
    }
    Ok(())
}

/// All meet, or all learn that one is missing.
fn barrier() -> Answer {
    let meeting = Barrier::new(3)?;
    let comes = |meeting: Barrier| meeting.wait().is_ok();
    let children = [Process::spawn(comes, meeting.clone())?, Process::spawn(comes, meeting.clone())?];
    meeting.wait_with(|| println!("barrier: all three are here"))?;
    for child in children {
        assert!(child.join()?);
    }
    fn never_comes(meeting: Barrier) {
        let _ = meeting.parties();
        std::process::abort();
    }
    let child = Process::builder().name("absent").spawn(never_comes, meeting.clone())?;
    match meeting.wait() {
        Err(BarrierError::Broken { who }) => println!("barrier: broken, {} is dead", who.unwrap()),
        other => panic!("{other:?}"),
    }
    let _ = child.join();
    Ok(())
}

/// Many want it done, one does it.
fn once() -> Answer {
    let setup = Once::new()?;
    let wants = |setup: Once| {
        let mut did = None;
        setup.call_once(|_| did = Some(process::current().name().to_owned())).unwrap();
        did
    };
    let children: Vec<_> = (0..4).map(|_| Process::spawn(wants, setup.clone())).collect::<Result<_, _>>()?;
    let did: Vec<String> = children.into_iter().filter_map(|child| child.join().unwrap()).collect();
    println!("once: of four processes one did it: {}", did.len());
    Ok(())
}
