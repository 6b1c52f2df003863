//! Regular expressions of PCRE, in the syntax of the `regex` crate.

use thiserror::Error;

/// Why a regular expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Needs backtracking, for which no bound on time is known.
    #[error(
        "{construct} {text:?} at character {at} cannot be matched in linear time; write the expression without it, or as \
         several rows"
    )]
    Backtracking { construct: &'static str, text: String, at: usize },
    #[error("{construct} {text:?} at character {at} is not supported")]
    Unsupported { construct: &'static str, text: String, at: usize },
    #[error("{cause} at character {at}")]
    Syntax { cause: String, at: usize },
}

/// The same expression in the syntax of the `regex` crate, where every search takes time linear in the text.
///
/// What both read the same stays, and what they spell differently is respelt: `\h`, `\v`, `\R`, `\Z`, `\Q...\E`, octal
/// escapes, a `{` that begins no quantifier, `[`, `&&`, `--` and `~~` inside of classes. One difference stays: `$` is the
/// very end, never before a last line feed.
///
/// # Errors
/// [`PatternError`] names the first construct that needs more, or that means nothing, and where it stands (from 1).
pub fn to_regex(pattern: &str) -> Result<String, PatternError> {
    let mut respelling =
        Respelling { input: pattern.chars().collect(), at: 0, out: String::with_capacity(pattern.len()) };
    respelling.run()?;
    let fault = |unicode| {
        let mut parser = regex_syntax::ParserBuilder::new().unicode(unicode).utf8(false).build();
        parser.parse(&respelling.out).err().map(Box::new)
    };
    // for bytes, or for Unicode where that is needed
    match fault(false).and_then(|_| fault(true)) {
        None => Ok(respelling.out),
        Some(error) => Err(syntax_error(pattern, &respelling.out, &error)),
    }
}

fn syntax_error(pattern: &str, respelt: &str, error: &regex_syntax::Error) -> PatternError {
    let (cause, offset) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start.offset),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start.offset),
        error => (error.to_string(), 0),
    };
    // where nothing before it was respelt, it stands at the same place
    let before = respelt.get(..offset).filter(|before| pattern.starts_with(before));
    PatternError::Syntax { cause, at: before.map_or(1, |before| before.chars().count() + 1) }
}

/// The text after `^` that every path begins with which the expression may be meant for; empty when it is not known.
pub(super) fn beginning(pattern: &str) -> &str {
    let Some(rest) = pattern.strip_prefix('^').filter(|rest| !rest.contains('|')) else { return "" };
    let end = rest.find(|c: char| r"\.+*?()|[]{}^$".contains(c)).unwrap_or(rest.len());
    match rest[end..].chars().next() {
        // a quantifier takes back what stands before it
        Some('*' | '?' | '{') => rest[..end].char_indices().next_back().map_or("", |(last, _)| &rest[..last]),
        _ => &rest[..end],
    }
}

/// What a `-` in a class would do after the last item.
#[derive(Clone, Copy, PartialEq)]
enum Item {
    /// Begin a range: a single character stands there.
    Character,
    /// Stand for itself.
    Other,
    /// It did begin a range, whose end comes next.
    Range,
}

struct Respelling {
    input: Vec<char>,
    at: usize,
    out: String,
}

impl Respelling {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.input.get(self.at + ahead).copied()
    }

    fn follows(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c))
    }

    /// The next few characters, for a message.
    fn shown(&self, length: usize) -> String {
        self.input.iter().skip(self.at).take(length).collect()
    }

    fn backtracking(&self, construct: &'static str, length: usize) -> PatternError {
        PatternError::Backtracking { construct, text: self.shown(length), at: self.at + 1 }
    }

    fn unsupported(&self, construct: &'static str, length: usize) -> PatternError {
        PatternError::Unsupported { construct, text: self.shown(length), at: self.at + 1 }
    }

    fn literal(&mut self, c: char) {
        self.out.push_str(&regex_syntax::escape(c.encode_utf8(&mut [0; 4])));
    }

    fn code(&mut self, code: u32) {
        self.out.push_str(&format!("\\x{{{code:X}}}"));
    }

    fn run(&mut self) -> Result<(), PatternError> {
        let mut quantified = false;
        while let Some(c) = self.peek(0) {
            let quantifier = match c {
                '*' | '+' | '?' => 1,
                '{' => self.braces().unwrap_or(0),
                _ => 0,
            };
            if quantifier > 0 {
                if quantified && c == '+' {
                    self.at -= 1;
                    return Err(self.backtracking("possessive quantifier", 2));
                }
                // after a quantifier, `?` makes it lazy, and ends it
                let lazy = quantified && c == '?';
                self.out.extend(&self.input[self.at..self.at + quantifier]);
                self.at += quantifier;
                quantified = !lazy;
                continue;
            }
            quantified = false;
            match c {
                '\\' => self.escape()?,
                '(' => self.group()?,
                '[' => self.class()?,
                '{' | '}' => {
                    self.literal(c);
                    self.at += 1;
                }
                c => {
                    self.out.push(c);
                    self.at += 1;
                }
            }
        }
        Ok(())
    }

    /// Length of `{2}`, `{2,}` or `{2,3}`.
    fn braces(&self) -> Option<usize> {
        let digits = |mut ahead: usize| {
            let from = ahead;
            while self.peek(ahead).is_some_and(|c| c.is_ascii_digit()) {
                ahead += 1;
            }
            (ahead, ahead > from)
        };
        let (mut end, true) = digits(1) else { return None };
        if self.peek(end) == Some(',') {
            end = digits(end + 1).0;
        }
        (self.peek(end) == Some('}')).then_some(end + 1)
    }

    fn escape(&mut self) -> Result<(), PatternError> {
        let Some(c) = self.peek(1) else {
            return Err(PatternError::Syntax { cause: "a backslash that escapes nothing".into(), at: self.at + 1 });
        };
        match c {
            // three digits are an octal code
            '1'..='9' if !(1..=3).all(|ahead| self.peek(ahead).is_some_and(|c| c.is_digit(8))) => {
                return Err(self.backtracking("backreference", 2));
            }
            'g' if matches!(self.peek(2), Some('<' | '\'')) => return Err(self.backtracking("recursion", 3)),
            'g' | 'k' => return Err(self.backtracking("backreference", 3)),
            'K' => return Err(self.unsupported("reset of the match", 2)),
            'G' => return Err(self.unsupported("anchor", 2)),
            'X' | 'C' => return Err(self.unsupported("escape", 2)),
            'b' if self.peek(2) == Some('{') => self.simple("(?:\\b)"),
            'A' | 'b' | 'B' | 'z' => self.same(),
            'Z' => self.simple("(?:\\n?\\z)"),
            'N' if self.peek(2) == Some('{') => return Err(self.unsupported("escape", 3)),
            'N' => self.simple("[^\\n]"),
            'R' => self.simple("(?:\\r\\n|[\\n\\x0B\\f\\r])"),
            'h' => self.simple("[ \\t]"),
            'H' => self.simple("[^ \\t]"),
            'v' => self.simple("[\\n\\x0B\\f\\r]"),
            'V' => self.simple("[^\\n\\x0B\\f\\r]"),
            'Q' => {
                self.at += 2;
                while self.peek(0).is_some() && !self.follows("\\E") {
                    self.quoted();
                }
                self.at += if self.peek(0).is_some() { 2 } else { 0 };
            }
            'E' => self.at += 2,
            _ => {
                self.character_escape()?;
            }
        }
        Ok(())
    }

    fn quoted(&mut self) {
        if let Some(c) = self.peek(0) {
            self.literal(c);
            self.at += 1;
        }
    }

    /// Two characters of the input become this.
    fn simple(&mut self, text: &str) {
        self.out.push_str(text);
        self.at += 2;
    }

    /// Two characters of the input stay.
    fn same(&mut self) {
        self.out.extend(&self.input[self.at..self.at + 2]);
        self.at += 2;
    }

    /// An escape that means the same inside of a class and outside. True when it stands for one character.
    fn character_escape(&mut self) -> Result<bool, PatternError> {
        let Some(c) = self.peek(1) else {
            return Err(PatternError::Syntax { cause: "a backslash that escapes nothing".into(), at: self.at + 1 });
        };
        match c {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' => {
                self.same();
                return Ok(false);
            }
            'p' | 'P' => {
                self.same();
                // the name is the parser's to judge
                if self.peek(0) == Some('{') {
                    while let Some(c) = self.peek(0) {
                        self.out.push(c);
                        self.at += 1;
                        if c == '}' {
                            break;
                        }
                    }
                } else if let Some(c) = self.peek(0) {
                    self.out.push(c);
                    self.at += 1;
                }
                return Ok(false);
            }
            'n' | 'r' | 't' | 'f' | 'a' => self.same(),
            'e' => self.simple("\\x1B"),
            '0'..='7' => {
                let mut code = 0;
                self.at += 1;
                for _ in 0..3 {
                    let Some(digit) = self.peek(0).and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                self.code(code);
            }
            'x' if self.peek(2) == Some('{') => {
                let digits: String = self.input.iter().skip(self.at + 3).take_while(|c| **c != '}').collect();
                let Ok(code) = u32::from_str_radix(&digits, 16) else { return Err(self.unsupported("escape", 3)) };
                self.at += 4 + digits.chars().count();
                self.code(code);
            }
            'x' => {
                let mut code = 0;
                self.at += 2;
                for _ in 0..2 {
                    let Some(digit) = self.peek(0).and_then(|c| c.to_digit(16)) else { break };
                    code = code * 16 + digit;
                    self.at += 1;
                }
                self.code(code);
            }
            'c' => match self.peek(2) {
                Some(c) if c.is_ascii() => {
                    self.at += 3;
                    self.code(u32::from(c.to_ascii_uppercase()) ^ 0x40);
                }
                _ => return Err(self.unsupported("escape", 2)),
            },
            c if c.is_alphanumeric() => return Err(self.unsupported("escape", 2)),
            c => {
                self.literal(c);
                self.at += 2;
            }
        }
        Ok(true)
    }

    fn group(&mut self) -> Result<(), PatternError> {
        if self.peek(1) == Some('*') {
            return Err(self.backtracking("control verb", 3));
        }
        if self.peek(1) != Some('?') {
            self.out.push('(');
            self.at += 1;
            return Ok(());
        }
        for (start, construct) in [
            ("(?=", "look-ahead"),
            ("(?!", "negative look-ahead"),
            ("(?<=", "look-behind"),
            ("(?<!", "negative look-behind"),
            ("(?>", "atomic group"),
            ("(?(", "condition"),
            ("(?R", "recursion"),
            ("(?&", "recursion"),
            ("(?P>", "recursion"),
            ("(?P=", "backreference"),
            ("(?|", "branch reset"),
        ] {
            if self.follows(start) {
                return Err(self.backtracking(construct, start.len()));
            }
        }
        let signed = matches!(self.peek(2), Some('+' | '-')) && self.peek(3).is_some_and(|c| c.is_ascii_digit());
        if signed || self.peek(2).is_some_and(|c| c.is_ascii_digit()) {
            return Err(self.backtracking("recursion", 4));
        }
        if self.follows("(?#") {
            while self.peek(0).is_some_and(|c| c != ')') {
                self.at += 1;
            }
            self.at += 1;
            return Ok(());
        }
        for (start, end) in [("(?P<", '>'), ("(?<", '>'), ("(?'", '\'')] {
            if self.follows(start) {
                let name: String = self.input.iter().skip(self.at + start.len()).take_while(|c| **c != end).collect();
                self.at += start.len() + name.chars().count() + 1;
                self.out.push_str(&format!("(?P<{name}>"));
                return Ok(());
            }
        }
        let flags: String = self.input.iter().skip(self.at + 2).take_while(|c| !matches!(c, ':' | ')')).collect();
        if !flags.chars().all(|c| matches!(c, 'i' | 'm' | 's' | 'x' | 'U' | '-')) {
            return Err(self.unsupported("group", 4));
        }
        let end = (self.at + 3 + flags.len()).min(self.input.len());
        self.out.extend(&self.input[self.at..end]);
        self.at = end;
        Ok(())
    }

    fn class(&mut self) -> Result<(), PatternError> {
        let unclosed = PatternError::Syntax { cause: "a class that is not closed".into(), at: self.at + 1 };
        self.out.push('[');
        self.at += 1;
        if self.peek(0) == Some('^') {
            self.out.push('^');
            self.at += 1;
        }
        let first = self.at;
        let mut last = Item::Other;
        loop {
            let Some(c) = self.peek(0) else { return Err(unclosed) };
            let single = match c {
                ']' if self.at > first => {
                    self.out.push(']');
                    self.at += 1;
                    return Ok(());
                }
                '-' if last == Item::Character && self.ends_range() => {
                    self.out.push('-');
                    self.at += 1;
                    last = Item::Range;
                    continue;
                }
                '[' if matches!(self.peek(1), Some('.' | '=')) => return Err(self.unsupported("collating element", 2)),
                '[' if self.peek(1) == Some(':') && self.named_class() => false,
                '\\' => self.class_escape()?,
                c => {
                    self.literal(c);
                    self.at += 1;
                    true
                }
            };
            last = if single && last != Item::Range { Item::Character } else { Item::Other };
        }
    }

    /// Whether what follows a `-` is a single character, so that it may end a range.
    fn ends_range(&self) -> bool {
        match (self.peek(1), self.peek(2)) {
            (None | Some(']'), _) => false,
            (Some('\\'), Some(c)) => {
                !matches!(c, 'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'h' | 'H' | 'v' | 'V' | 'p' | 'P')
            }
            (Some('['), Some(':')) => false,
            _ => true,
        }
    }

    /// Takes `[:alpha:]` or `[:^alpha:]` as it is.
    fn named_class(&mut self) -> bool {
        let rest = &self.input[self.at + 2..];
        let length = rest.iter().take_while(|c| c.is_ascii_lowercase() || **c == '^').count();
        if rest.get(length) != Some(&':') || rest.get(length + 1) != Some(&']') {
            return false;
        }
        let end = self.at + length + 4;
        self.out.extend(&self.input[self.at..end]);
        self.at = end;
        true
    }

    /// True when it stands for one character.
    fn class_escape(&mut self) -> Result<bool, PatternError> {
        match self.peek(1) {
            Some('b') => self.simple("\\x08"),
            Some('h') => {
                self.simple(" \\t");
                return Ok(false);
            }
            Some('v') => {
                self.simple("\\n\\x0B\\f\\r");
                return Ok(false);
            }
            Some('H') => {
                self.simple("[^ \\t]");
                return Ok(false);
            }
            Some('V') => {
                self.simple("[^\\n\\x0B\\f\\r]");
                return Ok(false);
            }
            Some('Q' | 'E') => return Err(self.unsupported("quotation inside of a class", 2)),
            _ => return self.character_escape(),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_dialects_read_the_same_stays() {
        for pattern in [
            "",
            "^/v1/*",
            "/a.*",
            r"^/(prefix-x)(/|$)(.*)",
            r"\.(jpe?g|png)$",
            r"(?i)^/Shop/[0-9]{2,4}/\d+?$",
            "^(?:a|b)(?P<name>c)$",
            "[a-z0-9_]",
            "[^/]+",
            "[[:alpha:]x]",
            r"\bword\b",
            "caf\u{e9}",
            r"\p{Greek}",
        ] {
            assert_eq!(to_regex(pattern).as_deref(), Ok(pattern));
        }
    }

    #[test]
    fn respelt_expressions_match_what_they_did() {
        for (pattern, matching, others) in [
            (r"^/api/{id}$", &["/api/{id}"][..], &["/api/", "/api/id"][..]),
            (r"^a{,3}$", &["a{,3}"], &["aa"]),
            (r"^a{2}$", &["aa"], &["a", "a{2}"]),
            (r"^\Qa.b*c\E+$", &["a.b*c", "a.b*cc"], &["axbc"]),
            (r"^\Qa.b", &["a.b"], &["axb"]),
            (r"^a\hb$", &["a b", "a\tb"], &["a\nb"]),
            (r"^a\Rb$", &["a\r\nb", "a\nb"], &["ab"]),
            (r"^a\vb\V$", &["a\nbc"], &["a b\n"]),
            (r"^a\Z", &["a", "a\n"], &["ab"]),
            (r"^\/a\_\-\<\>\ \%\#$", &["/a_-<> %#"], &["/a"]),
            (r"^\x41\x{42}\103\ee\cA$", &["ABC\u{1b}e\u{1}"], &["ABC"]),
            (r"^[[]$", &["["], &["]"]),
            (r"^[]a]$", &["]", "a"], &["b"]),
            (r"^[^]a]$", &["b"], &["]", "a"]),
            (r"^[a&&b]$", &["a", "&", "b"], &["c"]),
            (r"^[+--c]$", &["+", "-", "c"], &["b"]),
            (r"^[a-z0-9_-]$", &["a", "_", "-"], &["."]),
            (r"^[+--]$", &["+", ",", "-"], &["."]),
            (r"^[\w-.]+$", &["a-.b"], &["a b"]),
            (r"^[a-]$", &["a", "-"], &["b"]),
            (r"^[-a]$", &["a", "-"], &["b"]),
            (r"^[a-c-e]$", &["a", "b", "-", "e"], &["d"]),
            (r"^[\b\h\]~~]$", &["\u{8}", " ", "\t", "]", "~"], &["b", "h"]),
            (r"^[[:digit:]-z]$", &["1", "-", "z"], &["a"]),
            (r"^[\x41-\x43]$", &["A", "B", "C"], &["D"]),
            (r"^[[:]$", &["[", ":"], &["a"]),
            (r"a(?#a comment)b", &["ab"], &["b"]),
            (r"^(?'n'a)(?<m>b)$", &["ab"], &["a"]),
            (r"^\b{1}a", &["a"], &["b"]),
            (r"^\N$", &["a"], &["\n"]),
        ] {
            let respelt = to_regex(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            let regex = regex::Regex::new(&respelt).unwrap();
            for text in matching {
                assert!(regex.is_match(text), "{pattern} as {respelt}: {text:?}");
            }
            for text in others {
                assert!(!regex.is_match(text), "{pattern} as {respelt}: {text:?}");
            }
        }
    }

    #[test]
    fn what_needs_more_than_linear_time_is_named_with_its_place() {
        for (pattern, construct, at) in [
            (r"^/(?!admin)", "negative look-ahead", 3),
            (r"^/a(?=b)", "look-ahead", 4),
            (r"(?<=a)b", "look-behind", 1),
            (r"(?<!a)b", "negative look-behind", 1),
            (r"(a)\1", "backreference", 4),
            (r"(?<n>a)\k<n>", "backreference", 8),
            (r"(?P<n>a)(?P=n)", "backreference", 9),
            (r"(a)\g{1}", "backreference", 4),
            (r"(a)\g<1>", "recursion", 4),
            (r"\u{e9}(?>a+)b", "", 0),
            ("\u{e9}(?>a+)b", "atomic group", 2),
            (r"a(?R)?b", "recursion", 2),
            (r"a(?1)", "recursion", 2),
            (r"(a)(?-1)", "recursion", 4),
            (r"(?&n)", "recursion", 1),
            (r"(?(1)a|b)", "condition", 1),
            (r"(?|a|b)", "branch reset", 1),
            (r"a++b", "possessive quantifier", 2),
            (r"a*+b", "possessive quantifier", 2),
            (r"a{2}+b", "possessive quantifier", 4),
            (r"(*FAIL)", "control verb", 1),
        ] {
            match to_regex(pattern) {
                Err(PatternError::Backtracking { construct: found, at: place, .. }) => {
                    assert_eq!((found, place), (construct, at), "{pattern}");
                }
                Err(PatternError::Unsupported { .. }) if construct.is_empty() => {}
                other => panic!("{pattern}: {other:?}"),
            }
        }
        assert_eq!(
            to_regex("^/(?!admin)").unwrap_err().to_string(),
            "negative look-ahead \"(?!\" at character 3 cannot be matched in linear time; write the expression without \
             it, or as several rows"
        );
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (pattern, at) in [("*.php", 1), ("/a(", 3), ("/a)", 3), ("[a", 1), ("a\\", 2), ("[z-a]", 2), ("a{3,2}", 2)]
        {
            match to_regex(pattern) {
                Err(PatternError::Syntax { at: place, .. }) => assert_eq!(place, at, "{pattern}"),
                other => panic!("{pattern}: {other:?}"),
            }
        }
        for pattern in [r"a\Kb", r"\Ga", r"\X", r"\j", "(?u)a", "(?Xa)", "[[.a.]]", r"[\Qa\E]", r"\x{zz}", r"\c"] {
            assert!(matches!(to_regex(pattern), Err(PatternError::Unsupported { .. })), "{pattern}");
        }
    }

    #[test]
    fn the_beginning_is_text_that_every_match_has() {
        for (pattern, beginning) in [
            ("^/shop/(?!x)", "/shop/"),
            ("^/sho*(?!x)", "/sh"),
            ("^/caf\u{e9}?(?!x)", "/caf"),
            ("^/a(?!x)|/b", ""),
            ("/shop/(?!x)", ""),
            ("^(?!x)", ""),
        ] {
            assert_eq!(super::beginning(pattern), beginning, "{pattern}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[a-c\\\\()\\[\\]{}*+?^$.|,0-9QEKxkgpPRhv:<>=!#&~ \\-\u{e9}]{0,20}") {
            if let Ok(respelt) = to_regex(&pattern) {
                proptest::prop_assert!(regex_syntax::ParserBuilder::new().utf8(false).build().parse(&respelt).is_ok()
                    || regex_syntax::ParserBuilder::new().utf8(false).unicode(false).build().parse(&respelt).is_ok());
            }
        }
    }
}
