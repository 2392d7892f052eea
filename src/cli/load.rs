//! Reading the configuration file. One decision: the folder that it was named in, made absolute, is where its relative paths begin,
//! so that the gateway starts from any working directory; links are not followed, for what stands behind one (`current -> v2`, a
//! mounted ConfigMap) is exchanged, and the sessions beside it are not. Knows nothing of what is in it but that it is UTF-8.

use std::io;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;

use crate::config::{Config, ConfigErrors, Problem};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// Not readable.
    #[error("portcullis: {path}: {source}; `--config FILE` names another one")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not right.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
}

/// Read and check.
pub(super) fn load(path: &Path) -> Result<Config, LoadError> {
    let (text, base) = read(path)?;
    Ok(Config::parse(&text, &name(path), &base)?)
}

/// Read and say everything that is wrong; beside it what could be read all the same, as by [`Config::look`].
pub(super) fn look(path: &Path) -> Result<(Option<Config>, Vec<Problem>), LoadError> {
    let (text, base) = read(path)?;
    Ok(Config::look(&text, &base))
}

/// The text, and where its relative paths begin.
fn read(path: &Path) -> Result<(String, PathBuf), LoadError> {
    let failed = |source| LoadError::File { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(failed)?;
    let full = std::path::absolute(path).map_err(failed)?;
    let text =
        String::from_utf8(bytes).map_err(|error| ConfigErrors { file: name(path), problems: vec![no_text(&error)] })?;
    Ok((text, full.parent().unwrap_or(Path::new("/")).to_owned()))
}

/// Where a file is no text: an editor or a shell has written it in another encoding.
fn no_text(error: &FromUtf8Error) -> Problem {
    let (before, after) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
    let (line, begun) = (before.split(|byte| *byte == b'\n').count(), before.rsplit(|byte| *byte == b'\n').next());
    let column = begun.map_or(0, |begun| String::from_utf8_lossy(begun).chars().count()) + 1;
    let byte = after.first().copied().unwrap_or_default();
    let message = format!("column {column} (byte 0x{byte:02X}) is not UTF-8; save the file in that encoding");
    Problem { line, key: String::new(), message }
}

/// What it is called in messages.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
