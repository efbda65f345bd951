//! W3C trace context: who a call's caller says is its parent, and what the call is itself.

use std::fmt;

use opentelemetry::trace::{SpanId, TraceId};

/// The caller's span, from its `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    flags: u8,
}

/// The span of a call that this server may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanIds {
    pub trace: TraceId,
    pub span: SpanId,
    /// [`SpanId::INVALID`] where it has no parent.
    pub parent: SpanId,
    /// It is shown, however it ends. Others may be for how they end.
    pub sampled: bool,
    /// What the clock shows at the tracer's beginning, in nanoseconds of Unix time: one for all spans of a call, so that
    /// they stay inside one another when the clock is set.
    pub(super) origin: u64,
}

/// `00-`, 32 and 16 digits, and two of flags.
const HEADER_BYTES: usize = 55;
const SAMPLED: u8 = 1;
/// Flags that are known: sampled, and that the trace's id is random.
const KNOWN_FLAGS: u8 = 3;

impl TraceParent {
    /// Reads the header. One that is not valid is none.
    pub fn parse(header: &str) -> Option<Self> {
        let bytes = header.as_bytes();
        let version = hex(bytes.get(0..2)?)? as u8;
        // Later versions may add to what this one has, behind another dash; 255 is none.
        let fits = match version {
            0 => bytes.len() == HEADER_BYTES,
            0xff => false,
            _ => bytes.len() == HEADER_BYTES || bytes.get(HEADER_BYTES) == Some(&b'-'),
        };
        if !fits || [2, 35, 52].iter().any(|&at| bytes.get(at) != Some(&b'-')) {
            return None;
        }
        let trace = TraceId::from(hex(bytes.get(3..35)?)?);
        let span = SpanId::from(hex(bytes.get(36..52)?)? as u64);
        let flags = hex(bytes.get(53..55)?)? as u8 & KNOWN_FLAGS;
        (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span, flags })
    }

    /// Whether the caller keeps its part of the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl SpanIds {
    /// It, as the parent of what others do for it.
    pub fn as_parent(&self) -> TraceParent {
        TraceParent { trace: self.trace, span: self.span, flags: u8::from(self.sampled) }
    }
}

/// Digits and small letters alone, as the specification has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn reads_what_it_writes() {
        let parent = TraceParent::parse(PARENT).expect("valid");
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span.to_string(), "b7ad6b7169203331");
        assert!(parent.is_sampled());
        assert_eq!(parent.to_string(), PARENT);
        assert!(!TraceParent::parse(&PARENT.replace("-01", "-02")).expect("valid").is_sampled());
    }

    #[test]
    fn takes_later_versions_for_what_they_share_with_this_one() {
        for later in [PARENT.replacen("00", "01", 1), format!("{}-more", PARENT.replacen("00", "cc", 1))] {
            assert_eq!(TraceParent::parse(&later).expect("valid").to_string(), PARENT, "{later}");
        }
        let flags = TraceParent::parse(&PARENT.replace("-01", "-ff")).expect("valid");
        assert_eq!(flags.to_string(), PARENT.replace("-01", "-03"), "those that nobody knows are not passed on");
    }

    #[test]
    fn what_is_not_valid_is_none() {
        let none = |text: &str| assert_eq!(TraceParent::parse(text), None, "{text}");
        none("");
        none("00-zero-one-01");
        none(&PARENT[..54]);
        none(&format!("{PARENT}-more"));
        none(&PARENT.replacen("00", "ff", 1));
        none(&PARENT.replace("0af7", "0AF7"));
        none(&PARENT.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"));
        none(&PARENT.replace("b7ad6b7169203331", "0000000000000000"));
        none(&PARENT.replace('-', "_"));
        none("00-0af7651916cd43dd8448eb211c8031ß-b7ad6b7169203331-01");
        none(&format!("{}more", PARENT.replacen("00", "01", 1)));
    }
}
