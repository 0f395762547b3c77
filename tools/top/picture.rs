//! The board on a screen of any size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, Wrap};

use super::board::{Board, Screen};
use super::grid::style;
use crate::colour::Mood;

/// What the keys do, most wanted first.
const KEYS: [(&str, &str); 8] = [
    ("q, Esc", "quit"),
    ("Tab, 1 2 3", "workers, handlers, lanes"),
    ("s, S", "sort by the next column, the one before"),
    ("r", "reverse the order"),
    ("space", "pause, go on"),
    ("Up, Down", "scroll"),
    ("?", "this help"),
    ("", "rates and latencies are those since the last look; `not done` counts since the files were made"),
];

/// Characters that the whole footer needs.
const WIDE: u16 = 72;

/// Draws everything there is room for.
pub(super) fn draw(board: &Board, frame: &mut Frame<'_>) {
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)];
    let [head, tabs, body, foot] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(head_line(board), head);
    frame.render_widget(tab_line(board), tabs);
    table(board, frame, body);
    frame.render_widget(foot_line(board, foot.width), foot);
    if board.shows_help() {
        help(frame, body);
    }
}

fn strong() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn head_line(board: &Board) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, (text, mood)) in board.head().into_iter().enumerate() {
        let style = style(mood, board.has_colours());
        spans.push(Span::styled(text, if at == 0 { strong() } else { style }));
        spans.push(Span::raw("  "));
    }
    Line::from(spans)
}

fn tab_line(board: &Board) -> Line<'static> {
    let mut spans = Vec::new();
    for (number, screen) in (1..).zip(Screen::ALL) {
        let style = if screen == board.screen() { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.push(Span::styled(format!("{number} {}", screen.name()), style));
        spans.push(Span::raw(" "));
    }
    if board.is_paused() {
        spans.push(Span::styled(" paused", style(Mood::Warning, board.has_colours())));
    }
    if let Some(said) = board.said() {
        spans.push(Span::styled(format!(" {said}"), style(Mood::Bad, board.has_colours())));
    }
    Line::from(spans)
}

fn foot_line(board: &Board, width: u16) -> Line<'static> {
    if width < WIDE {
        let keys = [("q", " quit  "), ("Tab", " screen  "), ("s", " sort  "), ("r", "  "), ("space", "  "), ("?", "")];
        return keys.iter().flat_map(|(key, what)| [Span::styled(*key, strong()), Span::raw(*what)]).collect();
    }
    let order = board.order();
    let sorted = board.grid().and_then(|grid| grid.columns.get(order.column)).map_or("", |column| column.title);
    let key = |key: &'static str| Span::styled(key, strong());
    Line::from(vec![
        key("q"),
        Span::raw(" quit  "),
        key("Tab"),
        Span::raw(" screen  "),
        key("s"),
        Span::raw(format!(" sort: {sorted}  ")),
        key("r"),
        Span::raw(" reverse  "),
        key("space"),
        Span::raw(if board.is_paused() { " go on  " } else { " pause  " }),
        key("?"),
        Span::raw(" help"),
    ])
}

fn table(board: &Board, frame: &mut Frame<'_>, area: Rect) {
    let Some(grid) = board.grid() else { return };
    let shown: Vec<(usize, _)> =
        grid.columns.iter().enumerate().filter(|(_, column)| column.from <= area.width).collect();
    let fixed: u16 = shown.iter().rev().skip(1).map(|(_, column)| column.width + 1).sum();
    let last = shown.len().saturating_sub(1);
    let width = |at: usize, width: u16| if at == last { area.width.saturating_sub(fixed) } else { width };
    let order = board.order();
    let titles = shown.iter().enumerate().map(|(at, (column, told))| {
        let is_sorted = *column == order.column;
        let style = if is_sorted { strong().add_modifier(Modifier::UNDERLINED) } else { strong() };
        let line = Line::styled(told.title, style);
        // A title stands above its column's numbers.
        let is_number = grid.rows.first().is_some_and(|row| {
            row.get(*column).is_some_and(|(content, _)| matches!(content, super::grid::Content::Number(..)))
        });
        if is_number && at != last { line.right_aligned() } else { line }
    });
    let rows = grid.rows.iter().skip(board.scrolled()).map(|row| {
        Row::new(shown.iter().enumerate().filter_map(|(at, (column, told))| {
            let (content, _) = row.get(*column)?;
            Some(Text::from(content.line(width(at, told.width), board.has_colours())))
        }))
    });
    let widths: Vec<Constraint> =
        shown.iter().enumerate().map(|(at, (_, told))| Constraint::Length(width(at, told.width))).collect();
    if grid.rows.is_empty() {
        frame.render_widget(Line::raw(format!("no {}", board.screen().name())), area);
        return;
    }
    frame.render_widget(Table::new(rows, widths).header(Row::new(titles)).column_spacing(1), area);
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Line<'_>> = KEYS
        .iter()
        .map(|(key, what)| Line::from(vec![Span::styled(format!("{key:<11} "), strong()), Span::raw(*what)]))
        .collect();
    frame.render_widget(Clear, area);
    frame
        .render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::bordered().title(" keys ")), area);
}
#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use executor_client::{Client, TaskDescriptor};
    use executor_core::clock::Calibration;
    use executor_core::histogram::{BUCKETS, HistogramSnapshot, bucket_of};
    use executor_core::idle::IdleStrategy;
    use executor_core::{Clock, ClockSource, RegistryBuilder};
    use executor_shm::inspect::{Inspection, Inspector, TimeView};
    use executor_shm::{InstanceName, Sidecar};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;
    use crate::handlers::{ECHO, builtin};
    use crate::sample::Sample;

    const SECOND: u64 = 1_000_000_000;

    /// A look at a real instance, with all that differs from one run to the next replaced.
    fn real(name: &str) -> Inspection {
        let instance = InstanceName::new(&format!("test-{name}-{}", std::process::id())).unwrap();
        let mut registry = RegistryBuilder::default();
        builtin(&mut registry);
        let sidecar = Sidecar::builder()
            .instance(instance.clone())
            .registry(registry.build().unwrap())
            .lanes(3)
            .capacity(8)
            .pinned(false)
            .idle(IdleStrategy::Yield)
            .start()
            .unwrap();
        let mut client = Client::connect(&instance).unwrap();
        client.try_submit(&TaskDescriptor::new(ECHO), &[0; 8]).unwrap();
        while client.try_collect().unwrap().is_none() {
            std::thread::yield_now();
        }
        let mut view = Inspector::open(&instance).unwrap().look();
        drop(client);
        sidecar.stop();
        sidecar.join().unwrap();
        view.instance = InstanceName::new("orders").unwrap();
        (view.pid, view.nonce) = (4_321, 7);
        let ticks = Calibration { ticks: 0, monotonic_ns: 0, realtime_ns: 0, ticks_per_second: SECOND };
        view.clock = Some(Clock::new(ClockSource::Monotonic, ticks));
        view.stats.tasks = 0;
        view.stats.by_status = Default::default();
        view.workers.iter_mut().for_each(|worker| {
            (worker.tasks, worker.lanes, worker.sleep) = (0, 1, Default::default());
            let time = worker.time.as_mut().unwrap();
            (time.serves_since, time.busy_ticks, time.asleep_ns) = (0, 0, 0);
        });
        view.handlers.iter_mut().for_each(|handler| {
            handler.by_status = Default::default();
            (handler.queue, handler.run) = Default::default();
        });
        // Housekeeping makes lanes when it gets to it: here there are as many as there may be.
        let lane = view.lanes.swap_remove(0);
        view.lanes = (0..3)
            .map(|number| {
                let mut lane = lane.clone();
                (lane.lane, lane.owner, lane.base, lane.useless_wakes) = (number, 100 + u64::from(number), 0, 0);
                (lane.started, lane.completed, lane.depth, lane.in_flight) = (Some(0), Some(0), Some(0), None);
                (lane.attached, lane.state) = (Some(true), Some(executor_shm::state::LaneState::Active));
                lane.total = HistogramSnapshot::default();
                lane
            })
            .collect();
        view
    }

    fn times(ns: &[(u64, u64)]) -> HistogramSnapshot {
        let mut buckets = [0; BUCKETS];
        ns.iter().for_each(|(ns, tasks)| buckets[bucket_of(*ns)] += tasks);
        HistogramSnapshot::from_buckets(buckets.into_iter())
    }

    /// The instance a second later, and busier in each.
    fn later(view: &Inspection, seconds: u64) -> Inspection {
        let mut view = view.clone();
        let tasks = 1_000 * seconds * seconds;
        view.stats.tasks = tasks;
        view.stats.by_status[1] = tasks;
        view.workers.iter_mut().for_each(|worker| {
            (worker.tasks, worker.sleep.wakes, worker.sleep.asleep_ns) = (tasks, 10 * seconds, SECOND / 4 * seconds);
            worker.time = worker.time.map(|time| TimeView { busy_ticks: SECOND / 2 * seconds, ..time });
        });
        for (number, handler) in (1..).zip(&mut view.handlers).filter(|(number, _)| *number < 4) {
            handler.by_status[1] = tasks / number;
            handler.by_status[2] = (number - 1) * seconds;
            let slow: Vec<(u64, u64)> = (1..=seconds).map(|second| (1_000 * second * number, 1_000 * second)).collect();
            (handler.run, handler.queue) = (times(&slow), times(&[(700, tasks)]));
        }
        for (lane, depth) in view.lanes.iter_mut().zip([0, 6, 8]) {
            (lane.started, lane.completed, lane.depth) = (Some(tasks), Some(tasks), Some(depth));
            lane.total = times(&[(2_000, tasks)]);
        }
        view
    }

    fn board(view: &Inspection, seconds: u64) -> Board {
        let mut board = Board::new(view.instance.clone(), true);
        for second in 0..=seconds {
            board.take(Ok(Sample { view: later(view, second), at_ns: Some(second * SECOND) }), Instant::now());
        }
        board
    }

    fn press(board: &mut Board, keys: &str) {
        for key in keys.chars() {
            board.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
        }
    }

    fn drawn(board: &Board, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| draw(board, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn every_screen_is_drawn_as_its_snapshot_at_every_size() {
        let mut board = board(&real("drawn"), 12);
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.set_snapshot_path("../snapshots");
        settings.bind(|| {
            for (key, screen) in [("1", "workers"), ("2", "handlers"), ("3sssss", "lanes"), ("?", "help")] {
                press(&mut board, key);
                for (columns, rows) in [(80, 24), (40, 10), (200, 60)] {
                    insta::assert_snapshot!(format!("top_{screen}_{columns}x{rows}"), drawn(&board, columns, rows));
                }
            }
        });
    }

    /// How many of twenty characters are which, in the bar of the only worker, if it has one.
    fn bar_of(board: &Board) -> Option<[usize; 3]> {
        let (content, _) = board.grid().unwrap().rows.first()?.last()?;
        let bar = content.line(20, false).to_string();
        let counts = ['█', '▒', '·'].map(|mark| bar.chars().filter(|letter| *letter == mark).count());
        (!bar.is_empty()).then_some(counts)
    }

    #[test]
    fn the_bar_of_a_worker_is_full_for_the_share_of_its_time_that_it_spent_in_handlers() {
        let view = real("busy");
        let mut board = board(&view, 3);
        assert_eq!(bar_of(&board), Some([10, 5, 5]), "half in handlers, a quarter asleep");
        let mut take = |second, busy_ticks, serves_since| {
            let mut view = later(&view, second);
            let time = view.workers[0].time.as_mut().unwrap();
            (time.busy_ticks, time.serves_since) = (busy_ticks, serves_since);
            board.take(Ok(Sample { view, at_ns: Some(second * SECOND) }), Instant::now());
            bar_of(&board).unwrap()
        };
        assert_eq!(take(4, SECOND / 10, 9), [2, 13, 5], "it began to serve in between, so it began at 0");
        assert_eq!(take(5, 90 * SECOND, 9), [15, 0, 5], "a task is counted at its end, so there may be too much of it");
        assert_eq!(take(6, 90 * SECOND, 9), [0, 15, 5]);
    }

    #[test]
    fn a_worker_that_was_not_there_before_has_no_rate_and_no_bar() {
        let view = real("absent");
        let mut board = Board::new(view.instance.clone(), false);
        for second in 1..4 {
            let mut view = later(&view, second);
            if second < 2 {
                view.workers.clear();
            }
            board.take(Ok(Sample { view, at_ns: Some(second * SECOND) }), Instant::now());
            let said = drawn(&board, 80, 24);
            assert_eq!(bar_of(&board), (second == 3).then_some([10, 5, 5]), "{said}");
            let is_told = ["3,000", "4,000", "5,000"].map(|rate| said.lines().skip(3).any(|line| line.contains(rate)));
            assert_eq!(is_told, [false, false, second == 3], "{said}");
        }
    }

    #[test]
    fn nothing_is_too_small_to_be_drawn_on() {
        let view = real("small");
        for mut board in [board(&view, 70), Board::new(view.instance.clone(), false)] {
            for keys in ["1", "2", "3", "?", " "] {
                press(&mut board, keys);
                for (columns, rows) in (0..30).flat_map(|columns| (0..8).map(move |rows| (columns, rows))) {
                    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
                    terminal.draw(|frame| draw(&board, frame)).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_board_follows_its_instance_through_death_restart_and_replacement() {
        let view = real("followed");
        let mut board = board(&view, 3);
        let begun = Instant::now();
        let mut take = |second, change: fn(&mut Inspection)| {
            let mut view = later(&view, second);
            change(&mut view);
            let sample = Sample { view, at_ns: Some(second * SECOND) };
            board.take(Ok(sample), begun + Duration::from_secs(second));
            board.said().map(str::to_owned)
        };
        assert_eq!(take(4, |_| ()), None);
        assert!(take(5, |view| view.alive = Some(false)).unwrap().contains("dead"));
        assert!(take(6, |view| view.epoch += 1).unwrap().contains("started again"));
        assert!(take(7, |view| view.nonce = 8).unwrap().contains("made anew"));
        assert!(take(26, |view| view.nonce = 8).unwrap().contains("made anew"));
        assert_eq!(take(27, |view| view.nonce = 8), None, "by then everybody has read it");
    }
}
