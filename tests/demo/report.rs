//! The table at the end.

use std::fmt;

use crate::tool::Result;

/// What every step did.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    bytes: u64,
    seconds: f64,
    /// Of a backup: bytes read, new and stored.
    backup: Option<[u64; 3]>,
    repository_bytes: u64,
}

impl Report {
    /// A step that moved `bytes`.
    pub(crate) fn add(&mut self, what: &str, bytes: u64, result: &Result) {
        self.rows.push(Row {
            what: what.to_owned(),
            bytes,
            seconds: result.seconds,
            backup: None,
            repository_bytes: result.repository_bytes,
        });
    }

    pub(crate) fn backup(&mut self, what: &str, result: &Result) {
        self.add(&format!("backup: {what}"), result.number("allocated_bytes"), result);
        if let Some(row) = self.rows.last_mut() {
            let names = ["read_bytes", "new_bytes", "stored_bytes"];
            row.backup = Some(names.map(|name| result.number(name)));
        }
    }

    /// What the last backup found new.
    pub(crate) fn last_new_bytes(&self) -> u64 {
        self.rows.iter().rev().find_map(|row| row.backup).map_or(0, |[_, new, _]| new)
    }
}

/// Below this a command's time is that of starting it.
const RATED_BYTES_MIN: u64 = 1 << 20;

const WIDTHS: [usize; 10] = [36, 10, 8, 12, 10, 10, 10, 6, 11, 12];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header =
            ["", "data", "time", "rate", "read", "new", "stored", "ratio", "repository", "growth"];
        write_row(f, &header.map(str::to_owned))?;
        let mut before = 0;
        for row in &self.rows {
            let mut cells = [const { String::new() }; 10];
            cells[0].clone_from(&row.what);
            cells[1] = bytes(row.bytes);
            cells[2] = format!("{:.1} s", row.seconds);
            if row.bytes >= RATED_BYTES_MIN {
                cells[3] = format!("{}/s", bytes(rate(row.bytes, row.seconds)));
            }
            if let Some([read, new, stored]) = row.backup {
                [cells[4], cells[5], cells[6]] = [read, new, stored].map(bytes);
                if stored > 0 {
                    cells[7] = format!("{:.2}", quotient(new, stored));
                }
            }
            cells[8] = bytes(row.repository_bytes);
            cells[9] = match row.repository_bytes.cmp(&before) {
                std::cmp::Ordering::Less => format!("-{}", bytes(before - row.repository_bytes)),
                std::cmp::Ordering::Equal => "none".to_owned(),
                std::cmp::Ordering::Greater => format!("+{}", bytes(row.repository_bytes - before)),
            };
            before = row.repository_bytes;
            write_row(f, &cells)?;
        }
        let logical: u64 =
            self.rows.iter().filter(|row| row.backup.is_some()).map(|row| row.bytes).sum();
        let most = self.rows.iter().map(|row| row.repository_bytes).max().unwrap_or(0);
        writeln!(
            f,
            "\n{} backed up in all took {} in the repository at most: {:.1} times less.\n\
             data: what the snapshot holds, or what was written, read or deleted. time: the whole\n\
             command, with the passphrase stretched and the page cache as it was.",
            bytes(logical),
            bytes(most),
            quotient(logical, most)
        )
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, cells: &[String; 10]) -> fmt::Result {
    write!(f, "{:<width$}", cells[0], width = WIDTHS[0])?;
    for (cell, width) in cells.iter().zip(WIDTHS).skip(1) {
        write!(f, "{cell:>width$}")?;
    }
    writeln!(f)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn quotient(whole: u64, part: u64) -> f64 {
    whole as f64 / part.max(1) as f64
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people"
)]
fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

/// As people read it, three digits or more.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.2} GiB")
}
