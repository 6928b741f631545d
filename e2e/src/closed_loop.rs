//! A closed loop: so many users, each of whom sends the next request once the last one is answered, until all are sent.
//!
//! Unlike [`Load`](crate::load::Load) it slows down with the server; that is how the study measured, and what it is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Outcome;
use crate::load::{Answer, Report, Target, client};

const MOST_USERS: usize = 64;
const MOST_REQUESTS: usize = 10_000;
/// How long all of it may take.
const LIMIT: Duration = Duration::from_mins(10);

/// Sends `requests` by `users`, each request on a connection of its own, so that new replicas get their share at once.
///
/// # Errors
/// The numbers are beyond the bounds, or it took too long.
pub async fn run(target: &Target, users: usize, requests: usize) -> Outcome<Report> {
    ensure!((1..=MOST_USERS).contains(&users), "{users} users are not allowed");
    ensure!((1..=MOST_REQUESTS).contains(&requests), "{requests} requests are not allowed");
    let (sent, started) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..users {
        // Without idle connections, none is used twice.
        let (client, target, sent) = (client(0)?, target.clone(), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut answers = Vec::new();
            while sent.fetch_add(1, Ordering::Relaxed) < requests {
                let due = Instant::now();
                let outcome = target.request(&client).await;
                answers.push(Answer { due: due - started, latency: due.elapsed(), outcome });
            }
            answers
        });
    }
    let all = async {
        let mut answers = Vec::with_capacity(requests);
        while let Some(part) = tasks.join_next().await {
            answers.extend(part?);
        }
        Outcome::Ok(answers)
    };
    let mut answers =
        tokio::time::timeout(LIMIT, all).await.map_err(|_| format!("not all answered within {LIMIT:?}"))??;
    answers.sort_by_key(|answer| answer.due);
    Ok(Report { answers })
}
