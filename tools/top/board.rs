//! What `top` knows: the last two looks, what changed between them, and what its user wants to see of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use executor_shm::InstanceName;
use executor_shm::inspect::{HandlerView, InspectError, WorkerView};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::grid::{Column, Content, Grid, Key, Row};
use crate::colour::Mood;
use crate::dump::{handlers, lanes};
use crate::dump_json::{attached, quantile_ns, running_ns, unanswered};
use crate::dump_text::{NONE, in_flight, is_placed, lane_mood, life, life_mood, longest};
use crate::exit::one_line;
use crate::sample::{Change, LaneChange, Sample};
use crate::units::count;

/// Values of a sparkline.
const HISTORY: usize = 60;
/// A message stays for so long: of looks, twenty a second would be over before it was read.
const TOLD: Duration = Duration::from_secs(20);

/// What is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Screen {
    #[default]
    Workers,
    Handlers,
    Lanes,
}

impl Screen {
    pub(super) const ALL: [Self; 3] = [Self::Workers, Self::Handlers, Self::Lanes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::Handlers => "handlers",
            Self::Lanes => "lanes",
        }
    }

    const fn columns(self) -> &'static [Column] {
        const fn column(title: &'static str, width: u16, from: u16) -> Column {
            Column { title, width, from }
        }
        match self {
            Self::Workers => {
                const {
                    &[
                        column("worker", 7, 0),
                        column("cpu", 5, 60),
                        column("tasks/s", 10, 0),
                        column("lanes", 6, 60),
                        column("asleep", 7, 0),
                        column("wakes/s", 9, 80),
                        column("naps/s", 9, 80),
                        column("time", 12, 0),
                    ]
                }
            }
            Self::Handlers => {
                const {
                    &[
                        column("handler", 14, 0),
                        column("tasks/s", 10, 0),
                        column("queue p99", 10, 90),
                        column("run p50", 9, 60),
                        column("run p99", 9, 0),
                        column("not done", 10, 50),
                        column("run p99 of 60 looks", 19, 60),
                    ]
                }
            }
            Self::Lanes => {
                const {
                    &[
                        column("lane", 5, 0),
                        column("state", 9, 70),
                        column("owner", 9, 90),
                        column("worker", 7, 90),
                        column("started/s", 10, 0),
                        column("total p99", 10, 60),
                        column("not done", 9, 100),
                        column("unanswered", 11, 0),
                        column("fill", 9, 50),
                        column("in flight", 10, 0),
                    ]
                }
            }
        }
    }
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    Stay,
}

/// How a screen is sorted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Order {
    pub(super) column: usize,
    pub(super) is_reversed: bool,
}

/// Everything that is drawn.
#[derive(Debug)]
pub(super) struct Board {
    instance: InstanceName,
    has_colours: bool,
    screen: Screen,
    orders: [Order; 3],
    is_paused: bool,
    shows_help: bool,
    scrolled: usize,
    before: Option<Sample>,
    last: Option<Sample>,
    /// What happened to the instance, and until when that is told; `None` until the next look.
    said: Option<(String, Option<Instant>)>,
    p99s: BTreeMap<u32, VecDeque<Option<u64>>>,
    grids: [Grid; 3],
    tasks_per_second: Option<f64>,
}

impl Board {
    pub(super) fn new(instance: InstanceName, has_colours: bool) -> Self {
        Self {
            instance,
            has_colours,
            screen: Screen::default(),
            orders: [Order::default(); 3],
            is_paused: false,
            shows_help: false,
            scrolled: 0,
            before: None,
            last: None,
            said: None,
            p99s: BTreeMap::new(),
            grids: Screen::ALL.map(|_| Grid::default()),
            tasks_per_second: None,
        }
    }

    pub(super) const fn instance(&self) -> &InstanceName {
        &self.instance
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(super) const fn has_colours(&self) -> bool {
        self.has_colours
    }

    pub(super) const fn shows_help(&self) -> bool {
        self.shows_help
    }

    pub(super) const fn screen(&self) -> Screen {
        self.screen
    }

    pub(super) fn said(&self) -> Option<&str> {
        self.said.as_ref().map(|(said, _)| said.as_str())
    }

    pub(super) const fn scrolled(&self) -> usize {
        self.scrolled
    }

    pub(super) fn order(&self) -> Order {
        self.orders.get(self.screen as usize).copied().unwrap_or_default()
    }

    /// The screen's rows as they are sorted.
    pub(super) fn grid(&self) -> Option<&Grid> {
        self.grids.get(self.screen as usize)
    }

    /// The first line: the instance in numbers.
    pub(super) fn head(&self) -> Vec<(String, Mood)> {
        let Some(Sample { view, .. }) = &self.last else {
            return vec![(self.instance.to_string(), Mood::Plain)];
        };
        vec![
            (self.instance.to_string(), Mood::Plain),
            (life(view), life_mood(view)),
            (format!("{} tasks/s", rate(self.tasks_per_second)), Mood::Plain),
            (format!("{} unanswered", unanswered(view).map_or(NONE.to_owned(), count)), Mood::Plain),
            (format!("{} of {} lanes", count(attached(view)), view.geometry.lanes), Mood::Plain),
            (format!("pid {}", view.pid), Mood::Plain),
            (format!("{} tasks", count(view.stats.tasks)), Mood::Plain),
        ]
    }

    /// Takes a look, or why there is none.
    pub(super) fn take(&mut self, look: Result<Sample, InspectError>, now: Instant) {
        self.said = self.said.take().filter(|(_, until)| until.is_some_and(|until| now < until));
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                self.said = Some((format!("{}; waiting for it", one_line(&error)), None));
                self.before = None; // what comes next is compared with nothing that is gone
                return;
            }
        };
        if let Some(last) = &self.last {
            let (was, is) = (&last.view, &look.view);
            let mut say = |said: &str| self.said = Some((said.to_owned(), Some(now + TOLD)));
            if was.nonce != is.nonce {
                say("the instance was made anew");
                self.p99s.clear();
                self.last = None;
            } else if was.epoch != is.epoch {
                say("its sidecar was started again");
            } else if was.alive == Some(true) && is.alive == Some(false) {
                say("its sidecar is dead; waiting for the next one");
            }
        }
        self.before = self.last.replace(look);
        self.compare();
    }

    /// What a key does.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Stay;
        }
        let columns = self.screen.columns().len();
        let order = &mut self.orders[self.screen as usize];
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc if !self.shows_help => return Wish::Quit,
            KeyCode::Esc => self.shows_help = false,
            KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
            KeyCode::Char(' ' | 'p') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => order.column = (order.column + 1) % columns,
            KeyCode::Char('S') => order.column = (order.column + columns - 1) % columns,
            KeyCode::Char('r') => order.is_reversed = !order.is_reversed,
            KeyCode::Char('1') => self.show(Screen::Workers),
            KeyCode::Char('2') => self.show(Screen::Handlers),
            KeyCode::Char('3') => self.show(Screen::Lanes),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(2),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::PageDown => self.scroll(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        self.sort();
        Wish::Stay
    }

    fn show(&mut self, screen: Screen) {
        (self.screen, self.scrolled) = (screen, 0);
    }

    fn turn(&mut self, by: usize) {
        self.show(Screen::ALL[(self.screen as usize + by) % Screen::ALL.len()]);
    }

    fn scroll(&mut self, by: isize) {
        let rows = self.grid().map_or(0, |grid| grid.rows.len());
        self.scrolled = self.scrolled.saturating_add_signed(by).min(rows.saturating_sub(1));
    }

    /// Makes the tables of the last two looks; after the first look of the one with itself.
    fn compare(&mut self) {
        let Some(last) = &self.last else { return };
        let before = self.before.as_ref().unwrap_or(last);
        let change = match Change::new(before, last).or_else(|_| Change::new(last, last)) {
            Ok(change) => change,
            Err(_) => return,
        };
        let tasks = change.by_status().iter().fold(0, |sum: u64, tasks| sum.saturating_add(*tasks));
        self.tasks_per_second = change.rate(tasks);
        let changed: Vec<HandlerView> = change.handlers().collect();
        for handler in &changed {
            let values = self.p99s.entry(handler.row.id).or_default();
            let is_over = change.ns.is_some_and(|ns| ns > 0);
            if is_over {
                values.push_back(quantile_ns(&last.view, &handler.run, 0.99));
            }
            while values.len() > HISTORY {
                values.pop_front();
            }
        }
        let rows = [
            change.workers().map(|(worker, before)| worker_row(&change, worker, before)).collect(),
            changed
                .iter()
                .zip(&last.view.handlers)
                .map(|(changed, now)| handler_row(&change, changed, now, self.p99s.get(&changed.row.id)))
                .collect(),
            change.lanes().map(|lane| lane_row(&change, &lane)).collect(),
        ];
        for ((grid, screen), rows) in self.grids.iter_mut().zip(Screen::ALL).zip(rows) {
            *grid = Grid { columns: screen.columns().to_vec(), rows };
        }
        self.sort();
        self.scroll(0);
    }

    fn sort(&mut self) {
        for (grid, order) in self.grids.iter_mut().zip(self.orders) {
            grid.sort(order.column, order.is_reversed);
        }
    }
}

/// A rate for people.
fn rate(rate: Option<f64>) -> String {
    match rate {
        None => NONE.to_owned(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => count(rate.round() as u64),
    }
}

fn number(text: String, key: Option<f64>) -> (Content, Key) {
    (Content::Number(text, Mood::Plain), Key::Number(key))
}

fn whole(value: Option<u64>) -> (Content, Key) {
    number(value.map_or(NONE.to_owned(), count), value.map(|value| value as f64))
}

fn time(ns: Option<u64>) -> (Content, Key) {
    number(ns.map_or(NONE.to_owned(), longest), ns.map(|ns| ns as f64))
}

fn per_second(change: &Change<'_>, events: Option<u64>) -> (Content, Key) {
    let events = events.and_then(|events| change.rate(events));
    number(rate(events), events)
}

/// Numbers that count from 0 and are sorted the least first.
fn place(text: String, number: u32) -> (Content, Key) {
    (Content::Number(text, Mood::Plain), Key::Number(Some(-f64::from(number))))
}

/// What a worker did with its time, as shares of it.
struct Shares {
    busy: f64,
    /// Awake without a task, looking for one.
    idle: f64,
    asleep: f64,
}

/// Where busy time is not told, all that is not sleep is idle.
fn shares(change: &Change<'_>, worker: &WorkerView, before: Option<&WorkerView>) -> Option<Shares> {
    let ns = change.ns.filter(|ns| *ns > 0)? as f64;
    let before = before?;
    let asleep_ns = worker.sleep.asleep_ns.saturating_sub(before.sleep.asleep_ns);
    let asleep = (asleep_ns as f64 / ns).min(1.0); // a sleep is counted at its end
    let busy_ticks = worker.time.map_or(0, |time| {
        // A worker that began to serve in between began at 0.
        let then = before.time.filter(|then| then.serves_since == time.serves_since);
        time.busy_ticks.saturating_sub(then.map_or(0, |then| then.busy_ticks))
    });
    let busy_ns = change.after.clock.map_or(0, |clock| clock.ticks_to_ns(busy_ticks));
    let busy = (busy_ns as f64 / ns).min(1.0 - asleep); // a task is counted at its end
    Some(Shares { busy, idle: 1.0 - asleep - busy, asleep })
}

fn worker_row(change: &Change<'_>, worker: &WorkerView, before: Option<&WorkerView>) -> Row {
    let since = |of: fn(&WorkerView) -> u64| Some(of(worker).saturating_sub(of(before?)));
    let shares = shares(change, worker, before);
    let percent =
        |share: Option<f64>| number(share.map_or(NONE.to_owned(), |share| format!("{:.0} %", share * 100.0)), share);
    let parts = shares.as_ref().map_or(Vec::new(), |Shares { busy, idle, asleep }| {
        vec![(*busy, '█', Mood::Good), (*idle, '▒', Mood::Plain), (*asleep, '·', Mood::Faint)]
    });
    vec![
        place(worker.worker.to_string(), worker.worker),
        worker.cpu.map_or_else(|| number(NONE.to_owned(), None), |cpu| place(cpu.to_string(), cpu)),
        per_second(change, since(|worker| worker.tasks)),
        whole(Some(worker.lanes)),
        percent(shares.as_ref().map(|shares| shares.asleep)),
        per_second(change, since(|worker| worker.sleep.wakes)),
        per_second(change, since(|worker| worker.sleep.naps)),
        (Content::Bar(parts), Key::Number(shares.map(|shares| shares.busy + shares.idle))),
    ]
}

fn handler_row(
    change: &Change<'_>,
    changed: &HandlerView,
    now: &HandlerView,
    p99s: Option<&VecDeque<Option<u64>>>,
) -> Row {
    let view = change.after;
    let (tasks, failures) = handlers::ended(changed);
    let (_, all_failures) = handlers::ended(now);
    let mood = match (failures, all_failures) {
        (0, 0) => Mood::Plain,
        (0, _) => Mood::Warning,
        _ => Mood::Bad,
    };
    let name_mood = if now.row.gone { Mood::Faint } else { Mood::Plain };
    let p99 = quantile_ns(view, &changed.run, 0.99);
    vec![
        (Content::Text(now.row.name.clone(), name_mood), Key::Word(now.row.name.clone())),
        per_second(change, Some(tasks)),
        time(quantile_ns(view, &changed.queue, 0.99)),
        time(quantile_ns(view, &changed.run, 0.5)),
        time(p99),
        (Content::Number(count(all_failures), mood), Key::Number(Some(all_failures as f64))),
        (Content::Spark(p99s.cloned().unwrap_or_default()), Key::Number(p99.map(|p99| p99 as f64))),
    ]
}

fn lane_row(change: &Change<'_>, lane: &LaneChange<'_>) -> Row {
    let (view, now) = (change.after, lane.after);
    let capacity = u64::from(view.geometry.capacity);
    let state = now.state.map_or("damaged", |state| state.name());
    let held = lanes::unanswered(now);
    let mood = held.map_or(Mood::Plain, |held| Mood::of_fill(held, capacity));
    let fill = held.map(|held| held as f64 / capacity.max(1) as f64);
    let bar = fill.map_or(Vec::new(), |fill| vec![(fill, '█', mood), (1.0 - fill, '·', Mood::Faint)]);
    let running = now.in_flight.map(|task| running_ns(view, task.started_at).unwrap_or(0) as f64);
    let failures = lanes::not_done(now);
    vec![
        place(now.lane.to_string(), now.lane),
        (Content::Text(state.to_owned(), lane_mood(now)), Key::Word(state.to_owned())),
        if now.owner == 0 {
            number(NONE.to_owned(), None)
        } else {
            number(now.owner.to_string(), Some(now.owner as f64))
        },
        if is_placed(now) {
            place(now.placement.worker.to_string(), now.placement.worker)
        } else {
            number(NONE.to_owned(), None)
        },
        per_second(change, lane.started),
        time(quantile_ns(view, &lane.total, 0.99)),
        (
            Content::Number(count(failures), if failures > 0 { Mood::Bad } else { Mood::Plain }),
            Key::Number(Some(failures as f64)),
        ),
        (Content::Number(held.map_or(NONE.to_owned(), count), mood), Key::Number(held.map(|held| held as f64))),
        (Content::Bar(bar), Key::Number(fill)),
        (
            Content::Text(now.in_flight.map_or(NONE.to_owned(), |task| in_flight(view, task)), Mood::Plain),
            Key::Number(running),
        ),
    ]
}
