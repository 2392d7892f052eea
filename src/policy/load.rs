//! What a browser says a request is for. One decision: it is read here alone (Fetch metadata, W3C), so that whoever decides by it –
//! whether one is sent to sign in, whether a sign-in may begin – reads the same. Knows nothing of what follows from it.

use http::{HeaderMap, HeaderValue};

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A page, for a person to look at.
    Page,
    /// A page that a service worker asks for in a browser's stead, whose request has lost its destination (Fetch §5.4); or a file that
    /// is to be saved, which has none.
    Relayed,
    /// Something in a page: a picture, a script, a frame, data.
    Part,
    /// The browser is an older one, or a program.
    Unsaid,
}

impl Load {
    /// As the headers say.
    pub fn of(headers: &HeaderMap) -> Load {
        Load::said(headers.get("sec-fetch-mode"), headers)
    }

    /// The same where the mode was looked for already; with it comes a destination.
    pub(super) fn said(mode: Option<&HeaderValue>, headers: &HeaderMap) -> Load {
        let destination = || headers.get("sec-fetch-dest").map(HeaderValue::as_bytes);
        match mode.map(HeaderValue::as_bytes) {
            None => Load::Unsaid,
            Some(b"navigate") => match destination() {
                None | Some(b"document") => Load::Page,
                Some(b"empty") => Load::Relayed,
                Some(_) => Load::Part,
            },
            Some(_) => Load::Part,
        }
    }

    /// Whether it is a page, as far as anything was said.
    pub fn may_be_page(self) -> bool {
        self != Load::Part
    }
}
