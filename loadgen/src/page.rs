//! Results as one page that needs no network: charts as inline SVG, numbers as tables, runs side by side. Draws what it is
//! given; measures nothing.

use std::fmt::Write as _;

use anyhow::{Context, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::intervals::Interval;
use crate::packed;
use crate::report::{Report, Summary, span_ns};
use crate::slo::{Point, Search};

const SIZE: (u32, u32) = (620, 320);

/// Colours that people who see few colours tell apart. Source: Okabe and Ito, "Color Universal Design", 2008.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// How far apart the rates of runs are that a curve is drawn through.
const CURVE_SPREAD_MIN: f64 = 1.1;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1320px;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(560px,1fr));gap:1rem}\
figure{margin:0;border:1px solid #ddd;border-radius:6px;padding:.5rem;background:#fff}\
svg{width:100%;height:auto}figcaption{font-weight:600;padding:.2rem .5rem}\
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #e5e5e5}\
td:first-child,th:first-child{text-align:left}code{background:#f4f4f4;padding:.1rem .3rem;border-radius:3px;word-break:break-all}\
.warning{background:#fff3cd;border-left:4px solid #e69f00;padding:.4rem .8rem;margin:.4rem 0}\
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}\
svg text{fill:currentColor}svg [stroke=\"#000000\"]{stroke:currentColor}\
@media(prefers-color-scheme:dark){body{color:#d8dade;background:#15171a}figure{background:#1c1f23;border-color:#3a3f45}\
td,th{border-color:#33383e}code{background:#25292e}.warning{background:#3a2f10}}";

/// One run and what it is called.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) report: Report,
}

type Line = (usize, Vec<(f64, f64)>);

/// The whole page.
pub(crate) fn render(runs: &[Run]) -> anyhow::Result<String> {
    assert!(!runs.is_empty());
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    write!(page, "<title>slabring-load</title><style>{STYLE}</style></head><body>")?;
    write!(page, "<h1>slabring-load</h1>{}", legend(runs))?;
    for Run { name, report } in runs {
        for warning in report.warnings.iter().chain(&report.failure).chain(&report.wrong_examples) {
            write!(page, "<p class=\"warning\">{}: {}</p>", escape(name), escape(warning))?;
        }
    }
    page.push_str(&summary(runs)?);
    page.push_str("<main>");
    for (id, caption, svg) in charts(runs)? {
        write!(page, "<figure data-chart=\"{id}\"><figcaption>{caption}</figcaption>{svg}</figure>")?;
    }
    page.push_str("</main>");
    page.push_str(&conditions(runs)?);
    page.push_str("</body></html>\n");
    Ok(page)
}

/// The page of a search: latency against throughput, and every measurement.
pub(crate) fn render_search(search: &Search) -> anyhow::Result<String> {
    let mut points: Vec<&Point> = search.points.iter().collect();
    points.sort_by(|one, other| one.rate_per_second.total_cmp(&other.rate_per_second));
    let measured = |ns: fn(&Summary) -> u64| -> Vec<(f64, f64)> {
        points.iter().map(|point| (point.rate_per_second, ns(&point.latency) as f64 / 1e6)).collect()
    };
    let dots = [(1, measured(|latency| latency.p99_ns)), (0, measured(|latency| latency.p50_ns))];
    let lines = dots.each_ref().map(|(at, points)| (*at, medians(points)));
    let (x_max, _) = bounds(&dots);
    let (x, y) = (0.0..x_max.max(1.0), y_bounds(&dots));
    let curve = draw(("requests/s", "ms"), &lines, &dots, x, (y.0..y.1).log_scale(), &|x| number(*x))?;
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    write!(
        page,
        "<title>slabring-load slo</title><style>{STYLE}</style></head><body><h1>{}</h1>",
        escape(&search.objective)
    )?;
    write!(
        page,
        "<main><figure data-chart=\"curve\"><figcaption>p99, and p50 below it, against the rate asked for: every measurement, and their medians</figcaption>{curve}</figure></main>"
    )?;
    write!(
        page,
        "<pre>{}</pre><p><code>{}</code></p></body></html>",
        escape(&search.to_string()),
        escape(&search.command)
    )?;
    Ok(page)
}

/// One point for each x, in the middle of those that share it; `points` ascend.
fn medians(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let shares_x = |one: &(f64, f64), other: &(f64, f64)| one.0.total_cmp(&other.0).is_eq();
    let median = |group: &[(f64, f64)]| {
        let mut values: Vec<f64> = group.iter().map(|point| point.1).collect();
        values.sort_by(f64::total_cmp);
        (group[0].0, values[values.len() / 2])
    };
    points.chunk_by(shares_x).map(median).collect()
}

fn legend(runs: &[Run]) -> String {
    let one = |(at, run): (usize, &Run)| {
        let RGBColor(red, green, blue) = colour(at);
        let name = escape(&run.name);
        format!("<p><span class=\"swatch\" style=\"background:rgb({red},{green},{blue})\"></span>{name}</p>")
    };
    runs.iter().enumerate().map(one).collect()
}

fn summary(runs: &[Run]) -> Result<String, std::fmt::Error> {
    let mut table = String::from(
        "<h2>Result</h2><table><tr><th>run<th>requests/s<th>requests<th>hits<th>errors<th>wrong<th>clock<th>p50<th>p90\
         <th>p99<th>p99.9<th>max",
    );
    for Run { name, report } in runs {
        let hits = report.hit_ratio.map_or("-".into(), |ratio| format!("{:.2} %", ratio * 100.0));
        let clock = if report.lag.is_some() { "from due" } else { "from send" };
        write!(
            table,
            "<tr><td>{}<td>{:.0}<td>{}<td>{hits}<td>{}<td>{}{}",
            escape(name),
            report.operations_per_second,
            report.operations,
            report.errors,
            report.wrong_values,
            latencies(clock, &report.latency.all)
        )?;
        if let Some(service) = &report.latency_from_send {
            write!(table, "<tr><td><td><td><td><td><td>{}", latencies("from send", service))?;
        }
    }
    table.push_str("</table>");
    Ok(table)
}

fn latencies(clock: &str, summary: &Summary) -> String {
    let Summary { p50_ns, p90_ns, p99_ns, p999_ns, max_ns, .. } = *summary;
    let cells = [p50_ns, p90_ns, p99_ns, p999_ns, max_ns].map(|ns| format!("<td>{}", span_ns(ns)));
    format!("<td>{clock}{}", cells.concat())
}

fn conditions(runs: &[Run]) -> Result<String, std::fmt::Error> {
    let mut text = String::from("<h2>Conditions</h2>");
    for Run { name, report } in runs {
        let machine = &report.machine;
        write!(
            text,
            "<p><b>{}</b>: <code>{}</code><br>slabring-load {}, {}, {} threads, client CPU {:.0} %; Linux {}, {} x {}</p>",
            escape(name),
            escape(&report.command),
            escape(&report.version),
            escape(&report.io),
            report.threads,
            report.client_cpu_share * 100.0,
            escape(&machine.kernel),
            machine.cpus,
            escape(&machine.cpu)
        )?;
    }
    Ok(text)
}

fn charts(runs: &[Run]) -> anyhow::Result<Vec<(&'static str, &'static str, String)>> {
    let lines = |value: &dyn Fn(&Interval) -> Option<f64>| -> Vec<Line> {
        let line = |run: &Run| {
            let points = run.report.intervals.iter();
            points
                .filter_map(|interval| Some((interval.start + interval.seconds, value(interval)?)))
                .collect()
        };
        runs.iter().enumerate().map(|(at, run)| (at, line(run))).collect()
    };
    let milliseconds = |ns: u64| ns as f64 / 1e6;
    let rate = lines(&|interval| Some(interval.operations_per_second()));
    let mut over_time = lines(&|interval| Some(milliseconds(interval.p99_ns)));
    over_time.extend(lines(&|interval| Some(milliseconds(interval.p50_ns))));
    let hits = lines(&|interval| interval.hit_ratio().map(|ratio| ratio * 100.0));
    let mut all = vec![
        ("percentiles", "Latency by percentile, ms", percentiles(runs)?),
        ("latency", "Latency over time, ms: p99, and p50 below it", linear("s", "ms", &over_time)?),
        ("throughput", "Requests answered a second", linear("s", "requests/s", &rate)?),
    ];
    if hits.iter().any(|(_, points)| !points.is_empty()) {
        all.push(("hits", "Keys found, %", linear("s", "%", &hits)?));
    }
    let rates = || runs.iter().map(|run| run.report.operations_per_second);
    let (slowest, fastest) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
    // Runs of one rate make no curve.
    if fastest > slowest * CURVE_SPREAD_MIN {
        all.push(("curve", "p99 against throughput, ms", curve(runs)?));
    }
    Ok(all)
}

fn percentiles(runs: &[Run]) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let histogram = packed::unpack(&run.report.histogram).context("a result without its histogram")?;
        // One point for each halving of what is left above: 50 %, 75 %, 87.5 % ...
        let mut points = Vec::new();
        let mut above = 1.0;
        while above * histogram.len() as f64 >= 1.0 {
            points.push((1.0 / above, histogram.value_at_quantile(1.0 - above) as f64 / 1e6));
            above /= 1.5;
        }
        lines.push((at, points));
    }
    let (x_max, _) = bounds(&lines);
    let label = |x: &f64| format!("{}", (100.0 - 100.0 / x).max(0.0));
    let y = y_bounds(&lines);
    draw(
        ("percentile", "ms"),
        &lines,
        &lines,
        (1.0..x_max.max(10.0)).log_scale(),
        (y.0..y.1).log_scale(),
        &label,
    )
}

fn linear(x_name: &str, y_name: &str, lines: &[Line]) -> anyhow::Result<String> {
    let (x_max, y_max) = bounds(lines);
    draw((x_name, y_name), lines, lines, 0.0..x_max.max(1.0), 0.0..(y_max * 1.1).max(1e-3), &|x| {
        format!("{x:.0}")
    })
}

fn curve(runs: &[Run]) -> anyhow::Result<String> {
    let point = |run: &Run| (run.report.operations_per_second, run.report.latency.all.p99_ns as f64 / 1e6);
    let mut points: Vec<(f64, f64)> = runs.iter().map(point).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    linear("requests/s", "ms", &[(0, points)])
}

fn bounds(lines: &[Line]) -> (f64, f64) {
    let points = lines.iter().flat_map(|(_, points)| points);
    points.fold((0.0, 0.0), |(x, y): (f64, f64), point| (x.max(point.0), y.max(point.1)))
}

fn y_bounds(lines: &[Line]) -> (f64, f64) {
    let low = lines.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(f64::MAX, f64::min);
    let (_, high) = bounds(lines);
    let low = low.min(high).max(1e-4);
    (low * 0.8, (high * 1.2).max(low * 10.0))
}

/// `names` are those of the axes. Points are drawn as lines and as dots, which need not be the same.
fn draw<X, Y>(
    names: (&str, &str),
    lines: &[Line],
    dots: &[Line],
    x: X,
    y: Y,
    x_label: &dyn Fn(&f64) -> String,
) -> anyhow::Result<String>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let wrong = |error: &dyn std::fmt::Display| anyhow!("chart: {error}");
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(68)
            .build_cartesian_2d(x, y)
            .map_err(|error| wrong(&error))?;
        chart
            .configure_mesh()
            .x_desc(names.0)
            .y_desc(names.1)
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 14))
            .x_label_formatter(x_label)
            .y_label_formatter(&|y| number(*y))
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(|error| wrong(&error))?;
        for (at, points) in lines {
            let style = colour(*at).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))
                .map_err(|error| wrong(&error))?;
        }
        for (at, points) in dots {
            let circles = points.iter().map(|&point| Circle::new(point, 2, colour(*at).filled()));
            chart.draw_series(circles).map_err(|error| wrong(&error))?;
        }
        root.present().map_err(|error| wrong(&error))?;
    }
    Ok(svg)
}

fn number(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        value => format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').into(),
    }
}

fn colour(at: usize) -> RGBColor {
    COLOURS[at % COLOURS.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_become_markup() {
        assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }

    #[test]
    fn measurements_of_one_rate_have_one_median() {
        let points = [(1.0, 9.0), (1.0, 2.0), (1.0, 5.0), (2.0, 7.0)];
        assert_eq!(medians(&points), [(1.0, 5.0), (2.0, 7.0)]);
        assert_eq!(medians(&[]), []);
    }

    #[test]
    fn numbers_on_axes_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.125, "0.125"), (0.5, "0.5"), (250.0, "250"), (125_000.0, "125k"), (2.5e6, "2.5M")]
        {
            assert_eq!(number(value), text);
        }
    }
}
