//! The live view of `lpm top`.

use std::{thread, time::Duration};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Alignment, Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Cell, Paragraph, Row, Table as Widget, TableState},
};
use tokio::sync::mpsc;

use super::{
    snapshot::{Snapshot, Source},
    table::{Sort, Tab, Table, table},
};
use crate::{
    cli::{show, signals},
    session::Notice,
};

/// State of the view between two drawings.
struct View {
    tab: Tab,
    sort: Sort,
    paused: bool,
    selected: TableState,
    /// Text of the last event.
    status: String,
}

/// An action that a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Draw,
    Quit,
}

/// Restores the terminal when dropped, also after a panic.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows snapshots until the user quits.
pub(super) async fn run(
    mut source: Source,
    mut notices: mpsc::UnboundedReceiver<Notice>,
    end: &mut signals::End,
    every: Duration,
    tab: Tab,
    sort: Sort,
) -> anyhow::Result<()> {
    let mut snapshot = source.look(None)?;
    let mut view = View {
        tab,
        sort,
        paused: false,
        selected: TableState::default(),
        status: String::new(),
    };
    let mut screen = Screen(ratatui::try_init()?);
    let mut keys = keys();
    let mut ticks = tokio::time::interval(every);
    loop {
        screen.0.draw(|frame| view.draw(frame, &snapshot))?;
        tokio::select! {
            _ = ticks.tick() => {
                if !view.paused {
                    snapshot = source.look(Some(&snapshot))?;
                }
            }
            Some(event) = keys.recv() => {
                if view.handle(&event) == Wish::Quit {
                    return Ok(());
                }
            }
            Some(notice) = notices.recv() => view.status = show::cell(&notice.to_string()),
            () = end.wait() => return Ok(()),
        }
    }
}

/// Reads the keyboard in a thread of its own, which ends with the process.
fn keys() -> mpsc::UnboundedReceiver<Event> {
    let (sender, keys) = mpsc::unbounded_channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    keys
}

impl View {
    fn handle(&mut self, event: &Event) -> Wish {
        let Event::Key(KeyEvent {
            code,
            modifiers,
            kind: KeyEventKind::Press,
            ..
        }) = event
        else {
            return Wish::Draw;
        };
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('1') => self.show(Tab::Flows),
            KeyCode::Char('2') => self.show(Tab::Namespaces),
            KeyCode::Char('3') => self.show(Tab::Links),
            KeyCode::Tab => self.show(match self.tab {
                Tab::Flows => Tab::Namespaces,
                Tab::Namespaces => Tab::Links,
                Tab::Links => Tab::Flows,
            }),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::Char('j') => self.selected.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.selected.select_previous(),
            KeyCode::PageDown => self.selected.scroll_down_by(20),
            KeyCode::PageUp => self.selected.scroll_up_by(20),
            KeyCode::Home => self.selected.select_first(),
            KeyCode::End => self.selected.select_last(),
            _ => {}
        }
        Wish::Draw
    }

    fn show(&mut self, tab: Tab) {
        self.tab = tab;
        self.selected.select(None);
    }

    fn draw(&mut self, frame: &mut Frame<'_>, snapshot: &Snapshot) {
        let [head, body, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(snapshot), head);
        let shown = table(snapshot, self.tab, self.sort);
        if shown.rows.is_empty() {
            let text = match self.tab {
                Tab::Flows => "no active TCP flow with timestamps has been seen yet",
                Tab::Namespaces => "no round trip has been measured yet",
                Tab::Links => "no interface is watched; `lpm check` lists the interfaces",
            };
            frame.render_widget(Paragraph::new(text), body);
        } else {
            frame.render_stateful_widget(widget(&shown), body, &mut self.selected);
        }
        frame.render_widget(self.foot(), foot);
    }

    fn head(&self, snapshot: &Snapshot) -> Line<'_> {
        let tab = |name: &'static str, tab| {
            let style = if tab == self.tab {
                Style::new().add_modifier(Modifier::REVERSED)
            } else {
                Style::new()
            };
            Span::styled(name, style)
        };
        let counts = format!(
            "   {} flows, {} interfaces, sorted by {}{}",
            snapshot.flows.len(),
            snapshot.links.len(),
            self.sort.as_str(),
            if self.paused { ", paused" } else { "" },
        );
        Line::from(vec![
            Span::styled(
                "lpm ",
                Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD),
            ),
            tab(" 1 flows ", Tab::Flows),
            tab(" 2 namespaces ", Tab::Namespaces),
            tab(" 3 links ", Tab::Links),
            Span::raw(counts),
        ])
    }

    fn foot(&self) -> Line<'_> {
        let keys = "q quit  tab next  s sort  p pause  arrows scroll";
        let status = if self.status.is_empty() {
            String::new()
        } else {
            format!("   {}", self.status)
        };
        Line::from(vec![Span::raw(keys), Span::raw(status)]).style(Style::new().fg(Color::DarkGray))
    }
}

fn widget(shown: &Table) -> Widget<'static> {
    let widths: Vec<Constraint> = shown
        .widths()
        .into_iter()
        .map(|width| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)))
        .collect();
    let cell = |text: String, right: bool| {
        let alignment = if right {
            Alignment::Right
        } else {
            Alignment::Left
        };
        Cell::from(Text::from(text).alignment(alignment))
    };
    let headings = shown
        .headings
        .iter()
        .map(|(heading, right)| cell((*heading).to_owned(), *right));
    let rows = shown.rows.iter().map(|row| {
        let cells = row.iter().zip(&shown.headings);
        Row::new(
            cells
                .map(|(text, (_, right))| cell(text.clone(), *right))
                .collect::<Vec<_>>(),
        )
    });
    Widget::new(rows.collect::<Vec<_>>(), widths)
        .header(Row::new(headings.collect::<Vec<_>>()).style(Style::new().fg(Color::Yellow)))
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}
