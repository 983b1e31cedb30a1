//! A chart of lines as SVG.
//!
//! Lines differ in dash, marker and label and not in colour alone, for readers and printers without it.

use std::fmt::Write;

/// What is drawn beside the lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    /// What stands above it.
    pub(crate) title: &'static str,
    /// What the horizontal axis counts.
    pub(crate) x_label: &'static str,
    /// What the vertical axis counts.
    pub(crate) y_label: &'static str,
    /// Where the horizontal axis begins.
    pub(crate) x_min: f64,
    /// What is higher is cut off.
    pub(crate) y_highest: f64,
    /// What stands below it, if there is a peak to be drawn or a line to compare with.
    pub(crate) note: &'static str,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// What is written at its end.
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
    /// Moments between points that were higher.
    pub(crate) peaks: Vec<Peak>,
    /// Whether it is only there to be compared with: thin, without markers.
    pub(crate) is_reference: bool,
}

/// A moment that was higher than the points around it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peak {
    /// Where it is.
    pub(crate) x: f64,
    /// Height of the line.
    pub(crate) from: f64,
    /// Height of the moment.
    pub(crate) to: f64,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 790.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 450.0;

/// Lines that the axes have at least.
const TICK_COUNT_MIN: f64 = 4.0;
/// A peak is drawn when it is higher than the line by this factor.
const PEAK_RATIO_MIN: f64 = 1.03;
const LABEL_DISTANCE_MIN: f64 = 18.0;
const MARKER_COUNT: usize = 8;

/// How a line looks: colour, dashes, and the path of its marker around the point.
struct Style {
    colour: &'static str,
    dashes: &'static str,
    marker: &'static str,
}

const STYLES: [Style; 4] = [
    Style { colour: "#0b3d91", dashes: "none", marker: "m-4,-4h8v8h-8z" },
    Style { colour: "#a8431f", dashes: "9,4", marker: "m0,-5l5,9h-10z" },
    Style { colour: "#2f6f3e", dashes: "2,4", marker: "m0,-5l5,5l-5,5l-5,-5z" },
    Style { colour: "#555555", dashes: "10,3,2,3", marker: "m-4,-4l8,8m0,-8l-8,8" },
];

/// From values to places on the paper.
struct Scale {
    x_min: f64,
    x_max: f64,
    y_max: f64,
}

impl Scale {
    fn of(frame: &Frame, series: &[Series]) -> Self {
        let points = || series.iter().flat_map(|series| &series.points);
        let peaks = series.iter().flat_map(|series| &series.peaks).map(|peak| peak.to);
        let highest = points().map(|point| point.1).chain(peaks).fold(0.0, f64::max);
        let x_max = points().map(|point| point.0).fold(0.0, f64::max);
        let y_max = highest.clamp(1.0, frame.y_highest);
        let y_step = step(y_max);
        Self {
            x_min: frame.x_min,
            x_max: if x_max > frame.x_min { x_max } else { frame.x_min + 1.0 },
            y_max: (y_max / y_step).ceil() * y_step,
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x_min) / (self.x_max - self.x_min) * (RIGHT - LEFT)
    }

    /// Values beyond the axis lie on its end.
    fn y(&self, value: f64) -> f64 {
        BOTTOM - value.clamp(0.0, self.y_max) / self.y_max * (BOTTOM - TOP)
    }
}

/// A round distance of grid lines on an axis up to `max`: 1, 2 or 5 times a power of ten.
fn step(max: f64) -> f64 {
    let power = 10f64.powf((max / TICK_COUNT_MIN).log10().floor());
    let factors = [5.0, 2.0, 1.0];
    factors.iter().map(|factor| factor * power).find(|step| max / step >= TICK_COUNT_MIN).unwrap_or(power)
}

/// The chart.
pub(crate) fn svg(frame: &Frame, series: &[Series]) -> String {
    let scale = Scale::of(frame, series);
    let title = escaped(frame.title);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"14\" fill=\"#222222\">\n\
         <title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{title}</text>\n"
    );
    push_axes(&mut text, frame, &scale);
    let ends: Vec<f64> = series.iter().map(|series| scale.y(series.points.last().map_or(0.0, |end| end.1))).collect();
    for ((series, style), label) in series.iter().zip(STYLES.iter().cycle()).zip(label_places(&ends)) {
        push_series(&mut text, series, style, &scale, label);
    }
    let is_explained = |series: &Series| series.is_reference || series.peaks.iter().any(is_drawn);
    if series.iter().any(is_explained) {
        let y = HEIGHT - 12.0;
        let note = escaped(frame.note);
        push(&mut text, &format!("<text x=\"{LEFT}\" y=\"{y}\" font-size=\"12\">{note}</text>"));
    }
    text + "</svg>\n"
}

fn push(text: &mut String, element: &str) {
    writeln!(text, "{element}").expect("a String takes every write");
}

fn is_drawn(peak: &Peak) -> bool {
    peak.to > peak.from * PEAK_RATIO_MIN
}

fn push_axes(text: &mut String, frame: &Frame, scale: &Scale) {
    let grid = |x1: f64, y1: f64, x2: f64, y2: f64| {
        format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#d0d0d0\"/>")
    };
    for value in ticks(0.0, scale.y_max) {
        let y = scale.y(value);
        push(text, &grid(LEFT, y, RIGHT, y));
        let (x, y) = (LEFT - 8.0, y + 5.0);
        push(text, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", number(value)));
    }
    for value in ticks(scale.x_min, scale.x_max) {
        let x = scale.x(value);
        push(text, &grid(x, TOP, x, BOTTOM));
        let y = BOTTOM + 20.0;
        push(text, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", number(value)));
    }
    push(text, &format!("<path d=\"M{LEFT},{TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#222222\"/>"));
    let (x, y) = (f64::midpoint(LEFT, RIGHT), BOTTOM + 42.0);
    push(text, &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escaped(frame.x_label)));
    let y = f64::midpoint(TOP, BOTTOM);
    push(
        text,
        &format!(
            "<text x=\"20\" y=\"{y}\" text-anchor=\"middle\" transform=\"rotate(-90 20 {y})\">{}</text>",
            escaped(frame.y_label)
        ),
    );
}

fn ticks(min: f64, max: f64) -> Vec<f64> {
    let step = step(max - min);
    let first = (min / step).ceil();
    (0..).map(|number| (first + f64::from(number)) * step).take_while(|value| *value <= max * 1.000_001).collect()
}

/// As few digits as the value needs.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn push_series(text: &mut String, series: &Series, style: &Style, scale: &Scale, label_y: f64) {
    let Style { colour, dashes, marker } = style;
    let place = |point: &(f64, f64)| format!("{:.1},{:.1}", scale.x(point.0), scale.y(point.1));
    let path: Vec<String> = series.points.iter().map(place).collect();
    let width = if series.is_reference { 1 } else { 2 };
    push(
        text,
        &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-dasharray=\"{dashes}\"/>",
            path.join(" ")
        ),
    );
    for peak in series.peaks.iter().filter(|peak| is_drawn(peak)) {
        let (x, from, to) = (scale.x(peak.x), scale.y(peak.from), scale.y(peak.to));
        push(text, &format!("<path d=\"M{x:.1},{from:.1}V{to:.1}m-4,0h8\" fill=\"none\" stroke=\"{colour}\"/>"));
    }
    let distance = series.points.len().div_ceil(MARKER_COUNT).max(1);
    for point in series.points.iter().rev().step_by(distance).filter(|_| !series.is_reference) {
        let at = place(point);
        push(text, &format!("<path d=\"M{at}{marker}\" fill=\"{colour}\" stroke=\"{colour}\"/>"));
    }
    let (x, y, name) = (RIGHT + 12.0, label_y + 5.0, escaped(&series.name));
    push(text, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{name}</text>"));
}

/// Heights of labels: where the lines end, moved apart where they would overlap.
fn label_places(ends: &[f64]) -> Vec<f64> {
    let mut places = ends.to_vec();
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by(|left, right| ends[*right].total_cmp(&ends[*left]));
    // From the bottom up: nothing is pushed below the axis.
    for pair in order.windows(2) {
        places[pair[1]] = places[pair[1]].min(places[pair[0]] - LABEL_DISTANCE_MIN);
    }
    places
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame {
        title: "Memory & time",
        x_label: "keys, millions",
        y_label: "bytes per key",
        x_min: 0.0,
        y_highest: 120.0,
        note: "Thin strokes: the highest moment.",
    };

    fn example() -> Vec<Series> {
        let series = |name: &str, height: f64| Series {
            name: name.to_owned(),
            points: (1..=50).map(|x| (f64::from(x), height)).collect(),
            peaks: vec![Peak { x: 7.0, from: height, to: height * 2.0 }, Peak { x: 8.0, from: height, to: height }],
            is_reference: false,
        };
        vec![series("full", 30.0), series("hash<brown>", 71.0), series("btree", 70.0)]
    }

    /// Opens and closes as a parser of XML would want it; returns the names of all elements.
    fn elements(text: &str) -> Vec<String> {
        let (mut open, mut seen) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some((_, tail)) = rest.split_once('<') {
            let (tag, tail) = tail.split_once('>').expect("every tag ends");
            let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphabetic).collect();
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else {
                seen.push(name.clone());
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
            rest = tail;
        }
        assert!(open.is_empty(), "{open:?}");
        seen
    }

    #[test]
    fn a_chart_is_well_formed_and_has_a_line_and_a_label_for_each_series() {
        let text = svg(&FRAME, &example());
        let elements = elements(&text);
        assert_eq!(elements[0], "svg");
        assert_eq!(elements.iter().filter(|name| *name == "polyline").count(), 3);
        for part in
            [">full</text>", ">hash&lt;brown&gt;</text>", ">btree</text>", ">keys, millions<", ">bytes per key<"]
        {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_eq!(text.matches("stroke-dasharray=\"9,4\"").count(), 1);
        // One of two peaks each is higher than its line.
        assert_eq!(text.matches("m-4,0h8\"").count(), 3);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn an_empty_chart_is_well_formed_too() {
        assert!(!svg(&FRAME, &[]).contains("NaN"));
        let none = Series { name: "none".to_owned(), points: Vec::new(), peaks: Vec::new(), is_reference: true };
        elements(&svg(&FRAME, &[none]));
    }

    #[test]
    fn grid_lines_are_round_and_what_is_too_high_is_cut_off() {
        assert_eq!(ticks(70.0, 90.0), [70.0, 75.0, 80.0, 85.0, 90.0]);
        assert_eq!(ticks(0.0, 50.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!((step(120.0), step(0.4), step(2.0)), (20.0, 0.1, 0.5));
        assert_eq!((number(0.1), number(20.0), number(2.5)), ("0.1".to_owned(), "20".to_owned(), "2.5".to_owned()));
        let mut series = example();
        series[0].points[0].1 = 9_000.0;
        let scale = Scale::of(&FRAME, &series);
        assert_eq!((scale.y_max, scale.y(9_000.0), scale.y(0.0)), (120.0, TOP, BOTTOM));
    }

    #[test]
    fn a_line_to_compare_with_is_thin_and_has_no_markers() {
        let markers = |is_reference| {
            let series = Series { is_reference, peaks: Vec::new(), ..example().remove(0) };
            let text = svg(&FRAME, &[series]);
            (text.matches(STYLES[0].marker).count(), text.contains("stroke-width=\"2\""), text.contains(FRAME.note))
        };
        assert_eq!((markers(false), markers(true)), ((8, true, false), (0, false, true)));
    }

    #[test]
    fn labels_do_not_overlap() {
        let places = label_places(&[100.0, 104.0, 300.0, 102.0]);
        assert_eq!(places, [68.0, 104.0, 300.0, 86.0]);
    }
}
