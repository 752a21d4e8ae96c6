//! One Markdown file: its links, its headings, and the names that it quotes.

/// A Markdown file.
///
/// ```
/// let page = afflux_tidy::Page::new("docs/a.md", "# Big *Words* 2\nsee [b](b.md#x) and `framework/wire`\n");
/// assert_eq!(page.links(), [(2, "b.md#x")]);
/// assert_eq!(page.anchors(), ["big-words-2"]);
/// assert_eq!(page.quoted(), [(2, "framework/wire")]);
/// ```
#[derive(Debug)]
pub struct Page {
    /// Its path below the root.
    pub path: String,
    /// Its lines; those of code blocks are empty.
    lines: Vec<String>,
}

impl Page {
    /// Reads it.
    pub fn new(path: &str, text: &str) -> Self {
        let mut fenced = false;
        let lines = text
            .lines()
            .map(|line| {
                let fence = line.trim_start().starts_with("```");
                fenced ^= fence;
                if fenced || fence { String::new() } else { line.to_owned() }
            })
            .collect();
        Self { path: path.to_owned(), lines }
    }

    /// The targets of its links, each with its line counted from 1.
    pub fn links(&self) -> Vec<(usize, &str)> {
        let targets = |line: &'_ str| -> Vec<(usize, usize)> {
            let mut found = Vec::new();
            let mut from = 0;
            while let Some(at) = line.get(from..).and_then(|rest| rest.find("](")) {
                let start = from + at + 2;
                let Some(length) = line.get(start..).and_then(|rest| rest.find(')')) else { break };
                found.push((start, start + length));
                from = start + length;
            }
            found
        };
        let numbered = self.lines.iter().zip(1..);
        numbered
            .flat_map(|(line, number)| {
                targets(line)
                    .into_iter()
                    .filter_map(move |(start, end)| Some((number, line.get(start..end)?)))
            })
            .collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        self.lines.iter().filter_map(|line| anchor(line)).collect()
    }

    /// What it has between single backticks, each with its line counted from 1.
    pub fn quoted(&self) -> Vec<(usize, &str)> {
        let numbered = self.lines.iter().zip(1..);
        numbered
            .flat_map(|(line, number)| line.split('`').skip(1).step_by(2).map(move |q| (number, q)))
            .collect()
    }
}

/// The anchor of a line that is a heading.
fn anchor(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#');
    if title.len() == line.len() || !title.starts_with(' ') {
        return None;
    }
    let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect())
}
