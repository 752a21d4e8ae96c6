//! The plots of the chapter on autoscaling, made from what was played: load, what the tasks can do, and lag over time.
//!
//! SVG by hand, coordinates to a tenth, so that the committed files can be compared. `AFFLUX_PLOTS=write` writes them.

use std::fmt::Write;

use super::played::{MADE_S, RECORDED_S, Run, Seen, able, play_made, play_recorded};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
/// Top and height of the upper panel, and of the lower.
const UPPER: (f64, f64) = (50.0, 210.0);
const LOWER: (f64, f64) = (300.0, 90.0);
const HEIGHT: f64 = 425.0;
/// Bytes of a plot: it is part of a page.
const BYTES_MAX: usize = 60_000;

const STYLE: &str = "text{font:12px sans-serif;fill:#1a1f29}.t{font-size:14px;font-weight:bold}.g{stroke:#d4d9e1}\
.load{fill:#c9dcf0;stroke:#1f6fb8}.able{fill:none;stroke:#b4510a;stroke-width:1.6}.lag{fill:#f3d3d5;stroke:#a61b24}\
.e{text-anchor:end}.m{text-anchor:middle}";

/// Where a value stands.
type Axis<'a> = &'a dyn Fn(f64) -> f64;

/// What a plot is of.
struct Figure<'a> {
    title: &'a str,
    length_s: f64,
    /// Marks of the axis of time, each with its text.
    marks: Vec<(f64, String)>,
    /// Of so many looks one point of the lag: the longest.
    lag_looks: usize,
}

/// The least round number that is not less, of which a quarter is one, too.
fn round_up(value: f64) -> f64 {
    let mut unit = 1.0;
    loop {
        for step in [4.0, 8.0, 12.0, 20.0, 32.0] {
            if step * unit >= value {
                return step * unit;
            }
        }
        unit *= 10.0;
    }
}

fn draw(figure: &Figure<'_>, run: &Run) -> String {
    let x = |at_s: f64| LEFT + (WIDTH - LEFT - RIGHT) * at_s / figure.length_s;
    let rates = run.seen.iter().map(|seen| seen.rate.max(able(seen.tasks)));
    let rate_max = round_up(rates.fold(1.0, f64::max));
    let lag_max = round_up(run.lag_max_s().max(1.0));
    let upper = |rate: f64| UPPER.0 + UPPER.1 * (1.0 - rate / rate_max);
    let lower = |lag: f64| LOWER.0 + LOWER.1 * (1.0 - lag / lag_max);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n\
         <style>{STYLE}</style>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text class=\"t\" x=\"{LEFT}\" y=\"20\">{}</text>\n",
        figure.title, figure.title
    );
    let summary = format!(
        "{} changes; {:.1} tasks on average, {} at most; the oldest record waits {:.0} s at most, no more than 10 s in \
         {:.1} % of the time",
        run.changes,
        run.tasks_mean(),
        run.tasks_max(),
        run.lag_max_s(),
        // Never more than it is.
        (1_000.0 * run.in_time()).floor() / 10.0
    );
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"38\">{summary}</text>");
    let panels: [(f64, Axis<'_>, &str); 2] =
        [(rate_max, &upper, "records/s: come (area), the tasks can do (line)"), (lag_max, &lower, "lag, s")];
    for (max, y, what) in panels {
        for quarter in 0..=4 {
            let value = max * f64::from(quarter) / 4.0;
            let at = y(value);
            let _ = writeln!(
                svg,
                "<path class=\"g\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text class=\"e\" x=\"{:.1}\" y=\"{:.1}\">{value}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            );
        }
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{what}</text>", LEFT + 6.0, y(max) + 14.0);
    }
    for (at_s, text) in &figure.marks {
        let at = x(*at_s);
        let bottom = LOWER.0 + LOWER.1;
        let _ = writeln!(
            svg,
            "<path class=\"g\" d=\"M{at:.1} {}V{bottom}\"/><text class=\"m\" x=\"{at:.1}\" y=\"{}\">{text}</text>",
            UPPER.0,
            bottom + 18.0
        );
    }
    let steps = |of: &dyn Fn(&Seen) -> f64, y: &dyn Fn(f64) -> f64| {
        let mut path = String::new();
        let mut last = f64::NAN;
        for seen in &run.seen {
            let value = of(seen);
            if value.to_bits() == last.to_bits() {
                continue;
            }
            let to = if path.is_empty() {
                format!("M{LEFT} {:.1}", y(value))
            } else {
                format!("V{:.1}", y(value))
            };
            if !path.is_empty() {
                let _ = write!(path, "H{:.1}", x(seen.at_s));
            }
            path.push_str(&to);
            last = value;
        }
        let _ = write!(path, "H{:.1}", x(figure.length_s));
        path
    };
    let load = steps(&|seen| seen.rate, &upper);
    let base = upper(0.0);
    let _ = writeln!(svg, "<path class=\"load\" d=\"{load}V{base:.1}H{LEFT}Z\"/>");
    let _ = writeln!(svg, "<path class=\"able\" d=\"{}\"/>", steps(&|seen| able(seen.tasks), &upper));
    let ground = lower(0.0);
    let mut lag = format!("M{LEFT} {ground:.1}");
    let mut flat = true;
    for part in run.seen.chunks(figure.lag_looks) {
        let Some(worst) = part.iter().max_by(|a, b| a.lag_s.total_cmp(&b.lag_s)) else { continue };
        // Where nothing waits, the first and the last point say it.
        if worst.lag_s == 0.0 && flat {
            continue;
        }
        if flat {
            let _ = write!(lag, "H{:.1}", x(part.first().map_or(0.0, |seen| seen.at_s)));
        }
        flat = worst.lag_s == 0.0;
        let _ = write!(lag, "L{:.1} {:.1}", x(worst.at_s), lower(worst.lag_s));
    }
    let _ = writeln!(svg, "<path class=\"lag\" d=\"{lag}V{ground:.1}H{:.1}\"/>", x(figure.length_s));
    svg.push_str("</svg>\n");
    svg
}

fn compare(name: &str, svg: &str) {
    assert!(svg.len() < BYTES_MAX, "{name} has {} bytes, and {BYTES_MAX} are allowed", svg.len());
    let path = format!("{}/../../docs/book/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("AFFLUX_PLOTS").is_ok_and(|word| word == "write") {
        std::fs::write(&path, svg).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = committed.lines().zip(svg.lines()).position(|(a, b)| a != b);
    assert!(
        committed == svg,
        "docs/book/{name} is not what the policy does now (line {differs:?} differs): AFFLUX_PLOTS=write writes it"
    );
}

#[test]
fn the_plot_of_the_made_up_load_is_what_the_policy_does() {
    let marks = (0..=8).map(|hour| (f64::from(hour) * 3_600.0, format!("{hour} h"))).collect();
    let title = "A load that was made up, eight hours";
    let figure = Figure { title, length_s: MADE_S, marks, lag_looks: 4 };
    compare("autoscaling-made.svg", &draw(&figure, &play_made()));
}

#[test]
fn the_plot_of_the_recorded_load_is_what_the_policy_does() {
    let marks = (0..14).map(|day| (f64::from(day) * 86_400.0, format!("Feb {}", day + 4))).collect();
    let title = "Departures from New York, 4 to 17 February 2013, each as 40,000 records";
    let figure = Figure { title, length_s: RECORDED_S, marks, lag_looks: 40 };
    compare("autoscaling-flights.svg", &draw(&figure, &play_recorded()));
}

#[test]
fn an_axis_ends_at_a_round_number() {
    for (value, end) in
        [(0.5, 4.0), (4.0, 4.0), (11.0, 12.0), (33.0, 40.0), (1_100.0, 1_200.0), (1_700.0, 2_000.0)]
    {
        assert_eq!(round_up(value), end, "{value}");
    }
}
