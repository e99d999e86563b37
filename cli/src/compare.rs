//! Measures the cases of the comparison, the peers in turns, within a time.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde::Serialize;

use crate::measure::{Case, Failure, PAYLOADS, Pair, Placement, Shape, Who};

/// How long one peer is measured before the next has its turn.
const SAMPLE_NS: u64 = 5_000_000;
/// How long a batch of messages one way should last: much longer than the answer at its end.
const BATCH_NS: u64 = 1_500_000;
/// What a batch has at least, and at most.
const BATCH_MESSAGES: (u64, u64) = (8, 1 << 20);
/// Times that one sample may bring.
const SAMPLE_TIMES: u64 = 20_000;
/// Every peer has at least so many turns.
const ROUNDS: u32 = 2;

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
    while round < ROUNDS || Instant::now() < end {
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
    /// Messages of a batch, and batches of a sample.
    messages: u32,
    batches: u32,
    times: Vec<u64>,
}

impl Runner {
    /// Starts the processes, and finds out how much fits in a sample.
    fn start(case: Case) -> anyhow::Result<Self> {
        let failed = failed(case);
        let mut pair = Pair::start(case).map_err(failed)?;
        let mut messages = 1;
        let ns_per_message = loop {
            let ns = pair.run(1, messages).map_err(failed)?.iter().sum::<u64>().max(1);
            if ns > SAMPLE_NS / 20 || u64::from(messages) >= BATCH_MESSAGES.1 {
                break (ns / u64::from(messages)).max(1);
            }
            messages *= 4;
        };
        let messages = match case.shape {
            Shape::RoundTrip => 1,
            Shape::OneWay => (BATCH_NS / ns_per_message).clamp(BATCH_MESSAGES.0, BATCH_MESSAGES.1),
        };
        let batches = (SAMPLE_NS / (ns_per_message * messages)).clamp(1, SAMPLE_TIMES);
        Ok(Self { case, pair, messages: messages as u32, batches: batches as u32, times: Vec::new() })
    }

    fn sample(&mut self) -> anyhow::Result<()> {
        let times = self.pair.run(self.batches, self.messages).map_err(failed(self.case))?;
        self.times.extend(times);
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Row> {
        self.pair.finish().map_err(failed(self.case))?;
        self.times.sort_unstable();
        let per_message = |percent| percentile(&self.times, percent) as f64 / f64::from(self.messages);
        Ok(Row {
            bench: self.case.shape,
            who: self.case.who,
            payload_bytes: self.case.payload,
            placement: self.case.placement,
            median_ns: per_message(50),
            p99_ns: per_message(99),
            messages: self.times.len() as u64 * u64::from(self.messages),
        })
    }
}

fn failed(case: Case) -> impl Fn(Failure) -> anyhow::Error + Copy {
    move |e| anyhow!(e).context(case.id())
}

/// The smallest time that at least `percent` of a hundred do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<u64> = (1..=200).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (100, 198));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99)), (7, 7));
        assert_eq!(percentile(&[], 99), 0);
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
