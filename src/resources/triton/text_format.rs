//! Protocol Buffers' text format, as far as a model configuration needs it.

use std::fmt::Write as _;

/// Writes one message, a field a line.
#[derive(Debug, Default)]
pub(super) struct TextFormat {
    text: String,
    depth: usize,
}

impl TextFormat {
    /// A string field, escaped.
    pub(super) fn string(&mut self, field: &str, value: &str) {
        self.line(&format!("{field}: {}", quoted(value)));
    }

    /// A number.
    pub(super) fn number(&mut self, field: &str, value: impl Into<u128>) {
        self.line(&format!("{field}: {}", value.into()));
    }

    /// A value of an enum, by its name.
    pub(super) fn name(&mut self, field: &str, value: &'static str) {
        self.line(&format!("{field}: {value}"));
    }

    /// A message, whose fields `write` adds.
    pub(super) fn message(&mut self, field: &str, write: impl FnOnce(&mut Self)) {
        self.line(&format!("{field} {{"));
        self.depth += 1;
        write(self);
        self.depth -= 1;
        self.line("}");
    }

    /// A comment, of one line.
    pub(super) fn comment(&mut self, comment: &'static str) {
        self.line(&format!("# {comment}"));
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: &str) {
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "{:width$}{line}", "", width = self.depth * 2);
    }
}

/// A string literal. Bytes that are not printable ASCII are written in octal, which every parser of the format reads.
fn quoted(value: &str) -> String {
    let mut literal = String::with_capacity(value.len() + 2);
    literal.push('"');
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => literal.extend(['\\', char::from(byte)]),
            b' '..=b'~' => literal.push(char::from(byte)),
            _ => {
                let _ = write!(literal, "\\{byte:03o}");
            }
        }
    }
    literal.push('"');
    literal
}
