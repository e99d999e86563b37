//! Which CPUs the two processes run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Where the two processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Where the system puts them.
    Unpinned,
    /// Both on the first usable CPU.
    OneCpu,
    /// On the first two usable CPUs.
    TwoCpus,
}

impl Placement {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Unpinned, Self::OneCpu, Self::TwoCpus];

    /// Its name in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unpinned => "unpinned",
            Self::OneCpu => "one_cpu",
            Self::TwoCpus => "two_cpus",
        }
    }

    /// The CPU of each of the two processes, if it is to be pinned; `None` if this process may not use CPUs enough.
    ///
    /// # Errors
    /// If the system does not say which CPUs there are.
    pub fn cpus(self) -> std::io::Result<Option<[Option<usize>; 2]>> {
        let set = sched_getaffinity(None)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
        let (first, second) = (usable.next(), usable.next());
        Ok(match self {
            Self::Unpinned => Some([None, None]),
            Self::OneCpu => first.map(|cpu| [Some(cpu); 2]),
            Self::TwoCpus => second.map(|_| [first, second]),
        })
    }
}

/// Pins the calling thread, and the threads it starts later.
pub(super) fn pin(cpu: Option<usize>) -> std::io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
