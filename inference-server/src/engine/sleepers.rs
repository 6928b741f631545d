//! Threads that wait until there is something to do, counted so that each is called once for the same news.

/// Threads that wait on one condition; to notify it costs a system call, whether somebody sleeps or not.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    asleep: usize,
    called: usize,
}

impl Sleepers {
    /// Claims one who sleeps; whoever calls must then notify the condition. False when nobody does.
    pub(super) fn call(&mut self) -> bool {
        let somebody_sleeps = self.asleep > 0;
        if somebody_sleeps {
            self.asleep -= 1;
            self.called += 1;
        }
        somebody_sleeps
    }

    /// Counts one who sleeps as called, without a call: what it would do is done by somebody else.
    pub(super) fn stand_in(&mut self) {
        self.call();
    }

    /// That is done: it counts as asleep again, unless it woke up by itself meanwhile.
    pub(super) fn stand_back(&mut self) {
        if self.called > 0 {
            self.called -= 1;
            self.asleep += 1;
        }
    }

    /// How many sleep and were not called.
    pub(super) fn asleep(&self) -> usize {
        self.asleep
    }

    /// How many were called and have not looked yet.
    pub(super) fn called(&self) -> usize {
        self.called
    }

    /// Somebody goes to sleep.
    pub(super) fn sleep(&mut self) {
        self.asleep += 1;
    }

    /// Somebody woke up, called or by itself.
    pub(super) fn wake(&mut self) {
        if self.called > 0 {
            self.called -= 1;
        } else {
            self.asleep -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_called_once() {
        let mut sleepers = Sleepers::default();
        assert!(!sleepers.call(), "nobody sleeps");
        sleepers.sleep();
        sleepers.sleep();
        assert!(sleepers.call());
        assert_eq!((sleepers.asleep(), sleepers.called()), (1, 1));
        // The other one, by itself: it looks in the place of the one who was called, and that one in its place.
        sleepers.wake();
        sleepers.wake();
        assert_eq!((sleepers.asleep(), sleepers.called()), (0, 0));
    }

    #[test]
    fn nobody_is_called_whose_work_another_does() {
        let mut sleepers = Sleepers::default();
        sleepers.sleep();
        sleepers.stand_in();
        assert!(!sleepers.call());
        sleepers.stand_back();
        assert!(sleepers.call(), "it sleeps all the time");
        sleepers.wake();
        sleepers.sleep();
        // It wakes by itself, sees that it is not needed, and sleeps again.
        sleepers.stand_in();
        sleepers.wake();
        sleepers.sleep();
        sleepers.stand_back();
        assert_eq!((sleepers.asleep(), sleepers.called()), (1, 0));
    }
}
