//! An aligned table: two spaces between columns, none at the end of a line.

use std::fmt::Write;

/// A table that is filled row by row.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned)] }
    }

    /// A table whose first column names what the others hold.
    pub(crate) const fn headless() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. An empty cell is written as `-`, so that columns can be counted by programs.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }

    pub(crate) fn render(&self) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                // Writing to a String cannot fail.
                let _infallible = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_aligned_and_lines_end_with_ink() {
        let mut table = Table::new(["NAME", "BRIDGE", "FILE"]);
        table.row(["a-long-name".to_owned(), String::new(), "/x".to_owned()]);
        table.row(["ü".to_owned(), "br0".to_owned(), String::new()]);
        let expected = "\
NAME         BRIDGE  FILE
a-long-name  -       /x
ü            br0     -
";
        assert_eq!(table.render(), expected);
    }
}
