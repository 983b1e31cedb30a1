use super::*;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 256 << 10;
const QUIET: Duration = Duration::from_micros(100);
const SLOW: Duration = Duration::from_millis(3);

/// A throttle and a clock: chunks take no time, all of it goes by in waits and between reads.
struct World {
    throttle: Throttle,
    now: Duration,
}

impl World {
    /// One that has seen quiet reads, and whose work has begun with an empty bucket.
    fn new() -> Self {
        let mut world = Self { throttle: Throttle::new(), now: Duration::from_secs(1000) };
        (0..200).for_each(|_| world.read(QUIET));
        world.chunk(THROTTLE_BURST_SIZE, Pressure::Normal);
        world
    }

    /// A read that ends a bit later.
    fn read(&mut self, latency: Duration) {
        self.now += Duration::from_micros(200);
        self.throttle.note_read(latency, self.now);
    }

    /// Waits for a chunk, and returns how long.
    fn chunk(&mut self, size: u64, pressure: Pressure) -> Duration {
        let pause = self.throttle.wait(size, pressure, self.now);
        self.now += pause;
        pause
    }

    /// One period in which all reads take so long, with the chunks that the rate allows.
    fn period(&mut self, latency: Duration) {
        let end = self.now + THROTTLE_PERIOD;
        while self.now < end {
            (0..THROTTLE_PERIOD_READ_COUNT).for_each(|_| self.read(latency));
            self.chunk(CHUNK, Pressure::Normal);
        }
    }

    /// Bytes per second over some chunks.
    fn speed(&mut self, pressure: Pressure) -> u64 {
        let (begun, count) = (self.now, 64);
        (0..count).for_each(|_| _ = self.chunk(CHUNK, pressure));
        count * CHUNK * 1000 / ((self.now - begun).as_millis() as u64).max(1)
    }
}

#[test]
fn an_idle_device_is_used_at_full_speed() {
    let mut world = World::new();
    (0..1000).for_each(|_| assert_eq!(world.chunk(64 * MIB, Pressure::Idle), Duration::ZERO));
    assert!(world.chunk(CHUNK, Pressure::Normal) < Duration::from_millis(10), "that was not on credit");
}

#[test]
fn chunks_come_at_the_rate_while_gets_are_served() {
    let mut world = World::new();
    let (rate, speed) = (world.throttle.rate(), world.speed(Pressure::Normal));
    assert!(speed >= rate * 95 / 100 && speed <= rate * 115 / 100, "{speed} of {rate}");
}

#[test]
fn slow_reads_lower_the_rate_step_by_step_down_to_the_floor() {
    let mut world = World::new();
    let mut rates = vec![world.throttle.rate()];
    for _ in 0..100 {
        world.period(SLOW);
        rates.push(world.throttle.rate());
    }
    assert!(rates.windows(2).all(|pair| pair[1] <= pair[0] && pair[1] >= pair[0] / 2), "{rates:?}");
    assert!(rates[3] > THROTTLE_RATE_MIN, "{rates:?}");
    assert_eq!(rates[100], THROTTLE_RATE_MIN);
    let speed = world.speed(Pressure::Normal);
    assert!(speed >= THROTTLE_RATE_MIN * 95 / 100, "{speed}: no lower than the floor");
}

#[test]
fn the_rate_rises_again_up_to_the_ceiling() {
    let mut world = World::new();
    (0..100).for_each(|_| world.period(SLOW));
    let mut rates = vec![world.throttle.rate()];
    for _ in 0..1000 {
        world.period(QUIET);
        // What no wait was needed for says nothing about the rate.
        world.chunk(16 * MIB, Pressure::Normal);
        rates.push(world.throttle.rate());
    }
    assert!(rates.is_sorted() && rates[20] > rates[0], "{rates:?}");
    assert_eq!(rates[1000], THROTTLE_RATE_MAX);
}

#[test]
fn a_rate_that_holds_nobody_up_does_not_rise() {
    let mut world = World::new();
    let rate = world.throttle.rate();
    for _ in 0..100 {
        world.now += Duration::from_millis(20);
        (0..THROTTLE_PERIOD_READ_COUNT).for_each(|_| world.read(QUIET));
        assert_eq!(world.chunk(CHUNK, Pressure::Normal), Duration::ZERO);
    }
    assert_eq!(world.throttle.rate(), rate);
}

#[test]
fn a_few_slow_reads_among_many_change_nothing_and_more_do() {
    for (slow_count, is_lowered) in [(3, false), (5, true)] {
        let mut world = World::new();
        let rate = world.throttle.rate();
        world.chunk(4 * MIB, Pressure::Normal);
        (0..3 * SLOW_SHARE - slow_count).for_each(|_| world.read(QUIET));
        (0..slow_count).for_each(|_| world.read(SLOW));
        world.chunk(CHUNK, Pressure::Normal);
        assert_eq!(world.throttle.rate() < rate, is_lowered, "{slow_count} of {}", 3 * SLOW_SHARE);
    }
}

/// Few gets: the rate is looked at all the same.
#[test]
fn rare_reads_count_after_a_while() {
    let mut world = World::new();
    let rate = world.throttle.rate();
    (0..4).for_each(|_| world.read(SLOW));
    world.now += THROTTLE_PERIOD;
    world.chunk(CHUNK, Pressure::Normal);
    assert_eq!(world.throttle.rate(), rate);
    world.now += THROTTLE_PERIOD_MAX;
    world.chunk(CHUNK, Pressure::Normal);
    assert!(world.throttle.rate() < rate);
}

#[test]
fn waiting_writers_override_the_rate_and_end_a_pause() {
    let mut world = World::new();
    (0..100).for_each(|_| world.period(SLOW));
    assert_eq!(world.throttle.rate(), THROTTLE_RATE_MIN);
    world.throttle.level = 0;
    let speed = world.speed(Pressure::Urgent);
    assert!(speed >= THROTTLE_RATE_URGENT * 95 / 100, "{speed}");
    world.throttle.level = 0;
    world.now += THROTTLE_PROBE_INTERVAL;
    assert_eq!(world.throttle.wait(CHUNK, Pressure::Normal, world.now), THROTTLE_PROBE_TIME);
    assert!(world.throttle.wait(CHUNK, Pressure::Urgent, world.now) < THROTTLE_PROBE_TIME / 4);
    world.now += Duration::from_millis(1);
    let count = world.throttle.quiet.count;
    world.throttle.note_read(Duration::from_micros(10), world.now);
    assert_eq!(world.throttle.quiet.count, count, "the pause is over");
}

#[test]
fn a_burst_is_bounded_however_long_nothing_was_done() {
    let mut world = World::new();
    world.now += Duration::from_secs(3600);
    world.throttle.rest(world.now);
    let mut free_size = 0;
    while world.throttle.wait(CHUNK, Pressure::Normal, world.now).is_zero() {
        free_size += CHUNK;
    }
    assert_eq!(free_size, THROTTLE_BURST_SIZE);
}

#[test]
fn nothing_waits_longer_than_the_longest_wait() {
    let mut world = World::new();
    for size in [CHUNK, 64 * MIB, u64::MAX, u64::MAX] {
        assert!(world.throttle.wait(size, Pressure::Normal, world.now) <= THROTTLE_WAIT_MAX, "{size}");
    }
    world.now += THROTTLE_WAIT_MAX;
    let pause = world.throttle.wait(CHUNK, Pressure::Normal, world.now);
    assert!(pause <= Duration::from_millis(50), "{pause:?}: the rest is forgiven");
}

/// Also one that goes back.
#[test]
fn a_clock_that_goes_nowhere_is_fine() {
    let mut world = World::new();
    for turn in 0..2000 {
        let now = world.now.saturating_sub(Duration::from_secs(turn / 1000));
        world.throttle.note_read(SLOW, now);
        assert!(world.throttle.wait(CHUNK, Pressure::Normal, now) <= THROTTLE_WAIT_MAX);
    }
    world.now += Duration::from_secs(1);
    assert!(world.chunk(CHUNK, Pressure::Normal) <= THROTTLE_WAIT_MAX);
    let mut zero = Throttle::new();
    zero.note_read(SLOW, Duration::ZERO);
    assert_eq!(zero.wait(CHUNK, Pressure::Normal, Duration::ZERO), Duration::ZERO);
}

#[test]
fn the_goal_is_a_part_above_the_tail_of_quiet_reads_only() {
    let mut world = World { throttle: Throttle::new(), now: Duration::from_secs(5) };
    (1..THROTTLE_QUIET_READ_COUNT_MIN).for_each(|_| world.read(QUIET));
    assert_eq!(world.throttle.goal(), None);
    world.read(QUIET);
    let goal = world.throttle.goal().expect("there were enough");
    let least = QUIET * THROTTLE_GOAL_PERCENT / 100;
    assert!(goal >= least && goal <= least * 17 / 16, "{goal:?} for {least:?}");
    world.chunk(CHUNK, Pressure::Normal);
    (0..2 * THROTTLE_QUIET_READ_COUNT_MAX).for_each(|_| world.read(SLOW));
    assert_eq!(world.throttle.goal(), Some(goal), "these were read while work was done");
    world.throttle.rest(world.now);
    world.throttle.note_read(SLOW, world.now + SLOW / 2);
    assert_eq!(world.throttle.quiet.count, THROTTLE_QUIET_READ_COUNT_MIN, "it began before the rest");
    world.now += SLOW;
    (0..2 * THROTTLE_QUIET_READ_COUNT_MAX).for_each(|_| world.read(SLOW));
    assert!(world.throttle.goal().is_some_and(|goal| goal >= SLOW), "old reads fade");
}

/// Work without an end: without pauses, what was once quiet would be the measure forever.
#[test]
fn long_work_pauses_for_quiet_reads() {
    let mut world = World::new();
    let goal = world.throttle.goal();
    let mut pauses = 0;
    for _ in 0..3000 {
        let rest = world.throttle.wait(CHUNK, Pressure::Normal, world.now);
        // The device got slower by itself.
        let step = (rest / 4).max(Duration::from_micros(500));
        (1..4u32).for_each(|part| world.throttle.note_read(SLOW.min(step / 2), world.now + step * part));
        pauses += u32::from(rest >= THROTTLE_PROBE_TIME);
        world.now += rest.max(step * 4);
    }
    assert!(pauses >= 2, "{pauses}");
    assert!(world.throttle.goal() > goal, "{:?} was {goal:?}", world.throttle.goal());
}

/// A device whose reads are slow for some time after each chunk: the rate ends where few reads meet one.
#[test]
fn the_rate_settles_where_the_device_keeps_its_tail() {
    let busy = Duration::from_micros(200);
    let mut world = World::new();
    let (mut slow_count, mut read_count) = (0, 0);
    for turn in 0..20_000 {
        let pause = world.throttle.wait(CHUNK, Pressure::Normal, world.now);
        world.now += pause;
        let next = world.now + Duration::from_micros(1000);
        while world.now < next {
            world.now += Duration::from_micros(50);
            let is_slow = world.now + busy > next;
            world.throttle.note_read(if is_slow { QUIET * 4 } else { QUIET }, world.now);
            (slow_count, read_count) =
                (slow_count + u64::from(is_slow && turn > 10_000), read_count + u64::from(turn > 10_000));
        }
        // Reads while nothing is done, as many as the wait allows.
        let count = (pause.as_micros() / 50) as u64;
        (0..count).for_each(|_| world.throttle.note_read(QUIET, world.now));
        read_count += if turn > 10_000 { count } else { 0 };
    }
    assert!(world.throttle.rate() < THROTTLE_RATE_START, "{}", world.throttle.rate() / MIB);
    assert!(slow_count * SLOW_SHARE / 2 < read_count, "{slow_count} of {read_count}");
}

#[test]
fn the_tail_of_a_histogram_is_what_was_noted() {
    for us in [1u64, 7, 90, 1000, 12_345, 1_000_000] {
        let latency = Duration::from_micros(us);
        let mut latencies = Latencies::new();
        (0..QUIET_TAIL).for_each(|_| latencies.note(latency));
        assert!(latencies.tail() >= latency && latencies.tail() <= latency * 17 / 16 + QUIET / 1000, "{us}");
        latencies.note(latency * 10);
        assert!(latencies.tail() < latency * 2, "{us}: one of {QUIET_TAIL} does not count");
        latencies.note(latency * 10);
        assert!(latencies.tail() >= latency * 10, "{us}");
    }
    let mut latencies = Latencies::new();
    latencies.note(Duration::ZERO);
    latencies.note(Duration::MAX);
    assert!(latencies.tail() > Duration::from_secs(16));
}
