//! A queue against an OS pipe and a Unix socket: round trips and messages one way, between two processes.

mod measure;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use measure::{Case, PAYLOADS, Pair, Placement, Shape, Who};

fn channel(criterion: &mut Criterion) {
    for shape in Shape::ALL {
        for payload in PAYLOADS {
            for placement in Placement::ALL {
                if placement.cpus().expect("ask which CPUs there are").is_none() {
                    println!("{}/{}: skipped, there is one CPU only", shape.name(), placement.name());
                    continue;
                }
                for who in Who::ALL {
                    let case = Case { shape, payload, placement, who };
                    // Started when it is reached: a filter starts nothing in vain. Starting checks that it works.
                    let mut pair = None;
                    criterion.bench_function(&case.id(), |bencher| {
                        let pair = pair.get_or_insert_with(|| Pair::start(case).expect("start two processes"));
                        bencher.iter_custom(|messages| {
                            let messages = u32::try_from(messages).expect("a sample of less than 2^32 messages");
                            Duration::from_nanos(pair.run(1, messages).expect("measure a batch").iter().sum())
                        });
                    });
                    if let Some(pair) = pair {
                        pair.finish().expect("both processes end well");
                    }
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1));
    targets = channel
}
criterion_main!(benches);
