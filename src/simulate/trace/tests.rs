//! Small files, good and bad.

use super::*;

fn read(text: &str) -> Result<Trace, TraceError> {
    Trace::read(text.as_bytes())
}

#[test]
fn timestamps_become_seconds_from_the_first() {
    let text = "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03.9799600,4808\n2023-11-16 18:17:05.4799600,1\n2023-11-16 18:17:04.9799600,7\n";
    let Trace::Moments(moments) = read(text).unwrap() else { panic!("moments") };
    let near = |left: f64, right: f64| (left - right).abs() < 1e-6;
    assert!(near(moments[0], 0.0) && near(moments[1], 1.0) && near(moments[2], 1.5), "{moments:?}");
    let zoned = "TIMESTAMP\n2024-05-10 00:00:00.5+00:00\n2024-05-10 00:00:02+00:00\n";
    assert_eq!(read(zoned).unwrap(), Trace::Moments(vec![0.0, 1.5]));
    assert_eq!(read("TIMESTAMP\n10\n10.25\n").unwrap(), Trace::Moments(vec![0.0, 0.25]));
}

#[test]
fn counts_become_a_rate_that_goes_evenly() {
    let text = "timestamp,value\n2014-04-10 00:00:00,300\n2014-04-10 00:05:00,900\n2014-04-10 00:10:00,300\n";
    let Trace::Counts(rate) = read(text).unwrap() else { panic!("counts") };
    assert!((rate.duration() - 900.0).abs() < 1e-9);
    assert!((rate.at(10.0) - 1.0).abs() < 1e-9 && (rate.at(450.0) - 3.0).abs() < 0.1, "{rate:?}");
    assert!((rate.at(300.0) - 2.0).abs() < 0.1 && (rate.at(890.0) - 1.0).abs() < 0.1);
    let seconds = "second,requests\n0,4\n1,6\n2,0\n";
    assert_eq!(read(seconds).unwrap(), Trace::Counts(Rate { bin_seconds: 1.0, per_second: vec![4.0, 6.0, 0.0] }));
}

#[test]
fn a_bad_file_is_told_with_its_line_and_what_to_write() {
    for (text, expected) in [
        ("a,b\n1,2\n", "line 1: the columns are `a,b`"),
        ("TIMESTAMP\n1\nyesterday\n", "line 3: `yesterday` is no time"),
        ("second,requests\n0,4\n1,-6\n", "line 3: `-6` is no count"),
        ("second,requests\n0,4\n1,NaN\n", "line 3: `NaN` is no count"),
        ("second,requests\n0,4\n1\n", "line 3: `` is no count"),
        ("second,requests\n0,4\n0,6\n", "line 3: this time is not after"),
        ("TIMESTAMP\n5\n", "the file has 1 row(s)"),
        ("TIMESTAMP\n0\n1e9\n", "line 3: a trace holds at most"),
        ("", "line 1: the columns are ``"),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{text:?}: {message}");
    }
}

#[test]
fn a_scaled_trace_is_drawn_from_its_rate() {
    let moments: Vec<f64> = (0..1000).map(|index| f64::from(index) / 10.0).collect();
    let arrivals = Trace::Moments(moments.clone()).load(20.0).draw(1);
    assert!((19_000..21_000).contains(&arrivals.moments.len()), "{}", arrivals.moments.len());
    assert_eq!(Trace::Moments(moments.clone()).load(1.0).draw(1).moments, moments);
    let part = Trace::Moments(moments).load(1.0).part(50.0, 10.0).draw(1);
    assert_eq!(part.moments.len(), 100);
}
