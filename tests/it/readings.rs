//! Every path that some server or other makes of a target. Knows nothing of the gateway, nor of what is held against them; `fuzz/` asks
//! for them, too.

use std::collections::BTreeSet;

/// What some server does to a path.
type Step = fn(&[u8]) -> Vec<u8>;

/// The closure under all that servers are known to do, where there are no more of them than so many.
pub fn within(target: &str, most: usize) -> Option<BTreeSet<String>> {
    let steps: [Step; 11] = [
        decoded,
        |path| path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(),
        merged,
        |path| of_segments(path, |segment| segment.split(|byte| *byte == b';').next().unwrap_or_default()),
        without_dots,
        |path| path.split(|byte| matches!(byte, b'?' | b'#' | 0 | b'\n' | b'\r')).next().unwrap_or_default().to_vec(),
        |path| text(path, |text| text.to_uppercase().to_lowercase()),
        |path| of_segments(path, <[u8]>::trim_ascii_end),
        |path| of_segments(path, |segment| trim_end(segment, b". ")),
        |path| trim_end(path, b"/ .").to_vec(),
        shortest_forms,
    ];
    let mut known = BTreeSet::from([target.as_bytes().to_vec()]);
    let mut fresh: Vec<Vec<u8>> = known.iter().cloned().collect();
    while let Some(path) = fresh.pop() {
        for next in steps.iter().map(|step| step(&path)).chain([text(&path, narrow)]) {
            if known.insert(next.clone()) {
                fresh.push(next);
            }
        }
        if known.len() >= most {
            return None;
        }
    }
    Some(known.into_iter().map(|path| String::from_utf8_lossy(&path).into_owned()).collect())
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let hex = |at: usize| path.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < path.len() {
        match (path[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high << 4 | low).unwrap());
                at += 3;
            }
            (byte, ..) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}

fn merged(path: &[u8]) -> Vec<u8> {
    let mut bytes = path.to_vec();
    bytes.dedup_by(|next, last| *next == b'/' && *last == b'/');
    bytes
}

fn of_segments(path: &[u8], each: impl Fn(&[u8]) -> &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == b'/').map(each).collect::<Vec<_>>().join(&b'/')
}

fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    [b"/".as_slice(), &kept.join(&b'/')].concat()
}

fn trim_end<'p>(path: &'p [u8], bytes: &[u8]) -> &'p [u8] {
    let end = path.iter().rposition(|byte| !bytes.contains(byte)).map_or(0, |last| last + 1);
    &path[..end]
}

fn text(path: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    std::str::from_utf8(path).map_or_else(|_| path.to_vec(), |text| change(text).into_bytes())
}

/// Overlong UTF-8 as a decoder reads it that does not mind.
fn shortest_forms(path: &[u8]) -> Vec<u8> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < path.len() {
        let tail = |offset: usize| path.get(at + offset).filter(|byte| (0x80..0xc0).contains(*byte)).map(|b| b & 0x3f);
        match (path[at], tail(1), tail(2)) {
            (first @ 0xc0..=0xc1, Some(last), _) => {
                bytes.push(first << 6 | last);
                at += 2;
            }
            (0xe0, Some(middle @ 0..=1), Some(last)) => {
                bytes.push(middle << 6 | last);
                at += 3;
            }
            (byte, ..) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    bytes
}

/// Full-width forms, as NFKC folds them.
fn narrow(text: &str) -> String {
    let fold = |c: char| match u32::from(c) {
        code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap(),
        _ => c,
    };
    text.chars().map(fold).collect()
}

/// Whether a reading is at this prefix or below.
pub fn is_under(reading: &str, prefix: &str) -> bool {
    reading.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
