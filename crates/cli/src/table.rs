//! Tables as text. On a terminal, text columns are cut and the least important columns left out until a row fits.

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Left-aligned; cut in the middle where the table is too wide, but to no less than so many characters.
    Text(usize),
    /// Right-aligned, never cut.
    Number,
}

/// Rows under headings.
#[derive(Debug, Default)]
pub struct Table {
    headings: Vec<(&'static str, Column)>,
    rows: Vec<Vec<String>>,
}

const GAP: usize = 2;

impl Table {
    /// A table without rows.
    pub fn new(headings: Vec<(&'static str, Column)>) -> Table {
        Table { headings, rows: Vec::new() }
    }

    /// Adds a row with one cell for each heading.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Leaves out columns, the first of `order` first, until the others fit `width` columns of the terminal; gives
    /// the headings of those left out.
    pub fn leave_out(&mut self, order: &[&str], width: usize) -> Vec<&'static str> {
        let mut left_out = Vec::new();
        for &heading in order {
            let found = self.headings.iter().position(|row| row.0 == heading);
            if let Some(idx) = found.filter(|_| total(&self.least_widths()) > width) {
                left_out.push(self.headings.remove(idx).0);
                self.rows.iter_mut().for_each(|row| drop(row.remove(idx)));
            }
        }
        left_out
    }

    /// The table as lines; `width` is that of the terminal, if there is one.
    pub fn render(&self, width: Option<usize>) -> String {
        let mut widths = self.widths();
        let least = self.least_widths();
        while width.is_some_and(|width| total(&widths) > width) {
            match (0..widths.len()).filter(|&idx| widths[idx] > least[idx]).max_by_key(|&idx| widths[idx]) {
                Some(idx) => widths[idx] -= 1,
                None => break,
            }
        }
        let headings: Vec<String> = self.headings.iter().map(|heading| heading.0.to_owned()).collect();
        let rows = std::iter::once(&headings).chain(&self.rows);
        rows.map(|row| self.line(row, &widths)).collect()
    }

    /// Characters of the longest cell of each column.
    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headings.iter().map(|heading| heading.0.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn least_widths(&self) -> Vec<usize> {
        let least = |(width, heading): (usize, &(&str, Column))| match heading.1 {
            Column::Text(least) => width.min(least),
            Column::Number => width,
        };
        self.widths().into_iter().zip(&self.headings).map(least).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).zip(&self.headings).map(|((cell, &width), heading)| match heading.1 {
            Column::Text(_) => format!("{:<width$}", cut(cell, width)),
            Column::Number => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<String>>().join(&" ".repeat(GAP));
        format!("{}\n", line.trim_end())
    }
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

/// The text, with its middle left out where it is longer than `width` characters.
fn cut(text: &str, width: usize) -> String {
    let n_chars = text.chars().count();
    if n_chars <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let n_head = kept / 4; // The end of a tensor's name says more than its start.
    let head: String = text.chars().take(n_head).collect();
    let tail: String = text.chars().skip(n_chars - (kept - n_head)).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts() {
        let check = |text: &str, width: usize, expected: &str| assert_eq!(cut(text, width), expected);
        check("abcdef", 6, "abcdef");
        check("abcdefghij", 9, "ab…efghij");
        check("abcdef", 4, "…def");
        check("äöüß", 3, "…üß");
        check("abc", 0, "…");
    }

    #[test]
    fn fits_the_width() {
        let headings = vec![("tensor", Column::Text(12)), ("coder", Column::Text(8)), ("bits", Column::Number)];
        let mut table = Table::new(headings);
        table.push(vec!["model.layers.0.self_attn.q_proj.weight".into(), "half 6: raw + rans8".into(), "10.62".into()]);
        assert!(table.render(Some(40)).lines().all(|line| line.chars().count() <= 40), "{}", table.render(Some(40)));
        assert!(table.render(None).contains("model.layers.0.self_attn.q_proj.weight"));
        assert_eq!(table.leave_out(&["coder", "bits"], 40), [""; 0]);
        assert_eq!(table.leave_out(&["coder", "bits"], 20), ["coder"]);
        assert!(table.render(Some(20)).lines().all(|line| line.chars().count() <= 20), "{}", table.render(Some(20)));
        assert_eq!(table.render(Some(1)).lines().count(), 2);
    }
}
