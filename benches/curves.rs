//! Curves over the time that a sidecar had nothing to do, drawn as SVG.
//!
//! Both axes are logarithmic: gaps and what they cost span five powers of ten.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

/// Width and height of a picture, in pixels.
const SIZE: (u32, u32) = (800, 500);
const FONT: &str = "sans-serif";

/// One line of a picture.
#[derive(Debug)]
pub(crate) struct Curve {
    /// What the legend calls it.
    pub(crate) name: String,
    /// Where it runs: nanoseconds of the gap, and what they cost.
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether it is what the machine itself takes: grey and dashed.
    pub(crate) is_floor: bool,
}

/// What a picture says beside its curves.
#[derive(Debug)]
pub(crate) struct Caption<'a> {
    pub(crate) title: &'a str,
    /// Under the title: where and how it was measured.
    pub(crate) measured: &'a str,
    /// Beside the vertical axis.
    pub(crate) cost: &'a str,
    /// How a value of that axis is written.
    pub(crate) label: fn(f64) -> String,
    /// Where the legend has room.
    pub(crate) legend: SeriesLabelPosition,
}

/// Colours that people with any colour vision tell apart (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];
const GREY: RGBColor = RGBColor(90, 90, 90);

/// Draws the curves into a file of this name.
pub(crate) fn draw(file: &Path, caption: &Caption<'_>, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let (gaps, costs) = (decades(all().map(|point| point.0)), decades(all().map(|point| point.1)));
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.margin(10, 10, 10, 20);
    let (heads, below) = root.split_vertically(46);
    heads.draw(&Text::new(caption.title, (8, 2), (FONT, 18).into_font().color(&BLACK)))?;
    heads.draw(&Text::new(caption.measured, (8, 26), (FONT, 12).into_font().color(&GREY)))?;
    let mut chart = ChartBuilder::on(&below)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(gaps.log_scale(), costs.log_scale())?;
    chart
        .configure_mesh()
        .bold_line_style(BLACK.mix(0.18))
        .light_line_style(BLACK.mix(0.05))
        .x_desc("time without a task before this one (idle gap)")
        .y_desc(caption.cost)
        .x_label_formatter(&|gap| time(*gap))
        .y_label_formatter(&|cost| (caption.label)(*cost))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()?;
    for (number, curve) in curves.iter().enumerate() {
        let points = || curve.points.iter().copied();
        if curve.is_floor {
            chart.draw_series(DashedLineSeries::new(points(), 6, 4, GREY.stroke_width(2)))?.label(&curve.name).legend(
                |(x, y)| PathElement::new([(x, y), (x + 8, y), (x + 12, y), (x + 20, y)], GREY.stroke_width(2)),
            );
            continue;
        }
        let colour = COLOURS[number % COLOURS.len()];
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3)));
        // Lines that lie on each other are told apart by their marks: round ones, corners and crosses in turn.
        match number % 3 {
            0 => chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?,
            1 => chart.draw_series(points().map(|point| TriangleMarker::new(point, 5, colour.filled())))?,
            _ => chart.draw_series(points().map(|point| Cross::new(point, 4, colour.stroke_width(2))))?,
        };
    }
    chart
        .configure_series_labels()
        .position(caption.legend.clone())
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.2))
        .label_font((FONT, 13))
        .draw()?;
    root.present()?;
    Ok(())
}

/// The powers of ten around all values.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values
        .filter(|value| *value > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if least > most {
        return 1.0..10.0;
    }
    let low = 10f64.powf(least.log10().floor());
    let below = 10f64.powf(most.log10().floor()); // a little past a power of ten is no reason for a whole one more
    low..if most < 1.3 * below { 1.5 * below } else { 10.0 * below }.max(2.0 * low)
}

/// Nanoseconds in the unit that fits.
pub(crate) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999_500.0 => (ns / 1e3, "us"),
        ns if ns < 999_500_000.0 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    if value < 9.95 && value.fract().abs() > 0.05 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A share of a core.
pub(crate) fn percent(share: f64) -> String {
    if share < 0.095 {
        format!("{share:.2} %")
    } else if share < 0.95 {
        format!("{share:.1} %")
    } else {
        format!("{share:.0} %")
    }
}
