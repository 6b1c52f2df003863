//! JSON text (RFC 8259) -> nodes; several values may follow one another, as `kubectl` allows.

use super::node::{Entry, MAX_DEPTH, MAX_NODES, Node, Number, SyntaxError, Value};

/// Reads every value of the text.
///
/// # Errors
/// The first fault of the text, a nesting deeper than [`MAX_DEPTH`], or more values than [`MAX_NODES`].
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    parse_at_most(text, MAX_NODES)
}

/// The same, with a limit of its own on the number of values.
///
/// # Errors
/// As for [`parse`].
pub(crate) fn parse_at_most(text: &str, max_nodes: usize) -> Result<Vec<Node>, SyntaxError> {
    let mut reader = Reader { text, at: 0, line: 1, depth: 0, nodes_left: max_nodes, max_nodes };
    let mut documents = Vec::new();
    loop {
        reader.skip_space();
        if reader.at == text.len() {
            return Ok(documents);
        }
        let document = reader.value()?;
        if !document.is_null() {
            documents.push(document);
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    depth: usize,
    nodes_left: usize,
    max_nodes: usize,
}

impl Reader<'_> {
    fn error<T>(&self, message: &str) -> Result<T, SyntaxError> {
        Err(SyntaxError::new(self.line, format!("not JSON: {message}")))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.line = self.line.saturating_add(u32::from(byte == b'\n'));
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        self.skip_space();
        let Some(left) = self.nodes_left.checked_sub(1) else {
            return Err(SyntaxError::new(self.line, format!("more than {} values in one file", self.max_nodes)));
        };
        self.nodes_left = left;
        let line = self.line;
        let value = match self.peek() {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::array)?,
            Some(b'"') => Value::Text(self.string()?.into()),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Value::Bool { value: true, written: "true".into() })?,
            Some(b'f') => self.word("false", Value::Bool { value: false, written: "false".into() })?,
            Some(b'n') => self.word("null", Value::Null)?,
            Some(_) => return self.error("no value begins with this character"),
            None => return self.error("the text ends where a value is due"),
        };
        Ok(Node { line, value })
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, SyntaxError>) -> Result<Value, SyntaxError> {
        if self.depth >= MAX_DEPTH {
            return Err(SyntaxError::new(self.line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        let mut entries = Vec::new();
        if self.ends(b'}') {
            return Ok(Value::Mapping(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.error("a key in double quotes is due here");
            }
            let line = self.line;
            let key = self.string()?.into();
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.error("\":\" is due after a key");
            }
            self.at += 1;
            entries.push(Entry { key, line, value: self.value()? });
            if self.ends(b'}') {
                return Ok(Value::Mapping(entries));
            }
            self.comma("\",\" or \"}\" is due here")?;
        }
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        if self.ends(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value()?);
            if self.ends(b']') {
                return Ok(Value::List(items));
            }
            self.comma("\",\" or \"]\" is due here")?;
        }
    }

    fn ends(&mut self, bracket: u8) -> bool {
        self.skip_space();
        let ends = self.peek() == Some(bracket);
        self.at += usize::from(ends);
        ends
    }

    fn comma(&mut self, due: &str) -> Result<(), SyntaxError> {
        if self.peek() != Some(b',') {
            return self.error(due);
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, SyntaxError> {
        if !self.text[self.at..].starts_with(word) {
            return self.error("text must stand in double quotes");
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let written = &rest[..end];
        // serde_json knows the grammar of numbers by heart.
        let Ok(number) = serde_json::from_str::<serde_json::Number>(written) else {
            return self.error("this is not a number");
        };
        let value = match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), ..) => Number::Unsigned(value),
            (_, Some(value), _) => Number::Negative(value),
            (_, _, Some(value)) if value.is_finite() => Number::Float(value),
            _ => return self.error("this number is too large"),
        };
        self.at += end;
        Ok(Value::Number { value, written: written.into() })
    }

    /// A string, its quotes included; the reader stands on the opening one.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(0..=0x1f) => return self.error("a string must end on its line (write line breaks as \\n)"),
                Some(_) => end += 1,
                None => return self.error("the text ends inside a string"),
            }
        }
        self.at = end + 1;
        // Both ends are quotes, so the slice keeps to character borders. Escapes and surrogates: serde_json's craft.
        match serde_json::from_str(&self.text[start..=end]) {
            Ok(text) => Ok(text),
            Err(_) => self.error("an escape in this string is wrong"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_lines() {
        let docs = parse("{\n\t\"a\": [1,\n\t-2, 1.5],\n \"b\": \"\\ud83d\\ude00\"}\n{\"c\": null}").unwrap();
        assert_eq!(docs.len(), 2);
        let Value::Mapping(entries) = &docs[0].value else { panic!("{docs:?}") };
        assert_eq!((entries[0].line, entries[1].line), (2, 4));
        let Value::List(items) = &entries[0].value.value else { panic!("{docs:?}") };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [2, 3, 3]);
        assert_eq!(entries[1].value.text(), Some("\u{1f600}"));
        assert_eq!(docs[1].line, 5);
    }

    #[test]
    fn faults_are_named_with_their_line() {
        for (text, line, fault) in [
            ("{", 1, "a key in double quotes is due here"),
            ("{\"a\" 1}", 1, "\":\" is due after a key"),
            ("{\"a\":\n1 2}", 2, "\",\" or \"}\" is due here"),
            ("[1,\n]", 2, "no value begins with this character"),
            ("[tru]", 1, "text must stand in double quotes"),
            ("[01]", 1, "this is not a number"),
            ("[1e999]", 1, "this is not a number"),
            ("[\"a", 1, "the text ends inside a string"),
            ("[\"a\\", 1, "the text ends inside a string"),
            ("[\"\\x\"]", 1, "an escape in this string is wrong"),
            ("[\"a\nb\"]", 1, "a string must end on its line (write line breaks as \\n)"),
            ("\n\n[", 3, "the text ends where a value is due"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.message), (line, format!("not JSON: {fault}")), "{text:?}");
        }
        assert!(parse(&"[".repeat(100_000)).unwrap_err().message.starts_with("nested deeper"));
    }
}
