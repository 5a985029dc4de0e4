//! How a run is shown while it goes: a screen or a line on a terminal, nothing where there is none. Standard output
//! stays free for the result.

use std::io::{self, IsTerminal, Stderr};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{ExecutableCommand, cursor};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal};

use crate::args::Args;
use crate::intervals::Interval;
use crate::report::span_ns;
use crate::tally::Tally;

/// How often it changes.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// What is shown.
pub(crate) enum View {
    Line(PlainLine),
    Screen(Box<Screen>),
}

impl View {
    /// A view that is full at `length`, in whatever unit [`View::show`] is told.
    pub(crate) fn new(phase: &'static str, length: u64, args: &Args) -> Self {
        let wants_screen = phase == "load" && !args.quiet && !args.plain && io::stderr().is_terminal();
        let screen = if wants_screen { Screen::open(length, args).ok() } else { None };
        screen.map_or_else(
            || Self::Line(PlainLine::new(phase, length, args.quiet)),
            |screen| Self::Screen(Box::new(screen)),
        )
    }

    /// Shows `position` and what was measured in the seconds that are complete.
    pub(crate) fn show(
        &mut self,
        position: u64,
        replies: u64,
        servers: &[String],
        intervals: &[Interval],
        total: &Tally,
    ) {
        match self {
            Self::Line(line) => line.show(position, replies),
            Self::Screen(screen) => screen.show(position, servers, intervals, total),
        }
    }

    /// Whether somebody at the terminal wants it to end.
    pub(crate) fn was_told_to_stop(&self) -> bool {
        let Self::Screen(_) = self else { return false };
        let mut stop = false;
        while event::poll(Duration::ZERO).unwrap_or(false) {
            if let Ok(Event::Key(key)) = event::read() {
                let interrupts =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                stop |= interrupts || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
            }
        }
        stop
    }
}

/// A line of progress.
pub(crate) struct PlainLine {
    bar: ProgressBar,
    replies_before: u64,
}

impl PlainLine {
    fn new(phase: &'static str, length: u64, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{prefix:8} [{bar:30}] {percent:>3} %  {msg}")
            .expect("a constant template that is valid");
        let bar = ProgressBar::with_draw_target(Some(length), target).with_style(style).with_prefix(phase);
        Self { bar, replies_before: 0 }
    }

    /// Shows the rate since a [`TICK`] ago, of `replies` in total.
    fn show(&mut self, position: u64, replies: u64) {
        let rate = replies - self.replies_before;
        self.replies_before = replies;
        self.bar.set_position(position);
        self.bar.set_message(format!("{} requests/s", HumanCount(rate)));
        self.bar.tick();
    }
}

impl Drop for PlainLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The whole terminal.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
    title: String,
    length: u64,
}

impl Screen {
    fn open(length: u64, args: &Args) -> io::Result<Self> {
        enable_raw_mode()?;
        io::stderr().execute(EnterAlternateScreen)?.execute(cursor::Hide)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stderr()))?;
        Ok(Self { terminal, title: args.command.clone(), length })
    }

    fn show(&mut self, position: u64, servers: &[String], intervals: &[Interval], total: &Tally) {
        let Self { terminal, title, length } = self;
        let share = (position as f64 / (*length).max(1) as f64).clamp(0.0, 1.0);
        // A terminal that is gone is no reason to end a run.
        drop(terminal.draw(|frame| draw(frame, title, share, servers, intervals, total)));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // As above.
        drop(disable_raw_mode());
        drop(
            io::stderr().execute(LeaveAlternateScreen).and_then(|out| out.execute(cursor::Show).map(|_| ())),
        );
    }
}

fn draw(
    frame: &mut Frame<'_>,
    title: &str,
    share: f64,
    servers: &[String],
    intervals: &[Interval],
    total: &Tally,
) {
    let now = intervals.last().copied().unwrap_or_default();
    let server_lines = u16::try_from(total.servers.len()).unwrap_or(u16::MAX).min(10);
    let areas: [Rect; 5] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(5),
        Constraint::Min(4),
        Constraint::Min(4),
        Constraint::Length(if server_lines > 0 { server_lines + 2 } else { 0 }),
    ])
    .areas(frame.area());
    frame.render_widget(
        Gauge::default().block(Block::bordered().title(title.to_owned())).ratio(share),
        areas[0],
    );
    frame.render_widget(numbers(&now, total), areas[1]);
    let rates: Vec<u64> = intervals.iter().map(|interval| interval.operations).collect();
    chart(frame, areas[2], " requests/s ", &rates, Style::new().cyan());
    let slow: Vec<u64> = intervals.iter().map(|interval| interval.p99_ns / 1000).collect();
    chart(frame, areas[3], " p99, us ", &slow, Style::new().yellow());
    let lines: Vec<Line<'_>> = servers
        .iter()
        .zip(&total.servers)
        .map(|(name, server)| {
            let p99 = span_ns(server.latency.value_at_quantile(0.99));
            Line::from(format!(" {name:30} {:>12} requests   p99 {p99}", server.answers))
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" servers ")), areas[4]);
}

fn numbers(now: &Interval, total: &Tally) -> Paragraph<'static> {
    let hit_ratio = now.hit_ratio().map_or("-".into(), |ratio| format!("{:.2} %", ratio * 100.0));
    let (errors, wrong) = (total.errors(), total.wrong.total());
    let trouble = Line::from(format!(" errors {errors}   wrong values {wrong}   (q ends the run)"));
    let lines = vec![
        Line::from(format!(
            " {} requests/s   hits {hit_ratio}   requests {}",
            now.operations,
            total.operations()
        )),
        Line::from(format!(
            " p50 {}   p99 {}   p99.9 {}   max {}",
            span_ns(now.p50_ns),
            span_ns(now.p99_ns),
            span_ns(now.p999_ns),
            span_ns(now.max_ns)
        )),
        if errors + wrong > 0 { trouble.red() } else { trouble },
    ];
    Paragraph::new(lines).block(Block::bordered())
}

/// The latest values that fit.
fn chart(frame: &mut Frame<'_>, area: Rect, title: &str, values: &[u64], style: Style) {
    let room = usize::from(area.width.saturating_sub(2));
    let latest = &values[values.len().saturating_sub(room)..];
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(Sparkline::default().block(block).data(latest).style(style), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_screen_shows_rate_percentiles_servers_and_what_is_wrong() {
        let mut total = Tally::new(true, 2);
        total.wrong.stale = 3;
        let interval =
            Interval { operations: 123_456, p99_ns: 1_500_000, hits: 3, misses: 1, ..Interval::default() };
        let mut terminal = Terminal::new(TestBackend::new(80, 30)).unwrap();
        let servers = ["one:1".to_owned(), "two:2".to_owned()];
        terminal.draw(|frame| draw(frame, "the command", 0.5, &servers, &[interval], &total)).unwrap();
        let shown = terminal.backend().to_string();
        for text in
            ["the command", "50%", "123456 requests/s", "p99 1.50 ms", "75.00 %", "wrong values 3", "two:2"]
        {
            assert!(shown.contains(text), "{text}: {shown}");
        }
    }
}
