//! Waiting for a condition, with a limit, and holding one for a time. Never a bare sleep.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::Outcome;

/// `Break` with what was waited for, or `Continue` with what is there instead.
pub type Look<T> = ControlFlow<T, String>;

const INTERVAL: Duration = Duration::from_millis(200);

/// Looks every 200 ms until there is a value, which it returns with the time that it took.
///
/// # Errors
/// The limit passed (the message says what was seen last), or looking failed.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Outcome<Look<T>>,
) -> Outcome<(T, Duration)> {
    let started = Instant::now();
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        // A request that hangs must not outlast the limit.
        let remaining = limit.saturating_sub(started.elapsed()).max(INTERVAL * 5);
        let seen = match tokio::time::timeout(remaining, look()).await {
            Ok(Ok(ControlFlow::Break(value))) => return Ok((value, started.elapsed())),
            Ok(Ok(ControlFlow::Continue(seen))) => seen,
            Ok(Err(error)) => return Err(format!("{what}: {error}").into()),
            Err(_) => "no answer".to_owned(),
        };
        if started.elapsed() >= limit {
            return Err(format!("{what}: not within {} s; last seen: {seen}", limit.as_secs()).into());
        }
    }
}

/// Looks every 200 ms for the whole time, and fails at the first look that is not as it should be.
///
/// # Errors
/// What was seen instead, and when.
pub async fn throughout(
    what: &str,
    lasting: Duration,
    mut look: impl AsyncFnMut() -> Outcome<Result<(), String>>,
) -> Outcome {
    let started = Instant::now();
    let mut interval = tokio::time::interval(INTERVAL);
    while started.elapsed() < lasting {
        interval.tick().await;
        if let Err(seen) = look().await.map_err(|error| format!("{what}: {error}"))? {
            return Err(format!("{what}: after {:.1} s: {seen}", started.elapsed().as_secs_f64()).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_is_kept_and_says_what_was_seen() {
        let never: Outcome<((), Duration)> =
            until("water from stone", Duration::from_secs(2), async || Ok(Look::Continue("stone".to_owned()))).await;
        let message = never.unwrap_err().to_string();
        assert!(message.contains("water from stone") && message.contains("last seen: stone"), "{message}");
    }

    #[tokio::test]
    async fn a_violation_ends_the_holding() {
        let mut looks = 0;
        let held = throughout("steady", Duration::from_mins(1), async || {
            looks += 1;
            Ok(if looks < 3 { Ok(()) } else { Err("it moved".to_owned()) })
        });
        assert!(held.await.unwrap_err().to_string().contains("it moved"));
        assert_eq!(looks, 3);
    }
}
