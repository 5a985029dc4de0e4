//! Miss ratio over capacity as SVG, a panel for each trace, a curve for each policy. Plays nothing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::hitratio::reference::Share;
use crate::hitratio::report::{Cell, Report};

const PANEL_PIXELS: (u32, u32) = (420, 300);
const PANELS_PER_ROW: usize = 3;

/// A trace and its cells.
type Panel<'a> = (&'a str, Vec<&'a Cell>);

/// Miss ratios by share, in the order of the shares.
struct Curve {
    name: &'static str,
    style: ShapeStyle,
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn new(name: &'static str, style: ShapeStyle, points: impl Iterator<Item = (f64, f64)>) -> Self {
        let mut points: Vec<_> = points.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { name, style, points }
    }
}

/// Draws all cells of a report.
pub(crate) fn draw(report: &Report, path: &Path) -> anyhow::Result<()> {
    let panels = panels(report);
    let rows = panels.len().div_ceil(PANELS_PER_ROW);
    let columns = panels.len().min(PANELS_PER_ROW);
    let size = (PANEL_PIXELS.0 * u32::try_from(columns)?, PANEL_PIXELS.1 * u32::try_from(rows)?);
    let root = SVGBackend::new(path, size).into_drawing_area();
    let drawn = root.fill(&WHITE).map_err(|error| anyhow!("{error}")).and_then(|()| {
        let areas = root.split_evenly((rows, columns));
        areas.iter().zip(&panels).try_for_each(|(area, panel)| draw_panel(area, panel, report))
    });
    drawn?;
    root.present().map_err(|error| anyhow!("cannot write {}: {error}", path.display()))
}

/// Traces in the order of the report.
fn panels(report: &Report) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for cell in &report.cells {
        match panels.iter_mut().find(|panel| panel.0 == cell.trace) {
            Some(panel) => panel.1.push(cell),
            None => panels.push((&cell.trace, vec![cell])),
        }
    }
    panels
}

/// One for each policy, and one for what they are measured against.
fn curves(report: &Report, cells: &[&Cell]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for (at, &policy) in report.policies.iter().enumerate() {
        let own = cells.iter().filter(|cell| cell.policy == policy);
        let points = own.map(|cell| (cell.share.fraction(), cell.miss_ratio()));
        curves.push(Curve::new(policy.name(), Palette99::pick(at).stroke_width(2), points));
    }
    let baseline = cells.iter().filter_map(|cell| Some((cell.share.fraction(), report.baseline(cell)?.1)));
    let mut baseline = Curve::new(report.mode.baseline_title(), BLACK.stroke_width(1), baseline);
    baseline.points.dedup();
    curves.push(baseline);
    curves.retain(|curve| !curve.points.is_empty());
    curves
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    (trace, cells): &Panel<'_>,
    report: &Report,
) -> anyhow::Result<()> {
    let curves = curves(report, cells);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let (least, most) = bounds(points().map(|point| point.0));
    let (lowest, highest) = bounds(points().map(|point| point.1));
    let labels: BTreeSet<_> = cells.iter().map(|cell| cell.share).collect();
    // Both axes need some width, also for a single point.
    let shares = (least * 0.9..most * 1.1).log_scale();
    let shares = shares.with_key_points(labels.into_iter().map(Share::fraction).collect());
    let ratios = lowest * 0.95..(highest * 1.02).max(f64::MIN_POSITIVE);
    let failed = |error| anyhow!("cannot draw {trace}: {error}");
    let mut chart = ChartBuilder::on(area)
        .caption(*trace, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(40)
        .build_cartesian_2d(shares, ratios)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("share of the working set")
        .y_desc("miss ratio")
        .x_label_formatter(&|share| format!("{} %", (share * 1e4).round() / 1e2))
        .y_labels(6)
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    for Curve { name, style, points } in curves {
        chart
            .draw_series(LineSeries::new(points, style).point_size(2))
            .map_err(failed)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 11))
        .draw()
        .map_err(failed)
}

/// The least and the greatest of some numbers above 0.
fn bounds(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers.fold((f64::INFINITY, 0.0), |(least, most), number| (least.min(number), most.max(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hitratio::reference::Mode;
    use crate::hitratio::reference::tests::objects;
    use crate::hitratio::replay::Replayed;
    use slabring_engine::PolicyKind;

    fn cell(trace: &str, share: &str, misses: u64) -> Cell {
        let replayed = Replayed { gets: 10, misses, ..Replayed::default() };
        let policy = PolicyKind::Clock;
        Cell { trace: trace.into(), share: share.parse().unwrap(), capacity: 1, policy, replayed }
    }

    #[track_caller]
    fn check(cells: Vec<Cell>, traces: &[&str]) {
        let path =
            std::env::temp_dir().join(format!("slabring-plot-{}-{}.svg", cells.len(), std::process::id()));
        let policies = vec![PolicyKind::Clock, PolicyKind::TinyLfu];
        draw(&Report { mode: Mode::Objects, policies, reference: None, cells }, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("tinylfu"));
        for word in traces.iter().chain(&["clock", "miss ratio"]) {
            assert!(svg.contains(word), "{word}: {svg}");
        }
    }

    #[test]
    fn every_trace_has_its_panel_and_every_policy_that_ran_its_name() {
        let traces = ["one", "two", "three", "four"];
        let cells = traces.iter().flat_map(|trace| [cell(trace, "0.01", 5), cell(trace, "0.1", 2)]);
        check(cells.collect(), &traces);
    }

    #[test]
    fn the_baseline_is_one_curve_and_all_go_from_left_to_right() {
        let cells = [cell("a", "0.1", 2), cell("a", "0.01", 5)];
        let tinylfu = |cell: &Cell| Cell { policy: PolicyKind::TinyLfu, ..cell.clone() };
        let cells: Vec<Cell> = cells.iter().flat_map(|cell| [cell.clone(), tinylfu(cell)]).collect();
        let policies = vec![PolicyKind::Clock, PolicyKind::TinyLfu];
        let report = Report { mode: Mode::Objects, policies, reference: Some(objects()), cells };
        let curves = curves(&report, &report.cells.iter().collect::<Vec<_>>());
        let points: Vec<_> = curves.iter().map(|curve| (curve.name, curve.points.clone())).collect();
        let own = vec![(0.01, 0.5), (0.1, 0.2)];
        assert_eq!(points, [("clock", own.clone()), ("tinylfu", own), ("best of 19", vec![(0.01, 0.4)])]);
    }

    #[test]
    fn a_single_cell_without_a_miss_can_be_drawn() {
        check(vec![cell("one", "1", 0)], &["one"]);
    }
}
