//! Many runs on all processors, with progress on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Answers every question, in order, on as many threads as there are processors.
pub(super) fn all<Q: Sync, A: Send>(questions: &[Q], what: &str, answer: impl Fn(&Q) -> A + Sync) -> Vec<A> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(questions.len().max(1));
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let answers: Mutex<Vec<(usize, A)>> = Mutex::new(Vec::with_capacity(questions.len()));
    let progress = Progress::new(what, questions.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, question)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    questions.get(index).map(|question| (index, question))
                } {
                    let answer = answer(question);
                    answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, answer));
                    progress.show(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    progress.end();
    let mut answers = answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

struct Progress<'a> {
    what: &'a str,
    of: usize,
    began: Instant,
    is_terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(what: &'a str, of: usize) -> Self {
        Self { what, of, began: Instant::now(), is_terminal: std::io::stderr().is_terminal() }
    }

    /// On a terminal one line that changes; elsewhere ten lines in all.
    fn show(&self, done: usize) {
        let tenth = self.of.div_ceil(10).max(1);
        let line = format!("{}: {done} of {} runs, {:.0} s", self.what, self.of, self.began.elapsed().as_secs_f64());
        let mut stderr = std::io::stderr();
        if self.is_terminal {
            write!(stderr, "\r{line}\x1b[K").ok();
        } else if done.is_multiple_of(tenth) || done == self.of {
            writeln!(stderr, "{line}").ok();
        }
    }

    fn end(&self) {
        if self.is_terminal {
            writeln!(std::io::stderr()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let questions: Vec<u64> = (0..200).collect();
        let answers = super::all(&questions, "test", |question| question * 2);
        assert_eq!(answers, (0..200).map(|question| question * 2).collect::<Vec<_>>());
    }
}
