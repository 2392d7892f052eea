//! The fields of a head that the gateway reads. One decision: a list is gone through once, and whoever looks for a field
//! afterwards finds it at its place, or finds that it is not there: to ask a list costs a hash of the name each time, and most of
//! what a gateway has to ask for is absent. Knows nothing of what a field means.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// A field that is read of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `Accept`.
    Accept,
    /// `Access-Control-Request-Method`.
    AskedMethod,
    /// `Authorization`.
    Authorization,
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Content-Type`.
    ContentType,
    /// `Cookie`.
    Cookie,
    /// `Destination`.
    Destination,
    /// `Host`.
    Host,
    /// `Max-Forwards`.
    MaxForwards,
    /// `Origin`.
    Origin,
    /// `Sec-Fetch-Mode`.
    FetchMode,
    /// `TE`.
    Te,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Upgrade`.
    Upgrade,
    /// `Via`.
    Via,
    /// `X-Requested-With`.
    RequestedWith,
}

const COUNT: usize = 17;

/// Their names, in the order above.
static NAMES: [HeaderName; COUNT] = [
    header::ACCEPT,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    HeaderName::from_static("destination"),
    header::HOST,
    header::MAX_FORWARDS,
    header::ORIGIN,
    HeaderName::from_static("sec-fetch-mode"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
    HeaderName::from_static("x-requested-with"),
];

impl Field {
    fn of(name: &HeaderName) -> Option<Field> {
        Some(match *name {
            header::ACCEPT => Field::Accept,
            header::ACCESS_CONTROL_REQUEST_METHOD => Field::AskedMethod,
            header::AUTHORIZATION => Field::Authorization,
            header::CONNECTION => Field::Connection,
            header::CONTENT_LENGTH => Field::ContentLength,
            header::CONTENT_TYPE => Field::ContentType,
            header::COOKIE => Field::Cookie,
            header::HOST => Field::Host,
            header::MAX_FORWARDS => Field::MaxForwards,
            header::ORIGIN => Field::Origin,
            header::TE => Field::Te,
            header::TRANSFER_ENCODING => Field::TransferEncoding,
            header::UPGRADE => Field::Upgrade,
            header::VIA => Field::Via,
            _ => match name.as_str() {
                "destination" => Field::Destination,
                "sec-fetch-mode" => Field::FetchMode,
                "x-requested-with" => Field::RequestedWith,
                _ => return None,
            },
        })
    }
}

/// What a list says in these fields.
#[derive(Debug)]
pub struct Fields<'r> {
    headers: &'r HeaderMap,
    first: [Option<&'r HeaderValue>; COUNT],
    /// A bit for each that stands more than once.
    repeated: u32,
    bytes: usize,
}

impl<'r> Fields<'r> {
    /// Go through a list.
    pub fn of(headers: &'r HeaderMap) -> Fields<'r> {
        let mut fields = Fields { headers, first: [None; COUNT], repeated: 0, bytes: 0 };
        for (name, value) in headers {
            fields.bytes += name.as_str().len() + value.len();
            let Some(field) = Field::of(name) else { continue };
            match &mut fields.first[field as usize] {
                Some(_) => fields.repeated |= 1 << field as u32,
                none => *none = Some(value),
            }
        }
        fields
    }

    /// The whole list.
    pub fn headers(&self) -> &'r HeaderMap {
        self.headers
    }

    /// The value of its first line, as [`HeaderMap::get`] finds it.
    pub fn get(&self, field: Field) -> Option<&'r HeaderValue> {
        self.first[field as usize]
    }

    /// Whether it is there.
    pub fn has(&self, field: Field) -> bool {
        self.get(field).is_some()
    }

    /// Whether it has more than one line.
    pub fn repeats(&self, field: Field) -> bool {
        self.repeated & (1 << field as u32) != 0
    }

    /// The values of all its lines, as [`HeaderMap::get_all`] finds them.
    pub fn all(&self, field: Field) -> impl Iterator<Item = &'r HeaderValue> {
        let further = self.repeats(field).then(|| self.headers.get_all(&NAMES[field as usize]).iter().skip(1));
        self.get(field).into_iter().chain(further.into_iter().flatten())
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{COUNT, Field, Fields, NAMES};
    use http::{HeaderMap, HeaderName, HeaderValue, header};
    use proptest::prelude::*;

    const ALL: [Field; COUNT] = [
        Field::Accept,
        Field::AskedMethod,
        Field::Authorization,
        Field::Connection,
        Field::ContentLength,
        Field::ContentType,
        Field::Cookie,
        Field::Destination,
        Field::Host,
        Field::MaxForwards,
        Field::Origin,
        Field::FetchMode,
        Field::Te,
        Field::TransferEncoding,
        Field::Upgrade,
        Field::Via,
        Field::RequestedWith,
    ];

    /// Names of fields, and such as resemble them.
    fn lines() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
        let others = [header::TRAILER, header::DATE, header::ACCEPT_ENCODING].into_iter();
        let near = ["sec-fetch-site", "x-requested-witz", "x", "x-forwarded-for"].map(HeaderName::from_static);
        let names: Vec<HeaderName> = NAMES.iter().cloned().chain(others).chain(near).collect();
        let value = "[a-z]{0,4}".prop_map(|text| HeaderValue::from_str(&text).unwrap());
        prop::collection::vec((prop::sample::select(names), value), 0..24)
    }

    proptest! {
        #[test]
        fn a_field_is_found_as_the_list_finds_it(lines in lines()) {
            let mut headers = HeaderMap::new();
            let bytes: usize = lines.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            for (name, value) in lines {
                headers.append(name, value);
            }
            let fields = Fields::of(&headers);
            prop_assert_eq!(fields.bytes(), bytes);
            for (field, name) in ALL.into_iter().zip(&NAMES) {
                prop_assert_eq!(Field::of(name), Some(field));
                prop_assert_eq!(fields.get(field), headers.get(name));
                prop_assert_eq!(fields.has(field), headers.contains_key(name));
                prop_assert_eq!(fields.repeats(field), headers.get_all(name).iter().nth(1).is_some());
                let (found, listed) = (fields.all(field), headers.get_all(name).iter());
                prop_assert_eq!(found.collect::<Vec<_>>(), listed.collect::<Vec<_>>());
            }
        }
    }
}
