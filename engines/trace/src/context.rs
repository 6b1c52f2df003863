//! W3C Trace Context: `traceparent` and `tracestate`.

use headwater_model::gateway::Sampler;

use crate::sample::sampled;

/// Names a trace; never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Names a span of a trace; never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// Whether the trace is recorded by who came before.
const SAMPLED: u8 = 0x01;
/// Whether the id of the trace was chosen at random (level 2).
const RANDOM: u8 = 0x02;

/// Longest `tracestate` that is passed on, in bytes, and most members of it.
pub const MAX_STATE: usize = 512;
const MAX_MEMBERS: usize = 32;

/// The span that a request says it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    flags: u8,
}

impl Parent {
    /// Reads a `traceparent`; `None` for what is none. Versions to come are read as far as version 00 goes.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let (head, rest) = value.split_at_checked(55)?;
        let [version] = hex::<1>(&head[..2])?;
        match (version, rest) {
            (0xff, _) | (0, [_, ..]) => return None,
            (_, [] | [b'-', ..]) => {}
            _ => return None,
        }
        if [head[2], head[35], head[52]] != [b'-'; 3] {
            return None;
        }
        let trace = hex::<16>(&head[3..35]).filter(|id| *id != [0; 16])?;
        let span = hex::<8>(&head[36..52]).filter(|id| *id != [0; 8])?;
        let [flags] = hex::<1>(&head[53..55])?;
        Some(Self { trace: TraceId(trace), span: SpanId(span), flags })
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// What is passed on of the lines of `tracestate`: members in order, joined by commas. `None` where there is nothing, or
/// anything that is no member: half of it could be taken for the whole.
pub fn state<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut out = String::new();
    let mut members = 0;
    for member in lines.flat_map(|line| line.split(|byte| *byte == b',')) {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        let at = member.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&member[..at], &member[at + 1..]);
        members += 1;
        if members > MAX_MEMBERS || !is_key(key) || !is_value(value) {
            return None;
        }
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(std::str::from_utf8(member).ok()?);
        if out.len() > MAX_STATE {
            return None;
        }
    }
    Some(out).filter(|out| !out.is_empty())
}

fn is_key(key: &[u8]) -> bool {
    let follows = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    matches!(key, [b'a'..=b'z' | b'0'..=b'9', rest @ ..] if rest.len() < 256 && rest.iter().all(follows))
}

fn is_value(value: &[u8]) -> bool {
    let allowed = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'=');
    value.len() <= 256 && value.iter().all(allowed)
}

/// A span of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    pub parent: Option<SpanId>,
    /// Whether it is told of.
    pub is_sampled: bool,
    flags: u8,
    /// `tracestate`, where there is one.
    pub state: Option<String>,
}

impl Span {
    /// The span of a request. `parent` and `state` are those of a request that is trusted; with two lines of
    /// `traceparent` there is none.
    pub fn begin(
        sampler: &Sampler,
        parent: Option<Parent>,
        state: impl FnOnce() -> Option<String>,
        random: [u64; 3],
    ) -> Self {
        let [high, low, id] = random;
        let trace = parent.map_or_else(
            || TraceId((u128::from(high) << 64 | u128::from(low.max(1))).to_be_bytes()),
            |parent| parent.trace,
        );
        let is_sampled = sampled(sampler, parent.as_ref(), &trace);
        let kept = parent.map_or(0, |parent| parent.flags & RANDOM);
        Self {
            trace,
            id: SpanId(id.max(1).to_be_bytes()),
            parent: parent.map(|parent| parent.span),
            is_sampled,
            flags: kept | if is_sampled { SAMPLED } else { 0 },
            state: parent.and_then(|_| state()),
        }
    }

    /// `traceparent` towards the endpoint, sampled or not.
    pub fn traceparent(&self) -> [u8; 55] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace.0, &mut out[3..35]);
        write_hex(&self.id.0, &mut out[36..52]);
        write_hex(&[self.flags], &mut out[53..55]);
        out
    }

    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }
}

fn write_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Lower case alone, as the recommendation has it.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// What is passed on is read as the same again, and no longer than is allowed.
pub(crate) fn fuzz(bytes: &[u8]) {
    use headwater_model::gateway::RootSampler;

    let mut lines = bytes.split(|byte| *byte == b'\n');
    let parent = lines.next().and_then(Parent::parse);
    let passed = state(lines);
    if let Some(passed) = &passed {
        assert!(passed.len() <= MAX_STATE && passed.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        assert_eq!(state(std::iter::once(passed.as_bytes())).as_ref(), Some(passed));
    }
    let sampler = Sampler { parent_based: true, root: RootSampler::AlwaysOff };
    let span = Span::begin(&sampler, parent, || passed, [0; 3]);
    let again = Parent::parse(&span.traceparent());
    assert_eq!(
        again.map(|again| (again.trace, again.span, again.is_sampled())),
        Some((span.trace, span.id, span.is_sampled))
    );
    assert_eq!(parent.map_or(span.trace, |parent| parent.trace), span.trace);
}

#[cfg(test)]
mod tests {
    use headwater_model::gateway::RootSampler;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";
    const ON: Sampler = Sampler { parent_based: false, root: RootSampler::AlwaysOn };

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_has_it() {
        let valid = |text: String| Parent::parse(text.as_bytes()).is_some();
        let zeros = |count| "0".repeat(count);
        for (text, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!(" 00-{TRACE}-{SPAN}-00\t"), true),
            (format!("00-{TRACE}-{SPAN}-03"), true),
            (format!("00-{TRACE}-{SPAN}-ff"), true),
            (format!("01-{TRACE}-{SPAN}-01"), true),
            (format!("cc-{TRACE}-{SPAN}-01-what-comes"), true),
            (format!("cc-{TRACE}-{SPAN}-01what"), false),
            (format!("00-{TRACE}-{SPAN}-01-more"), false),
            (format!("ff-{TRACE}-{SPAN}-01"), false),
            (format!("00-{}-{SPAN}-01", zeros(32)), false),
            (format!("00-{TRACE}-{}-01", zeros(16)), false),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), false),
            (format!("00-{TRACE}-{SPAN}-0"), false),
            (format!("00-{TRACE}-{SPAN}-0g"), false),
            (format!("00_{TRACE}-{SPAN}-01"), false),
            (format!("0-{TRACE}0-{SPAN}-01"), false),
            (String::new(), false),
            ("\u{e9}".repeat(28), false),
        ] {
            assert_eq!(valid(text.clone()), expected, "{text}");
        }
    }

    #[test]
    fn a_child_goes_on_with_the_trace_of_its_parent() {
        let parent = Parent::parse(format!("00-{TRACE}-{SPAN}-03").as_bytes());
        let span = Span::begin(&ON, parent, || Some("a=1".to_owned()), [1, 2, 0xabc]);
        assert_eq!(std::str::from_utf8(&span.traceparent()).unwrap(), format!("00-{TRACE}-0000000000000abc-03"));
        assert_eq!((span.parent, span.state.as_deref()), (parent.map(|parent| parent.span), Some("a=1")));
    }

    #[test]
    fn a_root_has_ids_of_its_own_and_no_state() {
        let span = Span::begin(&ON, None, || Some("a=1".to_owned()), [0xa, 0xb, 0xc]);
        let expected = "00-000000000000000a000000000000000b-000000000000000c-01";
        assert_eq!(
            (std::str::from_utf8(&span.traceparent()).unwrap(), span.parent, span.state),
            (expected, None, None)
        );
        let off = Sampler { parent_based: false, root: RootSampler::AlwaysOff };
        let span = Span::begin(&off, None, || None, [0; 3]);
        assert!(span.traceparent().ends_with(b"-00") && !span.is_sampled);
        assert!(Parent::parse(&span.traceparent()).is_some(), "ids are never zero");
    }

    #[test]
    fn states_are_passed_on_whole_or_not_at_all() {
        let read = |lines: &[&str]| state(lines.iter().map(|line| line.as_bytes()));
        let many: Vec<String> = (0..33).map(|index| format!("k{index}=v")).collect();
        for (lines, expected) in [
            (&["a=1,b=2"][..], Some("a=1,b=2")),
            (&["a=1 , b=2", "c@v=3;x:y"][..], Some("a=1,b=2,c@v=3;x:y")),
            (&["", " , "][..], None),
            (&[][..], None),
            (&["a=1,b"][..], None),
            (&["A=1"][..], None),
            (&["a=1=2"][..], None),
            (&["a=\u{e9}"][..], None),
            (&[&*many.join(",")][..], None),
            (&[&*format!("a={}", "v".repeat(257))][..], None),
        ] {
            assert_eq!(read(lines).as_deref(), expected, "{lines:?}");
        }
        assert_eq!(read(&[&many[..32].join(",")]), Some(many[..32].join(",")));
        let long: Vec<String> = (0..3).map(|index| format!("k{index}={}", "v".repeat(200))).collect();
        assert_eq!(read(&[&long.join(",")]), None);
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        for bytes in [&b""[..], b"\n\n", b"00-\n=,=", &[0xff; 60]] {
            fuzz(bytes);
        }
    }
}
