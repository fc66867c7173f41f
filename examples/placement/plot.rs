//! Draws the plot of `docs/placement.md`: curves over the number of nodes, both axes logarithmic.

use std::fmt::Write;

/// A curve: its label, its colour, its points (nodes, figure).
pub(crate) struct Curve<'a> {
    /// Shown beside its end.
    pub(crate) label: &'a str,
    /// As SVG names it.
    pub(crate) colour: &'a str,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;

/// The SVG of `curves`; `nodes` and `marks` are the ticks of the axes, from least to greatest.
pub(crate) fn svg(title: &str, nodes: &[f64], marks: &[f64], curves: &[Curve<'_>]) -> String {
    let place = |value: f64, ticks: &[f64]| {
        let (low, high) = (ticks[0].ln(), ticks[ticks.len() - 1].ln());
        (value.ln() - low) / (high - low)
    };
    let x = |value: f64| LEFT + WIDTH * place(value, nodes);
    let y = |value: f64| TOP + HEIGHT * (1.0 - place(value, marks));
    let mut svg = String::new();
    let mut line = |text: String| {
        let _ = writeln!(svg, "{text}"); // Writing to a string cannot fail.
    };
    line(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12">"#,
        LEFT + WIDTH + 170.0,
        TOP + HEIGHT + 50.0
    ));
    line(r#"<rect width="100%" height="100%" fill="white"/>"#.into());
    line(format!(r#"<text x="{LEFT}" y="22" font-size="14">{title}</text>"#));
    for tick in nodes {
        let (at, bottom) = (x(*tick), TOP + HEIGHT);
        line(format!(r##"<path d="M{at:.1} {TOP}V{bottom}" stroke="#ddd"/>"##));
        line(format!(r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"#, bottom + 18.0));
    }
    for tick in marks {
        let at = y(*tick);
        line(format!(r##"<path d="M{LEFT} {at:.1}H{}" stroke="#ddd"/>"##, LEFT + WIDTH));
        line(format!(r#"<text x="{}" y="{:.1}" text-anchor="end">{tick}</text>"#, LEFT - 8.0, at + 4.0));
    }
    line(format!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">nodes</text>"#,
        LEFT + WIDTH / 2.0,
        TOP + HEIGHT + 40.0
    ));
    for (number, Curve { label, colour, points }) in curves.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|(nodes, figure)| format!("{:.1} {:.1}", x(*nodes), y(*figure))).collect();
        line(format!(r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, path.join("L")));
        let (left, at) = (LEFT + WIDTH + 12.0, TOP + 12.0 + 20.0 * number as f64);
        line(format!(r#"<path d="M{left} {:.1}h18" stroke="{colour}" stroke-width="2"/>"#, at - 4.0));
        line(format!(r#"<text x="{}" y="{at:.1}">{label}</text>"#, left + 24.0));
    }
    svg.push_str("</svg>\n");
    svg
}
