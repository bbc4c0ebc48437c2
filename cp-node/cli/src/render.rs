//! How answers are shown.

use clap::ValueEnum;
use serde_json::Value;

/// How answers are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For files.
    Yaml,
}

/// A value as JSON or YAML; as YAML too where no table was meant.
pub(crate) fn value(value: &Value, format: Format) -> String {
    match format {
        Format::Json => format!("{value:#}\n"),
        Format::Yaml | Format::Table => match serde_saphyr::to_string(value) {
            Ok(mut text) => {
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                text
            }
            Err(_) => format!("{value:#}\n"),
        },
    }
}

/// What was done: a line for people, an object for programs.
pub(crate) fn done(line: &str, members: &Value, format: Format) -> String {
    match format {
        Format::Table => format!("{line}\n"),
        _ => value(members, format),
    }
}

/// Rows under a head, in columns as wide as what stands in them.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(head.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// A field of an answer as a cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [vec!["r1".to_owned(), "/a".to_owned()], vec!["a-long-id".to_owned(), "-".to_owned()]];
        assert_eq!(table(&["ID", "URI"], &rows), "ID         URI\nr1         /a\na-long-id  -\n");
    }
}
