//! A line chart as SVG, drawn by hand: nothing but text comes out.

use std::fmt::Write;

/// Of the picture, in pixels.
const SIZE: (f64, f64) = (920.0, 540.0);
/// Left, top, right and bottom of the plot in it; the legend is to the right.
const PLOT: (f64, f64, f64, f64) = (72.0, 56.0, 690.0, 472.0);
/// Lines of one value lie on each other: each is thinner than the one before, so that all are seen.
const WIDTHS: [f64; 4] = [5.0, 3.8, 2.8, 2.0];
/// Between two entries of the legend.
const LEGEND_STEP: f64 = 26.0;

/// A chart. Both axes start at 0.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// What the horizontal axis counts.
    pub x: String,
    /// What the vertical axis counts.
    pub y: String,
    /// Where the horizontal axis ends.
    pub x_max: f64,
    /// Where the vertical axis ends. What lies beyond is drawn at its end.
    pub y_max: f64,
    /// The first is drawn first and lowest.
    pub lines: Vec<Line>,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// As SVG names it.
    pub colour: &'static str,
    /// How it is drawn.
    pub stroke: Stroke,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// Solid, with a mark at each point: measured.
    Marked,
    /// For a bound.
    Dashed,
    /// For a reference.
    Dotted,
}

impl Chart {
    /// The chart as an SVG document.
    pub fn to_svg(&self) -> String {
        let (width, height) = SIZE;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
        );
        // Writing into a string cannot fail, here and below.
        let _ = self.axes(&mut svg);
        for (at, line) in self.lines.iter().enumerate() {
            let _ = self.line(&mut svg, line, at);
            let _ = legend(&mut svg, line, at);
        }
        svg + "</svg>\n"
    }

    fn axes(&self, svg: &mut String) -> std::fmt::Result {
        let (left, top, right, bottom) = PLOT;
        let (middle_x, middle_y) = ((left + right) / 2.0, (top + bottom) / 2.0);
        writeln!(
            svg,
            "<text x=\"{left}\" y=\"30\" font-size=\"17\" font-weight=\"bold\">{}</text>",
            escape(&self.title)
        )?;
        for tick in ticks(self.x_max) {
            let x = self.x(tick);
            writeln!(svg, "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#e4e4e4\"/>")?;
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>", bottom + 19.0)?;
        }
        for tick in ticks(self.y_max) {
            let y = self.y(tick);
            writeln!(svg, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#e4e4e4\"/>")?;
            writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>", left - 9.0, y + 4.5)?;
        }
        writeln!(
            svg,
            "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#222\" stroke-width=\"1.3\"/>"
        )?;
        let below = bottom + 45.0;
        writeln!(svg, "<text x=\"{middle_x}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", escape(&self.x))?;
        let turn = format!("translate(22 {middle_y}) rotate(-90)");
        writeln!(svg, "<text transform=\"{turn}\" text-anchor=\"middle\">{}</text>", escape(&self.y))
    }

    fn line(&self, svg: &mut String, line: &Line, at: usize) -> std::fmt::Result {
        let place = |(x, y): &(f64, f64)| format!("{:.1} {:.1}", self.x(*x), self.y(*y));
        let path = line.points.iter().map(place).collect::<Vec<_>>().join("L");
        writeln!(svg, "<path d=\"M{path}\" fill=\"none\" stroke-linejoin=\"round\" {}/>", pen(line, at))?;
        for (x, y) in line.points.iter().filter(|_| line.stroke == Stroke::Marked) {
            let (x, y, radius) = (self.x(*x), self.y(*y), width(at) / 2.0 + 1.6);
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{}\"/>", line.colour)?;
        }
        Ok(())
    }

    fn x(&self, value: f64) -> f64 {
        PLOT.0 + (PLOT.2 - PLOT.0) * (value / self.x_max).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        PLOT.3 - (PLOT.3 - PLOT.1) * (value / self.y_max).clamp(0.0, 1.0)
    }
}

fn legend(svg: &mut String, line: &Line, at: usize) -> std::fmt::Result {
    let (x, y) = (PLOT.2 + 24.0, PLOT.1 + 10.0 + LEGEND_STEP * at as f64);
    writeln!(svg, "<path d=\"M{x} {y}h30\" {}/>", pen(line, at))?;
    writeln!(svg, "<text x=\"{}\" y=\"{}\">{}</text>", x + 40.0, y + 4.5, escape(&line.name))
}

fn pen(line: &Line, at: usize) -> String {
    let colour = line.colour;
    match line.stroke {
        Stroke::Marked => format!("stroke=\"{colour}\" stroke-width=\"{}\"", width(at)),
        Stroke::Dashed => format!("stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"8 5\""),
        Stroke::Dotted => format!("stroke=\"{colour}\" stroke-width=\"1.8\" stroke-dasharray=\"2 4\""),
    }
}

fn width(at: usize) -> f64 {
    WIDTHS[at.min(WIDTHS.len() - 1)]
}

/// Five to ten round values from 0 to `end`.
fn ticks(end: f64) -> Vec<f64> {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];
    let step = steps.into_iter().find(|step| end / step <= 10.0).unwrap_or(end / 5.0);
    (0..=(end / step) as u32).map(|tick| f64::from(tick) * step).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_every_line_with_its_name_inside_the_plot() {
        let line =
            |stroke| Line { name: "a < b".into(), colour: "#000", stroke, points: vec![(0.0, 0.0), (9.0, 99.0)] };
        let lines = vec![line(Stroke::Marked), line(Stroke::Dashed)];
        let chart = Chart { title: "t".into(), x: "x".into(), y: "y".into(), x_max: 9.0, y_max: 10.0, lines };
        let svg = chart.to_svg();
        assert_eq!(svg.matches("a &lt; b").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("<circle cx=\"690.0\" cy=\"56.0\""), "what lies beyond is drawn at the end");
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(120.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0]);
        assert_eq!(ticks(300.0).len(), 7);
    }
}
