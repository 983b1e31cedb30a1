//! What a store that is emptied in the best way writes: the figures that simulations are held against.

/// Records that are updated alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Class {
    /// Their share of the live bytes.
    pub(crate) data: f64,
    /// Their share of the updates.
    pub(crate) updates: f64,
}

/// Steps of a bisection: as many as a double has bits of mantissa, and some.
const STEP_COUNT: usize = 100;

/// The lowest write amplification when classes never share a table and spare space is divided among them in the best
/// way; live bytes take the part `utilisation`, between 0 and 1, of all bytes. Tables are emptied in the order in which
/// they were written and are small against a class.
///
/// Tables of one class are alive to a part `p` when they are emptied; the space that takes is `data * -ln p / (1 - p)`
/// and the amplification `1 / (1 - p)`. Space is divided in the best way when a little more of it would save the same
/// number of writes in each class: `updates / data / (1/p - 1 + ln p)`.
pub(crate) fn optimum(classes: &[Class], utilisation: f64) -> f64 {
    let total_data: f64 = classes.iter().map(|class| class.data).sum();
    let total_updates: f64 = classes.iter().map(|class| class.updates).sum();
    let live_at = |class: &Class, value: f64| {
        let wanted = class.updates / class.data / value;
        bisect(0.0, 1.0, |live| 1.0 / live - 1.0 + f64::ln(live) > wanted)
    };
    let space_at = |value: f64| -> f64 {
        classes.iter().map(|class| class.data * space(live_at(class, value))).sum::<f64>() / total_data
    };
    // The value of space is looked for by its logarithm: a high one means little space.
    let value = bisect(-80.0, 80.0, |log_value| space_at(log_value.exp()) > 1.0 / utilisation).exp();
    classes.iter().map(|class| class.updates / (1.0 - live_at(class, value))).sum::<f64>() / total_updates
}

/// Space that live bytes take, when tables are emptied once a part `live` of them is left, by the live bytes alone.
fn space(live: f64) -> f64 {
    if live >= 1.0 { 1.0 } else { -live.ln() / (1.0 - live) }
}

/// Where `is_below` changes from true to false.
fn bisect(mut low: f64, mut high: f64, is_below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..STEP_COUNT {
        let middle = f64::midpoint(low, high);
        if is_below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(data: f64, updates: f64) -> [Class; 2] {
        [Class { data, updates }, Class { data: 1.0 - data, updates: 1.0 - updates }]
    }

    /// `p = e^(-(1-p)/u)`, iterated: another way to the same number.
    fn uniform(utilisation: f64) -> f64 {
        let live = (0..10_000).fold(0.5f64, |live, _| (-(1.0 - live) / utilisation).exp());
        1.0 / (1.0 - live)
    }

    #[test]
    fn one_class_is_the_fixed_point_of_uniform_updates() {
        for utilisation in [0.5, 0.7, 0.8, 0.85, 0.9, 0.95] {
            let found = optimum(&[Class { data: 1.0, updates: 1.0 }], utilisation);
            assert!((found - uniform(utilisation)).abs() < 1e-6, "{utilisation}: {found}");
            let equal = optimum(&two(0.3, 0.3), utilisation);
            assert!((equal - found).abs() < 1e-6, "classes that are alike are one: {equal}");
        }
        assert!((uniform(0.8) - 2.69).abs() < 0.01);
    }

    #[test]
    fn no_other_division_of_space_between_two_classes_is_better() {
        for (data, updates, utilisation, known) in [(0.1, 0.9, 0.8, 1.48), (0.2, 0.8, 0.8, 2.0), (0.1, 0.9, 0.9, 2.34)]
        {
            let found = optimum(&two(data, updates), utilisation);
            assert!((found - known).abs() < 0.01, "{found}, not {known}");
            let spare = 1.0 / utilisation - 1.0;
            let divided = |part: f64| {
                let of = |class: Class, spare: f64| class.updates * uniform(class.data / (class.data + spare));
                let [hot, cold] = two(data, updates);
                of(hot, spare * part) + of(cold, spare * (1.0 - part))
            };
            let best = (1..200).map(|part| divided(f64::from(part) / 200.0)).fold(f64::INFINITY, f64::min);
            assert!((best - found).abs() < 0.003 && best >= found - 1e-6, "{best} by trying, {found}");
        }
    }
}
