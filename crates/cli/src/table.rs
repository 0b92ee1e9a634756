//! Tables as text. On a terminal, columns that may be cut give way until a row fits its width.

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Left-aligned; cut in the middle where the table is too wide.
    Text,
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
const MIN_TEXT: usize = 8;

impl Table {
    /// A table without rows.
    pub fn new(headings: Vec<(&'static str, Column)>) -> Table {
        Table { headings, rows: Vec::new() }
    }

    /// Adds a row with one cell for each heading.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The table as lines; `width` is that of the terminal, if there is one.
    pub fn render(&self, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = self.headings.iter().map(|heading| heading.0.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if let Some(width) = width {
            self.shrink(&mut widths, width);
        }
        let headings: Vec<String> = self.headings.iter().map(|heading| heading.0.to_owned()).collect();
        let rows = std::iter::once(&headings).chain(&self.rows);
        rows.map(|row| self.line(row, &widths)).collect()
    }

    fn shrink(&self, widths: &mut [usize], width: usize) {
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > width {
            let texts = (0..widths.len()).filter(|&idx| self.headings[idx].1 == Column::Text && widths[idx] > MIN_TEXT);
            match texts.max_by_key(|&idx| widths[idx]) {
                Some(idx) => widths[idx] -= 1,
                None => break,
            }
        }
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).zip(&self.headings).map(|((cell, &width), heading)| match heading.1 {
            Column::Text => format!("{:<width$}", cut(cell, width)),
            Column::Number => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<String>>().join(&" ".repeat(GAP));
        format!("{}\n", line.trim_end())
    }
}

/// The text, with its middle left out where it is longer than `width` characters.
fn cut(text: &str, width: usize) -> String {
    let n_chars = text.chars().count();
    if n_chars <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let head: String = text.chars().take(kept / 2).collect();
    let tail: String = text.chars().skip(n_chars - (kept - kept / 2)).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts() {
        let check = |text: &str, width: usize, expected: &str| assert_eq!(cut(text, width), expected);
        check("abcdef", 6, "abcdef");
        check("abcdef", 5, "ab…ef");
        check("abcdef", 4, "a…ef");
        check("äöüß", 3, "ä…ß");
        check("abc", 0, "…");
    }

    #[test]
    fn fits_the_width() {
        let mut table = Table::new(vec![("tensor", Column::Text), ("coder", Column::Text), ("bits", Column::Number)]);
        table.push(vec!["model.layers.0.self_attn.q_proj.weight".into(), "half 6: raw + rans8".into(), "10.62".into()]);
        assert!(table.render(Some(40)).lines().all(|line| line.chars().count() <= 40), "{}", table.render(Some(40)));
        assert!(table.render(None).contains("model.layers.0.self_attn.q_proj.weight"));
        assert_eq!(table.render(Some(1)).lines().count(), 2);
    }
}
