//! The comparison as a table for people.

use std::fmt::{Display, Formatter, Result, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::compare::Row;
use crate::measure::{PAYLOADS, Placement, Shape, Who, size_name};

/// A table for round trips and one for messages one way, as far as there are rows.
pub fn of(rows: &[Row]) -> String {
    let mut text = String::new();
    for shape in Shape::ALL {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.bench == shape).collect();
        if rows.is_empty() {
            continue;
        }
        let title = match shape {
            Shape::RoundTrip => "Round trip: median, and 99 of 100 within",
            Shape::OneWay => "One way: per message, median of batches, and 99 of 100 batches within",
        };
        writeln!(text, "{title}\n{}\n", table(&rows)).expect("a String takes everything");
    }
    text
}

fn table(rows: &[&Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "", "kinfolk", "p99", "pipe", "p99", "socket", "p99", "pipe /", "socket /"]);
    for placement in Placement::ALL {
        for payload in PAYLOADS {
            let find = |who| {
                let wanted = |row: &&&Row| (row.placement, row.payload_bytes, row.who) == (placement, payload, who);
                rows.iter().find(wanted)
            };
            let [kinfolk, pipe, socket] = Who::ALL.map(find);
            if [kinfolk, pipe, socket].iter().all(Option::is_none) {
                continue;
            }
            let mut cells = vec![Cell::new(placement.name()), right(size_name(payload))];
            for row in [kinfolk, pipe, socket] {
                cells.push(right(row.map_or(String::new(), |row| Time(row.median_ns).to_string())));
                cells.push(right(row.map_or(String::new(), |row| Time(row.p99_ns).to_string())));
            }
            for other in [pipe, socket] {
                let ratio = kinfolk.zip(other).map(|(kinfolk, other)| other.median_ns / kinfolk.median_ns);
                cells.push(right(ratio.map_or(String::new(), |ratio| format!("{ratio:.1}"))));
            }
            table.add_row(cells);
        }
    }
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// Nanoseconds with three digits and a unit.
pub struct Time(pub f64);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (value, unit) = match self.0 {
            ns if ns < 999.5 => (ns, "ns"),
            ns if ns < 999.5e3 => (ns / 1e3, "us"),
            ns if ns < 999.5e6 => (ns / 1e6, "ms"),
            ns => (ns / 1e9, "s"),
        };
        let decimals = match value {
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        write!(f, "{value:.decimals$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let shown = |ns: f64| Time(ns).to_string();
        assert_eq!([shown(1.234), shown(12.34), shown(999.4)], ["1.23 ns", "12.3 ns", "999 ns"]);
        assert_eq!([shown(999.6), shown(42_000.0), shown(1.5e6)], ["1.00 us", "42.0 us", "1.50 ms"]);
    }
}
