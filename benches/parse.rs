//! How long reading a page of metrics takes: `cargo bench --bench parse`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla::scrape::parse;

const OURS: &str = include_str!("../src/scrape/testdata/flotilla.txt");
const OURS_LOADED: &str = include_str!("../src/scrape/testdata/flotilla-under-load.txt");
const TRITON: &str = include_str!("../src/scrape/testdata/triton-under-load.txt");
const LARGE: usize = 50_000;

fn pages(criterion: &mut Criterion) {
    // With families that nobody needs, as a server brings that also exports its runtime.
    let ours_large = (0..).map(|number| format!("process_pool_bytes{{pool=\"pool-{number}\"}} {number}\n"));
    let ours_large: String = std::iter::once(OURS_LOADED.to_owned()).chain(ours_large).scan(0, up_to).collect();
    // With many models: every line is of a needed family.
    let triton_large = (0..).map(|number| TRITON.replace("model=\"clip\"", &format!("model=\"clip-{number}\"")));
    let triton_large: String = triton_large.map(samples).scan(0, up_to).collect();
    let mut group = criterion.benchmark_group("parse");
    for (name, page) in [
        ("ours", OURS),
        ("ours under load", OURS_LOADED),
        ("ours with other families", &ours_large),
        ("triton", TRITON),
        ("triton with many models", &triton_large),
    ] {
        group.throughput(Throughput::Bytes(page.len() as u64));
        group.bench_with_input(BenchmarkId::new(name, page.len()), page, |bencher, page| {
            bencher.iter(|| parse(black_box(page.as_bytes()), "clip-0").is_ok());
        });
    }
    group.finish();
}

/// The text, until all of it is large.
fn up_to(length: &mut usize, text: String) -> Option<String> {
    *length += text.len();
    (*length <= LARGE + text.len()).then_some(text)
}

/// The samples of a page: types may be told once only.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the iterator's")]
fn samples(page: String) -> String {
    page.lines().filter(|line| !line.starts_with('#')).map(|line| line.to_owned() + "\n").collect()
}

criterion_group!(benches, pages);
criterion_main!(benches);
