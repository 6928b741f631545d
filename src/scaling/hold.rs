//! For how long a peak is remembered: the user's window, and longer while peaks come back soon after it.
//!
//! A replica that was removed and is needed again soon cost its start-up twice, and requests waited meanwhile. Where
//! that happens the window doubles, and it halves again when a removal was right. The idle time that this may cost is
//! bounded by a multiple of what the user chose, as with a skier who rents until renting has cost as much as buying.

use std::time::Duration;

use super::observation::Monotonic;

/// The longest window, in windows of the user.
pub(super) const LONGEST: u32 = 4;
/// The longest window at all, where the user's is not longer.
const LONGEST_TIME: Duration = Duration::from_mins(10);
/// A return within this many start-ups is soon, where that is longer than the window.
const SOON_STARTUPS: u32 = 5;

/// How many windows a peak is remembered, and the decrease that is still to be judged.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hold {
    windows: u32,
    decrease: Option<Decrease>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Decrease {
    at: Monotonic,
    from: u32,
    to: u32,
}

impl Default for Hold {
    fn default() -> Self {
        Self { windows: 1, decrease: None }
    }
}

impl Hold {
    /// How long a peak is remembered.
    pub(super) fn length(&self, window: Duration) -> Duration {
        (window * self.windows).min(LONGEST_TIME).max(window)
    }

    /// Notes a decrease; further steps of it belong to it.
    pub(super) fn decreased(&mut self, from: u32, to: u32, now: Monotonic, window: Duration) {
        let before = self.decrease.filter(|decrease| now.since(decrease.at) < window);
        self.decrease = Some(Decrease { at: now, from: before.map_or(from, |before| before.from.max(from)), to });
    }

    /// Judges the last decrease by what is needed now, where so many are ordered.
    pub(super) fn judge(&mut self, needed: u32, ordered: u32, now: Monotonic, window: Duration, startup: Duration) {
        let Some(decrease) = self.decrease else { return };
        if ordered >= decrease.from {
            // Nobody carried it out, so whether it was right will never be known.
            self.decrease = None;
            return;
        }
        // More than half of what was removed is needed again.
        let is_back = needed > decrease.to + (decrease.from - decrease.to) / 2;
        let soon = window.max(startup * SOON_STARTUPS);
        if now.since(decrease.at) > soon {
            (self.windows, self.decrease) = ((self.windows / 2).max(1), None);
        } else if is_back {
            (self.windows, self.decrease) = ((self.windows * 2).min(LONGEST), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(1);
    const STARTUP: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_peak_that_comes_back_soon_doubles_the_window_up_to_four() {
        let mut hold = Hold::default();
        for windows in [2, 4, 4] {
            hold.decreased(8, 2, at(100), WINDOW);
            hold.judge(4, 2, at(110), WINDOW, STARTUP);
            hold.judge(6, 4, at(130), WINDOW, STARTUP);
            assert_eq!(hold.length(WINDOW), WINDOW * windows);
        }
    }

    #[test]
    fn a_long_window_grows_to_ten_minutes_at_most() {
        let hold = Hold { windows: 4, decrease: None };
        let minutes = |number| Duration::from_mins(number);
        assert_eq!([1, 2, 5, 15].map(|window| hold.length(minutes(window))), [4, 8, 10, 15].map(minutes));
    }

    #[test]
    fn a_removal_that_was_right_halves_it_again() {
        let mut hold = Hold { windows: 4, decrease: None };
        for windows in [2, 1, 1] {
            hold.decreased(8, 2, at(100), WINDOW);
            hold.judge(2, 2, at(160), WINDOW, STARTUP);
            hold.judge(8, 2, at(161), WINDOW, STARTUP);
            assert_eq!(hold.length(WINDOW), WINDOW * windows);
        }
    }

    #[test]
    fn the_steps_of_a_decrease_are_one() {
        let mut hold = Hold::default();
        hold.decreased(8, 4, at(100), WINDOW);
        hold.decreased(4, 2, at(115), WINDOW);
        hold.judge(6, 2, at(120), WINDOW, STARTUP);
        assert_eq!(hold.length(WINDOW), WINDOW * 2);
        let mut slow = Hold::default();
        slow.decreased(3, 1, at(100), WINDOW);
        slow.judge(3, 1, at(300), WINDOW, Duration::from_secs(50));
        assert_eq!(slow.length(WINDOW), WINDOW * 2, "what takes long to come back is missed for longer");
    }

    #[test]
    fn a_decrease_that_nobody_carried_out_is_not_judged() {
        let mut hold = Hold { windows: 2, decrease: None };
        for second in [100, 102, 104] {
            hold.judge(2, 8, at(second), WINDOW, STARTUP);
            hold.decreased(8, 4, at(second), WINDOW);
        }
        hold.judge(8, 8, at(106), WINDOW, STARTUP);
        assert_eq!(hold, Hold { windows: 2, decrease: None }, "neither right nor wrong");
    }
}
