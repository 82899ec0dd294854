//! What `top` shows, as lines of text: pure, from what was measured, what was typed and the size of
//! the terminal. Measuring is `guest::load`, the columns are
//! `top_columns`, the terminal is `top_screen`.

use std::time::Duration;

use super::render::safe;
use super::top_columns::{COLUMNS, FIRST, Row, TENANT, by_tenant, short, sort_by, table};
use crate::guest::load::Load;
use crate::kernel::screen::Key;
use crate::model::{GuestName, Status};

/// Lines that are no rows: the summary, the headings, the keys.
const AROUND: usize = 3;

const KEYS: &str =
    "q quit  j k select  < > sort  / filter  f freeze  e shell  t tenants  + - weight";

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Bold,
    Reverse,
}

/// One line of the screen, not longer than that is wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) look: Look,
}

/// What a key asks for beyond what is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Quit,
    Pause(GuestName),
    Resume(GuestName),
    Shell(GuestName),
    /// Twice its CPU weight, or half of it.
    Weigh(GuestName, bool),
}

/// What is on the screen.
#[derive(Debug)]
pub(super) struct View {
    every: Duration,
    /// `None` before the first interval is over.
    loads: Option<Vec<Load>>,
    selected: Option<GuestName>,
    /// Where the selected guest was, for when it is gone.
    place: usize,
    sorted: usize,
    /// Whether guests stand below their tenants.
    tree: bool,
    filter: String,
    filtering: bool,
    message: Option<String>,
}

impl View {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            loads: None,
            selected: None,
            place: 0,
            sorted: FIRST,
            tree: false,
            filter: String::new(),
            filtering: false,
            message: None,
        }
    }

    /// What was measured.
    pub(super) fn measured(&mut self, loads: Vec<Load>) {
        self.loads = Some(loads);
        self.arrange();
    }

    /// Something to tell, until the next key; on one line, and safe.
    pub(super) fn tell(&mut self, text: &str) {
        self.message = Some(safe(text.trim()));
    }

    fn arrange(&mut self) {
        let tree = self.is_tree();
        let loads = self.loads.as_deref_mut().unwrap_or_default();
        sort_by(loads, self.sorted);
        if tree {
            by_tenant(loads);
        }
        self.select(self.place());
    }

    fn is_tree(&self) -> bool {
        self.tree || COLUMNS[self.sorted].heading == TENANT
    }

    /// The guests that fit the filter.
    fn shown(&self) -> Vec<&Load> {
        let all = self.loads.iter().flatten();
        all.filter(|load| load.name.as_str().contains(&self.filter))
            .collect()
    }

    /// Where the selected guest is; if it is gone, where it was.
    fn place(&self) -> usize {
        let shown = self.shown();
        let selected = |load: &&Load| Some(&load.name) == self.selected.as_ref();
        let found = shown.iter().position(selected);
        found.unwrap_or_else(|| self.place.min(shown.len().saturating_sub(1)))
    }

    fn select(&mut self, place: usize) {
        let shown = self.shown();
        let place = place.min(shown.len().saturating_sub(1));
        let name = shown.get(place).map(|load| load.name.clone());
        (self.place, self.selected) = (place, name);
    }

    fn chosen(&self) -> Option<(&GuestName, Status)> {
        let shown = self.shown();
        shown
            .get(self.place())
            .map(|load| (&load.name, load.status))
    }

    /// What a key does, on a screen of so many rows.
    pub(super) fn typed(&mut self, key: Key, rows: usize) -> Wish {
        self.message = None;
        if key == Key::Interrupt {
            return Wish::Quit;
        }
        if self.filtering {
            self.edit_filter(key);
            return Wish::Nothing;
        }
        let (page, last) = (rows.saturating_sub(AROUND).max(1), COLUMNS.len() - 1);
        match key {
            Key::Char('q') => return Wish::Quit,
            Key::Up | Key::Char('k') => self.select(self.place().saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(self.place() + 1),
            Key::PageUp => self.select(self.place().saturating_sub(page)),
            Key::PageDown => self.select(self.place() + page),
            Key::Home => self.select(0),
            Key::End => self.select(usize::MAX),
            Key::Char('s' | '>') => self.go_by((self.sorted + 1) % COLUMNS.len()),
            Key::Char('<') => self.go_by(self.sorted.checked_sub(1).unwrap_or(last)),
            Key::Char('t') => {
                self.tree = !self.tree;
                self.arrange();
            }
            Key::Char(key @ ('+' | '-')) => {
                if let Some((name, _)) = self.chosen() {
                    return Wish::Weigh(name.clone(), key == '+');
                }
            }
            Key::Char('/') => self.filtering = true,
            Key::Escape => self.set_filter(String::new()),
            Key::Char('f') => match self.chosen() {
                Some((name, Status::Paused)) => return Wish::Resume(name.clone()),
                Some((name, _)) => return Wish::Pause(name.clone()),
                None => {}
            },
            Key::Enter | Key::Char('e') => match self.chosen() {
                Some((name, Status::Paused)) => {
                    let text = format!("{name} is frozen: f lets it go on");
                    self.tell(&text);
                }
                Some((name, _)) => return Wish::Shell(name.clone()),
                None => {}
            },
            _ => {}
        }
        Wish::Nothing
    }

    fn go_by(&mut self, column: usize) {
        self.sorted = column;
        self.arrange();
    }

    fn edit_filter(&mut self, key: Key) {
        let mut filter = self.filter.clone();
        match key {
            Key::Enter => self.filtering = false,
            Key::Escape => {
                self.filtering = false;
                filter.clear();
            }
            Key::Backspace => {
                filter.pop();
            }
            // What can be in a name.
            Key::Char(c) if c.is_ascii_alphanumeric() || c == '-' => {
                filter.push(c.to_ascii_lowercase());
            }
            _ => {}
        }
        self.set_filter(filter);
    }

    fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.select(self.place());
    }

    /// The screen: so many lines at most, none longer than `columns`.
    pub(super) fn lines(&self, rows: usize, columns: usize) -> Vec<Line> {
        let shown = self.shown();
        let room = rows.saturating_sub(AROUND);
        let all = self.rows(&shown);
        let mut guests = all
            .iter()
            .enumerate()
            .filter(|(_, row)| !matches!(row, Row::Heading(_)));
        let place = guests.nth(self.place()).map_or(0, |(at, _)| at);
        // The window moves when the selected row would leave it.
        let first = (place + 1).saturating_sub(room);
        let texts = table(&all, columns);
        let mut lines = vec![(self.summary(&shown), Look::Bold)];
        let mut texts = texts.into_iter();
        lines.extend(texts.next().map(|heading| (heading, Look::Reverse)));
        let window = texts.enumerate().skip(first).take(room);
        lines.extend(window.map(|(at, text)| {
            let look = match all.get(at) {
                Some(Row::Heading(_)) => Look::Bold,
                _ if at == place => Look::Reverse,
                _ => Look::Plain,
            };
            (text, look)
        }));
        if shown.is_empty() && room > 0 {
            lines.push((self.nothing().to_owned(), Look::Plain));
        }
        let below = AROUND - 1 + room;
        while lines.len() < below {
            lines.push((String::new(), Look::Plain));
        }
        lines.push((self.footer(), Look::Plain));
        lines.truncate(rows);
        let cut = |(text, look): (String, Look)| Line {
            text: text.chars().take(columns).collect::<String>(),
            look,
        };
        lines.into_iter().map(cut).collect()
    }

    /// The same as rows, with a heading for each tenant if they stand below them.
    fn rows<'a>(&self, shown: &'a [&'a Load]) -> Vec<Row<'a>> {
        if !self.is_tree() {
            return shown.iter().map(|load| Row::Guest(load)).collect();
        }
        let same = |one: &&Load, other: &&Load| one.tenant == other.tenant;
        let groups = shown.chunk_by(same).map(|group| {
            let members = group.iter().map(|load| Row::Member(load));
            std::iter::once(Row::Heading(group)).chain(members)
        });
        groups.flatten().collect()
    }

    fn summary(&self, shown: &[&Load]) -> String {
        let cpu = shown.iter().filter_map(|load| load.cpu_percent);
        // The sum of nothing would be a negative zero.
        let cpu = cpu.fold(0.0, |sum, one| sum + one);
        let memory = shown.iter().filter_map(|load| load.memory).sum::<u64>();
        let mut text = format!(
            "guests {}  CPU {cpu:.1}%  memory {}  every {} s  by {}",
            shown.len(),
            short(memory),
            self.every.as_secs_f64(),
            COLUMNS[self.sorted].heading,
        );
        if !self.filter.is_empty() && !self.filtering {
            text += &format!("  filter {}", self.filter);
        }
        text
    }

    fn nothing(&self) -> &'static str {
        match &self.loads {
            None => "measuring",
            Some(loads) if loads.is_empty() => "no guest runs",
            Some(_) => "no guest that runs has that in its name; Esc shows all",
        }
    }

    fn footer(&self) -> String {
        match &self.message {
            _ if self.filtering => format!("/{}_", self.filter),
            Some(message) => message.clone(),
            None => KEYS.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, cpu: f64) -> Load {
        Load {
            time_ms: 1_000_000,
            interval_ms: 2000,
            name: name.parse().unwrap(),
            tenant: None,
            status: Status::Running,
            up_s: 4000,
            cpu_percent: Some(cpu),
            cpu_of_limit_percent: None,
            memory: Some(31 << 20),
            memory_cache: Some(1536),
            memory_limit: Some(512 << 20),
            swap: None,
            received_bytes_s: Some(0),
            sent_bytes_s: Some(1_300_000),
            read_bytes_s: None,
            written_bytes_s: None,
            cpu_some_percent: Some(1.25),
            cpu_full_percent: Some(0.0),
            memory_some_percent: None,
            memory_full_percent: None,
            io_some_percent: None,
            io_full_percent: None,
            processes: Some(5),
            processes_limit: Some(1000),
            tenant_cpu_limit: None,
            tenant_memory_limit: None,
            tenant_processes_limit: None,
        }
    }

    fn view() -> View {
        let mut view = View::new(Duration::from_secs(2));
        let paused = Load {
            status: Status::Paused,
            cpu_of_limit_percent: Some(0.0),
            memory: Some(9 << 20),
            ..load("shop-old", 0.0)
        };
        let fresh = Load {
            cpu_percent: None,
            cpu_some_percent: None,
            cpu_full_percent: None,
            up_s: 0,
            ..load("db", 0.0)
        };
        view.measured(vec![fresh, paused, load("shop", 25.07), load("web", 130.0)]);
        view
    }

    fn text(view: &View, rows: usize, columns: usize) -> String {
        let mark = |look| match look {
            Look::Plain => ' ',
            Look::Bold => '!',
            Look::Reverse => '>',
        };
        let lines = view.lines(rows, columns).into_iter();
        lines
            .map(|line| format!("{}|{}|\n", mark(line.look), line.text))
            .collect()
    }

    fn typed(view: &mut View, keys: &str) -> Wish {
        let mut last = Wish::Nothing;
        for key in keys.chars() {
            last = view.typed(
                if key == '\n' {
                    Key::Enter
                } else {
                    Key::Char(key)
                },
                10,
            );
        }
        last
    }

    /// A golden text beside those of the help.
    fn golden(name: &str, text: &str) {
        insta::with_settings!({
            snapshot_path => "../../tests/snapshots",
            prepend_module_to_snapshot => false,
        }, { insta::assert_snapshot!(name, text) });
    }

    #[test]
    fn the_screen_is_a_sorted_table_with_a_selected_row() {
        let mut view = view();
        golden("top-wide", &text(&view, 10, 170));
        typed(&mut view, "jj");
        golden("top-narrow", &text(&view, 6, 60));
        typed(&mut view, "/Shop_");
        golden("top-filter", &text(&view, 10, 60));
        let mut empty = View::new(Duration::from_millis(500));
        assert!(text(&empty, 10, 60).contains("measuring"));
        empty.measured(Vec::new());
        golden("top-empty", &text(&empty, 6, 200));
    }

    #[test]
    fn guests_stand_below_their_tenants_with_sums() {
        let mut view = view();
        let mut loads = view.loads.clone().unwrap();
        for (load, tenant) in loads
            .iter_mut()
            .zip([None, Some("acme"), Some("acme"), Some("b")])
        {
            load.tenant = tenant.map(|tenant| tenant.parse().unwrap());
            if tenant == Some("acme") {
                load.tenant_cpu_limit = Some(50);
                load.tenant_memory_limit = Some(64 << 20);
            }
        }
        let names: Vec<String> = loads.iter().map(|load| load.name.to_string()).collect();
        assert_eq!(names, ["web", "shop", "shop-old", "db"]);
        view.measured(loads);
        typed(&mut view, "t");
        golden("top-tenants", &text(&view, 12, 120));
        // A heading is nobody who could be selected.
        view.typed(Key::Home, 12);
        let chosen = |view: &View| view.chosen().map(|(name, _)| name.to_string());
        assert_eq!(chosen(&view).as_deref(), Some("shop"));
        typed(&mut view, "jj");
        assert_eq!(chosen(&view).as_deref(), Some("db"));
        let shown = text(&view, 12, 120);
        let row = shown
            .lines()
            .find(|line| line.starts_with('>') && line.contains("db"));
        assert!(row.is_some(), "{shown}");
        // In little room the window goes along.
        view.typed(Key::End, 6);
        assert!(
            text(&view, 6, 120).contains(">|  web"),
            "{}",
            text(&view, 6, 120)
        );
        let name: GuestName = "web".parse().unwrap();
        assert_eq!(typed(&mut view, "+"), Wish::Weigh(name.clone(), true));
        assert_eq!(typed(&mut view, "-"), Wish::Weigh(name, false));
    }

    #[test]
    fn no_size_is_too_small() {
        let view = view();
        for rows in 0..6 {
            for columns in [0, 1, 80] {
                let lines = view.lines(rows, columns);
                assert_eq!(lines.len(), rows, "{rows}");
                assert!(lines.iter().all(|line| line.text.len() <= columns));
            }
        }
    }

    #[test]
    fn the_selection_stays_with_its_guest_and_then_with_its_place() {
        let mut view = view();
        typed(&mut view, "j");
        let chosen = |view: &View| view.chosen().map(|(name, _)| name.to_string());
        assert_eq!(chosen(&view).as_deref(), Some("shop"));
        view.measured(vec![load("web", 1.0), load("shop", 0.5), load("db", 99.0)]);
        assert_eq!((chosen(&view).as_deref(), view.place()), (Some("shop"), 2));
        view.measured(vec![load("web", 1.0), load("db", 99.0)]);
        assert_eq!(chosen(&view).as_deref(), Some("web"));
        view.measured(Vec::new());
        assert_eq!(
            (chosen(&view), typed(&mut view, "f")),
            (None, Wish::Nothing)
        );
    }

    #[test]
    fn keys_sort_filter_and_ask() {
        let name = |text: &str| text.parse::<GuestName>().unwrap();
        let mut view = view();
        assert_eq!(typed(&mut view, "f"), Wish::Pause(name("web")));
        assert_eq!(typed(&mut view, "\n"), Wish::Shell(name("web")));
        // Up from the column of the CPU to that of the names; the selection goes along.
        typed(&mut view, "<<");
        let first = |view: &View| view.shown()[0].name.to_string();
        assert_eq!((first(&view), view.place()), ("db".to_owned(), 3));
        assert_eq!(view.typed(Key::Home, 10), Wish::Nothing);
        assert_eq!(typed(&mut view, "e"), Wish::Shell(name("db")));
        typed(&mut view, "<");
        assert_eq!(COLUMNS[view.sorted].heading, "TENANT");
        typed(&mut view, "s");
        // In a filter keys are letters.
        assert_eq!(typed(&mut view, "/old\nf"), Wish::Resume(name("shop-old")));
        assert_eq!(typed(&mut view, "e"), Wish::Nothing);
        assert!(text(&view, 10, 80).contains("shop-old is frozen"));
        view.typed(Key::Escape, 10);
        assert_eq!(view.shown().len(), 4);
        assert_eq!(typed(&mut view, "/q"), Wish::Nothing);
        assert_eq!(view.typed(Key::Interrupt, 10), Wish::Quit);
        view.typed(Key::Escape, 10);
        assert_eq!(typed(&mut view, "q"), Wish::Quit);
    }

    #[test]
    fn what_is_told_cannot_steer_the_terminal() {
        let mut view = view();
        view.tell("error:\u{1b}[2J a\nb");
        let told = view.lines(10, 80).pop().unwrap();
        assert_eq!(told.text, "error: a b");
    }
}
