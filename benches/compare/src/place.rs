//! Where the two sides run, and how far apart that is at the moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A cache line that goes and comes back in less than this is near.
const NEAR_NS: f64 = 150.0;
/// Round trips of a look.
const TURNS: u64 = 2000;

/// Which CPUs the two sides use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    TwoCpus,
    OneCpu,
}

impl Placement {
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoCpus => "two_cpus",
            Self::OneCpu => "one_cpu",
        }
    }

    /// The CPUs, if this process may use so many.
    pub fn cpus(self) -> Option<[usize; 2]> {
        let set = INITIAL.get_or_init(|| sched_getaffinity(None).expect("ask which CPUs there are"));
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
        let first = usable.next()?;
        Some([first, if self == Self::OneCpu { first } else { usable.next()? }])
    }
}

static INITIAL: std::sync::OnceLock<CpuSet> = std::sync::OnceLock::new();

/// Pins the calling thread, and what it starts later.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("pin a thread");
}

/// How far apart the CPUs are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Near,
    Far,
}

#[repr(align(128))]
struct Line(AtomicU64);

/// A thread on the second CPU that sends a cache line back when asked.
pub struct Probe {
    lines: Arc<[Line; 2]>,
    asleep: Option<JoinHandle<()>>,
    turn: u64,
}

const END: u64 = u64::MAX;

impl Probe {
    /// On one CPU there is nothing to look at: all is near.
    pub fn start(placement: Placement) -> Self {
        let lines = Arc::new([Line(AtomicU64::new(0)), Line(AtomicU64::new(0))]);
        let asleep = (placement == Placement::TwoCpus).then(|| {
            let lines = lines.clone();
            let cpu = placement.cpus().expect("it was there before")[1];
            std::thread::spawn(move || {
                pin(cpu);
                let mut seen = 0;
                loop {
                    std::thread::park();
                    // Awake from the first line of a look to its last.
                    loop {
                        let now = lines[0].0.load(Relaxed);
                        if now == END {
                            return;
                        }
                        if now != seen {
                            seen = now;
                            lines[1].0.store(now, Relaxed);
                            if now % TURNS == 0 {
                                break;
                            }
                        }
                        std::hint::spin_loop();
                    }
                }
            })
        });
        Self { lines, asleep, turn: 0 }
    }

    fn turns(&mut self, count: u64) {
        for _ in 0..count {
            self.turn += 1;
            self.lines[0].0.store(self.turn, Relaxed);
            while self.lines[1].0.load(Relaxed) != self.turn {
                std::hint::spin_loop();
            }
        }
    }

    /// How far apart the CPUs are now.
    pub fn look(&mut self) -> Class {
        let Some(thread) = &self.asleep else { return Class::Near };
        thread.thread().unpark();
        self.turns(TURNS / 2);
        let before = Instant::now();
        self.turns(TURNS / 2);
        let each = before.elapsed().as_nanos() as f64 / (TURNS / 2) as f64;
        if each < NEAR_NS { Class::Near } else { Class::Far }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(thread) = self.asleep.take() {
            self.lines[0].0.store(END, Relaxed);
            thread.thread().unpark();
            thread.join().expect("the probe ends");
        }
    }
}
