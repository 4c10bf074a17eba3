//! SVG plots of a comparison. Every mark is a measured value: bars are medians, lines reach from the smallest to the
//! largest round, dots are rounds; what is not believed is drawn hollow.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::words::{self, Verdict};
use crate::compare::schema::{Comparison, ScenarioComparison, Standing};

/// The ratios against the best peer of every scenario, on one logarithmic axis.
pub fn overview(comparison: &Comparison) -> anyhow::Result<String> {
    let rows: Vec<_> = comparison.scenarios.iter().map(|one| (one, words::summary(comparison, one))).collect();
    let spreads: Vec<_> = rows.iter().filter_map(|(_, summary)| summary.ratio.and_then(|ratio| ratio.spread)).collect();
    let low = spreads.iter().map(|spread| spread.min).fold(OVERVIEW_LOW, f64::min);
    let high = spreads.iter().map(|spread| spread.max).fold(OVERVIEW_HIGH, f64::max);
    let axis = Axis::logarithmic(low / 1.1, high * 1.1);
    draw(rows.len(), "Ratio of the subject to the best peer in every scenario", |canvas| {
        for tick in RATIO_TICKS.into_iter().filter(|tick| axis.contains(*tick)) {
            let colour = if tick == 1.0 { INK } else { GRID };
            canvas.vertical(axis.at(tick), rows.len(), colour)?;
            canvas.text(&format!("{tick}x"), (axis.at(tick), canvas.bottom(rows.len()) + 16), HPos::Center, FAINT)?;
        }
        for (index, (scenario, summary)) in rows.iter().enumerate() {
            let y = row_middle(index);
            canvas.text(&scenario.name, (LABEL_RIGHT, y), HPos::Right, INK)?;
            let Some(spread) = summary.ratio.and_then(|ratio| ratio.spread) else {
                canvas.text(summary.verdict.label(), (PLOT_RIGHT + 12, y), HPos::Left, FAINT)?;
                continue;
            };
            let colour = colour_of(summary.verdict);
            canvas.line((axis.at(spread.min), y), (axis.at(spread.max), y), 4, colour)?;
            canvas.dot((axis.at(spread.median), y), 6, colour, Fill::Solid)?;
            let against = summary.best.map_or("", |(name, _)| name);
            canvas.text(&format!("{:.2}x {against}", spread.median), (PLOT_RIGHT + 12, y), HPos::Left, INK)?;
        }
        Ok(())
    })
}

/// The figure of every proxy in `scenario`.
pub fn bars(comparison: &Comparison, scenario: &ScenarioComparison) -> anyhow::Result<String> {
    let subject = words::subject(comparison).map(|proxy| proxy.name.as_str());
    let standings = &scenario.standings;
    let scaled = |value: f64| scenario.figure.scaled(value);
    let largest = standings.iter().flat_map(|one| one.rounds.iter().flatten()).copied().fold(0.0, f64::max);
    let axis = Axis::linear(0.0, scaled(largest).max(f64::MIN_POSITIVE) * 1.02);
    let title = format!("{}, {}", scenario.title, scenario.figure.unit());
    draw(standings.len(), &title, |canvas| {
        for tick in axis.linear_ticks() {
            canvas.vertical(axis.at(tick), standings.len(), GRID)?;
            canvas.text(
                &tick_words(tick),
                (axis.at(tick), canvas.bottom(standings.len()) + 16),
                HPos::Center,
                FAINT,
            )?;
        }
        for (index, standing) in standings.iter().enumerate() {
            let colour = if Some(standing.proxy.as_str()) == subject { SUBJECT } else { PEER };
            bar(canvas, &axis, index, standing, colour, scaled)?;
        }
        Ok(())
    })
}

/// The latency percentiles of every proxy in an open-loop scenario (medians over the rounds), on a logarithmic axis;
/// `None` for a scenario without rate.
pub fn percentiles(comparison: &Comparison, scenario: &ScenarioComparison) -> Option<anyhow::Result<String>> {
    scenario.rate?;
    let subject = words::subject(comparison).map(|proxy| proxy.name.as_str());
    let rows: Vec<(&str, [f64; 4])> = scenario
        .standings
        .iter()
        .filter_map(|standing| Some((standing.proxy.as_str(), latency_milliseconds(scenario, &standing.proxy)?)))
        .collect();
    let values = || rows.iter().flat_map(|(_, values)| values.iter().copied());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    if rows.is_empty() || low <= 0.0 {
        return None;
    }
    let axis = Axis::logarithmic(low / 1.3, high * 1.3);
    Some(draw(rows.len(), "Latency from the intended start, ms: p50, p90, p99, p99.9", |canvas| {
        for tick in LATENCY_TICKS.into_iter().filter(|tick| axis.contains(*tick)) {
            canvas.vertical(axis.at(tick), rows.len(), GRID)?;
            canvas.text(&format!("{tick} ms"), (axis.at(tick), canvas.bottom(rows.len()) + 16), HPos::Center, FAINT)?;
        }
        for (index, (name, values)) in rows.iter().enumerate() {
            let y = row_middle(index);
            let colour = if Some(*name) == subject { SUBJECT } else { PEER_DARK };
            canvas.text(name, (LABEL_RIGHT, y), HPos::Right, INK)?;
            canvas.line((axis.at(values[0]), y), (axis.at(values[3]), y), 2, colour)?;
            for (value, radius) in values.iter().zip([3, 4, 6, 4]) {
                canvas.dot((axis.at(*value), y), radius, colour, Fill::Solid)?;
            }
            let p99 = format!("p99 {} ms", words::digits(values[2]));
            canvas.text(&p99, (PLOT_RIGHT + 12, y), HPos::Left, INK)?;
        }
        Ok(())
    }))
}

fn bar(
    canvas: &Canvas<'_, '_>,
    axis: &Axis,
    index: usize,
    standing: &Standing,
    colour: RGBColor,
    scaled: impl Fn(f64) -> f64,
) -> anyhow::Result<()> {
    let y = row_middle(index);
    canvas.text(&standing.proxy, (LABEL_RIGHT, y), HPos::Right, INK)?;
    if let Some(figure) = standing.figure {
        canvas.rectangle((axis.at(0.0), y - BAR_HALF), (axis.at(scaled(figure.median)), y + BAR_HALF), colour)?;
        canvas.line((axis.at(scaled(figure.min)), y), (axis.at(scaled(figure.max)), y), 2, INK)?;
        canvas.text(&words::digits(scaled(figure.median)), (PLOT_RIGHT + 12, y), HPos::Left, INK)?;
    } else {
        canvas.text("not believed", (PLOT_RIGHT + 12, y), HPos::Left, FAINT)?;
    }
    for (round, value) in standing.rounds.iter().enumerate() {
        let Some(value) = value else { continue };
        let fill = if standing.disbelieved_rounds.contains(&(round + 1)) { Fill::Hollow } else { Fill::Solid };
        canvas.dot((axis.at(scaled(*value)), y), 3, INK, fill)?;
    }
    Ok(())
}

fn latency_milliseconds(scenario: &ScenarioComparison, proxy: &str) -> Option<[f64; 4]> {
    let runs = scenario.runs.iter().filter(|run| run.proxy == proxy);
    let all: Vec<_> = runs.filter_map(|run| run.result.as_ref()?.latency).collect();
    let median = |values: Vec<f64>| crate::compare::ratio::spread(&values).map(|spread| spread.median * 1e3);
    Some([
        median(all.iter().map(|one| one.p50).collect())?,
        median(all.iter().map(|one| one.p90).collect())?,
        median(all.iter().map(|one| one.p99).collect())?,
        median(all.iter().map(|one| one.p999).collect())?,
    ])
}

fn colour_of(verdict: Verdict) -> RGBColor {
    match verdict {
        Verdict::Ahead => AHEAD,
        Verdict::Behind => BEHIND,
        Verdict::Level | Verdict::Refused | Verdict::Alone => PEER_DARK,
    }
}

/// From values to pixels.
struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
}

impl Axis {
    fn linear(low: f64, high: f64) -> Self {
        Self { low, high, is_logarithmic: false }
    }

    /// `low` and `high` are above zero.
    fn logarithmic(low: f64, high: f64) -> Self {
        Self { low, high, is_logarithmic: true }
    }

    fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the share is clamped, so that the pixel is on the canvas")]
    fn at(&self, value: f64) -> i32 {
        let share = if self.is_logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        PLOT_LEFT + (share * f64::from(PLOT_RIGHT - PLOT_LEFT)).round() as i32
    }

    /// Up to six round values from zero.
    fn linear_ticks(&self) -> Vec<f64> {
        let rough = self.high / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..=5).map(|count| f64::from(count) * step).filter(|tick| *tick <= self.high).collect()
    }
}

fn tick_words(tick: f64) -> String {
    if tick < 10.0 {
        return format!("{tick:.2}").trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    words::digits(tick.round()).trim_end_matches(".0").to_owned()
}

#[derive(Clone, Copy)]
enum Fill {
    Solid,
    Hollow,
}

struct Canvas<'a, 'svg> {
    area: &'a DrawingArea<SVGBackend<'svg>, Shift>,
}

impl Canvas<'_, '_> {
    fn text(&self, text: &str, at: (i32, i32), side: HPos, colour: RGBColor) -> anyhow::Result<()> {
        let style = TextStyle::from(("sans-serif", TEXT_PIXELS)).color(&colour).pos(Pos::new(side, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), at, style)).map_err(failed)
    }

    fn line(&self, from: (i32, i32), to: (i32, i32), width: u32, colour: RGBColor) -> anyhow::Result<()> {
        self.area.draw(&PathElement::new(vec![from, to], colour.stroke_width(width))).map_err(failed)
    }

    fn vertical(&self, x: i32, rows: usize, colour: RGBColor) -> anyhow::Result<()> {
        self.line((x, MARGIN_TOP), (x, self.bottom(rows)), 1, colour)
    }

    fn rectangle(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> anyhow::Result<()> {
        self.area.draw(&Rectangle::new([from, to], colour.filled())).map_err(failed)
    }

    fn dot(&self, at: (i32, i32), radius: i32, colour: RGBColor, fill: Fill) -> anyhow::Result<()> {
        self.area.draw(&Circle::new(at, radius, WHITE.filled())).map_err(failed)?;
        let style = match fill {
            Fill::Solid => colour.filled(),
            Fill::Hollow => colour.stroke_width(1),
        };
        self.area.draw(&Circle::new(at, radius - 1, style)).map_err(failed)
    }

    fn bottom(&self, rows: usize) -> i32 {
        MARGIN_TOP + rows_height(rows)
    }
}

/// An SVG document with room for `rows`; `title` is what a screen reader says.
fn draw(rows: usize, title: &str, paint: impl FnOnce(&Canvas<'_, '_>) -> anyhow::Result<()>) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let height = MARGIN_TOP + rows_height(rows) + MARGIN_BOTTOM;
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        paint(&Canvas { area: &area })?;
        area.present().map_err(failed)?;
    }
    let label = format!("<svg role=\"img\" aria-label=\"{}\" ", super::page::escape(title));
    Ok(svg.replacen("<svg ", &label, 1))
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

fn rows_height(rows: usize) -> i32 {
    ROW_HEIGHT * i32::try_from(rows).unwrap_or(i32::MAX / ROW_HEIGHT / 2)
}

fn row_middle(index: usize) -> i32 {
    MARGIN_TOP + rows_height(index) + ROW_HEIGHT / 2
}

const WIDTH: i32 = 860;
const PLOT_LEFT: i32 = 170;
const PLOT_RIGHT: i32 = 650;
const LABEL_RIGHT: i32 = PLOT_LEFT - 10;
const MARGIN_TOP: i32 = 6;
const MARGIN_BOTTOM: i32 = 28;
const ROW_HEIGHT: i32 = 28;
const BAR_HALF: i32 = 9;
/// plotters writes a font size of 1/1.24 of this.
const TEXT_PIXELS: i32 = 16;
const OVERVIEW_LOW: f64 = 0.8;
const OVERVIEW_HIGH: f64 = 1.25;
const RATIO_TICKS: [f64; 12] = [0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0];
const LATENCY_TICKS: [f64; 12] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0];
const INK: RGBColor = RGBColor(0x1c, 0x24, 0x2c);
const FAINT: RGBColor = RGBColor(0x6b, 0x75, 0x80);
const GRID: RGBColor = RGBColor(0xe3, 0xe7, 0xeb);
const SUBJECT: RGBColor = RGBColor(0x3b, 0x82, 0xc4);
const PEER: RGBColor = RGBColor(0xc3, 0xcb, 0xd3);
const PEER_DARK: RGBColor = RGBColor(0x7d, 0x88, 0x94);
const AHEAD: RGBColor = RGBColor(0x1f, 0x8a, 0x5b);
const BEHIND: RGBColor = RGBColor(0xc2, 0x41, 0x2d);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_keeps_every_value_on_the_plot() {
        let axis = Axis::logarithmic(0.5, 2.0);
        assert_eq!(axis.at(1.0), PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) / 2);
        assert_eq!((axis.at(0.01), axis.at(99.0)), (PLOT_LEFT, PLOT_RIGHT));
        assert_eq!(axis.at(f64::NAN), PLOT_LEFT);
    }

    #[test]
    fn linear_ticks_are_round_and_few() {
        assert_eq!(Axis::linear(0.0, 61_000.0).linear_ticks(), [0.0, 20_000.0, 40_000.0, 60_000.0]);
        assert_eq!(Axis::linear(0.0, 4.9).linear_ticks(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn tick_words_are_short() {
        assert_eq!([0.0, 2.5, 40.0, 20_000.0].map(tick_words), ["0", "2.5", "40", "20,000"]);
    }
}
