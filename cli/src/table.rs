//! Columns for people: text to the left, numbers to the right. Never decides what is in them.

use std::fmt;

/// Between columns.
const GAP: &str = "  ";

/// Rows under a head. Every row has a cell for each column.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head and no rows.
    pub(crate) fn new<T: Into<String>>(head: impl IntoIterator<Item = T>) -> Self {
        Self { rows: vec![head.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells: Vec<_> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.rows[0].len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    fn width(&self, column: usize) -> usize {
        self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    }

    /// Whether all cells below the head are numbers, or shares.
    fn is_numeric(&self, column: usize) -> bool {
        let is_number = |row: &Vec<String>| row[column].trim_end_matches('%').parse::<f64>().is_ok();
        self.rows.len() > 1 && self.rows[1..].iter().all(is_number)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = |column| (self.width(column), self.is_numeric(column));
        let columns: Vec<_> = (0..self.rows[0].len()).map(shape).collect();
        for row in &self.rows {
            let cell = |(text, &(width, is_numeric)): (&String, &(usize, bool))| {
                if is_numeric { format!("{text:>width$}") } else { format!("{text:<width$}") }
            };
            let cells: Vec<_> = row.iter().zip(&columns).map(cell).collect();
            writeln!(f, "{}", cells.join(GAP).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut table = Table::new(["node", "keys"]);
        table.row(["a", "7"]);
        table.row(["longer", "1000"]);
        assert_eq!(table.to_string(), "node    keys\na          7\nlonger  1000\n");
    }
}
