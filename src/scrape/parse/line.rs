//! One line of Prometheus' text format (0.0.4), read where it lies: nothing is copied but labels with escapes.

use std::borrow::Cow;

/// A series and its value. A timestamp after it is not read: the time of the scrape counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample<'a> {
    /// The metric's name.
    pub(super) name: &'a str,
    /// What stands between the braces; well formed.
    labels: &'a str,
    /// The value.
    pub(super) value: f64,
}

/// A label: its name, and its value as it is written.
type Label<'a> = (&'a str, &'a str);

/// The metric's name that a line begins with; empty where it begins with none.
pub(super) fn name(line: &str) -> &str {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    let end = line.bytes().position(|byte| !is_part(byte)).unwrap_or(line.len());
    line.get(..end).unwrap_or_default()
}

impl<'a> Sample<'a> {
    /// Reads a line without blanks around it; none where it is no sample.
    pub(super) fn read(line: &'a str) -> Option<Self> {
        let name = name(line);
        if name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        let rest = trimmed(&line[name.len()..]);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            // Without braces a blank has to stand between name and value.
            None if rest.len() < line.len() - name.len() => ("", rest),
            None => return None,
        };
        let value = trimmed(rest).split([' ', '\t']).next()?;
        Some(Self { name, labels, value: value.parse().ok()? })
    }

    /// The value of a label.
    pub(super) fn label(&self, name: &str) -> Option<Cow<'a, str>> {
        self.labels().find(|(known, _)| *known == name).map(|(_, value)| unescaped(value))
    }

    /// All labels, in the order in which they stand there.
    pub(super) fn labels(&self) -> impl Iterator<Item = Label<'a>> + use<'a> {
        let mut rest = self.labels;
        std::iter::from_fn(move || {
            let (found, after) = label(rest)?;
            rest = after;
            Some(found)
        })
    }
}

/// What stands before the closing brace, and what after it.
fn labels(text: &str) -> Option<(&str, &str)> {
    let mut rest = trimmed(text);
    while !rest.starts_with('}') {
        rest = label(rest)?.1;
    }
    Some((&text[..text.len() - rest.len()], &rest[1..]))
}

/// The first label, and what follows it and its comma.
fn label(text: &str) -> Option<(Label<'_>, &str)> {
    let name = name(trimmed(text));
    let rest = trimmed(&trimmed(text)[name.len()..]).strip_prefix('=')?;
    let rest = trimmed(rest).strip_prefix('"')?;
    let mut escaped = false;
    let end = rest.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let after = trimmed(&rest[end + 1..]);
    let next = match after.strip_prefix(',') {
        Some(next) => trimmed(next),
        None if after.is_empty() || after.starts_with('}') => after,
        None => return None,
    };
    (!name.is_empty()).then_some(((name, &rest[..end]), next))
}

fn trimmed(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// A value without its escapes: `\\`, `\"` and `\n`.
fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => {}
            },
            (other, false) => plain.push(other),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_as_the_format_allows_them() {
        for (line, name, labels, value) in [
            ("a 1", "a", &[][..], 1.0),
            ("a\t1.5e3 1700000000000", "a", &[], 1500.0),
            ("a:b_9{} 2", "a:b_9", &[], 2.0),
            ("a{x=\"1\"} +Inf", "a", &[("x", "1")], f64::INFINITY),
            ("a { x = \"1\" , y=\"2\", } 3", "a", &[("x", "1"), ("y", "2")], 3.0),
            ("a{x=\"1\"}4", "a", &[("x", "1")], 4.0),
            // What only an exact reader gets right: the signs of the format within a value.
            ("a{x=\"1,y=}2{\",z=\"\"} 5", "a", &[("x", "1,y=}2{"), ("z", "")], 5.0),
            (r#"a{x="say \"no\\yes\"\n"} 6"#, "a", &[("x", "say \"no\\yes\"\n")], 6.0),
        ] {
            let sample = Sample::read(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((sample.name, sample.value), (name, value), "{line}");
            let found: Vec<_> = sample.labels().map(|(name, value)| (name, unescaped(value).into_owned())).collect();
            let expected: Vec<_> = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            assert_eq!(found, expected, "{line}");
        }
        assert!(Sample::read("a NaN").is_some_and(|sample| sample.value.is_nan()));
    }

    #[test]
    fn what_is_no_sample() {
        for line in [
            "",
            "1a 2",
            "{x=\"1\"} 2",
            "a",
            "a ",
            "a many",
            "a{x=\"1\"}",
            "a{x=\"1\" 2",
            "a{x=1} 2",
            "a{x} 2",
            "a{=\"1\"} 2",
            "a{x=\"1\"y=\"2\"} 3",
            "a{x=\"1} 2",
            "a{x=\"1\\\"} 2",
            "a{,} 1",
            "a-b 1",
            "ä 1",
            "a\u{a0}1",
        ] {
            assert_eq!(Sample::read(line), None, "{line}");
        }
    }
}
