//! Measures the cases of the comparison, the peers in turns, within a time.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde::Serialize;

use crate::measure::{Case, Failure, PAYLOADS, Pair, Placement, Shape, Who};

/// How long one peer is measured before the next has its turn.
const SAMPLE_NS: f64 = 5e6;
/// How long a batch of messages one way should last: much longer than the answer at its end.
const BATCH_NS: f64 = 1.5e6;
/// What such a batch has at least, and at most.
const BATCH_MESSAGES: (f64, f64) = (8.0, 1e6);
/// Times that one sample may bring.
const SAMPLE_TIMES: f64 = 20e3;
/// Batches that are looked at to find out how much fits in a sample: one that was interrupted says nothing.
const CALIBRATION: u32 = 5;
/// Every peer has at least so many turns.
const ROUNDS: u32 = 4;

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who waits for whom.
    pub bench: Shape,
    /// What carried the messages.
    pub who: Who,
    /// Bytes of a message.
    pub payload_bytes: usize,
    /// Where the two processes ran.
    pub placement: Placement,
    /// Nanoseconds of a round trip, or per message one way: half of them took less.
    pub median_ns: f64,
    /// As `median_ns`: 99 of 100 took less.
    pub p99_ns: f64,
    /// Round trips, or messages one way, that were measured.
    pub messages: u64,
}

/// Cases that differ only in what carries the messages: they are measured in turns.
pub type Group = Vec<Case>;

/// What to measure: all that this machine can, and that one of the filters wants if there are any. A filter wants the
/// cases whose names have all its words.
pub fn plan(only: &[String]) -> anyhow::Result<Vec<Group>> {
    let filters: Vec<Vec<&str>> = only.iter().map(|filter| filter.split(['/', ',']).collect()).collect();
    let wanted = |case: &Case| {
        let id = case.id();
        let has = |word: &&str| id.split('/').any(|part| part == *word);
        filters.is_empty() || filters.iter().any(|words| words.iter().all(has))
    };
    let mut groups = Vec::new();
    for shape in Shape::ALL {
        for placement in Placement::ALL {
            if placement.cpus().context("ask which CPUs there are")?.is_none() {
                eprintln!("{}/{}: skipped, there is one CPU only", shape.name(), placement.name());
                continue;
            }
            for payload in PAYLOADS {
                let all = Who::ALL.map(|who| Case { shape, payload, placement, who });
                groups.push(all.into_iter().filter(wanted).collect::<Group>());
            }
        }
    }
    groups.retain(|group| !group.is_empty());
    ensure!(!groups.is_empty(), "--only {}: nothing has these words in its name", only.join(" --only "));
    Ok(groups)
}

/// Measures the groups, each in its share of the time that is left, and tells each row when it is done.
pub fn measure(
    plan: &[Group],
    budget: Duration,
    mut done: impl FnMut(&Row) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Row>> {
    let end = Instant::now() + budget;
    let mut rows = Vec::new();
    for (index, group) in plan.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        for row in measure_group(group, left / (plan.len() - index) as u32)? {
            done(&row)?;
            rows.push(row);
        }
    }
    Ok(rows)
}

fn measure_group(group: &Group, budget: Duration) -> anyhow::Result<Vec<Row>> {
    let end = Instant::now() + budget;
    let mut runners = group.iter().map(|case| Runner::start(*case)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut round = 0;
    while round < ROUNDS || Instant::now() < end || runners.iter().any(|runner| runner.times.is_empty()) {
        for runner in &mut runners {
            runner.sample()?;
        }
        round += 1;
    }
    runners.into_iter().map(Runner::finish).collect()
}

/// One case being measured.
struct Runner {
    case: Case,
    pair: Pair,
    /// The least that a message took in a batch so far: how much fits in a sample follows from it.
    quickest_ns: f64,
    /// Nanoseconds per message of each batch.
    times: Vec<f64>,
    messages: u64,
}

impl Runner {
    /// Starts the processes, and finds out how quick they are.
    fn start(case: Case) -> anyhow::Result<Self> {
        let pair = Pair::start(case).map_err(failed(case))?;
        let mut runner = Self { case, pair, quickest_ns: f64::INFINITY, times: Vec::new(), messages: 0 };
        let mut messages = 1;
        while runner.batches(CALIBRATION, messages)? * f64::from(messages) < SAMPLE_NS / 20.0 {
            messages *= 4;
        }
        runner.start_over();
        Ok(runner)
    }

    fn sample(&mut self) -> anyhow::Result<()> {
        let expected = self.quickest_ns;
        let messages = match self.case.shape {
            Shape::RoundTrip => 1.0,
            Shape::OneWay => (BATCH_NS / expected).clamp(BATCH_MESSAGES.0, BATCH_MESSAGES.1),
        };
        let batches = (SAMPLE_NS / (expected * messages)).clamp(1.0, SAMPLE_TIMES);
        if self.batches(batches as u32, messages as u32)? < expected / 2.0 {
            // Whatever slowed the first batches is over, and they were too small.
            self.start_over();
        }
        Ok(())
    }

    /// Runs some batches: what a message of the quickest one took.
    fn batches(&mut self, batches: u32, messages: u32) -> anyhow::Result<f64> {
        let times = self.pair.run(batches, messages).map_err(failed(self.case))?;
        self.messages += times.len() as u64 * u64::from(messages);
        self.times.extend(times.iter().map(|ns| *ns as f64 / f64::from(messages)));
        let quickest = times.into_iter().min().unwrap_or(0).max(1) as f64 / f64::from(messages);
        self.quickest_ns = self.quickest_ns.min(quickest);
        Ok(quickest)
    }

    fn start_over(&mut self) {
        self.times.clear();
        self.messages = 0;
    }

    fn finish(mut self) -> anyhow::Result<Row> {
        self.pair.finish().map_err(failed(self.case))?;
        self.times.sort_unstable_by(f64::total_cmp);
        Ok(Row {
            bench: self.case.shape,
            who: self.case.who,
            payload_bytes: self.case.payload,
            placement: self.case.placement,
            median_ns: percentile(&self.times, 50),
            p99_ns: percentile(&self.times, 99),
            messages: self.messages,
        })
    }
}

fn failed(case: Case) -> impl Fn(Failure) -> anyhow::Error + Copy {
    move |e| anyhow!(e).context(case.id())
}

/// The smallest time that at least `percent` of a hundred do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (100.0, 198.0));
        assert_eq!((percentile(&[7.0], 50), percentile(&[7.0], 99)), (7.0, 7.0));
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn a_filter_wants_all_its_words_and_filters_want_either() {
        let ids = |only: &[&str]| -> Vec<String> {
            let only: Vec<String> = only.iter().map(|s| (*s).to_owned()).collect();
            plan(&only).map(|groups| groups.concat().iter().map(Case::id).collect()).unwrap_or_default()
        };
        assert_eq!(ids(&["rtt/64B/one_cpu/pipe"]), ["rtt/64B/one_cpu/pipe"]);
        assert_eq!(ids(&["oneway,8B,unpinned,pipe", "rtt/1MiB/unpinned/kinfolk"]).len(), 2);
        assert!(ids(&["4B"]).is_empty());
    }

    #[test]
    fn every_transport_delivers_and_checks_what_it_carries() {
        for who in Who::ALL {
            for shape in Shape::ALL {
                for payload in [8, 1 << 10, 1 << 20] {
                    let case = Case { shape, payload, placement: Placement::Unpinned, who };
                    let mut pair = Pair::start(case).unwrap();
                    assert_eq!(pair.run(2, 3).unwrap().len(), 2);
                    pair.finish().unwrap();
                }
            }
        }
    }
}
