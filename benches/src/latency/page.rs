//! A sweep as a markdown table, and as one page with curves that needs nothing else. Measures nothing.

use std::fmt::Write as _;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Point, Sweep};

const PANEL_PIXELS: (u32, u32) = (460, 340);

/// A percentile: its title and where it stands.
type Percentile = (&'static str, fn(&Point) -> f64);

const PERCENTILES: [Percentile; 3] = [
    ("p50", |point| point.p50_ns / 1e3),
    ("p99", |point| point.p99_ns / 1e3),
    ("p99.9", |point| point.p999_ns / 1e3),
];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:90em;padding:0 1em}\
table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right}\
th:first-child,td:first-child{text-align:left}code{background:#f4f4f4;padding:.1em .3em}";

/// A row for each rate and server.
pub(crate) fn table(sweep: &Sweep) -> String {
    let mut text = format!("{}\n\n", conditions(sweep));
    for (row, is_title) in rows(sweep).iter().zip(std::iter::once(true).chain(std::iter::repeat(false))) {
        writeln!(text, "| {} |", row.join(" | ")).expect("a string takes everything");
        if is_title {
            writeln!(text, "|{}", " ---: |".repeat(row.len())).expect("a string takes everything");
        }
    }
    text
}

/// The table, a panel of curves for each percentile, and how it was made.
pub(crate) fn html(sweep: &Sweep) -> anyhow::Result<String> {
    let mut body = String::new();
    for (at, row) in rows(sweep).iter().enumerate() {
        let tag = if at == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        writeln!(body, "<tr>{cells}</tr>").expect("a string takes everything");
    }
    let (conditions, command, curves) = (escape(&conditions(sweep)), escape(&sweep.command), curves(sweep)?);
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Latency at given rates</title>\n\
         <style>{STYLE}</style></head>\n<body><h1>Latency at given rates</h1>\n<p>{conditions}</p>\n{curves}\n\
         <table>\n{body}</table>\n<p>Made by <code>{command}</code></p>\n</body></html>\n"
    ))
}

fn conditions(sweep: &Sweep) -> String {
    let Sweep { kernel, cpu, seconds, rounds, saturation, .. } = sweep;
    let saturation: Vec<_> = saturation.iter().map(|(server, rate)| format!("{server} {rate:.0}")).collect();
    format!(
        "{cpu}, {kernel}; one CPU for the server, one for the load. Open loop, latency in microseconds from when a request \
         was due; medians of {rounds} rounds of {seconds} s, servers taking turns. Requests a second in a closed loop: {}.",
        saturation.join(", ")
    )
}

/// The title and a row for each point.
fn rows(sweep: &Sweep) -> Vec<Vec<String>> {
    let mut title = vec!["requests/s".into(), "server".into(), "answered/s".into()];
    title.extend(PERCENTILES.iter().map(|(name, _)| format!("{name} us")));
    title.push("p99.9 of the rounds".into());
    let rows = sweep.points.iter().map(|point| {
        let mut row = vec![point.rate.to_string(), point.server.clone(), format!("{:.0}", point.answered)];
        row.extend(PERCENTILES.iter().map(|(_, of)| format!("{:.0}", of(point))));
        let (lowest, highest) = point.p999_range_ns;
        row.push(format!("{:.0} to {:.0}", lowest / 1e3, highest / 1e3));
        row
    });
    std::iter::once(title).chain(rows).collect()
}

/// An SVG element with a panel for each percentile.
fn curves(sweep: &Sweep) -> anyhow::Result<String> {
    let mut svg = String::new();
    let panels = u32::try_from(PERCENTILES.len())?;
    {
        let root =
            SVGBackend::with_string(&mut svg, (PANEL_PIXELS.0 * panels, PANEL_PIXELS.1)).into_drawing_area();
        let failed = |error| anyhow!("cannot draw: {error}");
        root.fill(&WHITE).map_err(failed)?;
        for (area, percentile) in root.split_evenly((1, PERCENTILES.len())).iter().zip(PERCENTILES) {
            panel(area, percentile, sweep)?;
        }
        root.present().map_err(failed)?;
    }
    // The declaration belongs to a file of its own, not into a page.
    let from = svg.find("<svg").unwrap_or(0);
    Ok(svg[from..].to_owned())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    (title, of): Percentile,
    sweep: &Sweep,
) -> anyhow::Result<()> {
    let failed = |error| anyhow!("cannot draw {title}: {error}");
    let rate_max = sweep.points.iter().map(|point| point.answered).fold(1.0, f64::max);
    let lowest = sweep.points.iter().map(of).fold(f64::INFINITY, f64::min).max(1.0);
    let highest = sweep.points.iter().map(of).fold(lowest, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}, microseconds"), ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..rate_max * 1.05, (lowest * 0.8..highest * 1.3).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("requests answered a second")
        .x_label_formatter(&|rate| format!("{:.0} k", rate / 1e3))
        .x_labels(6)
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    for (at, (server, _)) in sweep.saturation.iter().enumerate() {
        let style = Palette99::pick(at).stroke_width(2);
        let own = sweep.points.iter().filter(|point| point.server == *server);
        let points: Vec<_> = own.map(|point| (point.answered, of(point).max(1.0))).collect();
        chart
            .draw_series(LineSeries::new(points, style).point_size(3))
            .map_err(failed)?
            .label(server)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 12))
        .draw()
        .map_err(failed)
}

/// Text between the tags of a page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> Sweep {
        let point = |server: &str, rate, p999_us: f64| Point {
            server: server.into(),
            rate,
            answered: f64::from(rate),
            p50_ns: 20_000.0,
            p99_ns: 40_000.0,
            p999_ns: p999_us * 1e3,
            p999_range_ns: (p999_us * 1e3, p999_us * 2e3),
        };
        Sweep {
            kernel: "Linux".into(),
            cpu: "CPU <x>".into(),
            command: "slabring-bench latency --server a&b=x".into(),
            seconds: 5.0,
            rounds: 3,
            saturation: vec![("slabring".into(), 1000.0), ("a&b".into(), 500.0)],
            points: vec![point("slabring", 100, 60.0), point("a&b", 100, 90.0), point("slabring", 300, 70.0)],
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_point_and_a_cell_for_every_column() {
        let text = table(&sweep());
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 2 + 3);
        assert!(rows.iter().all(|row| row.matches('|').count() == rows[0].matches('|').count()), "{text}");
        assert!(rows[3].contains("| 100 | a&b | 100 | 20 | 40 | 90 | 90 to 180 |"), "{text}");
    }

    #[test]
    fn the_page_stands_alone_and_shows_a_curve_for_each_server_and_percentile() {
        let page = html(&sweep()).unwrap();
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("http"), "{page}");
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("CPU <x>"), "{page}");
        assert!(page.contains("a&amp;b=x"));
        // A point is a circle, in each of three panels.
        assert_eq!(page.matches("<circle").count(), 3 * 3);
        assert_eq!(page.matches("<tr>").count(), 1 + 3);
    }
}
