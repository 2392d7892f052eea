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
    let mut seen: Vec<String> = Vec::new();
    for field in ["user", "email", "name", "roles"] {
        let Some(At { value, span, .. }) = table.text(field, "a header name") else { continue };
        match headers.set(field, &value) {
            Ok(()) if seen.contains(&crate::policy::alias(&value)) => {
                table.problem(&span, field, format!("`{value}` is named twice; each field needs a header of its own"));
            }
            Ok(()) => seen.push(crate::policy::alias(&value)),
            Err(HeaderNameError::Malformed) => {
                table.problem(&span, field, format!("`{value}` is not a header name; use letters, digits and -"));
            }
            Err(HeaderNameError::Taken) => {
                table.problem(&span, field, format!("`{value}` has a meaning of its own; choose another name"));
            }
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
