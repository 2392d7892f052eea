//! The canonical path. One decision: a path that two parsers could read differently is refused, never rewritten, so what
//! policy matched is byte for byte what the upstream receives; where its only fault is an encoded `/`, `\`, `%` or an empty
//! segment, which some applications are made of, that is for the route to say. Knows nothing of routes.

use std::borrow::Cow;

/// The prefix that belongs to the gateway on every host and is never forwarded.
pub const RESERVED_PREFIX: &str = "/.portcullis";

/// Whether a path, decoded, is at that prefix or below.
pub fn is_reserved(path: &str) -> bool {
    path.strip_prefix(RESERVED_PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why a path is refused; every one of these has carried somebody past a gateway's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`.
    NotAbsolute,
    /// `//` somewhere: servers merge it or do not.
    EmptySegment,
    /// A segment of nothing but dots and blanks when decoded or cut at `;`.
    DotSegment,
    /// An encoded `/`, `\` or `%`: another decoder sees more segments, or decodes twice.
    EncodedDelimiter,
    /// A control byte, plain or encoded (NUL cuts strings in C).
    Control,
    /// A backslash: some servers take it for a slash.
    Backslash,
    /// `%` that is not followed by two hexadecimal digits.
    BadPercent,
    /// Bytes outside ASCII, or encoded bytes that are not UTF-8 (overlong forms hide dots and slashes).
    NotUtf8,
    /// `#`, `?`, a quote or another byte that no URI path holds.
    Forbidden,
}

impl PathError {
    /// A stable name for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            PathError::NotAbsolute => "path_not_absolute",
            PathError::EmptySegment => "path_empty_segment",
            PathError::DotSegment => "path_dot_segment",
            PathError::EncodedDelimiter => "path_encoded_delimiter",
            PathError::Control => "path_control",
            PathError::Backslash => "path_backslash",
            PathError::BadPercent => "path_bad_percent",
            PathError::NotUtf8 => "path_not_utf8",
            PathError::Forbidden => "path_forbidden_byte",
        }
    }
}

/// A path of which there is one reading (RFC 3986 §6.2), with the strings that rules are matched against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'r> {
    raw: &'r str,
    decoded: Cow<'r, str>,
    lenient: Option<String>,
    doubt: Option<PathError>,
}

impl<'r> CanonicalPath<'r> {
    /// Accept or refuse. Allocates only for a path with percent signs or with what a lenient server would fold.
    pub fn parse(raw: &'r str) -> Result<CanonicalPath<'r>, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        raw.bytes().try_for_each(allowed)?;
        check_segments(raw)?;
        // Without percent signs it is ASCII, and nothing hides in it.
        if !raw.contains('%') {
            return Ok(CanonicalPath { raw, decoded: Cow::Borrowed(raw), lenient: lenient(raw), doubt: None });
        }
        // `/a/..%ef%bc%8f` and its like: what a folding server sees must be canonical as well, at every step.
        let decoded = decode(raw, Delimiters::Refused)?;
        let narrowed = narrow(&decoded);
        for reading in [&decoded, before_query(&decoded), &narrowed, before_query(&narrowed)] {
            check_segments(reading)?;
        }
        if narrowed.contains(['%', '\\']) {
            return Err(PathError::EncodedDelimiter);
        }
        let lenient = lenient(&narrowed).or_else(|| (narrowed != decoded).then(|| narrowed.clone().into_owned()));
        if let Some(folded) = &lenient {
            check_segments(folded)?;
        }
        let decoded = Cow::Owned(decoded);
        Ok(CanonicalPath { raw, decoded, lenient, doubt: None })
    }

    /// The same, but accept a path that has several readings for nothing but its delimiters, and say so: see
    /// [`CanonicalPath::doubt`].
    ///
    /// # Errors
    /// As [`CanonicalPath::parse`].
    pub fn read(raw: &'r str) -> Result<CanonicalPath<'r>, PathError> {
        let doubt = match CanonicalPath::parse(raw) {
            Err(doubt @ (PathError::EncodedDelimiter | PathError::EmptySegment)) => doubt,
            other => return other,
        };
        match decode(raw, Delimiters::Kept) {
            Ok(decoded) => Ok(CanonicalPath { raw, decoded: Cow::Owned(decoded), lenient: None, doubt: Some(doubt) }),
            Err(_) => Err(doubt),
        }
    }

    /// The bytes as they came, and as they are forwarded.
    pub fn raw(&self) -> &'r str {
        self.raw
    }

    /// Why only a route that says so takes this path, and only where it falls under that route in each of its
    /// [`super::readings`]. `None`: there is one reading.
    pub fn doubt(&self) -> Option<PathError> {
        self.doubt
    }

    /// The path with its percent signs decoded: what rules are matched against, so that `/%61dmin` is `/admin`. In doubt, what
    /// hides a delimiter stays encoded.
    pub fn decoded(&self) -> &str {
        &self.decoded
    }

    /// What a server sees that ignores case, cuts `;parameters` and drops trailing dots and blanks; `None` where that is the
    /// same. A path that falls under another route in this reading is refused: `/ADMIN` must not slip past `/admin` to an
    /// application that does not care about case, nor into a public `/static` of one that does.
    pub fn lenient(&self) -> Option<&str> {
        self.lenient.as_deref()
    }
}

/// RFC 3986 §3.3 pchar, `/` and `%`; each refusal is named for its attack.
fn allowed(byte: u8) -> Result<(), PathError> {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' | b'%' => Ok(()),
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => Ok(()),
        // Not in the grammar, sent unencoded by browsers and by every client library; one reading everywhere.
        b'[' | b']' | b'|' | b'^' | b'{' | b'}' => Ok(()),
        b'\\' => Err(PathError::Backslash),
        0..=0x20 | 0x7f => Err(PathError::Control),
        0x80.. => Err(PathError::NotUtf8),
        _ => Err(PathError::Forbidden),
    }
}

/// What [`decode`] makes of an encoded `/`, `\` or `%`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delimiters {
    Refused,
    Kept,
}

fn decode(raw: &str, delimiters: Delimiters) -> Result<String, PathError> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = (rest.next().and_then(hex), rest.next().and_then(hex));
        let (Some(high), Some(low)) = digits else { return Err(PathError::BadPercent) };
        match high << 4 | low {
            b'/' | b'\\' | b'%' if delimiters == Delimiters::Refused => return Err(PathError::EncodedDelimiter),
            delimiter @ (b'/' | b'\\' | b'%') => bytes.extend_from_slice(format!("%{delimiter:02X}").as_bytes()),
            0..=0x1f | 0x7f => return Err(PathError::Control),
            other => bytes.push(other),
        }
    }
    text(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, PathError> {
    let text = String::from_utf8(bytes).map_err(|_| PathError::NotUtf8)?;
    // C1 controls arrive as two bytes of valid UTF-8.
    if text.chars().any(char::is_control) { Err(PathError::Control) } else { Ok(text) }
}

/// What a server makes of a path that decodes it (once more), and leaves a stray `%` as it is.
///
/// # Errors
/// [`PathError::NotUtf8`], [`PathError::Control`].
pub(super) fn unescaped(path: &str) -> Result<Cow<'_, str>, PathError> {
    let (bytes, mut plain, mut at) = (path.as_bytes(), Vec::with_capacity(path.len()), 0);
    let digit = |at: usize| bytes.get(at).copied().and_then(hex);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(high << 4 | low);
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    text(plain).map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

pub(super) fn check_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.as_bytes()[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        // The last segment may be empty: `/app/` is another resource than `/app`, under the same rule.
        if segment.is_empty() && segments.peek().is_some() {
            return Err(PathError::EmptySegment);
        }
        // Cutting at `;` first: `/..;/admin` is `/../admin` to a servlet container.
        let name = &segment[..segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len())];
        // `...` and `.. ` too: what trims trailing dots or blanks makes `..` of them, and of a blank segment none.
        if !name.is_empty() && name.iter().all(|byte| matches!(byte, b'.' | b' ')) {
            return Err(PathError::DotSegment);
        }
        if name.is_empty() && !segment.is_empty() {
            return Err(PathError::EmptySegment);
        }
    }
    Ok(())
}

pub(super) fn lenient(path: &str) -> Option<String> {
    let plain =
        |byte: u8| !(byte.is_ascii_uppercase() || byte >= 0x80 || matches!(byte, b';' | b'.' | b' ' | b'?' | b'#'));
    if path.bytes().all(plain) {
        return None;
    }
    let folded: Vec<String> = before_query(path).split('/').map(fold_segment).collect();
    let folded = folded.join("/");
    (folded != path).then_some(if folded.is_empty() { "/".to_owned() } else { folded })
}

/// A decoded `?` or `#` ends the path for a server that decodes before it splits.
pub(super) fn before_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

fn fold_segment(segment: &str) -> String {
    let name = segment.split(';').next().unwrap_or_default();
    // Both ways, as Java's `equalsIgnoreCase` does: the dotless `ı` and the long `ſ` have capitals in ASCII.
    let folded: String = name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
    folded.trim_end_matches(['.', ' ']).to_owned()
}

/// The full-width forms of ASCII (U+FF01..U+FF5E) as ASCII: what a server reads that applies NFKC.
pub(super) fn narrow(path: &str) -> Cow<'_, str> {
    let fold = |character: char| match u32::from(character) {
        code @ 0xff01..=0xff5e => char::from_u32(code - 0xff01 + 0x21).unwrap_or(character),
        _ => character,
    };
    if path.is_ascii() { Cow::Borrowed(path) } else { Cow::Owned(path.chars().map(fold).collect()) }
}

/// The path a route stands at: whole segments, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// A prefix as the file writes it: canonical, without percent signs and without a trailing slash (but `/` itself).
    pub fn parse(text: &str) -> Result<PathPrefix, PathError> {
        let path = CanonicalPath::parse(text)?;
        if path.raw().contains(['%', ';']) {
            return Err(PathError::Forbidden);
        }
        if text.len() > 1 && text.ends_with('/') {
            return Err(PathError::EmptySegment);
        }
        Ok(PathPrefix(text.to_owned()))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A path under this prefix with another in its place. Segments are counted, not bytes: `/%61pp/x` is under `/app`.
    pub(super) fn replaced(&self, path: &CanonicalPath<'_>, by: &PathPrefix) -> String {
        let mut rest = path.raw();
        for _ in self.0.split('/').skip(1).filter(|segment| !segment.is_empty()) {
            rest = rest.get(1..).and_then(|cut| cut.find('/').map(|slash| &cut[slash..])).unwrap_or_default();
        }
        let by = if by.0 == "/" { "" } else { by.0.as_str() };
        let joined = format!("{by}{rest}");
        if joined.is_empty() { "/".to_owned() } else { joined }
    }

    /// The prefix as a server reads it that ignores letter case and trailing dots; see [`CanonicalPath::lenient`].
    pub(super) fn lenient(&self) -> String {
        lenient(&self.0).unwrap_or_else(|| self.0.clone())
    }

    /// Whether the prefix covers a decoded path: only at a segment boundary, so `/admin` does not cover `/administrator`.
    pub fn covers(&self, path: &str) -> bool {
        self.0 == "/" || path.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}
