//! Where in a TOML document something stands, for whoever is told that it is wrong.

use toml::de::{DeTable, DeValue};

/// The number of the line on which `text` ends, from 1.
pub fn line_at_end(text: &[u8]) -> usize {
    text.iter().filter(|octet| **octet == b'\n').count() + 1
}

/// The position at which the value at `path` begins; where its section begins, if the value is a default; else the beginning. A number
/// counts the entries of a list, from 0.
pub fn position_of(document: &DeTable<'_>, path: &[&str]) -> usize {
    let mut parts = path.iter();
    let Some(mut value) = parts.next().and_then(|part| document.get(*part)) else {
        return 0;
    };
    for part in parts {
        let inner = if let DeValue::Table(table) = value.get_ref() {
            table.get(*part)
        } else if let DeValue::Array(list) = value.get_ref() {
            part.parse().ok().and_then(|i: usize| list.get(i))
        } else {
            None
        };
        match inner {
            Some(inner) => value = inner,
            None => break,
        }
    }
    value.span().start
}
