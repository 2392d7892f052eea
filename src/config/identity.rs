//! `[identity_headers]`. One decision: an application that is told nobody's name cannot know who calls, so the user header is
//! required. Knows nothing of identities.

use crate::policy::{HeaderNameError, IdentityHeaders};

use super::problems::{did_you_mean, listed};
use super::table::{At, Table};

pub(super) fn identity_headers(root: &mut Table<'_, '_>) -> Option<IdentityHeaders> {
    let Some(mut table) = root.table("identity_headers") else {
        if !root.found("identity_headers") {
            root.missing("identity_headers", "write `preset = \"x-forwarded\"`, or single names");
        }
        return None;
    };
    let mut headers = IdentityHeaders::none();
    if let Some(At { value, span, .. }) = table.text("preset", "the name of a preset") {
        match IdentityHeaders::preset(&value) {
            Some(preset) => headers = preset,
            None => {
                let presets = IdentityHeaders::PRESETS.iter().copied();
                let near = did_you_mean(&value, presets.clone());
                table.problem(&span, "preset", format!("`{value}` is no preset; known: {}{near}", listed(presets)));
            }
        }
    }
    let mut named = Vec::new();
    for field in ["user", "email", "name", "roles"] {
        let Some(At { value, span, .. }) = table.text(field, "a header name") else { continue };
        match headers.set(field, &value) {
            Ok(()) => named.push((field, value, span)),
            Err(HeaderNameError::Malformed) => {
                table.problem(&span, field, format!("`{value}` is not a header name; use letters, digits and -"));
            }
            Err(HeaderNameError::Taken) => {
                table.problem(&span, field, format!("`{value}` has a meaning of its own; choose another name"));
            }
        }
    }
    // Those of the preset are compared as well: an application would get two lines of one name.
    for (index, (field, value, span)) in named.iter().enumerate() {
        let is_told_later = |other: &str| named[index + 1..].iter().any(|(later, ..)| *later == other);
        if let Some(twin) = headers.fields_of(value).find(|other| other != field && !is_told_later(other)) {
            let message = format!("`{value}` is the header of `{twin}` too; each field needs one of its own");
            table.problem(span, field, message);
        }
    }
    if let Some(At { value, span, .. }) = table.text("separator", "what stands between two roles, such as \",\"") {
        match value.as_str() {
            "," | ";" | "|" | " " | ", " => headers.set_separator(&value),
            _ => table.problem(
                &span,
                "separator",
                format!("`{value}` is not accepted; write one of \",\" \";\" \"|\" \" \""),
            ),
        }
    }
    if !headers.names_user() && !table.has_problem("user") && !table.has_problem("preset") {
        table.missing_beside(
            "user",
            "write `preset`, or `user = \"X-User\"`: an application that is told nobody's name cannot know who calls",
        );
    }
    table.done();
    Some(headers)
}
